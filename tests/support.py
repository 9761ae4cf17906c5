"""Shared by several test modules: thoroughness, cuts of bytes, mutated JSON, recorded events, transcripts."""

import os
from collections.abc import Iterable, Iterator
from typing import Any, Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st

from recordings import recording
from sansio_letta.config import InstructionPolicy
from sansio_letta.turn.ledger import ROOT, Heard, digest, next_chain
from sansio_letta.turn.new_input import find_new
from sansio_letta.turn.request import (
    NO_INSTRUCTIONS,
    AgentMessage,
    Instructions,
    Mark,
    SystemMessage,
    TranscriptItem,
    TurnRequest,
    UserMessage,
)

#: `THOROUGH=1`: every cut, every fault, the whole matrix. docs/promises.md explains what is left out otherwise.
THOROUGH: Final = os.environ.get("THOROUGH") == "1"

settings.register_profile("quick", max_examples=40, deadline=None)
settings.register_profile("thorough", max_examples=250, deadline=None)
settings.load_profile("thorough" if THOROUGH else "quick")

#: Any small JSON value, as orjson decodes it, from which hypothesis builds requests and messages.
JSON: Final[st.SearchStrategy[Any]] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def matrix(values: Iterable[Any], *representatives: Any) -> list[Any]:
    """Mark all parameters but the representatives as `matrix`, which only `THOROUGH=1` runs."""
    return [
        value if value in representatives else pytest.param(value, marks=pytest.mark.matrix) for value in values
    ]


@st.composite
def spoiled(draw: st.DrawFn, value: Any) -> Any:
    """Replace one place in the value, at any depth, by any JSON."""
    if isinstance(value, dict | list) and value and draw(st.integers(0, 9)):
        places = sorted(value) if isinstance(value, dict) else range(len(value))
        place = draw(st.sampled_from(places))
        within = draw(spoiled(value[place]))
        if isinstance(value, dict):
            return {**value, place: within}
        return [*value[:place], within, *value[place + 1 :]]
    return draw(JSON)


def every_cut(data: bytes) -> Iterator[list[bytes]]:
    """Yield the bytes one by one, and cut in two at every place."""
    yield [data[at : at + 1] for at in range(len(data))]
    for at in range(1, len(data)):
        yield [data[:at], data[at:]]


def payloads(scenario: str) -> list[bytes]:
    """Return the data of all events of a recording's streams. Letta writes each as one line."""
    return [
        line.removeprefix(b"data: ")
        for exchange in recording(scenario).exchanges
        for line in exchange.body.split(b"\n")
        if line.startswith(b"data: ")
    ]


def instructions(*texts: str, policy: InstructionPolicy = InstructionPolicy.ONCE) -> Instructions:
    """A client's instructions, each with its mark."""
    messages = (SystemMessage(content=text, mark=Mark(digest("system", text), ROOT)) for text in texts)
    return Instructions(messages=tuple(messages), policy=policy)


def transcript(*texts: str) -> tuple[TranscriptItem, ...]:
    """What a user and the agent have said in turns, the user first, each of the user's with its mark."""
    items: list[TranscriptItem] = []
    chain = ROOT
    for index, text in enumerate(texts):
        if index % 2:
            items.append(AgentMessage(content=text))
            continue
        mark = Mark(digest("user", text), chain)
        items.append(UserMessage(content=text, mark=mark))
        chain = next_chain(chain, mark.content)
    return tuple(items)


def told_anew(request: TurnRequest) -> TurnRequest:
    """The request in a thread in which nothing was said yet."""
    if not request.transcript:
        return request
    new = find_new(request.transcript, Heard(is_whole=True))
    return request.with_new_input(new.earlier, new.messages, NO_INSTRUCTIONS)


def heard(text: str, chain: str = ROOT) -> dict[str, Any]:
    """A user message with its mark as Letta lists it."""
    mark = Mark(digest("user", text), chain)
    return {"message_type": "user_message", "id": f"message-{mark.content}", "content": text, "otid": mark.text}
