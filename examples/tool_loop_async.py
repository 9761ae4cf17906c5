"""The same tool loop, async and streamed: the answer is printed as it arrives.

pip install 'sansio-letta[httpx2]' openai
python examples/tool_loop_async.py http://127.0.0.1:8283 Milo "How is the weather in Rome?"
"""

import asyncio
import json
import sys
from typing import Any

import httpx2
from openai import AsyncOpenAI
from tool_loop import TOOLS, get_weather

from letta_httpx2 import AsyncLettaTransport


async def main(letta_url: str, agent: str, question: str) -> None:
    """Send the question, execute tool calls, and print the answer as it arrives."""
    transport = AsyncLettaTransport(base_url=letta_url)
    async with AsyncOpenAI(api_key="none", http_client=httpx2.AsyncClient(transport=transport)) as client:
        messages: list[Any] = [{"role": "user", "content": question}]
        while True:
            async with client.chat.completions.stream(model=agent, messages=messages, tools=TOOLS) as stream:
                async for event in stream:
                    if event.type == "content.delta":
                        print(event.delta, end="", flush=True)
                message = (await stream.get_final_completion()).choices[0].message
            if not message.tool_calls:
                print()
                return
            messages.append(message)
            for call in message.tool_calls:
                result = get_weather(**json.loads(call.function.arguments))
                print(f"{call.function.name}: {result}")
                messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
