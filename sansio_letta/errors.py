"""The error tree, and the response to each error.

Every error has a status, a type, a code and the field of the request that caused it. The client's dialect makes
a response body of these (`dialects.errors`)::

    SansioLettaError
      LocalProtocolError     our caller broke the contract: a bug; the client gets no details
      RequestError           the client's request cannot be carried out: 4xx
      LettaError             Letta refused the turn, it failed, or Letta cannot be reached
      RemoteProtocolError    Letta's bytes are invalid, or end too early
"""

import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Final, TypeAlias

import orjson
from attrs import evolve, frozen

#: Both official SDKs obey ``retry-after`` only up to a minute. Above it, openai-node retries at once.
MAX_RETRY_AFTER_SECONDS: Final = 59


class Kept(Enum):
    """What Letta has stored of a failed turn, and so whether the client may retry."""

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
    """Letta was silent for too long."""


@frozen(kw_only=True)
class Advice:
    """How an error is reported to the client: one row of the tables of statuses."""

    status: int
    type: str
    code: str
    should_retry: bool | None = None  #: the ``x-should-retry`` header; None: the status alone decides
    retry_after: int | None = None  #: seconds


class RequestField(Enum):
    """A field of a client's request, in no dialect. A `Dialect` prints its path in a body."""

    MODEL = "model"
    INPUT = "input"  #: the messages, or the items
    INSTRUCTIONS = "instructions"  #: system and developer messages
    SPEAKER = "speaker"  #: the name of the person that a message is from
    CALL_ID = "call id"  #: of a tool's result
    CHAT_KEY = "chat key"  #: if no header names the chat
    TOOLS = "tools"
    TOOL = "tool"  #: one of them, by its index
    TOOL_PARAMETERS = "tool parameters"  #: the JSON Schema of one, by its index
    TOOL_CHOICE = "tool choice"
    REPLY_FORMAT = "reply format"
    REPLY_SCHEMA = "reply schema"  #: the JSON Schema of the reply


@frozen
class FieldPath:
    """A field of a client's request, or a place inside it.

    :param index: of a tool.
    :param inside: the names that lead to a place within a JSON Schema.
    """

    field: RequestField
    index: int | None = None
    inside: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The place in words, for logs. Clients see the dialect's path instead."""
        index = "" if self.index is None else f" {self.index}"
        return "".join((self.field.value, index, *(f".{name}" for name in self.inside)))


#: Returns the path of a field in a client's body.
FieldName: TypeAlias = Callable[[FieldPath], str]

#: In a message: placeholder for the name of the field.
_FIELD: Final = "{field}"


class SansioLettaError(Exception):
    """Base of all errors that this package raises or reports.

    :param message: for the client: what happened and what was expected, never a key or a user's text. The
        first ``{field}`` in it is replaced by the name of `field`.
    :param param: the part of the request that caused the error, by the client's name for it: a header, or,
        inside a dialect, a path like ``messages[0].content``.
    :param field: the same, independent of the dialect.
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
        """The message for logs, with our own names of fields."""
        return self._message(str)

    def message_for(self, field_name: FieldName) -> str:
        """Return the message for a client."""
        return self._message(field_name)

    def _message(self, field_name: FieldName) -> str:
        message: str = self.args[0]
        return message if self.field is None else message.replace(_FIELD, field_name(self.field), 1)

    def param_for(self, field_name: FieldName) -> str | None:
        """Return the part of the request that caused the error, for a client."""
        return self.param if self.field is None else field_name(self.field)

    @property
    def status_hint(self) -> int:
        """The HTTP status, if the response has not started yet."""
        return self.advice.status

    @property
    def code(self) -> str:
        return self.advice.code

    def headers(self) -> list[tuple[str, str]]:
        """Return the headers by which the official SDKs decide whether to retry."""
        headers = []
        if self.advice.should_retry is not None:
            headers.append(("x-should-retry", "true" if self.advice.should_retry else "false"))
        if self.advice.retry_after is not None:
            headers.append(("retry-after", str(self.advice.retry_after)))
        return headers


class LocalProtocolError(SansioLettaError):
    """The caller of this library broke its contract: a method was called at the wrong time."""

    # It is unknown what was sent to Letta by then, so it must not be sent again.
    advice = Advice(status=500, type="server_error", code="internal_error", should_retry=False)

    def message_for(self, field_name: FieldName) -> str:
        """Return no details, since the client cannot do anything about it."""
        return "Internal error."

    def param_for(self, field_name: FieldName) -> None:
        """Return None, for the same reason."""


class RequestError(SansioLettaError):
    """The client's request cannot be carried out as it is."""

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
        self.allow = allow  #: the methods that a path supports, for 405
        self.more_headers = more_headers

    def headers(self) -> list[tuple[str, str]]:
        return [*super().headers(), *([("allow", self.allow)] if self.allow else []), *self.more_headers]


