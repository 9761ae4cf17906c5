"""A recorded client's request with today's code, and how a different response is reported."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import pytest
from attrs import evolve

from drive import (
    AGENT_ID,
    DONE,
    JSON,
    PING,
    RUN_ID,
    SSE,
    USAGE,
    WEATHER,
    agent_json,
    encode,
    error,
    say,
    stop,
    think,
    want,
)
from recordings import recording as fixture
from sansio_letta import (
    Background,
    Caller,
    Config,
    Enforcement,
    HttpRequest,
    Proxy,
    ReasoningField,
    ResponseBody,
    Signal,
)
from sansio_letta.config import TaskPolicy
from sansio_letta.errors import Failure
from sansio_letta.recording.compare import compare
from sansio_letta.recording.format import Recording, RecordingError, TextMode
from sansio_letta.recording.player import play_client
from sansio_letta.recording.reader import read_recording
from sansio_letta.recording.writer import Recorder
from sansio_letta.turn.agent import ANYONE, Agent
from sansio_letta.turn.events import ConversationThread
from sansio_letta.turn.request import Chat
from sansio_letta.upstreams.rest.commands import Command, OpenStream, ResumeRun
from sansio_letta.upstreams.thread_names import chat_summary

#: How Letta answers: seconds, then bytes, a failure, or that the client leaves.
Happening = tuple[float, bytes | Failure | str | None]
LEAVES = None
ENDS = "the proxy ends"
TOKEN = "0123456789"


def chat(
    *, stream: bool = True, model: str = "Milo", headers: Mapping[str, str] | None = None, **more: Any
) -> HttpRequest:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": stream, **more}
    return HttpRequest(
        method="POST",
        target="/v1/chat/completions",
        body=orjson.dumps(body),
        headers=tuple((headers or {}).items()),
    )


def answers(*values: object) -> list[list[Happening]]:
    """Letta's whole JSON answers."""
    return [[(0.0, orjson.dumps(value)), (0.0, b"")] for value in values]


def run(*pieces: dict[str, Any] | str | Happening, t: float = 0.0) -> list[Happening]:
    """A run's stream, as the last of Letta's answers."""
    return [piece if isinstance(piece, tuple) else (t, encode(piece)) for piece in pieces]


def reply(t: float) -> list[Happening]:
    """A run of which nothing but its first words come before this time."""
    return [*run(PING, say("a")), (t, encode(say("b"))), *run(stop(), DONE, t=t)]


def cancelled(t: float) -> list[Happening]:
    """The run is cancelled."""
    return [(t, b"{}"), (t, b"")]


def recorded(
    request: HttpRequest,
    *letta_answers: Sequence[Happening],
    mode: TextMode = TextMode.KEEP,
    config: Config | None = None,
    known: Agent | None = None,
    thread: str | None = None,
    late: float | None = 0.001,
    caller: Caller = ANYONE,
    has_background: bool = True,
) -> Recording:
    """A request, recorded as a server does it whose Letta answers so.

    :param late: seconds by which a deadline is missed; None: there is no timer, as in-process.
    """
    proxy, lines = Proxy(config or Config()), list[bytes]()
    if known is not None:
        proxy.remember(orjson.loads(request.body)["model"], known, now=0.0)
    if thread is not None:
        proxy.remember_thread(AGENT_ID, Chat(key="c-1"), ConversationThread(conversation_id=thread))
    if not has_background:
        proxy.remember_no_background()
    recorder = Recorder(lines.append, server="x", text=mode, scenario="one", note="")
    cycle = proxy.open(request, token=TOKEN, created=7, now=0.0, caller=caller, observer=recorder)
    waiting, happenings = list(letta_answers), list[Happening]()
    while (item := cycle.next_event()) is not Signal.FINISHED:
        if isinstance(item, Command):
            happenings = list(waiting.pop(0)) if waiting else [(0.0, b"")]
            if happenings and not isinstance(happenings[0][1], Failure):
                is_run = isinstance(item, OpenStream | ResumeRun)
                cycle.receive_response(200, SSE if is_run else JSON, happenings[0][0])
        elif item is Signal.WAITING:
            cycle.handle_deadline(cycle.next_deadline())
        elif item is Signal.NEED_DATA:
            if not happenings:
                break  # a crash
            t, what = happenings[0]
            if late is not None and cycle.next_deadline() < t:
                cycle.handle_deadline(cycle.next_deadline() + late)
                continue
            del happenings[0]
            if what is LEAVES:
                cycle.client_disconnected(t)
            elif isinstance(what, str):
                cycle.shut_down(t)
            elif isinstance(what, Failure):
                cycle.receive_failure(what, "it went wrong", t)
            else:
                cycle.receive_data(what, t)
    return read_recording(b"".join(lines))


