"""The official openai SDK for Node against the same proxy: runs the tests in `node/` by Node's own runner."""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from live.conftest import MakeAgent
from live.letta_api import LettaApi
from live.proxy import Proxy
from live.rig import Rig, without_settings
from live.test_models import NAMES

HERE = Path(__file__).resolve().parent / "node"
OLDEST_NODE = 20
INSTALL_TIMEOUT = 120.0  # seconds
RUN_TIMEOUT = 180.0
FORMS = ("whole", "streamed")
LEAVING = ("aborts", "breaks", "aborts the helper", "aborts early")
TOOL_USES = tuple(f"{use} {form}" for use in ("one call", "three calls", "loop") for form in FORMS)
USES = ("text", "long", "failing", "moody", *TOOL_USES, *LEAVING)


def run(folder: Path, timeout: float, *command: str, **settings: str) -> str:
    """Run a program of Node's in the folder; return what it printed.

    :raises AssertionError: if it fails or takes too long, with what it printed.
    """
    environment = {**without_settings(os.environ), **settings}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
    except subprocess.TimeoutExpired as exc:
        printed = exc.output.decode(errors="replace") if isinstance(exc.output, bytes) else exc.output
        pytest.fail(f"{' '.join(command)} did not end within {timeout:.0f} s:\n{printed}", pytrace=False)
    if done.returncode != 0:
        pytest.fail(f"{' '.join(command)} failed:\n{done.stdout}", pytrace=False)
    return done.stdout


@pytest.fixture(scope="session")
def node_folder(rig: Rig) -> Path:
    """The tests of Node with the SDK beside them; the rig's root keeps it for the next run."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.fail(f"the live tests need node {OLDEST_NODE} or later, and npm: install them", pytrace=False)
    version = run(HERE, INSTALL_TIMEOUT, node, "--version").strip()
    if int(version.removeprefix("v").partition(".")[0]) < OLDEST_NODE:
        pytest.fail(f"the live tests need node {OLDEST_NODE} or later, this is {version}", pytrace=False)
    lock = (HERE / "package-lock.json").read_bytes()
    folder = rig.root / f"node-{hashlib.sha256(lock).hexdigest()[:12]}"
    folder.mkdir(exist_ok=True)
    for path in folder.glob("*.mjs"):
        path.unlink()
    for path in HERE.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    if not (folder / "installed").exists():
        run(folder, INSTALL_TIMEOUT, npm, "ci", "--no-audit", "--no-fund")
        (folder / "installed").touch()
    return folder


def test_node(
    node_folder: Path,
    letta: LettaApi,
    proxy: Proxy,
    make_agent: MakeAgent,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = {use: make_agent(f"node {use}") for use in USES}
    twins = [make_agent("node twins") for _ in range(2)]
    names = [make_agent(f"node {name}").name for name in NAMES.values()]
    agents = {
        **{use: agent.name for use, agent in made.items()},
        "twins": twins[0].name,
        "first twin": twins[0].id,
        "second twin": twins[1].id,
        "names": names,
    }
    settings = {"LETTA_PROXY_BASE_URL": proxy.base_url, "LETTA_PROXY_AGENTS": json.dumps(agents)}
    command = ("node", "--test", "--test-concurrency=5", "--test-reporter=spec")
    printed = run(node_folder, RUN_TIMEOUT, *command, **settings)
    with capsys.disabled():  # one test here is many there: say how many
        print("\nnode:", *(line.removeprefix("ℹ ") for line in printed.splitlines() if line.startswith("ℹ ")))

    for use in TOOL_USES:
        assert len(letta.user_texts(made[use])) == 1, use
        assert len(letta.tool_returns(made[use])) == (1 if use.startswith("one") else 3), use
        assert len(letta.runs(made[use])) == 2, use
    for use in LEAVING:
        assert [run["status"] for run in letta.ended_runs(made[use])] == ["cancelled"], use
