"""The error tree, and what a client is told of each.

Every error carries a status, a type, a code and what of the request is at fault. The client's dialect makes a
body of that (`dialects.errors`)::

    SansioLettaError
      LocalProtocolError     our caller broke the contract: a bug; no detail goes to the client
      RequestError           the client's request cannot be carried out: 4xx
      LettaError             Letta refused, gave up or cannot be reached
      RemoteProtocolError    Letta's bytes make no sense, or end too soon
"""

import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Final, TypeAlias

import orjson
from attrs import evolve, frozen

#: Both official SDKs obey ``retry-after`` only up to a minute: openai-node retries at once above it.
MAX_RETRY_AFTER_SECONDS: Final = 59


class Kept(Enum):
    """What a failed turn has left in the agent's memory, and so whether a client may repeat it."""

    NOTHING = "nothing"
    SOMETHING = "something"
    UNKNOWN = "unknown"


class Failure(Enum):
    """How a transport's exchange with Letta failed."""

    NOT_SENT = "not sent"
    """No connection: Letta has seen nothing of the request."""
    BROKEN = "broken"
    """The connection ended before the answer did."""
    SILENT = "silent"
    """Letta said nothing for too long."""


@frozen(kw_only=True)
class Advice:
    """How the failure is put to the client: one row of the tables of statuses."""

    status: int
    type: str
    code: str
    should_retry: bool | None = None  #: the ``x-should-retry`` header; None: the status alone decides
    retry_after: int | None = None  #: seconds


class RequestField(Enum):
    """A field of a client's request, in no dialect. A `Dialect` prints the path that it has in a body."""

    MODEL = "model"
    INPUT = "input"  #: the messages, or the items
    INSTRUCTIONS = "instructions"  #: of the system or the developer
    SPEAKER = "speaker"  #: the name of the person that a message is from
    CALL_ID = "call id"  #: of a tool's result
    CHAT_KEY = "chat key"  #: where no header names the chat
    TOOLS = "tools"
    TOOL = "tool"  #: one of them, by its index
    TOOL_PARAMETERS = "tool parameters"  #: the JSON Schema of one, by its index
    TOOL_CHOICE = "tool choice"
    REPLY_FORMAT = "reply format"
    REPLY_SCHEMA = "reply schema"  #: the JSON Schema of the reply


@frozen
class FieldPath:
    """A field of a client's request, or a place in it.

    :param index: of a tool.
    :param inside: the names that lead to a place within a JSON Schema.
    """

    field: RequestField
    index: int | None = None
    inside: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The place in words, for logs: no client knows it by these."""
        index = "" if self.index is None else f" {self.index}"
        return "".join((self.field.value, index, *(f".{name}" for name in self.inside)))


#: Prints the path that a field has in a client's body.
FieldName: TypeAlias = Callable[[FieldPath], str]

#: In a message: where the name of the field at fault belongs.
_FIELD: Final = "{field}"


class SansioLettaError(Exception):
    """Base of all errors that this package raises or reports.

    :param message: for the client: what was seen and what was expected, never a key or a user's text. The
        first ``{field}`` in it stands for the name of `field`.
    :param param: what of the request is at fault, by the name that the client knows it by: a header, or, from
        within a dialect, a path like ``messages[0].content``.
    :param field: the same in no dialect.
    """

    advice: Advice = Advice(status=500, type="server_error", code="internal_error")

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        field: RequestField | FieldPath | None = None,
        advice: Advice | None = None,
    ) -> None:
        super().__init__(message)
        self.param = param
        self.field = FieldPath(field) if isinstance(field, RequestField) else field
        if advice is not None:
            self.advice = advice

    def __str__(self) -> str:
        return self.message

    @property
    def message(self) -> str:
        """What went wrong, for logs: fields have names of our own."""
        return self._message(str)

    def message_for(self, field_name: FieldName) -> str:
        """What went wrong, for a client."""
        return self._message(field_name)

    def _message(self, field_name: FieldName) -> str:
        message: str = self.args[0]
        return message if self.field is None else message.replace(_FIELD, field_name(self.field), 1)

    def param_for(self, field_name: FieldName) -> str | None:
        """What of the request is at fault, for a client."""
        return self.param if self.field is None else field_name(self.field)

    @property
    def status_hint(self) -> int:
        """The HTTP status to answer with while no byte of the answer has been sent."""
        return self.advice.status

    @property
    def code(self) -> str:
        return self.advice.code

    def headers(self) -> list[tuple[str, str]]:
        """What the official SDKs read when they decide whether to send the request again."""
        headers = []
        if self.advice.should_retry is not None:
            headers.append(("x-should-retry", "true" if self.advice.should_retry else "false"))
        if self.advice.retry_after is not None:
            headers.append(("retry-after", str(self.advice.retry_after)))
        return headers


class LocalProtocolError(SansioLettaError):
    """The caller of this library broke its contract: a method was called at the wrong time."""

    # What Letta has been told by then nobody knows: it must not be told again.
    advice = Advice(status=500, type="server_error", code="internal_error", should_retry=False)

    def message_for(self, field_name: FieldName) -> str:
        """Nothing of what went wrong: the fault is none of the client's."""
        return "Internal error."

    def param_for(self, field_name: FieldName) -> None:
        """Nothing, for the same reason."""


