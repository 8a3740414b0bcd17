"""Runs side by side: one has the turn at a time, all get it, and what one sets no other sees."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from pt4al.training import execution
from pt4al.training.cohort import Cohort, Stopped, on_cpu, yield_turn


def together(cohort: Cohort, *calls) -> list:
    """What each call returns or raises."""
    with ThreadPoolExecutor(len(calls)) as threads:
        futures = [threads.submit(cohort.run, call) for call in calls]
        return [future.exception() or future.result() for future in futures]


def test_alone_nothing_is_passed_on():
    with yield_turn():
        pass
    assert Cohort('cpu').run(int, '3') == 3


def test_one_runs_at_a_time_and_all_in_turn():
    ready, order, running = threading.Barrier(3), [], []
    cohort = Cohort('cpu')

    def member(name: str) -> str:
        with yield_turn():
            ready.wait(10)  # which lets all of them come in
        for turn in range(4):
            running.append(name)
            # the last turns are of those whose neighbours may have ended
            while turn < 3 and len(cohort.line) < 3:
                time.sleep(0.001)
            order.append(name)
            assert running == [name]
            running.clear()
            with yield_turn():
                pass
        return name

    names = ('a', 'b', 'c')
    calls = [lambda name=name: member(name) for name in names]
    assert together(cohort, *calls) == list(names)
    turns = [set(order[k : k + 3]) for k in range(0, 12, 3)]
    assert turns == [set(names)] * 4


def test_long_work_on_the_cpu_is_done_beside_the_turns_of_others_one_at_a_time():
    ready, done, busy = threading.Barrier(3), threading.Event(), []

    def long() -> None:
        with yield_turn():
            ready.wait(10)
        with on_cpu():
            busy.append(1)
            assert len(busy) == 1 and done.wait(10)
            busy.clear()

    def short() -> None:
        with yield_turn():
            ready.wait(10)
        while not busy:
            with yield_turn():
                pass
        done.set()

    assert together(Cohort('cpu'), long, long, short) == [None] * 3


def test_a_run_that_fails_leaves_the_turn_to_the_others():
    ready = threading.Barrier(2)

    def bad() -> None:
        with yield_turn():
            ready.wait(10)
        raise ValueError('bad')

    def good() -> int:
        with yield_turn():
            ready.wait(10)
        for _ in range(3):
            with yield_turn():
                pass
        return 5

    error, result = together(Cohort('cpu'), bad, good)
    assert isinstance(error, ValueError) and result == 5


def test_a_stopped_cohort_ends_at_the_next_turn_whoever_waits():
    cohort, begun = Cohort('cpu'), threading.Event()

    def endless() -> None:
        while True:
            begun.set()
            with yield_turn():
                pass

    def stopping() -> str:
        with yield_turn():
            begun.wait(10)
        cohort.stop()
        return 'stopped'

    *ended, last = together(cohort, endless, endless, stopping)
    assert {type(error) for error in ended} == {Stopped} and last == 'stopped'
    assert isinstance(together(cohort, endless)[0], Stopped)  # before it begins
    assert not cohort.line


def test_how_one_multiplies_is_hidden_from_the_others():
    ready, plain = threading.Barrier(2), execution.set_fp32_precision()

    def member(products: str) -> list[tuple[str, ...]]:
        noted = [execution.set_fp32_precision()]
        with execution.float32(products):
            with yield_turn():
                ready.wait(10)
            for _ in range(3):
                noted.append(execution.set_fp32_precision())
                with yield_turn():
                    pass
        return [*noted, execution.set_fp32_precision()]

    results = together(Cohort('cpu'), lambda: member('ieee'), lambda: member('tf32'))
    for products, noted in zip(('ieee', 'tf32'), results):
        assert noted == [plain, *[(products, products)] * 3, plain]
    assert execution.set_fp32_precision() == plain
