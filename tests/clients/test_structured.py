"""Programs that need structured output: instructor forces a tool call, browser-use wants JSON."""

from pathlib import Path
from typing import Final

import pytest

from clients.programs import Desk, install_pypi
from live.letta_api import Agent, LettaApi

INSTRUCTOR: Final = ("instructor==1.17.0",)
BROWSER_USE: Final = ("browser-use==0.13.14",)
QUIET: Final = {"ANONYMIZED_TELEMETRY": "false"}


@pytest.fixture(scope="module")
def instructor(installed: Path) -> Path:
    """The folder with instructor's Python."""
    return install_pypi(installed, *INSTRUCTOR)


@pytest.fixture(scope="module")
def browser_use(installed: Path) -> Path:
    """The folder with browser-use's Python."""
    return install_pypi(installed, *BROWSER_USE)


def test_instructor(instructor: Path, desk: Desk, url: str, letta: LettaApi, agent: Agent) -> None:
    """A forced call is the whole answer: the next request finds nothing pending, and nothing is denied."""
    people = [{"name": "Cleo", "age": 3}, {"name": "Max", "age": 4}, {"name": "Ida", "age": 5}]
    orders = [f'call Person {{"name": "{person["name"]}", "age": {person["age"]}}}' for person in people]
    assert desk.run_script(instructor, "instructor_extract.py", url, agent.name, *orders) == people
    assert letta.user_texts(agent) == orders
    assert not [text for _, text, _ in letta.tool_returns(agent) if "denied" in text]
    assert letta.failed_runs(agent) == []


def test_browser_use(browser_use: Path, desk: Desk, url: str, letta: LettaApi, agent: Agent) -> None:
    """The schema is in each request, and told once."""
    steps = [{"thinking": "first", "next_goal": "click"}, {"thinking": "then", "next_goal": "read"}]
    orders = [f'say {{"thinking": "{step["thinking"]}", "next_goal": "{step["next_goal"]}"}}' for step in steps]
    found = desk.run_script(browser_use, "browser_use_steps.py", url, agent.name, *orders, settings=QUIET)
    assert found == steps
    assert letta.user_texts(agent) == orders
    assert sum('"next_goal"' in text for text in letta.instructions(agent)) == 1


def test_browser_use_asks_again(browser_use: Path, desk: Desk, url: str, letta: LettaApi, agent: Agent) -> None:
    """A reply in words is asked for again without telling the schema a second time."""
    order = 'say I would click.\nagain\nsay {"thinking": "again", "next_goal": "click"}'
    found = desk.run_script(browser_use, "browser_use_steps.py", url, agent.name, order, settings=QUIET)
    assert found == [{"thinking": "again", "next_goal": "click"}]
    assert letta.user_texts(agent) == [order]
    assert sum('"next_goal"' in text for text in letta.instructions(agent)) == 1
