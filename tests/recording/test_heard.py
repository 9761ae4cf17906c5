"""What the proxy remembered of a thread is recorded, so that a replay asks Letta what was asked."""

from typing import Any

import orjson
import pytest
from attrs import evolve

from drive import AGENT, AGENT_ID, DONE, PING, RUN_ID, USAGE, agent_json, say, stop, want
from drive_cycle import Client, chat
from sansio_letta import Proxy
from sansio_letta.proxy.observer import CycleOpened, InitialState, Observation
from sansio_letta.recording.compare import compare
from sansio_letta.recording.format import Recording, TextMode
from sansio_letta.recording.heard import RecordedThread
from sansio_letta.recording.player import play_client
from sansio_letta.recording.reader import read_recording
from sansio_letta.recording.writer import Recorder
from sansio_letta.turn.events import AgentThread
from sansio_letta.turn.ledger import Heard, HeardMessage, Role, ThreadKnowledge
from sansio_letta.turn.request import KnownInstructions, Mark
from sansio_letta.upstreams.rest.commands import FetchMessages, OpenStream
from sansio_letta.upstreams.rest.recovery import EarlierTurn

HELLO = (PING, say("Hello"), stop(), USAGE, DONE)
SYSTEM = ("system", "Be kind.")
THREAD = AgentThread(agent_id=AGENT_ID)


def house() -> Proxy:
    made = Proxy()
    made.remember("Milo", AGENT, now=100.0)
    return made


def ask(proxy: Proxy, *said: tuple[str, str]) -> Client:
    messages = [{"role": role, "content": content} for role, content in said]
    return Client(chat(stream=True, messages=messages), proxy)


def record(proxy: Proxy, mode: TextMode, *said: tuple[str, str], listed: list[Any] | None = None) -> Recording:
    """A turn after others: its recording."""
    lines: list[bytes] = []
    recorder = Recorder(lines.append, server="x", text=mode, scenario="heard", note="")
    messages = [{"role": role, "content": content} for role, content in said]
    request = chat(stream=True, messages=messages)
    client = Client(proxy.open(request, token="abcdef12", created=7, now=110.0, observer=recorder), proxy)
    assert isinstance(client.commands[-1], OpenStream if listed is None else FetchMessages)
    if listed is not None:
        client.answer(listed, now=111.0)
    client.stream(*HELLO, now=112.0)
    assert client.ended
    return read_recording(b"".join(lines))


def told(recording: Recording) -> list[Any]:
    """The contents that the agent is told when the recording is played."""
    [command] = [played.seen for played in play_client(recording) if isinstance(played.seen, OpenStream)]
    return [message["content"] for message in orjson.loads(command.body)["messages"]]


def forgetful(recording: Recording) -> Recording:
    head = recording.head
    return evolve(recording, head=evolve(head, initial=evolve(head.initial, heard=())))


@pytest.mark.parametrize("mode", TextMode)
def test_what_was_heard_is_not_looked_up_in_a_replay(mode: TextMode) -> None:
    proxy = house()
    ask(proxy, SYSTEM, ("user", "one")).stream(*HELLO)
    recording = record(proxy, mode, SYSTEM, ("user", "one"), ("assistant", "Hello"), ("user", "three"))
    assert compare(recording).same
    assert [len(content) for content in told(recording)] == [13 if mode is TextMode.HASH else 5]
    assert isinstance(compare(forgetful(recording)).unanswered, FetchMessages)


