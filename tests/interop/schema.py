"""The published schema of the Chat Completions API, as typed by the official SDK, applied strictly."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeVar

import orjson
import pydantic
from openai.types import Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

_M = TypeVar("_M", bound=pydantic.BaseModel)

#: Fields beyond the published ones that clients expect of us.
ADDITIONS: Final = frozenset({"reasoning_content", "letta"})

#: The SDK gives these a default, the published document does not: they must be there, null or not.
REQUIRED: Final[Mapping[type[pydantic.BaseModel], tuple[str, ...]]] = {
    ChatCompletionChunk: ("id", "object", "created", "model", "choices"),
    ChatCompletion: ("id", "object", "created", "model", "choices"),
    Model: ("id", "object", "created", "owned_by"),
}
_CHOICES: Final[Mapping[type[pydantic.BaseModel], tuple[str, ...]]] = {
    ChatCompletionChunk: ("index", "delta", "finish_reason"),
    ChatCompletion: ("index", "message", "finish_reason", "logprobs"),
}
_MESSAGE: Final = ("role", "content", "refusal")


def validate(kind: type[_M], data: bytes, *, additions: frozenset[str] = ADDITIONS) -> _M:
    """One chunk, completion or model, exactly as published.

    :raises AssertionError: if a field is there that should not be, or is not there.
    :raises pydantic.ValidationError: if a value is of another type.
    """
    value = kind.model_validate_json(data, strict=True)
    extra = [path for path in _extra(value) if path.rpartition(".")[2] not in additions]
    assert not extra, f"not published: {extra} in {data!r}"
    raw: dict[str, Any] = orjson.loads(data)
    assert raw.keys() >= set(REQUIRED[kind]), f"missing in {data!r}"
    for choice in raw.get("choices", ()):
        assert choice.keys() >= set(_CHOICES[kind]), f"missing in {choice}"
        assert "message" not in choice or choice["message"].keys() >= set(_MESSAGE), f"missing in {choice}"
    return value


def _extra(value: object, path: str = "") -> Iterator[str]:
    """The paths of all fields that the types do not know."""
    if isinstance(value, pydantic.BaseModel):
        yield from (f"{path}.{name}" for name in value.model_extra or ())
        for name in value.model_fields_set - set(value.model_extra or ()):
            yield from _extra(getattr(value, name), f"{path}.{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _extra(item, f"{path}[{index}]")


def validate_error(data: bytes) -> dict[str, str | None]:
    """One error body, exactly as published."""
    body = orjson.loads(data)
    assert set(body) == {"error"}
    error: dict[str, str | None] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert isinstance(error["type"], str)
    assert all(value is None or isinstance(value, str) for value in error.values())
    return error
