"""The recording format, and the errors for invalid files."""

import re
from typing import Any

import orjson
import pytest
from attrs import asdict, fields
from hypothesis import given
from hypothesis import strategies as st

from recordings import SCENARIOS, recording
from sansio_letta import Config, ReasoningField
from sansio_letta.config import TaskPolicy
from sansio_letta.proxy.policies import POLICIES
from sansio_letta.recording.format import (
    LIMITS,
    RecordedData,
    RecordedExchange,
    RecordedOptions,
    RecordedRequest,
    RecordedState,
    RecordedWait,
    Recording,
    RecordingError,
    RecordingHead,
    TextMode,
)
from sansio_letta.recording.reader import read_recording
from support import JSON, spoiled

HEAD = {"v": 1, "kind": "letta-v1", "server": "0.16.7", "scenario": "text", "note": "A reply."}
REQUEST = {"x": 1, "t": 0, "dir": "request", "method": "POST", "path": "/v1/agents/", "json": {"a": 1}}
RESPONSE = {"x": 1, "t": 0.1, "dir": "response", "status": 200, "headers": [["Content-Type", "text/plain"]]}
DATA = {"x": 1, "t": 0.2, "dir": "data", "text": "ä€"}
BYTES = {"x": 1, "t": 0.3, "dir": "data", "b64": "gqw="}
END = {"x": 1, "t": 0.4, "dir": "end"}


def lines(*items: object) -> bytes:
    return b"".join(orjson.dumps(item) + b"\n" for item in items)


def read(*items: object) -> tuple[RecordedExchange, ...]:
    """The exchanges of a recording with these lines after its head."""
    return read_recording(lines(HEAD, *items)).exchanges


# --- What is real ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_recording_can_be_read(scenario: str) -> None:
    found = recording(scenario)
    assert (found.scenario, found.head.server, found.head.v) == (scenario, "0.16.7", 3)
    assert found.head.note
    assert found.exchanges
    for exchange in found.exchanges:
        assert exchange.status is not None
        assert exchange.end in ("end", "client_closed")
        times = [exchange.t, *(data.t for data in exchange.data), exchange.end_t or 0]
        assert times == sorted(times)


def test_exchanges_that_overlap_are_told_apart() -> None:
    _, running, refused = recording("conversation_busy").exchanges
    assert running.t < refused.t < (refused.end_t or 0) < (running.end_t or 0)
    assert (running.status, refused.status) == (200, 409)
    assert running.body.startswith(b"data: ")
    assert refused.body.startswith(b"{")


def test_a_reader_that_left_is_seen() -> None:
    assert "client_closed" in [exchange.end for exchange in recording("disconnect").exchanges]


# --- What it holds --------------------------------------------------------------------------------------------


def test_a_recording_is_a_head_and_exchanges() -> None:
    assert read_recording(lines(HEAD, REQUEST, RESPONSE, DATA, BYTES, END)) == Recording(
        head=RecordingHead(v=1, kind="letta-v1", server="0.16.7", scenario="text", note="A reply."),
        exchanges=(
            RecordedExchange(
                x=1,
                t=0,
                request=RecordedRequest(method="POST", path="/v1/agents/", json={"a": 1}),
                status=200,
                headers=(("content-type", "text/plain"),),
                head_t=0.1,
                head_line=3,
                data=(
                    RecordedData(t=0.2, data="ä€".encode(), line=4),
                    RecordedData(t=0.3, data=b"\x82\xac", line=5),
                ),
                end="end",
                end_t=0.4,
                end_line=6,
            ),
        ),
    )


def test_the_body_is_all_its_data() -> None:
    [exchange] = read(REQUEST, RESPONSE, DATA, BYTES)
    assert exchange.body == "ä€".encode() + b"\x82\xac"


def test_an_exchange_may_stay_without_an_answer() -> None:
    [exchange] = read(REQUEST)
    assert (exchange.status, exchange.headers, exchange.body) == (None, (), b"")
    assert (exchange.end, exchange.end_t) == (None, None)


@pytest.mark.parametrize("end", ["end", "client_closed", "failed"])
def test_an_exchange_ends_in_one_of_three_ways(end: str) -> None:
    [exchange] = read(REQUEST, {**END, "dir": end})
    assert (exchange.end, exchange.end_t) == (end, 0.4)


