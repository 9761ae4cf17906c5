"""Settings of one server: where it listens, which Letta it uses, its limits and timeouts."""

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

from attrs import field, frozen, validators

from letta_recordings import RecordingFolder
from sansio_letta import Config
from sansio_letta.proxy.policies import POLICIES, with_policies

from .access import Access
from .errors import SettingsError
from .policies import PolicySettings
from .threads import ThreadSettings
from .turns import TurnSettings

#: Letta Cloud, as the official client has it.
LETTA_CLOUD: Final = "https://api.letta.com"


_CORE: Final = Config()


def _check_url(_: object, __: object, value: str) -> None:
    parts = urlsplit(value)
    try:
        usable = parts.scheme in ("http", "https", "ws", "wss") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment or parts.username:
        raise SettingsError(
            "letta_url: expected an address like http://127.0.0.1:8283, or "
            f"ws://127.0.0.1:4500 for an App Server, got {_without_login(value)!r}"
        )


def _without_login(url: str) -> str:
    return url.rpartition("@")[2] if "@" in url else url


def _check_key(_: object, attribute: object, value: str | None) -> None:
    if value is not None and not re.fullmatch(r"[!-~]+", value):
        raise SettingsError(f"{getattr(attribute, 'name', 'a key')}: expected printable ASCII without blanks")


@frozen(kw_only=True)
class Settings:
    """Settings of one server. Timeouts are seconds, sizes bytes."""

    host: str = "127.0.0.1"
    port: int = field(default=8284, validator=[validators.ge(0), validators.le(65535)])
    letta_url: str = field(default=LETTA_CLOUD, validator=_check_url)
    letta_api_key: str | None = field(default=None, repr=False, validator=_check_key)
    letta_project: str | None = field(default=None, validator=_check_key)
    allow_anyone: bool = False  #: accept connections from other machines without requiring a key
    letta_timeout: float = 120.0  #: silence after which Letta's stream counts as lost; Letta pings every 20 s
    connect_timeout: float = 10.0  #: for connecting to Letta
    idle_timeout: float = 75.0  #: between two requests of a connection; nginx's default
    request_timeout: float = 60.0  #: from a request's first byte to its last; nginx waits 60 for each part
    send_timeout: float = 60.0  #: for a client that does not read; nginx's default
    cancel_timeout: float = 10.0  #: for cancelling a run whose client has disconnected
    #: with 503 from `/ready` before the listeners close; a load balancer needs two intervals of its probe
    shutdown_delay: float = field(default=0.0, validator=validators.ge(0.0))
    #: for turns to finish at shutdown, before they are interrupted; the default of gunicorn and of Kubernetes
    shutdown_timeout: float = field(default=30.0, validator=validators.ge(0.0))
    max_header_size: int = 64 * 1024  #: request line and headers; nginx takes 32 KB, undici and h11 16
    max_header_count: int = field(default=100, validator=validators.ge(1))  #: of one request; Apache takes 100
    max_request_size: int = field(default=_CORE.max_request_size, validator=validators.ge(1))
    max_value_count: int = field(default=_CORE.max_value_count, validator=validators.ge(1))
    max_message_count: int = field(default=_CORE.max_message_count, validator=validators.ge(1))
    max_part_count: int = field(default=_CORE.max_part_count, validator=validators.ge(1))
    max_tool_count: int = field(default=_CORE.max_tool_count, validator=validators.ge(1))
    #: Chunks of one request's body, plus one for each KiB of it: parsing a chunk has a price of its own.
    max_chunk_count: int = field(default=10_000, validator=validators.ge(1))
    #: All request bodies being read, together; beyond it 503. nginx writes them to files, haproxy limits each.
    max_buffered_size: int = field(default=128 * 1024 * 1024, validator=validators.ge(1))
    #: At once, or as many as the open files allow. One more closes the one that has been idle longest.
    max_connection_count: int = field(default=10_000, validator=validators.ge(1))
    #: Of one address; None: no limit, as in nginx, since all clients behind a proxy share its address.
    max_peer_connection_count: int | None = field(default=None, validator=validators.optional(validators.ge(1)))
    #: For a TLS handshake; Go's servers use their timeout for a head, nginx waits 60.
    handshake_timeout: float = field(default=10.0, validator=validators.gt(0.0))
    access: Access = field(factory=Access)  #: keys, rates, TLS, origins
    turns: TurnSettings = field(factory=TurnSettings)  #: timeouts of turns, tools of clients, retries
    threads: ThreadSettings = field(factory=ThreadSettings)  #: which conversation a request belongs to
    policies: PolicySettings = field(factory=PolicySettings)  #: policies, unless a key has its own
    recordings: RecordingFolder | None = None  #: where requests are recorded

    def __attrs_post_init__(self) -> None:
        if not self.is_local and not self.access.requires_key and not self.allow_anyone:
            raise SettingsError(
                f"host: {self.host} can be reached from other machines, and anyone who can connect could use "
                "your agents. Configure keys (--keys, LETTA_PROXY_KEYS), forward the clients' own to Letta "
                "(--pass-through), listen on 127.0.0.1, or use --allow-anyone if something in front of it "
                "requires a key."
            )
        if self.max_buffered_size < self.max_request_size:
            raise SettingsError(
                f"max_buffered_size: expected at least max_request_size, {self.max_request_size}, got "
                f"{self.max_buffered_size}"
            )
        if self.access.pass_through and self.letta_url.startswith(("ws:", "wss:")):
            raise SettingsError(
                "pass_through: expected Letta's REST API at letta_url, got an App Server: it has one key for "
                "all agents, so clients need keys of the proxy's own (--keys)"
            )
        if self.access.pass_through and self.letta_api_key is not None:
            raise SettingsError(
                "letta_api_key: expected none beside pass_through, where each client brings its own (unset "
                "LETTA_API_KEY)"
            )

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def config(self) -> Config:
        """The core's part of the settings."""
        turns, threads = self.turns, self.threads
        config = Config(
            max_request_size=self.max_request_size,
            max_value_count=self.max_value_count,
            max_message_count=self.max_message_count,
            max_part_count=self.max_part_count,
            max_tool_count=self.max_tool_count,
            letta_silence_timeout=self.letta_timeout,
            queue_timeout=turns.queue_timeout,
            max_queue_count=turns.max_queue_count,
            pending_call_timeout=turns.pending_call_timeout,
            lookback_count=turns.lookback_count,
            turn_timeout=turns.turn_timeout,
            early_response_timeout=turns.early_response_timeout,
            keepalive_timeout=turns.keepalive_timeout,
            client_tools=turns.client_tools,
            client_tool_ttl=turns.client_tool_ttl,
            resume_timeout=turns.resume_timeout,
            repeat_ttl=turns.repeat_ttl,
            task_prompts=threads.task_prompts,
            chat_key_headers=tuple(map(str.lower, threads.chat_key_headers)),
            chat_key_fields=threads.chat_key_fields,
            speaker_fields=threads.speaker_fields,
        )
        chosen = {name: getattr(self.policies, name.replace("-", "_")) for name in POLICIES}
        return with_policies(config, {POLICIES[name].field: value for name, value in chosen.items()})
