"""The App Server's frames: JSON objects, of which only what is used is read.

A server of another version may send more, so fields and types that are not known are ignored. A field that is
used and has another type than expected makes the frame a `BadFrame`.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import orjson
from attrs import define, field, frozen

from ...errors import RemoteProtocolError

Json: TypeAlias = dict[str, Any]

#: Frames that are skipped unread: they come six times a turn, with 12 KB each.
_DEVICE_STATUS: Final = b'{"type":"update_device_status"'
#: A frame's number, which stands near its end.
_NUMBER: Final = re.compile(rb'"event_seq": ?(\d{1,18})[,}]')
_TAIL_SIZE: Final = 300
_LENGTH: Final = "max_tokens_exceeded"
#: Stop reasons of turns that end with a reply.
_DONE: Final = frozenset({"end_turn", "tool_rule", "no_tool_call", "max_steps", _LENGTH})


class _Unreadable(Exception):
    """A field is missing, or has another type than expected."""


@frozen(kw_only=True)
class BadFrame:
    """A frame that cannot be read.

    :param reason: names the field and what was expected.
    :param conversation_id: of the conversation that it belongs to; None if that cannot be read either.
    """

    reason: str
    conversation_id: str | None = None


@frozen(kw_only=True)
class Response:
    """The answer to a request.

    :param error: why it was refused; None if it was not.
    """

    request_id: str
    body: Json = field(repr=False)
    error: str | None = None


@define(eq=False)  # not frozen: one is made for every token
class Delta:
    """A piece of a turn: a message, or a fragment of one.

    :param kind: its ``message_type``.
    :param size: of the frame, in bytes.
    """

    conversation_id: str
    kind: str
    body: Json = field(repr=False)
    size: int = 0


@frozen(kw_only=True)
class TurnEnd:
    """A turn is over: exactly one for each input that was accepted, whatever its steps said before.

    :param turn_id: None if the server gave none.
    """

    conversation_id: str
    stop_reason: str
    turn_id: str | None = None
    error: str | None = field(default=None, repr=False)

    @property
    def is_short(self) -> bool:
        """Whether the reply was cut off at its greatest length, which the server reports as an error, too."""
        return self.stop_reason == _LENGTH

    @property
    def is_whole(self) -> bool:
        """Whether the turn has ended with a reply."""
        return self.stop_reason in _DONE and (not self.error or self.is_short)

    @property
    def is_cancelled(self) -> bool:
        """Whether the turn was cancelled. The server tells the agent so before the next input."""
        return self.stop_reason == "cancelled"

    @property
    def is_dead(self) -> bool:
        """Whether the input was not taken, since the conversation's last run lost its stream."""
        return self.error is not None and "already has an active run" in self.error


@frozen(kw_only=True)
class PermissionRequest:
    """The server asks whether a call may be carried out. It waits for the answer without a time limit."""

    conversation_id: str
    request_id: str
    call_id: str
    tool: str
    arguments: Json = field(repr=False)


@frozen(kw_only=True)
class ToolRequest:
    """The server asks this socket to carry out a call, and waits five minutes at most."""

    conversation_id: str
    request_id: str
    call_id: str
    tool: str


@frozen(kw_only=True)
class LoopStatus:
    """What a conversation is doing."""

    conversation_id: str
    status: str

    @property
    def is_idle(self) -> bool:
        """Whether it waits for input."""
        return self.status == "WAITING_ON_INPUT"


@frozen(kw_only=True)
class QueueStatus:
    """Inputs that wait for the end of a turn.

    :param items: pairs of an item's id and the id of its message.
    """

    conversation_id: str
    items: tuple[tuple[str, str], ...] = ()


@frozen(kw_only=True)
class DeviceStatus:
    """Where an agent's memory is."""

    conversation_id: str
    memory_directory: str | None


Frame: TypeAlias = (
    Response | Delta | TurnEnd | PermissionRequest | ToolRequest | LoopStatus | QueueStatus | DeviceStatus
)


def read_frame(data: bytes, *, with_device: bool = False) -> tuple[Frame | BadFrame | None, int | None]:
    """Read a frame.

    :param with_device: whether to read where the agent's memory is.
    :return: the frame, None if it is of no interest; and its number on the socket, None if it has none.
    """
    if not with_device and data.startswith(_DEVICE_STATUS):
        numbers = _NUMBER.findall(data[-_TAIL_SIZE:])
        if numbers:
            return None, int(numbers[-1])
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError:
        return BadFrame(reason="expected a JSON object"), None
    if type(body) is not dict:
        return BadFrame(reason="expected a JSON object"), None
    number = body.get("event_seq")
    if type(number) is not int:
        number = None
    try:
        if body.get("type") == "stream_delta":
            return _read_delta(body, len(data)), number
        return _convert(body), number
    except _Unreadable as exc:
        runtime = body.get("runtime")
        named = runtime.get("conversation_id") if isinstance(runtime, dict) else None
        reason = str(exc)
        return BadFrame(reason=reason, conversation_id=named if isinstance(named, str) else None), number