class LettaError(SansioLettaError):
    """Letta refused the turn, the turn failed there, or Letta cannot be reached."""

    advice = Advice(status=502, type="server_error", code="upstream_error")


class RemoteProtocolError(SansioLettaError):
    """Letta's response is invalid, or ended too early."""

    advice = Advice(status=502, type="server_error", code="upstream_error")


#: Another replica, or this one after its restart, may answer a second later.
_SHUTTING_DOWN: Final = Advice(status=503, type="server_error", code="shutting_down", retry_after=1)


#: More waits than there is memory for; nothing was sent to Letta.
OVERLOADED: Final = Advice(status=503, type="server_error", code="server_overloaded", retry_after=1)


def shutting_down() -> SansioLettaError:
    """Make the error for a request that is interrupted by the shutdown of the proxy."""
    return SansioLettaError("The proxy is shutting down.", advice=_SHUTTING_DOWN)


def overloaded() -> SansioLettaError:
    """Make the error for a body that does not fit beside those being read. Nothing was sent to Letta."""
    return SansioLettaError(
        "The server is reading too many large requests at the moment. Try again in a second.",
        advice=OVERLOADED,
    )


def unknown_model(model: str) -> RequestError:
    """Make the error for an unknown model. LiteLLM recognises it by status and code together."""
    return RequestError(
        f"The model {quoted(model)} does not exist: no Letta agent has this name or id. "
        "Names are exact and case-sensitive; GET /v1/models lists them.",
        field=RequestField.MODEL,
        code="model_not_found",
        status=404,
    )


def invalid_key(rest: str) -> RequestError:
    """Make the error for an invalid key. LiteLLM recognises it by the first words.

    :param rest: the rest of the sentence, which must not contain the key.
    """
    return RequestError(
        f"Incorrect API key provided{rest}",
        status=401,
        code="invalid_api_key",
        more_headers=(("www-authenticate", "Bearer"),),
    )


def ambiguous_model(model: str, agent_ids: list[str]) -> RequestError:
    """Make the error for a name that several agents share."""
    return RequestError(
        f"{len(agent_ids)} agents are named {quoted(model)}: use the id of one: {', '.join(agent_ids)}.",
        field=RequestField.MODEL,
    )


def quoted(name: str, limit: int = 200) -> str:
    """Quote what a client sent for a message: truncated, and without line breaks."""
    return orjson.dumps(name if len(name) <= limit else name[:limit] + "...").decode()


def mute_agent(agent_type: str) -> RequestError:
    """Make the error for an agent whose model wrote text, which Letta did not accept."""
    return RequestError(
        f"The agent cannot answer: it is of type {agent_type}, whose model may only call tools, and it has no "
        "tool send_message. Attach send_message to it at Letta, or use an agent of type letta_v1_agent.",
        field=RequestField.MODEL,
        code="unsupported_agent",
    )


#: Letta has stored all of it, so a retry would duplicate it.
_INVALID_REPLY: Final = Advice(status=424, type="upstream_error", code="invalid_reply", should_retry=False)


def invalid_reply(problem: str) -> LettaError:
    """Make the error for a reply that was still invalid after the second try.

    :param problem: what is wrong with it.
    """
    return LettaError(
        f"The agent was asked twice, and its reply cannot be used: {problem}. With the header "
        "X-Letta-Policy-Enforcement: ignore replies come as they are.",
        advice=_INVALID_REPLY,
    )


#: Letta's code for an unacceptable input, which is only in an error message's `detail`.
INVALID_INPUT: Final = "INVALID_ARGUMENT"

#: Letta's ``error_type`` and ``stop_reason`` values -> the client's error if nothing was stored.
#: letta 0.16.7, services/streaming_service.py and schemas/letta_stop_reason.py; the unknown is `LettaError`'s.
_RUN_FAILURES: Final[Mapping[str, Advice]] = {
    "llm_rate_limit": Advice(status=429, type="rate_limit_error", code="rate_limit_exceeded"),
    # Letta's key for the model provider is wrong, so a retry would fail again.
    "llm_authentication": Advice(
        status=502, type="server_error", code="llm_authentication", should_retry=False
    ),
    # Something in the input, such as the URL of an image that Letta cannot fetch. A retry would fail again.
    INVALID_INPUT: Advice(status=400, type="invalid_request_error", code="invalid_value"),
    "llm_timeout": Advice(status=504, type="server_error", code="llm_timeout"),
    "insufficient_credits": Advice(
        status=429, type="rate_limit_error", code="insufficient_quota", should_retry=False
    ),
    "context_window_overflow_in_system_prompt": Advice(
        status=400, type="invalid_request_error", code="context_length_exceeded"
    ),
}

