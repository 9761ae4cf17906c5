"""One HTTP request of a client, from its bytes to the bytes of its answer: what every transport shares.

A `Proxy` lives as long as the process and remembers what requests have in common. Its `Cycle` answers one
request: the transport carries out its commands against Letta and passes its response on, and decides nothing.
The loop of a transport is::

    cycle = proxy.open(request, token=..., created=..., now=...)
    while (item := cycle.next_event()) is not Signal.FINISHED:
        match item:
            case ResponseHead() | ResponseBody(): ...  # to the client
            case Signal.NEED_DATA: ...  # receive_data(), or handle_deadline() when it is time
            case command: ...  # to Letta, then receive_response() or receive_failure()
"""

import re
from collections import deque
from collections.abc import Sequence
from typing import Final, TypeAlias

from attrs import define, field, frozen

from . import letta
from ._signal import Signal
from .access import ANYONE, Caller
from .agents import AgentMemory
from .chat_request import ChatRequest, decode_request
from .chat_writer import ChunkWriter, CompletionWriter, Heading, Writer
from .config import Config
from .errors import RequestError, SansioLettaError
from .events import (
    AgentFound,
    AgentGone,
    CallArguments,
    CallsSettled,
    CallStarted,
    Command,
    Event,
    Failure,
    KeepAlive,
    ReasoningDelta,
    TextDelta,
    TurnFailed,
    TurnFinished,
    TurnStarted,
)
from .exchange import Headers
from .inquiry import (
    Inquiry,
    Questions,
    Reply,
    ask_model,
    ask_models,
    ask_ready,
    error_reply,
    json_reply,
    say_alive,
    say_where,
)
from .planning import plan_turn
from .routing import Endpoint, Route, route
from .turn import Turn


@frozen(kw_only=True)
class HttpRequest:
    """A client's request, whole.

    :param target: as it stands in the request line, raw.
    :param headers: pairs of lower-case name and value.
    """

    method: str
    target: str
    headers: Headers = ()
    body: bytes = field(default=b"", repr=False)


@frozen(kw_only=True)
class ResponseHead:
    """The status line and the headers. Without a ``content-length`` the body's end must show by its framing."""

    status: int
    headers: tuple[tuple[str, str], ...]


@frozen(kw_only=True)
class ResponseBody:
    """More of the body; what comes before the next NEED_DATA belongs into one write."""

    data: bytes = field(repr=False)


Item: TypeAlias = Command | ResponseHead | ResponseBody


@define(kw_only=True)
class Summary:
    """What happened in a cycle, for a log line; no key and no text."""

    request_id: str
    method: str
    path: str
    caller: str | None = None  #: the name of its key
    status: int | None = None  #: None: the client left before it was told
    stream: bool | None = None
    model: str | None = None
    agent_id: str | None = None
    outcome: str | None = None  #: the finish reason, ``abandoned``, or an error's code
    kept: str | None = None  #: after a failure: whether the agent's memory has something of the turn
    chunk_count: int = 0
    call_count: int = 0
    usage: letta.UsageStatistics | None = None
    ignored: tuple[str, ...] = ()
    settled: CallsSettled | None = None


