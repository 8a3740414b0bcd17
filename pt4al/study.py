"""Several experiments as one piece of work: which cells there are, what they cost, and running those that are missing."""
from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path

from tqdm import tqdm

from . import data, experiments, store
from .errors import Refused
from .specs import Main, Pretext, Representation, Spec, data_digest, spec
from .tasks import TASKS

log = logging.getLogger('pt4al')


def embedded(dataset: str = 'cifar10-mini', seeds: int = 3) -> list[Spec]:
    """The study that every fresh machine runs: claim 1 once, and active learning against random, paired by seed."""
    arms = [spec('active', dataset=dataset, strategy=strategy, seed=seed)
            for strategy in ('random', 'pt4al') for seed in range(seeds)]
    return [spec('pretext', dataset=dataset), spec('main', dataset=dataset), *arms]


def passes(spec: Spec) -> int:
    """Images pushed forward and backward by a spec's training; what its time is proportional to."""
    n = len(data.arrays(spec.dataset)[0].labels)
    if isinstance(spec, Pretext):
        return round(TASKS[spec.task].cost * n * spec.epochs)
    if isinstance(spec, Main):
        return n * (spec.folds - 1) * spec.epochs
    if isinstance(spec, Representation):
        read = len(data.arrays(spec.transfer or spec.dataset)[0].labels)
        return (spec.supervised * n + 2 * sum(round(read * percent / 100) for percent in spec.finetune)) * spec.epochs
    turns = spec.until or spec.cycles
    return spec.budget * turns * (turns + 1) // 2 * spec.epochs


def missing(specs: list[Spec]) -> list[Spec]:
    """Those specs that no store holds a whole result of."""
    def whole(folder: Path) -> bool:
        try:
            return bool(store.read(folder).key)
        except Refused:
            return False
    return [spec for spec in specs if not any(map(whole, store.folders_of(spec, data_digest(spec))))]


def run(specs: list[Spec], workers: int | None = None) -> None:
    """Compute what is missing, a single-threaded process for each core; an experiment waits for the one it builds on.

    One thread a process uses all cores without threads waiting for each other, and gives the same bits on any load.
    On an accelerator the experiments run one after the other in this process.
    """
    from .execution import execution
    built_on = [spec.pretext for spec in specs if getattr(spec, 'pretext', None)]
    todo = missing(list(dict.fromkeys([*built_on, *specs])))      # each once, however many build on it
    if not execution().device.startswith('cpu'):
        for spec in todo:
            experiments.get(spec)
        return
    os.environ.update(PT4AL_THREADS='1', OMP_NUM_THREADS='1')
    bar = tqdm(total=sum(map(passes, todo)), unit='img', unit_scale=True, disable=not sys.stderr.isatty(),
               desc=f'{len(todo)} experiments')
    with ProcessPoolExecutor(workers or os.cpu_count(), multiprocessing.get_context('spawn')) as pool:
        running: dict[Future, Spec] = {}
        while todo or running:
            for spec in [s for s in todo if getattr(s, 'pretext', None) not in [*todo, *running.values()]]:
                running[pool.submit(experiments.get, spec)] = spec
                todo.remove(spec)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                result, spec = future.result(), running.pop(future)
                bar.update(passes(spec))
                log.info('done: %s %s seed %d, %s (%.0f s)', spec.kind, spec.dataset, spec.seed,
                         getattr(spec, 'strategy', getattr(spec, 'task', '')), result.provenance['seconds'])
    bar.close()


def compare(own: store.Result, other: store.Result) -> str:
    """How two results of one spec agree, in words: another chip or another torch rounds differently."""
    if own.folder == other.folder:
        return 'the same file'
    pairs = [(own.tables[t][c], other.tables[t][c]) for t in own.tables for c in own.tables[t]
             if c in other.tables.get(t, {})]                  # results of older code lack some columns
    if all(a.shape == b.shape and (a == b).all() for a, b in pairs):
        return 'identical to the last bit'
    if 'images' in own.tables:
        from .stats import spearman
        column = next(c for c in own.tables['images'] if c.startswith('loss'))
        return f'rank correlation of losses {spearman(own.tables["images"][column], other.tables["images"][column]):.3f}'
    gap = 100 * (own.summary['accuracy'] - other.summary['accuracy'])
    return f'final accuracy differs by {gap:+.1f} points'