AGENT = answers([agent_json()])
STOPS = (stop(), USAGE, DONE)
OBJECT = {"type": "json_object"}
CHECKS = Config(enforcement=Enforcement.VALIDATE)
CALL = want("call-1", "get_weather", "{}")
TOOLS = [{"type": "function", "function": {"name": WEATHER.name, "parameters": WEATHER.parameters}}]

NAMED = {"x-letta-chat-key": "c-1"}
KNOWN = Agent(id=AGENT_ID, name="Milo", agent_type="letta_v1_agent")
CONVERSATION = {"id": "conv-1", "agent_id": AGENT_ID, "summary": chat_summary("c-1")}

SAME: dict[str, Recording] = {
    "text": recorded(chat(), *AGENT, run(PING, say("Hello"), stop(), USAGE, DONE)),
    "whole": recorded(chat(stream=False), *AGENT, run(PING, say("Hello"), stop(), USAGE, DONE)),
    "tools": recorded(chat(tools=TOOLS), *AGENT, run(PING, CALL, stop("requires_approval"), DONE)),
    "a comment": recorded(chat(), *AGENT, reply(40.0)),
    "a comment when Letta speaks": recorded(chat(), *AGENT, reply(15.00002), late=0.0),
    "a comment just before Letta speaks": recorded(chat(), *AGENT, reply(15.00004), late=0.00003),
    "no timer": recorded(chat(), *AGENT, reply(40.0), late=None),
    "no timer, and pings": recorded(
        chat(), *AGENT, [*run(PING, say("a")), *run(PING, t=40.0), *run(PING, stop(), DONE, t=70.0)], late=None
    ),
    "silence to the tick": recorded(
        chat(), *AGENT, run(PING, (200.0, encode(say("b")))), cancelled(120.0), late=0.0
    ),
    "silence before an answer": recorded(chat(), [(0.0, b"["), (200.0, b"]")]),
    "left before what came then": recorded(
        chat(), *AGENT, run((1.0, LEAVES), (1.0, encode(PING) + encode(say("a")))), cancelled(1.0)
    ),
    "other limits": recorded(
        chat(),
        *AGENT,
        [*run(PING, say("0123456789" * 20)), *run(say("b"), t=9.0), *run(say("c"), t=30.0)],
        cancelled(19.0),
        config=Config(keepalive_timeout=4.0, letta_silence_timeout=10.0, max_fragment_size=64),
    ),
    "a limit that was reached": recorded(
        chat(),
        *AGENT,
        run(PING, say("a"), say("x" * 400)),
        cancelled(0.0),
        config=Config(max_event_size=300),
    ),
    "silence": recorded(chat(), *AGENT, run(PING, (200.0, encode(say("b")))), cancelled(120.002)),
    "left": recorded(chat(), *AGENT, run(PING, say("a"), (2.0, LEAVES), t=1.0), cancelled(2.0)),
    "interrupted": recorded(chat(), *AGENT, run(PING, say("a"), (2.0, ENDS), t=1.0), cancelled(2.0)),
    "interrupted early": recorded(chat(), *AGENT, run(PING, (2.0, ENDS), t=1.0), cancelled(2.0)),
    "interrupted while finding": recorded(chat(), [(1.0, ENDS)]),
    "a chat that is new": recorded(
        chat(headers=NAMED),
        *AGENT,
        *answers([], [], CONVERSATION, [CONVERSATION]),
        run(PING, say("a"), stop(), DONE),
    ),
    "a chat that is known at Letta": recorded(
        chat(headers=NAMED), *AGENT, *answers([CONVERSATION], []), run(PING, say("a"), stop(), DONE)
    ),
    "a chat that is known": recorded(
        chat(headers=NAMED), run(PING, say("a"), stop(), DONE), known=KNOWN, thread="conv-1"
    ),
    "a known chat of an agent that is not": recorded(
        chat(headers=NAMED), *AGENT, run(PING, say("a"), stop(), DONE), thread="conv-1"
    ),
    "a task": recorded(
        chat(headers={"x-openwebui-task": "tags"}),
        *AGENT,
        *answers(CONVERSATION),
        run(PING, say("a"), stop(), DONE),
        *answers(None),
    ),
    "left at once": recorded(chat(), [(0.0, LEAVES)]),
    "refused": recorded(chat(), [(1.0, Failure.NOT_SENT)]),
    "broken": recorded(chat(), *AGENT, run(PING, say("a"), (3.0, Failure.BROKEN)), cancelled(3.0)),
    "no agent": recorded(chat(), *answers([])),
    "models": recorded(HttpRequest(method="GET", target="/v1/models"), *answers([agent_json()])),
    "health": recorded(HttpRequest(method="GET", target="/health")),
    "nowhere": recorded(HttpRequest(method="GET", target="/v2/x")),
    "no JSON": recorded(HttpRequest(method="POST", target="/v1/chat/completions", body=b"{")),
    "remembered": recorded(
        chat(),
        run(PING, say("a"), stop(), DONE),
        known=Agent(id=AGENT_ID, name="Milo", agent_type="letta_v1_agent"),
    ),
    "by id": recorded(chat(model=AGENT_ID), *answers(agent_json()), run(PING, say("a"), stop(), DONE)),
    "by id, remembered": recorded(
        chat(model=AGENT_ID),
        run(PING, say("a"), stop(), DONE),
        known=Agent(id=AGENT_ID, name="Milo", agent_type="letta_v1_agent"),
    ),
    "a policy of the request": recorded(
        chat(headers={"x-letta-policy-reasoning": "off", "x-letta-policy-background": "always"}),
        *AGENT,
        run(PING, think("hm"), say("a"), stop(), DONE),
    ),
    "a policy that the server does not let go": recorded(
        chat(headers={"x-letta-policy-background": "always"}), config=Config(background=Background.NEVER)
    ),
    "no background where Letta has none": recorded(
        chat(headers={"x-letta-policy-background": "always"}),
        *AGENT,
        run(PING, say("a"), (3.0, Failure.BROKEN)),
        cancelled(3.0),
        has_background=False,
    ),
    "policies of the key": recorded(
        chat(headers={"x-openwebui-task": "tags"}),
        *AGENT,
        run(PING, think("hm"), say("a"), stop(), DONE),
        caller=Caller(policies={"tasks": TaskPolicy.PASS, "reasoning_field": ReasoningField.OFF}),
    ),
    "a task that the key refuses": recorded(
        chat(headers={"x-openwebui-task": "tags", "x-letta-policy-tasks": "refuse"}),
        caller=Caller(policies={"tasks": TaskPolicy.REFUSE}),
    ),
    "reasoning elsewhere": recorded(
        chat(),
        *AGENT,
        run(PING, think("hm"), say("a"), stop(), DONE),
        config=Config(reasoning_field=ReasoningField.REASONING),
    ),
    "checked": recorded(chat(response_format=OBJECT), *AGENT, run(PING, say("{}"), *STOPS), config=CHECKS),
    "checked, and asked again": recorded(
        chat(response_format=OBJECT, stream=False),
        *AGENT,
        run(PING, say("a"), *STOPS),
        run(PING, say("```\n{}\n```"), *STOPS),
        config=CHECKS,
    ),
    "checked, and wrong": recorded(
        chat(response_format=OBJECT, stream=False),
        *AGENT,
        run(PING, say("a"), *STOPS),
        run(PING, say("b"), *STOPS),
        config=CHECKS,
    ),
    "a wish that was ignored": recorded(
        chat(response_format=OBJECT),
        *AGENT,
        run(PING, say("a"), *STOPS),
        config=Config(enforcement=Enforcement.IGNORE),
    ),
    "a wish that was refused": recorded(
        chat(response_format=OBJECT), config=Config(enforcement=Enforcement.REFUSE)
    ),
    "a stop sequence": recorded(chat(stop="END"), *AGENT, run(PING, say("a E"), say("ND b"), *STOPS)),
    "one call of two": recorded(
        chat(tools=TOOLS, parallel_tool_calls=False),
        *AGENT,
        run(PING, CALL, want("call-2", "get_weather", "{}"), stop("requires_approval"), USAGE, DONE),
    ),
}


