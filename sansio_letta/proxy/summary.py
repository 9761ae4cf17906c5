"""What happened to a request, for a log line."""

from enum import Enum

from attrs import define

from ..turn.events import CallsSettled, Matched, Usage


class Repeat(Enum):
    """How a retry of an earlier request was answered."""

    JOINED = "joined"  #: it followed the turn that was running
    ANSWERED = "answered"  #: it got the answer of the first request
    TAKEN_UP = "taken up"  #: its turn had broken off, and was continued


@define(kw_only=True)
class Summary:
    """What happened in a cycle, for a log line; no key and no text."""

    request_id: str  #: as in the header `x-request-id`
    method: str  #: the request's
    path: str  #: without its query
    caller: str | None = None  #: the name of its key
    status: int | None = None  #: the response's; None: the client disconnected before it was sent
    stream: bool | None = None  #: whether the client asked for a stream
    model: str | None = None  #: as asked
    thread: str | None = None  #: where the input went: `agent`, `chat`, `conversation` or `task`
    agent_id: str | None = None  #: the agent that `model` resolved to
    outcome: str | None = None  #: the finish reason, `abandoned`, or an error's code
    kept: str | None = None  #: after a failure: whether the agent's memory has anything of the turn
    failure: str | None = None  #: how an exchange with Letta went wrong below HTTP, the last if several did
    chunk_count: int = 0  #: pieces written to the client, ends and errors included
    call_count: int = 0  #: calls of the client's tools
    cancel_count: int = 0  #: requests to Letta to cancel the run
    usage: Usage | None = None  #: tokens, as Letta counts them
    ignored: tuple[str, ...] = ()  #: fields of the request that were not honoured
    matched: Matched | None = None  #: how the input differs from what follows the last assistant message
    settled: CallsSettled | None = None  #: pending calls and results that did not match
    waited: bool = False  #: for another turn of the agent's, or to try something again
    repeat: Repeat | None = None  #: how a retry of an earlier request was answered
    resume_count: int = 0  #: how often the run's stream was lost and found again
