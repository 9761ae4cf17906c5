"""A LiveKit agent whose tool takes seconds, while the user goes on talking; prints the texts of its chat.

``python livekit_slow_tool.py BASE_URL MODEL CALLING MEANWHILE LAST``
"""

import asyncio
import json
import sys

from livekit.agents import Agent, AgentSession, RunContext, function_tool
from livekit.plugins import openai


class Assistant(Agent):
    """Has one slow tool."""

    def __init__(self) -> None:
        super().__init__(instructions="You are a voice assistant.")
        self.called, self.may_return = asyncio.Event(), asyncio.Event()

    @function_tool
    async def get_weather(self, context: RunContext, city: str) -> str:
        """Current weather of a city."""
        self.called.set()
        await self.may_return.wait()
        return f"18 C in {city}"


async def main(base_url: str, model: str, calling: str, meanwhile: str, last: str) -> None:
    """Say the second text while the tool runs, and the last one when all is over."""
    async with AgentSession(llm=openai.LLM(model=model, base_url=base_url, api_key="none")) as session:
        assistant = Assistant()
        await session.start(assistant)
        first = session.generate_reply(user_input=calling)
        await asyncio.wait_for(assistant.called.wait(), 60)
        await session.interrupt()
        await session.run(user_input=meanwhile)
        assistant.may_return.set()
        await first
        await session.run(user_input=last)
        items = [(item.role, item.text_content) for item in session.history.items if item.type == "message"]
    print("=>", json.dumps(items))


asyncio.run(main(*sys.argv[1:]))