def test_exchanges_come_in_the_order_of_their_requests() -> None:
    second = {**REQUEST, "x": 7, "path": "/v1/health/"}
    answers = ({**RESPONSE, "x": 7}, {**DATA, "x": 7}, RESPONSE, DATA)
    exchanges = read(REQUEST, second, *answers, {**END, "x": 7}, END)
    assert [exchange.x for exchange in exchanges] == [1, 7]
    assert [exchange.request.path for exchange in exchanges] == ["/v1/agents/", "/v1/health/"]
    assert all(exchange.body == "ä€".encode() for exchange in exchanges)


def test_a_recording_may_be_its_head_alone() -> None:
    assert read() == ()


def test_blank_lines_and_a_missing_last_line_end_do_not_matter() -> None:
    data = b"\n" + lines(HEAD) + b"\r\n  \n" + lines(REQUEST).rstrip()
    assert len(read_recording(data).exchanges) == 1


def test_unknown_fields_do_not_matter() -> None:
    assert read({**REQUEST, "note": "x"}) == read(REQUEST)


RUNS = {
    ("POST", "/v1/agents/agent-1/messages/stream"): True,
    ("POST", "/v1/conversations/conv-1/messages"): True,
    ("GET", "/v1/agents/agent-1/messages/stream"): False,
    ("GET", "/v1/conversations/conv-1/messages"): False,
    ("POST", "/v1/agents/agent-1/messages"): False,
    ("POST", "/v1/agents/agent-1/messages/cancel"): False,
    ("POST", "/v1/conversations/"): False,
    ("POST", "/v1/runs/run-1/stream"): False,
}


@pytest.mark.parametrize(("request_", "starts_run"), RUNS.items(), ids=map(" ".join, RUNS))
def test_some_requests_start_a_run(request_: tuple[str, str], starts_run: bool) -> None:
    method, path = request_
    [exchange] = read({**REQUEST, "method": method, "path": path})
    assert exchange.starts_run is starts_run


# --- What is none ---------------------------------------------------------------------------------------------

BAD_HEADS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "line 1: expected the head of a recording, got an empty file"),
    "blank lines": (b"\n\n", "line 1: expected the head of a recording, got an empty file"),
    "no JSON": (b"# a note\n", "line 1: expected one JSON object, got "),
    "no UTF-8": (b'"\xff"\n', "line 1: expected one JSON object, got "),
    "an array": (b"[]\n", "line 1: expected an object, got an array"),
    "no version": (lines({**HEAD} | {"v": None}), "line 1: v: expected an integer, got null"),
    "a version in words": (lines({**HEAD, "v": "1"}), "line 1: v: expected an integer, got a string"),
    "a later version": (
        lines({**HEAD, "v": 4}),
        "line 1: v: versions 1 to 3 can be read, the recording is of version 4",
    ),
    "another kind": (lines({**HEAD, "kind": "har"}), "line 1: kind: expected letta-v1, got 'har'"),
    "no scenario": (lines({key: HEAD[key] for key in HEAD if key != "scenario"}), "line 1: scenario: missing"),
    "a request first": (lines(REQUEST), "line 1: v: missing"),
    "after blank lines": (b"\n\n[]\n", "line 3: expected an object, got an array"),
}


@pytest.mark.parametrize(("data", "message"), BAD_HEADS.values(), ids=BAD_HEADS)
def test_a_bad_head_is_named(data: bytes, message: str) -> None:
    with pytest.raises(RecordingError) as caught:
        read_recording(data)
    assert caught.value.message.startswith(message)


