"""The head of an HTTP message while it arrives."""


def head_line_count(data: bytes) -> int:
    """Count the lines of the head at the start of some bytes, or of as much of it as is there."""
    ends = [end for end in (data.find(b"\n\r\n"), data.find(b"\n\n")) if end >= 0]
    return data.count(b"\n", 0, min(ends, default=len(data)))
