"""What clients get for every recorded turn: its bytes, and each chunk checked against the published types."""

import re
from collections.abc import Iterator
from typing import Any, Final

import orjson
import pytest
from attrs import field, frozen
from openai.types import Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from faults import keeping
from letta_server import UpstreamError
from live.asking import FORMS, PAIR, STREAMED, Answer, Message, Response, attempt, fetch, user
from recordings import SCENARIOS, expected_path, recording, turns
from sansio_letta.errors import Failure
from sansio_letta.recording.format import RecordedExchange, Recording
from sansio_letta.recording.requests import run_turn_request
from sansio_letta.turn.request import ToolResult, UserMessage
from sansio_letta.upstreams.rest.commands import OpenStream
from server.scripted import Script, hello
from support import THOROUGH

from .asking import HELPERS, helped, post
from .schema import validate, validate_error
from .serving import NO_PAUSES, RunningServer, serving
from .standin import StandInAgent, StandInLetta

MAX_LINE_SIZE: Final = 64 * 1024
USAGE: Final = {"include_usage": True}


@frozen(kw_only=True)
class RecordedTurn:
    """One recorded turn, and the request of a client that leads to it."""

    exchange: RecordedExchange
    scenario: str
    number: int
    messages: list[Message]
    tools: list[dict[str, Any]] | None
    pending: tuple[str, ...]
    resumed: tuple[RecordedExchange, ...] = ()  #: streams that took up the run
    expected: list[bytes] = field(repr=False)  #: the reviewed events; comments begin with a colon

    def play(self, letta: StandInLetta) -> StandInAgent:
        """Create an agent that answers as Letta did, cut as it was read; should it be asked again, well."""
        exchange = self.exchange
        pieces: list[bytes | UpstreamError] = [piece.data for piece in exchange.data if piece.data]
        if exchange.end != "end":
            pieces.append(UpstreamError(Failure.BROKEN, "the recording ends here"))
        assert exchange.status is not None
        answer = Script(OpenStream, pieces, status=exchange.status, headers=list(exchange.headers))
        agent = letta.add(answer, hello(), pending=self.pending)
        agent.book = self.book(agent)
        return agent

    def book(self, agent: StandInAgent) -> keeping.Run:
        """Letta's books of the run: it came to the end that was recorded, or it was cancelled."""
        body = self.exchange.body + b"".join(exchange.body for exchange in self.resumed)
        items = tuple(item + b"\n\n" for item in body.split(b"\n\n")[:-1])
        script = keeping.Script(items=items)
        keeper = keeping.KeepingAgent(agent.id, agent.name, script)
        texts = [str(message["content"]) for message in self.messages[1:] if message["role"] == "user"]
        run = keeping.Run(keeper, script, texts)
        run.go_on()
        if run.stop_reason is None:
            run.state, run.stop_reason = keeping.RunState.CANCELLED, "cancelled"
        return run

    @property
    def asked_once(self) -> bool:
        """Whether the turn is this one exchange, and it was read to its end."""
        commands = [event for event in self.expected if re.match(rb": (GET|POST) ", event)]
        return len(commands) == 1 and self.exchange.end == "end"

    @property
    def outcome(self) -> list[bytes]:
        """The reviewed events without comments."""
        return [_anonymous(event) for event in self.expected if not event.startswith(b":")]


def recorded_turns() -> Iterator[RecordedTurn]:
    """Every turn of every recording."""
    for scenario in SCENARIOS:
        whole = recording(scenario)
        sections = re.split(rb"^: turn \d+ of .*\n\n", expected_path(scenario).read_bytes(), flags=re.MULTILINE)
        for number, (exchange, section) in enumerate(zip(turns(whole), sections[1:], strict=True), 1):
            yield _turn(whole, exchange, number, section)