@pytest.mark.parametrize("recording", SAME.values(), ids=SAME)
def test_today_is_as_it_was(recording: Recording) -> None:
    compared = compare(recording)
    assert list(compared.lines()) == []
    assert compared.same


@pytest.mark.parametrize("mode", TextMode)
@pytest.mark.parametrize("stream", [True, False])
def test_in_every_mode(mode: TextMode, stream: bool) -> None:
    texts = [say("one"), say(" two\n"), say("\n\nthree", id="message-9")]
    recording = recorded(chat(stream=stream), *AGENT, run(PING, *texts, stop(), USAGE, DONE), mode=mode)
    assert compare(recording).same
    failed = recorded(chat(stream=stream), *AGENT, run(PING, *texts, stop("error"), error(), DONE), mode=mode)
    assert compare(failed).same


@pytest.mark.parametrize("mode", [TextMode.HASH, TextMode.DROP])
def test_a_reply_that_was_checked_needs_its_text(mode: TextMode) -> None:
    recording = recorded(
        chat(response_format=OBJECT), *AGENT, run(PING, say("{}"), *STOPS), mode=mode, config=CHECKS
    )
    with pytest.raises(
        RecordingError, match=r"^one: its reply was validated .* record with --record-text keep$"
    ):
        compare(recording)
    searched = recorded(chat(stop="}"), *AGENT, run(PING, say("{}"), *STOPS), mode=mode)
    with pytest.raises(RecordingError, match=r"^one: its text was searched .* record with --record-text keep$"):
        compare(searched)
    unchecked = recorded(chat(), *AGENT, run(PING, say("{}"), *STOPS), mode=mode, config=CHECKS)
    assert compare(unchecked).same


