"""What moves the rank correlation of claim 1: one factor changed at a time, from the reproduction's
way of measuring, in stored `Pretext` and `Trajectory` runs.

Shapes: N images, S pretext runs, T classifier runs.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from pt4al import stats
from pt4al.experiments import runs, store
from pt4al.experiments.store import Result
from pt4al.rng import stream
from pt4al.stats import Estimate

DRAWS = 200  # of the bootstrap of one level
SIDES = {'in': 'in-sample', 'out': 'out-of-fold'}
Row = tuple[str, str, np.ndarray, np.ndarray]  # factor, level, pretext [S,N], main-task [T,N] loss
Rows = Iterator[Row]


@dataclass(frozen=True)
class Level:
    """One way to measure the correlation; reliabilities are None where a side has one run."""

    factor: str
    level: str
    rho: Estimate
    pretext_reliability: float | None = None
    main_reliability: float | None = None

    @property
    def ceiling(self) -> float | None:
        return ceiling(self.pretext_reliability, self.main_reliability)

    @property
    def corrected(self) -> Estimate | None:
        """rho without the noise of single runs (Spearman 1904); None without a ceiling."""
        top, rho = self.ceiling, self.rho
        if top is None:
            return None
        return replace(rho, value=rho.value / top, low=rho.low / top, high=rho.high / top)


def ceiling(pretext: float | None, main: float | None) -> float | None:
    """The highest rho to expect between single runs of these reliabilities; None without both."""
    if pretext is None or main is None or min(pretext, main) <= 0:
        return None
    return stats.ceiling(pretext, main)


def levels(
    dataset: str, task: str = 'rotation', width: int | None = None, only: Iterable[Result] = ()
) -> list[Level]:
    """Every level that stored results can tell, the base first, of `only` these results if any;
    empty without runs of a side. A width of None is the data set's default.
    """
    pretext = runs('pretext', dataset=dataset, task=task, width=width)
    main = runs('trajectory', dataset=dataset, width=width)
    if keys := {result.key for result in only}:
        pretext, main = ([r for r in side if r.key in keys] for side in (pretext, main))
    if not pretext or not main:
        return []
    x = losses(pretext, 'loss')
    others = _of_other_runs(pretext, main, x)
    return of_losses(x, main, [*_on_test(pretext, main), *others, *_as_reproduced(dataset, task)])


def of_losses(x: np.ndarray, main: list[Result], more: Iterable[Row] = ()) -> list[Level]:
    """The levels of pretext losses [S,N] and trajectories [T] of the same images, and `more`."""
    y = _last(main)
    base = 'base', f'in-sample, epoch {_epochs(main)[-1]}, constant rate', x, y
    return [
        *(_level(*row) for row in (base, *_measured(x, main), *more, *_averaged(x, main))),
        *_aggregated(x, y, main[0].tables['images']['label']),
        *_sampled(x, y),
        *(_level(*row) for row in _as_text(x, y)),
    ]


def losses(results: list[Result], column: str, table: str = 'images') -> np.ndarray:
    """A column of several results, [results, N]."""
    return np.stack([r.tables[table][column].astype('float32') for r in results])


def _epochs(main: list[Result]) -> np.ndarray:
    """The logged epochs of a trajectory."""
    return main[0].tables['log']['epoch']


def _last(main: list[Result]) -> np.ndarray:
    return losses(main, f'loss_in_{_epochs(main)[-1]}')


def _level(factor: str, level: str, x: np.ndarray, y: np.ndarray) -> Level:
    agree = (stats.reliability(side) if len(side) > 1 else None for side in (x, y))
    return Level(factor, level, stats.rank_correlation(x, y, draws=DRAWS), *agree)


def _on_test(pretext: list[Result], main: list[Result]) -> Rows:
    """Both losses on images that neither side trained on."""
    if with_test := [r for r in pretext if 'test' in r.tables]:
        last = _epochs(main)[-1]
        y = losses(main, f'loss_{last}', 'test')
        yield 'evaluation set', f'test images, epoch {last}', losses(with_test, 'loss', 'test'), y


def _measured(x: np.ndarray, main: list[Result]) -> Rows:
    """Where the main-task loss is taken, after how long, and averaged over training."""
    epochs = _epochs(main)
    last, best = epochs[-1], epochs[np.mean([r.tables['log']['test'] for r in main], 0).argmax()]
    yield 'evaluation set', f'out-of-fold, epoch {last}', x, losses(main, f'loss_out_{last}')
    for epoch in epochs[:-1]:
        for side, words in SIDES.items():
            y = losses(main, f'loss_{side}_{epoch}')
            yield 'training length', f'{words}, epoch {epoch}', x, y
    if best != last:
        y = losses(main, f'loss_in_{best}')
        yield 'checkpoint', f'in-sample, best on test ({best})', x, y
    yield 'over training', 'mean loss', x, losses(main, 'loss_mean')
    yield 'over training', 'forgetting events', x, losses(main, 'forgotten')
    for name in main[0].tables['images']:
        if name.startswith('error_'):
            words = f'error norm, epoch {name.partition("_")[2]}'
            yield 'over training', words, x, losses(main, name)


def _of_other_runs(pretext: list[Result], main: list[Result], x: np.ndarray) -> Rows:
    """Either side trained otherwise: its augmentation, rate, length, width and start."""
    usual, last = pretext[0], _last(main)
    dataset, task = usual.spec.dataset, usual.spec.task
    for augment, words in (('flip', 'flips only'), ('none', 'no augmentation')):
        if stored := runs('trajectory', dataset=dataset, augment=augment):
            yield 'augmentation', words, x, _last(stored)
    yield from _decayed('rate', '', x, runs('main', dataset=dataset))
    for epochs, stored in _others(usual, 'epochs', 'milestones').items():
        words = f'{epochs} epoch{"s" * (epochs > 1)}'
        yield 'pretext length', words, losses(stored, 'loss'), last
    for width, stored in _others(usual, 'width').items():
        wide = losses(stored, 'loss')
        words = f'rotation {width}, classifier {main[0].spec.width}'
        yield 'width', words, wide, last
        both = runs('main', dataset=dataset, width=width)
        yield from _decayed('width', f'both {width}, ', wide, both)
    if shared := runs('trajectory', dataset=dataset, task=task):
        for epoch in _epochs(shared)[[0, -1]]:
            words = f'from the {task} backbone, epoch {epoch}'
            yield 'shared weights', words, x, losses(shared, f'loss_in_{epoch}')


def _decayed(factor: str, words: str, x: np.ndarray, main: list[Result]) -> Rows:
    """Classifiers whose rate is decayed, where there are any."""
    for side, where in SIDES.items() if main else ():
        level = f'{words}decayed, {main[0].spec.epochs} epochs, {where}'
        yield factor, level, x, losses(main, f'loss_{side}')


def _others(usual: Result, field: str, *goes_along: str) -> dict[Any, list[Result]]:
    """Stored runs by `field`, all else but the seed and what `goes_along` as in `usual`."""
    s = usual.spec
    along = {name: getattr(s, name) for name in ('seed', field, *goes_along)}
    out: dict[Any, list[Result]] = {}
    for r in store.find('pretext', dataset=s.dataset, task=s.task):
        value = getattr(r.spec, field)
        if value != along[field] and replace(r.spec, **along) == s:
            out.setdefault(value, []).append(r)
    return dict(sorted(out.items()))


def _as_reproduced(dataset: str, task: str) -> Rows:
    """The reproduction's own setting, both sides at its width, which the base does not have."""
    main = runs('trajectory', dataset=dataset, width=64, augment='flip')
    if main and (pretext := runs('pretext', dataset=dataset, task=task, width=64)):
        x, last = losses(pretext, 'loss'), _epochs(main)[-1]
        words = 'flips only, width 64'
        yield 'as reproduced', f'{words}, in-sample, epoch {last}', x, _last(main)
        yield 'as reproduced', f'{words}, out-of-fold', x, losses(main, f'loss_out_{last}')
        yield 'as reproduced', f'{words}, mean loss', x, losses(main, 'loss_mean')


