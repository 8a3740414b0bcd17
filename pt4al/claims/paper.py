"""The claims of the paper, each a statistic of stored results and a rule that turns it into a
verdict.

What the paper and the reproduction report is quoted here and nowhere else; what this report finds
is always computed. The acceptance rules are written down before the numbers: a further seed can
change a verdict, never a rule.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from pt4al import stats
from pt4al.experiments import runs
from pt4al.experiments.specs import Active
from pt4al.experiments.store import Result
from pt4al.stats.correlation import Estimate

PAPER, REPRODUCTION = 'Yi et al. 2022', 'the reproduction'


@dataclass(frozen=True)
class Claim:
    """One row of the claims table; `estimate(setting)` is None where the store holds no result to
    compute it from.
    """

    name: str
    statement: str
    chapter: str  # the page of the book that shows the evidence
    # dataset -> (paper, reproduction), as they report it
    published: dict[str, tuple[str, str]]
    statistic: str  # what `estimate` is
    rule: str  # what `verdict` does, in words
    estimate: Callable[[str], Estimate | None]
    # of an Estimate and, if not CIFAR-10's, what was published
    verdict: Callable[..., str]
    digits: int = 2  # after the point, in tables and prose


Fields = Mapping[str, Any]


@dataclass(frozen=True)
class Setting:
    """How claims are computed: on which data, by networks of which width, and in which ways
    classifiers were trained.

    `ways` are fields of `Active` specs; the first one that the store holds runs of is taken.
    """

    dataset: str
    every: Fields = field(default_factory=dict)  # of all specs
    ways: tuple[Fields, ...] = ({},)


# On the larger sets a CPU can run all cycles with fewer epochs alone, the same in every arm; of the
# rates 0.1, 0.03 and
# 0.01 the one at which so few epochs leave the lowest training loss, on random labels.
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


def losses(name: str, task: str = 'rotation') -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Pretext losses [S,N], main losses out-of-fold [T,N] and in-sample [T,N]; None where either is
    not yet run.
    """
    pretext, main = pretexts(name, task), mains(name)
    if not pretext or not main:
        return None
    out, inside = (
        np.stack([r.tables['images'][column] for r in main]) for column in ('loss_out', 'loss_in')
    )
    return np.stack([r.tables['images']['loss'] for r in pretext]), out, inside


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
        out: dict[int, Result] = {}
        for until in (0,) if complete else (0, 1):
            for result in runs(
                'active', dataset=at.dataset, strategy=strategy, until=until, **at.every, **way
            ):
                out.setdefault(result.spec['seed'], result)
        if out:
            return out
    return {}


def alike(a: Result, b: Result) -> bool:
    """Whether two active-learning runs were trained in the same way: their specs differ in what was
    picked alone.

    A field that is younger than a result had its default then.
    """
    usual = {one.name: one.default for one in dataclasses.fields(Active)}
    return all(
        a.spec.get(name, default) == b.spec.get(name, default)
        for name, default in usual.items()
        if name not in ('strategy', 'pretext', 'until')
    )


def paired(
    name: str, measure: Callable[[Result], float], complete: bool, strategy: str = 'pt4al'
) -> tuple[np.ndarray, np.ndarray] | None:
    """`measure` of a strategy's and of random's runs, paired by seed: two [seeds]; None without a
    common seed.

    Runs that were not trained alike make no pair.
    """
    arms = [arm(name, s, complete) for s in (strategy, 'random')]
    seeds = [
        seed
        for seed in sorted(arms[0].keys() & arms[1].keys())
        if alike(arms[0][seed], arms[1][seed])
    ]
    if not seeds:
        return None
    first, second = (np.array([measure(a[seed]) for seed in seeds]) for a in arms)
    return first, second


def first_accuracy(result: Result) -> float:
    """Balanced test accuracy after the first cycle, in points."""
    return float(balanced(result)[0])


def short_last_batch() -> tuple[list[Result], Estimate | None]:
    """What few images left over at the end of each epoch do: runs on random labels, and accuracy in
    points, paired by seed.

    776 embedded images at a batch of 128 leave 8, 768 leave none; the difference is that of the
    first less the second.
    """
    small, none = (
        {
            r.spec['seed']: r
            for r in runs(
                'active',
                dataset='cifar10-mini',
                strategy='random',
                budget=budget,
                until=1,
                batch=128,
                epochs=60,
                milestones=(48,),
            )
        }
        for budget in (776, 768)
    )
    both = sorted(small.keys() & none.keys())
    with_small, without = (
        np.array([first_accuracy(found[seed]) for seed in both]) for found in (small, none)
    )
    gap = stats.paired_difference(with_small, without) if both else None
    return [*small.values(), *none.values()], gap


def last_accuracy(result: Result) -> float:
    """Balanced test accuracy after the last cycle, in points."""
    return float(balanced(result)[-1])


def area(result: Result) -> float:
    """Area under the curve of balanced accuracy, budget scaled to [0,1], in points."""
    return stats.aubc(balanced(result), result.tables['cycles']['labels'])


def plain_area(result: Result) -> float:
    """The same of plain accuracy, which on a test set of unequal classes is mostly that of the
    largest.
    """
    return 100 * stats.aubc(result.tables['cycles']['accuracy'], result.tables['cycles']['labels'])


# tasks that order no pool here: a ruler for what is picked
ENCODERS = {'cifar10': 'jigsaw', 'cifar10-mini': 'simclr'}