class RequestError(SansioLettaError):
    """The client's request cannot be carried out as it stands."""

    advice = Advice(status=400, type="invalid_request_error", code="invalid_value")

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        field: RequestField | FieldPath | None = None,
        code: str = "invalid_value",
        status: int = 400,
        allow: str | None = None,
        more_headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        advice = evolve(RequestError.advice, code=code, status=status)
        super().__init__(message, param=param, field=field, advice=advice)
        self.allow = allow  #: the methods that a path takes, for 405
        self.more_headers = more_headers

    def headers(self) -> list[tuple[str, str]]:
        return [*super().headers(), *([("allow", self.allow)] if self.allow else []), *self.more_headers]


class LettaError(SansioLettaError):
    """Letta refused the turn, gave it up, or cannot be reached."""

    advice = Advice(status=502, type="server_error", code="upstream_error")


class RemoteProtocolError(SansioLettaError):
    """What came from Letta makes no sense, or stopped too soon."""

    advice = Advice(status=502, type="server_error", code="upstream_error")


#: Another replica, or this one once it is back, may answer at once: a restart takes a second.
_SHUTTING_DOWN: Final = Advice(status=503, type="server_error", code="shutting_down", retry_after=1)


_OVERLOADED: Final = Advice(status=503, type="server_error", code="server_overloaded", retry_after=1)


def shutting_down() -> SansioLettaError:
    """The proxy itself ends, and has no more time for this request."""
    return SansioLettaError("The proxy is shutting down.", advice=_SHUTTING_DOWN)


def overloaded() -> SansioLettaError:
    """There is no room for this request beside those that are being read; nothing was done of it."""
    return SansioLettaError(
        "The server is reading too much from others at the moment. Try again in a second.", advice=_OVERLOADED
    )


def unknown_model(model: str) -> RequestError:
    """No agent has this name or id. LiteLLM knows a missing model by status and code together."""
    return RequestError(
        f"The model {quoted(model)} does not exist: no Letta agent has this name or id. "
        "Names are exact and case-sensitive; GET /v1/models lists them.",
        field=RequestField.MODEL,
        code="model_not_found",
        status=404,
    )


def invalid_key(rest: str) -> RequestError:
    """The client's key is no good. LiteLLM knows it by the first words.

    :param rest: of the sentence; the key is never repeated.
    """
    return RequestError(
        f"Incorrect API key provided{rest}",
        status=401,
        code="invalid_api_key",
        more_headers=(("www-authenticate", "Bearer"),),
    )


def ambiguous_model(model: str, agent_ids: list[str]) -> RequestError:
    """Several agents share the name, and we never guess."""
    return RequestError(
        f"{len(agent_ids)} agents are named {quoted(model)}: ask for one by its id: {', '.join(agent_ids)}.",
        field=RequestField.MODEL,
    )


def quoted(name: str, limit: int = 200) -> str:
    """What a client sent, for a message: short, and with nothing in it that a line could end by."""
    return orjson.dumps(name if len(name) <= limit else name[:limit] + "...").decode()


def mute_agent(agent_type: str) -> RequestError:
    """The agent's model wrote text, and Letta takes none of it."""
    return RequestError(
        f"The agent cannot answer: it is of type {agent_type}, whose model may only call tools, and it has no "
        "tool send_message. Attach send_message to it at Letta, or use an agent of type letta_v1_agent.",
        field=RequestField.MODEL,
        code="unsupported_agent",
    )


#: The agent has kept all of it: whoever asks again says it again.
_INVALID_REPLY: Final = Advice(status=424, type="upstream_error", code="invalid_reply", should_retry=False)


def invalid_reply(complaint: str) -> LettaError:
    """The reply is not what the client wishes, nor was it when the agent was asked again.

    :param complaint: what is wrong with it.
    """
    return LettaError(
        f"The agent was asked twice, and its reply cannot be used: {complaint}. With the header "
        "X-Letta-Policy-Enforcement: ignore replies come as they are.",
        advice=_INVALID_REPLY,
    )


#: Letta's word for an input that it cannot take; it stands in an error message's `detail` alone.
INVALID_INPUT: Final = "INVALID_ARGUMENT"

#: Letta's ``error_type`` and ``stop_reason`` values -> what the client is told while nothing was kept.
#: letta 0.16.7, services/streaming_service.py and schemas/letta_stop_reason.py; the unknown is `LettaError`'s.
_RUN_FAILURES: Final[Mapping[str, Advice]] = {
    "llm_rate_limit": Advice(status=429, type="rate_limit_error", code="rate_limit_exceeded"),
    # The model's key at Letta is wrong: a status the client retries would only be refused again.
    "llm_authentication": Advice(
        status=502, type="server_error", code="llm_authentication", should_retry=False
    ),
    # Of the input, like the URL of an image that Letta cannot fetch: the same again would be refused again.
    INVALID_INPUT: Advice(status=400, type="invalid_request_error", code="invalid_value"),
    "llm_timeout": Advice(status=504, type="server_error", code="llm_timeout"),
    "insufficient_credits": Advice(
        status=429, type="rate_limit_error", code="insufficient_quota", should_retry=False
    ),
    "context_window_overflow_in_system_prompt": Advice(
        status=400, type="invalid_request_error", code="context_length_exceeded"
    ),
}

