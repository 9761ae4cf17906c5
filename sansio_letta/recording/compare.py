"""A recorded client's request through today's proxy: the answer it would get now, and whether it is the same.

The tool for upgrades, of this library and of Letta.
"""

import re
from collections import deque
from collections.abc import Iterator
from difflib import unified_diff
from math import inf
from typing import Any

import orjson
from attrs import define, evolve, field, frozen

from .._signal import Signal
from ..config import ClientTools, Config
from ..dialects.base import RequestContext
from ..dialects.chat_completions.decode import decode_request
from ..dialects.new_input import plan_turn
from ..errors import Failure, RequestError
from ..proxy.cycle import Cycle, Item
from ..proxy.http import HttpRequest, ResponseBody, ResponseHead
from ..proxy.proxy import Proxy
from ..sse import ServerSentEvent, SSEDecoder
from ..turn.request import ThreadChoice, TurnRequest
from ..upstreams.rest.commands import Command
from .format import INTERRUPTED, RecordedExchange, RecordedWait, Recording, RecordingError, TextMode
from .redact import StreamRedactor, redact_body
from .remembered import attached_tools, found_agent_id, remembered


@frozen(kw_only=True)
class ClientItem:
    """One item of the replayed cycle."""

    t: float  #: seconds since the recording began
    item: Item


