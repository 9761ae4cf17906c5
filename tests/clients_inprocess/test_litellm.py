"""LiteLLM with a client of the official SDK passed in."""

# mypy: disable-error-code="import-not-found, untyped-decorator"
# The libraries are installed in environments of their own: run.py.

import asyncio
import json
from typing import Any

import litellm

from clients_inprocess.peer import Peer
from clients_inprocess.scripts import SUNNY, TOOLS, WEATHER, carry_out


def history(asked: Any) -> list[Any]:
    """The messages of the second request."""
    message = asked.choices[0].message
    assert asked.choices[0].finish_reason == "tool_calls"
    results = [
        {
            "role": "tool",
            "tool_call_id": call.id,
            "content": carry_out(call.function.name, json.loads(call.function.arguments)),
        }
        for call in message.tool_calls
    ]
    return [{"role": "user", "content": WEATHER}, message.model_dump(), *results]


def arguments(peer: Peer, client: Any, **more: Any) -> dict[str, Any]:
    return {
        "model": f"openai/{peer.model('client_tool')}",
        "client": client,
        "tools": TOOLS,
        "num_retries": 0,
        **more,
    }


def test_whole(peer: Peer) -> None:
    with peer.client() as client:
        asking = arguments(peer, client)
        asked = litellm.completion(messages=[{"role": "user", "content": WEATHER}], **asking)
        answer: Any = litellm.completion(messages=history(asked), **asking)
    assert SUNNY in answer.choices[0].message.content


def test_streamed(peer: Peer) -> None:
    with peer.client() as client:
        asking = arguments(peer, client, stream=True)
        chunks = list(litellm.completion(messages=[{"role": "user", "content": WEATHER}], **asking))
        asked = litellm.stream_chunk_builder(chunks)
        pieces = list(litellm.completion(messages=history(asked), **asking))
    assert len(pieces) > 3
    assert SUNNY in "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)


def test_async(peer: Peer) -> None:
    async def main() -> None:
        async with peer.async_client() as client:
            asking = arguments(peer, client)
            asked = await litellm.acompletion(messages=[{"role": "user", "content": WEATHER}], **asking)
            stream: Any = await litellm.acompletion(messages=history(asked), stream=True, **asking)
            pieces = [piece async for piece in stream]
        assert SUNNY in "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)

    asyncio.run(main())
