"""CPU seconds and memory of one query of each strategy, on features drawn around 100 centres."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Iterable
from typing import Any

import numpy as np

from pt4al.errors import choose
from pt4al.progress import log
from pt4al.query import QUERIES

LABELLED, PICKS = 1000, 1000
# what makes them special is their first query, without labels
FIRST = {'class_matched', 'class_even', 'pt4al_class_even', 'pt4al_typiclust'}


def strategies(
    names: Iterable[str] = tuple(QUERIES),
    images: int = 50_000,
    dimensions: int = 512,
    classes: int = 10,
) -> dict[str, Any]:
    """Each strategy's query in a process of its own, on one thread: CPU seconds, and MiB above what
    its input takes.
    """
    for name in (names := list(names)):
        choose('strategy', name, QUERIES)
    before, rows = os.environ.get('OMP_NUM_THREADS'), []
    os.environ['OMP_NUM_THREADS'] = '1'  # read when a new process imports its libraries
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['torch', 'sklearn.cluster', __name__])
    try:
        for name in names:
            with context.Pool(1) as worker:
                seconds, extra = worker.apply(_query, (name, images, dimensions, classes))
            log.info('strategies: %s, %.1f s, %.0f MiB', name, seconds, extra)
            rows.append({'strategy': name, 'seconds': seconds, 'extra_mib': extra})
    finally:
        os.environ.pop('OMP_NUM_THREADS') if before is None else os.environ.update(
            OMP_NUM_THREADS=before
        )
    return {
        'what': 'CPU seconds of one query, and peak memory beyond its input',
        'images': images,
        'picks': PICKS,
        'dimensions': dimensions,
        'classes': classes,
        'labelled': LABELLED,
        'rows': rows,
    }


def _query(name: str, images: int, dimensions: int, classes: int) -> tuple[float, float]:
    import torch

    from pt4al.query.strategies import Pool

    torch.set_num_threads(1)
    rng, query = np.random.default_rng(0), QUERIES[name]
    m = 0 if name in FIRST else min(LABELLED, images // 10)
    order, given = (
        torch.from_numpy(rng.permutation(images)),
        _given(rng, images, dimensions, classes),
    )
    pool = Pool(
        order[:m],
        order[m:].sort().values,
        int(m > 0),
        10,
        classes=classes,
        **{field: torch.from_numpy(given[field]) for field in query.needs if field in given},
    )
    picks = min(PICKS, images // 50)
    before, start = _peak(), time.process_time()
    picked = query(pool, picks, np.random.default_rng(1))
    assert len(picked.unique()) == picks
    return time.process_time() - start, _peak() - before


def _given(
    rng: np.random.Generator, images: int, dimensions: int, classes: int
) -> dict[str, np.ndarray]:
    """Every field a strategy may ask for; made without much memory beyond itself, whose peak would
    hide the query's.
    """
    centres, x = (
        rng.standard_normal((100, dimensions), np.float32),
        rng.standard_normal((images, dimensions), np.float32),
    )
    which = rng.integers(100, size=images)
    for part, own in zip(np.array_split(x, 100), np.array_split(which, 100)):
        part += centres[own]
    return {
        'ssl_features': x,
        'features': x,
        'logits': rng.standard_normal((images, classes), np.float32),
        'predicted_loss': rng.standard_normal(images, np.float32),
        'oracle_labels': which % classes,
        'pretext_loss': rng.lognormal(size=images).astype('float32'),
    }


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (
        20 if sys.platform == 'darwin' else 10
    )