def diagnoses(name: str, strategy: str) -> dict[int, Result]:
    """What each query of a strategy's whole runs picked (`specs.Diagnosis`), by seed; empty where
    nobody measured it.
    """
    at = setting(name)
    for way in at.ways:
        if found := runs(
            'diagnosis',
            dataset=at.dataset,
            strategy=strategy,
            encoder=ENCODERS[at.dataset],
            **at.every,
            **way,
        ):
            return {r.spec['seed']: r for r in found}
    return {}


def recall(result: Result) -> np.ndarray:
    """Share of the test images recognised of each class after each cycle, in points: [cycles, C]."""
    return 100 * result.tables['classes']['accuracy'].reshape(-1, len(result.classes))


def balanced(result: Result) -> np.ndarray:
    """Balanced accuracy after each cycle, in points: the mean of the recall over classes, [cycles].

    On a test set with as many images of each class it is the accuracy.
    """
    return recall(result).mean(1)


def first_labels(result: Result) -> np.ndarray:
    """True classes of what the first cycle picked, one an image."""
    picks = result.tables['picks']
    return picks['label'][picks['cycle'] == 1]


def _rank_correlation(name: str) -> Estimate | None:
    found = losses(name)
    return found and _bootstrapped(
        *(side.astype('float32').tobytes() for side in found[:2]), found[0].shape[1]
    )


@cache
def _bootstrapped(pretext: bytes, main: bytes, images: int) -> Estimate:
    # remembered by content: a page that asks twice waits once, and a further seed is another
    # question
    one, other = (np.frombuffer(side, 'float32').reshape(-1, images) for side in (pretext, main))
    return stats.rank_correlation(one, other)


def _rank_verdict(e: Estimate, published: tuple[str, str] = ('0.79', '0.44')) -> str:
    named = [
        (who, float(value))
        for who, value in zip(('the paper', 'the reproduction'), published)
        if value != '–'
    ]
    if not named:
        near = 'nothing published on these data'
    else:
        neither = (
            "neither the paper's value nor the reproduction's"
            if len(named) > 1
            else f'not the value of {named[0][0]}'
        )
        near = next(
            (f'as in {who}' for who, value in named if abs(round(e.value - value, 6)) <= 0.05),
            neither,
        )
    return f'{near}; {"strong correlation rejected" if e.high < 0.70 else "strong correlation not rejected"}'


def _difference(
    measure: Callable[[Result], float], complete: bool
) -> Callable[[str], Estimate | None]:
    def estimate(name: str) -> Estimate | None:
        both = paired(name, measure, complete)
        return both and stats.paired_difference(*both)

    return estimate


def _gain_verdict(e: Estimate, published: tuple[str, str] = ('', '')) -> str:
    if math.isnan(e.low):
        return 'one seed: no verdict'
    return 'gain' if e.low > 0 else 'harm' if e.high < 0 else 'no difference shown'


def _balance(name: str) -> Estimate | None:
    """Normalised class entropy of what PT4AL picks first, with what uniform draws of that size give
    as the interval.
    """
    found, pool = arm(name, 'pt4al'), pretexts(name)
    if not found or not pool:
        return None
    picks = [first_labels(r) for r in found.values()]
    values = [stats.normalised_entropy(labels, len(pool[0].classes)) for labels in picks]
    low, high = stats.random_entropy_interval(pool[0].tables['images']['label'], len(picks[0]))
    return Estimate(
        float(np.mean(values)),
        low,
        high,
        len(values),
        f'{len(values)} seed{"s" * (len(values) > 1)}',
        'mean over seeds; in brackets the 95% range of uniform random draws',
    )


CLAIMS = (
    Claim(
        'Claim 1',
        'The pretext loss ranks images like the main-task loss.',
        'correlation',
        {
            'cifar10': ('0.79', '0.44'),
            'imbalanced-cifar10': ('–', '0.42'),
            'caltech101:size=32': ('0.78', '0.17'),
        },
        'Spearman rho, rotation loss against out-of-fold classification loss',
        'as in the paper, or as in the reproduction, if rho lies within 0.05 of what it reports on these data; a strong '
        'correlation is rejected if the interval ends below 0.70',
        _rank_correlation,
        _rank_verdict,
    ),
    Claim(
        'Claim 2',
        'Batches of the pretext order give a balanced, representative set.',
        'selection',
        {'cifar10': ('balanced (claimed)', 'not measured')},
        'normalised class entropy of the first query; in brackets what random draws give',
        'rejected if below the range of random draws',
        _balance,
        lambda e, published=None: (
            'rejected: less balanced than random' if e.value < e.low else 'not rejected'
        ),
        digits=4,
    ),
    Claim(
        'Claim 3a',
        'Cold start is solved: the first cycle beats random.',
        'classification',
        {'cifar10': ('above random (no digits)', 'about equal, both near 30 %')},
        'PT4AL minus random after the first cycle, points of test accuracy (mean over classes), paired by seed',
        'gain if the 95% interval lies above 0, harm if below',
        _difference(first_accuracy, False),
        _gain_verdict,
        digits=1,
    ),
    Claim(
        'Claim 3b',
        'PT4AL beats random over all cycles.',
        'classification',
        {'cifar10': ('93.1 % at 10,000 labels', '90 % against 70 %')},
        'PT4AL minus random in area under the curve of accuracy (mean over classes) against labels, points, paired by seed',
        'gain if the 95% interval lies above 0, harm if below',
        _difference(area, True),
        _gain_verdict,
        digits=1,
    ),
)


def runs_of(e: Estimate) -> str:
    """What an estimate rests on: '50,000 images, 2 pretext x 1 main' or '3 seeds'."""
    return e.seeds if e.seeds in (f'{e.n} seeds', '1 seed') else f'{e.n:,} images, {e.seeds}'
