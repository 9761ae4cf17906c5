"""Replays: what a client would get from a recording today, in several formats. The output is deterministic."""

from collections.abc import Iterator
from typing import Final

import orjson
from attrs import asdict, frozen

from .. import sse
from ..config import Config
from ..dialects.base import RequestContext
from ..dialects.chat_completions.dialect import CHAT_COMPLETIONS
from ..dialects.errors import error_body
from ..dialects.items import ClientRequest
from ..proxy.http import ResponseBody, ResponseHead
from ..turn.events import CallsSettled, Event, TextDelta, TurnFailed, TurnFinished
from ..upstreams.rest.commands import Command
from .format import Recording
from .player import Played, Player, play


@frozen(kw_only=True)
class Rendered:
    """A piece of a replay's output."""

    t: float  #: seconds since the recording began
    data: bytes


def render(recording: Recording, config: Config | None = None) -> Iterator[Rendered]:
    """Render all turns of a recording as streams; or the response, if the client was recorded.

    Between the events there are comments, lines that begin with a colon: which turn it is, the requests to
    Letta, and the status of a response that is not a stream.

    :param config: by default, that of the recording.
    :raises RecordingError: if texts are needed to validate or to truncate the reply, and none were recorded.
    """
    for number, player in enumerate(play(recording, config), 1):
        has_client = recording.client is not None
        title = "the client" if has_client else f"turn {number}"
        t = player.t
        yield Rendered(t=t, data=_comment(f"{title} of {recording.scenario}"))
        for played in player:
            t = played.t
            data = _client_bytes(played) if has_client else _run_bytes(played, player)
            if data:
                yield Rendered(t=t, data=data)
        if player.unanswered is not None:
            yield Rendered(t=t, data=_UNANSWERED)


_UNANSWERED: Final = b": the recording has no answer to this\n\n"


def _client_bytes(played: Played) -> bytes:
    seen = played.seen
    match seen:
        case ResponseBody(data=data):
            return data
        case ResponseHead(status=status):
            return _comment(f"status {status}")
    return _asked(seen) if isinstance(seen, Command) else b""


def _run_bytes(played: Played, player: Player) -> bytes:
    """Render without a recorded client; an error before the first chunk is preceded by its status."""
    seen = played.seen
    match seen:
        case CallsSettled():
            return _comment(str(seen))
        case TurnFailed(error=error) if not player.is_stream:
            headers = "".join(f", {name}: {value}" for name, value in error.headers())
            told = _comment(f"status {error.status_hint}{headers}, not a stream")
            return told + sse.encode_data(CHAT_COMPLETIONS.error_body(error))
        case ResponseBody(data=data) if player.is_stream:
            return data
    return _asked(seen) if isinstance(seen, Command) else b""


def _asked(command: Command) -> bytes:
    body = command.body
    return _comment(f"{command.method} {command.target}{' ' + body.decode() if body else ''}")


def _comment(text: str) -> bytes:
    return b": " + text.encode() + b"\n\n"


def render_text(recording: Recording, config: Config | None = None) -> Iterator[Rendered]:
    """Render the agent's text as it arrived. Each turn ends with a newline; errors are in brackets."""
    for player in play(recording, config):
        for played in player:
            match played.seen:
                case TextDelta(text=text):
                    yield Rendered(t=played.t, data=text.encode())
                case TurnFinished():
                    yield Rendered(t=played.t, data=b"\n")
                case TurnFailed(error=error):
                    yield Rendered(t=played.t, data=f"[{error.code}: {error.message}]\n".encode())


def render_json(recording: Recording, config: Config | None = None) -> Iterator[Rendered]:
    """Render each turn's complete response, as without streaming: one JSON object per line."""
    config = config or recording.head.config
    for number, player in enumerate(play(recording, config), 1):
        asked = ClientRequest(model=recording.scenario, messages=())
        writer = CHAT_COMPLETIONS.writer(asked, RequestContext(config=config, token=str(number)))
        for played in player:
            if isinstance(played.seen, Event) and (data := writer.write(played.seen)):
                yield Rendered(t=played.t, data=data + b"\n")


def render_events(recording: Recording, config: Config | None = None) -> Iterator[Rendered]:
    """Render each event and command of the turns with its time: one JSON object per line."""
    for number, player in enumerate(play(recording, config), 1):
        for played in player:
            if isinstance(played.seen, Event | Command):
                fields = _fields(played.seen)
                head = {"turn": number, "t": round(played.t, 4), "item": type(played.seen).__name__}
                yield Rendered(t=played.t, data=orjson.dumps(head | fields) + b"\n")


def _fields(item: Event | Command) -> dict[str, object]:
    if isinstance(item, Command):
        body = orjson.loads(item.body) if item.body else None
        return {"method": item.method, "target": item.target, "body": body}
    if isinstance(item, TurnFailed):
        return {
            "status": item.error.status_hint,
            "kept": item.kept.value,
            **error_body(item.error, CHAT_COMPLETIONS.field_name),
        }
    return {name: getattr(value, "value", value) for name, value in asdict(item).items()}
