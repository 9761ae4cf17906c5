"""What a run is opened with: answers to all that waits, the client's instructions, and what is new."""

from collections.abc import Callable
from typing import TypeAlias

from attrs import frozen

from . import letta
from .bridge import Settlement, settle
from .config import Approvals, InstructionPolicy
from .destination import Destination
from .errors import RequestError
from .events import OpenStream, Thread
from .plan import Instructions, Plan

Answers: TypeAlias = tuple[letta.ToolReturn | letta.Approval, ...]
#: Tells whether a thread was given these instructions last.
IsTold: TypeAlias = Callable[[Thread, Instructions], bool]


def never_told(thread: Thread, instructions: Instructions) -> bool:
    """Nobody remembers."""
    return False


@frozen(kw_only=True)
class Opening:
    """A run to be asked for.

    :param told: the instructions that go with it, and where; they are kept with the run's first step.
    """

    command: OpenStream
    told: tuple[Thread, Instructions] | None = None


def settle_plan(plan: Plan, destination: Destination, policy: Approvals) -> Settlement:
    """Bring the plan and what waits for an answer together.

    :raises RequestError: if the agent cannot be given what the client brought.
    """
    agent = destination.agent
    if plan.client_tools and not agent.takes_client_tools:
        raise RequestError(
            f"The agent is of type {agent.agent_type}, which cannot be given a client's tools: leave "
            "`tools` out, or use an agent of type letta_v1_agent.",
            param="tools",
            code="unsupported_parameter",
        )
    settlement = settle(
        destination.pending,
        plan.results,
        client_tools={tool.name for tool in plan.client_tools},
        has_message=bool(plan.messages),
        past_results=plan.past_results,
        verdict=plan.verdict,
        policy=policy,
    )
    if not settlement.undecided and not settlement.approvals and not plan.messages:
        raise RequestError(
            "The agent waits for none of these results: the calls were answered before, or its run has "
            "ended. Send a new user message to go on.",
            param="messages",
        )
    return settlement


def compose(
    plan: Plan,
    answers: Answers,
    destination: Destination,
    is_told: IsTold,
    *,
    background: bool = False,
    is_verdict: bool = False,
) -> Opening:
    """The request for a run.

    :param answers: to what waits, all of it.
    :param background: whether its stream must be one that can be taken up again.
    :param is_verdict: what the user wrote is in the answers, and no message.
    """
    thread, given = destination.thread, plan.instructions
    policy = given.policy if given else InstructionPolicy.IGNORE
    says = policy is InstructionPolicy.ALWAYS or (
        policy is InstructionPolicy.ONCE and given is not None and not is_told(thread, given)
    )
    told = (thread, given) if given and says else None
    approvals = (letta.ApprovalCreate(approvals=answers),) if answers else ()
    system = (letta.MessageCreate(role="system", content=told[1].text),) if told else ()
    history = plan.history if destination.is_new else ()
    messages = () if is_verdict else plan.messages
    request = letta.StreamRequest(
        messages=(*approvals, *system, *history, *plan.aside, *messages),
        client_tools=plan.client_tools,
        override_system=given.text if given and policy is InstructionPolicy.OVERRIDE else None,
        streaming=destination.conversation is not None,
        background=background,
    )
    return Opening(command=OpenStream(thread=thread, request=request), told=told)
