"""Frames that are missing, doubled, spoiled or come at the wrong time: none disturbs more than its own turn."""

from typing import Any, Final

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sansio_letta import Config
from sansio_letta.errors import RemoteProtocolError
from sansio_letta.upstreams.app_server import messages as listed
from sansio_letta.upstreams.app_server.connection import (
    ANSWER_TIMEOUT,
    MAX_WAITING_SIZE,
    AppServerConnection,
)
from sansio_letta.upstreams.app_server.conversation import ConversationState
from sansio_letta.upstreams.app_server.frames import BadFrame, read_frame
from sansio_letta.upstreams.app_server.sockets import Channel, SendFrame
from support import JSON, spoiled

from .fake_server import AGENT_ID, FakeAppServer
from .wire import Client, Json, Wire, user


def running(text: str = "say Hello!\nsay  Bye.") -> tuple[Wire, Client]:
    """A turn whose model has yet to speak."""
    wire = Wire()
    wire.server.pause = True
    client = wire.begin(user(text))
    assert not client.is_over
    return wire, client


def speak(wire: Wire) -> list[tuple[Channel, Json]]:
    """Have the model speak, and return the frames instead of sending them."""
    wire.server.go_on()
    frames = list(wire.server.outbox)
    wire.server.outbox.clear()
    return frames


def is_delta(frame: Json, kind: str) -> bool:
    return bool(frame["type"] == "stream_delta" and frame["delta"]["message_type"] == kind)


# --- Frames that are missing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [0, 1])
def test_the_rest_is_read_later_if_a_piece_is_missing(index: int) -> None:
    wire, client = running()
    frames = speak(wire)
    texts = [item for item in frames if item[0] is Channel.WORK and is_delta(item[1], "assistant_message")]
    wire.server.outbox = [item for item in frames if item is not texts[index]]
    wire.carry()
    wire.wait(1.0)
    assert client.message["content"] == "Hello! Bye."
    assert wire.connection.gap_count


def test_the_end_is_found_if_it_is_missing() -> None:
    wire, client = running()
    frames = speak(wire)
    wire.server.outbox = [item for item in frames if item[1]["type"] != "turn_finished"]
    [talk] = wire.server.talks.values()
    wire.server._loop(talk)
    wire.carry()
    wire.wait(1.0)
    assert client.message["content"] == "Hello! Bye."
    assert not wire.connection.has_busy


def test_the_other_socket_had_it() -> None:
    """What was told to both while the working socket did not deliver any more is not known to be lost."""
    wire, client = running()
    frames = speak(wire)
    wire.server.outbox = [item for item in frames if item[0] is Channel.GUARD]
    wire.carry()
    assert not client.is_over
    wire.lose(Channel.WORK)
    wire.wait(2.0)
    assert client.message["content"] == "Hello! Bye."
    assert not wire.connection.has_busy


def test_a_socket_that_was_opened_again_follows_what_runs() -> None:
    wire, client = running()
    wire.lose(Channel.WORK)
    wire.wait(2.0)
    assert wire.connection.is_open(Channel.WORK)
    wire.server.go_on()
    wire.carry()
    assert client.message["content"] == "Hello! Bye."
    assert wire.connection.gap_count == 0


def test_skipped_frames_are_counted() -> None:
    wire, client = running()
    [talk] = wire.server.talks.values()
    for _ in range(3):
        wire.server._tell(talk, {"type": "update_device_status", "device_status": {}})
    wire.server.go_on()
    wire.carry()
    assert client.message["content"] == "Hello! Bye."
    assert wire.connection.gap_count == 0


def test_a_frame_that_cannot_be_read_is_lost_for_its_conversation_alone() -> None:
    wire, client = running()
    other = wire.begin(user("say Other."), key="k2")
    talks = list(wire.server.talks.values())
    wire.server._delta(talks[0], "assistant_message", content=None)
    wire.carry()
    assert wire.connection.gap_count == 1
    wire.server.go_on()
    wire.carry()
    assert other.message["content"] == "Other."
    wire.wait(1.0)
    assert client.message["content"] == "Hello! Bye."


# --- A client that reads slowly -------------------------------------------------------------------------------