def test_what_came_when() -> None:
    recording = recorded(
        chat(), *AGENT, run((1.0, encode(PING)), (2.0, encode(say("a"))), (3.0, LEAVES)), cancelled(3.0)
    )
    items = list(play_client(recording))
    assert [item.t for item in items if isinstance(item.seen, ResponseBody)][-1] == 2.0
    assert items[-1].t == 3.0


@pytest.mark.parametrize(
    ("name", "comment_count"),
    [
        ("a comment", 2),
        ("a comment when Letta speaks", 1),
        ("a comment just before Letta speaks", 1),
        ("no timer", 0),
        ("no timer, and pings", 2),
    ],
)
@pytest.mark.parametrize("mode", TextMode)
def test_comments_come_where_they_came(name: str, comment_count: int, mode: TextMode) -> None:
    recording = evolve(SAME[name], head=evolve(SAME[name].head, text=mode.value))
    body = b"".join(found.seen.data for found in play_client(recording) if isinstance(found.seen, ResponseBody))
    assert body.count(b": keepalive\n\n") == comment_count
    assert recording.client is not None
    assert body == recording.client.body


def test_a_comment_for_a_client_that_gets_no_stream_today_is_none() -> None:
    recording = SAME["a comment"]
    client = recording.client
    assert client is not None
    asked = evolve(client.request, json={**client.request.json, "stream": False})
    items = [found.seen for found in play_client(evolve(recording, client=evolve(client, request=asked)))]
    assert b"".join(item.data for item in items if isinstance(item, ResponseBody)).startswith(b"{")


def test_a_recording_that_breaks_off_ends_as_a_broken_connection() -> None:
    recording = recorded(chat(), *AGENT, run(PING, say("a")))
    assert recording.client is not None
    assert recording.client.end is None
    compared = compare(recording)
    assert not compared.same
    assert compared.unanswered is not None
    assert list(compared.lines())[-1] == (f"+ requests: GET /v1/runs/{RUN_ID}, which was not recorded")


