"""The head of an HTTP message while it arrives."""


def head_line_count(data: bytes) -> int:
    """Lines of the head, or of what has come of it, at the start of some bytes."""
    ends = [end for end in (data.find(b"\n\r\n"), data.find(b"\n\n")) if end >= 0]
    return data.count(b"\n", 0, min(ends, default=len(data)))
