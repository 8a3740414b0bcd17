"""Several trainings at once on one machine: what all of them get done together, by their number and
their threads.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.training import WIDTHS, Work, ours
from pt4al.progress import log
from pt4al.training.execution import cores, execution

START = 600  # seconds until every process has to be ready


def together(
    rounds: int = 3,
    widths: Mapping[int, int] = WIDTHS,
    seconds: float = 5,
    ways: Sequence[tuple[int, int]] | None = None,
) -> dict[str, Any]:
    """Images a second of classifier training by the clock, of `ways`: (processes at once, threads
    of each).

    All cores in one run, a run a core, and both, which is what a busy machine makes of the first.
    `ratio` is to the first way.
    """
    n = cores()
    ways = ways or [(1, n), (n, 1), (n, n)]
    found: dict[tuple[int, int, int], list[float]] = {}
    for turn in range(rounds):
        for width, images in widths.items():
            for runs, threads in ways:
                rate = _rate(Work('classification', width, images), runs, threads, seconds)
                found.setdefault((width, runs, threads), []).append(rate)
                log.info(
                    'together: turn %d, width %d, runs %d of %d threads: %.0f images/s',
                    turn + 1,
                    width,
                    runs,
                    threads,
                    rate,
                )
    rows = [
        {
            'kind': 'classification',
            'width': width,
            'runs': runs,
            'threads': threads,
            'images_per_second': float(np.median(rates)),
            'turns': rates,
            'ratio': float(np.median(np.divide(rates, found[width, *ways[0]]))),
        }
        for (width, runs, threads), rates in found.items()
    ]
    return {
        'what': 'training images per second by the clock, of all runs together',
        'rounds': rounds,
        'rows': rows,
    }


def _rate(work: Work, runs: int, threads: int, seconds: float) -> float:
    """Images a second of some processes that all train for the same seconds."""
    context = multiprocessing.get_context('spawn')
    ready, told = context.Barrier(runs), context.Queue()
    started = [
        context.Process(target=_train, args=(work, threads, seconds, ready, told), daemon=True)
        for _ in range(runs)
    ]
    before = {name: os.environ.get(name) for name in ('PT4AL_THREADS', 'OMP_NUM_THREADS')}
    # read when a process imports torch
    os.environ.update(dict.fromkeys(before, str(threads)))
    try:
        for process in started:
            process.start()
        rate = sum(told.get(timeout=START + seconds) for _ in started)
        for process in started:
            process.join()
        return rate
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        for process in started:
            process.kill()  # where another one failed


def _train(work: Work, threads: int, seconds: float, ready: Any, told: Any) -> None:
    run = ours(work, replace(execution(), threads=threads))
    # sets up what later passes reuse
    run()
    ready.wait(START)
    start, images = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        run()
        images += work.images
    told.put(images / (time.perf_counter() - start))
