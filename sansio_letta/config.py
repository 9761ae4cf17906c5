"""Every limit and policy of the core, by name."""

from enum import Enum
from typing import Any, Final

from attrs import field, frozen, validators


class ReasoningField(Enum):
    """Where the agent's reasoning goes in deltas and messages; clients show two fields as two texts."""

    REASONING_CONTENT = "reasoning_content"
    """DeepSeek's name, read by Open WebUI, Roo Code, Vercel's AI SDK and openai-agents."""
    REASONING = "reasoning"
    """OpenRouter's name; Roo Code does not read it."""
    OFF = "off"


#: Typed for numbers of any kind; attrs ties a validator to the type it was made with.
_positive: Final[Any] = validators.gt(0)
_not_negative: Final[Any] = validators.ge(0)


@frozen(kw_only=True)
class Config:
    """Limits and policies of the core. Sizes are bytes, timeouts seconds."""

    #: One client request; OpenAI takes 50 MB with images, nginx 1 MB.
    max_request_size: int = field(default=32 * 1024 * 1024, validator=_positive)
    #: One event of Letta's stream; aiohttp's line readers end at 128 KB, but a server tool's return comes as
    #: one line.
    max_event_size: int = field(default=8 * 1024 * 1024, validator=_positive)
    #: A whole JSON answer of Letta: a page of agents with their memory blocks.
    max_answer_size: int = field(default=32 * 1024 * 1024, validator=_positive)
    #: The longest string in one delta, as JSON: line readers of 64 KB (aiohttp's default) must get through.
    max_fragment_size: int = field(default=32 * 1024, validator=validators.ge(64))
    #: Agents in `GET /v1/models`; a listing beyond it ends there.
    max_agent_count: int = field(default=10_000, validator=_positive)
    #: Agents asked for at once while listing. Letta's own page is 50.
    agent_page_count: int = field(default=100, validator=_positive)
    #: How long a found agent is remembered.
    agent_ttl: float = field(default=60.0, validator=_not_negative)
    #: Names remembered at most.
    max_remembered_agent_count: int = field(default=4096, validator=_positive)
    #: A comment goes to a streaming client after this silence; undici gives up after 300, nginx after 60.
    keepalive_timeout: float = field(default=15.0, validator=_positive)
    #: No byte from Letta, pings included, for this long ends the turn. Letta pings every 20 s.
    letta_silence_timeout: float = field(default=120.0, validator=_positive)
    #: Where reasoning goes.
    reasoning_field: ReasoningField = ReasoningField.REASONING_CONTENT
