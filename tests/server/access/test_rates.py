"""Rate limits: counted in this process, or in a store that may be unavailable."""

import time
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from letta_server.access import rates as rates_module
from letta_server.access.rates import RateCounter, rate_words
from letta_server.settings.errors import SettingsError
from letta_server.settings.rates import check_store, parse_rate


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the library's clock on."""
    began, passed = time.time(), [0.0]
    monkeypatch.setattr(time, "time", lambda: began + passed[0])

    def move(seconds: float) -> None:
        passed[0] += seconds

    return move


async def test_a_window_moves(clock: Callable[[float], None]) -> None:
    counter, rates = RateCounter(), parse_rate("2/minute", "rate")
    taken = [await counter.take("alice", rates)]
    clock(20)
    taken += [await counter.take("alice", rates) for _ in range(2)]
    assert [(ok, state.limit, state.remaining) for ok, state in taken] == [
        (True, 2, 1),
        (True, 2, 0),
        (False, 2, 0),
    ]
    assert taken[-1][1].reset_timeout == pytest.approx(40, abs=0.1)
    assert (await counter.take("bob", rates))[0]
    clock(40.1)
    again, state = await counter.take("alice", rates)
    assert (again, state.remaining) == (True, 0)
    assert state.reset_timeout == pytest.approx(19.9, abs=0.1)


async def test_of_several_rates_the_narrowest_is_told(clock: Callable[[float], None]) -> None:
    counter, rates = RateCounter(), parse_rate("2/second; 3/minute", "rate")
    assert (await counter.take("alice", rates))[1].limit == 2
    assert (await counter.take("alice", rates))[1].remaining == 0
    assert (await counter.take("alice", rates))[1].reset_timeout <= 1
    clock(1.5)
    taken, state = await counter.take("alice", rates)
    assert (taken, state.limit, state.remaining) == (True, 3, 0)
    clock(1.5)
    taken, state = await counter.take("alice", rates)
    assert (taken, state.limit) == (False, 3)
    assert rate_words(rates) == "2 per 1 second and 3 per 1 minute"


class Store:
    """A store's limiter that fails as often as it is told to, and counts with a process's own."""

    def __init__(self, failures: int) -> None:
        self.failures, self.asked = failures, 0
        self._limiter = RateCounter()._own_limiter()

    def hit(self, *args: Any) -> bool:
        self.asked += 1
        if self.asked <= self.failures:
            raise ConnectionError("redis://:password@store refused")
        return self._limiter.hit(*args)

    def get_window_stats(self, *args: Any) -> Any:
        return self._limiter.get_window_stats(*args)


async def test_a_store_that_is_away_locks_nobody_out(
    mock_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    counter, rates = RateCounter("redis://:password@127.0.0.1:1/0"), parse_rate("2/minute", "rate")
    store = Store(failures=2)
    counter._shared = store  # type: ignore[assignment]
    assert [(await counter.take("alice", rates))[0] for _ in range(3)] == [True, True, False]
    assert store.asked == 1  # it is left alone for a while
    mock_clock.jump(5.1)
    assert not (await counter.take("alice", rates))[0]
    mock_clock.jump(5.1)
    taken, state = await counter.take("alice", rates)
    assert (taken, state.remaining, store.asked) == (True, 1, 3)
    said = capsys.readouterr().out
    assert said.count("rate store is away, each process counts for itself") == 1
    assert said.count("rate store is back") == 1
    assert "ConnectionError" in said
    assert "password" not in said + repr(counter)


async def test_a_store_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates_module, "_STORE_TIMEOUT", 0.05)
    listener = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener[0].socket.getsockname()[1]
    pytest.importorskip("redis")
    counter = RateCounter(f"redis://127.0.0.1:{port}/0")
    counter.open()
    with trio.fail_after(10):
        assert (await counter.take("alice", parse_rate("2/minute", "rate")))[0]
    await listener[0].aclose()


@pytest.mark.parametrize("url", ["", "redis", "memory://", "memcached://x", "http://x"])
def test_other_stores_are_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="rate_store: expected an address like redis://"):
        check_store(url)


def test_a_store_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "valkey", None)
    with pytest.raises(SettingsError, match="rate_store: valkey:// needs the Python package valkey") as caught:
        RateCounter("valkey://:password@127.0.0.1/0").open()
    assert "password" not in str(caught.value)


def test_a_stores_address_that_is_none() -> None:
    pytest.importorskip("redis")
    with pytest.raises(SettingsError, match="rate_store: expected redis://HOST:PORT/NUMBER") as caught:
        RateCounter("redis://:password@127.0.0.1:port").open()
    assert "password" not in str(caught.value)
