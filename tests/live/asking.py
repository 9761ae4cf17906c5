"""Requests to the proxy with the official openai SDK, in each of its four forms, and without an SDK."""

import asyncio
import http.client
import json
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, get_args
from urllib.parse import urlsplit

from attrs import define, field, frozen
from openai import APIError, AsyncOpenAI, DefaultAsyncHttpx2Client, DefaultHttpx2Client, OpenAI
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionChunk

Form = Literal["sync", "sync-stream", "async", "async-stream"]
FORMS: Final[tuple[Form, ...]] = get_args(Form)
STREAMED: Final = tuple(form for form in FORMS if form.endswith("-stream"))
WHOLE: Final = tuple(form for form in FORMS if not form.endswith("-stream"))
#: Where the form should not matter: each kind of client once, and each kind of answer.
PAIR: Final[tuple[Form, ...]] = ("sync", "async-stream")

TIMEOUT: Final = 60.0  # seconds between bytes
API_KEY: Final = "unused"

#: The tools a client offers in these tests.
GET_WEATHER: Final = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
READ_FILE: Final = {
    "type": "function",
    "function": {
        "name": "read_file",
        "description": "Read a file of the workspace.",
        "parameters": {
            "type": "object",
            "properties": {"path": {"type": "string"}},
            "required": ["path"],
        },
    },
}
TOOLS: Final = (GET_WEATHER, READ_FILE)

Message = dict[str, Any]


@frozen(kw_only=True)
class Call:
    """A tool call as the client got it."""

    id: str
    name: str
    arguments: str


@define(kw_only=True, eq=False)
class Answer:
    """What came back, put together from chunks or taken from a whole completion."""

    id: str = ""
    model: str = ""
    text: str = ""
    reasoning: str = ""
    calls: list[Call] = field(factory=list)
    finish_reason: str | None = None
    usage: CompletionUsage | None = None
    chunks: list[ChatCompletionChunk] = field(factory=list)
    error: APIError | None = None
    request_count: int = 0  #: HTTP requests the SDK sent, its own repeats included

    @property
    def message(self) -> Message:
        """The answer as a client puts it into the history it sends next time."""
        calls = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in self.calls
        ]
        return {"role": "assistant", "content": self.text or None, **({"tool_calls": calls} if calls else {})}

    def add_chunk(self, chunk: ChatCompletionChunk) -> None:
        """Take one streamed item in, as strictly as the wire is described."""
        self.chunks.append(chunk)
        self.id, self.model = chunk.id, chunk.model
        self.usage = chunk.usage or self.usage
        for choice in chunk.choices:
            assert choice.index == 0
            self.text += choice.delta.content or ""
            self.reasoning += (choice.delta.model_extra or {}).get("reasoning_content") or ""
            self.finish_reason = choice.finish_reason or self.finish_reason
            for delta in choice.delta.tool_calls or ():
                assert delta.function is not None
                if delta.index == len(self.calls):  # the first fragment of a call names it
                    assert delta.type == "function"
                    assert delta.id
                    assert delta.function.name
                    self.calls.append(Call(id=delta.id, name=delta.function.name, arguments=""))
                else:
                    assert delta.id is None
                    assert delta.function.name is None
                call = self.calls[delta.index]
                arguments = call.arguments + (delta.function.arguments or "")
                self.calls[delta.index] = Call(id=call.id, name=call.name, arguments=arguments)

    def add_completion(self, completion: ChatCompletion) -> None:
        """Take a whole answer in."""
        assert completion.object == "chat.completion"
        self.id, self.model, self.usage = completion.id, completion.model, completion.usage
        (choice,) = completion.choices
        self.text = choice.message.content or ""
        self.reasoning = (choice.message.model_extra or {}).get("reasoning_content") or ""
        self.finish_reason = choice.finish_reason
        for call in choice.message.tool_calls or ():
            assert call.type == "function"
            name, arguments = call.function.name, call.function.arguments
            self.calls.append(Call(id=call.id, name=name, arguments=arguments))


def user(text: str) -> Message:
    """Build a user's message."""
    return {"role": "user", "content": text}


def result(call: Call, text: str) -> Message:
    """Build the message that answers a tool call."""
    return {"role": "tool", "tool_call_id": call.id, "content": text}


def sync_client(base_url: str, *, max_retries: int = 0, timeout: float = TIMEOUT) -> OpenAI:
    """Make a client of the official SDK; it must be closed."""
    return OpenAI(base_url=base_url, api_key=API_KEY, max_retries=max_retries, timeout=timeout)


