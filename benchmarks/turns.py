"""Alternatives timed in turns in one process, so that whatever else the machine does falls on all
of them alike.
"""

from __future__ import annotations

import logging
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

log = logging.getLogger('pt4al')


@dataclass(frozen=True)
class Turns:
    """Seconds of every turn: on the clock, and of CPU time of this process and of those that it
    started and that ended.
    """

    wall: list[float]
    cpu: list[float]

    def seconds(self) -> float:
        """The median: of CPU time, which other work on the machine disturbs less; with an
        accelerator, by the clock.
        """
        import torch

        return float(np.median(self.wall if torch.cuda.is_available() else self.cpu))


def interleaved(
    runs: dict[str, Callable[[], object]], rounds: int, label: str = ''
) -> dict[str, Turns]:
    """Each run in each of `rounds` turns, after one turn that does not count."""
    import torch

    turns = {name: Turns([], []) for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            wall, cpu = time.perf_counter(), _cpu()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                turns[name].wall.append(time.perf_counter() - wall)
                turns[name].cpu.append(_cpu() - cpu)
        if label:
            log.info('%s: turn %d of %d', label, turn, rounds)
    return turns


def _cpu() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def compared(turns: dict[str, Turns], images: int, base: str) -> list[dict[str, Any]]:
    """A row a run: images a second by the clock and of CPU time, how many times as fast as `base`,
    and all turns.

    Each ratio is the median over turns of what the two took in the same turn.
    """

    def ratio(one: list[float], other: list[float]) -> float:
        return float(np.median(np.divide(one, other)))

    first = turns[base]
    return [
        {
            'run': name,
            'images_per_second': images / float(np.median(own.wall)),
            'images_per_cpu_second': images / float(np.median(own.cpu)),
            'ratio': ratio(first.wall, own.wall),
            'cpu_ratio': ratio(first.cpu, own.cpu),
            'images': images,
            'wall': own.wall,
            'cpu': own.cpu,
        }
        for name, own in turns.items()
    ]
