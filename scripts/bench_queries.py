"""CPU seconds and peak memory of query strategies on one thread, as a Markdown table on standard output.

    python scripts/bench_queries.py [images] [dimensions]          # 50000 512

Each strategy runs in a process of its own, on rows drawn around 100 centres, with 1,000 images labelled.
"""
from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import time

import numpy as np

PICKS = {'random': 1000, 'least_confidence': 1000, 'bald': 1000, 'badge': 100, 'coreset': 100, 'typiclust': 100,
         'probcover': 1000, 'pt4al': 1000, 'pt4al_typiclust': 1000}
NEW = {'pt4al_typiclust'}           # asked for its first query, without labels


def measure(name: str, images: int, dimensions: int) -> tuple[float, float, float]:
    """CPU seconds of one query, and mebibytes at its peak before and after."""
    import torch

    from pt4al.query import QUERIES, Pool
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    m = 0 if name in NEW else 1000
    order = torch.from_numpy(rng.permutation(images))
    x = rng.standard_normal((100, dimensions), np.float32)[rng.integers(100, size=images)]
    x += rng.standard_normal((images, dimensions), np.float32)
    given = {'ssl_features': x, 'features': x, 'logits': rng.standard_normal((images, 10), np.float32),
             'dropout_logits': rng.standard_normal((images, 10, 10), np.float32),
             'pretext_loss': rng.lognormal(size=images).astype('float32')}
    query = QUERIES[name]
    pool = Pool(order[:m], order[m:].sort().values, int(m > 0), 10, classes=10,
                **{field: torch.from_numpy(value) for field, value in given.items()
                   if field in getattr(query, 'needs', ())})
    del given, x
    before, start = _peak(), time.process_time()
    picked = query(pool, PICKS[name], np.random.default_rng(1))
    assert len(picked.unique()) == PICKS[name]
    return time.process_time() - start, before, _peak()


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (20 if sys.platform == 'darwin' else 10)


def main(images: int = 50_000, dimensions: int = 512) -> None:
    os.environ['OMP_NUM_THREADS'] = '1'          # before the workers import any library
    print(f'{images:,} images, {dimensions} features, one thread\n')
    print('| strategy | picks | CPU seconds | MiB before | MiB at the peak |\n|---|---|---|---|---|')
    for name, picks in PICKS.items():
        with multiprocessing.get_context('spawn').Pool(1) as worker:
            seconds, before, peak = worker.apply(measure, (name, images, dimensions))
        print(f'| {name} | {picks:,} | {seconds:.1f} | {before:,.0f} | {peak:,.0f} |', flush=True)


if __name__ == '__main__':
    main(*map(int, sys.argv[1:]))
