"""Bytes of a run's stream in, Letta's messages out.

While the agent speaks, each event repeats the one before byte for byte, but for its text: with every token
Letta tells which message, step and run it is of (long.jsonl). So `read_texts` compares what was decoded before,
and decodes the text alone. The last event of a read is often cut: its beginning waits.
"""

from typing import Final

import orjson
from attrs import define, field

from ..._signal import Signal
from ...sse import SSEDecoder
from . import letta

_END: Final = b'"}\n\n'
#: An Enum looks its members up with Python code, and this one is asked for with every token.
_NEED_DATA: Final = Signal.NEED_DATA


@define
class MessageReader:
    """The messages of one stream; where the bytes were cut never shows.

    :param max_event_size: bytes of one event; beyond it the stream is broken.
    """

    max_event_size: int
    _events: SSEDecoder = field(init=False)
    _before_text: bytes | None = field(default=None, init=False)
    """How an event begins that has more of the last message's text; None if that had none at its end."""
    _is_between: bool = field(default=False, init=False)  #: nothing behind the last message was received
    _cut: bytes = field(default=b"", init=False)
    """But for the beginning of one more event, at the end of what `read_texts` was given last."""

    def __attrs_post_init__(self) -> None:
        self._events = SSEDecoder(self.max_event_size)

    def receive_data(self, data: bytes) -> None:
        """See `SSEDecoder.receive_data`."""
        self._is_between = False
        if self._cut:
            self._events.receive_data(self._cut)
            self._cut = b""
        self._events.receive_data(data)

    def next_message(self) -> letta.Message | Signal:
        """The next whole message, NEED_DATA if it is still incomplete, FINISHED after the last.

        :raises RemoteProtocolError: if an event is too large, or is no message.
        """
        if self._is_between:
            return _NEED_DATA
        event = self._events.next_event()
        if isinstance(event, Signal):
            self._is_between = self._before_text is not None and self._events.is_between
            return event
        message = letta.decode_message(event.data)
        self._before_text = None
        # Events that are numbered differ in their numbers.
        if type(message) is letta.AssistantMessage and message.content and message.seq_id is None:
            head, name, rest = event.data.rpartition(b'"content":')
            # Only if the text comes last, so that what stands before it is all the rest, and in one line: each
            # line of an event's data has a field of its own.
            if rest == orjson.dumps(message.content) + b"}" and b"\n" not in head:
                self._before_text = b'data: %b%b"' % (head, name)
        return message

    def read_texts(self, data: bytes) -> list[str]:
        """What the agent says in bytes that are events, each with more of the last message's text.

        The last of them may be cut; its beginning is kept.

        :return: empty if they hold anything else, or if anything is unread: they are for `receive_data`, then.
        """
        before, texts, at = self._before_text, list[str](), 0
        if before is None or not self._is_between:
            return texts
        if self._cut:
            data = self._cut + data
        try:
            while (end := data.find(_END, at)) >= 0:
                if not data.startswith(before, at) or end + 2 - at > self.max_event_size:
                    return []
                # From quote to quote: in a string of JSON there is neither another quote nor a line's end.
                text = orjson.loads(data[at + len(before) - 1 : end + 1])
                if not text:
                    return []
                texts.append(text)
                at = end + len(_END)
        except orjson.JSONDecodeError:
            return []
        rest = data[at:]
        if not before.startswith(rest[: len(before)]) or len(rest) > self.max_event_size:
            return []
        if not texts or b"\n" in rest or b"\r" in rest:
            return []
        self._cut = rest
        return texts
