"""Retries: recognised by the fingerprint of a request, and answered from the turn that it repeats.

After a failure or a timeout, the official SDKs send a request again, up to twice, and the agent would get each
as a new message. So turns are registered by the fingerprint of their request, while they run and for some
minutes afterwards. A retry follows a running turn from its start; a retry of an answered request gets the same
answer.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import groupby
from typing import Any, Final

from attrs import define, evolve, field, frozen

from .._signal import Signal
from ..errors import (
    Failure,
    Kept,
    LocalProtocolError,
    RemoteProtocolError,
    RequestError,
    SansioLettaError,
    kept_failure,
)
from ..turn.events import (
    CallArguments,
    Event,
    KeepAlive,
    ReasoningDelta,
    ServerToolArguments,
    TextDelta,
    TurnFailed,
    TurnFinished,
)
from ..turn.request import Chat, NamedConversation, ThreadChoice
from ..turn.thread_queue import no_wake
from ..turn.turn import Turn
from ..turn.upstream import RunRef
from ..upstreams.rest.response import Headers
from .access import credentials


@frozen(kw_only=True)
class RequestContent:
    """The content of a request, without its idempotency key; a retry has the same.

    :param thread: the chat or conversation that it names, if any.
    :param shape: the result of `policies.shape`.
    :param digest: that of its body.
    """

    thread: Chat | NamedConversation | None
    shape: str
    digest: bytes

    @classmethod
    def of(cls, body: bytes, thread: ThreadChoice = None, shape: str = "") -> "RequestContent":
        """Return the content of a request; the conversation of a background prompt is not part of it."""
        named = thread if isinstance(thread, Chat | NamedConversation) else None
        return cls(thread=named, shape=shape, digest=sha256(body).digest())


@frozen(kw_only=True, cache_hash=True)
class Fingerprint:
    """What a request and its retries have in common.

    :param scope: that of the caller: a key that may see less than before gets no earlier responses.
    :param digest: that of the credentials, the path and the idempotency key.
    :param content: None if there is an idempotency key, which identifies the request by itself.
    """

    scope: Hashable
    digest: bytes
    content: RequestContent | None

    @classmethod
    def of(
        cls, path: str, headers: Mapping[str, str], content: RequestContent, scope: Hashable = None
    ) -> "Fingerprint":
        """Return the fingerprint of a request.

        :param path: its path, without the query.
        :param headers: by lower-case name.
        """
        # With another client's key it is another request, even if the idempotency keys are equal.
        key = headers.get("idempotency-key")
        digest = sha256(f"{credentials(headers)!r}\n{path}\n{key or ''}".encode()).digest()
        return cls(scope=scope, digest=digest, content=None if key else content)


def key_reused() -> RequestError:
    """Make the error for an idempotency key that was used for another request."""
    return RequestError(
        "Idempotency-Key: this key was already used for a different request. Another body, model, chat or "
        "policy needs a key of its own.",
        param="idempotency-key",
        code="idempotency_key_reused",
        status=422,
    )


@frozen(kw_only=True)
class RetryInfo:
    """What a request says about being a retry.

    :param count: number of earlier attempts; None if the client does not say.
    :param is_named: whether it has an idempotency key, which retries share.
    """

    count: int | None
    is_named: bool

    @property
    def tells(self) -> bool:
        """Whether a retry of the request can be recognised."""
        return self.count is not None or self.is_named

    @property
    def is_repeat(self) -> bool:
        """Whether it may be a retry. Otherwise an equal request asks for a new answer."""
        return bool(self.count) or self.is_named


def read_retry_info(headers: Mapping[str, str]) -> RetryInfo:
    """Read what a request says about being a retry.

    :param headers: by lower-case name.
    """
    text = headers.get("x-stainless-retry-count", "")
    return RetryInfo(
        count=int(text[:4]) if text.isascii() and text.isdigit() else None,
        is_named=bool(headers.get("idempotency-key")),
    )


@define(eq=False)
class TurnEntry:
    """A turn that has begun, its events so far, and the cycles that follow it.

    :param turn: driven by one cycle; None once it is over.
    :param is_sent_again: whether the client marks its retries.
    :param content: that of its request.
    """

    turn: Turn | None
    is_sent_again: bool = True
    content: RequestContent | None = None
    events: list[Event] = field(factory=list, init=False)
    followers: list["Follower"] = field(factory=list, init=False)
    is_over: bool = field(default=False, init=False)
    size: int = field(default=0, init=False)  #: characters, once it is over
    is_cancelled: bool = field(default=False, init=False)  #: it is only being cleaned up: no retry may join it
    _expected_until: float = field(default=0.0, init=False)  #: see `expect_client`
    until: float = field(default=0.0, init=False)  #: when it is forgotten, once it is over; monotonic seconds
    agent_id: str | None = field(default=None, init=False)  #: once it is over
    _earlier: RunRef | None = field(default=None, init=False)
    _last: Event | None = field(default=None, init=False)

    def expect_client(self, until: float) -> None:
        """Expect a retry from a client that has disconnected.

        :param until: monotonic seconds.
        """
        self._expected_until = max(self._expected_until, until)

    def is_wanted(self, now: float) -> bool:
        """Return whether the turn should continue although its own client has disconnected."""
        if self.followers:
            return True
        is_awaited = self.turn is not None and self.turn.ticket.is_awaited
        return now < self._expected_until and not is_awaited

    def follow(self, follower: "Follower") -> None:
        """Add a retry that follows the turn; the expected client is back."""
        self.followers.append(follower)
        self._expected_until = 0.0

    def add(self, event: Event) -> None:
        """Add an event of the turn."""
        tag = type(event)
        if tag is KeepAlive:
            return
        self.events.append(event)
        if tag is TurnFinished or tag is TurnFailed:
            self._last, self.is_over = event, True
        for follower in self.followers:
            follower.wake()

    def add_texts(self, texts: Sequence[TextDelta]) -> None:
        """Add pieces of text of the turn."""
        self.events += texts
        for follower in self.followers:
            follower.wake()

    def end(self, *, is_replaced: bool = False) -> None:
        """Mark the turn as over, and compact what is stored of it.

        :param is_replaced: whether a retry waits to look into what it left, even if it was answered.
        """
        if not self.is_over:
            lost = RemoteProtocolError("The turn ended before its answer was complete.")
            self.add(TurnFailed(error=kept_failure(lost), kept=Kept.UNKNOWN))
        # Followers continue with the list as it was.
        self.events = list(_joined(self.events))
        self.size = sum(map(_size, self.events))
        if self.turn is not None:
            last, turn = self._last, self.turn
            self.agent_id, self.turn = turn.agent_id, None
            nothing = isinstance(last, TurnFailed) and last.kept is Kept.NOTHING
            is_done = self.is_answered and not is_replaced
            self._earlier = None if nothing or is_done else turn.earlier

    @property
    def text(self) -> str:
        """The text of the answer so far, as the client gets it."""
        return "".join(event.text for event in self.events if isinstance(event, TextDelta))

    @property
    def is_answered(self) -> bool:
        """Whether the turn has a complete answer."""
        return type(self._last) is TurnFinished

    @property
    def earlier(self) -> RunRef | None:
        """The run that a retry must look into; None if Letta cannot have stored anything of the turn."""
        return self._earlier if self.turn is None else self.turn.earlier

    def recall_earlier(self) -> RunRef | None:
        """Return `earlier`, for a retry that has waited until the turn is over."""
        return self.earlier


@define(eq=False)
class Follower:
    """A retry's view of a turn that another cycle drives, with the methods of a turn."""

    entry: TurnEntry
    wake: Callable[[], None] = no_wake
    _events: Sequence[Event] = field(init=False)
    _count: int = field(default=0, init=False)
    _left: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._events = self.entry.events
        self.entry.follow(self)

    def next_event(self) -> Event | Signal:
        """Return the next event; WAITING until the turn has one."""
        if self._left:
            return Signal.FINISHED
        if self._count < len(self._events):
            self._count += 1
            return self._events[self._count - 1]
        if not self.entry.is_over:
            return Signal.WAITING
        self.client_disconnected()
        return Signal.FINISHED

    def client_disconnected(self) -> None:
        """Stop following: the client has disconnected, or has the whole response."""
        if not self._left:
            self._left = True
            self.entry.followers.remove(self)

    def shut_down(self, error: SansioLettaError) -> None:
        """Do nothing: the cycle that drives the turn is shut down as well, and its last event arrives here."""

    def receive_response(self, status: int, headers: Headers) -> None:
        """:raises LocalProtocolError: always: it asks nothing."""
        raise LocalProtocolError("a repeat that joined a turn asks nothing of Letta")

    def receive_data(self, data: bytes) -> None:
        """:raises LocalProtocolError: always: it asks nothing."""
        raise LocalProtocolError("a repeat that joined a turn asks nothing of Letta")

    def receive_failure(self, failure: Failure, reason: str) -> None:
        """:raises LocalProtocolError: always: it asks nothing."""
        raise LocalProtocolError("a repeat that joined a turn asks nothing of Letta")


