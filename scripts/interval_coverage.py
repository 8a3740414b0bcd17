"""How often the 95 % interval of a correlation holds the true one, by the number of runs a side.

    python -m scripts.interval_coverage [--repetitions 400]

Simulated losses: each of N images has a difficulty for either task, and each run sees it through
noise of its own and as well as it has learnt, which differs from run to run. Saved in
bench/coverage.json beside the results, for the book.
"""

from __future__ import annotations

import argparse
import logging
import math
from typing import Any

import numpy as np

from pt4al import stats
from pt4al.experiments import records, store
from pt4al.progress import log_lines
from pt4al.rng import stream

IMAGES = 8_000
# reliabilities of the two losses and the correlation between single runs, as measured on CIFAR-10
RELIABILITY, RHO = (0.77, 0.83), 0.37
# standard deviations of rho between pretext runs and between classifiers, as measured: of four and
# two runs on CIFAR-10, of two and two on Imbalanced CIFAR-10
SPREADS = {'CIFAR-10': (0.016, 0.001), 'Imbalanced CIFAR-10': (0.037, 0.015)}
RUNS = ((1, 1), (4, 1), (2, 2), (3, 2), (4, 2), (3, 3))
TRUTH_RUNS = 4_000


def qualities(side: int, spread: float, runs: int, rng: np.random.Generator) -> np.ndarray:
    """The signal of each run [runs] beside noise of variance 1, so that rho has this spread."""
    share = RELIABILITY[side]
    middle = math.sqrt(share / (1 - share))
    # rho is proportional to q / sqrt(q^2 + 1), whose relative change is (1 - share) d log q
    return middle * np.exp(rng.normal(0, spread / RHO / (1 - share), runs))


def correlation() -> float:
    """Pearson's r of the two difficulties, so that single runs correlate at `RHO` (Spearman)."""
    single = 2 * math.sin(math.pi / 6 * RHO)
    return single / math.sqrt(math.prod(RELIABILITY))


def truth(spreads: tuple[float, float]) -> float:
    """Spearman's rho of a pair of runs, on average over runs."""
    rng = stream(0, 'coverage', 'truth')
    sides = (qualities(k, spread, TRUTH_RUNS, rng) for k, spread in enumerate(spreads))
    seen = [q / np.hypot(q, 1) for q in sides]
    return float(np.mean(6 / math.pi * np.arcsin(correlation() * seen[0] * seen[1] / 2)))


def holds(runs: tuple[int, int], spreads: tuple[float, float], repetition: int) -> bool:
    """Whether the interval of one simulated study holds the true value."""
    rng = stream(repetition, 'coverage', f'{runs} {spreads}')
    r = correlation()
    first = rng.standard_normal(IMAGES)
    second = r * first + math.sqrt(1 - r * r) * rng.standard_normal(IMAGES)
    x, y = (
        qualities(side, spreads[side], n, rng)[:, None] * difficulty
        + rng.standard_normal((n, IMAGES))
        for side, (n, difficulty) in enumerate(zip(runs, (first, second)))
    )
    e = stats.rank_correlation(x, y, draws=100, seed=repetition)
    return e.low <= truth(spreads) <= e.high


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--repetitions', type=int, default=400)
    count = parser.parse_args().repetitions
    log_lines()
    rows: list[dict[str, Any]] = []
    for runs in RUNS:
        row: dict[str, Any] = {'pretext': runs[0], 'main': runs[1]}
        for name, spreads in SPREADS.items():
            row[name] = float(np.mean([holds(runs, spreads, k) for k in range(count)]))
        rows.append(row)
        logging.info('%s', row)
        records.save(
            'coverage',
            {
                'what': 'share of simulated studies whose 95 % interval holds the true rho',
                'commit': store.commit(),
                'images': IMAGES,
                'repetitions': count,
                'spreads': SPREADS,
                'rows': rows,
            },
        )


if __name__ == '__main__':
    main()
