"""LangChain, LiteLLM, openai-agents and pydantic-ai through the server: the tests that they have in-process."""

import pytest

from clients_inprocess.run import ENVIRONMENTS, check
from live.proxy import SHORT_WAIT, serving
from live.rig import Rig


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_through_the_server(rig: Rig, name: str) -> None:
    """What fails inside is printed, by the tests in that environment."""
    with serving(rig.url, "--enforcement", "validate", *SHORT_WAIT) as proxy:
        assert check(name, rig.url, proxy.base_url)
    assert sum("/v1/chat/completions" in line for line in proxy.lines) > 10
