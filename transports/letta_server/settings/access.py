"""Settings of access: keys, rates, TLS, web origins, host names."""

import re
from pathlib import Path
from typing import Annotated, Final

from attrs import field, frozen
from cyclopts import Parameter

from sansio_letta.proxy.origins import OriginRules, normal_origin

from .errors import SettingsError
from .rates import check_store, parse_rate

#: Names by which a container reaches its host (Docker Desktop, Podman); no web site can have one of them.
_CONTAINER_HOSTS: Final = ("host.docker.internal", "host.containers.internal")

_HOST: Final = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?|[0-9a-f]*:[0-9a-f:]*")


@frozen(kw_only=True)
class Access:
    """Settings of access. The files `keys`, `config`, `tls_cert` and `tls_key` are read again on SIGHUP."""

    config: Annotated[
        Path | None,
        Parameter(
            env_var="LETTA_PROXY_CONFIG",
            show_default=False,
            help="TOML file with any of these options, and [keys.NAME] entries.",
        ),
    ] = None
    keys: Annotated[
        Path | None,
        Parameter(
            env_var="LETTA_PROXY_KEYS_FILE",
            show_default=False,
            help="TOML file of client keys; `letta-proxy keys new NAME` prints an entry.",
        ),
    ] = None
    key_list: Annotated[str | None, Parameter(parse=False)] = field(default=None, repr=False)
    pass_through: Annotated[
        bool,
        Parameter(
            env_var="LETTA_PROXY_PASS_THROUGH",
            negative="",
            help="Forward each client's key to Letta instead of checking it here.",
        ),
    ] = False
    rate: Annotated[
        str | None,
        Parameter(
            env_var="LETTA_PROXY_RATE",
            show_default=False,
            help="Rate limit of keys that have none of their own, like 60/minute.",
        ),
    ] = None
    rate_store: Annotated[
        str | None,
        Parameter(
            env_var="LETTA_PROXY_RATE_STORE",
            show_default=False,
            help="Redis or Valkey shared by replicas to count requests, like redis://127.0.0.1:6379/0.",
        ),
    ] = field(default=None, repr=False)
    tls_cert: Annotated[
        Path | None,
        Parameter(
            env_var="LETTA_PROXY_TLS_CERT",
            show_default=False,
            help="Certificate chain, PEM.",
        ),
    ] = None
    tls_key: Annotated[
        Path | None,
        Parameter(
            env_var="LETTA_PROXY_TLS_KEY",
            show_default=False,
            help="Private key of the certificate, PEM, not encrypted.",
        ),
    ] = None
    cors_origin: Annotated[
        tuple[str, ...],
        Parameter(
            env_var="LETTA_PROXY_CORS_ORIGINS",
            negative="",
            show_default=False,
            help="Origin of web pages that may use the server (https://chat.example, https://*.example.com, "
            "chrome-extension://ID, null for files), or *; can be repeated.",
        ),
    ] = ()
    allowed_host: Annotated[
        tuple[str, ...],
        Parameter(
            env_var="LETTA_PROXY_ALLOWED_HOSTS",
            negative="",
            help="Host name to accept besides localhost when listening on loopback; can be repeated.",
        ),
    ] = _CONTAINER_HOSTS

    def __attrs_post_init__(self) -> None:
        if self.pass_through and self._has_keys:
            raise SettingsError(
                "pass_through: expected no keys of the proxy's own beside it (keys, config, LETTA_PROXY_KEYS): "
                "a client has one key, and it goes to Letta"
            )
        if self.rate is not None:
            if self.pass_through:
                raise SettingsError(
                    "rate: expected keys of the proxy's own, not pass_through: there Letta counts"
                )
            parse_rate(self.rate, "rate")
        if self.rate_store is not None:
            check_store(self.rate_store)
        for cert, key in (("tls_cert", "tls_key"), ("tls_key", "tls_cert")):
            if getattr(self, cert) is not None and getattr(self, key) is None:
                raise SettingsError(f"{key}: expected a file, since {cert} is given")
        for origin in self.cors_origin:
            try:
                normal_origin(origin)
            except ValueError as exc:
                raise SettingsError(f"cors_origin: expected {exc}; got {origin[:100]!r}") from None
        for host in self.allowed_host:
            if not _HOST.fullmatch(host.lower()):
                raise SettingsError(f"allowed_host: expected a name without port or scheme, got {host[:100]!r}")

    @property
    def _has_keys(self) -> bool:
        return self.keys is not None or self.config is not None or self.key_list is not None

    @property
    def requires_key(self) -> bool:
        """Whether a client needs a key to reach an agent."""
        return self.pass_through or self._has_keys

    @property
    def key_files(self) -> tuple[Path, ...]:
        return tuple(path for path in (self.config, self.keys) if path is not None)

    def origin_rules(self, *, is_local: bool) -> OriginRules:
        """Return the rules for origins and host names.

        :param is_local: whether only this machine can connect; then host names are checked, since a web page
            could otherwise reach the server by DNS rebinding.
        """
        return OriginRules(
            origins=self.cors_origin,
            hosts=tuple(map(str.lower, self.allowed_host)) if is_local else None,
        )