@pytest.mark.parametrize("mode", TextMode)
def test_a_result_that_was_sent_is_not_looked_up_in_a_replay(mode: TextMode) -> None:
    proxy, lines = house(), list[bytes]()
    call = {"id": "call-1", "type": "function", "function": {"name": "run", "arguments": "{}"}}
    messages: list[dict[str, Any]] = [{"role": "user", "content": "one"}]
    tools = [{"type": "function", "function": {"name": "run"}}]
    waits = (PING, want("call-1", "run", "{}"), stop("requires_approval"), USAGE, DONE)
    assert Client(chat(messages=messages, tools=tools), proxy).stream(*waits).ended
    messages += [{"role": "assistant", "content": None, "tool_calls": [call]}]
    messages += [{"role": "tool", "tool_call_id": "call-1", "content": "18 C"}]
    brought = Client(chat(messages=messages, tools=tools), proxy, token="bcdefg23")
    assert brought.answer(agent_json("call-1", name="run")).stream(*HELLO).ended
    messages += [{"role": "assistant", "content": "Hello"}, {"role": "user", "content": "two"}]
    recorder = Recorder(lines.append, server="x", text=mode, scenario="heard", note="")
    request = chat(stream=True, messages=messages)
    client = Client(proxy.open(request, token="cdefgh34", created=7, now=110.0, observer=recorder), proxy)
    assert client.stream(*HELLO, now=112.0).ended
    recording = read_recording(b"".join(lines))
    assert compare(recording).same
    [known] = recording.head.initial.heard
    forgets = evolve(recording.head.initial, heard=(evolve(known, results=()),))
    without = evolve(recording, head=evolve(recording.head, initial=forgets))
    assert isinstance(compare(without).unanswered, FetchMessages)


@pytest.mark.parametrize("mode", TextMode)
def test_what_was_lost_is_told_in_a_replay(mode: TextMode) -> None:
    proxy = house()
    stopped = ask(proxy, ("user", "one")).stream(PING, say("Hel")).leave()
    stopped.answer({RUN_ID: "cancelled"})
    others = [{"message_type": "user_message", "id": "m-1", "content": "Something else."}]
    said = [("user", "one"), ("assistant", "Hel"), ("user", "three")]
    recording = record(proxy, mode, *said, listed=others)
    assert compare(recording).same
    assert len(told(recording)) == 3
    assert len(told(forgetful(recording))) == 1


@pytest.mark.parametrize("mode", [TextMode.HASH, TextMode.DROP])
def test_no_digest_of_a_text_is_kept_without_the_text(mode: TextMode) -> None:
    proxy = house()
    ask(proxy, SYSTEM, ("user", "one")).stream(*HELLO)
    known = record(proxy, TextMode.KEEP, SYSTEM, ("user", "one"), ("assistant", "Hello"), ("user", "three"))
    hidden = record(proxy, mode, SYSTEM, ("user", "one"), ("assistant", "Hello"), ("user", "four"))
    contents = [
        {message.content for each in recording.head.initial.heard for message in each.messages}
        for recording in (known, hidden)
    ]
    assert contents[0]
    assert not contents[0] & contents[1]
    run = next(exchange for exchange in hidden.exchanges if exchange.starts_run)
    assert "lp1-" not in str(run.request.json)


def test_all_that_is_known_of_a_thread_is_recorded() -> None:
    mark, other = Mark("a" * 32, "b" * 32), Mark("c" * 32, "d" * 32)
    messages = (
        HeardMessage(role=Role.USER, content=mark.content, chain=mark.chain, run=EarlierTurn(run_id="run-1")),
        HeardMessage(role=Role.AGENT, content=None),
        HeardMessage(role=Role.RESULT, content="call-1", is_placeholder=True),
    )
    known = ThreadKnowledge(
        heard=Heard(messages=messages, is_whole=True),
        instructions=KnownInstructions(digests=frozenset({"e" * 32}), lines=frozenset({"f" * 32})),
        unanswered=("call-1",),
        results=("9" * 32,),
        attempts=(mark, other),
        lost=(other,),
    )
    recorded = RecordedThread.of(THREAD, known)
    assert (recorded.thread, recorded.knowledge) == (THREAD, known)
    proxy = Proxy()
    proxy.remember("Milo", AGENT, now=100.0)
    proxy.remember_heard(THREAD, known)
    seen: list[InitialState] = []

    class Noting:
        def observe(self, observation: Observation, now: float) -> None:
            if isinstance(observation, CycleOpened):
                seen.append(observation.initial)

    # The agent is looked up again by now; what it has heard is still known.
    proxy.open(chat(), token="abcdef12", created=7, now=1e6, observer=Noting())
    assert (seen[0].agent, seen[0].heard) == (None, {THREAD: known})
