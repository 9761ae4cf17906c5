"""Convert Letta's approval requests and tool messages to the tool calls of a chat.

A client's tool is offered to the model through ``client_tools``, or as a tool of the agent under another name
(`attached_tools`). A call of it arrives as an approval request and pauses the run. Its result is sent back as
an approval. Calls are identified by their ids alone, since clients change names and arguments in the history
that they send.
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

#: The result of Letta's `send_message`. The name of a tool called in an earlier run is not always known.
_SENT: Final = "Sent message successfully."


@frozen(kw_only=True)
class ReplyText:
    """A piece of the text that the agent sends by calling `letta.SEND_MESSAGE`."""

    call_id: str
    text: str = field(repr=False)


@define
class _Call:
    """One call of the run, as far as its fragments have arrived."""

    call_id: str
    name: str | None = None
    index: int | None = None  #: among the client's calls; None for others, or if the name is unknown
    pieces: list[str] = field(factory=list)  #: arguments held back: the name is unknown, or it needs approval
    has_arguments: bool = False
    reply: ReplyArgument | None = None  #: reads the agent's text from the arguments

    @property
    def arguments(self) -> str:
        """The arguments held back so far."""
        return "".join(self.pieces)


def owner_of(name: str | None, client_tools: Collection[str], own_tools: Collection[str] | None) -> ToolOwner:
    """Return the owner of the tool that a pending call is for.

    :param client_tools: the names in Letta of the client's tools.
    :param own_tools: the names of the agent's own tools, or None if unknown. Other names belong to another
        client.
    """
    if name in client_tools:
        return ToolOwner.CLIENT
    if is_our_name(name):
        return ToolOwner.DEPARTED
    return ToolOwner.AGENT if own_tools is None or name in own_tools else ToolOwner.UNKNOWN


@define
class ToolBridge:
    """Classifies the calls of one run: the client's, Letta's, and those that need approval.

    A call of `letta.SEND_MESSAGE` that Letta carries out is none of these, but text of the agent
    (sleeptime_reply.jsonl).

    :param client_tools: the client's names of the tools in the request, by their names in Letta.
    :param result_ids: ids of calls for which the client has sent results. Letta repeats these results.
    :param names: names of tools that were called before this run, by the ids of the calls.
    :param exact_arguments: whether arguments are exactly the model's. Otherwise they arrive in one piece, with
        an argument that Letta adds.
    :param replies_by_tool: whether the agent is known to reply with `letta.SEND_MESSAGE`.
    :param reads_reply_tool: False if the agent's tool of this name is not Letta's, but an ordinary tool.
    """

    client_tools: Mapping[str, str]
    result_ids: Collection[str] = ()
    names: Mapping[str, str] = field(factory=dict)
    exact_arguments: bool = True
    replies_by_tool: bool = False
    reads_reply_tool: bool = True
    _own: dict[str, _Call] = field(factory=dict, init=False)  #: calls that Letta carries out without approval
    _calls: dict[str, _Call] = field(factory=dict, init=False)
    _client_count: int = field(default=0, init=False)

    @property
    def client_call_count(self) -> int:
        """Number of the client's calls so far."""
        return self._client_count

    @property
    def client_call_ids(self) -> tuple[str, ...]:
        """The ids of the client's calls."""
        return tuple(call.call_id for call in self._calls.values() if call.name in self.client_tools)

    def receive_request(self, fragment: letta.ToolCall) -> Iterator[CallStarted | CallArguments]:
        """Take a fragment of an approval request. Return its events, if the tool is the client's."""
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
        """Take a fragment of a call that Letta carries out.

        With token streaming, legacy agents also report the later fragments of a pending call this way
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
        """Take the results of calls. Skip those that the client has sent, and those of `letta.SEND_MESSAGE`."""
        returns = [
            item
            for item in message.tool_returns
            if item.tool_call_id not in self.result_ids and not self._is_sent(item)
        ]
        for item in returns:
            own = self._own.get(item.tool_call_id)
            # The name in the message is that of one of the tools, maybe another one (mixed_tools.jsonl).
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
        """Note that the run has stopped. Give calls without arguments an empty object, as clients expect JSON.

        :raises RemoteProtocolError: if a call has no name.
        """
        for call in self._calls.values():
            if call.name is None:
                raise RemoteProtocolError("Letta sent a call without the name of its tool.")
            if call.index is not None and not call.has_arguments:
                yield CallArguments(index=call.index, fragment="{}")

    @property
    def waiting(self) -> tuple[PendingCall, ...]:
        """Calls of other tools than this client's, which need approval."""
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
