"""Inspections: when each item of a recording arrived, and its effects."""

import re
from collections.abc import Iterable
from typing import Any

import orjson
import pytest
from attrs import define, evolve, field
from hypothesis import given
from hypothesis import strategies as st

from drive import (
    AGENT_ID,
    CONFLICT,
    DONE,
    JSON,
    PING,
    RUN_ID,
    SSE,
    USAGE,
    agent_json,
    encode,
    error,
    say,
    stop,
    think,
    want,
)
from recordings import SCENARIOS, recording, translate
from sansio_letta import Config, Cycle, Enforcement, HttpRequest, Proxy, RecordingError, Signal, read_recording
from sansio_letta.errors import Failure, Kept
from sansio_letta.recording.format import RecordedData, Recording, TextMode
from sansio_letta.recording.inspect import inspect
from sansio_letta.recording.rows import Fold, Inspection, Kind, Outcome, Part, Passage, Row, fold
from sansio_letta.recording.summaries import event_summary, message_summary, request_summary, usage_summary
from sansio_letta.recording.writer import Recorder
from sansio_letta.turn.agent import Agent
from sansio_letta.turn.events import AgentGone, CallsSettled, FinishReason, KeepAlive, TurnFinished, Usage
from sansio_letta.turn.phases import Phase
from sansio_letta.turn.upstream import RunState
from sansio_letta.upstreams.rest.commands import CancelRun, OpenStream
from support import JSON as ANY_JSON
from support import spoiled


def rows(inspection: Inspection) -> list[Row]:
    return [row for passage in inspection.passages for row in passage.rows]


def names(outcomes: Iterable[Outcome]) -> list[str]:
    return [outcome.name for outcome in outcomes]


def outcomes(passage: Passage) -> list[str]:
    """The names of all that came of a passage's rows, neighbours of one name once."""
    return [name for found in fold(passage.rows) for name in names(found.outcomes)]


def only(found: Inspection) -> Passage:
    [passage] = found.passages
    return passage


# --- Every recording ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_all_that_was_recorded_is_told_once(scenario: str) -> None:
    whole, inspection = recording(scenario), inspect(recording(scenario))
    requests = [row.x for row in rows(inspection) if row.kind is Kind.REQUEST]
    assert sorted(set(requests)) == [exchange.x for exchange in whole.exchanges]
    for exchange in whole.exchanges:
        events = len(re.findall(rb"^data: ", exchange.body, re.MULTILINE))
        kinds = [row.kind for row in rows(inspection) if row.x == exchange.x]
        assert kinds.count(Kind.MESSAGE) + kinds.count(Kind.PING) == events * requests.count(exchange.x)
    assert [passage.t for passage in inspection.passages] == sorted(
        passage.t for passage in inspection.passages
    )
    assert all(row.gap >= 0 for row in rows(inspection))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_what_was_written_is_what_a_replay_writes(scenario: str) -> None:
    told = "".join(
        outcome.payload
        for row in rows(inspect(recording(scenario)))
        for outcome in row.outcomes
        if outcome.part is Part.EVENT
    )
    replayed = [line for line in translate(recording(scenario)).split(b"\n\n") if line.startswith(b"data: ")]
    written = [line for line in told.encode().split(b"\n\n") if line.startswith(b"data: ")]
    assert written == [line for line in replayed if not line.startswith(b'data: {"error"')]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_folds_lose_nothing(scenario: str) -> None:
    for passage in inspect(recording(scenario)).passages:
        folds = fold(passage.rows)
        assert tuple(row for found in folds for row in found.rows) == passage.rows
        chunks = sum(outcome.chunk_count for found in folds for outcome in found.outcomes)
        assert chunks == passage.chunk_count


# --- A turn ---------------------------------------------------------------------------------------------------


