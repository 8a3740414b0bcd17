"""Several experiments as one piece of work: what they cost, and running those that are missing."""

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, suppress
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import connection

import numpy as np
from tqdm import tqdm

from pt4al import data, experiments
from pt4al.errors import Refused, one_line
from pt4al.experiments import store
from pt4al.experiments.specs import (
    Active,
    Detection,
    Main,
    Pretext,
    Representation,
    Segmentation,
    Spec,
    Trajectory,
    built_on,
    data_digest,
    in_words,
)
from pt4al.progress import log, log_lines
from pt4al.tasks import TASKS

# cells side by side; on an H200, in one recorded step, 8 networks of width 16 were as fast as 16,
# and 8 of width 64 2 % slower than 4
MOST = 8


@dataclass(frozen=True)
class Facts:
    """What can be said of a data set before its images are read."""

    train: int  # images
    side: int = 32  # pixels
    channels: int = 3  # 4: the last one is a sound
    grey: bool = False
    frames: int = 1


FACTS = {
    name: Facts(
        about['images'][0],
        **{key: about[key] for key in ('side', 'channels', 'grey', 'frames') if key in about},
    )
    for name, about in data.ABOUT.items()
    if 'images' in about
}


def facts(dataset: str) -> Facts:
    """The facts of a data set, from its images where they are not listed."""
    name, _, argument = dataset.partition(':')
    if dataset in FACTS:
        return FACTS[dataset]
    side = data.SOURCES[name].argument(argument) if name in FACTS else None
    if isinstance(side, tuple) and side[1]:  # Caltech-101 with its background folder
        side = side[0]
    if isinstance(side, int):
        return replace(FACTS[name], side=side)
    train, _ = data.arrays(dataset)
    shape, colours = train.pixels.shape, np.asarray(train.pixels[:1000])[..., :3, :, :]
    grey = bool((colours == colours[..., :1, :, :]).all())
    frames = shape[1] if len(shape) == 5 else 1
    return Facts(len(train.labels), shape[-1], shape[-3], grey, frames)


def passes(spec: Spec) -> int:
    """Images that a spec's training pushes forward and backward."""
    n = facts(spec.dataset).train
    if isinstance(spec, Pretext):
        return round(TASKS[spec.task].cost * n * spec.epochs)
    if isinstance(spec, Main | Trajectory):
        return n * (spec.folds - 1) * spec.epochs
    if isinstance(spec, Representation):
        read = facts(spec.transfer or spec.dataset).train
        tuned = sum(round(read * percent / 100) for percent in spec.finetune)
        return (spec.supervised * n + 2 * tuned) * spec.epochs
    if isinstance(spec, Detection):
        return n * spec.epochs
    if isinstance(spec, Active | Segmentation):
        turns = getattr(spec, 'until', 0) or spec.cycles
        return spec.budget * turns * (turns + 1) // 2 * spec.epochs
    return 0  # it only looks at a trained network


def memory(spec: Spec) -> float:
    """Bytes of an accelerator that a cell takes, about: a step's maps in float32, and a GiB."""
    side = facts(spec.dataset).side
    maps = spec.width * (side if side <= 64 else side / 4) ** 2  # of the first stage
    views = TASKS[spec.task].cost if isinstance(spec, Pretext) else 1
    return 100 * maps * views * getattr(spec, 'batch', 0) + 2**30


def at_once(device: str, specs: Sequence[Spec]) -> int:
    """Cells side by side on an accelerator: `MOST`, or as often as it holds the largest of them."""
    if not device.startswith('cuda'):
        return 1
    import torch

    free = torch.cuda.mem_get_info(device)[0]
    return max(1, min(MOST, int(free / max(map(memory, specs), default=1.0))))


def with_dependencies(specs: Sequence[Spec]) -> list[Spec]:
    """The specs, each once and after those that it builds on."""
    ordered: dict[Spec, None] = {}
    for spec in specs:
        ordered |= dict.fromkeys([*with_dependencies(built_on(spec)), spec])
    return list(ordered)


def missing(specs: Sequence[Spec]) -> list[Spec]:
    """Those specs that no store holds an undamaged result of."""
    return [s for s in specs if not store.find_undamaged(s, data_digest(s))]


# kinds that go on from what an interruption left
RESUMED = (Active, Main, Pretext, Trajectory)


