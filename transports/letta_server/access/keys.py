"""Clients' keys: their owners, the agents that they give access to, their rates.

A keys file is TOML and holds digests, so that reading it is not enough to use a key::

    [keys.alice]
    sha256 = "<64 hexadecimal digits, from letta-proxy keys new>"
    agents = ["Milo", "Support *"]      # names, * for any text, or ids; without it: all
    rate = "60/minute"                  # without it: --rate, or unlimited
    policies = { approvals = "deny" }   # override the server's
"""

import hmac
import re
import secrets
import stat
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from attrs import field, frozen

from sansio_letta import Caller
from sansio_letta.proxy.policies import POLICIES, PolicyValue

from ..settings.errors import SettingsError
from ..settings.rates import Rate, parse_rate

#: Each request is compared with all of them, at about 0.2 us each; more keys would need a database.
MAX_KEY_COUNT: Final = 1000
#: Bytes of a keys file: a thousand keys with dozens of agents each.
MAX_FILE_SIZE: Final = 1024 * 1024
#: A hand-made key must at least be longer than a word; `keys new` makes 43 random characters.
_MIN_KEY_LENGTH: Final = 16

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_FIELDS: Final = ("sha256", "key", "agents", "rate", "policies")
_PREFIX: Final = "sha256:"
#: Keys that are easy to guess: words, placeholders that programs send, and examples, including those of our own
#: documentation. Their digests are refused as well.
_KNOWN: Final = """
    test testing test-key testkey key mykey my-key apikey api-key api_key token secret my-secret mysecret
    secret-key password passw0rd passwd pass changeme change-me change_me letmein qwerty abc123 admin root
    user guest alice bob letta letta-proxy letta_proxy lettaproxy proxy milo agent demo example sample none
    null no nokey no-key no_key not-needed not_needed no-key-required unused any anything whatever default
    dummy dummy-key fake fake-key placeholder empty openai ollama lm-studio llama.cpp vllm litellm
    anything-goes hello foo bar sk- sk-... sk-xxx sk-xxxx sk-1234 sk-12345 sk-123456 sk-test sk-fake sk-dummy
    sk-none sk-key sk-letta sk-local sk-anything sk-placeholder sk-your-key sk-secret sk-no-key-required
    sk-your-api-key your-api-key your_api_key your-key your-key-here your-api-key-here your_api_key_here
    0p3n-w3bu! a-key-that-somebody-made-up xxx x ... 0 1 123 1234 12345 123456 1234567 12345678 123456789
    1234567890
"""


@frozen(kw_only=True)
class Key:
    """One key: its digest, and what it gives access to."""

    caller: Caller
    digest: bytes = field(repr=False)
    rates: tuple[Rate, ...] = ()  #: all of them apply


@frozen
class KeyRing:
    """All valid keys."""

    keys: tuple[Key, ...]

    def find(self, key: str) -> Key | None:
        """Find a key. The time does not depend on which key it is, or whether it is one."""
        given, found = digest_of(key), None
        for known in self.keys:
            if hmac.compare_digest(given, known.digest):
                found = known
        return found


def digest_of(key: str) -> bytes:
    """Digest a key. Keys are long and random: a fast digest without salt protects them well enough."""
    return sha256(key.encode()).digest()


def new_key() -> str:
    """Make a key of 256 random bits."""
    return f"lp-{secrets.token_urlsafe(32)}"


def toml_lines(
    name: str,
    key: str,
    *,
    agents: Sequence[str] = (),
    rate: str | None = None,
    policies: Sequence[str] = (),
) -> str:
    """Return the lines of a keys file for one key.

    :param policies: each as ``NAME=VALUE``.
    :raises SettingsError: if the name, the rate or a policy is invalid.
    """
    _check_name(name, f"keys.{name}")
    lines = [f"[keys.{name}]" if re.fullmatch(r"[\w-]+", name) else f'[keys."{name}"]']
    lines.append(f'sha256 = "{digest_of(key).hex()}"')
    if agents:
        lines.append(f"agents = [{', '.join(map(_toml_string, agents))}]")
    if rate is not None:
        parse_rate(rate, "rate")
        lines.append(f"rate = {_toml_string(rate)}")
    if policies:
        chosen = ", ".join(f'{each} = "{value.value}"' for each, value in _split_policies(policies).items())
        lines.append(f"policies = {{ {chosen} }}")
    return "\n".join(lines)


