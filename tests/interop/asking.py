"""Requests through the SDK's `chat.completions.stream()`, sync and async, and without an SDK."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final, Literal, get_args

from attrs import define, field
from openai import APIError, LengthFinishReasonError
from openai.types.chat import ChatCompletion

from live.asking import Message, Response, async_client, fetch, sync_client, user

HelperForm = Literal["sync-helper", "async-helper"]
HELPERS: Final[tuple[HelperForm, ...]] = get_args(HelperForm)


@define(kw_only=True, eq=False)
class Helped:
    """What the helper made of a stream."""

    events: list[Any] = field(factory=list)
    snapshot: ChatCompletion | None = None  #: as far as the stream came
    final: ChatCompletion | None = None
    error: APIError | None = None

    def of(self, kind: str) -> list[Any]:
        """The events of one kind."""
        return [event for event in self.events if event.type == kind]


def helped(
    base_url: str,
    form: HelperForm,
    model: str,
    messages: str | Sequence[Message] = "hi",
    *,
    max_retries: int = 0,
    **fields: object,
) -> Helped:
    """Ask once through the helper; an error of the SDK becomes part of what is returned."""
    got = Helped()
    said = [user(messages)] if isinstance(messages, str) else list(messages)
    request: dict[str, Any] = {"model": model, "messages": said, **fields}
    try:
        if form == "sync-helper":
            _help(got, base_url, max_retries, request)
        else:
            asyncio.run(_help_async(got, base_url, max_retries, request))
    except APIError as exc:
        got.error = exc
    except LengthFinishReasonError as exc:  # what the helper says to every answer that ends so
        got.final = exc.completion
    return got


def _help(got: Helped, base_url: str, max_retries: int, request: dict[str, Any]) -> None:
    with (
        sync_client(base_url, max_retries=max_retries) as client,
        client.chat.completions.stream(**request) as stream,
    ):
        for event in stream:
            got.events.append(event)
            got.snapshot = stream.current_completion_snapshot
        got.final = stream.get_final_completion()


async def _help_async(got: Helped, base_url: str, max_retries: int, request: dict[str, Any]) -> None:
    async with (
        async_client(base_url, max_retries=max_retries) as client,
        client.chat.completions.stream(**request) as stream,
    ):
        async for event in stream:
            got.events.append(event)
            got.snapshot = stream.current_completion_snapshot
        got.final = await stream.get_final_completion()


def post(
    base_url: str,
    model: str,
    messages: str | Sequence[Message] = "hi",
    *,
    stream: bool = True,
    **fields: object,
) -> Response:
    """Ask once without an SDK, to see the bytes."""
    said = [user(messages)] if isinstance(messages, str) else list(messages)
    request = {"model": model, "messages": said, "stream": stream, **fields}
    return fetch(base_url, "POST", "/chat/completions", request)