def _turn(whole: Recording, exchange: RecordedExchange, number: int, section: bytes) -> RecordedTurn:
    turn_request, pending = run_turn_request(whole, exchange)
    results = [result for result in turn_request.results if isinstance(result, ToolResult)]
    messages = [user("earlier")]
    if results:
        function = {"name": "unread", "arguments": "{}"}
        calls = [{"id": item.call_id, "type": "function", "function": function} for item in results]
        messages.append({"role": "assistant", "tool_calls": calls})
        messages += [
            {"role": "tool", "tool_call_id": item.call_id, "content": item.content} for item in results
        ]
    messages += [
        user(str(message.content)) for message in turn_request.messages if isinstance(message, UserMessage)
    ]
    tools = [
        {"type": "function", "function": {"name": tool.name, "parameters": dict(tool.parameters)}}
        for tool in turn_request.client_tools
    ]
    return RecordedTurn(
        exchange=exchange,
        scenario=whole.scenario,
        number=number,
        messages=messages,
        tools=tools or None,
        pending=tuple(call.call_id for call in pending) if results and pending else (),
        resumed=tuple(
            other
            for other in whole.exchanges
            if other.request.method == "POST" and re.fullmatch(r"/v1/runs/[^/]+/stream", other.request.path)
        ),
        expected=section.split(b"\n\n")[:-1],
    )


def _anonymous(event: bytes) -> bytes:
    """An event without what is its own in each answer."""
    event = re.sub(rb'"id":"chatcmpl-\w+"', b'"id":"chatcmpl-"', event)
    return re.sub(rb'"created":\d+,"model":"[^"]*"', b'"created":0,"model":""', event)


TURNS: Final = list(recorded_turns())
every_turn = pytest.mark.parametrize("turn", TURNS, ids=[f"{turn.scenario} {turn.number}" for turn in TURNS])


def ask_raw(
    url: str, letta: StandInLetta, turn: RecordedTurn, *, stream: bool = True, **fields: object
) -> Response:
    return post(url, turn.play(letta).name, turn.messages, stream=stream, tools=turn.tools, **fields)


def events_of(response: Response) -> list[bytes]:
    """The events of a stream, comments too, each of them whole."""
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.body.endswith(b"\n\n")
    return response.body.split(b"\n\n")[:-1]


@pytest.fixture(scope="module")
def running() -> Iterator[RunningServer]:
    """A server that does not wait for an agent that was busy in the recording."""
    with serving(StandInLetta(), **NO_PAUSES) as running:
        yield running


# --- F11


@every_turn
@pytest.mark.parametrize("options", [None, USAGE], ids=["plain", "usage"])
def test_bytes(url: str, letta: StandInLetta, turn: RecordedTurn, options: dict[str, bool] | None) -> None:
    response = ask_raw(url, letta, turn, stream_options=options)
    assert not response.body.startswith(b"\xef\xbb\xbf")
    assert max(map(len, response.body.split(b"\n"))) < MAX_LINE_SIZE
    if response.status != 200:
        validate_error(response.body)
        return
    events = events_of(response)
    assert b"\r" not in response.body
    for event in events:
        assert b"\n" not in event
        assert event.startswith((b"data: {", b": ")) or event == b"data: [DONE]"
    data = [event for event in events if event.startswith(b"data: ")]
    assert b"data: [DONE]" not in data[:-1]
    assert not any(event.startswith(b'data: {"error"') for event in data[:-1])
    assert data[-1] == b"data: [DONE]" or data[-1].startswith(b'data: {"error"')
    assert events[-1] == data[-1]


@every_turn
def test_outcome_is_the_reviewed_one(url: str, letta: StandInLetta, turn: RecordedTurn) -> None:
    """Byte for byte, as far as the turn is one exchange: a server adds nothing to what the core says."""
    response = ask_raw(url, letta, turn, stream_options=USAGE)
    if response.status == 200:
        outcome = [_anonymous(event) for event in events_of(response) if not event.startswith(b":")]
    else:
        outcome = [b"data: " + response.body]
    if turn.asked_once:
        assert outcome == turn.outcome
    else:
        assert outcome


# --- F29


