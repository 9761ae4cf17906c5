"""Other forms of a replay than the stream of chunks: for reading, for scripts, for debugging."""

from collections.abc import Iterator

import orjson
from attrs import asdict

from ..config import Config
from ..dialects.chat_completions.request import field_name
from ..dialects.chat_completions.writer import Heading, make_writer
from ..dialects.errors import error_body
from ..turn.events import TextDelta, TurnFailed, TurnFinished
from ..upstreams.rest.commands import Command
from .format import Recording
from .replay import Rendered, Replayed, replay


def render_text(recording: Recording, config: Config | None = None) -> Iterator[Rendered]:
    """What the agent said, as it came; each turn ends with a line's end, a failure is named in brackets."""
    for turn in replay(recording, config):
        for replayed in turn:
            match replayed.item:
                case TextDelta(text=text):
                    yield Rendered(t=replayed.t, data=text.encode())
                case TurnFinished():
                    yield Rendered(t=replayed.t, data=b"\n")
                case TurnFailed(error=error):
                    yield Rendered(t=replayed.t, data=f"[{error.code}: {error.message}]\n".encode())


def render_json(recording: Recording, config: Config | None = None) -> Iterator[Rendered]:
    """Each turn's whole answer, as without streaming: one JSON object a line."""
    config = config or Config()
    for number, turn in enumerate(replay(recording, config), 1):
        heading = Heading(completion_id=f"chatcmpl-{number}", created=0, model=recording.scenario)
        writer = make_writer(heading, config, stream=False)
        for replayed in turn:
            if not isinstance(replayed.item, Command) and (data := writer.write(replayed.item)):
                yield Rendered(t=replayed.t, data=data + b"\n")


def render_events(recording: Recording, config: Config | None = None) -> Iterator[Rendered]:
    """Each event and command of the turns, with its time: one JSON object a line."""
    for number, turn in enumerate(replay(recording, config), 1):
        for replayed in turn:
            yield Rendered(t=replayed.t, data=orjson.dumps(_event(number, replayed)) + b"\n")


def _event(turn: int, replayed: Replayed) -> dict[str, object]:
    item = replayed.item
    head: dict[str, object] = {"turn": turn, "t": round(replayed.t, 4), "item": type(item).__name__}
    if isinstance(item, Command):
        body = orjson.loads(item.body) if item.body else None
        return {**head, "method": item.method, "target": item.target, "body": body}
    if isinstance(item, TurnFailed):
        return {
            **head,
            "status": item.error.status_hint,
            "kept": item.kept.value,
            **error_body(item.error, field_name),
        }
    fields = asdict(item)
    return {**head, **{name: getattr(value, "value", value) for name, value in fields.items()}}
