"""A stateful Letta agent behaves as a model of the OpenAI API: the pure core.

No I/O, no clock, no randomness. `Proxy` answers whole HTTP requests and is what a transport drives; `Turn` is
one turn of an agent without HTTP on the client's side; the wires and machines below are modules of their own.
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
from .recording.format import Recording, RecordingError, read_recording
from .sse import ServerSentEvent, SSEDecoder
from .turn.agent import Caller
from .turn.request import TurnRequest
from .turn.turn import Turn

#: The same class, by its name until now.
Plan = TurnRequest

#: Names this library to Letta, as a User-Agent does.
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
