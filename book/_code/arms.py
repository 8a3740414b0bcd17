"""Stored runs by data set, width and training, for chapters that look at one training by name.

The table of claims chooses its runs by `claims.regimes` instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pt4al import claims, stats
from pt4al.experiments import runs
from pt4al.experiments.store import Result
from pt4al.stats import Estimate

Fields = Mapping[str, Any]


@dataclass(frozen=True)
class Setting:
    """A data set, a width, and the ways in which classifiers were trained on it.

    `ways` are fields of `Active` specs; the first one that the store holds runs of is taken.
    """

    dataset: str
    every: Fields = field(default_factory=dict)  # of all specs
    ways: tuple[Fields, ...] = ({},)


# On the larger sets a CPU can run all cycles with fewer epochs alone, the same in every arm; of the
# rates 0.1, 0.03 and 0.01 the one at which so few epochs leave the lowest training loss, on random
# labels.
SHORT = {'batch': 32, 'lr': 0.01}
SETTINGS = {
    'cifar10': Setting('cifar10', ways=({}, SHORT | {'epochs': 5, 'milestones': (4,)})),
    # the paper's, then ours
    'cifar10:width=64': Setting(
        'cifar10',
        {'width': 64},
        ({'epochs': 200, 'milestones': (160,)}, {'epochs': 60, 'milestones': (48,)}),
    ),
    'imbalanced-cifar10': Setting(
        'imbalanced-cifar10', ways=({}, SHORT | {'budget': 500, 'epochs': 5, 'milestones': (4,)})
    ),
    'caltech101:size=32': Setting(
        'caltech101:size=32', ways=({}, SHORT | {'epochs': 10, 'milestones': (8,)})
    ),
}


def setting(name: str) -> Setting:
    """The setting of this name, or the usual one of the data set of this name."""
    return SETTINGS.get(name, Setting(name))


def pretexts(name: str, task: str = 'rotation') -> list[Result]:
    """The stored pretext runs of a setting, by seed."""
    return runs('pretext', dataset=setting(name).dataset, task=task, **setting(name).every)


def mains(name: str) -> list[Result]:
    """The stored classifiers in folds of a setting, by seed."""
    return runs('main', dataset=setting(name).dataset, **setting(name).every)


def arm(name: str, strategy: str, complete: bool = False) -> dict[int, Result]:
    """Active-learning results of a strategy in a setting, by seed.

    `complete` asks for runs of all cycles; else such runs come before runs that stopped after the
    first.
    """
    at = setting(name)
    for way in at.ways:
        fields = {'dataset': at.dataset, 'strategy': strategy, **at.every, **way}
        stored = {}
        for until in (0,) if complete else (1, 0):
            stored |= {r.spec.seed: r for r in runs('active', until=until, **fields)}
        if stored:
            return stored
    return {}


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