BAD_LINES: dict[str, tuple[object, str]] = {
    "an array": ([], "expected an object, got an array"),
    "a string": ("x", "expected an object, got a string"),
    "no exchange": ({"t": 0, "dir": "end"}, "x: missing"),
    "an exchange that is a flag": ({**END, "x": True}, "x: expected an integer, got true or false"),
    "no time": ({"x": 1, "dir": "end"}, "t: missing"),
    "a time in words": ({**END, "t": "0.4"}, "t: expected a number, got a string"),
    "a time that is null": ({**END, "t": None}, "t: expected a number, got null"),
    "a time that is a flag": ({**END, "t": True}, "t: expected a number, got true or false"),
    "nothing that happened": ({"x": 1, "t": 0}, "dir: missing"),
    "something else that happened": (
        {**END, "dir": "pause"},
        "dir: expected request, response, data, waited, end, client_closed or failed, got 'pause'",
    ),
    "the same exchange again": (REQUEST, "expected a new exchange with method and path"),
    "a request without a method": (
        {**REQUEST, "x": 2, "method": None},
        "expected a new exchange with method and path",
    ),
    "a request without a path": (
        {**REQUEST, "x": 2, "path": None},
        "expected a new exchange with method and path",
    ),
    "an unknown exchange": ({**END, "x": 2}, "exchange 2 has no request before this"),
    "no status": ({**RESPONSE, "status": None}, "status: missing"),
    "a status in words": ({**RESPONSE, "status": "200"}, "status: expected an integer, got a string"),
    "headers that are an object": ({**RESPONSE, "headers": {}}, "headers: expected an array, got an object"),
    "a header that is a number": (
        {**RESPONSE, "headers": [["a", "b"], ["c", 5]]},
        "headers[1][1]: expected a string, got an integer",
    ),
    "a header without a value": ({**RESPONSE, "headers": [["a"]]}, "headers"),
    "a header with two values": ({**RESPONSE, "headers": [["a", "b", "c"]]}, "headers"),
    "data of nothing": ({**DATA, "text": None}, "expected text or b64"),
    "data that is a number": ({**DATA, "text": 5}, "text: expected a string, got an integer"),
    "base64 that is none": ({**BYTES, "b64": "???"}, "b64: "),
    "base64 cut off": ({**BYTES, "b64": "gqw"}, "b64: "),
    "base64 that is not ASCII": ({**BYTES, "b64": "gä=="}, "b64: "),
}


@pytest.mark.parametrize(("line", "message"), BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_is_named_by_its_number(line: object, message: str) -> None:
    with pytest.raises(RecordingError) as caught:
        read_recording(lines(HEAD, REQUEST, RESPONSE) + b"\n" + lines(line, END))
    assert caught.value.message.startswith(f"line 5: {message}")


def test_data_before_its_response_is_refused() -> None:
    with pytest.raises(RecordingError, match="line 3: data of exchange 1 before its response"):
        read(REQUEST, DATA)


def test_a_long_word_is_cut_in_the_message() -> None:
    with pytest.raises(RecordingError) as caught:
        read(REQUEST, {**END, "dir": "x" * 5000})
    assert len(caught.value.message) < 200


@given(
    st.binary()
    | st.lists(JSON, max_size=3).map(lambda items: lines(HEAD, *items))
    | spoiled([HEAD, REQUEST, RESPONSE, DATA, BYTES, END]).map(
        lambda items: lines(*items) if isinstance(items, list) else orjson.dumps(items)
    )
)
def test_any_bytes_give_a_recording_or_an_error_that_names_the_line(data: bytes) -> None:
    try:
        found: Any = read_recording(data)
    except RecordingError as error:
        assert error.message.startswith("line ")
    else:
        assert isinstance(found, Recording)


# --- Version 2 ------------------------------------------------------------------------------------------------

HEAD_2 = {
    **HEAD,
    "v": 2,
    "token": "0123abcd",
    "created": 5,
    "policies": {"reasoning": "off"},
    "text": "drop",
}
CLIENT = {**REQUEST, "x": 0, "headers": [["Host", "x"]]}
#: What was heard was not looked up then, and there were six headers.
EARLIER: dict[str, Any] = {"lookback_count": 0, "chat_key_headers": Config().chat_key_headers[:6]}


def test_exchange_0_is_the_clients_own() -> None:
    found = read_recording(lines(HEAD_2, CLIENT, REQUEST, END))
    assert found.client is not None
    assert found.client.request.headers == (("host", "x"),)
    assert [exchange.x for exchange in found.exchanges] == [1]
    assert (found.head.token, found.head.created) == ("0123abcd", 5)
    assert found.head.config == Config(reasoning_field=ReasoningField.OFF, finds_runs=False, **EARLIER)


def test_a_failure_says_how_and_why() -> None:
    failed = {**END, "dir": "failed", "failure": "broken", "reason": "connection reset"}
    [exchange] = read_recording(lines(HEAD_2, REQUEST, failed)).exchanges
    assert (exchange.failure, exchange.reason) == ("broken", "connection reset")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"text": "nonsense"}, "text: expected one of keep, hash, drop"),
        ({"policies": {"tasks": "nonsense"}}, "policies.tasks: expected one of isolate, pass, refuse"),
        ({"policies": {"tasks": "ISOLATE"}}, "policies.tasks: expected one of isolate, pass, refuse"),
        ({"policies": {"tasks": 1}}, "policies[tasks]: expected a string, got an integer"),
        ({"policies": ["tasks"]}, "policies: expected an object, got an array"),
    ],
)
def test_heads_with_unknown_words_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(RecordingError, match=re.escape(f"line 1: {message}")):
        read_recording(lines({**HEAD_2, **wrong}))


