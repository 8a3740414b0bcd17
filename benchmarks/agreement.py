"""Whether training in bf16 and in fp32 comes to the same: accuracy and rank correlation, paired by
seed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pt4al import experiments, stats
from pt4al.experiments import store
from pt4al.experiments.specs import spec
from pt4al.progress import log
from pt4al.studies import study

READ = ('rho', 'accuracy_out', 'mean_loss')


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def precision(
    dataset: str = 'cifar10-mini',
    seeds: int = 3,
    precisions: Sequence[str] = ('bf16', 'fp32'),
    **fields: Any,
) -> dict[str, Any]:
    """Rotation and classifier of each seed in each precision: rho, accuracy out of fold, mean
    pretext loss.

    `differences` are those of the first precision less the second, with a paired t interval;
    `between_seeds` is the standard deviation over seeds within a precision, the noise that a
    difference is to be seen against.  The runs stand in a store of their own, so that an
    interrupted benchmark goes on, and are deleted at the end.
    """
    own, rows = store.roots()[0] / '.partial' / f'precision-{dataset}', []
    for name in precisions:
        with _environment(
            PT4AL_PRECISION=name,
            PT4AL_RESULTS=str(own / name),
            PT4AL_THREADS='1',
            OMP_NUM_THREADS='1',
        ):
            pairs = [
                tuple(
                    spec(kind, dataset=dataset, seed=seed, **fields) for kind in ('pretext', 'main')
                )
                for seed in range(seeds)
            ]
            log.info('precision: %d runs in %s', 2 * seeds, name)
            study.run([s for pair in pairs for s in pair])
            rows += [
                {'precision': name, 'seed': seed, **_read(*pair)} for seed, pair in enumerate(pairs)
            ]
    shutil.rmtree(own, ignore_errors=True)
    of = {
        name: {what: [row[what] for row in rows if row['precision'] == name] for what in READ}
        for name in precisions
    }
    return {
        'what': f'{precisions[0]} against {precisions[1]}, paired by seed',
        'dataset': dataset,
        'seeds': seeds,
        'rows': rows,
        'differences': {
            what: _difference(*(of[name][what] for name in precisions[:2])) for what in READ
        },
        'between_seeds': {
            name: {what: _spread(values) for what, values in own.items()}
            for name, own in of.items()
        },
    }


def _read(pretext, main) -> dict[str, float]:
    one, other = (experiments.get(s, 'never') for s in (pretext, main))
    return {
        'rho': stats.spearman(one.tables['images']['loss'], other.tables['images']['loss_out']),
        'accuracy_out': other.summary['accuracy_out'],
        'mean_loss': one.summary['mean_loss'],
    }


def _difference(a: list[float], b: list[float]) -> dict[str, Any]:
    found = stats.paired_difference(a, b)
    return {'mean': found.value, 'low': found.low, 'high': found.high, 'method': found.method}


def _spread(values: list[float]) -> float:
    import numpy as np

    return float(np.std(values, ddof=1))
