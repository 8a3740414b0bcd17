"""Active-learning runs that chapters take by name; the claims choose theirs by `claims.regimes`."""

from __future__ import annotations

import numpy as np

from pt4al import claims, stats
from pt4al.experiments import runs
from pt4al.experiments.store import Result
from pt4al.stats import Estimate


def arm(dataset: str, strategy: str) -> dict[int, Result]:
    """Active-learning results over all cycles, in the usual training of a data set, by seed."""
    return {r.spec.seed: r for r in runs('active', dataset=dataset, strategy=strategy, until=0)}


def short_last_batch() -> tuple[list[Result], Estimate | None]:
    """What few images left over at the end of each epoch do: runs on random labels, and accuracy in
    points, paired by seed.

    776 embedded images at a batch of 128 leave 8, 768 leave none; the difference is that of the
    first less the second.
    """
    way = {'until': 1, 'batch': 128, 'epochs': 60, 'milestones': (48,)}
    small, none = (
        {
            r.spec.seed: r
            for r in runs('active', dataset='cifar10-mini', strategy='random', budget=budget, **way)
        }
        for budget in (776, 768)
    )
    both = sorted(small.keys() & none.keys())
    sides = [np.array([balanced(side[seed])[0] for seed in both]) for side in (small, none)]
    gap = stats.paired_difference(*sides) if both else None
    return [*small.values(), *none.values()], gap


def area(result: Result) -> float:
    """Area under the curve of balanced accuracy, budget scaled to [0,1], in points."""
    return stats.aubc(balanced(result), result.tables['cycles']['labels'])


def balanced(result: Result) -> np.ndarray:
    """Balanced accuracy after each cycle, in points: the mean of the recall over classes, [cycles].

    On a test set with as many images of each class it is the accuracy.
    """
    return claims.recall(result).mean(1)


def first_labels(result: Result) -> np.ndarray:
    """True classes of what the first cycle picked, one an image."""
    picks = result.tables['picks']
    return picks['label'][picks['cycle'] == 1]
