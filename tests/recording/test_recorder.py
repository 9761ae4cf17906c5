"""The recorder: every line for the traffic of a cycle."""

from typing import Any

import orjson
import pytest

from drive import AGENT_ID, DONE, JSON, PING, RUN_ID, SSE, USAGE, agent_json, encode, say, stop
from sansio_letta import Config, Cycle, HttpRequest, Proxy, ResponseBody, ResponseHead, Signal
from sansio_letta.errors import Failure
from sansio_letta.recording.format import KIND, VERSION, Recording, RecordingHead, TextMode
from sansio_letta.recording.reader import read_recording
from sansio_letta.recording.writer import Recorder, RecordingWriter
from sansio_letta.upstreams.rest.commands import CancelRun, CheckHealth, Command, FindAgent, OpenStream

TOKEN = "0123456789"


def ask(*, stream: bool = True) -> HttpRequest:
    body = {"model": "Milo", "messages": [{"role": "user", "content": "my question"}], "stream": stream}
    headers = (("authorization", "Bearer sk-0123456789"), ("accept", "*/*"))
    return HttpRequest(method="POST", target="/v1/chat/completions", headers=headers, body=orjson.dumps(body))


def head_of(mode: TextMode, **more: Any) -> RecordingHead:
    return RecordingHead(v=VERSION, kind=KIND, server="x", scenario="one", note="", text=mode.value, **more)


def begin(
    request: HttpRequest | None = None, mode: TextMode = TextMode.KEEP, now: float = 100.0
) -> tuple[Cycle, list[bytes]]:
    """A cycle that is recorded, and its lines."""
    lines: list[bytes] = []
    recorder, proxy = Recorder(lines.append, server="x", text=mode), Proxy(Config().without_pauses())
    return proxy.open(request or ask(), token=TOKEN, created=7, now=now, observer=recorder), lines


def drain(cycle: Cycle) -> list[Any]:
    """All items up to the next signal, and that."""
    items: list[Any] = []
    while not isinstance(item := cycle.next_event(), Signal):
        items.append(item)
    return [*items, item]


def answer_agent(cycle: Cycle, now: float) -> list[Any]:
    drain(cycle)
    cycle.receive_response(200, JSON, now)
    cycle.receive_data(orjson.dumps([agent_json()]), now)
    cycle.receive_data(b"", now)
    items = drain(cycle)
    cycle.receive_response(200, SSE, now)
    return items


def read(lines: list[bytes]) -> Recording:
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in lines)
    return read_recording(b"".join(lines))


def test_a_turn_is_written_and_nothing_changes() -> None:
    recorded, lines = begin()
    plain = Proxy().open(ask(), token=TOKEN, created=7, now=100.0)
    got = []
    for cycle in (recorded, plain):
        items = answer_agent(cycle, 100.5)
        cycle.receive_data(b"".join(encode(item) for item in (PING, say("Hel"))), 101.0)
        items += drain(cycle)
        cycle.receive_data(encode(say("lo")) + encode(stop()) + encode(USAGE) + encode(DONE), 102.25)
        items += drain(cycle)
        got.append(items)
    assert got[0] == got[1]
    assert got[0][-1] is Signal.FINISHED
    assert (recorded.summary, recorded.responding) == (plain.summary, plain.responding)
    assert recorded.next_deadline() == plain.next_deadline()

    recording = read(lines)
    client, [found, run] = recording.client, recording.exchanges
    assert client is not None
    assert client.request.json["messages"][0]["content"] == "my question"
    assert client.request.headers == (("authorization", "<redacted>"), ("accept", "*/*"))
    assert client.body == b"".join(item.data for item in got[0] if isinstance(item, ResponseBody))
    assert (client.t, client.status, client.end, client.end_t) == (0.0, 200, "end", 2.25)
    assert (found.request.path, found.t, found.end, found.end_t) == (
        "/v1/agents/?name=Milo&include=agent.tools",
        0.0,
        "end",
        0.5,
    )
    assert run.body.startswith(encode(PING))
    assert (run.t, run.end) == (0.5, "client_closed")  # not read on after [DONE]
    assert [data.t for data in run.data] == [1.0, 2.25]


def test_a_body_that_is_collected_is_one_line() -> None:
    recorded, lines = begin(ask(stream=False), TextMode.DROP)
    answer_agent(recorded, 100.0)
    recorded.receive_data(b"".join(encode(item) for item in (PING, say("secret"), stop(), DONE)), 100.0)
    drain(recorded)
    client = read(lines).client
    assert client is not None
    assert [orjson.loads(data.data)["choices"][0]["message"]["content"] for data in client.data] == ["xxxxxx"]


def test_a_failure_is_written() -> None:
    recorded, lines = begin()
    drain(recorded)
    recorded.receive_failure(Failure.NOT_SENT, "refused", 101.0)
    assert isinstance(drain(recorded)[0], ResponseHead)
    [found] = read(lines).exchanges
    assert (found.status, found.end, found.failure, found.reason) == (None, "failed", "not sent", "refused")


def test_a_client_that_leaves_is_written() -> None:
    recorded, lines = begin()
    answer_agent(recorded, 100.5)
    recorded.receive_data(encode(PING) + encode(say("one")), 101.0)
    drain(recorded)
    recorded.client_disconnected(101.0)
    recorded.client_disconnected(101.0)
    [cancel, _] = drain(recorded)
    assert cancel == CancelRun(agent_id=AGENT_ID, run_id=RUN_ID)
    recorded.receive_response(200, JSON, 102.0)
    recorded.receive_data(b"{}", 102.0)
    recorded.receive_data(b"", 102.0)
    assert drain(recorded) == [Signal.FINISHED]
    recording = read(lines)
    assert recording.client is not None
    assert (recording.client.end, recording.client.end_t) == ("client_closed", 1.0)
    assert [exchange.end for exchange in recording.exchanges] == ["end", "client_closed", "end"]
    assert recording.exchanges[-1].request.json == {"run_ids": [RUN_ID]}


