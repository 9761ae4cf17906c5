"""Settings of policies: what becomes of a turn, unless its key or its request has a word of its own in that."""

from typing import Annotated, Final

from attrs import frozen
from cyclopts import Parameter

from sansio_letta import Approvals, Background, Config, ReasoningField, ServerTools
from sansio_letta.config import Enforcement, InstructionPolicy, Speakers, TaskPolicy, UsageCount

_CORE: Final = Config()


@frozen(kw_only=True)
class PolicySettings:
    """The server's policies, by their names in `sansio_letta.proxy.policies.POLICIES`."""

    approvals: Annotated[
        Approvals,
        Parameter(
            env_var="LETTA_PROXY_APPROVALS",
            help="For the agent's tools that need a human: ask in the chat, allow them, deny them.",
        ),
    ] = _CORE.approvals
    server_tools: Annotated[
        ServerTools,
        Parameter(
            env_var="LETTA_PROXY_SERVER_TOOLS",
            help="How the agent's own tools are shown: hidden, as reasoning, as status events of Open WebUI.",
        ),
    ] = _CORE.server_tools
    instructions: Annotated[
        InstructionPolicy,
        Parameter(
            env_var="LETTA_PROXY_INSTRUCTIONS",
            help="What becomes of system and developer messages: said to the agent when they are new to the "
            "thread, or before every message, or put in place of its own, or nothing.",
        ),
    ] = _CORE.instructions
    tasks: Annotated[
        TaskPolicy,
        Parameter(
            env_var="LETTA_PROXY_TASKS",
            help="What becomes of a program's own prompts, for titles, summaries and the like: isolated in a "
            "conversation that is deleted afterwards, passed on like the user's, or refused. With all, every "
            "request is isolated, and the agent remembers none of them.",
        ),
    ] = _CORE.tasks
    speakers: Annotated[
        Speakers,
        Parameter(
            env_var="LETTA_PROXY_SPEAKERS",
            help="Tell the agent which person a message is from: in its name, also in its text, or not at all.",
        ),
    ] = _CORE.speakers
    enforcement: Annotated[
        Enforcement,
        Parameter(
            env_var="LETTA_PROXY_ENFORCEMENT",
            help="What becomes of response_format and of a tool_choice that forces a call: the agent is asked "
            "for it and its reply checked, which may take a second run; or nothing; or an error.",
        ),
    ] = _CORE.enforcement
    reasoning: Annotated[
        ReasoningField,
        Parameter(env_var="LETTA_PROXY_REASONING", help="Field that carries the agent's reasoning."),
    ] = _CORE.reasoning_field
    usage: Annotated[
        UsageCount,
        Parameter(
            env_var="LETTA_PROXY_USAGE",
            help="What usage counts where the agent took several steps: its context after the last, with the "
            "sum beside it in usage.letta; or the sum of all.",
        ),
    ] = _CORE.usage
    background: Annotated[
        Background,
        Parameter(
            env_var="LETTA_PROXY_BACKGROUND",
            help="Which runs are begun so that a lost stream can be taken up again, at the price of a delay of "
            "half a second; auto: those whose answer is not streamed.",
        ),
    ] = _CORE.background
