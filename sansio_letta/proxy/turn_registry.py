"""Retries: which request repeats which, and the events of the turns that they repeat.

The official SDKs send a request up to three times, after a failure or a timeout, and the agent would get each
as a new message. So a turn is known by its request's fingerprint while it runs, and for some minutes after it:
a retry follows the turn that is under way, from its start; a retry of a request that was answered gets the
same answer.
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
    """What a request asks for, apart from its idempotency key: a retry asks for the same.

    :param thread: the chat or conversation that it names, if any.
    :param shape: what it asks for in its headers, as by `policies.shape`.
    :param digest: of its body.
    """

    thread: Chat | NamedConversation | None
    shape: str
    digest: bytes

    @classmethod
    def of(cls, body: bytes, thread: ThreadChoice = None, shape: str = "") -> "RequestContent":
        """The content of a request with this body; the conversation of a background prompt is no part of it."""
        named = thread if isinstance(thread, Chat | NamedConversation) else None
        return cls(thread=named, shape=shape, digest=sha256(body).digest())


@frozen(kw_only=True)
class Fingerprint:
    """What a request and its retry have in common.

    :param scope: of the caller: a key that may see less than before does not get an earlier response.
    :param digest: of the credentials, the path and the idempotency key.
    :param content: None if there is an idempotency key, which identifies the request by itself.
    """

    scope: Hashable
    digest: bytes
    content: RequestContent | None

    @classmethod
    def of(
        cls, path: str, headers: Mapping[str, str], content: RequestContent, scope: Hashable = None
    ) -> "Fingerprint":
        """The fingerprint of a request.

        :param path: the request's, without its query.
        :param headers: by lower-case name.
        """
        # Another client's key is another request, even with the same idempotency key.
        key = headers.get("idempotency-key")
        digest = sha256(f"{credentials(headers)!r}\n{path}\n{key or ''}".encode()).digest()
        return cls(scope=scope, digest=digest, content=None if key else content)


def key_reused() -> RequestError:
    """An idempotency key was used for another request before."""
    return RequestError(
        "Idempotency-Key: this key came with another request before, and stands for that one: another body, "
        "model, chat or policy needs a key of its own.",
        param="idempotency-key",
        code="idempotency_key_reused",
        status=422,
    )


@frozen(kw_only=True)
class RetryInfo:
    """What a request says of having been sent before.

    :param count: how often it was; None: its client does not say.
    :param is_named: it has an idempotency key, which is the same each time.
    """

    count: int | None
    is_named: bool

    @property
    def tells(self) -> bool:
        """Whether a retry will be recognised by it."""
        return self.count is not None or self.is_named

    @property
    def is_repeat(self) -> bool:
        """Whether it may have been sent before. Otherwise the same request again asks for another answer."""
        return bool(self.count) or self.is_named


def read_retry_info(headers: Mapping[str, str]) -> RetryInfo:
    """Read what a request says of having been sent before.

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

    :param turn: driven by one cycle, which others follow. Let go of once it is over.
    :param is_sent_again: whether the client says so when it sends a request again.
    :param content: of its request.
    """

    turn: Turn | None
    is_sent_again: bool = True
    content: RequestContent | None = None
    events: list[Event] = field(factory=list, init=False)
    followers: list["Follower"] = field(factory=list, init=False)
    is_over: bool = field(default=False, init=False)
    size: int = field(default=0, init=False)  #: characters, once it is over
    is_cancelled: bool = field(default=False, init=False)  #: it only ends its run: no repeat may join it
    _expected_until: float = field(default=0.0, init=False)  #: see `expect_client`
    until: float = field(default=0.0, init=False)  #: when it is forgotten, once it is over; monotonic seconds
    agent_id: str | None = field(default=None, init=False)  #: once it is over
    _earlier: RunRef | None = field(default=None, init=False)
    _last: Event | None = field(default=None, init=False)

    def expect_client(self, until: float) -> None:
        """A client that has disconnected is likely to repeat its request.

        :param until: monotonic seconds.
        """
        self._expected_until = max(self._expected_until, until)

    def is_wanted(self, now: float) -> bool:
        """Whether the turn should go on though the client of the cycle that drives it has disconnected."""
        if self.followers:
            return True
        is_awaited = self.turn is not None and self.turn.ticket.is_awaited
        return now < self._expected_until and not is_awaited

    def follow(self, follower: "Follower") -> None:
        """A retry follows the turn: the client that was expected is back."""
        self.followers.append(follower)
        self._expected_until = 0.0

    def add(self, event: Event) -> None:
        """The turn has another event."""
        tag = type(event)
        if tag is KeepAlive:
            return
        self.events.append(event)
        if tag is TurnFinished or tag is TurnFailed:
            self._last, self.is_over = event, True
        for follower in self.followers:
            follower.wake()

    def add_texts(self, texts: Sequence[TextDelta]) -> None:
        """The turn has more of a text."""
        self.events += texts
        for follower in self.followers:
            follower.wake()

    def end(self, *, is_replaced: bool = False) -> None:
        """The turn has no more events. What is kept of it takes less room from now on.

        :param is_replaced: whether a retry waits for it, which looks at what it has left, even a whole answer.
        """
        if not self.is_over:
            lost = RemoteProtocolError("The turn was ended before its answer was whole.")
            self.add(TurnFailed(error=kept_failure(lost), kept=Kept.UNKNOWN))
        # A follower still goes on with the list as it was.
        self.events = list(_joined(self.events))
        self.size = sum(map(_size, self.events))
        if self.turn is not None:
            last, turn = self._last, self.turn
            self.agent_id, self.turn = turn.agent_id, None
            nothing = isinstance(last, TurnFailed) and last.kept is Kept.NOTHING
            is_done = self.is_answered and not is_replaced
            self._earlier = None if nothing or is_done else turn.earlier

    @property
    def is_answered(self) -> bool:
        """Whether it came to a whole answer."""
        return type(self._last) is TurnFinished

    @property
    def earlier(self) -> RunRef | None:
        """What a retry must look into; None if nothing of it can have been kept."""
        return self._earlier if self.turn is None else self.turn.earlier

    def recall_earlier(self) -> RunRef | None:
        """The same, for a retry that has waited until it is over."""
        return self.earlier


@define(eq=False)
class Follower:
    """A retry's view of a turn that another cycle drives. It has a turn's methods."""

    entry: TurnEntry
    wake: Callable[[], None] = no_wake
    _events: Sequence[Event] = field(init=False)
    _count: int = field(default=0, init=False)
    _left: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._events = self.entry.events
        self.entry.follow(self)

    def next_event(self) -> Event | Signal:
        """The next event; WAITING until the turn has one."""
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
        """Nothing: the cycle that drives the turn is shut down, too, and its last event comes here."""

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

    :param fingerprint: of the request.
    """

    entry: TurnEntry
    fingerprint: Fingerprint


