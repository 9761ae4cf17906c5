"""The connection to one App Server, which all turns of a process share.

It lives as long as the process. The transport opens the sockets and carries the frames::

    while (item := connection.next_command(now)) is not Signal.WAITING:
        match item:
            case OpenSocket(): ...  # then socket_opened() or socket_lost()
            case SendFrame(): ...

and calls `receive_frame` for each frame, `handle_deadline` when `next_deadline` has come, and the loop above
after each call and whenever `wake` was called: a turn in another task may have something to send.

The server answers no question that it does not understand, so each has a deadline.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from math import inf
from typing import Any, Final

import orjson
from attrs import define, field

from ..._signal import Signal
from ...errors import OVERLOADED, LettaError, RemoteProtocolError, SansioLettaError
from ...turn.thread_queue import no_wake
from .conversation import Conversation
from .frames import BadFrame, Response, read_frame
from .sockets import Channel, OpenSocket, SendFrame, SocketCommand

#: Seconds in which the server answers a question. Starting the first conversation of an agent took two.
ANSWER_TIMEOUT: Final = 30.0
#: Seconds between attempts to open a socket that was lost while a conversation needs it.
_REOPEN_PAUSE: Final = 1.0
#: Idle conversations that are remembered, with what was told to them about tools.
_MAX_IDLE_COUNT: Final = 1000
#: Bytes of frames that wait for a socket to open.
MAX_WAITING_SIZE: Final = 64 * 1024 * 1024
#: How a frame begins that answers a question on the guarding socket.
_SYNC_ANSWER: Final = b'{"type":"sync_response"'
_WORK: Final = Channel.WORK


@define(eq=False)
class Request:
    """A question to the server.

    :param kind: its ``type``.
    :param wake: called when it is answered, or has failed.
    """

    kind: str
    wake: Callable[[], None] = no_wake
    deadline: float = inf
    answer: Response | None = None
    error: SansioLettaError | None = None

    @property
    def is_done(self) -> bool:
        """Whether it is answered, or has failed."""
        return self.answer is not None or self.error is not None

    def fail(self, error: SansioLettaError) -> None:
        """End it without an answer."""
        if not self.is_done:
            self.error = error
            self.wake()


@define(eq=False)
class _Socket:
    is_open: bool = False
    is_opening: bool = False
    reopen_at: float = inf
    sequence: int | None = None  #: the last frame's number
    waiting: OrderedDict[str, bytes] = field(factory=OrderedDict)
    """Questions to be sent once it is open, by their ids."""
    waiting_size: int = 0
    sync_count: int = 0  #: answers that are awaited from which on it follows what runs


@define(eq=False)
class AppServerConnection:
    """The frames of one App Server: to its turns, and from them.

    :param answer_timeout: seconds that the server has for an answer.
    :param wake: called when there is a new command for the transport.
    """

    answer_timeout: float = ANSWER_TIMEOUT
    wake: Callable[[], None] = field(default=no_wake, kw_only=True)
    now: float = field(default=0.0, init=False)
    gap_count: int = field(default=0, init=False)  #: frames that were missing or could not be read
    _commands: deque[SocketCommand] = field(factory=deque, init=False)
    _sockets: dict[Channel, _Socket] = field(init=False)
    _requests: OrderedDict[str, tuple[Request, Channel]] = field(factory=OrderedDict, init=False)
    _due: deque[tuple[float, str]] = field(factory=deque, init=False)
    """Deadlines of the questions that were sent, the next first."""
    _conversations: OrderedDict[str, Conversation] = field(factory=OrderedDict, init=False)
    _busy: dict[str, Conversation] = field(factory=dict, init=False)
    _checked: set[str] = field(factory=set, init=False)  #: conversations of which a check is under way
    _without_directory: set[str] = field(factory=set, init=False)  #: see `Conversation.wants_device`
    _number: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self._sockets = {channel: _Socket() for channel in Channel}

    # --- For turns ----------------------------------------------------------------------------------------

    def ask(
        self,
        kind: str,
        content: Mapping[str, Any],
        *,
        wake: Callable[[], None] = no_wake,
        channel: Channel = Channel.WORK,
    ) -> Request:
        """Send a question; `Request.wake` is called once it is answered.

        :param content: the frame's fields, without its type and id.
        """
        request = Request(kind, wake)
        self._number += 1
        request_id = f"lp-{self._number}"
        data = orjson.dumps({"type": kind, **content, "request_id": request_id})
        socket = self._sockets[channel]
        if socket.is_open:
            self._commands.append(SendFrame(channel, data, request_id))
        elif socket.waiting_size + len(data) > MAX_WAITING_SIZE:
            request.error = LettaError(
                "Too much waits for the connection to the App Server. Try again in a second.",
                advice=OVERLOADED,
            )
            return request
        else:
            socket.waiting[request_id] = data
            socket.waiting_size += len(data)
            self._open(channel)
        self._requests[request_id] = request, channel
        self.wake()
        return request

    def tell(self, kind: str, content: Mapping[str, Any]) -> None:
        """Send a frame that gets no answer. It is lost with its socket."""
        if self._sockets[_WORK].is_open:
            self._commands.append(SendFrame(_WORK, orjson.dumps({"type": kind, **content})))
            self.wake()

    def conversation(self, agent_id: str, conversation_id: str) -> Conversation:
        """Return what is known of a conversation."""
        found = self._conversations.get(conversation_id)
        if found is None:
            found = Conversation(agent_id=agent_id, conversation_id=conversation_id, connection=self)
            self._conversations[conversation_id] = found
            self._forget_idle()
        self._conversations.move_to_end(conversation_id)
        return found

    @property
    def has_busy(self) -> bool:
        """Whether a conversation runs, or waits for results."""
        return bool(self._busy)

    def is_open(self, channel: Channel) -> bool:
        """Whether a socket can be used."""
        return self._sockets[channel].is_open

    def guard(self, conversation: Conversation) -> None:
        """Have the guarding socket follow a conversation, too."""
        socket = self._sockets[Channel.GUARD]
        if socket.is_open and Channel.GUARD not in conversation.followed_by:
            self._sync(conversation, Channel.GUARD)
        elif not socket.is_open:
            self._open(Channel.GUARD)

    def note_state(self, conversation: Conversation) -> None:
        """Note that a conversation has begun to run or wait, or has ended, or what it needs to know."""
        key = conversation.conversation_id
        if conversation.is_busy:
            # It may have been forgotten since the turn began.
            self._busy[key] = self._conversations[key] = conversation
        else:
            self._busy.pop(key, None)
        if conversation.wants_device:
            self._without_directory.add(key)
        else:
            self._without_directory.discard(key)

    # --- For the transport --------------------------------------------------------------------------------

    def next_command(self, now: float) -> SocketCommand | Signal:
        """Return what to do next; WAITING if there is nothing.

        :param now: monotonic seconds, here and below.
        """
        self.now = now
        if not self._commands:
            return Signal.WAITING
        command = self._commands.popleft()
        if isinstance(command, SendFrame) and (known := self._requests.get(command.request_id)) is not None:
            # Counted from here on: the time that `ask` knows may be that of the last frame.
            known[0].deadline = now + self.answer_timeout
            self._due.append((known[0].deadline, command.request_id))
        return command

    def socket_opened(self, channel: Channel, now: float) -> None:
        """Note that a socket is open."""
        self.now = now
        socket = self._sockets[channel]
        socket.is_open, socket.is_opening, socket.reopen_at, socket.sequence = True, False, inf, None
        for request_id, data in socket.waiting.items():
            self._commands.append(SendFrame(channel, data, request_id))
        self._forget_waiting(socket)
        for conversation in list(self._busy.values()):
            self._sync(conversation, channel)

    def socket_lost(self, channel: Channel, reason: str, now: float) -> None:
        """Note that a socket could not be opened, or was lost.

        :param reason: for the client, without addresses and keys.
        """
        self.now = now
        socket = self._sockets[channel]
        was_open = socket.is_open
        socket.is_open = socket.is_opening = False
        self._forget_waiting(socket)
        lost = [key for key, (_, used) in self._requests.items() if used is channel]
        what = "closed the connection" if was_open else "cannot be reached"
        for key in lost:
            request, _ = self._requests.pop(key)
            if was_open:
                request.fail(RemoteProtocolError(f"The App Server {what}: {reason}."))
            else:
                request.fail(LettaError(f"The App Server {what}: {reason}."))
        other = next(each for each in Channel if each is not channel)
        for conversation in list(self._conversations.values()):
            conversation.lose_socket(channel)
        if channel is _WORK and self._sockets[other].is_open:
            # What the other was told while this one was open was not read.
            for conversation in list(self._busy.values()):
                self._check(conversation, other)
        if self.has_busy:
            socket.reopen_at = now + _REOPEN_PAUSE

    def receive_frame(self, channel: Channel, data: bytes, now: float) -> None:
        """Receive a text frame."""
        self.now = now
        socket = self._sockets[channel]
        if not socket.is_open:
            return
        if channel is not _WORK and not data.startswith(_SYNC_ANSWER):
            work = self._sockets[_WORK]
            if work.is_open and not work.sync_count:
                return  # the same frame comes on the other socket
        frame, number = read_frame(data, with_device=bool(self._without_directory))
        if number is not None and channel is _WORK:
            if socket.sequence is not None and number > socket.sequence + 1:
                self._note_gap(channel)
            socket.sequence = number
        if isinstance(frame, Response):
            known = self._requests.pop(frame.request_id, None)
            if known is not None:
                known[0].answer = frame
                known[0].wake()
        elif isinstance(frame, BadFrame):
            self._note_gap(channel, frame.conversation_id)
        elif frame is not None:
            conversation = self._conversations.get(frame.conversation_id)
            if conversation is not None and not conversation.receive(frame):
                self._note_gap(channel, frame.conversation_id)

    def next_deadline(self) -> float:
        """Return when to call `handle_deadline` if nothing happens until then."""
        while self._due and self._due[0][1] not in self._requests:
            self._due.popleft()
        waits = self._due[0][0] if self._due else inf
        return min(waits, *(socket.reopen_at for socket in self._sockets.values()))

    def handle_deadline(self, now: float) -> None:
        """Do what is due."""
        self.now = now
        while self._due and self._due[0][0] <= now:
            known = self._requests.pop(self._due.popleft()[1], None)
            if known is not None:
                known[0].fail(
                    RemoteProtocolError(
                        f"The App Server did not answer {known[0].kind} within {self.answer_timeout:g} seconds."
                    )
                )
        for channel, socket in self._sockets.items():
            if now >= socket.reopen_at:
                socket.reopen_at = inf
                self._open(channel)

    # --- Within -------------------------------------------------------------------------------------------

    def _open(self, channel: Channel) -> None:
        socket = self._sockets[channel]
        if not (socket.is_open or socket.is_opening):
            socket.is_opening = True
            self._commands.append(OpenSocket(channel))
            self.wake()

    @staticmethod
    def _forget_waiting(socket: _Socket) -> None:
        socket.waiting.clear()
        socket.waiting_size = 0

    def _sync(self, conversation: Conversation, channel: Channel, *, checks: bool = False) -> None:
        """Have a socket follow a conversation.

        :param checks: whether frames may have been missed, so that what the server says of it now counts.
        """
        socket, is_new = self._sockets[channel], channel not in conversation.followed_by
        conversation.followed_by.add(channel)
        socket.sync_count += is_new

        def done() -> None:
            socket.sync_count -= is_new
            if checks:
                self._checked.discard(conversation.conversation_id)
                if request.answer is not None and conversation.has_idled:
                    conversation.note_missed_end()

        content = {"runtime": conversation.runtime, "recover_approvals": False}
        request = self.ask("sync", content, wake=done, channel=channel)

    def _note_gap(self, channel: Channel, conversation_id: str | None = None) -> None:
        """Note that a frame could not be read, or is missing.

        :param conversation_id: of the conversation that it belonged to; None: any.
        """
        self.gap_count += 1
        if conversation_id is None:
            affected = list(self._busy.values())
        else:
            affected = [self._busy[conversation_id]] if conversation_id in self._busy else []
        for conversation in affected:
            conversation.note_gap()
            self._check(conversation, channel)

    def _check(self, conversation: Conversation, channel: Channel) -> None:
        """Ask what a conversation is doing that is thought to run: its end may have been missed."""
        if conversation.conversation_id not in self._checked:
            self._checked.add(conversation.conversation_id)
            conversation.has_idled = False  # until the server says so, before it answers
            self._sync(conversation, channel, checks=True)

    def _forget_idle(self) -> None:
        while len(self._conversations) - len(self._busy) > _MAX_IDLE_COUNT:
            key = next(iter(self._conversations))
            if key in self._busy:
                self._conversations.move_to_end(key)
            else:
                del self._conversations[key]
