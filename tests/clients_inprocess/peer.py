"""The other end of the transports: recordings, or with LETTA_URL in the environment a real Letta server.

Its model is scripted by what the user says, so that both give the same answers. With LETTA_PROXY_URL beside it
the clients have no transport of ours: they ask a server of ours, the way that leads anywhere else. Both check
replies where a client wishes for JSON or forces a call.
"""

import os
import uuid
from typing import Any, Final

import openai
import pytest
from attrs import define, field

from clients_inprocess.recorded import RecordedLetta
from live.letta_api import Agent, LettaApi
from sansio_letta import Config, Enforcement

if int(openai.__version__.partition(".")[0]) >= 3:
    import httpx2 as http

    import letta_httpx2 as ours
else:
    import httpx as http  # type: ignore[no-redef]

    import letta_httpx as ours  # type: ignore[no-redef]

LETTA_URL: Final = os.environ.get("LETTA_URL")
PROXY_URL: Final = os.environ.get("LETTA_PROXY_URL")

#: Of tests in which an agent writes JSON.
WRITES_JSON: Final = pytest.mark.skipif(LETTA_URL is None, reason="no agent of the recordings writes JSON")


@define(eq=False)
class Peer:
    """A Letta, and clients whose transport leads there."""

    agents: list[Agent] = field(factory=list, init=False)
    recorded: RecordedLetta = field(factory=lambda: RecordedLetta(http), init=False)

    @property
    def base_url(self) -> str:
        """What a client is given; in-process it leads nowhere."""
        return PROXY_URL or "http://letta.invalid/v1"

    @property
    def api(self) -> LettaApi:
        assert LETTA_URL is not None
        return LettaApi(url=LETTA_URL, model_url="")

    def model(self, scenario: str) -> str:
        """The name of an agent that plays a recorded scenario, or of a new one."""
        if LETTA_URL is None:
            return scenario
        self.agents.append(self.api.create_agent(f"in-process {uuid.uuid4().hex[:12]}"))
        return self.agents[-1].name

    def _arguments(self) -> dict[str, Any]:
        config = Config(enforcement=Enforcement.VALIDATE)
        if LETTA_URL is not None:
            return {"base_url": LETTA_URL, "config": config}
        return {"base_url": "http://letta.invalid", "inner": self.recorded.transport(), "config": config}

    def http_client(self) -> Any:
        if PROXY_URL is not None:
            return http.Client()
        return http.Client(transport=ours.LettaTransport(**self._arguments()))

    def async_http_client(self) -> Any:
        if PROXY_URL is not None:
            return http.AsyncClient()
        return http.AsyncClient(transport=ours.AsyncLettaTransport(**self._arguments()))

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(**self._connection(), http_client=self.http_client())

    def async_client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(**self._connection(), http_client=self.async_http_client())

    def _connection(self) -> dict[str, Any]:
        return {"base_url": self.base_url, "api_key": "none", "max_retries": 0}