@every_turn
@pytest.mark.parametrize("options", [None, USAGE], ids=["plain", "usage"])
def test_chunks(url: str, letta: StandInLetta, turn: RecordedTurn, options: dict[str, bool] | None) -> None:
    response = ask_raw(url, letta, turn, stream_options=options)
    if response.status != 200:
        error = validate_error(response.body)
        assert error["param"] is None or response.status in (400, 404)
        return
    *data, last = [event.removeprefix(b"data: ") for event in events_of(response) if event.startswith(b"data")]
    chunks = [validate(ChatCompletionChunk, chunk) for chunk in data]
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert choices[0].delta.to_dict() == {"role": "assistant", "content": ""}
    assert all(choice.delta.role is None and choice.index == 0 for choice in choices[1:])
    finished = [choice.finish_reason for choice in choices if choice.finish_reason]
    usages = [chunk for chunk in chunks if not chunk.choices]
    if last == b"[DONE]":
        assert len(finished) == 1
        assert choices[-1].delta.to_dict() == {}
        assert finished[0] in ("stop", "length", "tool_calls")
    else:
        validate_error(last)
        assert (finished, usages) == ([], [])
    assert all(("usage" in chunk.model_fields_set) == (options is not None) for chunk in chunks)
    assert usages == [chunk for chunk in chunks if chunk.usage is not None] == (chunks[-1:] if usages else [])
    check_calls(chunks, finished)


def check_calls(chunks: list[ChatCompletionChunk], finished: list[Any]) -> None:
    """Indexes without gaps, a name and an id once, arguments that are JSON."""
    arguments: list[str] = []
    for chunk in chunks:
        for choice in chunk.choices:
            for call in choice.delta.tool_calls or ():
                assert call.function is not None
                assert call.function.arguments is not None
                if call.index == len(arguments):
                    assert call.id
                    assert call.function.name
                    assert call.type == "function"
                    arguments.append("")
                else:
                    assert call.model_fields_set == {"index", "function"}
                    assert call.function.model_fields_set == {"arguments"}
                arguments[call.index] += call.function.arguments
    if finished:
        assert all(isinstance(orjson.loads(text), dict) for text in arguments)
        assert bool(arguments) == (finished == ["tool_calls"])


@every_turn
def test_whole_answers(url: str, letta: StandInLetta, turn: RecordedTurn) -> None:
    response = ask_raw(url, letta, turn, stream=False)
    if response.status == 200:
        completion = validate(ChatCompletion, response.body)
        (choice,) = completion.choices
        assert choice.message.role == "assistant"
        assert bool(choice.message.tool_calls) == (choice.finish_reason == "tool_calls")
    else:
        validate_error(response.body)


def test_models(url: str, letta: StandInLetta) -> None:
    for name in ("Milo", "Twin", "Twin"):
        letta.add(name=name)
    listed = orjson.loads(fetch(url, "GET", "/models").body)
    assert set(listed) == {"object", "data"}
    assert listed["object"] == "list"
    for model in listed["data"]:
        validate(Model, orjson.dumps(model), additions=frozenset({"name"}))
    validate(Model, fetch(url, "GET", "/models/Milo").body, additions=frozenset())


# --- The same through the SDK, in each of its forms


def whole(answer: Answer) -> tuple[object, ...]:
    """What an answer must be in each form alike."""
    kind = answer.error and (answer.error.type, answer.error.code)
    if answer.error is not None:
        return (kind,)  # a whole answer has no partial text
    return answer.text, answer.reasoning, answer.calls, answer.finish_reason, answer.usage


@every_turn
def test_forms_agree(url: str, letta: StandInLetta, turn: RecordedTurn) -> None:
    answers = {}
    for form in FORMS if THOROUGH else PAIR:
        options = USAGE if form in STREAMED else None
        answers[form] = attempt(
            url, form, turn.play(letta).name, turn.messages, tools=turn.tools, stream_options=options
        )
    outcomes = {form: whole(answer) for form, answer in answers.items()}
    assert len({repr(outcome) for outcome in outcomes.values()}) == 1, outcomes
    plain = answers["sync"]
    for helper in HELPERS if THOROUGH else HELPERS[:1]:
        tools: Any = {"tools": turn.tools} if turn.tools else {}
        got = helped(
            url,
            helper,
            turn.play(letta).name,
            turn.messages,
            stream_options=USAGE,
            **tools,
        )
        if plain.error is not None:
            assert got.error is not None
            assert (got.error.type, got.error.code) == (plain.error.type, plain.error.code)
            continue
        assert got.error is None
        assert got.final is not None
        again = Answer()
        again.add_completion(got.final)
        assert whole(again) == whole(plain)
