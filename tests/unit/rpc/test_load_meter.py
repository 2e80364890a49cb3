"""The load meter: averages over about a second, and what they are of."""

from __future__ import annotations

import pytest

from meshcast.rpc import LoadMeter, Work
from meshcast.rpc.load_meter import CACHED_S
from meshcast.rpc.orca import NATIVE_TRAILER, TRAILER, parse


class Scene:
    """A clock, and a server whose work a test tells."""

    def __init__(self, *works: Work, limit_share: float | None = None) -> None:
        self.now = 100.0
        self.loop_s = 0.0
        self.works = list(works)
        self.limit_share = limit_share or 0.0
        self.meter = LoadMeter(
            (lambda: self.works) if works else None,
            limit_share=None if limit_share is None else lambda: self.limit_share,
            clock=lambda: self.now,
            thread_clock=lambda: self.loop_s,
        )

    def run(self, seconds: float, *, loop: float = 0.0, busy: float = 0.0, rps: float = 0.0, eps: float = 0.0) -> None:
        """So many seconds pass, with these shares of the loop and of all slots, and an answer each 50 ms."""
        for _ in range(round(seconds / 0.05)):
            self.now += 0.05
            self.loop_s += 0.05 * loop
            self.works = [work._replace(busy_s=work.busy_s + 0.05 * busy * work.slots) for work in self.works]
            self.meter.calls += round(0.05 * rps)
            self.meter.faults += round(0.05 * eps)
            self.meter.trailers()


def test_a_steady_load_is_told_as_it_is() -> None:
    scene = Scene(Work(7.0, 2), Work(3.0, 1))
    scene.run(6, loop=0.2, busy=0.5, rps=200, eps=20)
    report = scene.meter.report
    assert report.application_utilization == pytest.approx(0.5, rel=0.01)
    assert report.rps == pytest.approx(200, rel=0.01)
    assert report.eps == pytest.approx(20, rel=0.01)
    assert report.named_metrics == {"queue_rows": 0.0}


def test_the_busiest_part_counts() -> None:
    scene = Scene(Work(0.0, 4))
    scene.run(6, loop=0.9, busy=0.1)
    assert scene.meter.report.application_utilization == pytest.approx(0.9, rel=0.01)
    only_loop = Scene(limit_share=0.3)
    only_loop.run(6, loop=0.1)
    assert only_loop.meter.report.application_utilization == pytest.approx(0.3)
    assert only_loop.meter.report.named_metrics == {}


def test_what_waits_comes_on_top() -> None:
    scene = Scene(Work(0.0, 1))
    scene.run(6, busy=1.0)
    scene.works = [scene.works[0]._replace(queue_rows=640, queue_s=0.5)]
    scene.run(0.2, busy=1.0)
    assert scene.meter.report.application_utilization == pytest.approx(1.5, rel=0.01)
    assert scene.meter.report.named_metrics == {"queue_rows": 640.0}


def test_a_change_shows_within_a_second_or_two() -> None:
    scene = Scene(Work(0.0, 1))
    scene.run(5, busy=0.8)
    scene.run(1, busy=0.0)
    assert 0.2 < scene.meter.report.application_utilization < 0.4
    scene.run(4, busy=0.0)
    assert scene.meter.report.application_utilization < 0.02


def test_after_a_pause_the_pause_counts_too() -> None:
    scene = Scene(Work(0.0, 1))
    scene.run(5, busy=0.8)
    scene.now += 100
    scene.meter.trailers()
    assert scene.meter.report.application_utilization < 0.01


def test_of_very_many_answers_about_a_hundred_a_second_carry_it() -> None:
    scene = Scene(Work(0.0, 1))
    scene.run(6, rps=2_000)
    told = 0
    for _ in range(2_000):
        scene.now += 1 / 2_000
        scene.meter.calls += 1
        told += bool(scene.meter.trailers())
    assert 90 <= told <= 110


def test_a_report_stands_for_a_while() -> None:
    scene = Scene(Work(0.0, 1))
    scene.run(1, busy=0.5)
    scene.now += CACHED_S
    told = scene.meter.trailers()
    scene.now += CACHED_S / 2
    assert scene.meter.trailers() is told
    assert [key for key, _ in told] == [NATIVE_TRAILER, TRAILER]
    assert all(parse(value) == scene.meter.report for _, value in told)
    scene.now += CACHED_S
    assert scene.meter.trailers() is not told