def run(
    specs: Sequence[Spec],
    workers: int | None = None,
    minutes: float | None = None,
    seconds: Callable[[Spec], float | None] = lambda spec: None,
) -> None:
    """Compute what is missing, each after what it builds on: a single-threaded process for each
    core, which gives the same bits on any load, or side by side in this process on an accelerator
    (`training.cohort`), which a network this small leaves mostly idle.

    A cell that fails stops no other but those that build on it; `Refused` names all at the end.

    workers  cells at once; None: one per core, or as many as `at_once` says
    minutes  to stop after; a cell that could not go on later is begun only where it ends before
    seconds  of a cell, as estimated
    """
    start, todo = time.monotonic(), missing(with_dependencies(specs))
    failed: dict[Spec, str] = {}
    left_out: set[Spec] = set()

    def attempt(spec: Spec) -> str | None:
        """Compute a cell: '', or why that cannot be; None where no time is left for it."""
        past, takes = time.monotonic() - start, seconds(spec)
        ends = minutes is None or (takes is not None and past + takes < 60 * minutes)
        if left_out.intersection(built_on(spec)) or not (ends or isinstance(spec, RESUMED)):
            return None
        if lost := [other for other in built_on(spec) if other in failed]:
            return f'it builds on {in_words(lost[0])}'
        try:
            compute(spec)
        except BrokenProcessPool:
            return 'its process was killed, perhaps for want of memory'
        except Exception as error:
            kind = '' if isinstance(error, Refused) else f'{type(error).__name__}: '
            return kind + one_line(error)
        return ''

    from pt4al.training import cohort, execution  # torch takes longer than most commands

    device = execution.execution().device
    compute: Callable[[Spec], object] = _compute_in_process
    stop, most = _terminate, execution.cores()
    if device.startswith('cpu'):
        os.environ.update({'PT4AL_THREADS': '1', 'OMP_NUM_THREADS': '1'})
    else:
        beside = cohort.Cohort(device)
        compute, stop = partial(beside.run, experiments.get), beside.stop
        most = at_once(device, todo)
    ended = _run_in_threads(todo, workers or most, attempt, stop, minutes)
    progress = tqdm(total=len(todo), unit='cell', disable=not sys.stderr.isatty())
    with closing(ended), progress:
        for number, (spec, error) in enumerate(ended, 1):
            progress.update()
            if error is None:
                left_out.add(spec)
            elif error:
                failed[spec] = error
                log.info('failed: %s (%d of %d): %s', in_words(spec), number, len(todo), error)
                # for `pt4al study status`, where the store can be written to
                note = store.failure_note(spec, data_digest(spec))
                with suppress(OSError):
                    note.parent.mkdir(parents=True, exist_ok=True)
                    note.write_text(error + '\n')
            else:
                log.info('done: %s (%d of %d)', in_words(spec), number, len(todo))
    if failed:
        each = '; '.join(f'{in_words(spec)}: {error}' for spec, error in failed.items())
        raise Refused(f'{len(failed)} of {len(todo)} cells failed; {each}')


def _run_in_threads(
    todo: list[Spec],
    workers: int,
    attempt: Callable[[Spec], str | None],
    stop: Callable[[], object],
    minutes: float | None,
) -> Generator[tuple[Spec, str | None]]:
    """Each cell in its own thread, `workers` at a time; yields a cell and what `attempt` gives.

    After the minutes what is computed is stopped as on Ctrl-C.
    """
    waiting, start = list(todo), time.monotonic()
    futures: dict[Future, Spec] = {}
    with ThreadPoolExecutor(workers) as threads:
        try:
            while waiting or futures:
                unfinished = {*waiting, *futures.values()}
                ready = [s for s in waiting if unfinished.isdisjoint(built_on(s))]
                for spec in ready[: workers - len(futures)]:
                    futures[threads.submit(copy_context().run, attempt, spec)] = spec
                    waiting.remove(spec)
                left = minutes and max(0, start + 60 * minutes - time.monotonic())
                done = wait(futures, left, 'FIRST_COMPLETED').done
                if not done:
                    log.info('the %g minutes are over', minutes)
                    return
                for future in done:
                    yield futures.pop(future), future.result()
        # of an interrupted run, and of one that has nothing left
        finally:
            while not all(map(Future.done, futures)):
                stop()
                wait(futures, 1)


def _compute_in_process(spec: Spec) -> None:
    """Compute a cell in a new process, so that whatever kills it takes no other along."""
    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn'), _set_up_worker) as pool:
        pool.submit(experiments.get, spec).result()


def _set_up_worker() -> None:
    """Let this worker log where no terminal shows a bar, and end as soon as its parent is gone."""
    tqdm.set_lock(threading.RLock())  # its own is a semaphore that a killed process leaves behind
    if not sys.stderr.isatty():
        log_lines()
    parent = multiprocessing.parent_process()
    assert parent

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _terminate() -> None:
    for child in multiprocessing.active_children():
        child.terminate()
