"""The settings that the docs give for a program, read from the docs, so that the tests check them."""

import re
import shlex
from pathlib import Path
from typing import Final

PAGES: Final = Path(__file__).parents[2] / "docs" / "clients"
BASE_URL: Final = "http://127.0.0.1:8284/v1"  # of the proxy, in every page
AGENT: Final = "Milo"  # the same


def block(page: str, heading: str, language: str, *, base_url: str, agent: str, number: int = 0) -> str:
    """Return a block of code from a page, with the proxy and the agent of this test in it.

    :param page: its name without a suffix.
    :param heading: of the second level, below which the block stands.
    :param number: which one of that language, the first is 0.
    """
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    _, _, section = text.partition(f"\n## {heading}\n")
    section = section.partition("\n## ")[0]
    found = re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert len(found) > number, f"{page}.md: {len(found)} blocks of {language} below {heading!r}"
    code: str = found[number]
    return code.replace(BASE_URL, base_url).replace(AGENT, agent)


def commands(
    page: str, heading: str, *, base_url: str, agent: str, number: int = 0
) -> tuple[dict[str, str], list[list[str]]]:
    """Return what a shell block sets in the environment, and the commands in it, as words."""
    settings: dict[str, str] = {}
    called: list[list[str]] = []
    for line in block(page, heading, "sh", base_url=base_url, agent=agent, number=number).splitlines():
        words = shlex.split(line)
        if words[:1] == ["export"]:
            settings |= dict(word.split("=", 1) for word in words[1:])
        elif words:
            called.append(words)
    return settings, called