def _averaged(x: np.ndarray, main: list[Result]) -> Rows:
    """Mean ranks over the runs of a side: less noise, so a higher ceiling."""
    last = _epochs(main)[-1]
    columns = {f'loss_in_{last}': 'in-sample', f'loss_out_{last}': 'out-of-fold'}
    for column, name in (columns | {'loss_mean': 'mean loss'}).items():
        y = losses(main, column)
        mean = [stats.normalised_ranks(side).mean(0, keepdims=True) for side in (x, y)]
        if len(y) > 1:
            yield 'seeds averaged', f'{len(y)} main runs, {name}', x, mean[1]
        if len(x) > 1:
            words = f'{len(x)} pretext and {len(y)} main runs, {name}'
            yield 'seeds averaged', words, mean[0], mean[1]


def _aggregated(x: np.ndarray, y: np.ndarray, label: np.ndarray) -> Iterator[Level]:
    """Above or below single images: averaging inflates a correlation."""
    readings = defaultdict(list)
    for a, b in product(x, y):
        parts = stats.between_within(a, b, label)
        readings['mean within a class'].append(parts.within_class_rho)
        readings['class means'].append(parts.class_mean_correlation)
        order, ranks = np.argsort(stats.normalised_ranks(a)), stats.normalised_ranks(b)
        for bins in (bins for bins in (100, 50, 10) if bins <= len(order)):
            means = [ranks[part].mean() for part in np.array_split(order, bins)]
            rho = stats.spearman(np.arange(bins), means)
            readings[f'means of {bins} rank bins'].append(rho)
    about = x.shape[1], f'{len(x)} pretext x {len(y)} main', 'no interval'
    for name, values in readings.items():
        e = Estimate(float(np.mean(values)), math.nan, math.nan, *about)
        yield Level('level of analysis', name, e)


