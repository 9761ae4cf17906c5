"""Options of ``letta-proxy serve`` for one that runs as a service: how it ends."""

from typing import Annotated, Final

from attrs import field, frozen
from cyclopts import Parameter
from cyclopts.validators import Number

from ._settings import Settings

_DEFAULT: Final = Settings()

_not_negative: Final = Number(gte=0)


@Parameter(name="*")
@frozen(kw_only=True)
class ServiceOptions:
    """What only the process knows; the server's own settings are `Settings`."""

    shutdown_delay: Annotated[
        float,
        Parameter(
            env_var="LETTA_PROXY_SHUTDOWN_DELAY",
            validator=_not_negative,
            help="Seconds for which /ready answers 503 before the port closes, for a balancer to notice.",
        ),
    ] = field(default=_DEFAULT.shutdown_delay)
    shutdown_timeout: Annotated[
        float,
        Parameter(
            env_var="LETTA_PROXY_SHUTDOWN_TIMEOUT",
            validator=_not_negative,
            help="Seconds for which turns may finish at the end, before they are interrupted.",
        ),
    ] = field(default=_DEFAULT.shutdown_timeout)
