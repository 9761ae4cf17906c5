"""What a turn is to do, in no client's dialect."""

from hashlib import sha256

from attrs import evolve, field, frozen

from . import letta
from .approvals import Verdict
from .config import InstructionPolicy
from .threads import ThreadWish


@frozen(kw_only=True)
class Instructions:
    """What the client wants the agent to go by."""

    text: str = field(repr=False)
    policy: InstructionPolicy

    @property
    def digest(self) -> bytes:
        """Tells them from others."""
        return sha256(self.text.encode()).digest()


@frozen(kw_only=True)
class Plan:
    """What a client's request asks of Letta, made before the agent is known.

    :param model: the agent's name or id, as asked.
    :param messages: the new input, in order.
    :param results: the results of calls that the client brings, in order.
    :param client_tools: the tools that the client offers for this turn.
    :param thread: where it is said.
    :param history: what was said before, for a conversation that is made for it.
    :param past_results: results in the client's history: their calls may wait still.
    :param verdict: what the input says if the agent waits for a human's approval.
    """

    model: str
    messages: tuple[letta.MessageCreate, ...] = ()
    results: tuple[letta.ToolReturn | letta.Approval, ...] = ()
    client_tools: tuple[letta.ClientTool, ...] = ()
    thread: ThreadWish = None
    history: tuple[letta.MessageCreate, ...] = ()
    instructions: Instructions | None = None
    past_results: tuple[letta.ToolReturn, ...] = ()
    verdict: Verdict | None = None

    def without_input(self) -> "Plan":
        """The same once the agent has heard the input: what it waits for later is answered alone."""
        given = self.instructions
        lasts = given is not None and given.policy is InstructionPolicy.OVERRIDE
        return evolve(
            self, messages=(), results=(), history=(), verdict=None, instructions=given if lasts else None
        )
