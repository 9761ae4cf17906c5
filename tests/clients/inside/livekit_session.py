"""A LiveKit agent without a microphone: each argument is what the user says; prints the items of the chat.

``python livekit_session.py BASE_URL MODEL TEXT...``
"""

import asyncio
import json
import sys

from livekit.agents import Agent, AgentSession, RunContext, function_tool
from livekit.plugins import openai


class Assistant(Agent):
    """Has one tool."""

    def __init__(self) -> None:
        super().__init__(instructions="You are a voice assistant.")

    @function_tool
    async def get_weather(self, context: RunContext, city: str) -> str:
        """Current weather of a city."""
        return f"18 C in {city}"


async def main(base_url: str, model: str, *texts: str) -> None:
    """Say one text after the other, each when the turn before it is over."""
    items = []
    async with AgentSession(llm=openai.LLM(model=model, base_url=base_url, api_key="none")) as session:
        await session.start(Assistant())
        for text in texts:
            turn = await session.run(user_input=text)
            items += [event.item.model_dump(mode="json") for event in turn.events]
    print("=>", json.dumps(items))


asyncio.run(main(*sys.argv[1:]))