def test_a_tool_round_trip() -> None:
    inspection = inspect(recording("client_tool"))
    first, second = inspection.passages
    assert [(found.rows[0].kind, found.rows[0].name, len(found.rows)) for found in fold(first.rows)] == [
        (Kind.REQUEST, "POST /v1/agents/agent-c52d0716-1824-4a78-9f84-e5b39a7bad99/messages/stream", 1),
        (Kind.HEAD, "200", 1),
        (Kind.PING, "ping", 1),
        (Kind.MESSAGE, "reasoning_message", 4),
        (Kind.MESSAGE, "approval_request_message", 7),
        (Kind.MESSAGE, "stop_reason", 1),
        (Kind.MESSAGE, "usage_statistics", 1),
        (Kind.MESSAGE, "[DONE]", 1),
        (Kind.END, "end", 1),
    ]
    assert outcomes(first) == ["TurnStarted", "ReasoningDelta", "CallStarted", "CallArguments", "TurnFinished"]
    states = [(row.phase, row.run_state) for row in first.rows]
    assert states[0] == (Phase.SENDING, RunState.WAITING)
    assert states[1] == (Phase.STREAMING, RunState.WAITING)
    assert states[3] == (Phase.STREAMING, RunState.THINKING)
    assert states[7] == (Phase.STREAMING, RunState.CALLING)
    assert states[-2:] == [(Phase.DONE, RunState.DONE), (None, None)]
    assert (first.number, first.finish, first.chunk_count, first.call_count) == (1, "tool_calls", 14, 1)
    assert (second.number, second.finish, second.chunk_count, second.call_count) == (2, "stop", 17, 0)
    assert first.usage == Usage(
        prompt_tokens=100,
        completion_tokens=20,
        total_tokens=120,
        cached_input_tokens=10,
        reasoning_tokens=5,
        context_tokens=120,
        step_count=1,
    )
    assert first.first_chunk_duration == pytest.approx(0.3348)
    assert first.duration == pytest.approx(0.6588)
    assert inspection.duration == pytest.approx(1.3715)
    assert (first.error, first.kept, first.left, first.unanswered, first.as_recorded) == (
        None,
        None,
        False,
        None,
        None,
    )


def test_fragments_are_told_as_one() -> None:
    [_, _, _, reasoning, calls, *_] = fold(inspect(recording("client_tool")).passages[0].rows)
    assert reasoning.text == "I need the weather."
    assert calls.text == 'get_weather {"city": "Paris", "units": "C"}'
    started, arguments = calls.outcomes
    assert (started.text, started.count) == ("get_weather call_c8b96a27bb2b40b4b26d", 1)
    assert (arguments.text, arguments.count, arguments.chunk_count) == (
        '{"city": "Paris", "units": "C"}',
        6,
        6,
    )
    assert arguments.payload.count("data: {") == 6


def test_calls_side_by_side_are_told_one_by_one() -> None:
    folds = fold(inspect(recording("parallel_tools")).passages[0].rows)
    texts = [found.text for found in folds if found.rows[0].name == "approval_request_message"]
    assert texts == ['get_weather {"city": "Paris"}', 'read_file {"path": "/etc/hosts"}']


def test_pings_are_told_as_one_and_say_their_run_once() -> None:
    pings = [row for row in rows(inspect(recording("step_streaming"))) if row.kind is Kind.PING]
    [found] = fold(pings)
    assert found.text == pings[0].text
    assert found.text.startswith("run-")


def test_the_rate_of_what_came_at_once_is_unknown() -> None:
    row = Row(x=1, t=1.0, gap=0.0, kind=Kind.MESSAGE, name="assistant_message")
    assert Fold(rows=(row,)).rate is None
    assert Fold(rows=(row, evolve(row, t=1.5))).rate == 2.0
    assert Fold(rows=(row, evolve(row, t=1.5))).end_t == 1.5


