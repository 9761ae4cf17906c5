"""The App Server's frames: JSON objects, of which only what is used is read.

A server of another version may send more, so fields and types that are not known are ignored. A field that is
used and has another type than expected makes the frame a `BadFrame`.
"""

from typing import Any, Final, TypeAlias

import orjson
from attrs import field, frozen

from ...errors import RemoteProtocolError

Json: TypeAlias = dict[str, Any]

#: Frames that are skipped unread: they come six times a turn, with 12 KB each.
_DEVICE_STATUS: Final = b'{"type":"update_device_status"'


class BadFrame(Exception):
    """A frame cannot be read.

    :param reason: names the field and what was expected.
    """


@frozen(kw_only=True)
class Response:
    """The answer to a request.

    :param error: why it was refused; None if it was not.
    """

    request_id: str
    body: Json = field(repr=False)
    error: str | None = None


@frozen(kw_only=True)
class Delta:
    """A piece of a turn: a message, or a fragment of one.

    :param kind: its ``message_type``.
    """

    conversation_id: str
    kind: str
    body: Json = field(repr=False)


@frozen(kw_only=True)
class TurnEnd:
    """A turn is over: exactly one for each input that was accepted, whatever its steps said before."""

    conversation_id: str
    stop_reason: str
    error: str | None = field(default=None, repr=False)


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


def read_frame(data: bytes, *, with_device: bool = False) -> tuple[Frame | None, int | None]:
    """Read a frame.

    :param with_device: whether to read where the agent's memory is.
    :return: the frame, None if it is of no interest; and its number on the socket, None if it has none.
    :raises BadFrame: if it cannot be read.
    """
    if data.startswith(_DEVICE_STATUS) and not with_device:
        return None, None
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as exc:
        raise BadFrame("expected a JSON object") from exc
    if not isinstance(body, dict):
        raise BadFrame("expected a JSON object")
    number = body.get("event_seq")
    return _convert(body), number if type(number) is int else None


def _convert(body: Json) -> Frame | None:
    match body.get("type"):
        case "stream_delta":
            delta = _object(body, "delta")
            return Delta(conversation_id=_conversation(body), kind=_text(delta, "message_type"), body=delta)
        case "turn_finished":
            return TurnEnd(
                conversation_id=_conversation(body),
                stop_reason=_text(body, "stop_reason"),
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
            accepted = body.get("accepted") is True
            error = None if accepted else _text_or_none(body, "error") or "The input was refused."
            return Response(request_id=_text(body, "request_id"), body=body, error=error)
        case str(kind) if kind.endswith("_response"):
            done = body.get("success") is not False
            error = None if done else _text_or_none(body, "error") or "It gave no reason."
            return Response(request_id=_text(body, "request_id"), body=body, error=error)
        case str():
            return None
    raise BadFrame("type: expected a string")


def _queue_items(body: Json) -> list[tuple[str, str]]:
    items = body.get("queue")
    if not isinstance(items, list):
        raise BadFrame("queue: expected an array")
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
        raise BadFrame(f"{key}: expected a string")
    return value


def _text_or_none(body: Json, key: str) -> str | None:
    value = body.get(key)
    if value is None or isinstance(value, str):
        return value
    raise BadFrame(f"{key}: expected a string or null")


def _object(body: Json, key: str) -> Json:
    value = body.get(key)
    if not isinstance(value, dict):
        raise BadFrame(f"{key}: expected an object")
    return value


def bad_answer(what: str, field_name: str, expected: str) -> RemoteProtocolError:
    """Make the error for an answer that lacks what was asked for."""
    return RemoteProtocolError(
        f"The App Server's answer to {what} is invalid: {field_name}: expected {expected}."
    )
