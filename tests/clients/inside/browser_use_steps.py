"""The steps of a browser-use agent as its model class asks for them, without a browser; prints each reply.

``python browser_use_steps.py BASE_URL MODEL TEXT...``
"""

import asyncio
import json
import sys

from browser_use.llm.messages import SystemMessage, UserMessage
from browser_use.llm.openai.chat import ChatOpenAI
from pydantic import BaseModel


class Step(BaseModel):
    """What a step must say."""

    thinking: str
    next_goal: str


async def main(base_url: str, model: str, *texts: str) -> None:
    """Ask for one step after the other."""
    llm = ChatOpenAI(model=model, base_url=base_url, api_key="none", max_retries=0)
    steps = []
    for text in texts:
        messages = [SystemMessage(content="You control a browser."), UserMessage(content=text)]
        reply = await llm.ainvoke(messages, output_format=Step)
        steps.append(reply.completion.model_dump())
    print("=>", json.dumps(steps))


asyncio.run(main(*sys.argv[1:]))
