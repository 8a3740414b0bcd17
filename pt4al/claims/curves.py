"""Which stored runs decide a claim: networks that fit their labelled images, in one training.

A regime is one way of training on one data set: every field of an active-learning spec but the
strategy, its order, the seed and the number of cycles. Of several, one with two pretext runs or
more decides, then that with most budgets at which three runs a side fit their labels, then with
most fitted budgets, then the widest network: test accuracy is not looked at.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pt4al import stats, tasks
from pt4al.experiments import store
from pt4al.experiments.specs import Active, spec
from pt4al.experiments.store import Result

USUAL_RATE = 0.1  # of learning, not named in words
FITTED = 0.95  # accuracy on the labelled images from which a network counts as trained
# A protocol that chooses by the test set, or goes on from earlier weights, decides no claim.
SOUND: dict[str, Any] = {'start': 'fresh', 'schedule': 'restart', 'watch': '', 'keep': 'last'}
SOUND |= {'held_out': 0, 'channels': 'rgb'}

# How the rotation networks that order a pool are trained, where not by the defaults of `Pretext`.
# In these, 450 steps, one of three networks did no better than guessing; this is as many passes in
# smaller batches, 3,585 steps.  Chosen by the loss of rotation alone, before any labels.
ORDERS: dict[str, dict[str, Any]] = {
    'caltech101:size=64,background=no': {'batch': 32, 'milestones': (10, 13), 'minibatches': 'even'}
}


def lowest_labelled(results: Iterable[Result]) -> float:
    """The lowest accuracy on labelled images over all cycles of these runs; nan, which is below
    `FITTED`, where one did not record it.
    """
    return float(np.min([np.min(r.tables['cycles'].get('train', math.nan)) for r in results]))


Run = tuple[int | None, int]  # seed of the pretext run that orders the pool, seed


@dataclass(frozen=True)
class Curve:
    """One run over its cycles; arrays are [cycles], accuracies in points."""

    order: int | None  # seed of the pretext run that orders the pool
    seed: int
    labels: np.ndarray
    accuracy: np.ndarray
    balanced: np.ndarray  # mean over classes
    labelled: np.ndarray  # accuracy on the labelled images
    result: Result

    @property
    def entropy(self) -> np.ndarray:
        """Class entropy of all labels so far, 1 = as many of each class."""
        picks, size = self.result.tables['picks'], len(self.result.classes)
        so_far = (picks['label'][picks['cycle'] <= cycle] for cycle in np.unique(picks['cycle']))
        return np.array([stats.normalised_entropy(labels, size) for labels in so_far])

    @property
    def unit(self) -> int | str:
        """Runs of equal `unit` are not independent: the seed of the pretext run, else 'seed N'."""
        return self.order if self.order is not None else f'seed {self.seed}'


@dataclass(frozen=True)
class Regime:
    """Curves of one way of training, by strategy ('pt4al', 'pt4al by colorization', 'random')."""

    spec: Active  # without what tells its runs apart: see `place`
    curves: Mapping[str, tuple[Curve, ...]]

    def fitted(self, *strategies: str, units: int = 1) -> list[int]:
        """Budgets that at least `units` independent runs of each strategy reach, where all their
        networks fit their labels.

        Independent are rotation runs; where all curves share one, or rest on none, seeds.
        """
        sides = [self.curves.get(strategy, ()) for strategy in strategies]
        reached = self.reached(*strategies)
        return [k for k in reached if all(_fitted(side, k, units) for side in sides)]

    def reached(self, *strategies: str) -> list[int]:
        """Budgets, numbers of labels, at which every one of these strategies has a run."""
        sides = [self.curves.get(strategy, ()) for strategy in strategies]
        sets = [{int(k) for curve in side for k in curve.labels} for side in sides]
        return sorted(set.intersection(*sets))

    def groups(
        self, strategy: str, budgets: list[int], measure: str = 'accuracy'
    ) -> dict[object, list[float]]:
        """Mean of a measure over budgets, {`Curve.unit`: one value a seed}, of the runs that reach
        them all.
        """
        out: dict[object, list[float]] = defaultdict(list)
        for curve in self.curves.get(strategy, ()):
            at = np.flatnonzero(np.isin(curve.labels, budgets))
            if len(at) == len(budgets):
                out[curve.unit].append(float(getattr(curve, measure)[at].mean()))
        return dict(out)

    def reaching(self, budgets: list[int]) -> 'Regime':
        """The same, without curves that miss one of these budgets."""
        there = {
            strategy: tuple(c for c in side if set(budgets) <= {*c.labels.tolist()})
            for strategy, side in self.curves.items()
        }
        return replace(self, curves=there)

    def share_first(self, one: str, other: str, budgets: list[int]) -> bool:
        """Whether the runs of two strategies that reach all budgets have the same first query."""
        curves = self.reaching(budgets).curves
        sides = [{c.unit: first_query(c) for c in curves.get(name, ())} for name in (one, other)]
        return sides[0].keys() == sides[1].keys() and all(
            np.array_equal(query, sides[1][unit]) for unit, query in sides[0].items()
        )

    def least_labelled(self, strategies: tuple[str, ...], budgets: list[int]) -> float | None:
        """Lowest accuracy on labelled images of any strategy, seed and budget."""
        values = [
            curve.labelled[curve.labels == k].min()
            for strategy in strategies
            for curve in self.curves.get(strategy, ())
            for k in budgets
            if k in curve.labels
        ]
        return float(min(values)) if values else None

    def independent(self, measure: str, budgets: list[int]) -> dict[str, dict[object, list[float]]]:
        """`groups` of an independent network's reading, by strategy, at these budgets."""
        readings: dict[tuple[str, Run], float] = {}
        stored = store.find('diagnosis', dataset=self.spec.dataset)
        # of two readings of a run the longer one stays
        for result in sorted(stored, key=lambda r: len(r.tables['queries']['labels'])):
            training, strategy, run = place(result.spec.active)
            queries = result.tables['queries']
            at = np.isin(queries['labels'], budgets)
            if training == self.spec and at.sum() == len(budgets):
                readings[strategy, run] = float(queries[measure][at].mean())
        out: dict[str, dict[object, list[float]]] = defaultdict(lambda: defaultdict(list))
        for (strategy, (order, seed)), value in readings.items():
            out[strategy][f'seed {seed}' if order is None else order].append(value)
        return out

    def orders(self, budgets: list[int]) -> list[Result]:
        """The stored pretext runs of PT4AL's curves that reach these budgets, whatever version of
        the images they were trained on (decoders round differently).
        """
        curves = self.reaching(budgets).curves.get('pt4al', ())
        orders = dict.fromkeys(curve.result.spec.pretext for curve in curves)
        stored = {r.spec: r for r in store.find('pretext', dataset=self.spec.dataset)}
        return [stored[order] for order in orders if order in stored]

    @property
    def rotation_runs(self) -> int:
        """How many rotation networks order the pool in PT4AL's curves."""
        return len({curve.order for curve in self.curves.get('pt4al', ())})

    @property
    def training(self) -> str:
        """The training in words."""
        s = self.spec
        rate = '' if s.lr == USUAL_RATE else f', rate {s.lr:g}'
        return f'width {s.width}, {s.epochs} epochs{rate}{pixels(s.dataset)}'


