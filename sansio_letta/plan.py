"""What a turn is to do, in no client's dialect."""

from attrs import frozen

from . import letta
from .approvals import Verdict
from .events import AgentThread


@frozen(kw_only=True)
class Plan:
    """What a client's request asks of Letta, made before the agent is known.

    :param model: the agent's name or id, as asked.
    :param messages: the new input, in order.
    :param results: the results of calls that the client brings, in order.
    :param client_tools: the tools that the client offers for this turn.
    :param past_results: results in the client's history: their calls may wait still.
    :param verdict: what the input says if the agent waits for a human's approval.
    """

    model: str
    messages: tuple[letta.MessageCreate, ...] = ()
    results: tuple[letta.ToolReturn | letta.Approval, ...] = ()
    client_tools: tuple[letta.ClientTool, ...] = ()
    past_results: tuple[letta.ToolReturn, ...] = ()
    verdict: Verdict | None = None
    thread: AgentThread | None = None  #: None: the agent's own, once the agent is known