@define
class Proxy:
    """Answers requests; holds what they share."""

    config: Config = field(factory=Config)
    _memory: AgentMemory = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._memory = AgentMemory(self.config.agent_ttl, self.config.max_remembered_agent_count)

    def refuse(self, request: HttpRequest) -> RequestError | None:
        """What is wrong with a request's head, so that its body need not be read.

        :param request: its body may still be missing.
        """
        headers = dict(request.headers)
        size = headers.get("content-length", "")
        coding = headers.get("content-encoding", "identity").strip().lower()
        # A length of thousands of digits would take long to read, and is too large anyway.
        if size.isascii() and size.isdigit() and int(size[:18]) > self.config.max_request_size:
            return self.too_large()
        if coding not in ("", "identity"):
            return RequestError(
                f"A body with Content-Encoding {coding[:40]} is not read: send it plain.",
                status=415,
                code="unsupported_media_type",
            )
        if headers.get("content-type", "").lower().startswith("multipart/"):
            return RequestError("The body must be JSON, not a multipart form.", code="invalid_json")
        return None

    def too_large(self) -> RequestError:
        """The error for a body beyond the limit."""
        return RequestError(
            f"The body is larger than {self.config.max_request_size} bytes.",
            status=413,
            code="request_too_large",
        )

    def open(
        self, request: HttpRequest, *, token: str, created: int, now: float, caller: Caller = ANYONE
    ) -> "Cycle":
        """Begin to answer a request. Nothing is raised for what the client sent: it becomes the answer.

        :param token: random and unique, 8 to 64 letters and digits; ids are made of it.
        :param created: Unix time, seconds.
        :param now: monotonic seconds.
        :param caller: whose request it is; agents that it may not use do not exist for it.
        """
        summary = Summary(
            request_id=f"req_{token}",
            method=request.method,
            path=_log_path(request.target),
            caller=caller.name,
        )
        head_only = request.method == "HEAD"
        try:
            wanted = route(request.method, request.target)
            if wanted.endpoint is Endpoint.CHAT:
                if refusal := self.refuse(request):
                    raise refusal
                return self._open_chat(request, summary, token, created, now, caller)
            questions = self._questions(wanted, caller)
        except RequestError as exc:
            summary.outcome = exc.code
            questions = error_reply(exc)
        inquiry = Inquiry(questions, self.config.max_answer_size, caller)
        return Cycle(inquiry, None, self._memory, self.config, summary, now, head_only, caller)

    def remember(self, model: str, agent: letta.Agent, *, now: float) -> None:
        """Tell which agent a model's name or id stands for, so that Letta is not asked.

        :param now: monotonic seconds.
        """
        self._memory.remember(model, agent, now)

    def reject(
        self,
        error: SansioLettaError,
        request: HttpRequest,
        *,
        token: str,
        now: float,
        caller: Caller = ANYONE,
    ) -> "Cycle":
        """Answer a request that is refused, or that could not be read to its end."""
        summary = Summary(
            request_id=f"req_{token}",
            method=request.method,
            path=_log_path(request.target),
            caller=caller.name,
        )
        summary.outcome = error.code
        inquiry = Inquiry(error_reply(error), self.config.max_answer_size)
        return Cycle(inquiry, None, self._memory, self.config, summary, now, request.method == "HEAD")

    def _open_chat(
        self, request: HttpRequest, summary: Summary, token: str, created: int, now: float, caller: Caller
    ) -> "Cycle":
        asked = decode_request(request.body)
        summary.stream, summary.model = asked.stream, asked.model
        planned = plan_turn(asked)
        summary.ignored = planned.ignored
        agent = self._memory.recall(asked.model, now, caller)
        summary.agent_id = agent.id if agent else None
        turn = Turn(planned.plan, self.config, agent, caller=caller)
        heading = Heading(completion_id=f"chatcmpl-{token}", created=created, model=asked.model)
        return Cycle(turn, self._writer(asked, heading), self._memory, self.config, summary, now, False, caller)

    def _writer(self, asked: ChatRequest, heading: Heading) -> Writer:
        config = self.config
        if not asked.stream:
            return CompletionWriter(heading, config.reasoning_field)
        return ChunkWriter(heading, asked.include_usage, config.reasoning_field, config.max_fragment_size)

    def _questions(self, wanted: Route, caller: Caller) -> Questions | Reply:
        match wanted.endpoint:
            case Endpoint.MODELS:
                return ask_models(self.config, caller)
            case Endpoint.MODEL:
                return ask_model(wanted.model or "", caller)
            case Endpoint.READY:
                return ask_ready()
            case Endpoint.HEALTH:
                return say_alive()
            case Endpoint.ROOT:
                return say_where()
            case _:
                return Reply(status=204, body=b"", headers=(("allow", "GET, HEAD, POST, OPTIONS"),))


_STREAM_HEADERS: Final = (("cache-control", "no-cache"), ("x-accel-buffering", "no"))


