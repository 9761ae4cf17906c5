"""A group chat of AutoGen with two assistants, each an agent, and a user; prints who said what.

``python autogen_chat.py BASE_URL FIRST_MODEL SECOND_MODEL TEXT``
"""

import asyncio
import json
import sys

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_ext.models.openai import OpenAIChatCompletionClient

MODEL_INFO = {
    "vision": False,
    "function_calling": True,
    "json_output": False,
    "family": "unknown",
    "structured_output": False,
}


async def main(base_url: str, first: str, second: str, text: str) -> None:
    """Let both speak in turn, four messages in all."""
    clients = [
        OpenAIChatCompletionClient(model=model, base_url=base_url, api_key="none", model_info=MODEL_INFO)
        for model in (first, second)
    ]
    names = ("writer", "critic")
    assistants = [
        AssistantAgent(name, model_client=client) for name, client in zip(names, clients, strict=True)
    ]
    team = RoundRobinGroupChat(assistants, termination_condition=MaxMessageTermination(4))
    outcome = await team.run(task=text)
    print("=>", json.dumps([(message.source, message.content) for message in outcome.messages]))
    for client in clients:
        await client.close()


asyncio.run(main(*sys.argv[1:]))
