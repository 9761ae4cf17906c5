"""The tool bridge: Letta's approvals on one side, the tool calls and results of a chat on the other.

A client's tool reaches the model through ``client_tools``, or as a tool of the agent's under another name
(`attached_tools`). A call of one arrives as an approval request and pauses the run; its result goes back as an
approval. Calls are told apart by their ids alone, since clients rewrite names and arguments in the history that
they send back.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Final, TypeAlias

from attrs import define, field, frozen

from ...errors import RemoteProtocolError
from ...turn.agent import PendingCall, ToolOwner
from ...turn.events import (
    RETURN_SIZE,
    CallArguments,
    CallStarted,
    ServerToolArguments,
    ServerToolReturned,
    ServerToolStarted,
)
from . import letta
from .attached_tools import is_our_name, strip_heartbeat
from .reply_argument import ReplyArgument

ServerToolEvent: TypeAlias = ServerToolStarted | ServerToolArguments | ServerToolReturned

#: What Letta's `send_message` returns. Of a call of an earlier run its name is not always told.
_SENT: Final = "Sent message successfully."


@frozen(kw_only=True)
class ReplyText:
    """A piece of what the agent says by calling `letta.SEND_MESSAGE`."""

    call_id: str
    text: str = field(repr=False)


@define
class _Call:
    """One call of the run, from its first fragment on."""

    call_id: str
    name: str | None = None
    index: int | None = None  #: None while the name is unknown, and for calls that are not the client's
    pieces: list[str] = field(factory=list)  #: held back while the name is unknown; kept for what needs a human
    has_arguments: bool = False
    reply: ReplyArgument | None = None  #: reads the arguments, if they are what the agent says

    @property
    def arguments(self) -> str:
        """The pieces together."""
        return "".join(self.pieces)


def owner_of(name: str | None, client_tools: Collection[str], own_tools: Collection[str] | None) -> ToolOwner:
    """Whose tool a pending call is of.

    :param client_tools: the names of the client's tools at Letta.
    :param own_tools: the names of the agent's own, if they are known: other calls are some client's.
    """
    if name in client_tools:
        return ToolOwner.CLIENT
    if is_our_name(name):
        return ToolOwner.DEPARTED
    return ToolOwner.AGENT if own_tools is None or name in own_tools else ToolOwner.UNKNOWN


@define
class ToolBridge:
    """Sorts the calls of one run: the client's, Letta's own, and Letta's own that wait for a human.

    A call of `letta.SEND_MESSAGE` that Letta carries out is neither: it is what the agent says
    (sleeptime_reply.jsonl).

    :param client_tools: the tools that the request offered: their names at Letta, and the client's for them.
    :param result_ids: of calls that the client itself has answered: Letta tells their returns, too.
    :param names: of tools that were called before this run, by the ids of their calls.
    :param exact_arguments: whether calls have no arguments but the model's; otherwise they come whole, with one
        of Letta's own.
    :param replies_by_tool: whether the agent is known to speak by such calls.
    :param reads_reply_tool: False if its tool of that name is not Letta's, and says nothing to the client.
    """

    client_tools: Mapping[str, str]
    result_ids: Collection[str] = ()
    names: Mapping[str, str] = field(factory=dict)
    exact_arguments: bool = True
    replies_by_tool: bool = False
    reads_reply_tool: bool = True
    _own: dict[str, _Call] = field(factory=dict, init=False)  #: what Letta carries out unasked
    _calls: dict[str, _Call] = field(factory=dict, init=False)
    _client_count: int = field(default=0, init=False)

    @property
    def client_call_count(self) -> int:
        """Calls that the client is to carry out, so far."""
        return self._client_count

    @property
    def client_call_ids(self) -> tuple[str, ...]:
        """Of these calls."""
        return tuple(call.call_id for call in self._calls.values() if call.name in self.client_tools)

    def receive_request(self, fragment: letta.ToolCall) -> Iterator[CallStarted | CallArguments]:
        """A fragment of a call that waits for somebody: the events it makes, if the client is meant."""
        call = self._calls.setdefault(fragment.tool_call_id, _Call(call_id=fragment.tool_call_id))
        if call.name is None and fragment.name:
            call.name = fragment.name
            if (name := self.client_tools.get(call.name)) is not None:
                call.index = self._client_count
                self._client_count += 1
                yield CallStarted(index=call.index, call_id=call.call_id, name=name)
                if call.arguments:
                    yield CallArguments(index=call.index, fragment=call.arguments)
        yield from self._add(call, fragment.arguments)

    def receive_call(self, fragment: letta.ToolCall) -> Iterator[CallArguments | ServerToolEvent | ReplyText]:
        """A fragment of a call that Letta reports as its own.

        Legacy agents whose tokens are streamed report the later fragments of a waiting call this way
        (legacy_ephemeral_tool.jsonl).
        """
        call = self._calls.get(fragment.tool_call_id)
        if call is not None:
            yield from self._add(call, fragment.arguments)
            return
        call_id, arguments = fragment.tool_call_id, fragment.arguments or ""
        call = self._own.setdefault(call_id, _Call(call_id=call_id))
        if call.name is None:
            call.pieces.append(arguments)
            if not fragment.name:
                return
            call.name, arguments = fragment.name, call.arguments
            if self.reads_reply_tool and call.name == letta.SEND_MESSAGE:
                call.reply = ReplyArgument(letta.SEND_MESSAGE_ARGUMENT)
            else:
                yield ServerToolStarted(call_id=call_id, name=call.name)
        if call.reply is not None:
            if text := call.reply.receive(arguments):
                yield ReplyText(call_id=call_id, text=text)
        elif arguments:
            yield ServerToolArguments(call_id=call_id, fragment=arguments)

    def receive_returns(self, message: letta.ToolReturnMessage) -> Iterator[ServerToolReturned]:
        """What calls gave; the client's own results are no news, nor is that a message was sent."""
        returns = [
            item
            for item in message.tool_returns
            if item.tool_call_id not in self.result_ids and not self._is_sent(item)
        ]
        for item in returns:
            own = self._own.get(item.tool_call_id)
            # The message's own name is that of one tool, which need not be this one (mixed_tools.jsonl).
            name = (own.name if own else None) or self.names.get(item.tool_call_id)
            yield ServerToolReturned(
                call_id=item.tool_call_id,
                name=name or (message.name if len(returns) == 1 else None),
                failed=item.status == "error",
                beginning=item.tool_return[:RETURN_SIZE],
            )

    def _is_sent(self, item: letta.Returned) -> bool:
        own = self._own.get(item.tool_call_id)
        name = own.name if own is not None else self.names.get(item.tool_call_id)
        return self.reads_reply_tool and (
            name == letta.SEND_MESSAGE or (name is None and item.tool_return.strip() == _SENT)
        )

    def _add(self, call: _Call, arguments: str | None) -> Iterator[CallArguments]:
        if not arguments:
            return
        call.has_arguments = True
        if call.index is None:
            call.pieces.append(arguments)
        else:
            fragment = arguments if self.exact_arguments else strip_heartbeat(arguments)
            yield CallArguments(index=call.index, fragment=fragment)

    def close(self) -> Iterator[CallArguments]:
        """The run has stopped: a call without arguments gets the empty object that clients parse.

        :raises RemoteProtocolError: if a call never had a name.
        """
        for call in self._calls.values():
            if call.name is None:
                raise RemoteProtocolError("Letta asked for a call and never named its tool.")
            if call.index is not None and not call.has_arguments:
                yield CallArguments(index=call.index, fragment="{}")

    @property
    def waiting(self) -> tuple[PendingCall, ...]:
        """Calls that are not this client's: the agent's own tools wait for a human."""
        return tuple(
            PendingCall(
                call_id=call.call_id,
                name=call.name,
                arguments=call.arguments,
                owner=ToolOwner.DEPARTED if is_our_name(call.name) else ToolOwner.AGENT,
            )
            for call in self._calls.values()
            if call.index is None
        )
