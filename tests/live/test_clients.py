"""Several clients at once."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

from live.asking import FORMS, Answer, ask, async_client, sync_client
from live.conftest import MakeAgent
from live.letta_api import Agent, LettaApi

WORD_COUNT = 20
PAUSE = 0.1  # seconds after each word
SCRIPT = f"slow {PAUSE}\nwords {WORD_COUNT}"
WORDS = " ".join(f"w{number}" for number in range(WORD_COUNT))


def test_two_clients_of_two_agents(url: str, make_agent: MakeAgent) -> None:
    agents = [make_agent(f"pair-{side}") for side in ("left", "right")]

    async def read(agent: Agent) -> list[float]:
        async with async_client(url) as client:
            stream = await client.chat.completions.create(
                model=agent.name,
                messages=[{"role": "user", "content": f"{SCRIPT}\nsay {agent.name}"}],
                stream=True,
            )
            times, text = [], ""
            async for chunk in stream:
                if delta := chunk.choices[0].delta.content:
                    text += delta
                    times.append(time.monotonic())
        assert text == f"{WORDS}\n{agent.name}"
        return times

    async def main() -> list[list[float]]:
        return list(await asyncio.gather(*map(read, agents)))

    left, right = asyncio.run(main())
    overlap = min(left[-1], right[-1]) - max(left[0], right[0])
    assert overlap > WORD_COUNT * PAUSE / 2
    assert left[-1] - left[0] > WORD_COUNT * PAUSE / 2  # word by word, not all at the end


def test_somebody_else_cancels_the_run(url: str, letta: LettaApi, agent: Agent) -> None:
    """What was said stands, and it is the end: Letta need not send usage then."""
    with sync_client(url) as client:
        stream = client.chat.completions.create(
            model=agent.name,
            messages=[{"role": "user", "content": "slow 0.25\nwords 120"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        answer = Answer()
        with stream:
            for chunk in stream:
                answer.add_chunk(chunk)
                if len(answer.chunks) == 4:
                    letta.cancel(agent, letta.wait_for_run(agent)["id"])
    assert answer.text.startswith("w0 w1")
    assert answer.finish_reason == "stop"
    assert ask(url, "sync", agent.name, "say Welcome back.").text == "Welcome back."


def test_two_clients_of_one_agent(url: str, letta: LettaApi, agent: Agent) -> None:
    """Each gets its own answer, and both are kept, question before answer."""
    scripts = [f"slow 0.05\nwords {WORD_COUNT}\nsay {side}" for side in ("left", "right")]
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda script: ask(url, "sync-stream", agent.name, script), scripts))
    assert [answer.text for answer in answers] == [f"{WORDS}\nleft", f"{WORDS}\nright"]
    assert sorted(letta.user_texts(agent)) == scripts
    kinds = [item["message_type"] for item in letta.history(agent)]
    assert kinds == ["user_message", "assistant_message"] * 2


def test_all_forms_at_once(url: str, letta: LettaApi, make_agent: MakeAgent) -> None:
    agents = [make_agent(f"crowded-{form}") for form in FORMS for _ in range(2)]

    def talk(number: int) -> Answer:
        return ask(url, FORMS[number % len(FORMS)], agents[number].id, f"{SCRIPT}\nsay number {number}")

    with ThreadPoolExecutor(len(agents)) as pool:
        answers = list(pool.map(talk, range(len(agents))))
    assert [answer.text for answer in answers] == [f"{WORDS}\nnumber {n}" for n in range(len(agents))]
    for number, agent in enumerate(agents):
        assert letta.user_texts(agent) == [f"{SCRIPT}\nsay number {number}"]
