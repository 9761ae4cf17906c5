"""Keys files, lists of keys, and the key ring made from them."""

import hmac
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from letta_server.access.keys import (
    MAX_FILE_SIZE,
    MAX_KEY_COUNT,
    KeyRing,
    digest_of,
    new_key,
    read_keys,
    toml_lines,
)
from letta_server.settings.errors import SettingsError
from sansio_letta import Approvals, ReasoningField, ServerTools
from sansio_letta.config import NamedTools
from sansio_letta.proxy.policies import POLICIES

SECRET = "a-key-that-nobody-guesses"
DIGEST = sha256(SECRET.encode()).hexdigest()


def written(folder: Path, text: str, name: str = "keys.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return path


def test_a_file_of_keys(tmp_path: Path) -> None:
    text = f"""
        [keys.alice]
        sha256 = "{DIGEST.upper()}"
        agents = ["Milo", "Support *"]
        rate = "10/second; 60/minute"

        [keys."bob@example.com"]
        key = "another-plain-long-key"
    """
    ring = read_keys([written(tmp_path, text)])
    alice, bob = ring.find(SECRET), ring.find("another-plain-long-key")
    assert alice is not None
    assert bob is not None
    assert (alice.caller.name, alice.caller.agents) == ("alice", ("Milo", "Support *"))
    assert [(rate.amount, rate.get_expiry()) for rate in alice.rates] == [(10, 1), (60, 60)]
    assert (bob.caller.name, bob.caller.agents, bob.rates) == ("bob@example.com", None, ())
    assert ring.find(DIGEST) is None
    assert ring.find("") is None


KNOWN = [
    "test",
    "Test",
    "TEST",
    "secret",
    "password",
    "letta",
    "none",
    "sk-...",
    "sk-1234",
    "EMPTY",
    "lp-test",
    "",
]


@pytest.mark.parametrize("word", [*KNOWN, "a-key-that-somebody-made-up"])
def test_a_key_that_everybody_knows_is_none(tmp_path: Path, word: str) -> None:
    digest = sha256(word.encode()).hexdigest()
    told = "sha256: expected a key that cannot be guessed.*`letta-proxy keys new` makes one"
    for text in (digest, digest.upper()):
        with pytest.raises(SettingsError, match=told) as refused:
            read_keys([written(tmp_path, f"[keys.alice]\nsha256 = '{text}'")])
        assert not word or word not in str(refused.value).replace("letta-proxy keys new", "").split()
    with pytest.raises(SettingsError, match=told):
        read_keys([], f"alice=sha256:{digest}")


def test_neither_is_one_that_is_given_as_it_is(tmp_path: Path) -> None:
    for key in ("a-key-that-somebody-made-up", "A-KEY-THAT-SOMEBODY-MADE-UP", "sk-no-key-required"):
        with pytest.raises(SettingsError, match=r"alice\.key: expected a key that cannot be guessed"):
            read_keys([written(tmp_path, f"[keys.alice]\nkey = '{key}'")])


def test_what_keys_new_prints_is_read(tmp_path: Path) -> None:
    key = new_key()
    lines = toml_lines("alice", key, agents=['the "best"\n\\one', "M*"], rate="60/minute")
    found = read_keys([written(tmp_path, lines)]).find(key)
    assert found is not None
    assert found.caller.agents == ('the "best"\n\\one', "M*")
    assert key not in lines
    assert len({new_key() for _ in range(100)}) == 100


def test_a_keys_policies(tmp_path: Path) -> None:
    text = f"""
        [keys.alice]
        key = "{SECRET}"
        policies = {{ approvals = "allow", server-tools = " Status " }}

        [keys.bob]
        key = "another-plain-long-key"

        [keys.bob.policies]
        reasoning = "off"

        [keys.carol]
        key = "a-third-plain-long-key"
        policies = {{}}
    """
    ring = read_keys([written(tmp_path, text)])
    assert [key.caller.policies for key in ring.keys] == [
        {"approvals": Approvals.ALLOW, "server_tools": ServerTools.STATUS},
        {"reasoning_field": ReasoningField.OFF},
        {},
    ]


def test_every_policy_and_value_is_written_and_read(tmp_path: Path) -> None:
    names = [f"{name}={value.value}" for name, policy in POLICIES.items() for value in policy.values]
    for number, name in enumerate(names):
        path = written(tmp_path, toml_lines("alice", SECRET, policies=[name]), f"{number}.toml")
        policy, _, value = name.partition("=")
        [key] = read_keys([path]).keys
        assert key.caller.policies == {POLICIES[policy].field: POLICIES[policy].read(value)}


def test_a_keys_agent_tools_can_be_named(tmp_path: Path) -> None:
    path = written(tmp_path, toml_lines("alice", SECRET, policies=["agent-tools=memory, web_search"]))
    [key] = read_keys([path]).keys
    assert key.caller.policies == {"agent_tools": NamedTools(("memory", "web_search"))}


@pytest.mark.parametrize(
    ("policies", "told"),
    [
        (["approvals"], "policy: expected NAME=VALUE, like approvals=deny, got 'approvals'"),
        ([""], "policy: expected NAME=VALUE"),
        (["approvals="], "policy approvals: expected one of allow, ask, deny"),
        (["approvals=maybe"], "policy approvals: expected one of allow, ask, deny"),
        (["aprovals=deny"], f"policy aprovals: expected one of {', '.join(POLICIES)}"),
        (["Approvals=deny"], "policy Approvals: expected one of approvals, "),
        (["approvals=deny", " approvals = DENY"], "policy: expected approvals once, found it twice"),
    ],
)
def test_a_policy_that_is_none_is_not_written(policies: list[str], told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        toml_lines("alice", SECRET, policies=policies)
    assert str(caught.value).startswith(told)


def test_a_name_with_a_dot_is_one_name(tmp_path: Path) -> None:
    path = written(tmp_path, toml_lines("a.b@c", SECRET))
    assert [key.caller.name for key in read_keys([path]).keys] == ["a.b@c"]


def test_keys_of_several_places(tmp_path: Path) -> None:
    path = written(tmp_path, toml_lines("alice", SECRET))
    ring = read_keys(
        [path], f"bob=plain-key-of-bobs, carol=sha256:{digest_of('carols').hex()}", rate="5/minute"
    )
    assert [key.caller.name for key in ring.keys] == ["alice", "bob", "carol"]
    assert [key.rates[0].amount for key in ring.keys] == [5, 5, 5]
    assert ring.find("carols") is ring.keys[2]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "keys: expected a table [keys.NAME] for each key, found none"),
        ("keys = 1", "keys: expected a table [keys.NAME] for each key, found none"),
        ("[keys]\nalice = 1", "keys.alice: expected a table [keys.alice]"),
        ("[keys.alice\n", "expected TOML: "),
        ("[keys.alice]\n\n[keys.alice]", "line 3"),
        ('[keys.alice]\nkey = "\udc80"', "expected TOML in UTF-8, line 2 is not"),
        ("[keys.'a b']\nkey = 'x'", "keys.a b: expected a name of up to 64 letters"),
        ("[keys.alice]", "keys.alice: expected either sha256 or key"),
        (f"[keys.alice]\nkey = '{SECRET}'\nsha256 = '{DIGEST}'", "keys.alice: expected either sha256 or key"),
        ("[keys.alice]\nsha256 = 'abc'", "keys.alice.sha256: expected 64 hexadecimal digits"),
        ("[keys.alice]\nsha256 = 1", "keys.alice.sha256: expected 64 hexadecimal digits"),
        ("[keys.alice]\nkey = 'short'", "keys.alice.key: expected at least 16 characters"),
        ("[keys.alice]\nkey = 'with a blank in between'", "keys.alice.key: expected at least 16 characters"),
        ("[keys.alice]\nkey = 1", "keys.alice.key: expected at least 16 characters"),
        (f"[keys.alice]\nkey = '{SECRET}'\nagents = 'Milo'", "keys.alice.agents: expected a list of names"),
        (f"[keys.alice]\nkey = '{SECRET}'\nagents = ['']", "keys.alice.agents: expected a list of names"),
        (f"[keys.alice]\nkey = '{SECRET}'\nagents = [1]", "keys.alice.agents: expected a list of names"),
        (f"[keys.alice]\nkey = '{SECRET}'\nrate = 5", 'keys.alice.rate: expected a text like "60/minute"'),
        (f"[keys.alice]\nkey = '{SECRET}'\nrate = 'often'", 'keys.alice.rate: expected "60/minute"'),
        (f"[keys.alice]\nkey = '{SECRET}'\nrate = '0/minute'", "of 1 to 100000 requests, got '0/minute'"),
        (f"[keys.alice]\nkey = '{SECRET}'\nrate = '1000000/day'", "of 1 to 100000 requests"),
        (
            f"[keys.alice]\nkey = '{SECRET}'\nagent = 'x'",
            "keys.alice.agent: expected one of sha256, key, agents, rate, policies",
        ),
        *(
            (f"[keys.alice]\nkey = '{SECRET}'\npolicies = {policies}", told)
            for policies, told in (
                ("'deny'", 'keys.alice.policies: expected a table like { approvals = "deny" }'),
                ("['approvals']", "keys.alice.policies: expected a table like"),
                (
                    "{ aprovals = 'deny' }",
                    f"keys.alice.policies.aprovals: expected one of {', '.join(POLICIES)}",
                ),
                (
                    "{ Approvals = 'deny' }",
                    "keys.alice.policies.Approvals: expected one of approvals, agent-tools",
                ),
                ("{ server_tools = 'status' }", "keys.alice.policies.server_tools: expected one of approvals"),
                ("{ approvals = 'maybe' }", "keys.alice.policies.approvals: expected one of allow, ask, deny"),
                ("{ approvals = '' }", "keys.alice.policies.approvals: expected one of allow, ask, deny"),
                ("{ approvals = true }", "keys.alice.policies.approvals: expected one of allow, ask, deny"),
                ("{ tasks = ['pass'] }", "keys.alice.policies.tasks: expected one of isolate, pass, refuse"),
                ("{ tasks = 'pass', tasks = 'pass' }", "expected TOML: "),
            )
        ),
        (
            f"[keys.a]\nkey = '{SECRET}'\n[keys.b]\nsha256 = '{DIGEST}'",
            "keys.b: expected a key of its own, found that",
        ),
    ],
)
def test_what_is_wrong_is_told_without_a_key(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(SettingsError) as caught:
        read_keys([path])
    assert told in str(caught.value)
    assert "keys.toml" in str(caught.value) or "own" in told
    for secret in (SECRET, DIGEST, "short", "with a blank"):
        assert secret not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "entry 1: expected NAME=KEY"),
        (SECRET, "entry 1: expected NAME=KEY"),
        (f"alice={SECRET} bob", "entry 2: expected NAME=KEY"),
        (f"alice={SECRET},alice=another-long-secret-key", "keys.alice: expected one key of each name"),
        ("alice=short", "keys.alice.key: expected at least 16"),
        ("alice=sha256:short", "keys.alice.sha256: expected 64"),
    ],
)
def test_a_list_that_is_none(text: str, told: str) -> None:
    with pytest.raises(SettingsError, match="LETTA_PROXY_KEYS: ") as caught:
        read_keys([], text)
    assert told in str(caught.value)
    assert SECRET not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.toml: no such file or directory"):
        read_keys([tmp_path / "absent.toml"])
    with pytest.raises(SettingsError, match="is a directory"):
        read_keys([tmp_path])
    with pytest.raises(SettingsError, match=f"expected at most {MAX_FILE_SIZE} bytes"):
        read_keys([written(tmp_path, "#" * (MAX_FILE_SIZE + 1))])


