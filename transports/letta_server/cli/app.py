"""``letta-proxy`` and its commands.

A command imports its implementation when it runs: most of the time of an import is the server's.
"""

from pathlib import Path
from typing import Annotated, Final

from cyclopts import App, Parameter
from cyclopts.validators import Number

from letta_recordings import RecordingFolder
from sansio_letta import PRODUCT_ID
from sansio_letta.recording.format import TextMode

from ..settings.access import Access
from ..settings.errors import SettingsError
from ..settings.log import LogFormat
from ..settings.policies import PolicySettings
from ..settings.server import LETTA_CLOUD, Settings
from ..settings.service import ServiceOptions
from ..settings.threads import ThreadSettings
from ..settings.turns import TurnSettings
from .config_file import complete, read_config
from .exit import stop
from .keys import keys_app
from .options import Format, Host, LettaApiKey, LettaProject, LettaUrl, Port
from .record import record_command
from .recordings import recordings_app
from .repair import repair_command
from .threads import threads_command

app = App(
    name="letta-proxy",
    help="Serve Letta agents as OpenAI-compatible models.",
    help_format="plaintext",
    version=PRODUCT_ID.partition("/")[2],
)

app.command(recordings_app, name="*")
app.command(keys_app)
app.command(threads_command, name="threads")
app.command(repair_command, name="repair")
app.command(record_command, name="record")

_SERVICE: Final = ServiceOptions()
_ACCESS: Final = Access()
_TURNS: Final = TurnSettings()
_POLICIES: Final = PolicySettings()
_THREADS: Final = ThreadSettings()


@app.command(name="serve", config=read_config)
def serve_command(
    *,
    host: Host = "127.0.0.1",
    port: Port = 8284,
    letta_url: LettaUrl = LETTA_CLOUD,
    letta_api_key: LettaApiKey = None,
    letta_project: LettaProject = None,
    letta_timeout: Annotated[
        float,
        Parameter(
            env_var="LETTA_PROXY_LETTA_TIMEOUT",
            help="Seconds without data after which a stream from Letta counts as lost.",
        ),
    ] = 120.0,
    allow_anyone: Annotated[
        bool, Parameter(negative="", help="Accept connections from other machines without requiring a key.")
    ] = False,
    log_format: Format = LogFormat.AUTO,
    record: Annotated[
        Path | None,
        Parameter(
            env_var="LETTA_PROXY_RECORD", help="Folder in which requests are recorded.", show_default=False
        ),
    ] = None,
    record_text: Annotated[
        TextMode, Parameter(env_var="LETTA_PROXY_RECORD_TEXT", help="How recordings store texts.")
    ] = TextMode.DROP,
    record_max_count: Annotated[
        int,
        Parameter(
            validator=Number(gte=1), help="Maximum number of recordings; beyond it, the oldest are deleted."
        ),
    ] = 1000,
    record_max_size: Annotated[
        int,
        Parameter(
            validator=Number(gte=1),
            help="Maximum size of all recordings in bytes; beyond it, the oldest are deleted.",
        ),
    ] = 256 * 1024 * 1024,
    replay: Annotated[
        Path | None,
        Parameter(help="Serve the recordings in this folder as agents, without Letta.", show_default=False),
    ] = None,
    replay_pauses: Annotated[bool, Parameter(help="Keep the recorded pauses when replaying.")] = True,
    turns: Annotated[TurnSettings, Parameter(name="*")] = _TURNS,
    policies: Annotated[PolicySettings, Parameter(name="*")] = _POLICIES,
    threads: Annotated[ThreadSettings, Parameter(name="*")] = _THREADS,
    service: ServiceOptions = _SERVICE,
    access: Annotated[Access, Parameter(name="*")] = _ACCESS,
) -> None:
    """Serve Letta agents to OpenAI clients.

    Example: letta-proxy serve --letta-url http://127.0.0.1:8283
    """
    recordings = None
    if record is not None:
        recordings = RecordingFolder(
            path=record, text=record_text, max_count=record_max_count, max_size=record_max_size
        )
    try:
        settings = Settings(
            host=host,
            port=port,
            letta_url=letta_url,
            letta_api_key=letta_api_key or None,
            letta_project=letta_project or None,
            letta_timeout=letta_timeout,
            allow_anyone=allow_anyone,
            shutdown_delay=service.shutdown_delay,
            shutdown_timeout=service.shutdown_timeout,
            max_connection_count=service.max_connection_count,
            max_request_size=service.max_request_size,
            max_value_count=service.max_value_count,
            max_message_count=service.max_message_count,
            max_part_count=service.max_part_count,
            max_tool_count=service.max_tool_count,
            max_buffered_size=service.max_buffered_size,
            access=complete(access),
            turns=turns,
            threads=threads,
            policies=policies,
            recordings=recordings,
        )
    except ValueError as exc:
        stop(str(exc))
    from .serving import serve_letta, serve_recordings

    if replay is None:
        serve_letta(settings, service, log_format)
    else:
        serve_recordings(settings, service, log_format, replay, keep_pauses=replay_pauses)


@app.command
def demo(*, host: Host = "127.0.0.1", port: Port = 8284, log_format: Format = LogFormat.AUTO) -> None:
    """Serve recorded agents, without Letta: streaming, reasoning and a tool call.

    Example: letta-proxy demo --port 8284
    """
    try:
        settings = Settings(host=host, port=port, letta_url="http://recorded.invalid")
    except SettingsError as exc:
        stop(str(exc))
    from .serving import serve_demo

    serve_demo(settings, log_format)
