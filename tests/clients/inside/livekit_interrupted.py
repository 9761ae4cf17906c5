"""A LiveKit agent that is interrupted while it answers, and goes on; prints the texts of its chat.

``python livekit_interrupted.py BASE_URL MODEL GREETING TEXT...``

The agent says the greeting by itself. It is interrupted in the middle of its answer to each text but the last.
"""

import asyncio
import json
import sys
from typing import Any

from livekit.agents import Agent, AgentSession, ModelSettings
from livekit.agents.llm import ChatContext, Tool
from livekit.plugins import openai


class Assistant(Agent):
    """Tells when its answer begins."""

    def __init__(self) -> None:
        super().__init__(instructions="You are a voice assistant.")
        self.begun = asyncio.Event()

    async def llm_node(self, chat_ctx: ChatContext, tools: list[Tool], model_settings: ModelSettings) -> Any:
        """Pass the answer on."""
        async for chunk in Agent.default.llm_node(self, chat_ctx, tools, model_settings):
            self.begun.set()
            yield chunk


async def main(base_url: str, model: str, greeting: str, *texts: str) -> None:
    """Say one text after the other."""
    async with AgentSession(llm=openai.LLM(model=model, base_url=base_url, api_key="none")) as session:
        assistant = Assistant()
        await session.start(assistant)
        await session.say(greeting, add_to_chat_ctx=True)
        for text in texts[:-1]:
            assistant.begun.clear()
            speech = session.generate_reply(user_input=text)
            await asyncio.wait_for(assistant.begun.wait(), 60)
            speech.interrupt()
            await speech
        await session.run(user_input=texts[-1])
        items = [(item.role, item.text_content) for item in session.history.items if item.type == "message"]
    print("=>", json.dumps(items))


asyncio.run(main(*sys.argv[1:]))
