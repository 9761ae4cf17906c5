"""The cost of decoding a request is linear in its size."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import orjson
import pytest

from growth import Work, check_growth
from sansio_letta.config import Config
from sansio_letta.dialects.base import RequestContext
from sansio_letta.dialects.chat_completions.decode import decode_request
from sansio_letta.dialects.new_input import build_turn_request
from sansio_letta.errors import RequestError

USER = {"role": "user", "content": "Hi"}
REPLY = {"role": "assistant", "content": "ok"}
PNG = "data:image/png;base64,"
TEXT = {"type": "text", "text": "x"}
#: Nothing is refused for its number alone: what is below the limits must be cheap, too.
NO_LIMITS = Config(max_value_count=10**9, max_message_count=10**9, max_part_count=10**9, max_tool_count=10**9)
#: A chat of its own, so that its history is told.
HEADERS = {"x-letta-chat-key": "c-1"}


def body(**fields: Any) -> bytes:
    return orjson.dumps({"model": "Milo", "messages": [USER], **fields})


def tool(number: int, **more: object) -> dict[str, Any]:
    return {"type": "function", "function": {"name": f"f{number}", **more}}


def allowed(count: int) -> dict[str, Any]:
    names = [{"type": "function", "function": {"name": f"f{number}"}} for number in range(count)]
    return {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": names}}


def call(number: int) -> dict[str, Any]:
    return {"id": f"c{number}", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def result(number: int, role: str) -> dict[str, Any]:
    return {"role": role, "name": "f", "tool_call_id": f"c{number}", "content": "x"}


#: What there may be much of: a number -> a body.
MUCH: dict[str, Callable[[int], bytes]] = {
    "tools, all of them allowed": lambda n: body(
        tools=[tool(number) for number in range(n // 8)], tool_choice=allowed(n // 8)
    ),
    "tools of one name": lambda n: body(tools=[tool(0, description=str(number)) for number in range(n // 8)]),
    "tools of bad names": lambda n: body(tools=[tool(0, name=f"a.{number}") for number in range(n // 8)]),
    "a long name": lambda n: body(tools=[tool(0, name="ä" * n * 20)]),
    "properties that are null": lambda n: body(
        tools=[tool(0, parameters={"properties": {str(number): None for number in range(n)}})]
    ),
    "new messages": lambda n: body(messages=[USER] * n),
    "new parts": lambda n: body(messages=[{"role": "user", "content": [TEXT] * n}]),
    "old messages": lambda n: body(messages=[USER, REPLY] * (n // 2) + [USER]),
    "old parts": lambda n: body(messages=[{"role": "user", "content": [TEXT] * n}, REPLY, USER]),
    "old files": lambda n: body(messages=[{"role": "user", "content": [{"type": "file"}] * n}, REPLY, USER]),
    "old calls and results": lambda n: body(
        messages=[
            {"role": "assistant", "tool_calls": [call(number) for number in range(n // 4)]},
            *(result(number, "tool") for number in range(n // 4)),
            REPLY,
            USER,
        ]
    ),
    "results in the old form": lambda n: body(
        messages=[
            {"role": "assistant", "tool_calls": [call(number) for number in range(n // 4)]},
            *(result(number, "function") for number in range(n // 4)),
        ]
    ),
    "unknown fields": lambda n: body(**{f"field-{number}": 1 for number in range(n * 4)}),
    "unknown fields of a message": lambda n: body(
        messages=[{**USER, **{str(number): 1 for number in range(n * 4)}}]
    ),
    "metadata": lambda n: body(metadata={str(number): number for number in range(n * 4)}),
    "a picture": lambda n: body(
        messages=[{"role": "user", "content": [{"type": "image_url", "image_url": PNG + "%3D A" * n * 20}]}]
    ),
    "halves of emojis": lambda n: body(messages=[{**USER, "content": "@"}]).replace(b"@", rb"\ud83d" * n),
    "escaped backslashes": lambda n: body(messages=[{**USER, "content": "@"}]).replace(
        b"@", rb"\\" * n * 20 + rb"\ud83d"
    ),
    "halves that are not escaped": lambda n: body(messages=[{**USER, "content": "@"}]).replace(
        b"@", b"\xed\xa0\xbd" * n * 10
    ),
}  # fmt: skip


@pytest.mark.parametrize("make", MUCH.values(), ids=MUCH)
def test_twice_as_much_costs_twice_as_much(make: Callable[[int], bytes]) -> None:
    def built(count: int) -> Work:
        data = make(count)

        def work() -> None:
            with suppress(RequestError):
                build_turn_request(
                    decode_request(data, NO_LIMITS), RequestContext(config=NO_LIMITS, headers=HEADERS)
                )

        return work

    check_growth(built, 5_000)


def test_old_parts_are_read_and_not_kept() -> None:
    content = [{"type": "text", "text": "x"}] * 200_000
    request = decode_request(body(messages=[{"role": "user", "content": content}, REPLY, USER]))
    (old, *_) = request.messages
    assert old.content == "\n".join("x" * 200_000)
