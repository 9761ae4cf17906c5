"""What a request may choose for itself, and what only who runs the server may."""

import pytest

from drive_cycle import Client, chat
from sansio_letta import Approvals, Config, Proxy, RequestError, ServerTools
from sansio_letta.policies import with_policies

APPROVALS = "x-letta-policy-approvals"
TOOLS = "x-letta-policy-server-tools"


def test_without_headers_it_is_the_servers_own() -> None:
    config = Config()
    assert with_policies(config, {"authorization": "Bearer x", "x-letta-policy": "all"}) is config


@pytest.mark.parametrize("view", ServerTools)
@pytest.mark.parametrize("own", ServerTools)
def test_how_tools_are_shown_is_a_matter_of_taste(own: ServerTools, view: ServerTools) -> None:
    chosen = with_policies(Config(server_tools=own), {TOOLS: f" {view.value.upper()} "})
    assert chosen == Config(server_tools=view)


STRICTER = [
    (Approvals.ALLOW, "ask"),
    (Approvals.ALLOW, "deny"),
    (Approvals.ASK, "deny"),
    *((same, same.value) for same in Approvals),
]


@pytest.mark.parametrize(("own", "text"), STRICTER)
def test_approvals_may_be_made_stricter(own: Approvals, text: str) -> None:
    assert with_policies(Config(approvals=own), {APPROVALS: text}).approvals is Approvals(text)


@pytest.mark.parametrize(
    ("own", "text", "choice"),
    [
        (Approvals.ASK, "allow", "must be one of: ask, deny. The server's is ask"),
        (Approvals.DENY, "ask", "must be one of: deny. The server's is deny"),
        (Approvals.ALLOW, "maybe", "must be one of: allow, ask, deny."),
    ],
)
def test_approvals_are_never_made_laxer(own: Approvals, text: str, choice: str) -> None:
    with pytest.raises(RequestError, match=choice) as caught:
        with_policies(Config(approvals=own), {APPROVALS: text})
    assert APPROVALS in caught.value.message
    assert text not in caught.value.message.partition(" must be ")[0].replace(APPROVALS, "")


def test_an_unknown_policy_is_refused_by_name() -> None:
    with pytest.raises(RequestError, match=f"{APPROVALS}, {TOOLS}"):
        with_policies(Config(), {"x-letta-policy-aprovals": "deny"})


def test_a_bad_header_is_answered_before_letta_is_asked() -> None:
    client = Client(chat(headers={TOOLS: "loud"}), Proxy())
    assert (client.status, client.commands) == (400, [])
    error = client.json()["error"]
    assert error["param"] == TOOLS
    assert error["message"].endswith("must be one of: hidden, reasoning, status.")