def _toml_string(text: str) -> str:
    escaped = re.sub(r'["\\\x00-\x1f\x7f]', lambda found: f"\\u{ord(found[0]):04x}", text)
    return f'"{escaped}"'


def _split_policies(policies: Sequence[str]) -> dict[str, PolicyValue]:
    chosen: dict[str, PolicyValue] = {}
    for entry in policies:
        name, equals, text = (part.strip() for part in entry.partition("="))
        if not equals:
            raise SettingsError(f"policy: expected NAME=VALUE, like approvals=deny, got {entry[:100]!r}")
        if name in chosen:
            raise SettingsError(f"policy: expected {name} once, found it twice")
        chosen[name] = _decode_policy(name, text, f"policy {name[:100]}")
    return chosen


# --- Reading --------------------------------------------------------------------------------------------------


def read_keys(files: Iterable[Path], key_list: str | None = None, rate: str | None = None) -> KeyRing:
    """Read the keys of files and of a list.

    :param key_list: ``name=key`` or ``name=sha256:digest``, separated by blanks or commas.
    :param rate: of keys that have none of their own.
    :raises SettingsError: naming the file, the key and the field, never a key's value.
    """
    default = parse_rate(rate, "rate") if rate is not None else ()
    keys: dict[str, Key] = {}
    sources = [(f"{path}: ", read_table(path).get("keys")) for path in files]
    if key_list is not None:
        sources.append(("LETTA_PROXY_KEYS: ", _split(key_list)))
    for source, table in sources:
        if not isinstance(table, dict) or not table:
            raise SettingsError(f"{source}keys: expected a table [keys.NAME] for each key, found none")
        for name, value in table.items():
            where = f"{source}keys.{name}"
            _check_name(name, where)
            if name in keys:
                raise SettingsError(f"{where}: expected one key of each name, found two")
            keys[name] = _decode_key(name, value, where, default)
    if len(keys) > MAX_KEY_COUNT:
        raise SettingsError(f"keys: expected at most {MAX_KEY_COUNT}, found {len(keys)}")
    owners: dict[bytes, str] = {}
    for name, key in keys.items():
        if (other := owners.setdefault(key.digest, name)) != name:
            raise SettingsError(f"keys.{name}: expected a key of its own, found that of keys.{other}")
    return KeyRing(tuple(keys.values()))


def read_table(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    :raises SettingsError: if it cannot be read; the message names the line.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_SIZE + 1)
    except OSError as exc:
        raise SettingsError(f"{path}: {(exc.strerror or str(exc)).lower()}") from None
    if len(data) > MAX_FILE_SIZE:
        raise SettingsError(f"{path}: expected at most {MAX_FILE_SIZE} bytes")
    try:
        table = tomllib.loads(data.decode())
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise SettingsError(f"{path}: expected TOML in UTF-8, line {line} is not") from None
    except tomllib.TOMLDecodeError as exc:
        raise SettingsError(f"{path}: expected TOML: {_without_quotes(str(exc))}") from None
    return table


def is_world_accessible(path: Path) -> bool:
    """Whether every user of this machine may read or write a file; False if it is gone."""
    try:
        return bool(path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH))
    except OSError:
        return False


def _without_quotes(message: str) -> str:
    # Newer versions of the parser quote what they cannot parse, which may be a key.
    return re.sub(r"(['\"]).*\1", "...", message)


