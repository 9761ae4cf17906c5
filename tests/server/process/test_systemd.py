"""Socket activation by systemd, and notifications to it."""

import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import httpx2
import pytest

from letta_server.process.systemd import notify

from ..commands import COMMAND, command


def receiver(path: str) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listening.settimeout(20)
    listening.bind(path)
    return listening


@pytest.mark.parametrize("workers", ["1", "2"])
def test_ready_and_stopping_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: str) -> None:
    path = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    with receiver(path) as told, command("demo" if workers == "1" else "serve", *_more(workers)) as process:
        assert told.recv(4096).split(b"\n")[0] == b"READY=1"
        process.send_signal(signal.SIGTERM)
        assert told.recv(4096).split(b"\n")[:2] == [b"STOPPING=1", b"EXTEND_TIMEOUT_USEC=50000000"]
        process.ends_well()


def _more(workers: str) -> list[str]:
    return [] if workers == "1" else ["--replay", "fixtures/recordings", "--workers", workers]


def test_a_manager_with_an_abstract_address(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"letta-proxy-test-{os.getpid()}"
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
    with receiver(f"\0{name}") as told:
        notify("READY=1", "STATUS=x")
        assert told.recv(100) == b"READY=1\nSTATUS=x"


@pytest.mark.parametrize("address", ["", "nonsense", "/nowhere/at/all"])
def test_no_manager_is_no_reason_to_fail(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify("READY=1")


def activated(*sockets: socket.socket, names: str = "", more: str = "") -> subprocess.Popen[str]:
    """A server that was given sockets as systemd gives them."""
    moves = " ".join(f"{3 + number}<&{each.fileno()}" for number, each in enumerate(sockets))
    serve = " ".join([*COMMAND, "serve", "--replay", "fixtures/recordings", more])
    script = f"exec {moves}; LISTEN_PID=$$ LISTEN_FDS={len(sockets)} LISTEN_FDNAMES={names} exec {serve}"
    return subprocess.Popen(
        ["bash", "-c", script],
        pass_fds=[each.fileno() for each in sockets],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, "Traceback" in errors) == (0, False), errors


@pytest.mark.parametrize("more", ["", "--workers 2"], ids=["alone", "workers"])
def test_sockets_are_taken_over(more: str) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_server(("127.0.0.1", 0)) as counting,
    ):
        process = activated(listening, counting, names="http:metrics", more=more)
        port, metrics = (each.getsockname()[1] for each in (listening, counting))
        assert httpx2.get(f"http://127.0.0.1:{port}/health", timeout=20).status_code == 200
        assert "letta_proxy" in httpx2.get(f"http://127.0.0.1:{metrics}/metrics", timeout=20).text
        assert process.stdout is not None
        assert re.search(rf"listens on http://127\.0\.0\.1:{port}$", process.stdout.readline())
        end(process)


def test_a_socket_of_the_file_system(tmp_path: Path) -> None:
    path = str(tmp_path / "proxy.sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        process = activated(listening)
        with httpx2.Client(transport=httpx2.HTTPTransport(uds=path)) as client:
            assert client.get("http://localhost/health", timeout=20).status_code == 200
        end(process)


def test_a_socket_beyond_this_machine_is_refused_as_ever() -> None:
    with socket.create_server(("0.0.0.0", 0)) as listening:
        process = activated(listening)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert "use --allow-anyone" in errors


def test_sockets_that_are_for_somebody_else_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("LISTEN_FDS", "1")
    with command("demo") as process:
        assert httpx2.get(process.url + "/models").status_code == 200
        process.send_signal(signal.SIGTERM)
        process.ends_well()
