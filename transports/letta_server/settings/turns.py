"""Settings of turns: their timeouts, clients' tools, lost streams, retries."""

from typing import Annotated, Any, Final

from attrs import field, frozen, validators
from cyclopts import Parameter
from cyclopts.validators import Number

from sansio_letta import ClientTools, Config

_CORE: Final = Config()

#: Typed for numbers of any kind; attrs ties a validator to the type it was made with.
_positive: Final[Any] = validators.gt(0)
_not_negative: Final[Any] = validators.ge(0)


@frozen(kw_only=True)
class TurnSettings:
    """The core's limits that an operator may want to change; see `Config` for each."""

    queue_timeout: Annotated[
        float,
        Parameter(
            env_var="LETTA_PROXY_QUEUE_TIMEOUT",
            validator=Number(gte=0),
            help="Seconds that a turn waits for the previous one in its thread; then 409.",
        ),
    ] = field(default=_CORE.queue_timeout, validator=_not_negative)
    max_queue_count: Annotated[
        int,
        Parameter(
            env_var="LETTA_PROXY_MAX_QUEUE_COUNT",
            validator=Number(gte=0),
            help="Maximum turns that wait in one thread; beyond it, 409 at once.",
        ),
    ] = field(default=_CORE.max_queue_count, validator=_not_negative)
    pending_call_timeout: Annotated[
        float,
        Parameter(
            env_var="LETTA_PROXY_PENDING_CALL_TIMEOUT",
            validator=Number(gte=0),
            help="Seconds that a message from another client waits for the results of a pending call. 0: it "
            "does not wait.",
        ),
    ] = field(default=_CORE.pending_call_timeout, validator=_not_negative)
    lookback_count: Annotated[
        int,
        Parameter(
            env_var="LETTA_PROXY_LOOKBACK_COUNT",
            validator=Number(gte=0),
            help="Messages of a thread that are read to find out what the agent has heard. 0: none; what "
            "follows the last assistant message is new.",
        ),
    ] = field(default=_CORE.lookback_count, validator=_not_negative)
    turn_timeout: Annotated[
        float,
        Parameter(
            env_var="LETTA_PROXY_TURN_TIMEOUT",
            validator=Number(gt=0),
            help="Seconds for a whole turn, including waiting and the agent's own tools; then 504.",
        ),
    ] = field(default=_CORE.turn_timeout, validator=_positive)
    early_response_timeout: Annotated[
        float,
        Parameter(
            name="--early-response",
            env_var="LETTA_PROXY_EARLY_RESPONSE",
            validator=Number(gte=0),
            help="Seconds without content after which a streamed response starts with a comment, so that "
            "clients and gateways do not time out; a later failure is an error in the stream. 0: never.",
        ),
    ] = field(default=_CORE.early_response_timeout, validator=_not_negative)
    keepalive_timeout: Annotated[
        float,
        Parameter(
            name="--keepalive",
            env_var="LETTA_PROXY_KEEPALIVE",
            validator=Number(gt=0),
            help="Seconds without data after which a streaming client gets a comment.",
        ),
    ] = field(default=_CORE.keepalive_timeout, validator=_positive)
    client_tools: Annotated[
        ClientTools,
        Parameter(
            env_var="LETTA_PROXY_CLIENT_TOOLS",
            help="How agents get client tools: with the request (native), attached for the turn (attach), or "
            "depending on the agent's type (auto).",
        ),
    ] = _CORE.client_tools
    client_tool_ttl: Annotated[
        float,
        Parameter(
            env_var="LETTA_PROXY_CLIENT_TOOL_TTL",
            validator=Number(gt=0),
            help="Seconds that an attached client tool is kept in Letta for later turns, and stays attached if "
            "the proxy is killed.",
        ),
    ] = field(default=_CORE.client_tool_ttl, validator=_positive)
    resume_timeout: Annotated[
        float,
        Parameter(
            env_var="LETTA_PROXY_RESUME_TIMEOUT",
            validator=Number(gte=0),
            help="Seconds that Letta may be unreachable during a run, as in a restart of Letta.",
        ),
    ] = field(default=_CORE.resume_timeout, validator=_not_negative)
    repeat_ttl: Annotated[
        float,
        Parameter(
            env_var="LETTA_PROXY_REPEAT_TTL",
            validator=Number(gte=0),
            help="Seconds after the end of a turn during which a retry is recognised.",
        ),
    ] = field(default=_CORE.repeat_ttl, validator=_not_negative)