def test_a_name_in_two_files(tmp_path: Path) -> None:
    one = written(tmp_path, toml_lines("alice", SECRET))
    two = written(tmp_path, toml_lines("alice", "another"), "more.toml")
    with pytest.raises(
        SettingsError, match=r"more\.toml: keys\.alice: expected one key of each name, found two"
    ):
        read_keys([one, two])


def test_there_is_a_most(tmp_path: Path) -> None:
    text = "\n".join(toml_lines(f"k{number}", f"key-{number}") for number in range(MAX_KEY_COUNT + 1))
    with pytest.raises(
        SettingsError, match=f"keys: expected at most {MAX_KEY_COUNT}, found {MAX_KEY_COUNT + 1}"
    ):
        read_keys([written(tmp_path, text)])


def test_nothing_secret_shows(tmp_path: Path) -> None:
    ring = read_keys([written(tmp_path, toml_lines("alice", SECRET))])
    assert "alice" in repr(ring)
    assert DIGEST not in repr(ring)
    assert repr(digest_of(SECRET)) not in repr(ring)


@given(st.text(min_size=1, max_size=200))
def test_guessing_compares_all_keys_over_digests_of_one_length(guess: str) -> None:
    ring = read_keys([], " ".join(f"k{number}=a-plain-key-number-{number}" for number in range(5)))
    compared: list[tuple[bytes, bytes]] = []
    same = hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return same(one, other)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hmac, "compare_digest", compare)
        for key in (guess, "a-plain-key-number-0", "a-plain-key-number-4"):
            compared.clear()
            found = ring.find(key.encode("utf-8", "replace").decode())
            assert [other for _, other in compared] == [known.digest for known in ring.keys]
            assert {len(part) for pair in compared for part in pair} == {32}
    assert found is ring.keys[4]


def test_an_empty_ring_opens_nothing() -> None:
    assert KeyRing(()).find(SECRET) is None
