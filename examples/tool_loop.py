"""An agent uses your tool, without a server: the in-process transport, sync.

pip install 'sansio-letta[httpx2]' openai
python examples/tool_loop.py http://127.0.0.1:8283 Milo "How is the weather in Rome?"
"""

import json
import sys
from typing import Any

import httpx2
from openai import OpenAI

from letta_httpx2 import LettaTransport

TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Current weather of a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]


def get_weather(city: str) -> str:
    """Execute the tool; yours would call a weather service."""
    return f"18 C and sunny in {city}"


def main(letta_url: str, agent: str, question: str) -> None:
    """Send the question, execute tool calls, and print the answer."""
    with OpenAI(
        api_key="none", http_client=httpx2.Client(transport=LettaTransport(base_url=letta_url))
    ) as client:
        messages: list[Any] = [{"role": "user", "content": question}]
        while True:
            reply = client.chat.completions.create(model=agent, messages=messages, tools=TOOLS)
            message = reply.choices[0].message
            if not message.tool_calls:
                print(message.content)
                return
            messages.append(message)
            for call in message.tool_calls:
                assert call.type == "function"
                result = get_weather(**json.loads(call.function.arguments))
                print(f"{call.function.name}: {result}")
                messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


if __name__ == "__main__":
    main(*sys.argv[1:])