#: Letta's statuses for the request that starts a run -> the client's error.
_HTTP_FAILURES: Final[Mapping[int, Advice]] = {
    400: Advice(status=400, type="invalid_request_error", code="invalid_value"),
    # Letta rejects the proxy's key, not the client's. A 401 would blame the client's key.
    401: Advice(status=502, type="server_error", code="letta_unauthorized", should_retry=False),
    402: Advice(status=429, type="rate_limit_error", code="insufficient_quota", should_retry=False),
    403: Advice(status=502, type="server_error", code="letta_forbidden", should_retry=False),
    409: Advice(status=409, type="conflict_error", code="agent_busy", retry_after=5),
    413: Advice(status=413, type="invalid_request_error", code="request_too_large"),
    422: Advice(status=400, type="invalid_request_error", code="invalid_value"),
    429: Advice(status=429, type="rate_limit_error", code="rate_limit_exceeded"),
    503: Advice(status=503, type="server_error", code="upstream_error"),
    # A gateway timed out during a lookup. For requests that start a run, see `RestRun`.
    504: Advice(status=504, type="server_error", code="upstream_error"),
}

#: The texts of a 403 that is about the key and nothing else.
_KEY_WORDS: Final = frozenset({"", "unauthorized", "forbidden", "not authenticated", "access denied"})
#: Characters of Letta's text that are shown.
_MAX_DETAIL: Final = 1000
#: What looks like a key. It is only searched for in `_MAX_DETAIL` characters.
_KEY_LIKE: Final = re.compile(r"(?i)\b(bearer +|sk-|sk_|key-|at-let-|eyJ)[\w.+/=-]{8,}")

_KEPT: Final = Advice(status=424, type="upstream_error", code="upstream_error", should_retry=False)


def run_failure(reason: str, message: str | None) -> LettaError:
    """Make the error for a run that failed.

    :param reason: Letta's ``error_type``, or its ``stop_reason`` if there was no error message.
    :param message: Letta's ``message``. Its ``detail`` quotes the model provider, possibly with
        keys, and is left out.
    """
    advice = _RUN_FAILURES.get(reason, LettaError.advice)
    said = (message or "").removeprefix(f"{reason}: ")
    text = f"Letta ended the run: {reason}" + (f": {said}" if said else ".")
    if advice.code == "context_length_exceeded":
        # LiteLLM and opencode recognise a full context by these words.
        text = f"The conversation exceeds the available context size. {text}"
    return LettaError(text, advice=advice)


def shown(text: str, limit: int = _MAX_DETAIL) -> str:
    """Return what a server said, for a message to the client: truncated, and without what looks like a key."""
    return _KEY_LIKE.sub("...", text[:limit])


def http_failure(
    status: int, detail: str | None, retry_after: int | None = None, *, key_is_clients: bool = False
) -> SansioLettaError:
    """Make the error for a request that Letta answered with an HTTP error.

    :param detail: Letta's text, which is shown for statuses that are about the request itself.
    :param retry_after: seconds, Letta's own ``Retry-After``.
    :param key_is_clients: whether the key sent to Letta is the client's own.
    """
    if key_is_clients and status == 401:
        return invalid_key(
            ": Letta does not accept it. This proxy passes your key through, so it must be one of Letta's."
        )
    said = shown(detail or "")
    is_reason = said.strip(" .!").lower() not in _KEY_WORDS
    if key_is_clients and status == 403:
        why = said if is_reason else "your key may not do this there."
        return RequestError(f"Letta answered 403: {why}", status=403, code="insufficient_permissions")
    advice = _HTTP_FAILURES.get(status, LettaError.advice)
    if retry_after is not None and advice.should_retry is not False:
        advice = evolve(advice, retry_after=max(1, min(retry_after, MAX_RETRY_AFTER_SECONDS)))
    if status == 401 or (status == 403 and not is_reason):
        text = "Letta refuses the proxy's key: check LETTA_API_KEY where the proxy runs."
        advice = _HTTP_FAILURES[401]
    elif said and status < 500:
        text = f"Letta answered {status}: {said}"
    else:
        text = f"Letta answered {status}."
    return LettaError(text, advice=advice)


def kept_failure(error: SansioLettaError) -> SansioLettaError:
    """Make the same error, but one that is not retried: Letta has, or may have, stored something of the turn.

    The status is one that clients do not retry, and so is the type in a stream (which opencode looks at).
    """
    if error.advice.type == "invalid_request_error":
        return error
    kept = LettaError(error.message, advice=evolve(_KEPT, code=error.advice.code))
    kept.__cause__ = error
    return kept
