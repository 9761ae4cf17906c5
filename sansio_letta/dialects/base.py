"""The interface of a dialect: how it decodes a request, and how it writes the response."""

from collections.abc import Callable, Mapping
from typing import Final, Protocol, runtime_checkable

from attrs import field, frozen

from ..config import Config
from ..errors import FieldName, SansioLettaError
from ..turn.events import Event
from .items import ClientRequest

#: With a charset: without one `requests` reads a text as Latin-1.
EVENT_STREAM: Final = "text/event-stream; charset=utf-8"


class Writer(Protocol):
    """Makes a response's body of a turn's events."""

    content_type: str
    streaming: bool  #: whether bytes go out before the turn is over

    def write(self, event: Event) -> bytes:
        """The bytes that the event adds to the body; none is the rule while an answer is collected."""
        ...


@runtime_checkable
class StatusWriter(Writer, Protocol):
    """One whose clients can show what the agent is doing, beside the answer."""

    def write_status(self, description: str, *, done: bool) -> bytes:
        """The bytes that a status adds to the body."""
        ...


@frozen(kw_only=True)
class RequestContext:
    """What is known of a request beside its body.

    :param config: the server's, with the policies of the request's key and of its headers.
    :param headers: by lower-case name.
    :param token: unique.
    :param created: when it came, Unix time in seconds.
    """

    config: Config = field(factory=Config)
    headers: Mapping[str, str] = field(factory=dict, repr=False)
    token: str = ""
    created: int = 0


@frozen(kw_only=True)
class Dialect:
    """An API that clients speak.

    :param decode: reads the body of a request; raises `RequestError` if it cannot be carried out as it stands.
    :param writer: makes what writes the response to a request.
    :param error_body: the body of a failure while there is a status to tell it by.
    :param stream_error: what a failure adds to a stream that has begun.
    :param field_name: the path that a field has in a request's body.
    """

    decode: Callable[[bytes, Config], ClientRequest]
    writer: Callable[[ClientRequest, RequestContext], Writer]
    error_body: Callable[[SansioLettaError], bytes]
    stream_error: Callable[[SansioLettaError], bytes]
    field_name: FieldName