def test_an_interruption_is_written() -> None:
    recorded, lines = begin()
    answer_agent(recorded, 100.5)
    recorded.receive_data(encode(PING) + encode(say("one")), 101.0)
    drain(recorded)
    recorded.shut_down(101.5)
    assert drain(recorded)[0] == CancelRun(agent_id=AGENT_ID, run_id=RUN_ID)
    recorded.receive_failure(Failure.BROKEN, "closed", 102.0)
    assert isinstance(drain(recorded)[0], ResponseBody)
    ends = [(exchange.end, exchange.failure) for exchange in read(lines).exchanges]
    assert ends == [("end", None), ("failed", "interrupted"), ("failed", "broken")]


def test_comments_for_a_client_that_waits_are_written() -> None:
    recorded, lines = begin()
    answer_agent(recorded, 100.0)
    recorded.receive_data(encode(PING) + encode(say("one")), 100.0)
    drain(recorded)
    recorded.handle_deadline(recorded.next_deadline())
    assert isinstance(drain(recorded)[0], ResponseBody)
    client = read(lines).client
    assert client is not None
    assert client.data[-1].data.startswith(b":")
    assert client.data[-1].t == client.waits[-1].t == 15.0
    assert client.waits[-1].line < client.data[-1].line


def test_a_deadline_before_its_time_is_not_written() -> None:
    recorded, lines = begin()
    answer_agent(recorded, 100.0)
    recorded.receive_data(encode(PING) + encode(say("one")), 100.0)
    drain(recorded)
    before = list(lines)
    recorded.handle_deadline(recorded.next_deadline() - 0.001)
    assert drain(recorded) == [Signal.NEED_DATA]
    assert lines == before


def test_a_silence_is_written_as_the_failure_that_it_is() -> None:
    recorded, lines = begin()
    answer_agent(recorded, 100.0)
    recorded.receive_data(encode(PING), 100.0)
    recorded.handle_deadline(220.0)
    drain(recorded)
    [_, run, _] = read(lines).exchanges
    assert (run.end, run.end_t, run.failure) == ("failed", 120.0, "silent")
    assert run.reason == "no byte came for 120 seconds"


def test_a_key_that_two_reads_cut_is_not_written() -> None:
    recorded, lines = begin()
    answer_agent(recorded, 100.0)
    recorded.receive_data(encode(PING) + b'data: {"message_type": "x", "y": "sk-0123', 101.0)
    drain(recorded)
    recorded.receive_data(b'456789"}\n\ndata: sk-987', 102.0)
    recorded.receive_data(b"", 103.0)
    drain(recorded)
    run = read(lines).exchanges[1]
    assert run.body == encode(PING) + (b'data: {"message_type": "x", "y": "sk-<redacted>"}\n\ndata: sk-987')
    assert [data.t for data in run.data] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("kind", [FindAgent, OpenStream])
def test_what_is_asked_is_written_before_it_is_carried_out(kind: type[Command]) -> None:
    recorded, lines = begin()
    if kind is FindAgent:
        recorded.next_event()
    else:
        answer_agent(recorded, 100.0)
    last = read(lines).exchanges[-1]
    assert last.end is None
    assert last.request.method == ("GET" if kind is FindAgent else "POST")


def test_a_body_that_is_no_json_is_a_text() -> None:
    recorded, lines = begin(
        HttpRequest(method="POST", target="/v1/chat/completions", body=b"{secret"), TextMode.DROP
    )
    drain(recorded)
    client = read(lines).client
    assert client is not None
    assert client.request.json == "xxxxxxx"
    assert client.status == 400


# --- The writer alone -----------------------------------------------------------------------------------------


def writer(mode: TextMode = TextMode.KEEP, max_event_size: int = 1000) -> tuple[RecordingWriter, list[bytes]]:
    lines: list[bytes] = []
    return RecordingWriter(lines.append, head_of(mode), max_event_size), lines


def test_bytes_that_are_no_text_are_written_as_base64() -> None:
    made, lines = writer()
    made.command(1, 0.0, CheckHealth())
    made.response(1, 0.0, 200, SSE)
    made.data(1, 0.12345678, "data: €".encode()[:-1])
    made.end(1, 1.0)
    assert b'"b64":' in lines[3]
    assert b'"t":0.1235' in lines[3]
    assert read(lines).exchanges[0].body == "data: €".encode()[:-1]


def test_of_an_event_that_is_too_large_nothing_is_written() -> None:
    made, lines = writer(TextMode.DROP, max_event_size=100)
    made.command(1, 0.0, CheckHealth())
    made.response(1, 0.0, 200, SSE)
    made.data(1, 0.0, encode("small"))
    made.data(1, 0.0, b"data: " + b"x" * 200)
    made.data(1, 0.0, b"and more")
    made.end(1, 0.0)
    assert read(lines).exchanges[0].body == b"data: xxxxx\n\n"


def test_an_empty_body_is_no_line() -> None:
    made, lines = writer()
    made.command(1, 0.0, CheckHealth())
    made.response(1, 0.0, 204, ())
    made.end(1, 0.0)
    [exchange] = read(lines).exchanges
    assert (exchange.status, exchange.data, exchange.request.json) == (204, (), None)