def _split(key_list: str) -> dict[str, object]:
    table: dict[str, object] = {}
    for number, entry in enumerate(re.split(r"[\s,]+", key_list.strip()), start=1):
        name, equals, value = entry.partition("=")
        if not equals or not _NAME.fullmatch(name):
            raise SettingsError(f"LETTA_PROXY_KEYS: entry {number}: expected NAME=KEY or NAME=sha256:DIGEST")
        if name in table:
            raise SettingsError(f"LETTA_PROXY_KEYS: keys.{name}: expected one key of each name, found two")
        hashed = value.startswith(_PREFIX)
        table[name] = {"sha256": value.removeprefix(_PREFIX)} if hashed else {"key": value}
    return table


def _check_name(name: str, where: str) -> None:
    if not _NAME.fullmatch(name):
        raise SettingsError(f"{where}: expected a name of up to 64 letters, digits and . _ @ -")


def _decode_key(name: str, value: object, where: str, default: tuple[Rate, ...]) -> Key:
    if not isinstance(value, dict):
        raise SettingsError(f"{where}: expected a table [keys.{name}]")
    for unknown in value.keys() - set(_FIELDS):
        raise SettingsError(f"{where}.{unknown}: expected one of {', '.join(_FIELDS)}")
    if ("sha256" in value) == ("key" in value):
        raise SettingsError(f"{where}: expected either sha256 or key")
    agents = value.get("agents")
    if agents is not None and not (
        isinstance(agents, list) and all(isinstance(entry, str) and entry for entry in agents)
    ):
        raise SettingsError(f"{where}.agents: expected a list of names, patterns with *, or ids")
    rate = value.get("rate")
    if rate is not None and not isinstance(rate, str):
        raise SettingsError(f'{where}.rate: expected a text like "60/minute"')
    policies = value.get("policies", {})
    if not isinstance(policies, dict):
        raise SettingsError(f'{where}.policies: expected a table like {{ approvals = "deny" }}')
    chosen = {each: _decode_policy(each, text, f"{where}.policies.{each}") for each, text in policies.items()}
    return Key(
        caller=Caller(
            name=name,
            agents=None if agents is None else tuple(agents),
            policies={POLICIES[each].field: choice for each, choice in chosen.items()},
        ),
        digest=_decode_digest(value, where),
        rates=default if rate is None else parse_rate(rate, f"{where}.rate"),
    )


def _decode_policy(name: str, text: object, where: str) -> PolicyValue:
    policy = POLICIES.get(name)
    if policy is None:
        raise SettingsError(f"{where}: expected one of {', '.join(POLICIES)}")
    value = policy.read(text) if isinstance(text, str) else None
    if value is None:
        raise SettingsError(f"{where}: expected one of {', '.join(policy.choices)}")
    return value


def _decode_digest(value: Mapping[str, object], where: str) -> bytes:
    field_name = "sha256" if "sha256" in value else "key"
    digest = _read_digest(value, where)
    if digest in _known_digests():
        raise SettingsError(
            f"{where}.{field_name}: expected a key that cannot be guessed, but this one is a common word or "
            "example; `letta-proxy keys new` makes one"
        )
    return digest


@cache
def _known_digests() -> frozenset[bytes]:
    forms = {
        form for word in ("", *_KNOWN.split()) for form in (word, word.upper(), word.capitalize(), f"lp-{word}")
    }
    return frozenset(map(digest_of, forms))


def _read_digest(value: Mapping[str, object], where: str) -> bytes:
    digest, key = value.get("sha256"), value.get("key")
    if "sha256" in value:
        if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
            raise SettingsError(
                f"{where}.sha256: expected 64 hexadecimal digits, as `letta-proxy keys new` prints"
            )
        return bytes.fromhex(digest)
    if not isinstance(key, str) or not re.fullmatch(r"[!-~]+", key) or len(key) < _MIN_KEY_LENGTH:
        raise SettingsError(
            f"{where}.key: expected at least {_MIN_KEY_LENGTH} characters of printable ASCII without blanks; "
            "`letta-proxy keys new` makes one"
        )
    return digest_of(key)
