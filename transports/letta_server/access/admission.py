"""Which requests are answered, decided by their heads, before a body is read."""

from collections.abc import Callable
from typing import Final

import structlog
from attrs import define, field, frozen

from sansio_letta import Caller, HttpRequest, RequestError
from sansio_letta.proxy.access import RateLimitError, find_key, is_open, no_key, wrong_key
from sansio_letta.proxy.origins import OriginRules
from sansio_letta.proxy.routing import route
from sansio_letta.turn.agent import ANYONE, NOBODY
from sansio_letta.upstreams.rest.response import Headers

from ..settings.errors import SettingsError
from ..settings.server import Settings
from .keys import KeyRing, digest_of, is_world_accessible, read_keys
from .rates import RateCounter, rate_words

_log: Final = structlog.get_logger("letta_server")


@frozen(kw_only=True)
class Admission:
    """Whether a request is answered, and how.

    :param caller: the owner of the request's key.
    :param refusal: the error that the client gets instead of an answer.
    :param headers: more headers for the response, error or not.
    :param letta_key: the client's own key, which is forwarded to Letta.
    """

    caller: Caller = ANYONE
    refusal: RequestError | None = None
    headers: Headers = ()
    letta_key: str | None = field(default=None, repr=False)


@define(eq=False)
class AdmissionControl:
    """Checks keys, rates, origins and host names.

    :raises SettingsError: if the keys cannot be read.
    """

    settings: Settings
    _rules: OriginRules = field(init=False)
    _ring: KeyRing | None = field(default=None, init=False)
    _rates: RateCounter = field(init=False)

    def __attrs_post_init__(self) -> None:
        access = self.settings.access
        self._rules = access.origin_rules(is_local=self.settings.is_local)
        self._rates = RateCounter(access.rate_store)
        self._rates.open()
        if access.requires_key and not access.pass_through:
            self._read()

    def _read(self) -> None:
        access = self.settings.access
        self._ring = read_keys(access.key_files, access.key_list, access.rate)
        for path in filter(is_world_accessible, access.key_files):
            _log.warning("keys file is open to everybody on this machine: chmod 600", path=str(path))

    def reload(self) -> None:
        """Read the keys again; if the new ones are invalid, the old ones stay."""
        if self._ring is None:
            return
        reload("keys", self._read)

    async def admit(self, request: HttpRequest) -> Admission:
        """Decide whether a request is answered, and for which caller; its body is not needed."""
        headers = self._rules.headers(request.method, request.headers)
        if len(request.headers) > self.settings.max_header_count:
            most = self.settings.max_header_count
            refusal = RequestError(
                f"The request has more than {most} headers.", status=431, code="invalid_http"
            )
            return Admission(refusal=refusal, headers=headers)
        if refused := self._rules.refuse(request.method, request.target, request.headers):
            return Admission(refusal=refused, headers=headers)
        try:
            wanted = route(request.method, request.target)
        except RequestError:
            # Errors in a path are not secret; the proxy answers like any other.
            return Admission(headers=headers)
        if is_open(wanted) or not self.settings.access.requires_key:
            return Admission(headers=headers)
        try:
            key = find_key(request.headers)
        except RequestError as exc:
            return Admission(refusal=exc, headers=headers)
        if key is None:
            if wanted.head_only:
                return Admission(caller=NOBODY, headers=headers)
            return Admission(refusal=no_key(), headers=headers)
        if self._ring is not None:
            return await self._admit_key(self._ring, key, headers)
        caller = Caller(key_is_lettas=True, realm=digest_of(key).hex())
        return Admission(caller=caller, headers=headers, letta_key=key)

    async def _admit_key(self, ring: KeyRing, given: str, headers: Headers) -> Admission:
        key = ring.find(given)
        if key is None:
            return Admission(refusal=wrong_key(), headers=headers)
        if not key.rates:
            return Admission(caller=key.caller, headers=headers)
        taken, state = await self._rates.take(key.caller.name or "", key.rates)
        refusal = None if taken else RateLimitError(state, rate_words(key.rates))
        return Admission(caller=key.caller, refusal=refusal, headers=(*headers, *state.headers()))


def reload(what: str, read: Callable[[], None]) -> None:
    """Reload something; if it is invalid, log why, and keep the previous one."""
    try:
        read()
    except SettingsError as exc:
        _log.error(f"{what} not reloaded, the old ones stay", reason=str(exc))
    else:
        _log.info(f"{what} reloaded")