def test_a_failure_before_the_first_chunk() -> None:
    passage = only(inspect(recording("error_llm_500")))
    row = next(row for row in passage.rows if row.outcomes)
    [failed] = row.outcomes
    assert (row.name, row.phase, row.run_state) == ("error_message", Phase.FAILED, RunState.FAILED)
    assert (failed.part, failed.name, failed.chunk_count) == (Part.FAILURE, "TurnFailed", 0)
    assert failed.text.startswith("502 upstream_error: Letta ended the run: llm_error")
    assert orjson.loads(failed.payload)["error"]["code"] == "upstream_error"
    assert passage.error is not None
    assert (passage.kept, passage.first_chunk_duration, passage.usage, passage.finish) == (
        Kept.NOTHING,
        None,
        None,
        None,
    )
    # What Letta says after it nobody hears.
    assert [row.phase for row in passage.rows[-2:]] == [None, None]


def test_a_failure_in_the_stream() -> None:
    passage = inspect(recording("kept_first_step")).passages[0]
    [failed] = [item for row in passage.rows for item in row.outcomes if item.part is Part.FAILURE]
    assert failed.payload.startswith('data: {"error":')
    assert passage.kept is Kept.SOMETHING


def test_a_refusal_is_looked_into() -> None:
    _, passage = inspect(recording("pending_conflict")).passages
    assert outcomes(passage) == ["FetchAgent", "CallsSettled", "OpenStream"]
    assert [row.kind for row in passage.rows if row.x == 3] == [Kind.REQUEST, Kind.HEAD, Kind.ANSWER]
    answer = passage.rows[-1]
    assert (answer.phase, answer.run_state) == (Phase.SENDING, RunState.WAITING)
    assert answer.outcomes[0].text.startswith("denied: call_")
    assert orjson.loads(answer.outcomes[1].payload)["messages"][0]["type"] == "approval"
    assert isinstance(passage.unanswered, OpenStream)


def test_a_client_that_left_before_there_were_clients() -> None:
    passage = inspect(recording("disconnect")).passages[0]
    [closed] = [row for row in passage.rows if row.name == "closed"]
    assert (closed.kind, names(closed.outcomes), closed.phase) == (
        Kind.END,
        ["CancelRun"],
        Phase.CANCELLING,
    )
    assert passage.left
    assert passage.rows[-1].phase is Phase.DONE
    assert inspect(recording("disconnect")).passages[1].number is None


def test_exchanges_of_no_turn() -> None:
    inspection = inspect(recording("agents"))
    assert [passage.number for passage in inspection.passages] == [None] * 5
    assert all(row.phase is None and not row.outcomes for row in rows(inspection))
    assert inspection.passages[1].rows[-1].text == "[]"


def test_an_agent_that_does_not_exist() -> None:
    passage = inspect(recording("http_errors")).passages[0]
    assert passage.rows[-1].text.startswith("Agent with ID")
    assert outcomes(passage) == ["AgentGone", "FindAgent"]


# --- What may stand in a recording ----------------------------------------------------------------------------


def changed(scenario: str, **changes: Any) -> Recording:
    """A recording whose first exchange is another in these fields."""
    whole = recording(scenario)
    first, *others = whole.exchanges
    return evolve(whole, exchanges=(evolve(first, **changes), *others))


def pieces(*parts: bytes) -> tuple[RecordedData, ...]:
    return tuple(RecordedData(t=1.0 + index, data=part) for index, part in enumerate(parts))


def test_a_recording_that_is_empty() -> None:
    inspection = inspect(evolve(recording("text"), exchanges=(), cut_line=2))
    assert (inspection.passages, inspection.duration, inspection.cut_line) == ((), 0.0, 2)


def test_a_recording_that_was_cut_off() -> None:
    passage = only(inspect(changed("text", data=recording("text").exchanges[0].data[:3], end=None, end_t=None)))
    assert (passage.rows[-1].name, passage.finish, passage.error) == ("cut", None, None)
    assert passage.rows[-1].t == passage.rows[-2].t
    unanswered = only(inspect(changed("text", status=None, data=(), end=None, end_t=None)))
    assert [row.name for row in unanswered.rows[1:]] == ["cut"]