#: Statuses that Letta answers a turn's request with -> what the client is told.
_HTTP_FAILURES: Final[Mapping[int, Advice]] = {
    400: Advice(status=400, type="invalid_request_error", code="invalid_value"),
    # Letta refuses the proxy's key, not the client's: 401 would make the client doubt its own.
    401: Advice(status=502, type="server_error", code="letta_unauthorized", should_retry=False),
    402: Advice(status=429, type="rate_limit_error", code="insufficient_quota", should_retry=False),
    403: Advice(status=502, type="server_error", code="letta_forbidden", should_retry=False),
    409: Advice(status=409, type="conflict_error", code="agent_busy", retry_after=5),
    413: Advice(status=413, type="invalid_request_error", code="request_too_large"),
    422: Advice(status=400, type="invalid_request_error", code="invalid_value"),
    429: Advice(status=429, type="rate_limit_error", code="rate_limit_exceeded"),
    503: Advice(status=503, type="server_error", code="upstream_error"),
    # A gateway gave up waiting for the answer to a question; after a turn's request it is no status (turn.py).
    504: Advice(status=504, type="server_error", code="upstream_error"),
}

#: All that a 403 may say if the key is at fault, and nothing else.
_KEY_WORDS: Final = frozenset({"", "unauthorized", "forbidden", "not authenticated", "access denied"})
#: Characters of what Letta says that are shown.
_MAX_DETAIL: Final = 1000
#: What looks like somebody's key. It is looked for in `_MAX_DETAIL` characters, no more.
_KEY_LIKE: Final = re.compile(r"(?i)\b(bearer +|sk-|sk_|key-|at-let-|eyJ)[\w.+/=-]{8,}")

_KEPT: Final = Advice(status=424, type="upstream_error", code="upstream_error", should_retry=False)


def run_failure(reason: str, message: str | None) -> LettaError:
    """The error for a run that ended badly.

    :param reason: Letta's ``error_type``, or its ``stop_reason`` where no error message came.
    :param message: Letta's ``message``. Its ``detail`` repeats the model provider word by word, keys and
        all, and stays out.
    """
    advice = _RUN_FAILURES.get(reason, LettaError.advice)
    said = (message or "").removeprefix(f"{reason}: ")
    text = f"Letta ended the run: {reason}" + (f": {said}" if said else ".")
    if advice.code == "context_length_exceeded":
        # LiteLLM and opencode know a full context by these words.
        text = f"The conversation exceeds the available context size. {text}"
    return LettaError(text, advice=advice)


def http_failure(
    status: int, detail: str | None, retry_after: int | None = None, *, key_is_clients: bool = False
) -> SansioLettaError:
    """The error for a request that Letta answered with an HTTP status other than success.

    :param detail: what Letta says, shown for the statuses that are about the request itself.
    :param retry_after: seconds, Letta's own ``Retry-After``.
    :param key_is_clients: the key that Letta was given is the client's own.
    """
    if key_is_clients and status == 401:
        return invalid_key(
            ": Letta does not take it. This proxy passes your key on, so it must be one of Letta's."
        )
    shown = _KEY_LIKE.sub("...", (detail or "")[:_MAX_DETAIL])
    is_reason = shown.strip(" .!").lower() not in _KEY_WORDS
    if key_is_clients and status == 403:
        why = shown if is_reason else "your key may not do this there."
        return RequestError(f"Letta answered 403: {why}", status=403, code="insufficient_permissions")
    advice = _HTTP_FAILURES.get(status, LettaError.advice)
    if retry_after is not None and advice.should_retry is not False:
        advice = evolve(advice, retry_after=max(1, min(retry_after, MAX_RETRY_AFTER_SECONDS)))
    if status == 401 or (status == 403 and not is_reason):
        text = "Letta refuses the proxy's key: check LETTA_API_KEY where the proxy runs."
        advice = _HTTP_FAILURES[401]
    elif shown and status < 500:
        text = f"Letta answered {status}: {shown}"
    else:
        text = f"Letta answered {status}."
    return LettaError(text, advice=advice)


def kept_failure(error: SansioLettaError) -> SansioLettaError:
    """The same failure after Letta has, or may have, kept something of the turn: nobody may repeat it.

    The status is one that no client retries, and so is the type in a stream (opencode looks at it).
    """
    if error.advice.type == "invalid_request_error":
        return error
    kept = LettaError(error.message, advice=evolve(_KEPT, code=error.advice.code))
    kept.__cause__ = error
    return kept
