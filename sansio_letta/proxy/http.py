"""What a transport exchanges with the core on the client's side: a request, and the parts of its response."""

from attrs import field, frozen

from ..upstreams.rest.response import Headers


@frozen(kw_only=True)
class HttpRequest:
    """A client's request, whole.

    :param target: as it stands in the request line, raw.
    :param headers: pairs of lower-case name and value.
    """

    method: str
    target: str
    headers: Headers = ()
    body: bytes = field(default=b"", repr=False)


@frozen(kw_only=True)
class ResponseHead:
    """The status line and the headers. Without a ``content-length`` the body's end must show by its framing."""

    status: int
    headers: tuple[tuple[str, str], ...]


@frozen(kw_only=True)
class ResponseBody:
    """More of the body; what comes before the next NEED_DATA belongs into one write."""

    data: bytes = field(repr=False)