@pytest.mark.parametrize("failure", [*Failure, None])
def test_an_exchange_that_failed(failure: Failure | None) -> None:
    how = None if failure is None else failure.value
    passage = only(inspect(changed("text", status=None, data=(), end="failed", failure=how, reason="it hurt")))
    last = passage.rows[-1]
    assert (last.name, last.text) == (how or "broken", "it hurt")
    assert passage.error is not None
    bare = only(inspect(changed("text", end="failed")))
    assert (bare.rows[-1].text, bare.finish) == ("no reason recorded", "stop")


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_lines_end_as_they_like_and_come_as_they_like(end: bytes) -> None:
    body = recording("text").exchanges[0].body.replace(b"\n", end)
    whole = only(inspect(changed("text", data=pieces(body))))
    cut = only(inspect(changed("text", data=pieces(*(body[at : at + 7] for at in range(0, len(body), 7))))))
    expected = only(inspect(recording("text")))
    for passage in (whole, cut):
        assert [row.name for row in passage.rows] == [row.name for row in expected.rows]
        assert [row.outcomes for row in passage.rows] == [row.outcomes for row in expected.rows]


def test_bytes_that_make_no_event() -> None:
    passage = only(
        inspect(
            changed("text", data=pieces(b": hello\n\ndata: {")),
        )
    )
    [rest] = [row for row in passage.rows if row.kind is Kind.REST]
    assert rest.payload == ": hello\n\ndata: {"
    assert passage.error is not None


def test_a_message_that_cannot_be_read() -> None:
    passage = only(inspect(changed("text", data=pieces(encode(PING), b"data: <html>\n\n", encode(say("x"))))))
    unreadable, undelivered = [row for row in passage.rows if row.kind is Kind.MESSAGE]
    assert (unreadable.name, unreadable.text, names(unreadable.outcomes)) == (
        "unreadable",
        "<html>",
        ["CancelRun"],
    )
    assert (undelivered.phase, undelivered.outcomes) == (None, ())
    assert isinstance(passage.unanswered, CancelRun)


def test_an_event_beyond_the_limit() -> None:
    size = Config().max_event_size
    passage = only(inspect(changed("text", data=pieces(b"data: " + b"x" * size))))
    assert passage.error is not None
    assert "larger than" in passage.error.message


def test_an_answer_without_a_body() -> None:
    passage = only(inspect(changed("text", status=503, headers=(), data=())))
    assert (passage.rows[-1].kind, passage.rows[-1].name) == (Kind.ANSWER, "0 bytes")
    assert passage.error is not None
    cut = only(inspect(changed("text", status=503, headers=(), data=pieces(b"oops"), end=None)))
    assert [row.name for row in cut.rows[2:]] == ["4 bytes", "cut"]


def test_a_request_that_says_nothing() -> None:
    whole = recording("text")
    [exchange] = whole.exchanges
    request = evolve(exchange.request, json=None, path="/v1/conversations/conv-1/messages")
    passage = only(inspect(evolve(whole, exchanges=(evolve(exchange, request=request),))))
    assert names(passage.rows[0].outcomes) == ["TurnFailed"]
    assert all(row.phase is None for row in passage.rows[1:])


HEAD = {"v": 1, "kind": "letta-v1", "server": "0.16.7", "scenario": "text", "note": "A reply."}
LINES: list[dict[str, Any]] = [
    {"x": 1, "t": 0, "dir": "request", "method": "POST", "path": f"/v1/agents/{AGENT_ID}/messages/stream",
     "json": {"messages": [{"role": "user", "content": "hi"}], "client_tools": [{"name": "get_weather"}]}},
    {"x": 1, "t": 0.1, "dir": "response", "status": 200, "headers": [list(SSE[0])]},
    *(
        {"x": 1, "t": 0.2, "dir": "data", "text": encode(message).decode()}
        for message in (PING, think("hm"), say("hi"), want("call-1", "get_weather", "{}"), stop(), USAGE, DONE)
    ),
    {"x": 1, "t": 0.4, "dir": "end"},
]  # fmt: skip


