"""nginx in front of several proxies, with exactly the settings in the documentation."""

import contextlib
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

from live.rig import free_port

PAGE: Final = Path(__file__).parents[2] / "docs" / "service.md"
START_TIMEOUT: Final = 10.0  # seconds until it listens

#: What nginx needs to run as anybody, in a folder of its own.
FRAME: Final = """
daemon off;
pid {folder}/pid;
error_log stderr warn;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{settings}
}}
"""


def documented(port: int, ports: Sequence[int]) -> str:
    """The page's block, for other ports."""
    found = re.search(r"^```nginx\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found is not None
    settings = found[1]
    for written, ours in [("listen 80;", f"listen 127.0.0.1:{port};")] + [
        (f"server 127.0.0.1:{8284 + number} ", f"server 127.0.0.1:{each} ") for number, each in enumerate(ports)
    ]:
        assert settings.count(written) == 1, written
        settings = settings.replace(written, ours)
    return settings


@contextlib.contextmanager
def balancing(folder: Path, ports: Sequence[int]) -> Iterator[str]:
    """Have nginx in front of these ports inside the block.

    :param folder: empty, for its files.
    :return: the address to ask, without a path.
    """
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if nginx is None:
        pytest.fail("nginx is missing, and replicas cannot be tested: sudo apt-get install --yes nginx-light")
    port = free_port()
    (folder / "nginx.conf").write_text(FRAME.format(folder=folder, settings=documented(port, ports)))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [nginx, "-p", folder, "-c", folder / "nginx.conf"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        _wait_until_listening(process, port, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _wait_until_listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        assert process.poll() is None, f"nginx ended:\n{log.read_text()}"
        assert time.monotonic() < deadline, f"nginx does not listen:\n{log.read_text()}"
        time.sleep(0.05)
