"""The sans-IO core of Letta Proxy, which serves Letta agents as OpenAI-compatible models.

It does no I/O, reads no clock and draws no random number. A transport drives `Proxy`, which answers whole HTTP
requests. `Turn` is a single turn of an agent, without HTTP on the client's side.
"""

from ._signal import Signal
from .config import Approvals, Background, ClientTools, Config, Enforcement, ReasoningField, ServerTools
from .errors import (
    Kept,
    LettaError,
    LocalProtocolError,
    RemoteProtocolError,
    RequestError,
    SansioLettaError,
)
from .proxy.cycle import Cycle
from .proxy.http import HttpRequest, ResponseBody, ResponseHead
from .proxy.proxy import Proxy
from .proxy.summary import Repeat, Summary
from .recording.format import Recording, RecordingError
from .recording.reader import read_recording
from .sse import ServerSentEvent, SSEDecoder
from .turn.agent import Caller
from .turn.request import TurnRequest
from .turn.turn import Turn

#: The former name of the same class.
Plan = TurnRequest

#: This library's name and version, as sent to Letta in the User-Agent header.
PRODUCT_ID = "sansio-letta/0.1.0"

__all__ = [
    "PRODUCT_ID",
    "Approvals",
    "Background",
    "Caller",
    "ClientTools",
    "Config",
    "Cycle",
    "Enforcement",
    "HttpRequest",
    "Kept",
    "LettaError",
    "LocalProtocolError",
    "Plan",
    "Proxy",
    "ReasoningField",
    "Recording",
    "RecordingError",
    "RemoteProtocolError",
    "Repeat",
    "RequestError",
    "ResponseBody",
    "ResponseHead",
    "SSEDecoder",
    "SansioLettaError",
    "ServerSentEvent",
    "ServerTools",
    "Signal",
    "Summary",
    "Turn",
    "TurnRequest",
    "read_recording",
]
