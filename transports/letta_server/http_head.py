"""The head of an HTTP message while it arrives."""


def head_line_count(data: bytes) -> int:
    """Count the lines of the message head in some bytes, or of the part that has arrived."""
    ends = [end for end in (data.find(b"\n\r\n"), data.find(b"\n\n")) if end >= 0]
    return data.count(b"\n", 0, min(ends, default=len(data)))
