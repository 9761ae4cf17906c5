"""The libraries that speak to models, in-process: `python run.py [--letta URL]`.

openai 2 and openai 3 cannot live in one environment, so there are two, each with the libraries that go with it.
They are made once, under the temporary folder, and made anew when what they are made of changes. Without
`--letta` the agents are recordings; with it they are new ones of a real Letta server, whose model must be the
rig's scripted one.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
#: While it is imported, LiteLLM asks for its list of prices in a thread, which may block the import.
LITELLM: Final = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
INSTALL_TIMEOUT: Final = 600.0  # seconds for one environment
TEST_TIMEOUT: Final = 300.0  # seconds for the tests in one

#: Requirements -> the extra of ours, and the tests that run with them.
ENVIRONMENTS: Final = {
    "openai2": ("httpx", ("test_openai.py", "test_langchain.py", "test_litellm.py")),
    "openai3": (
        "httpx2",
        ("test_openai.py", "test_langchain.py", "test_openai_agents.py", "test_pydantic_ai.py"),
    ),
}


def run(argv: list[str], timeout: float, **environment: str) -> bool:
    """Run a step within its time limit; whether it went well."""
    try:
        done = subprocess.run(
            argv, timeout=timeout, cwd=ROOT, env=os.environ | LITELLM | environment, check=False
        )
    except subprocess.TimeoutExpired:
        print(f"{' '.join(argv[:6])} ...: not done after {timeout:.0f} s", flush=True)
        return False
    return done.returncode == 0


def python_of(name: str, extra: str) -> Path | None:
    """The Python of an environment, which is made if it is not there."""
    requirements = HERE / f"{name}.txt"
    parts = (
        requirements.read_bytes(),
        (ROOT / "pyproject.toml").read_bytes(),
        str(ROOT).encode(),
        sys.version.encode(),
    )
    key = hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"letta-proxy-clients-{os.getuid()}" / f"{name}-{key}"
    python, whole = folder / "bin" / "python", folder / "whole"
    if whole.exists():
        return python
    print(f"{name}: making {folder}", flush=True)
    # What an older state of the files needed, or half of this.
    for old in folder.parent.glob(f"{name}-*"):
        shutil.rmtree(old)
    venv.create(folder, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if not run([*pip, "--requirement", str(requirements), "--editable", f"{ROOT}[{extra}]"], INSTALL_TIMEOUT):
        return None
    whole.touch()
    return python


def check(name: str, letta_url: str | None, proxy_url: str | None = None) -> bool:
    """Run the tests of one environment; with `proxy_url` through a server of ours, rather than in-process."""
    extra, modules = ENVIRONMENTS[name]
    began = time.monotonic()
    python = python_of(name, extra)
    if python is None:
        return False
    tests = [str(HERE / module) for module in modules]
    argv = [str(python), "-m", "pytest", "-c", str(HERE / "pytest.ini"), *tests]
    ways = {"LETTA_URL": letta_url, "LETTA_PROXY_URL": proxy_url}
    passed = run(argv, TEST_TIMEOUT, **{name: url for name, url in ways.items() if url})
    print(f"{name}: {'passed' if passed else 'FAILED'} in {time.monotonic() - began:.0f} s", flush=True)
    return passed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--letta", metavar="URL", help="a real Letta server; else recordings")
    args = parser.parse_args()
    passed = [check(name, args.letta) for name in ENVIRONMENTS]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
