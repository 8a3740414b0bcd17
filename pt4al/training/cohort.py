"""Runs side by side in one process: each in a thread, of which one at a time has the turn.

What a run has launched on a GPU goes on while others have the turn, for each has a stream. The turn
is passed on in `yield_turn` alone, so that each run computes what it computes alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from pt4al.training import execution, graphs


class Stopped(BaseException):
    """A run's cohort was stopped; the run goes on later from what it has saved."""


class Cohort:
    """The runs of one device that take turns, in the order in which they came."""

    def __init__(self, device: str):
        self.device, self.stopped = device, False
        self.line: deque[Lock] = deque()  # the first has the turn, the others wait for their locks
        self.changing = Lock()

    def run(self, compute: Callable[..., Any], *arguments: Any) -> Any:
        """What `compute` returns, as one of the runs; `Stopped` at its next turn after `stop`."""
        before = _COHORT.set(self)
        try:
            self._take()
            with graphs.stream(self.device):
                return compute(*arguments)
        finally:
            self._give()
            _COHORT.reset(before)

    def stop(self) -> None:
        """End every run at its next turn."""
        self.stopped = True

    def _take(self) -> None:
        mine = Lock()
        mine.acquire()
        with self.changing:
            self.line.append(mine)
            if self.line[0] is mine:
                mine.release()
        mine.acquire()
        if self.stopped:
            raise Stopped

    def _give(self) -> None:
        with self.changing:
            self.line.popleft()
            if self.line:
                self.line[0].release()


_COHORT: ContextVar[Cohort | None] = ContextVar('cohort', default=None)


@contextmanager
def yield_turn() -> Iterator[None]:
    """Let other runs continue while this block waits (disk, locks); no torch inside."""
    if (cohort := _COHORT.get()) is None:
        yield
        return
    products = execution.set_fp32_precision(*execution.TORCH_DEFAULT)
    cohort._give()
    try:
        yield
    finally:
        cohort._take()
        execution.set_fp32_precision(*products)


_LIBRARIES = Lock()


@contextmanager
def on_cpu() -> Iterator[None]:
    """Long work of scikit-learn on torch's number of threads, one at a time, in `yield_turn`."""
    with yield_turn(), _LIBRARIES, threadpool_limits(torch.get_num_threads()):
        yield