def _read_delta(body: Json, size: int) -> Delta:
    delta, runtime = body.get("delta"), body.get("runtime")
    if type(delta) is not dict or type(runtime) is not dict:
        delta, runtime = _object(body, "delta"), _object(body, "runtime")
    kind, conversation_id = delta.get("message_type"), runtime.get("conversation_id")
    if type(kind) is not str or type(conversation_id) is not str:
        kind, conversation_id = _text(delta, "message_type"), _text(runtime, "conversation_id")
    check = _CHECKS.get(kind)
    if check is not None:
        check(delta)
    return Delta(conversation_id, kind, delta, size)


def _check_content(delta: Json) -> None:
    if type(content := delta.get("content")) is not list and type(content) is not str:
        raise _Unreadable("content: expected an array or a string")


def _check_reasoning(delta: Json) -> None:
    _text_or_none(delta, "reasoning")


def _check_call(delta: Json) -> None:
    call = _object(delta, "tool_call")
    _text(call, "tool_call_id")
    _text(call, "name")
    _text_or_none(call, "arguments")


def _check_return(delta: Json) -> None:
    _text(delta, "tool_call_id")


#: What is read of a piece must be there, by its kind.
_CHECKS: Final[Mapping[str, Callable[[Json], None]]] = {
    "assistant_message": _check_content,
    "reasoning_message": _check_reasoning,
    "approval_request_message": _check_call,
    "tool_call_message": _check_call,
    "tool_return_message": _check_return,
}


def _convert(body: Json) -> Frame | None:
    match body.get("type"):
        case "turn_finished":
            return TurnEnd(
                conversation_id=_conversation(body),
                stop_reason=_text(body, "stop_reason"),
                turn_id=_text_or_none(body, "turn_id"),
                error=_text_or_none(body, "error"),
            )
        case "control_request":
            request = _object(body, "request")
            if request.get("subtype") != "can_use_tool":
                return None
            return PermissionRequest(
                conversation_id=_conversation(body),
                request_id=_text(body, "request_id"),
                call_id=_text(request, "tool_call_id"),
                tool=_text(request, "tool_name"),
                arguments=_object(request, "input"),
            )
        case "external_tool_call_request":
            return ToolRequest(
                conversation_id=_conversation(body),
                request_id=_text(body, "request_id"),
                call_id=_text(body, "tool_call_id"),
                tool=_text(body, "tool_name"),
            )
        case "update_loop_status":
            return LoopStatus(
                conversation_id=_conversation(body), status=_text(_object(body, "loop_status"), "status")
            )
        case "update_queue":
            return QueueStatus(conversation_id=_conversation(body), items=tuple(_queue_items(body)))
        case "update_device_status":
            status = _object(body, "device_status")
            return DeviceStatus(
                conversation_id=_conversation(body), memory_directory=_text_or_none(status, "memory_directory")
            )
        case "input_accepted":
            return _answer(body, "The input was refused.", is_refused=body.get("accepted") is not True)
        case str(kind) if kind.endswith("_response"):
            return _answer(body, "It gave no reason.", is_refused=body.get("success") is False)
        case str():
            return None
    raise _Unreadable("type: expected a string")


def _answer(body: Json, reason: str, *, is_refused: bool) -> Response | None:
    """Return an answer; None if it is the answer to nothing. Its question then gets none in time."""
    request_id, error = body.get("request_id"), body.get("error")
    if not isinstance(request_id, str):
        return None
    given = error if isinstance(error, str) and error else reason
    return Response(request_id=request_id, body=body, error=given if is_refused else None)


def _queue_items(body: Json) -> list[tuple[str, str]]:
    items = body.get("queue")
    if not isinstance(items, list):
        raise _Unreadable("queue: expected an array")
    found = []
    for item in items:
        if isinstance(item, dict) and isinstance(item.get("id"), str):
            found.append((item["id"], str(item.get("client_message_id") or "")))
    return found


def _conversation(body: Json) -> str:
    return _text(_object(body, "runtime"), "conversation_id")


def _text(body: Json, key: str) -> str:
    value = body.get(key)
    if not isinstance(value, str):
        raise _Unreadable(f"{key}: expected a string")
    return value


def _text_or_none(body: Json, key: str) -> str | None:
    value = body.get(key)
    if value is None or isinstance(value, str):
        return value
    raise _Unreadable(f"{key}: expected a string or null")


def _object(body: Json, key: str) -> Json:
    value = body.get(key)
    if not isinstance(value, dict):
        raise _Unreadable(f"{key}: expected an object")
    return value


def bad_answer(what: str, field_name: str, expected: str) -> RemoteProtocolError:
    """Make the error for an answer that lacks what was asked for."""
    return RemoteProtocolError(
        f"The App Server's answer to {what} is invalid: {field_name}: expected {expected}."
    )
