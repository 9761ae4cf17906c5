"""Keys with policies of their own, for one agent of a real Letta server."""

from collections.abc import Iterator
from hashlib import sha256
from typing import Any, Final

import openai
import pytest

from live.asking import PAIR, Answer, Form, ask, user
from live.conftest import MakeAgent
from live.letta_api import Agent, LettaApi
from live.proxy import Proxy, serving
from live.rig import Rig

#: The docstring is what Letta reads the tool's description from.
SOURCE: Final = '''
def live_scales(city: str) -> str:
    """Weigh.

    Args:
        city (str): which

    Returns:
        str: the weight
    """
    return f"{city} weighs 7 kg"
'''
BERN: Final = 'think Scales?\nsay Weighing.\ncall live_scales {"city": "Bern"}'
WEIGHED: Final = "Bern weighs 7 kg"

#: Who may do what; the server itself asks, and takes instructions.
POLICIES: Final = {
    "owner": '{ approvals = "allow", server-tools = "reasoning", instructions = "always" }',
    "guest": '{ approvals = "deny", reasoning = "off", instructions = "ignore", background = "never" }',
    "other": "{}",
}


def key_of(name: str) -> str:
    return f"the-key-of-{name}-for-live-tests"


@pytest.fixture(scope="module")
def keyed(rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy that tells its clients by their keys."""
    file = tmp_path_factory.mktemp("keys") / "keys.toml"
    file.touch(mode=0o600)
    file.write_text(
        "\n".join(
            f'[keys.{name}]\nsha256 = "{sha256(key_of(name).encode()).hexdigest()}"\npolicies = {policies}\n'
            for name, policies in POLICIES.items()
        )
    )
    with serving(rig.url, "--keys", str(file)) as proxy:
        yield proxy


@pytest.fixture
def agent(letta: LettaApi, make_agent: MakeAgent) -> Iterator[Agent]:
    """An agent with a tool that Letta does not run without a human's word."""
    agent = make_agent("live-policies")
    tool_id = letta.create_tool(SOURCE, needs_approval=True)
    letta.attach_tool(agent, tool_id)
    yield agent
    letta.delete_tool(tool_id)


def ask_as(name: str, proxy: Proxy, form: Form, agent: Agent, messages: Any, **policies: str) -> Answer:
    headers = {f"X-Letta-Policy-{policy}": value for policy, value in policies.items()}
    headers["Authorization"] = f"Bearer {key_of(name)}"
    return ask(proxy.base_url, form, agent.name, messages, extra_headers=headers)


@pytest.mark.parametrize("form", PAIR)
def test_one_agent_treats_each_key_by_its_policies(
    keyed: Proxy, letta: LettaApi, agent: Agent, form: Form
) -> None:
    owner = ask_as("owner", keyed, form, agent, BERN)
    assert WEIGHED in owner.text
    assert f"live_scales -> {WEIGHED}" in owner.reasoning
    guest = ask_as("guest", keyed, form, agent, BERN)
    assert guest.text.startswith("Weighing.")
    assert "denied" in guest.text.lower()
    assert (WEIGHED in guest.text, guest.reasoning) == (False, "")
    assert letta.pending_call_ids(agent) == []
    other = ask_as("other", keyed, form, agent, BERN)
    assert 'live_scales({"city": "Bern"})' in other.text
    assert "Scales?" in other.reasoning
    assert len(letta.pending_call_ids(agent)) == 1


@pytest.mark.parametrize("form", PAIR)
def test_a_request_is_stricter_than_its_key_and_never_laxer(
    keyed: Proxy, letta: LettaApi, agent: Agent, form: Form
) -> None:
    strict = ask_as("owner", keyed, form, agent, BERN, Approvals="deny", Reasoning="off")
    assert WEIGHED not in strict.text
    assert strict.reasoning == ""
    for name, policy, value in (
        ("guest", "Approvals", "ask"),
        ("other", "Approvals", "allow"),
        ("guest", "Background", "always"),
        ("owner", "Instructions", "override"),
    ):
        with pytest.raises(openai.BadRequestError, match="a request can only be stricter") as refused:
            ask_as(name, keyed, form, agent, "Hello", **{policy: value})
        assert refused.value.param == f"x-letta-policy-{policy.lower()}"
    assert letta.user_texts(agent) == [BERN]


RHYME: Final = "Speak in rhymes."


@pytest.mark.parametrize("form", PAIR)
def test_what_a_key_says_of_instructions(keyed: Proxy, letta: LettaApi, agent: Agent, form: Form) -> None:
    def tell(name: str, text: str, **policies: str) -> int:
        messages = [{"role": "system", "content": RHYME}, user(text)]
        assert ask_as(name, keyed, form, agent, messages, **policies).text == f"You said: {text}"
        return letta.instructions(agent).count(RHYME)

    assert tell("guest", "Hello") == 0
    assert tell("other", "Hello again") == 1
    assert tell("other", "And again") == 1
    assert tell("owner", "I have come") == 2
    assert tell("owner", "I stay", Instructions="once") == 2
    assert tell("owner", "I go", Instructions="ignore") == 2


def test_which_runs_can_be_taken_up_again(keyed: Proxy, letta: LettaApi, agent: Agent) -> None:
    ask_as("other", keyed, "sync", agent, "Hello")
    ask_as("guest", keyed, "sync", agent, "Hello")
    ask_as("other", keyed, "sync", agent, "Hello", Background="never")
    ask_as("other", keyed, "sync-stream", agent, "Hello", Background="always")
    assert [run["background"] for run in letta.runs(agent)] == [True, False, False, True]