def test_an_answer_that_is_another_now() -> None:
    recording = SAME["text"]
    assert recording.client is not None
    before = evolve(recording.client.data[1], data=recording.client.data[1].data.replace(b"Hello", b"Hallo"))
    data = (recording.client.data[0], before, *recording.client.data[2:])
    compared = compare(evolve(recording, client=evolve(recording.client, data=data, status=201)))
    assert not compared.same
    lines = list(compared.lines())
    assert lines[:2] == ["--- recorded", "+++ today"]
    assert any(line.startswith("-") and "Hallo" in line for line in lines)
    assert any(line.startswith("+") and "Hello" in line for line in lines)
    assert "-status 201" in lines


def test_a_question_that_was_not_asked_then() -> None:
    recording = SAME["text"]
    replayed = play_client(evolve(recording, exchanges=recording.exchanges[:1]))
    assert isinstance(list(replayed)[-1].seen, Command)
    assert replayed.unanswered is not None
    assert replayed.unanswered.method == "POST"


def test_a_failure_of_an_unknown_kind_is_a_broken_connection() -> None:
    recording = SAME["broken"]
    exchanges = tuple(
        evolve(exchange, failure="odd") if exchange.failure else exchange for exchange in recording.exchanges
    )
    assert compare(evolve(recording, exchanges=exchanges)).same


@pytest.mark.parametrize("path", ["/v1", "/v1/agents/nobody/messages/stream"])
def test_a_first_question_that_names_no_agent(path: str) -> None:
    recording = SAME["remembered"]
    [only] = recording.exchanges
    other = evolve(only, request=evolve(only.request, path=path))
    assert compare(evolve(recording, exchanges=(other,))).unanswered is not None


def test_a_recording_without_a_client() -> None:
    with pytest.raises(RecordingError, match=r"^text: a recording without a client"):
        compare(fixture("text"))


# --- Two recordings -------------------------------------------------------------------------------------------


def test_two_that_say_the_same_in_other_pieces() -> None:
    whole: list[Any] = [say("Hello Sam"), CALL, stop("requires_approval"), DONE]
    cut: list[Any] = [
        say("Hello"),
        say(" Sam"),
        want("call-1", "get_weather", "{"),
        want("call-1", None, "}"),
        *whole[2:],
    ]
    first, second = (recorded(chat(tools=TOOLS), *AGENT, run(PING, *pieces)) for pieces in (whole, cut))
    assert compare(first, second).same
    collected = recorded(chat(tools=TOOLS, stream=False), *AGENT, run(PING, *cut))
    assert compare(collected, collected).same


@pytest.mark.parametrize(
    ("pieces", "line"),
    [
        ([say("Hallo"), stop(), DONE], "+text: Hallo"),
        ([think("hm"), say("Hello"), stop(), DONE], "+reasoning: hm"),
        ([say("Hello"), stop("max_steps"), DONE], "+outcome: length"),
        ([stop("error"), error(), DONE], "+outcome: upstream_error"),
    ],
)
def test_two_that_say_something_else(pieces: list[Any], line: str) -> None:
    first = recorded(chat(), *AGENT, run(PING, say("Hello"), stop(), DONE))
    second = recorded(chat(), *AGENT, run(PING, *pieces))
    compared = compare(first, second)
    assert not compared.same
    assert line in compared.lines()


def test_two_of_which_one_fails_in_the_middle() -> None:
    first = recorded(chat(), *AGENT, run(PING, say("Hello"), stop(), DONE))
    second = recorded(chat(), *AGENT, run(PING, say("Hello"), stop("error"), error(), DONE))
    assert any(line.startswith("+outcome: ") for line in compare(first, second).lines())


def test_two_that_do_not_belong_together() -> None:
    kept, dropped = (
        recorded(chat(), *AGENT, run(PING, stop(), DONE), mode=mode) for mode in (TextMode.KEEP, TextMode.DROP)
    )
    with pytest.raises(RecordingError, match=r"^text: keep in one recording and drop in the other$"):
        compare(kept, dropped)
    with pytest.raises(RecordingError, match="without a client"):
        compare(kept, fixture("text"))
