"""Signals: what the caller of `next_event` must do next."""

import pytest

from sansio_letta._signal import Signal


@pytest.mark.parametrize("signal", Signal, ids=repr)
def test_a_signal_is_shown_by_its_name(signal: Signal) -> None:
    assert repr(signal) == signal.name


def test_the_signals_are_told_apart() -> None:
    assert [signal.name for signal in Signal] == ["NEED_DATA", "WAITING", "FINISHED"]
