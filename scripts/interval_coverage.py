"""How often the 95 % interval of a correlation holds the true one, by the number of runs a side.

    python -m scripts.interval_coverage [--repetitions 400]

Simulated losses. Where images are resampled, each of N images has a difficulty for either task, and
each run sees it through noise of its own and as well as it has learnt, which differs from run to
run. Where classes are resampled, each study draws its classes anew, with their sizes and means,
from those of the stored losses of Caltech-101. Saved in bench/coverage.json beside the results, for
the book.
"""

from __future__ import annotations

import argparse
import logging
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri

from pt4al import claims, stats
from pt4al.claims.sensitivity import losses
from pt4al.experiments import records, store
from pt4al.progress import log_lines
from pt4al.rng import stream

IMAGES = 8_000
# reliabilities of the two losses and the correlation between single runs, as measured on CIFAR-10
RELIABILITY, RHO = (0.77, 0.83), 0.37
# standard deviations of rho between pretext runs and between classifiers, as measured: of four and
# two runs on CIFAR-10, of two and two on Imbalanced CIFAR-10
SPREADS = {'CIFAR-10': (0.016, 0.001), 'Imbalanced CIFAR-10': (0.037, 0.015)}
CALTECH = 'Caltech-101'
RUNS = ((1, 1), (4, 1), (2, 2), (3, 2), (4, 2), (3, 3))
TRUTH_RUNS = 4_000


# --- images resampled ---


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


# --- classes resampled ---


@dataclass(frozen=True)
class Side:
    """The normal scores of one task's losses, in parts."""

    means: np.ndarray  # [C], of the classes over runs
    class_by_run: float  # variances of the other parts
    image: float
    image_by_run: float


@dataclass(frozen=True)
class Classes:
    """Classes as stored losses of C classes have them."""

    sizes: np.ndarray  # [C]
    sides: tuple[Side, Side]
    shared: float  # covariance of the two tasks' parts of an image
    spreads: tuple[float, float]  # of rho between pretext runs, between classifiers

    def study(
        self, chosen: np.ndarray, runs: tuple[int, int], rng: np.random.Generator, copies: int = 1
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Losses of runs of either side and labels, of the chosen classes [k]."""
        label = np.repeat(np.arange(len(chosen)), copies * self.sizes[chosen])
        one, other = self.sides
        images = rng.multivariate_normal(
            (0, 0), [[one.image, self.shared], [self.shared, other.image]], len(label)
        ).T
        out = []
        for side, count, image in zip(self.sides, runs, images):
            drift = rng.normal(0, math.sqrt(side.class_by_run), (count, len(chosen)))
            noise = rng.normal(0, math.sqrt(side.image_by_run), (count, len(label)))
            out.append((side.means[chosen] + drift)[:, label] + image + noise)
        return out[0], out[1], label

    def truth(self) -> float:
        """Spearman's rho of a pair of runs in all classes, on average over runs and images."""
        rng, everything = stream(0, 'coverage', 'classes'), np.arange(len(self.sizes))
        pairs = (self.study(everything, (1, 1), rng, copies=3) for _ in range(60))
        return float(np.mean([stats.spearman(x[0], y[0]) for x, y, _ in pairs]))

    def holds(self, runs: tuple[int, int], truth: float, repetition: int) -> bool:
        """Whether the interval of one simulated study of as many classes holds the true value."""
        rng = stream(repetition, 'coverage', f'{runs} classes')
        count = len(self.sizes)
        x, y, label = self.study(rng.integers(count, size=count), runs, rng)
        e = stats.rank_correlation(x, y, draws=100, seed=repetition, labels=label)
        return e.low <= truth <= e.high


def measured() -> Classes:
    """The classes of Caltech-101, of the losses that decide about its correlation."""
    pretext, main = claims.loss_runs('caltech101', 'rotation')
    label = main[0].tables['images']['label']
    runs = losses(pretext, 'loss'), losses(main, 'loss_out')
    rho = np.array([[stats.spearman(x, y) for y in runs[1]] for x in runs[0]])
    (one, first), (other, second) = (_side(side, label) for side in runs)
    spreads = (_spread(rho.mean(1)), _spread(rho.mean(0)))
    return Classes(np.bincount(label), (one, other), float(np.mean(first * second)), spreads)


def _spread(rho: np.ndarray) -> float:
    return round(float(rho.std(ddof=1)), 3)


def _side(runs: np.ndarray, label: np.ndarray) -> tuple[Side, np.ndarray]:
    """The parts of losses [R,N], and each image's own [N], which holds some of its noise."""
    score = ndtri(stats.normalised_ranks(runs) - 0.5 / runs.shape[1])
    size = np.bincount(label)
    means = np.stack([np.bincount(label, run) / size for run in score])
    rest = score - means[:, label]
    image, noise = rest.mean(0), float(rest.var(0, ddof=1).mean())
    by_run = float(means.var(0, ddof=1).mean())
    return Side(means.mean(0), by_run, float(image.var()) - noise / len(runs), noise), image


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--repetitions', type=int, default=400)
    count = parser.parse_args().repetitions
    log_lines()
    classes = measured()
    rho = classes.truth()
    rows: list[dict[str, Any]] = []
    for runs in RUNS:
        row: dict[str, Any] = {'pretext': runs[0], 'main': runs[1]}
        for name, spreads in SPREADS.items():
            row[name] = float(np.mean([holds(runs, spreads, k) for k in range(count)]))
        row[CALTECH] = float(np.mean([classes.holds(runs, rho, k) for k in range(count)]))
        rows.append(row)
        logging.info('%s', row)
        records.save(
            'coverage',
            {
                'what': 'share of simulated studies whose 95 % interval holds the true rho',
                'commit': store.commit(),
                'images': IMAGES,
                'repetitions': count,
                'spreads': SPREADS | {CALTECH: classes.spreads},
                'rows': rows,
            },
        )


if __name__ == '__main__':
    main()
