"""What happened to a request, for a log line."""

from enum import Enum

from attrs import define

from ..turn.events import CallsSettled, Matched, Usage


class Repeat(Enum):
    """How a retry of an earlier request was answered."""

    JOINED = "joined"  #: it followed the turn that was running
    ANSWERED = "answered"  #: it got the answer of the first request
    TAKEN_UP = "taken up"  #: its turn had been cut off, and was continued


@define(kw_only=True)
class Summary:
    """What happened in a cycle, for a log line; contains no key and no text."""

    request_id: str  #: as in the header `x-request-id`
    method: str  #: that of the request
    path: str  #: without its query
    caller: str | None = None  #: the name of its key
    status: int | None = None  #: that of the response; None: the client disconnected before it was sent
    stream: bool | None = None  #: whether the client requested a stream
    model: str | None = None  #: as asked
    thread: str | None = None  #: where the input went: `agent`, `chat`, `conversation` or `task`
    agent_id: str | None = None  #: the agent that `model` resolved to
    outcome: str | None = None  #: the finish reason, `abandoned`, or an error's code
    kept: str | None = None  #: after a failure: whether the agent's memory has anything of the turn
    failure: str | None = None  #: how an exchange with Letta went wrong below HTTP, the last if several did
    chunk_count: int = 0  #: pieces sent to the client, including ends and errors
    call_count: int = 0  #: calls of the client's tools
    cancel_count: int = 0  #: requests to Letta to cancel the run
    usage: Usage | None = None  #: tokens, as Letta counts them
    ignored: tuple[str, ...] = ()  #: fields of the request that were not honoured
    matched: Matched | None = None  #: how the input differs from what follows the last assistant message
    settled: CallsSettled | None = None  #: pending calls and results that did not match
    waited: bool = False  #: the turn waited in a queue, or paused before a retry
    repeat: Repeat | None = None  #: how a retry of an earlier request was answered
    resume_count: int = 0  #: how often the run's stream was lost and recovered
