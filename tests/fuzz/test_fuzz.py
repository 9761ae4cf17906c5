"""The fuzz targets under hypothesis: the recorded inputs, unchanged and mutated."""

from functools import cache
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .corpus import seeds
from .targets import TARGETS

#: Inputs that failed once; each was a defect.
FOUND: Final = Path(__file__).parent / "found"
#: What a byte becomes more often than by chance: what the formats are made of.
TOKENS: Final = (
    b"\r",
    b"\n",
    b"\r\n",
    b"\n\n",
    b":",
    b'"',
    b"{",
    b"}",
    b"\0",
    b"\xff",
    b"data: ",
    b"[DONE]",
    b"null",
)
#: Examples of each target, by what one costs.
COUNTS: Final = {"sse": 150, "message": 200, "turn": 150, "request": 150, "connection": 80}


@cache
def corpus(target: str) -> tuple[bytes, ...]:
    return tuple(seeds(target))


@st.composite
def spoiled(draw: st.DrawFn, target: str) -> bytes:
    """A recorded input with some of its bytes taken out, doubled or exchanged; or any bytes."""
    data = draw(st.sampled_from(corpus(target)) | st.binary(max_size=200))
    for _ in range(draw(st.integers(0, 4))):
        begin = draw(st.integers(0, len(data)))
        end = draw(st.integers(begin, min(len(data), begin + draw(st.sampled_from((0, 1, 8, 400))))))
        put = draw(st.sampled_from((b"", data[begin:end] * 2, *TOKENS)) | st.binary(max_size=8))
        data = data[:begin] + put + data[end:]
    return data


@pytest.mark.parametrize("name", TARGETS)
def test_corpus(name: str) -> None:
    """What was recorded holds the invariants, and so does what once did not."""
    inputs = corpus(name)
    assert inputs
    for data in (*inputs[:: 1 + len(inputs) // 150], *(path.read_bytes() for path in FOUND.glob(f"{name}-*"))):
        TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_spoiled(name: str) -> None:
    @settings(max_examples=COUNTS[name], suppress_health_check=list(HealthCheck))
    @given(spoiled(name))
    def run(data: bytes) -> None:
        TARGETS[name](data)

    run()