def test_a_reply_that_the_client_does_not_read_is_read_later() -> None:
    wire = Wire(config=Config(max_unread_size=10_000))
    wire.server.pause = True
    text = "".join(f"{number}," for number in range(200))
    client = wire.begin(user("\n".join(f"say {number}," for number in range(200))), stream=True)
    for channel, frame in speak(wire):
        wire.connection.receive_frame(channel, orjson.dumps(frame), wire.now)
    wire.carry()
    wire.wait(1.0)
    assert client.is_over
    chunks = [orjson.loads(line[6:]) for line in client.body.split(b"\n") if line.startswith(b"data: {")]
    said = [chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"]]
    assert "".join(said) == text
    assert client.cycle.summary.resume_count == 1


def test_a_reply_that_the_client_reads_may_be_longer() -> None:
    wire = Wire(config=Config(max_unread_size=10_000))
    wire.server.pause = True
    client = wire.begin(user("\n".join(f"say {number}," for number in range(200))))
    for channel, frame in speak(wire):
        wire.connection.receive_frame(channel, orjson.dumps(frame), wire.now)
        wire.carry()
    assert client.message["content"].endswith("199,")
    assert client.cycle.summary.resume_count == 0


# --- What is shown --------------------------------------------------------------------------------------------

KEY: Final = "sk-0123456789abcdef"


@pytest.mark.parametrize("kind", ["agent_list", "conversation_list", "runtime_start", "input"])
def test_a_refusal_is_shown_in_part_and_without_a_key(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(server: FakeAppServer, channel: Channel, frame: Json) -> None:
        server._refuse(channel, frame, f"no: {KEY} {'x' * 100_000}")

    monkeypatch.setattr(FakeAppServer, f"_{kind}", refuse)
    answer = Wire().ask(user("say Hello!"))
    assert answer.status == 502
    assert f"refused {kind}: no: ... x" in answer.json["error"]["message"]
    assert len(answer.body) < 2000


def test_a_failure_is_shown_in_part_and_without_a_key() -> None:
    wire, client = running()
    [talk] = wire.server.talks.values()
    wire.server._delta(talk, "error_message", error_type="x" * 10_000, message=f"401: {KEY} {'y' * 10_000}")
    wire.server._finish(talk, "error", error="{}")
    wire.carry()
    message = client.json["error"]["message"]
    assert "401: ... y" in message
    assert len(message) < 1000


# --- Any frame at any time ------------------------------------------------------------------------------------

DELTAS: Final[dict[str, Json]] = {
    "assistant_message": {"id": "m", "content": [{"type": "text", "text": "x"}]},
    "reasoning_message": {"id": "m", "reasoning": "x"},
    "approval_request_message": {"tool_call": {"tool_call_id": "c", "name": "f", "arguments": "{}"}},
    "approval_classification_end": {"user_input_tool_call_ids": ["c"], "auto_allowed_tool_call_ids": []},
    "tool_return_message": {"tool_call_id": "c", "status": "success", "tool_return": "x"},
    "usage_statistics": {"prompt_tokens": 1, "cached_input_tokens": 1, "completion_tokens": 1},
    "stop_reason": {"stop_reason": "end_turn"},
    "error_message": {"error_type": "llm_error", "message": '429: {"error":{"message":"x"}}'},
    "event_message": {"event_type": "retry"},
    "retry": {"reason": "x"},
}
RUNTIME: Final[Json] = {"agent_id": AGENT_ID, "conversation_id": "local-conv-1"}
CALL: Final[Json] = {"subtype": "can_use_tool", "tool_name": "f", "tool_call_id": "c", "input": {}}
CARRY_OUT: Final[Json] = {
    "type": "external_tool_call_request",
    "request_id": "e",
    "tool_call_id": "c",
    "tool_name": "f",
    "runtime": RUNTIME,
}
FRAMES: Final[list[Json]] = [
    *(
        {"type": "stream_delta", "delta": {"message_type": kind, "run_id": "r", "seq_id": 1, **body}}
        for kind, body in DELTAS.items()
    ),
    {"type": "turn_finished", "turn_id": "t", "stop_reason": "end_turn", "error": None},
    {"type": "turn_finished", "turn_id": "t", "stop_reason": "error", "error": '{"message":"x"}'},
    {"type": "control_request", "request_id": "perm-c", "request": CALL},
    {"type": "external_tool_call_request", "request_id": "e", "tool_call_id": "c", "tool_name": "f"},
    {"type": "update_loop_status", "loop_status": {"status": "WAITING_ON_INPUT"}},
    {"type": "update_queue", "queue": [{"id": "q", "client_message_id": "m"}]},
    {"type": "update_device_status", "device_status": {"memory_directory": "/m"}},
    {"type": "input_accepted", "request_id": "lp-1", "accepted": True},
    {"type": "sync_response", "request_id": "lp-2", "success": False, "error": "x"},
]


@st.composite
def frames(draw: st.DrawFn) -> Any:
    frame = {**draw(st.sampled_from(FRAMES)), "runtime": RUNTIME, "event_seq": draw(st.integers(0, 40))}
    return draw(st.just(frame) | spoiled(frame))


@given(received=st.lists(st.tuples(st.sampled_from(Channel), frames() | JSON), max_size=12))
# A call that was looked up has no turn any more when it is to be answered.
@example(received=[(Channel.WORK, None), (Channel.WORK, None), (Channel.WORK, CARRY_OUT)])
def test_no_frame_disturbs_another_conversation_or_loses_an_end(received: list[tuple[Channel, Any]]) -> None:
    wire, client = running()
    for channel, frame in received:
        wire.connection.receive_frame(channel, orjson.dumps(frame), wire.now)
        wire.carry()
    wire.server.go_on()
    wire.carry()
    for _ in range(8):
        wire.wait(ANSWER_TIMEOUT / 4)
    assert client.is_over
    assert client.status is not None
    assert wire.connection.conversation(AGENT_ID, "local-conv-1").state is not ConversationState.RUNNING
    # A frame may have named this conversation, which was never used before.
    wire.server.pause = False
    assert wire.ask(user("say Other."), key="k2").message["content"] == "Other."


@given(data=st.binary(max_size=40) | st.sampled_from([b"[" * 5000, b'{"type":"\\ud800"}', b"{}", b"1", b""]))
def test_no_bytes_raise(data: bytes) -> None:
    wire, _ = running()
    for channel in Channel:
        wire.connection.receive_frame(channel, data, wire.now)
    assert isinstance(read_frame(data)[0], BadFrame)


@given(answer=spoiled({"messages": [{"message_type": kind, **body} for kind, body in DELTAS.items()]}))
def test_any_list_of_messages(answer: Any) -> None:
    if not isinstance(answer, dict):
        return
    try:
        found = listed.read_listed(answer)
    except RemoteProtocolError as error:
        assert "messages: expected an array" in error.message
        return
    listed.waiting_calls(found)
    listed.to_heard(found, "c", is_whole=True)


KINDS: Final = ("agent_list", "conversation_list", "conversation_create")


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_without_its_field_is_an_error_that_names_it(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeAppServer, f"_{kind}", FakeAppServer._answer)
    wire = Wire()
    answer = wire.ask(user("say Hello!"))
    assert answer.status == 502
    assert "is invalid: " in answer.json["error"]["message"]
    assert ": expected " in answer.json["error"]["message"]


# --- Questions ------------------------------------------------------------------------------------------------


def sent(connection: AppServerConnection, now: float) -> list[SendFrame]:
    found = []
    while isinstance(command := connection.next_command(now), SendFrame):
        found.append(command)
    return found


def test_a_deadline_counts_from_when_the_question_is_sent() -> None:
    """The time that the connection knows when it is asked is that of the last frame, perhaps long ago."""
    connection = AppServerConnection()
    connection.ask("app_server_info", {})
    connection.next_command(0.0)
    connection.socket_opened(Channel.WORK, 0.0)
    assert len(sent(connection, 0.0)) == 1
    connection.handle_deadline(ANSWER_TIMEOUT)
    request = connection.ask("app_server_info", {})
    now = 1000.0
    assert len(sent(connection, now)) == 1
    assert connection.next_deadline() == now + ANSWER_TIMEOUT
    connection.handle_deadline(now + ANSWER_TIMEOUT - 1)
    assert not request.is_done
    connection.handle_deadline(now + ANSWER_TIMEOUT)
    assert request.error is not None
    assert request.error.message == "The App Server did not answer app_server_info within 30 seconds."


def test_what_waits_for_a_socket_is_bounded() -> None:
    connection = AppServerConnection()
    text = "x" * (MAX_WAITING_SIZE // 2)
    requests = [connection.ask("input", {"text": text}) for _ in range(3)]
    assert [request.error is not None for request in requests] == [False, True, True]
    connection.socket_lost(Channel.WORK, "connection refused", 1.0)
    assert requests[0].error is not None
    assert not connection.ask("input", {"text": text}).is_done


def test_idle_conversations_are_forgotten() -> None:
    connection = AppServerConnection()
    first = connection.conversation(AGENT_ID, "local-conv-0")
    busy = connection.conversation(AGENT_ID, "local-conv-1")
    busy.begin(None)
    for number in range(2, 2000):
        connection.conversation(AGENT_ID, f"local-conv-{number}")
    assert connection.conversation(AGENT_ID, "local-conv-1") is busy
    assert connection.conversation(AGENT_ID, "local-conv-0") is not first
    # Another that a turn still holds is known again once it runs.
    first.begin(None)
    assert connection.conversation(AGENT_ID, "local-conv-0") is first
