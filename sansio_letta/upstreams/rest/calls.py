"""The tool bridge: Letta's approvals on one side, the tool calls and results of a chat on the other.

A client's tool reaches the model through ``client_tools``, or as a tool of the agent's under another name
(`ephemeral`). A call of one arrives as an approval request and pauses the run; its result goes back as an
approval. Calls are told apart by their ids alone, since clients rewrite names and arguments in the history that
they send back.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final, TypeAlias

from attrs import define, field, frozen

from ...config import Approvals
from ...errors import RemoteProtocolError
from ...turn.agent import PendingCall
from ...turn.approval import Verdict
from ...turn.events import (
    RETURN_SIZE,
    CallArguments,
    CallsSettled,
    CallStarted,
    ServerToolArguments,
    ServerToolReturned,
    ServerToolStarted,
)
from ...turn.request import CallAnswer, Decision, ToolResult
from . import letta
from .attached_tools import is_our_name, own_arguments
from .spoken import SpokenText

ServerToolWord: TypeAlias = ServerToolStarted | ServerToolArguments | ServerToolReturned

#: What Letta's `send_message` returns. Of a call of an earlier run its name is not always told.
_SENT: Final = "Sent message successfully."
#: What the agent reads for a call that the client did not answer.
NO_RESULT: Final = "The client gave no result for this call."
#: What the agent reads for a call of the client's that has no result when a message comes: programs send
#: results as text, or take the call itself for the reply. A denial would teach the agent not to call.
NO_RESULT_YET: Final = "No result came with this call; the next message may hold it."
#: The same where the client had asked for the call and nothing else, as programs do that extract data.
TAKEN: Final = (
    "The user's program has taken this call. If there is more to say of it, the next message says it."
)
#: What the agent reads for a tool of its own that waited for the user when the user wrote of other things.
MOVED_ON: Final = "The user sent a new message and did not allow this call."
#: What the agent reads for a tool of its own that the user denied without a reason.
DENIED: Final = "The user denied this call."
#: What the agent reads for a call of a tool that another client has offered, or the same one before.
NO_CLIENT: Final = "No client offers this tool now."
#: What the agent reads for a tool of its own that nobody allowed.
NOT_ALLOWED: Final = "Nobody allowed this call."


@frozen(kw_only=True)
class Spoken:
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
    spoken: SpokenText | None = None  #: reads the arguments, if they are what the agent says

    @property
    def arguments(self) -> str:
        """The pieces together."""
        return "".join(self.pieces)


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
    :param answers_by_tool: whether the agent is known to speak by such calls.
    :param speaks: False if its tool of that name is not Letta's, and says nothing to the client.
    """

    client_tools: Mapping[str, str]
    result_ids: Collection[str] = ()
    names: Mapping[str, str] = field(factory=dict)
    exact_arguments: bool = True
    answers_by_tool: bool = False
    speaks: bool = True
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

    def receive_call(self, fragment: letta.ToolCall) -> Iterator[CallArguments | ServerToolWord | Spoken]:
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
            if self.speaks and call.name == letta.SEND_MESSAGE:
                call.spoken = SpokenText(letta.SEND_MESSAGE_ARGUMENT)
            else:
                yield ServerToolStarted(call_id=call_id, name=call.name)
        if call.spoken is not None:
            if text := call.spoken.receive(arguments):
                yield Spoken(call_id=call_id, text=text)
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
        return self.speaks and (
            name == letta.SEND_MESSAGE or (name is None and item.tool_return.strip() == _SENT)
        )

    def _add(self, call: _Call, arguments: str | None) -> Iterator[CallArguments]:
        if not arguments:
            return
        call.has_arguments = True
        if call.index is None:
            call.pieces.append(arguments)
        else:
            fragment = arguments if self.exact_arguments else own_arguments(arguments)
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
        """The server's tools that wait for a human."""
        return tuple(
            PendingCall(call_id=call.call_id, name=call.name, arguments=call.arguments)
            for call in self._calls.values()
            if call.index is None
        )


@frozen(kw_only=True)
class Settlement:
    """How to answer everything that is pending, at once: a part would be refused (parallel_partial.jsonl)."""

    answers: tuple[CallAnswer, ...] = ()
    calls: CallsSettled = field(factory=CallsSettled)
    undecided: tuple[PendingCall, ...] = ()  #: a human must be asked about these before anything is sent
    is_verdict: bool = False  #: the user's message was the answer to a question: the agent does not get it