@define
class Cycle:
    """One request's answer: Letta's answers in, the response and commands out.

    Methods are those of a turn, with the time: `now` is monotonic seconds, never smaller than before.
    """

    _source: Turn | Inquiry
    _writer: Writer | None
    _memory: AgentMemory
    _config: Config
    summary: Summary
    _now: float
    _head_only: bool
    _caller: Caller = ANYONE
    _items: deque[Item] = field(factory=deque, init=False)
    _heard: float = field(init=False)
    _said: float = field(init=False)
    _responding: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._heard = self._said = self._now

    @property
    def config(self) -> Config:
        """The limits and policies that it goes by."""
        return self._config

    @property
    def responding(self) -> bool:
        """Whether the head was handed over: no other answer can be given any more."""
        return self._responding

    def receive_response(self, status: int, headers: Sequence[tuple[str, str]], now: float) -> None:
        """See `Turn.receive_response`."""
        self._heard = self._now = now
        self._source.receive_response(status, headers)

    def receive_data(self, data: bytes, now: float) -> None:
        """See `Turn.receive_data`."""
        self._heard = self._now = now
        self._source.receive_data(data)

    def receive_failure(self, failure: Failure, reason: str, now: float) -> None:
        """See `Turn.receive_failure`."""
        self._heard = self._now = now
        self._source.receive_failure(failure, reason)

    def abandon(self) -> None:
        """The client has left. Go on until FINISHED: a run may have to be cancelled."""
        self._items.clear()
        self.summary.outcome = self.summary.outcome or "abandoned"
        self._source.abandon()

    def next_deadline(self) -> float:
        """When `handle_deadline` should be called if Letta says nothing until then."""
        silence = self._heard + self._config.letta_silence_timeout
        return min(silence, self._said + self._config.keepalive_timeout) if self._keeps_alive else silence

    def handle_deadline(self, now: float) -> None:
        """Do what is due: a comment for a client that waits, or the end of a turn that Letta forgot.

        :raises LocalProtocolError: if no exchange with Letta is under way.
        """
        self._now = now
        if now >= self._heard + self._config.letta_silence_timeout:
            self._heard = now
            seconds = f"{self._config.letta_silence_timeout:g}"
            self._source.receive_failure(Failure.SILENT, f"no byte came for {seconds} seconds")
        elif self._keeps_alive and now >= self._said + self._config.keepalive_timeout:
            assert self._writer is not None
            self._say(self._writer.write(KeepAlive()))

    @property
    def _keeps_alive(self) -> bool:
        return self._responding and self._writer is not None and self._writer.streaming

    def next_event(self) -> Item | Signal:
        """The next item; NEED_DATA while Letta must speak first, FINISHED when the response is whole."""
        while not self._items:
            item = self._source.next_event()
            if isinstance(item, Signal):
                return item
            if isinstance(item, Event):
                assert self._writer is not None
                self._take(item, self._writer)
            elif isinstance(item, Reply):
                self._reply(item)
            else:
                return item
        return self._items.popleft()

    def _take(self, event: Event, writer: Writer) -> None:
        summary = self.summary
        match event:
            case TextDelta() | ReasoningDelta() | CallArguments():
                pass
            case AgentFound(model=model, agent=agent):
                summary.agent_id = agent.id
                self._memory.remember(model, agent, self._now, self._caller)
            case AgentGone(agent_id=agent_id):
                self._memory.forget(agent_id)
            case CallsSettled(stale=stale):
                summary.settled = event
                if stale:
                    summary.ignored += ("messages.tool_call_id",)
            case CallStarted():
                summary.call_count += 1
            case TurnFinished(reason=reason, usage=usage):
                summary.outcome, summary.usage = reason.value, usage
                if not writer.streaming:
                    self._reply(json_reply(writer.write(event)))
                    return
            case TurnFailed(error=error, kept=kept):
                summary.outcome, summary.kept = error.code, kept.value
                if not self._responding:
                    self._reply(error_reply(error))
                    return
            case TurnStarted():
                if writer.streaming:
                    self._head(200, (("content-type", writer.content_type), *_STREAM_HEADERS))
        if data := writer.write(event):
            summary.chunk_count += 1
            self._say(data)

    def _reply(self, reply: Reply) -> None:
        length = (("content-length", str(len(reply.body))),) if reply.status != 204 else ()
        self._head(reply.status, (*reply.headers, *length))
        if reply.body and not self._head_only:
            self._say(reply.body)

    def _head(self, status: int, headers: Headers) -> None:
        self._responding = True
        self.summary.status = status
        ignored = self.summary.ignored
        self._items.append(
            ResponseHead(
                status=status,
                headers=(
                    *headers,
                    ("x-request-id", self.summary.request_id),
                    *([("x-ignored-parameters", _header_list(ignored))] if ignored else []),
                ),
            )
        )

    def _say(self, data: bytes) -> None:
        self._said = self._now
        self._items.append(ResponseBody(data=data))


def _header_list(names: Sequence[str]) -> str:
    """Names of fields come from the client: what could end a header line must not get through."""
    return ", ".join(re.sub(r"[^!-+\--~]", "?", name[:64]) for name in names[:50])


def _log_path(target: str) -> str:
    """The target without its query, printable and short."""
    path = target.partition("?")[0][:200]
    return "".join(char if char.isprintable() else "?" for char in path)