def async_client(base_url: str, *, max_retries: int = 0, timeout: float = TIMEOUT) -> AsyncOpenAI:
    """Make an asynchronous client of the official SDK; it must be closed."""
    return AsyncOpenAI(base_url=base_url, api_key=API_KEY, max_retries=max_retries, timeout=timeout)


def attempt(
    base_url: str,
    form: Form,
    model: str,
    messages: str | Sequence[Message],
    *,
    max_retries: int = 0,
    timeout: float = TIMEOUT,
    **fields: object,
) -> Answer:
    """Ask once, in one of the four forms; an error of the SDK becomes part of the answer.

    :param messages: the messages, or the text of a single user message.
    :param max_retries: how often the SDK may repeat the request by itself.
    :param timeout: seconds between two bytes.
    :param fields: more of the request, e.g. ``tools``.
    """
    answer = Answer()
    request: dict[str, object] = {"model": model, **fields}
    request["messages"] = [user(messages)] if isinstance(messages, str) else list(messages)
    if form in STREAMED:
        request["stream"] = True
    settings: dict[str, Any] = {"base_url": base_url, "api_key": API_KEY, "max_retries": max_retries}
    settings["timeout"] = timeout
    try:
        if form.startswith("async"):
            asyncio.run(_ask_async(answer, settings, request))
        else:
            _ask(answer, settings, request)
    except APIError as exc:
        answer.error = exc
    return answer


def ask(
    base_url: str,
    form: Form,
    model: str,
    messages: str | Sequence[Message],
    *,
    max_retries: int = 0,
    timeout: float = TIMEOUT,
    **fields: object,
) -> Answer:
    """Ask as `attempt` does, and expect an answer.

    :raises openai.APIError: if there is none.
    """
    answer = attempt(base_url, form, model, messages, max_retries=max_retries, timeout=timeout, **fields)
    if answer.error is not None:
        raise answer.error
    return answer


def _ask(answer: Answer, settings: dict[str, Any], request: dict[str, object]) -> None:
    def count(request: object) -> None:
        answer.request_count += 1

    http_client = DefaultHttpx2Client(event_hooks={"request": [count]})
    with OpenAI(**settings, http_client=http_client) as client:
        create: Callable[..., Any] = client.chat.completions.create
        got = create(**request)
        if isinstance(got, ChatCompletion):
            answer.add_completion(got)
        else:
            with got:
                for chunk in got:
                    answer.add_chunk(chunk)


async def _ask_async(answer: Answer, settings: dict[str, Any], request: dict[str, object]) -> None:
    async def count(request: object) -> None:
        answer.request_count += 1

    http_client = DefaultAsyncHttpx2Client(event_hooks={"request": [count]})
    async with AsyncOpenAI(**settings, http_client=http_client) as client:
        create: Callable[..., Any] = client.chat.completions.create
        got = await create(**request)
        if isinstance(got, ChatCompletion):
            answer.add_completion(got)
        else:
            async with got:
                async for chunk in got:
                    answer.add_chunk(chunk)


@frozen(kw_only=True)
class Response:
    """An HTTP response as it came, without an SDK's interpretation."""

    status: int
    headers: dict[str, str]  #: names in small letters
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The error object of a JSON error body, which must have all its fields."""
        assert self.headers["content-type"].startswith("application/json")
        error = json.loads(self.body)["error"]
        assert isinstance(error, dict)
        assert set(error) == {"message", "type", "param", "code"}
        return error


def fetch(
    base_url: str, method: str, path: str, body: object = None, *, headers: dict[str, str] | None = None
) -> Response:
    """Send one request without an SDK.

    :param path: behind the base URL, already quoted.
    :param body: bytes as they are, anything else as JSON; None sends none.
    """
    address = urlsplit(base_url)
    assert address.hostname is not None
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=TIMEOUT)
    try:
        sent = {"Content-Type": "application/json", **(headers or {})}
        connection.request(method, f"{address.path}{path}", body=data, headers=sent)
        response = connection.getresponse()
        named = {name.lower(): value for name, value in response.getheaders()}
        return Response(status=response.status, headers=named, body=response.read())
    finally:
        connection.close()


def ask_for_calls(url: str, form: Form, model: str, script: str) -> tuple[list[Message], Answer]:
    """Have the agent call client tools; return the history that a client sends next, and the answer."""
    answer = ask(url, form, model, script, tools=TOOLS)
    assert answer.finish_reason == "tool_calls"
    return [user(script), answer.message], answer
