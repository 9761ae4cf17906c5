"""What an observer of a cycle sees, and when."""

from typing import Any

import orjson
from attrs import define, field

from drive import AGENT_ID, DONE, JSON, PING, SSE, USAGE, agent_json, encode, say, stop
from sansio_letta import Config, Cycle, HttpRequest, Proxy, ResponseBody, ResponseHead, Signal
from sansio_letta.errors import Failure
from sansio_letta.proxy.observer import (
    Change,
    CycleOpened,
    InitialState,
    LettaData,
    LettaFailure,
    LettaResponse,
    Observation,
    join_observers,
)
from sansio_letta.turn.agent import Agent
from sansio_letta.turn.events import AgentFound, ConversationThread, TextDelta, TurnFinished, TurnStarted
from sansio_letta.turn.request import Chat
from sansio_letta.upstreams.rest.commands import FindAgent, OpenStream

TOKEN = "0123456789"
KNOWN = Agent(id=AGENT_ID, name="Milo", agent_type="letta_v1_agent")


@define
class Noting:
    """An observer that notes all that it sees."""

    seen: list[tuple[Observation, float]] = field(factory=list)

    def observe(self, seen: Observation, now: float) -> None:
        self.seen.append((seen, now))

    @property
    def kinds(self) -> list[object]:
        return [item if isinstance(item, Change) else type(item) for item, _ in self.seen]

    @property
    def opened(self) -> CycleOpened:
        opened, _ = self.seen[0]
        assert isinstance(opened, CycleOpened)
        return opened


def chat(**headers: str) -> HttpRequest:
    body = {"model": "Milo", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    pairs = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return HttpRequest(method="POST", target="/v1/chat/completions", headers=pairs, body=orjson.dumps(body))


def begin(proxy: Proxy | None = None, request: HttpRequest | None = None) -> tuple[Cycle, Noting]:
    noting = Noting()
    opened = (proxy or Proxy(Config().without_pauses())).open(
        request or chat(), token=TOKEN, created=7, now=100.0, observer=noting
    )
    return opened, noting


def drain(cycle: Cycle) -> list[Any]:
    items: list[Any] = []
    while not isinstance(item := cycle.next_event(), Signal):
        items.append(item)
    return items


def test_all_of_a_turn_is_seen_in_order() -> None:
    cycle, noting = begin()
    drain(cycle)
    cycle.receive_response(200, JSON, 101.0)
    cycle.receive_data(orjson.dumps([agent_json()]), 101.0)
    cycle.receive_data(b"", 101.0)
    drain(cycle)
    cycle.receive_response(200, SSE, 102.0)
    texts = encode(say("one")) + encode(say("two"))
    for data in (encode(PING), texts, encode(stop()) + encode(USAGE) + encode(DONE)):
        cycle.receive_data(data, 103.0)
        drain(cycle)
    cycle.close()
    cycle.close()
    assert noting.kinds == [
        CycleOpened,
        FindAgent,
        *(LettaResponse, LettaData, LettaData),
        *(AgentFound, OpenStream),
        LettaResponse,
        LettaData,
        *(LettaData, TurnStarted, ResponseHead, ResponseBody),
        *(TextDelta, ResponseBody, TextDelta, ResponseBody),
        *(LettaData, TurnFinished, ResponseBody),
        Change.FINISHED,
        Change.CLOSED,
    ]
    assert [now for _, now in noting.seen] == sorted(now for _, now in noting.seen)
    assert (noting.seen[0][1], noting.seen[-1][1]) == (100.0, 103.0)
    assert noting.opened.summary is cycle.summary
    assert (noting.opened.token, noting.opened.created) == (TOKEN, 7)


def test_a_failure_and_the_reply_for_it() -> None:
    cycle, noting = begin()
    drain(cycle)
    cycle.receive_failure(Failure.BROKEN, "reset", 101.0)
    drain(cycle)
    assert (LettaFailure(failure=Failure.BROKEN, reason="reset"), 101.0) in noting.seen
    assert noting.kinds[-3:] == [ResponseHead, ResponseBody, Change.FINISHED]


def test_a_client_that_leaves_is_seen_once() -> None:
    cycle, noting = begin()
    drain(cycle)
    cycle.client_disconnected(101.0)
    cycle.client_disconnected(102.0)
    cycle.cancel(103.0)
    drain(cycle)
    assert noting.seen[-2:] == [(Change.CLIENT_DISCONNECTED, 101.0), (Change.FINISHED, 103.0)]


def test_a_comment_that_is_due_and_a_shutdown() -> None:
    proxy = Proxy()
    proxy.remember("Milo", KNOWN, now=100.0)
    cycle, noting = begin(proxy)
    drain(cycle)
    cycle.receive_response(200, SSE, 100.0)
    cycle.receive_data(encode(PING), 100.0)
    drain(cycle)
    cycle.handle_deadline(115.0)
    drain(cycle)
    assert noting.kinds[-3:] == [Change.COMMENT_DUE, ResponseHead, ResponseBody]
    cycle.shut_down(116.0)
    assert noting.seen[-1] == (Change.INTERRUPTED, 116.0)


def test_what_the_proxy_knew_is_told() -> None:
    _, noting = begin()
    assert noting.opened.initial == InitialState()
    proxy = Proxy()
    proxy.remember("Milo", KNOWN, now=100.0)
    proxy.remember_no_background()
    thread = ConversationThread(conversation_id="conv-1")
    proxy.remember_thread(AGENT_ID, Chat(key="c-1"), thread)
    _, noting = begin(proxy, chat(x_letta_chat_key="c-1"))
    expected = InitialState(agent=KNOWN, threads={AGENT_ID: thread}, has_background=False)
    assert noting.opened.initial == expected
    _, noting = begin(proxy, chat(x_letta_chat_key="c-2"))
    assert noting.opened.initial.threads == {}


def test_several_observers_are_one() -> None:
    assert join_observers(None, None) is None
    one, other = Noting(), Noting()
    assert join_observers(None, one) is one
    both = join_observers(one, other)
    Proxy().open(HttpRequest(method="GET", target="/health"), token=TOKEN, created=7, now=1.0, observer=both)
    assert one.seen == other.seen != []