@given(
    spoiled(LINES) | st.lists(ANY_JSON, max_size=3),
    st.lists(
        st.sampled_from([PING, think("hm"), say("hi"), want("call-1", None, "{"), stop(), error(), CONFLICT])
    ),
    ANY_JSON,
)
def test_whatever_was_recorded_is_told(lines: Any, more: list[Any], message: Any) -> None:
    said = [*map(encode, more), encode(orjson.dumps(message).decode())]
    extra = [{"x": 1, "t": 0.3, "dir": "data", "text": data.decode()} for data in said]
    lines = [HEAD, *lines[:-1], *extra, *lines[-1:]] if isinstance(lines, list) else [HEAD, lines]
    try:
        found = read_recording(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    except RecordingError:
        return
    for passage in inspect(found).passages:
        assert fold(passage.rows)


# --- With a client --------------------------------------------------------------------------------------------


@define
class Played:
    """A client's request, recorded, with Letta played by hand; each step is a second later."""

    request: HttpRequest
    proxy: Proxy = field(factory=Proxy)
    text: TextMode = TextMode.KEEP
    lines: list[bytes] = field(factory=list)
    now: float = 100.0
    cycle: Cycle = field(init=False)

    def __attrs_post_init__(self) -> None:
        recorder = Recorder(self.lines.append, server="0.16.7", text=self.text, scenario="played", note="")
        self.cycle = self.proxy.open(
            self.request, token="abcdef12", created=1_795_332_551, now=self.now, observer=recorder
        )
        self._pump()

    def _pump(self) -> None:
        while (item := self.cycle.next_event()) is Signal.WAITING or not isinstance(item, Signal):
            if item is Signal.WAITING:
                self.now = self.cycle.next_deadline()
                self.cycle.handle_deadline(self.now)
        self.now += 1.0

    def answer(self, value: object, status: int = 200) -> "Played":
        self.cycle.receive_response(status, JSON, self.now)
        self.cycle.receive_data(orjson.dumps(value), self.now)
        self.cycle.receive_data(b"", self.now)
        self._pump()
        return self

    def stream(self, *messages: dict[str, Any] | str) -> "Played":
        self.cycle.receive_response(200, SSE, self.now)
        return self.more(*messages)

    def more(self, *messages: dict[str, Any] | str) -> "Played":
        self.cycle.receive_data(b"".join(map(encode, messages)), self.now)
        self._pump()
        return self

    def fail(self, failure: Failure) -> "Played":
        self.cycle.receive_failure(failure, "played", self.now)
        self._pump()
        return self

    def leave(self) -> "Played":
        self.cycle.client_disconnected(self.now)
        self._pump()
        return self

    @property
    def recording(self) -> Recording:
        return read_recording(b"".join(self.lines))

    @property
    def passage(self) -> Passage:
        return only(inspect(self.recording))


HELLO = (PING, say("Hello"), stop(), USAGE, DONE)


def chat(*, stream: bool = True, content: Any = "hi", model: str = "Milo", **more: Any) -> HttpRequest:
    body = {"model": model, "messages": [{"role": "user", "content": content}], "stream": stream, **more}
    headers = [("content-type", "application/json"), ("authorization", "Bearer sk-secret-key")]
    return HttpRequest(method="POST", target="/v1/chat/completions", headers=headers, body=orjson.dumps(body))


def results(*call_ids: str) -> HttpRequest:
    call = {"id": "call-1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "How is the weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        *({"role": "tool", "tool_call_id": call_id, "content": "18 C"} for call_id in call_ids),
    ]
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
    return chat(messages=messages, tools=[tool])


def get(target: str) -> HttpRequest:
    return HttpRequest(method="GET", target=target)


def remembering() -> Proxy:
    proxy = Proxy()
    proxy.remember("Milo", Agent(id=AGENT_ID, name="Milo", agent_type="letta_v1_agent"), now=100.0)
    return proxy


def checking() -> Proxy:
    proxy = Proxy(Config(enforcement=Enforcement.VALIDATE))
    proxy.remember("Milo", Agent(id=AGENT_ID, name="Milo", agent_type="letta_v1_agent"), now=100.0)
    return proxy


def test_a_client_and_its_answer() -> None:
    passage = Played(chat()).answer([agent_json()]).stream(*HELLO).passage
    asked, got = passage.rows[0], passage.rows[-1]
    assert (asked.kind, asked.name, asked.text) == (Kind.CLIENT, "POST /v1/chat/completions", "user: hi")
    assert (asked.phase, asked.run_state, names(asked.outcomes)) == (Phase.FINDING, None, ["FindAgent"])
    assert "authorization: <redacted>" in asked.payload
    assert '"content": "hi"' in asked.payload
    assert (got.kind, got.name, got.text) == (Kind.CLIENT, "got 200", "3 chunks")
    assert got.payload.endswith("data: [DONE]\n\n")
    assert outcomes(passage) == [
        "FindAgent",
        "AgentFound",
        "OpenStream",
        "TurnStarted",
        "TextDelta",
        "TurnFinished",
    ]
    assert (passage.number, passage.finish, passage.as_recorded) == (1, "stop", True)
    written = "".join(item.payload for row in passage.rows[1:-1] for item in row.outcomes if item.chunk_count)
    assert got.payload.endswith("\n" + written)


def test_an_answer_in_one_piece() -> None:
    played = Played(chat(stream=False), remembering()).stream(*HELLO)
    passage = played.passage
    assert (passage.chunk_count, passage.finish, passage.first_chunk_duration) == (0, "stop", None)
    assert passage.rows[-1].text.startswith('{"id":"chatcmpl-abcdef12"')
    finished = [item for row in passage.rows for item in row.outcomes if item.name == "TurnFinished"]
    assert finished[0].payload in passage.rows[-1].payload


def test_a_failure_after_the_first_words_of_an_answer_in_one_piece() -> None:
    passage = Played(chat(stream=False), remembering()).stream(say("Hel"), stop("error"), error(), DONE).passage
    [failed] = [item for row in passage.rows for item in row.outcomes if item.part is Part.FAILURE]
    assert orjson.loads(failed.payload)["error"]
    assert passage.rows[-1].name == "got 502"


def test_an_agent_that_was_remembered() -> None:
    passage = Played(results("call-1"), remembering()).answer(agent_json("call-1")).stream(*HELLO).passage
    assert outcomes(passage)[:2] == ["FetchAgent", "OpenStream"]
    assert passage.rows[0].text == "3 messages, the last tool: 18 C"
    by_id = Played(chat(model=AGENT_ID)).answer(agent_json()).stream(*HELLO).passage
    assert outcomes(by_id)[:3] == ["FetchAgent", "AgentFound", "OpenStream"]


def test_results_that_nobody_waits_for() -> None:
    passage = (
        Played(results("call-1", "call-9"), remembering())
        .answer(agent_json("call-1"))
        .answer([])
        .stream(*HELLO)
        .passage
    )
    [settled] = [item for row in passage.rows for item in row.outcomes if item.name == "CallsSettled"]
    assert settled.text == "not pending: call-9"


def test_a_client_that_left() -> None:
    played = Played(chat(), remembering()).stream(PING, say("Hel")).leave().answer({RUN_ID: "cancelled"})
    passage = played.passage
    [left] = [row for row in passage.rows if row.name == "left"]
    assert (left.kind, left.x, names(left.outcomes), left.phase) == (
        Kind.CLIENT,
        0,
        ["CancelRun"],
        Phase.CANCELLING,
    )
    assert left.text == "got 200, 2 chunks"
    assert left.payload.endswith('"finish_reason":null}]}\n\n')
    assert passage.left
    following = passage.rows[passage.rows.index(left) + 1]
    assert (following.kind, following.name, following.text) == (Kind.END, "closed", "by the proxy")


def test_a_client_that_left_while_letta_went_on() -> None:
    played = Played(chat(), remembering())
    played.cycle.receive_response(200, SSE, played.now)
    played.cycle.receive_data(b": hello\n\n", played.now)
    passage = played.leave().more(PING).answer({RUN_ID: "cancelled"}).passage
    kinds = [row.kind for row in passage.rows]
    assert kinds.index(Kind.PING) > [row.name for row in passage.rows].index("left")
    [ping] = [row for row in passage.rows if row.kind is Kind.PING]
    assert names(ping.outcomes) == ["CancelRun"]


def test_a_client_that_left_at_once() -> None:
    passage = Played(chat()).leave().passage
    assert [(row.name, row.text) for row in passage.rows if row.kind is Kind.CLIENT] == [
        ("POST /v1/chat/completions", "user: hi"),
        ("left", "got nothing, no status"),
    ]
    assert passage.left


def test_a_client_that_left_after_all_was_said() -> None:
    played = Played(chat(), remembering()).stream(*HELLO)
    whole = played.recording
    assert whole.client is not None
    client = evolve(whole.client, end="client_closed", end_t=50.0)
    passage = only(inspect(evolve(whole, client=client)))
    assert (passage.rows[-1].name, passage.rows[-1].t, passage.finish) == ("left", 50.0, "stop")
    unknown = evolve(client, end=None, end_t=None, status=None)
    assert only(inspect(evolve(whole, client=unknown))).rows[-1].kind is Kind.END


def test_a_connection_that_broke() -> None:
    played = Played(chat(), remembering())
    passage = played.fail(Failure.NOT_SENT).fail(Failure.NOT_SENT).fail(Failure.NOT_SENT).passage
    assert [row.name for row in passage.rows].count("not sent") == 3
    assert (passage.rows[-1].name, passage.kept) == ("got 502", Kept.NOTHING)


def test_a_request_that_was_refused() -> None:
    passage = Played(chat(content=None)).passage
    asked, got = passage.rows
    [refused] = asked.outcomes
    assert (refused.part, refused.name) == (Part.FAILURE, "RequestError")
    assert passage.error is not None
    assert (got.name, passage.number) == ("got 400", 1)
    nonsense = Played(evolve(chat(), body=b"{")).passage
    assert nonsense.error is not None
    assert nonsense.error.code == "invalid_json"


@pytest.mark.parametrize("target", ["/v1/models", "/v1/nothing"])
def test_a_request_for_no_turn(target: str) -> None:
    played = Played(get(target))
    passage = (played.answer([agent_json()]) if target == "/v1/models" else played).passage
    assert (passage.number, passage.finish) == (None, None)
    assert passage.rows[-1].name == ("got 200" if target == "/v1/models" else "got 404")
    assert all(row.phase is None for row in passage.rows)


@pytest.mark.parametrize("mode", [TextMode.HASH, TextMode.DROP])
def test_texts_that_were_not_recorded(mode: TextMode) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
    passage = Played(chat(content=[image]), remembering(), mode).stream(*HELLO).passage
    assert (passage.finish, passage.chunk_count, passage.error) == ("stop", 3, None)
    assert "Hello" not in "".join(row.payload for row in passage.rows)


@pytest.mark.parametrize("mode", TextMode)
def test_a_reply_that_was_checked(mode: TextMode) -> None:
    played = Played(chat(response_format={"type": "json_object"}), checking(), mode)
    passage = played.stream(*HELLO).stream(PING, say("{}"), *HELLO[2:]).passage
    runs = [row for row in passage.rows if row.kind is Kind.REQUEST]
    assert len(runs) == 2
    assert passage.rows[-1].text == "3 chunks"
    if mode is TextMode.KEEP:
        assert passage.as_recorded is True
        assert "OpenStream" in [name for row in passage.rows[:-1] for name in names(row.outcomes)][1:]
    else:
        assert passage.as_recorded is None, "nobody can say what today's answer would be"
        assert "TextDelta" in outcomes(passage), "what was said is shown as if nothing had been wished"


def test_today_is_not_what_it_was() -> None:
    whole = Played(chat(), remembering()).stream(*HELLO).recording
    assert whole.client is not None
    client = evolve(whole.client, data=(RecordedData(t=1.0, data=b"data: {}\n\n"),))
    passage = only(inspect(evolve(whole, client=client)))
    assert (passage.as_recorded, passage.rows[-1].text) == (False, "1 chunks")
    failed = evolve(whole.client, data=(RecordedData(t=1.0, data=b'data: {"error":{}}\n\n'),))
    assert only(inspect(evolve(whole, client=failed))).rows[-1].text == 'data: {"error":{}}\n\n'


def test_what_todays_code_does_not_ask_is_told_all_the_same() -> None:
    whole = Played(chat(), remembering()).stream(*HELLO).recording
    [exchange] = whole.exchanges
    elsewhere = evolve(exchange, request=evolve(exchange.request, path="/v1/elsewhere"))
    passage = only(inspect(evolve(whole, exchanges=(elsewhere,))))
    assert passage.unanswered is not None
    assert "[DONE]" in [row.name for row in passage.rows]
    assert all(row.phase is None for row in passage.rows[1:])


# --- In few words ---------------------------------------------------------------------------------------------

MESSAGES: dict[str, tuple[object, str]] = {
    "usage_statistics": ({"prompt_tokens": 1, "completion_tokens": 2}, "1 in, 2 out"),
    "stop_reason": ({"stop_reason": "end_turn"}, "end_turn"),
    "reasoning_message": ({"reasoning": "hm"}, "hm"),
    "error_message": ({"error_type": "llm_error", "message": "It broke."}, "llm_error: It broke."),
    "assistant_message": ({"content": [{"type": "text", "text": "Hi"}, {"type": "image"}]}, "Hi [image]"),
    "user_message": ({"content": "Hi"}, "Hi"),
    "tool_call_message": ({"tool_call": {"name": "f", "arguments": "{}"}}, "f {}"),
    "approval_request_message": ({"tool_calls": [{"arguments": "{"}, {"name": "g"}]}, "{, g "),
    "tool_return_message": ({"tool_return": "18 C", "tool_returns": []}, "18 C"),
    "hidden_reasoning_message": ({"state": "omitted"}, ""),
    "summary_message": ({"content": None}, ""),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_in_few_words(name: str) -> None:
    fields, text = MESSAGES[name]
    assert isinstance(fields, dict)
    summary = message_summary(orjson.dumps({"message_type": name, "id": "message-1", **fields}))
    assert (summary.name, summary.text) == (name, text)


def test_several_returns_in_few_words() -> None:
    returns = [{"tool_return": "18 C"}, {"tool_return": "19 C"}]
    message = {"message_type": "tool_return_message", "tool_return": "18 C", "tool_returns": returns}
    assert message_summary(orjson.dumps(message)).text == "18 C; 19 C"


def test_a_request_in_few_words() -> None:
    approvals = [{"type": "approval", "approve": False, "reason": "No."}]
    json = {"messages": [{"type": "approval", "approvals": approvals}, {"role": "user", "content": "Hi"}]}
    assert request_summary(json) == "approval: No.; user: Hi"
    assert (
        request_summary({"messages": [{"role": "user", "content": "a"}] * 5})
        == "5 messages, the last user: a; user: a"
    )
    assert request_summary("nonsense") == request_summary(None) == ""


def test_events_in_few_words() -> None:
    assert event_summary(AgentGone(agent_id="agent-1")) == "agent-1"
    assert event_summary(KeepAlive()) == ""
    assert event_summary(TurnFinished(reason=FinishReason.STOP, usage=None)) == "stop"
    settled = CallsSettled(missing=("a",), denied=("b", "c"))
    assert event_summary(settled) == "no result: a; denied: b, c"
    assert usage_summary(Usage()) == "0 in, 0 out"