@frozen(kw_only=True)
class TurnOwnership:
    """What the cycle that drives a turn needs to share it with retries.

    :param fingerprint: that of the request.
    """

    entry: TurnEntry
    fingerprint: Fingerprint


@define
class TurnRegistry:
    """The turns that a retry may repeat, by the fingerprints of their requests.

    :param ttl: seconds for which a turn is kept after its end.
    :param max_size: characters of all ended turns together; beyond it, the oldest are forgotten.
    """

    ttl: float
    max_size: int
    _turns: dict[Fingerprint, TurnEntry] = field(factory=dict, init=False)
    _ended: OrderedDict[Fingerprint, TurnEntry] = field(factory=OrderedDict, init=False)
    _size: int = field(default=0, init=False)

    def recall(self, key: Fingerprint, now: float) -> TurnEntry | None:
        """Return the turn with this fingerprint, if it is running or has ended recently.

        :param now: monotonic seconds, here and below.
        """
        self._forget(now)
        return self._turns.get(key)

    def begin(
        self,
        key: Fingerprint,
        turn: Turn,
        *,
        is_sent_again: bool = True,
        content: RequestContent | None = None,
    ) -> TurnEntry:
        """Register a new turn, in place of any earlier one with this fingerprint.

        :param is_sent_again: whether the client marks its retries, so that the answer is worth keeping.
        :param content: that of its request.
        """
        self._drop(key)
        entry = self._turns[key] = TurnEntry(turn, is_sent_again, content)
        return entry

    def end(self, key: Fingerprint, entry: TurnEntry, now: float) -> None:
        """Mark a turn as over."""
        if self._turns.get(key) is not entry:
            if entry.turn is not None:
                # A retry has replaced it, and looks into what it left.
                entry.end(is_replaced=True)
            return
        if key in self._ended:
            return
        entry.end()
        if entry.earlier is None and not (entry.is_answered and entry.is_sent_again):
            # No retry can use its answer, and there is nothing to look into.
            self._drop(key)
            return
        entry.until = now + self.ttl
        # Even an empty entry takes memory.
        entry.size += _ENTRY_SIZE
        self._ended[key] = entry
        self._size += entry.size
        self._forget(now)

    def _forget(self, now: float) -> None:
        while self._ended:
            key, oldest = next(iter(self._ended.items()))
            if now < oldest.until and self._size <= self.max_size:
                break
            self._drop(key)

    def _drop(self, key: Fingerprint) -> None:
        self._turns.pop(key, None)
        gone = self._ended.pop(key, None)
        if gone is not None:
            self._size -= gone.size


_ENTRY_SIZE: Final = 1024
#: Events that can be joined -> the field with their text.
_PIECES: Final[Mapping[type[Any], str]] = {
    TextDelta: "text",
    ReasoningDelta: "text",
    CallArguments: "fragment",
    ServerToolArguments: "fragment",
}


def _joined(events: Sequence[Event]) -> Iterator[Event]:
    """Join the pieces of each text."""
    for (kind, _), group in groupby(events, key=lambda event: (type(event), _call_of(event))):
        name = _PIECES.get(kind)
        if name is None:
            yield from group
        else:
            pieces: list[Any] = list(group)
            whole: Event = evolve(pieces[0], **{name: "".join(getattr(piece, name) for piece in pieces)})
            yield whole


def _call_of(event: Event) -> int | str | None:
    """Return the call that a piece of arguments belongs to."""
    return getattr(event, "index", None) if type(event) is CallArguments else getattr(event, "call_id", None)


def _size(event: Event) -> int:
    name = _PIECES.get(type(event))
    return len(getattr(event, name)) if name else 0
