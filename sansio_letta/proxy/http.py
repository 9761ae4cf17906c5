"""The values that a transport exchanges with the core for a client: a request, and parts of its response."""

from attrs import field, frozen

from ..upstreams.rest.response import Headers


@frozen(kw_only=True)
class HttpRequest:
    """A complete request from a client.

    :param target: raw, as in the request line.
    :param headers: pairs of lower-case name and value.
    """

    method: str
    target: str
    headers: Headers = ()
    body: bytes = field(default=b"", repr=False)


@frozen(kw_only=True)
class ResponseHead:
    """The status and the headers. Without ``content-length``, the transport must frame the body."""

    status: int
    headers: tuple[tuple[str, str], ...]


@frozen(kw_only=True)
class ResponseBody:
    """More of the body; all that comes before the next NEED_DATA belongs in one write."""

    data: bytes = field(repr=False)
