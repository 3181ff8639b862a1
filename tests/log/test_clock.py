"""The clock of a log under leaps of the machine's clock."""

import time

import pytest

from perdure.log.clock import Clock

HOUR_NS = 3_600_000_000_000


class Machine:
    """Wall clock and steady clock, in nanoseconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall = 50 * HOUR_NS
        self.steady = 7
        monkeypatch.setattr(time, "time_ns", lambda: self.wall)
        monkeypatch.setattr(time, "monotonic_ns", lambda: self.steady)

    def later(self, ns: int) -> None:
        self.wall += ns
        self.steady += ns


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_it_is_the_wall_clock_while_that_goes_on(machine: Machine) -> None:
    clock = Clock()
    for step in (0, 1, 999_999, 1_000_000, HOUR_NS):
        machine.later(step)
        assert clock.now_ms() == machine.wall // 1_000_000
    machine.wall += HOUR_NS  # a leap ahead, or the machine was suspended
    assert clock.now_ms() == machine.wall // 1_000_000


def test_set_back_by_an_hour_it_goes_on_and_is_caught_up_with(machine: Machine) -> None:
    clock = Clock()
    before = clock.now_ms()
    machine.wall -= HOUR_NS
    assert clock.now_ms() == before
    for _ in range(1_000):
        machine.later(2_000_000)
        clock.now_ms()
    assert clock.now_ms() == before + 1_000
    machine.later(2 * HOUR_NS - 2_000_000_000 - 2_000_000)
    assert clock.now_ms() == before + HOUR_NS // 1_000_000 - 1
    machine.later(10_000_000)
    assert clock.now_ms() == machine.wall // 1_000_000


def test_it_begins_where_the_log_has_been(machine: Machine) -> None:
    clock = Clock()
    ahead = (machine.wall + HOUR_NS) // 1_000_000
    clock.at_least(ahead)
    clock.at_least(5)
    assert clock.now_ms() == ahead
    machine.later(4_000_000)
    assert clock.now_ms() == ahead + 2