@define
class ReplayedClient:
    """The client's request again, with Letta's part from the recording: iterate over the cycle's items.

    :param recording: of version 2: its head and its exchange 0 say what the client asked.
    :raises RecordingError: if the recording has no client, or not the text that was checked or cut.
    """

    recording: Recording
    unanswered: Command | None = field(default=None, init=False)  #: where the recording knows no further
    _cycle: Cycle = field(init=False)
    _client: RecordedExchange = field(init=False)
    #: The client's own part, in order: its comments, and its leaving.
    _own: deque[tuple[int, RecordedWait | None]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        head, client = self.recording.head, self.recording.client
        if client is None:
            raise RecordingError(
                f"{self.recording.scenario}: a recording without a client, of exchanges with Letta alone"
            )
        self._client = client
        plan = self._plan()
        if plan is not None and plan.wish is not None and not head.has_texts:
            raise RecordingError(
                f"{self.recording.scenario}: its reply was checked before it was told, and no text was "
                "recorded that could be checked again: record with --record-text keep"
            )
        if plan is not None and plan.stop and not head.has_texts:
            raise RecordingError(
                f"{self.recording.scenario}: its text was searched for stop sequences, and none was recorded "
                "that could be searched again: record with --record-text keep"
            )
        body = b"" if client.request.json is None else _body(client.request.json)
        headers = [item for item in client.request.headers if item[0] != "content-length"]
        request = HttpRequest(
            method=client.request.method, target=client.request.path, headers=headers, body=body
        )
        self._own = deque((wait.line, wait) for wait in client.waits)
        if client.end == "client_closed":
            self._own.append((client.end_line, None))
        # A silence that was too long is in the recording, so it is not measured again; nor is anything else.
        config = evolve(
            head.config,
            letta_silence_timeout=inf,
            letta_answer_timeout=inf,
            first_item_timeout=inf,
            turn_timeout=inf,
            repeat_wait_timeout=0.0,
            finds_runs=any(item.request.path.startswith("/v1/runs/?") for item in self.recording.exchanges),
            client_tools=ClientTools.ATTACH if attached_tools(self.recording) else ClientTools.AUTO,
        )
        proxy = Proxy(config)
        self._remember(proxy, plan.thread if plan else None)
        self._cycle = proxy.open(request, token=head.token or "replayed", created=head.created or 0, now=0.0)

    def _remember(self, proxy: Proxy, wish: ThreadChoice) -> None:
        """The proxy that was recorded may have known the agent, the chat's conversation, and Letta."""
        first = next((item for item in self.recording.exchanges if item.starts_run), None)
        if (
            first is not None
            and isinstance(first.request.json, dict)
            and not first.request.json.get("background")
        ):
            proxy.remember_no_background()
        model = self._client.request.json.get("model") if isinstance(self._client.request.json, dict) else None
        if not isinstance(model, str):
            return
        known = remembered(self.recording, model)
        if known.agent is not None:
            proxy.remember(model, known.agent, now=0.0)
        agent_id = found_agent_id(self.recording, known) if known.thread is not None else None
        if agent_id is not None and known.thread is not None:
            proxy.remember_thread(agent_id, wish, known.thread)

    def _plan(self) -> TurnRequest | None:
        """What the client asked for; None if it was refused."""
        head, body = self.recording.head, self._client.request.json
        given = RequestContext(config=head.config, headers=dict(self._client.request.headers), token="replayed")
        try:
            return plan_turn(decode_request(_body(body), head.config), given).plan
        except RequestError:
            return None

    def __iter__(self) -> Iterator[ClientItem]:
        cycle, t = self._cycle, 0.0
        waiting = list(self.recording.exchanges)
        moments: Iterator[float] = iter(())
        while (item := cycle.next_event()) is not Signal.FINISHED:
            if item is Signal.WAITING:
                # How long it paused shows in the times of what was recorded next.
                cycle.handle_deadline(cycle.next_deadline())
                continue
            if isinstance(item, Signal):
                t = next(moments)  # what was recorded ends every exchange, so the cycle waits no longer
                continue
            yield ClientItem(t=t, item=item)
            if isinstance(item, Command):
                found = next((known for known in waiting if known.asks(item.method, item.target)), None)
                if found is None:
                    self.unanswered = item
                    return
                waiting = waiting[waiting.index(found) + 1 :]
                moments = self._feed(found)

    def _feed(self, exchange: RecordedExchange) -> Iterator[float]:
        """Tell the cycle what was recorded, with all that was due in between."""
        cycle = self._cycle
        if exchange.status is not None:
            head_t = exchange.head_t if exchange.head_t is not None else exchange.t
            yield from self._until(exchange.head_line)
            cycle.receive_response(exchange.status, exchange.headers, head_t)
            yield head_t
        for piece in exchange.data:
            yield from self._until(piece.line)
            cycle.receive_data(piece.data, piece.t)
            yield piece.t
        end_t = exchange.end_t if exchange.end_t is not None else exchange.t
        yield from self._until(exchange.end_line if exchange.end is not None else inf)
        if exchange.end == "end":
            cycle.receive_data(b"", end_t)
        elif exchange.failure == INTERRUPTED:
            cycle.shut_down(end_t)
        else:
            known = exchange.failure in [failure.value for failure in Failure]
            failure = Failure(exchange.failure) if known else Failure.BROKEN
            cycle.receive_failure(failure, exchange.reason or "the recording ends here", end_t)
        yield end_t

    def _until(self, line: float) -> Iterator[float]:
        """What the client did before a line: it waited for so long that it got a comment, or it left."""
        cycle = self._cycle
        while self._own and self._own[0][0] < line:
            _, wait = self._own.popleft()
            if wait is None:
                assert self._client.end_t is not None
                cycle.client_disconnected(self._client.end_t)
                yield self._client.end_t
            else:
                due = cycle.next_deadline()
                if due < inf:
                    # Times are rounded: by that of the recording it might not be due yet.
                    cycle.handle_deadline(max(wait.t, due))
                yield wait.t


@frozen(kw_only=True)
class Comparison:
    """A recorded answer beside today's, both without what the recording's mode leaves out."""

    recorded: bytes
    replayed: bytes
    unanswered: Command | None  #: what today's code asks of Letta and the recording does not know

    @property
    def same(self) -> bool:
        """Whether the client would get the same."""
        return self.recorded == self.replayed and self.unanswered is None

    def lines(self) -> Iterator[str]:
        """The difference, as `diff -u` shows one."""
        before = self.recorded.decode("utf-8", "replace").splitlines()
        after = self.replayed.decode("utf-8", "replace").splitlines()
        yield from unified_diff(before, after, "recorded", "today", lineterm="", n=1)
        if self.unanswered is not None:
            yield f"+ asks: {self.unanswered.method} {self.unanswered.target}, which was not recorded"


def compare(recording: Recording, other: Recording | None = None) -> Comparison:
    """Whether today's code gives what the recording's client got: status and body.

    :param other: of the same request, on another version of Letta: its answer by today's code is compared, by
        what it says and not by its pieces.
    :raises RecordingError: if a recording has no client, or the two do not belong together.
    """
    if other is not None:
        return _compare_two(recording, other)
    replayed = ReplayedClient(recording)
    client = recording.client
    assert client is not None
    mode = TextMode(recording.head.text)
    status, body = _answer(replayed)
    today, recorded = _visible(body, mode), client.body
    if mode is TextMode.HASH:
        # A collected text is hashed as one, of pieces that were hashed one by one; so is a failure's message
        # that quotes Letta's.
        joined = rb"#[0-9a-f]{12}" if not _is_stream(body) else rb'(?<="message":")[^"]*'
        today, recorded = (re.sub(joined, b"#", answer) for answer in (today, recorded))
    return Comparison(
        recorded=_status_line(client.status) + recorded,
        replayed=_status_line(status) + today,
        unanswered=replayed.unanswered,
    )


def _compare_two(old: Recording, new: Recording) -> Comparison:
    after = ReplayedClient(new)
    if old.head.text != new.head.text:
        raise RecordingError(f"text: {old.head.text} in one recording and {new.head.text} in the other")
    if old.client is None:
        raise RecordingError(f"{old.scenario}: a recording without a client, of exchanges with Letta alone")
    return Comparison(
        recorded=_fold(old.client.status, old.client.body),
        replayed=_fold(*_answer(after)),
        unanswered=after.unanswered,
    )


def _fold(status: int | None, body: bytes) -> bytes:
    """What an answer says, whatever pieces it came in: no two runs of a model are cut alike."""
    parts: dict[str, str] = {}
    for piece in _events(body) if _is_stream(body) else [body]:
        if not piece.startswith(b"{"):
            continue
        value = orjson.loads(piece)
        if "error" in value:
            parts["error"] = str(value["error"].get("code"))
        for choice in value.get("choices", ()):
            _fold_choice(choice, parts)
    return _status_line(status) + "".join(f"{name}: {text}\n" for name, text in parts.items()).encode()


def _events(body: bytes) -> Iterator[bytes]:
    decoder = SSEDecoder(Config().max_event_size)
    decoder.receive_data(body)
    while isinstance(event := decoder.next_event(), ServerSentEvent):
        yield event.data


def _fold_choice(choice: dict[str, Any], parts: dict[str, str]) -> None:
    message = choice.get("delta") or choice.get("message") or {}
    for name in ("reasoning_content", "reasoning", "content"):
        if message.get(name):
            parts[name] = parts.get(name, "") + message[name]
    for index, call in enumerate(message.get("tool_calls") or ()):
        name = f"call {call.get('index', index)}"
        function = call["function"]
        parts[name] = parts.get(name, "") + (function.get("name") or "")
        parts[f"{name} arguments"] = parts.get(f"{name} arguments", "") + function["arguments"]
    if choice.get("finish_reason"):
        parts["finish_reason"] = choice["finish_reason"]


def _answer(replayed: ReplayedClient) -> tuple[int | None, bytes]:
    status, body = None, bytearray()
    for item in (found.item for found in replayed):
        match item:
            case ResponseHead():
                status = item.status
            case ResponseBody(data=data):
                body += data
    return status, bytes(body)


def _status_line(status: int | None) -> bytes:
    return b"status %s\n\n" % str(status or "none").encode()


def _visible(body: bytes, mode: TextMode) -> bytes:
    """An answer as the recorder would have written it."""
    if _is_stream(body):
        return StreamRedactor(mode, Config().max_event_size).redact(body)
    return redact_body(body, mode) if body else b""


def _is_stream(body: bytes) -> bool:
    return body.startswith((b"data:", b"event:", b":"))


def _body(json: object) -> bytes:
    # What the recorder could not read as JSON it wrote as text.
    return json.encode() if isinstance(json, str) else orjson.dumps(json)
