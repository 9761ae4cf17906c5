"""Options that several commands take."""

from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from ..settings.log import LogFormat

Host = Annotated[str, Parameter(env_var="LETTA_PROXY_HOST", help="Address to listen on.")]
Port = Annotated[
    int,
    Parameter(env_var="LETTA_PROXY_PORT", validator=Number(gte=0, lte=65535), help="Port; 0 picks a free one."),
]
Format = Annotated[LogFormat, Parameter(env_var="LETTA_PROXY_LOG_FORMAT", help="Format of the log on stderr.")]
LettaUrl = Annotated[
    str, Parameter(env_var="LETTA_BASE_URL", help="Address of the Letta server; default: Letta Cloud.")
]
LettaApiKey = Annotated[
    str | None, Parameter(env_var="LETTA_API_KEY", show_default=False, help="Letta's API key or password.")
]
LettaProject = Annotated[
    str | None, Parameter(env_var="LETTA_PROJECT", show_default=False, help="Project at Letta Cloud.")
]