def test_a_policy_of_a_later_version_is_left_out() -> None:
    policies = {"of-a-later-version": "x", "tasks": "pass"}
    config = read_recording(lines({**HEAD_2, "policies": policies})).head.config
    assert config == Config(tasks=TaskPolicy.PASS, **EARLIER)


def test_a_wait_is_kept_with_its_line() -> None:
    wait = {"x": 0, "t": 15.0, "dir": "waited"}
    client = read_recording(lines(HEAD_2, CLIENT, REQUEST, wait)).client
    assert client is not None
    assert client.waits == (RecordedWait(t=15.0, line=4),)


def test_the_limits_and_policies_of_then_are_those_of_the_replay() -> None:
    policies: dict[str, Any] = {policy.field: policy.values[-1] for policy in POLICIES.values()}
    then = Config(keepalive_timeout=2.5, max_fragment_size=100, **policies)
    head = RecordingHead.begin(
        server="x",
        scenario="x",
        note="",
        token="x",
        created=1,
        config=then,
        initial=RecordedState(),
        text=TextMode.KEEP,
    )
    assert read_recording(lines(asdict(head))).head.config == then


def test_limits_that_are_missing_are_those_of_today() -> None:
    limits = {"max_event_size": 5, "of_a_later_version": 1}
    config = read_recording(lines({**HEAD, "limits": limits})).head.config
    assert config == Config(max_event_size=5, **EARLIER)


def test_all_that_an_answer_depends_on_is_in_the_head() -> None:
    policies = {policy.field for policy in POLICIES.values()}
    options = {field.name for field in fields(RecordedOptions)}
    elsewhere = {"task_prompts"}  # of texts that need not be there
    of_several_requests = {
        "agent_ttl",
        "max_remembered_agent_count",
        "max_queue_count",
        "pending_call_timeout",
        "cancelled_run_timeout",
        "repeat_ttl",
        "max_kept_answer_size",
        "max_unread_size",
        "repeat_wait_timeout",
        "joins_repeats",
        "max_remembered_thread_count",
    }
    assert {*LIMITS, *policies, *options, *elsewhere, *of_several_requests} == {
        field.name for field in fields(Config)
    }


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_fragment_size": 3}, "limits: 'max_fragment_size' must be >= 64: 3"),
        ({"keepalive_timeout": "soon"}, "limits"),
        ([], "limits: expected an object, got an array"),
    ],
)
def test_limits_that_are_none_are_refused(limits: object, message: str) -> None:
    with pytest.raises(RecordingError) as caught:
        read_recording(lines({**HEAD_2, "limits": limits}))
    assert caught.value.message.startswith(f"line 1: {message}")


def test_a_crash_leaves_all_but_the_line_under_way() -> None:
    whole = lines(HEAD_2, CLIENT, REQUEST, RESPONSE, DATA)
    for at in range(whole.index(b"\n") + 1, len(whole)):
        found = read_recording(whole[:at])
        partial = whole[:at].rpartition(b"\n")[2]
        if found.cut_line is not None:
            assert found.cut_line == whole[:at].count(b"\n") + 1
            assert partial


def test_a_line_cut_by_hand_in_the_middle_is_an_error() -> None:
    with pytest.raises(RecordingError, match="line 2"):
        read_recording(lines(HEAD_2) + b'{"x": 0, "t"\n' + lines(END))
