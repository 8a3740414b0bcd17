"""Which stored runs decide a claim: networks that fit their labelled images, in one training.

A regime is one way of training on one data set: every field of an active-learning spec but the
strategy, its order, the seed and the number of cycles.  Where the store holds several, the one with
most budgets at which networks fit their labels is taken, then the widest network.  The choice looks
at accuracy on labelled images only, never at test accuracy.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pt4al.experiments import store
from pt4al.experiments.specs import Active
from pt4al.experiments.store import Result

FITTED = 0.95  # accuracy on the labelled images from which a network counts as trained
NOT_COMPARED = ('strategy', 'pretext', 'seed', 'until')
# A protocol that chooses by the test set, or goes on from earlier weights, decides no claim.
SOUND = {
    'start': 'fresh',
    'schedule': 'restart',
    'watch': '',
    'keep': 'last',
    'held_out': 0,
    'channels': 'rgb',
}


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


@dataclass(frozen=True)
class Regime:
    """Curves of one way of training, by strategy ('pt4al', 'pt4al by colorization', 'random')."""

    dataset: str
    fields: Mapping[str, Any]
    curves: Mapping[str, tuple[Curve, ...]]

    def fitted(self, *strategies: str, units: int = 1) -> list[int]:
        """Budgets that at least `units` independent runs of each strategy reach, all of them fitted.

        Independent are rotation runs; where all curves share one, or rest on none, seeds.
        """
        sides = [self.curves.get(strategy, ()) for strategy in strategies]
        budgets = sorted({int(k) for side in sides for curve in side for k in curve.labels})
        return [k for k in budgets if all(_fitted(side, k, units) for side in sides)]

    def reached(self, *strategies: str) -> list[int]:
        """Budgets that some curve of each strategy reaches, fitted or not."""
        sides = [self.curves.get(strategy, ()) for strategy in strategies]
        sets = [{int(k) for curve in side for k in curve.labels} for side in sides]
        return sorted(set.intersection(*sets)) if sets else []

    def groups(
        self, strategy: str, budgets: list[int], measure: str = 'accuracy'
    ) -> dict[object, list[float]]:
        """Mean of a measure over budgets by order and seed: {rotation run: one value a seed}.

        Runs that do not reach all budgets are left out; a strategy without an order has one unit a
        seed, under keys that are no rotation run.
        """
        out: dict[object, list[float]] = defaultdict(list)
        for curve in self.curves.get(strategy, ()):
            at = np.flatnonzero(np.isin(curve.labels, budgets))
            if len(at) == len(budgets):
                unit = curve.order if curve.order is not None else f'seed {curve.seed}'
                out[unit].append(float(getattr(curve, measure)[at].mean()))
        return dict(out)

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

    @property
    def training(self) -> str:
        """The training in words."""
        return f'width {self.fields["width"]}, {self.fields["epochs"]} epochs'


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
    by_training: dict[tuple, dict[str, dict[tuple, Result]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    # a field that is younger than a result had its default then
    usual = {
        one.name: one.default
        for one in dataclasses.fields(Active)
        if one.default is not dataclasses.MISSING
    }
    for result in store.find('active', lambda content: _sound(content['spec'], family)):
        spec = usual | result.spec
        training = tuple(
            (name, tuple(value) if isinstance(value, list) else value)
            for name, value in sorted(spec.items())
            if name not in NOT_COMPARED and name not in SOUND
        )
        pretext = spec.get('pretext') or {}
        task = pretext.get('task', 'rotation')
        strategy = spec['strategy'] + ('' if task == 'rotation' else f' by {task}')
        runs, run = by_training[training][strategy], (pretext.get('seed'), spec['seed'])
        if run not in runs or len(_labels(result)) > len(_labels(runs[run])):
            runs[run] = result
    made = [_regime(training, strategies) for training, strategies in by_training.items()]
    return sorted(made, key=_worth, reverse=True)


def _sound(spec: Mapping[str, Any], family: str) -> bool:
    return spec['dataset'].split(':')[0] == family and all(
        spec.get(name, value) in (value, None) for name, value in SOUND.items()
    )


def _worth(regime: Regime) -> tuple:
    fields, compared = regime.fields, ('random', 'pt4al')
    reached = len(regime.reached(*compared))
    return len(regime.fitted(*compared)), reached > 0, fields['width'], fields['epochs'], reached


def _regime(training: tuple, strategies: Mapping[str, Mapping[tuple, Result]]) -> Regime:
    fields = dict(training)
    curves = {
        strategy: tuple(_curve(*run, runs[run]) for run in sorted(runs, key=str))
        for strategy, runs in sorted(strategies.items())
    }
    return Regime(fields['dataset'], fields, curves)


def _labels(result: Result) -> np.ndarray:
    return result.tables['cycles']['labels']


def _curve(order: int | None, seed: int, result: Result) -> Curve:
    cycles, classes = result.tables['cycles'], len(result.classes)
    recall = result.tables['classes']['accuracy'].reshape(-1, classes)
    labelled = cycles.get('train', np.full(len(cycles['labels']), np.nan))
    return Curve(
        order,
        seed,
        cycles['labels'],
        100 * cycles['accuracy'],
        100 * recall.mean(axis=1),
        labelled,
        result,
    )