def pixels(dataset: str) -> str:
    """The size of the images of a data set, and the class left out, where its name says them."""
    options = dict(o.split('=') for o in dataset.partition(':')[2].split(',') if '=' in o)
    size = f', {options["size"]} pixels' if 'size' in options else ''
    return size + (', without the background class' if options.get('background') == 'no' else '')


def first_query(curve: Curve) -> np.ndarray:
    """The images labelled first, ascending."""
    picks = curve.result.tables['picks']
    return np.sort(picks['index'][picks['cycle'] == picks['cycle'].min()])


def _fitted(side: tuple[Curve, ...], budget: int, units: int) -> bool:
    """Whether every curve at a budget fits its labels, and enough independent ones reach it."""
    there = [curve for curve in side if budget in curve.labels]
    orders = {curve.order for curve in there}
    independent = len(orders) if len({curve.order for curve in side}) > 1 else len(there)
    return independent >= units and all(
        curve.labelled[curve.labels == budget].min() >= FITTED for curve in there
    )


def regimes(family: str) -> list[Regime]:
    """Every regime of a data set that the store holds runs of, the deciding one first."""
    by_training: dict[Active, dict[str, dict[Run, Curve]]] = defaultdict(lambda: defaultdict(dict))
    for result in store.find('active', lambda content: _sound(content['spec'], family)):
        training, strategy, run = place(result.spec)
        curve, runs = _curve(*run, result), by_training[training][strategy]
        if run not in runs or len(curve.labels) > len(runs[run].labels):
            runs[run] = curve
    made = []
    for training, strategies in by_training.items():
        curves = {
            strategy: tuple(runs[run] for run in sorted(runs, key=str))
            for strategy, runs in sorted(strategies.items())
        }
        made.append(Regime(training, curves))
    return sorted(made, key=_worth, reverse=True)


def place(s: Active) -> tuple[Active, str, Run]:
    """A spec as the settings that comparable runs share, the name of its strategy, and its run.

    An order by another task, or by one that was trained otherwise, makes another strategy.
    """
    training = replace(s, strategy='', pretext=None, seed=0, until=0)
    if s.pretext is None:
        return training, s.strategy, (None, s.seed)
    strategy, task, seed = s.strategy, s.pretext.task, s.pretext.seed
    fields = {'dataset': s.dataset, 'task': task, 'width': s.pretext.width, 'seed': seed}
    usual = spec('pretext', **fields, **(ORDERS.get(s.dataset, {}) if task == 'rotation' else {}))
    if task != 'rotation':
        strategy += f' by {task}'
    if usual != s.pretext:
        strategy += f', {task} trained otherwise'
    return training, strategy, (seed, s.seed)


def _sound(fields: Mapping[str, Any], family: str) -> bool:
    sound = all(fields.get(name, value) in (value, None) for name, value in SOUND.items())
    return sound and family in (fields['dataset'], tasks.family(fields['dataset']))


def _worth(regime: Regime) -> tuple:
    s, compared = regime.spec, ('random', 'pt4al')
    reached, fitted = len(regime.reached(*compared)), len(regime.fitted(*compared))
    three = len(regime.fitted(*compared, units=3))
    control = bool(regime.fitted('least_confidence', 'random', units=2))
    sound = regime.rotation_runs > 1 and fitted > 0
    return sound, sound and control, three, fitted, reached > 0, s.width, s.epochs, reached


def _curve(order: int | None, seed: int, result: Result) -> Curve:
    cycles, balanced = result.tables['cycles'], recall(result).mean(axis=1)
    labels, accuracy = cycles['labels'], 100 * cycles['accuracy']
    labelled = cycles.get('train', np.full(len(labels), math.nan))
    return Curve(order, seed, labels, accuracy, balanced, labelled, result)


def recall(result: Result) -> np.ndarray:
    """Test images of each class recognised after each cycle, in per cent: [cycles, C]."""
    return 100 * result.tables['classes']['accuracy'].reshape(-1, len(result.classes))
