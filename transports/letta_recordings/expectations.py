"""Expectations of a recording, without which it is not saved as a fixture."""

from collections.abc import Sequence
from typing import Final

import orjson
from attrs import define, field, frozen

#: Names that can be expected: the fields of an `Outcome`.
EXPECTATIONS: Final = ("status", "finish", "text", "reasoning", "call", "error")


class ExpectationError(ValueError):
    """An expectation that cannot be parsed, or that was not met."""


@frozen
class Expectation:
    """`name=value`: the outcome must have this value; texts must contain it."""

    name: str
    value: str

    @classmethod
    def parse(cls, text: str) -> "Expectation":
        """Parse an expectation.

        :raises ExpectationError: if it does not have this form.
        """
        name, equals, value = text.partition("=")
        if name not in EXPECTATIONS or not equals:
            known = ", ".join(f"{known}=..." for known in EXPECTATIONS)
            raise ExpectationError(f"--expect {text}: expected one of {known}")
        return cls(name, value)


@define
class Outcome:
    """A summary of what a client received."""

    status: int | None = None
    finish: str | None = None
    text: str = ""
    reasoning: str = ""
    calls: list[str] = field(factory=list)
    error: str | None = None

    def check(self, expectation: Expectation) -> None:
        """Check one expectation.

        :raises ExpectationError: if it is not met.
        """
        name, value = expectation.name, expectation.value
        seen = self.calls if name == "call" else getattr(self, name)
        if not (
            value in seen if isinstance(seen, list) or name in ("text", "reasoning") else str(seen) == value
        ):
            raise ExpectationError(f"expected {name}={value}, got {seen!r}")


def read_answer(answer: bytes, outcome: Outcome) -> None:
    """Read a streamed response into an outcome."""
    for event in answer.split(b"\n\n"):
        data = event.removeprefix(b"data: ")
        if not data.startswith(b"{"):
            continue
        chunk = orjson.loads(data)
        if "error" in chunk:
            outcome.error = chunk["error"]["code"]
        for choice in chunk.get("choices", ()):
            delta = choice["delta"]
            outcome.text += delta.get("content") or ""
            outcome.reasoning += delta.get("reasoning_content") or ""
            outcome.calls += [call["function"]["name"] for call in delta.get("tool_calls", ()) if "id" in call]
            outcome.finish = choice["finish_reason"] or outcome.finish


def check_all(outcome: Outcome, expectations: Sequence[Expectation]) -> None:
    """Check all expectations.

    :raises ExpectationError: for the first that is not met.
    """
    for expectation in expectations:
        outcome.check(expectation)
