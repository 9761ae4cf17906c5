"""The interface of a dialect: how it decodes a request, and how it writes the response."""

from collections.abc import Callable, Mapping
from typing import Final, Protocol, runtime_checkable

from attrs import field, frozen

from ..config import Config
from ..errors import FieldName, SansioLettaError
from ..turn.events import Event
from .items import ClientRequest

#: With a charset, since `requests` decodes text as Latin-1 otherwise.
EVENT_STREAM: Final = "text/event-stream; charset=utf-8"


class Writer(Protocol):
    """Encodes a turn's events as the body of a response."""

    content_type: str
    streaming: bool  #: whether bytes are sent before the turn is over

    def write(self, event: Event) -> bytes:
        """Return the bytes that the event adds to the body: none before the end, if it is not streamed."""
        ...


@runtime_checkable
class StatusWriter(Writer, Protocol):
    """A writer for clients that can show a status beside the answer."""

    def write_status(self, description: str, *, done: bool) -> bytes:
        """Return the bytes that a status adds to the body."""
        ...


@frozen(kw_only=True)
class RequestContext:
    """What is known about a request besides its body.

    :param config: the server's, with the policies of the request's key and headers.
    :param headers: by lower-case name.
    :param token: unique.
    :param created: when it arrived, in Unix seconds.
    :param client: the name of the client's key; what different clients have said is kept apart.
    """

    config: Config = field(factory=Config)
    headers: Mapping[str, str] = field(factory=dict, repr=False)
    token: str = ""
    created: int = 0
    client: str = ""


@frozen(kw_only=True)
class Dialect:
    """An API that clients speak.

    :param decode: decodes the body of a request; raises `RequestError` if the request cannot be carried out.
    :param writer: makes the writer of a response.
    :param error_body: encodes an error as the body of a response with an error status.
    :param stream_error: encodes an error as the end of a stream that has begun.
    :param field_name: returns the path of a field in a request's body.
    """

    decode: Callable[[bytes, Config], ClientRequest]
    writer: Callable[[ClientRequest, RequestContext], Writer]
    error_body: Callable[[SansioLettaError], bytes]
    stream_error: Callable[[SansioLettaError], bytes]
    field_name: FieldName