@define
class TurnRegistry:
    """The turns that a retry may repeat, by their requests' fingerprints.

    :param ttl: seconds that a turn is known after its end.
    :param max_size: characters of all ended turns together; beyond it the oldest are forgotten.
    """

    ttl: float
    max_size: int
    _turns: dict[Fingerprint, TurnEntry] = field(factory=dict, init=False)
    _ended: OrderedDict[Fingerprint, TurnEntry] = field(factory=OrderedDict, init=False)
    _size: int = field(default=0, init=False)

    def recall(self, key: Fingerprint, now: float) -> TurnEntry | None:
        """The turn of this fingerprint, if it runs or has ended not long ago.

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
        """A turn begins; it takes the place of one that ended.

        :param is_sent_again: whether the client says so when it sends a request again: its answer is kept.
        :param content: of its request.
        """
        self._drop(key)
        entry = self._turns[key] = TurnEntry(turn, is_sent_again, content)
        return entry

    def end(self, key: Fingerprint, entry: TurnEntry, now: float) -> None:
        """A turn has no more events."""
        if self._turns.get(key) is not entry:
            if entry.turn is not None:
                # A retry has taken its place, and looks into what it leaves.
                entry.end(is_replaced=True)
            return
        if key in self._ended:
            return
        entry.end()
        if entry.earlier is None and not (entry.is_answered and entry.is_sent_again):
            # No retry will get its answer, and there is nothing to look into.
            self._drop(key)
            return
        entry.until = now + self.ttl
        # An entry of nothing but a name takes room, too.
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
#: Events that say the same in one as in many -> the field that holds it.
_PIECES: Final[Mapping[type[Any], str]] = {
    TextDelta: "text",
    ReasoningDelta: "text",
    CallArguments: "fragment",
    ServerToolArguments: "fragment",
}


def _joined(events: Sequence[Event]) -> Iterator[Event]:
    """The same, with pieces of one text put together."""
    for (kind, _), group in groupby(events, key=lambda event: (type(event), _call_of(event))):
        name = _PIECES.get(kind)
        if name is None:
            yield from group
        else:
            pieces: list[Any] = list(group)
            whole: Event = evolve(pieces[0], **{name: "".join(getattr(piece, name) for piece in pieces)})
            yield whole


def _call_of(event: Event) -> int | str | None:
    """Which call a piece of arguments belongs to."""
    return getattr(event, "index", None) if type(event) is CallArguments else getattr(event, "call_id", None)


def _size(event: Event) -> int:
    name = _PIECES.get(type(event))
    return len(getattr(event, name)) if name else 0
