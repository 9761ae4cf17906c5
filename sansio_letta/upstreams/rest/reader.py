"""Read Letta's messages from the bytes of a run's stream.

While the agent writes text, each event is a copy of the previous one except for the text itself: Letta repeats
the ids of the message, the step and the run with every token (long.jsonl). So `read_texts` compares the bytes
around the text with the last event, and only decodes the text. A read often ends within an event; its beginning
is kept.
"""

import re
from typing import Final

import orjson
from attrs import define, field

from ..._signal import Signal
from ...sse import SSEDecoder
from . import letta

_END: Final = b'"}\n\n'
_LINE_END: Final = re.compile(rb"[\r\n]")
#: Enum looks up members with Python code, and this one is needed for every token.
_NEED_DATA: Final = Signal.NEED_DATA


@define
class MessageReader:
    """Reads the messages of one stream, however its bytes are split.

    :param max_event_size: limit for one event, in bytes.
    """

    max_event_size: int
    _events: SSEDecoder = field(init=False)
    _before_text: bytes | None = field(default=None, init=False)
    """The beginning of an event with more text of the last message; None if that cannot be predicted."""
    _is_between: bool = field(default=False, init=False)  #: only `_cut` was received after the last message
    _cut: bytes = field(default=b"", init=False)
    """The beginning of an event, at the end of the bytes that `read_texts` was last called with."""

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
        """Return the next message, NEED_DATA if it is incomplete, or FINISHED after the last one.

        :raises RemoteProtocolError: if an event is too large, or not a valid message.
        """
        if self._is_between:
            return _NEED_DATA
        event = self._events.next_event()
        if isinstance(event, Signal):
            self._is_between = self._before_text is not None and self._events.is_between
            return event
        message = letta.decode_message(event.data)
        self._before_text = None
        # Numbered events also differ in their numbers.
        if type(message) is letta.AssistantMessage and message.content and message.seq_id is None:
            head, name, rest = event.data.rpartition(b'"content":')
            # Only if the text is the last value, and the data is one line: with several lines, each would be a
            # field of its own.
            if rest == orjson.dumps(message.content) + b"}" and b"\n" not in head:
                self._before_text = b'data: %b%b"' % (head, name)
        return message

    def read_texts(self, data: bytes) -> list[str]:
        """Read the texts from bytes that are events, each with more text of the last message.

        The last event may be incomplete; its beginning is kept.

        :return: empty if the bytes are anything else, or if there is unread data. Then nothing has been read,
            and the bytes must be passed to `receive_data`.
        """
        before, texts, at = self._before_text, list[str](), 0
        if before is None or not self._is_between:
            return texts
        if self._cut:
            data = self._cut + data
        size, before_size = len(data), len(before)
        try:
            while at < size and (end := data.find(_END, at)) >= 0:
                if not data.startswith(before, at) or end + 2 - at > self.max_event_size:
                    return []
                # From quote to quote: a JSON string contains no unescaped quote or line break.
                text = orjson.loads(data[at + before_size - 1 : end + 1])
                if not text:
                    return []
                texts.append(text)
                at = end + len(_END)
        except orjson.JSONDecodeError:
            return []
        if at == size:
            self._cut = b""
            return texts
        cut = data[at:]
        if len(cut) > self.max_event_size or not before.startswith(cut[:before_size]) or _LINE_END.search(cut):
            return []
        if texts:
            self._cut = cut
        return texts