def settle(
    pending: Iterable[PendingCall],
    results: tuple[CallAnswer, ...],
    *,
    client_tools: Collection[str],
    has_message: bool,
    past_results: tuple[ToolResult, ...] = (),
    verdict: Verdict | None = None,
    policy: Approvals = Approvals.ASK,
    own_tools: Collection[str] | None = None,
    is_taken: bool = False,
) -> Settlement:
    """Bring what the agent waits for and what the client brought together.

    :param pending: the agent's pending calls, as Letta tells.
    :param results: what the client brought, each for one call.
    :param client_tools: the names of the client's tools at Letta: other calls are the server's own, unless the
        tool is one of ours that the client does not offer any more.
    :param has_message: whether the user wrote something new, too.
    :param past_results: older ones in the client's history. They count if their calls still wait: a human was
        asked about other calls of the same step.
    :param verdict: what the user's message says about the server's own calls.
    :param policy: what becomes of the server's own calls without one.
    :param own_tools: the names of the agent's own tools, if they are known: other calls are some client's.
    :param is_taken: whether the client's calls were asked for, and are all that it wanted.
    """
    given: dict[str, CallAnswer] = {result.call_id: result for result in (*past_results, *results)}
    wanted = tuple(pending)
    pending_ids = {call.call_id for call in wanted}
    stale = tuple(result.call_id for result in results if result.call_id not in pending_ids)
    unanswered = tuple(call for call in wanted if call.call_id not in given)
    servers = tuple(
        call
        for call in unanswered
        if call.name not in client_tools
        and not is_our_name(call.name)
        and (own_tools is None or call.name in own_tools)
    )
    if verdict is not None and servers and not (verdict.approve and policy is Approvals.DENY):
        if verdict.is_on(servers):
            return Settlement(
                answers=tuple(
                    given.get(call.call_id) or (_judged(call, verdict) if call in servers else _no_result(call))
                    for call in wanted
                ),
                calls=CallsSettled(
                    missing=_ids(call for call in unanswered if call not in servers),
                    stale=stale,
                    denied=() if verdict.approve else _ids(servers),
                ),
                is_verdict=True,
            )
        if verdict.approve:
            return Settlement(undecided=servers, calls=CallsSettled(stale=stale))
    if len(unanswered) < len(wanted):
        if servers and policy is Approvals.ASK and not has_message:
            return Settlement(undecided=servers, calls=CallsSettled(stale=stale))
        allows = policy is Approvals.ALLOW
        return Settlement(
            answers=tuple(
                given.get(call.call_id) or _missing(call, call in servers, allows=allows) for call in wanted
            ),
            calls=CallsSettled(
                missing=_ids(call for call in unanswered if not (allows and call in servers)), stale=stale
            ),
        )
    if has_message and wanted:
        return Settlement(
            answers=tuple(
                _denial(call, MOVED_ON)
                if call in servers
                else ToolResult(call_id=call.call_id, content=TAKEN if is_taken else NO_RESULT_YET)
                for call in wanted
            ),
            calls=CallsSettled(denied=_ids(wanted), stale=stale),
        )
    return Settlement(calls=CallsSettled(stale=stale))


def _ids(calls: Iterable[PendingCall]) -> tuple[str, ...]:
    return tuple(call.call_id for call in calls)


def next_call(
    pending: Iterable[PendingCall], answered: Collection[str], client_tools: Collection[str]
) -> PendingCall | None:
    """Of calls that the client takes one at a time the one that comes next; None: it has had them all.

    It has had those before one that it has answered: a result that is gone from its history repeats no call.

    :param answered: ids of calls whose results it has brought, now or before.
    :param client_tools: the names of the client's tools at Letta.
    """
    calls = [call for call in pending if call.name in client_tools]
    places = [place for place, call in enumerate(calls) if call.call_id in answered]
    return calls[places[-1] + 1] if places and places[-1] + 1 < len(calls) else None


def answer_unasked(calls: Iterable[PendingCall], *, approve: bool) -> tuple[Decision, ...]:
    """The answer to calls about which no human is asked. A tool of ours never runs at Letta."""
    return tuple(
        Decision(call_id=call.call_id, approve=True)
        if approve and not is_our_name(call.name)
        else _denial(call, NO_CLIENT if is_our_name(call.name) else NOT_ALLOWED)
        for call in calls
    )


def _missing(call: PendingCall, is_servers: bool, *, allows: bool) -> CallAnswer:
    return answer_unasked((call,), approve=allows)[0] if is_servers else _no_result(call)


def _no_result(call: PendingCall) -> ToolResult:
    return ToolResult(call_id=call.call_id, content=NO_RESULT, is_error=True)


def _judged(call: PendingCall, verdict: Verdict) -> Decision:
    if verdict.approve:
        return Decision(call_id=call.call_id, approve=True)
    return _denial(call, verdict.reason or DENIED)


def _denial(call: PendingCall, reason: str) -> Decision:
    return Decision(call_id=call.call_id, approve=False, reason=reason)
