"""Settings of policies, which a key or a request may override."""

from collections.abc import Sequence
from typing import Annotated, Final

from attrs import frozen
from cyclopts import Parameter, Token

from sansio_letta import Approvals, Background, Config, ReasoningField, ServerTools
from sansio_letta.config import (
    AgentToolPolicy,
    Enforcement,
    InstructionPolicy,
    NamedTools,
    Speakers,
    TaskPolicy,
    Threads,
    UsageCount,
)
from sansio_letta.proxy.policies import POLICIES

_CORE: Final = Config()


def _read_agent_tools(_: object, tokens: Sequence[Token]) -> AgentToolPolicy | NamedTools:
    policy = POLICIES["agent-tools"]
    value = policy.read(tokens[0].value)
    if not isinstance(value, AgentToolPolicy | NamedTools):
        raise ValueError(f"Choose from: {', '.join(policy.choices)}.")
    return value


def _in_one(_: object, text: str, delimiter: str | None = None) -> list[str]:
    """Return a variable's value in one piece: by default, blanks divide it."""
    return [text]


@frozen(kw_only=True)
class PolicySettings:
    """The server's policies, by their names in `sansio_letta.proxy.policies.POLICIES`."""

    approvals: Annotated[
        Approvals,
        Parameter(
            env_var="LETTA_PROXY_APPROVALS",
            help="The agent's tools that require human approval: ask in the chat, allow, or deny.",
        ),
    ] = _CORE.approvals
    agent_tools: Annotated[
        AgentToolPolicy | NamedTools,
        Parameter(
            converter=_read_agent_tools,
            n_tokens=1,
            accepts_keys=False,
            env_var_split=_in_one,
            env_var="LETTA_PROXY_AGENT_TOOLS",
            help="The agent's own tools at an App Server: memory, to read and edit its memory; none; ask, all, "
            "but in the chat before each call outside the memory; or names of tools that it may use without a "
            "question, separated by commas, where memory adds those of memory.",
        ),
    ] = _CORE.agent_tools
    server_tools: Annotated[
        ServerTools,
        Parameter(
            env_var="LETTA_PROXY_SERVER_TOOLS",
            help="How the agent's own tools are shown: hidden, as reasoning, or as status events for Open "
            "WebUI.",
        ),
    ] = _CORE.server_tools
    instructions: Annotated[
        InstructionPolicy,
        Parameter(
            env_var="LETTA_PROXY_INSTRUCTIONS",
            help="System and developer messages: send them once per thread and when they change, send them "
            "always, let them override the agent's own system prompt, or ignore them.",
        ),
    ] = _CORE.instructions
    threads: Annotated[
        Threads,
        Parameter(
            env_var="LETTA_PROXY_THREADS",
            help="Where a request goes that does not name its chat: to the agent's main thread, or to a "
            "conversation of its transcript, recognised by its messages.",
        ),
    ] = _CORE.threads
    tasks: Annotated[
        TaskPolicy,
        Parameter(
            env_var="LETTA_PROXY_TASKS",
            help="Background prompts, such as titles and summaries: isolate them in a temporary "
            "conversation, pass them on like the user's messages, or refuse them. With all, every request "
            "is isolated, and the agent remembers none.",
        ),
    ] = _CORE.tasks
    speakers: Annotated[
        Speakers,
        Parameter(
            env_var="LETTA_PROXY_SPEAKERS",
            help="How the agent learns who a message is from: by its name field, also in its text, or not at "
            "all.",
        ),
    ] = _CORE.speakers
    enforcement: Annotated[
        Enforcement,
        Parameter(
            env_var="LETTA_PROXY_ENFORCEMENT",
            help="response_format and forced tool_choice: validate the agent's reply, which may take a second "
            "run; ignore them; or refuse the request.",
        ),
    ] = _CORE.enforcement
    reasoning: Annotated[
        ReasoningField,
        Parameter(env_var="LETTA_PROXY_REASONING", help="Field for the agent's reasoning."),
    ] = _CORE.reasoning_field
    usage: Annotated[
        UsageCount,
        Parameter(
            env_var="LETTA_PROXY_USAGE",
            help="What usage counts if the agent took several steps: the context after the last step, with the "
            "sum in usage.letta; or the sum.",
        ),
    ] = _CORE.usage
    background: Annotated[
        Background,
        Parameter(
            env_var="LETTA_PROXY_BACKGROUND",
            help="Which runs are started so that a lost stream can be resumed, at the price of a delay of half "
            "a second; auto: those whose answer is not streamed.",
        ),
    ] = _CORE.background
