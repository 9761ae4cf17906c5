"""Recordings replayed with today's turn."""

import orjson
from attrs import evolve

from drive import DONE, JSON, PING, SSE, USAGE, agent_json, encode, say, stop
from recordings import recording, translate
from sansio_letta import HttpRequest, Proxy, Recording, Signal, read_recording
from sansio_letta.recording.format import RecordedExchange, TextMode
from sansio_letta.recording.player import Player, play
from sansio_letta.recording.replay import render
from sansio_letta.recording.requests import pending_after, run_turn_request
from sansio_letta.recording.writer import Recorder
from sansio_letta.turn.events import Event, TurnFailed
from sansio_letta.turn.request import Decision
from sansio_letta.upstreams.rest.commands import CancelRun, Command, FetchAgent, FetchRun, OpenStream


def exchange(scenario: str, x: int) -> RecordedExchange:
    return next(item for item in recording(scenario).exchanges if item.x == x)


def items(player: Player) -> list[Event | Command]:
    """The events of the turn, and its commands."""
    return [played.seen for played in player if isinstance(played.seen, Event | Command)]


def test_questions_of_a_turn_are_answered_from_the_recording() -> None:
    conflicted = list(play(recording("pending_conflict")))[1]
    commands = [type(item.seen) for item in conflicted if isinstance(item.seen, OpenStream | FetchAgent)]
    assert commands == [OpenStream, FetchAgent, OpenStream]
    assert isinstance(conflicted.unanswered, OpenStream)


def test_client_that_left_is_replayed_as_one() -> None:
    (turn,) = play(recording("disconnect"))
    assert isinstance(items(turn)[-1], CancelRun)
    assert turn.unanswered is None


def test_times_are_those_of_the_recording() -> None:
    times = [rendered.t for rendered in render(recording("text"))]
    assert times == sorted(times)
    assert times[-1] > 0.4


def test_recording_that_broke_off() -> None:
    whole = recording("text")
    (only,) = whole.exchanges
    broken = evolve(only, data=only.data[:3], end="failed")
    (turn,) = play(evolve(whole, exchanges=(broken,)))
    assert isinstance(items(turn)[-1], FetchRun)
    (cut,) = play(evolve(whole, exchanges=(evolve(broken, end=None, end_t=None),)))
    assert isinstance(items(cut)[-1], FetchRun)
    (silent,) = play(evolve(whole, exchanges=(evolve(broken, status=None),)))
    last = items(silent)[-1]
    assert isinstance(last, TurnFailed)


def test_failure_before_the_first_chunk_shows_its_status() -> None:
    assert b": status 429, not a stream\n\n" in translate(recording("error_llm_429"))
    assert b"x-should-retry: false" in translate(recording("error_llm_401"))


def test_what_is_pending_after_a_turn() -> None:
    pending = pending_after(exchange("parallel_tools", 1))
    assert pending is not None
    assert [(call.name, call.arguments) for call in pending.tool_calls] == [
        ("get_weather", '{"city": "Paris"}'),
        ("read_file", '{"path": "/etc/hosts"}'),
    ]
    assert pending_after(exchange("text", 1)) is None
    nonsense = exchange("text", 1)
    assert pending_after(evolve(nonsense, data=(evolve(nonsense.data[0], data=b"data: x\n\n"),))) is None


def test_plans_are_those_of_the_recorded_requests() -> None:
    denied, pending = run_turn_request(recording("pending_denied"), exchange("pending_denied", 2))
    (denial,) = denied.results
    assert isinstance(denial, Decision)
    assert not denial.approve
    assert pending is not None
    odd = evolve(exchange("text", 1), request=evolve(exchange("text", 1).request, json=None))
    turn_request, nothing = run_turn_request(recording("text"), odd)
    assert (turn_request.messages, nothing) == ((), None)


def test_client_that_left_before_the_run_had_a_name_ends_the_replay() -> None:
    whole = recording("disconnect")
    first = whole.exchanges[0]
    (turn,) = play(evolve(whole, exchanges=(evolve(first, data=()),)))
    assert list(map(type, items(turn))) == [OpenStream]
    assert turn.unanswered is None


def recorded_client(*, answered: bool = True) -> Recording:
    """A client's request for a reply, recorded."""
    lines: list[bytes] = []
    body = b'{"model": "Milo", "stream": true, "messages": [{"role": "user", "content": "hi"}]}'
    request = HttpRequest(method="POST", target="/v1/chat/completions", body=body)
    recorder = Recorder(lines.append, server="x", text=TextMode.KEEP, scenario="mine")
    recorded = Proxy().open(request, token="0123abcd", created=7, now=0.0, observer=recorder)
    recorded.next_event()
    recorded.receive_response(200, JSON, 0.1)
    recorded.receive_data(orjson.dumps([agent_json()]), 0.1)
    recorded.receive_data(b"", 0.1)
    recorded.next_event()
    if answered:
        recorded.receive_response(200, SSE, 0.2)
        recorded.receive_data(b"".join(encode(item) for item in (PING, say("Hello"), stop(), USAGE, DONE)), 0.3)
        while recorded.next_event() is not Signal.FINISHED:
            pass
    return read_recording(b"".join(lines))


def test_recorded_client_is_rendered_with_what_was_asked() -> None:
    text = translate(recorded_client()).decode()
    found = ": GET /v1/agents/?name=Milo&include=agent.tools"
    assert text.startswith(f": the client of mine\n\n{found}\n\n: POST /v1/agents/")
    assert ": status 200\n\n" in text
    assert '"id":"chatcmpl-0123abcd"' in text
    assert text.endswith("data: [DONE]\n\n")


def test_recorded_client_of_whom_letta_was_not_asked_everything() -> None:
    found = recorded_client(answered=False)
    only_lookup = evolve(found, exchanges=found.exchanges[:1])
    assert translate(only_lookup).endswith(b": the recording has no answer to this\n\n")
