"""The tool bridge: Letta's approvals on one side, the tool calls and results of a chat on the other.

A client's tool reaches the model through ``client_tools``. A call of one arrives as an approval request and
pauses the run; its result goes back as an approval. Calls are told apart by their ids alone, since clients
rewrite names and arguments in the history that they send back.
"""

from collections.abc import Collection, Iterator
from typing import Final

from attrs import define, field, frozen

from . import letta
from .errors import RemoteProtocolError
from .events import CallArguments, CallsSettled, CallStarted

#: What the agent reads for a call that the client did not answer.
NO_RESULT: Final = "The client gave no result for this call."
#: What the agent reads for a call that was pending when the user wrote again.
MOVED_ON: Final = "The user sent a new message instead of a result."
#: What the agent reads for a tool of its own that nobody allowed.
NOT_ALLOWED: Final = "Nobody allowed this call."


@define
class _Call:
    """One call of the run, from its first fragment on."""

    call_id: str
    name: str | None = None
    index: int | None = None  #: None while the name is unknown, and for calls that are not the client's
    arguments: str = ""  #: held back while the name is unknown; kept for calls that need a human
    has_arguments: bool = False


@define
class ToolBridge:
    """Sorts the calls of one run: the client's, Letta's own, and Letta's own that wait for a human.

    :param client_tools: the names of the tools that the request offered.
    """

    client_tools: Collection[str]
    _calls: dict[str, _Call] = field(factory=dict, init=False)
    _client_count: int = field(default=0, init=False)

    @property
    def client_call_count(self) -> int:
        """Calls that the client is to carry out, so far."""
        return self._client_count

    def receive_request(self, fragment: letta.ToolCall) -> Iterator[CallStarted | CallArguments]:
        """A fragment of a call that waits for somebody: the events it makes, if the client is meant."""
        call = self._calls.setdefault(fragment.tool_call_id, _Call(call_id=fragment.tool_call_id))
        if call.name is None and fragment.name:
            call.name = fragment.name
            if call.name in self.client_tools:
                call.index = self._client_count
                self._client_count += 1
                yield CallStarted(index=call.index, call_id=call.call_id, name=call.name)
                if call.arguments:
                    yield CallArguments(index=call.index, fragment=call.arguments)
        yield from self._add(call, fragment.arguments)

    def receive_call(self, fragment: letta.ToolCall) -> Iterator[CallArguments]:
        """A fragment of a call that Letta reports as its own.

        Legacy agents report the later fragments of a waiting call this way (legacy_ephemeral_tool.jsonl).
        """
        call = self._calls.get(fragment.tool_call_id)
        if call is not None:
            yield from self._add(call, fragment.arguments)

    @staticmethod
    def _add(call: _Call, arguments: str | None) -> Iterator[CallArguments]:
        if not arguments:
            return
        call.has_arguments = True
        if call.index is None:
            call.arguments += arguments
        else:
            yield CallArguments(index=call.index, fragment=arguments)

    def close(self) -> Iterator[CallArguments]:
        """The run has stopped: a call without arguments gets the empty object that clients parse.

        :raises RemoteProtocolError: if a call never had a name.
        """
        for call in self._calls.values():
            if call.name is None:
                raise RemoteProtocolError("Letta asked for a call and never named its tool.")
            if call.index is not None and not call.has_arguments:
                yield CallArguments(index=call.index, fragment="{}")

    def approval_notice(self) -> str | None:
        """What a person is told of server tools that wait for a human, or None if none does."""
        waiting = [call for call in self._calls.values() if call.index is None]
        if not waiting:
            return None
        wishes = ", ".join(f"{call.name}({call.arguments})" for call in waiting)
        return (
            f"[The agent asks for approval to run {wishes}. Approve it at Letta; a new message here denies it.]"
        )


@frozen(kw_only=True)
class Settlement:
    """How to answer everything that is pending, at once: a part would be refused (parallel_partial.jsonl)."""

    approvals: tuple[letta.ToolReturn | letta.Approval, ...] = ()
    calls: CallsSettled = field(factory=CallsSettled)


def settle(
    pending: letta.PendingApproval | None,
    results: tuple[letta.ToolReturn | letta.Approval, ...],
    *,
    client_tools: Collection[str],
    has_message: bool,
) -> Settlement:
    """Bring what the agent waits for and what the client brought together.

    :param pending: the agent's pending calls, as Letta tells.
    :param results: what the client brought, each for one call.
    :param client_tools: the names of the client's tools: other calls are the server's own.
    :param has_message: whether the user wrote something new, too.
    """
    given = {result.tool_call_id: result for result in results}
    wanted = pending.tool_calls if pending else ()
    answered = [call for call in wanted if call.tool_call_id in given]
    stale = tuple(call_id for call_id in given if all(call_id != call.tool_call_id for call in wanted))
    if answered:
        missing = tuple(call.tool_call_id for call in wanted if call.tool_call_id not in given)
        return Settlement(
            approvals=tuple(given.get(call.tool_call_id) or _missing(call, client_tools) for call in wanted),
            calls=CallsSettled(missing=missing, stale=stale),
        )
    if has_message and wanted:
        denials = [_denial(call, MOVED_ON) for call in wanted]
        return Settlement(
            approvals=tuple(denials),
            calls=CallsSettled(denied=tuple(call.tool_call_id for call in wanted), stale=stale),
        )
    return Settlement(calls=CallsSettled(stale=stale))


def _missing(call: letta.ToolCall, client_tools: Collection[str]) -> letta.ToolReturn | letta.Approval:
    if call.name in client_tools:
        return letta.ToolReturn(tool_call_id=call.tool_call_id, tool_return=NO_RESULT, status="error")
    return _denial(call, NOT_ALLOWED)


def _denial(call: letta.ToolCall, reason: str) -> letta.Approval:
    return letta.Approval(tool_call_id=call.tool_call_id, approve=False, reason=reason)