def _sampled(x: np.ndarray, y: np.ndarray, points: int = 1000) -> Iterator[Level]:
    """As many images as the papers draw: the interval is the range of such samples."""
    n, rng = x.shape[1], stream(0, 'sensitivity', 'points')
    if n <= points:
        return
    samples = (rng.choice(n, points, replace=False) for _ in range(DRAWS))
    rho = [stats.spearman(x[0, sample], y[0, sample]) for sample in samples]
    low, high = np.quantile(rho, [0.025, 0.975]).tolist()
    about = points, '1 pretext x 1 main', '95% range of samples'
    e = Estimate(float(np.mean(rho)), low, high, *about)
    yield Level('number of images', f'{points:,} of {n:,} images', e)


def _as_text(x: np.ndarray, y: np.ndarray) -> Rows:
    """Losses compared as their decimal text, as the release sorts them."""
    text_x, text_y = (np.stack([text_ranks(run) for run in side]) for side in (x, y))
    yield 'sorted as text', 'pretext side', text_x, y
    yield 'sorted as text', 'both sides', text_x, text_y


def text_ranks(loss: np.ndarray) -> np.ndarray:
    """Place [N] of each loss among all, sorted as text: '9.7e-05' comes after '0.9'."""
    order = np.argsort([str(value) for value in loss.tolist()], kind='stable')
    out = np.empty(len(loss), 'float32')
    out[order] = np.arange(len(loss))
    return out


def reconciles(
    level: Level, base: Level, paper: float, reproduction: float, near: float = 0.05
) -> bool:
    """Whether one change moves rho by as much as the two published values lie apart, within `near`.

    Changes are compared since the base is not the reproduction's own way. A level whose interval is
    wider than twice `near` decides nothing.
    """
    moved, apart = level.rho.value - base.rho.value, paper - reproduction
    wide = level.rho.high - level.rho.low > 2 * near
    return round(abs(moved - apart), 6) <= near and not wide
