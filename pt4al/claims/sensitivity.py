"""What moves the rank correlation of claim 1: one factor changed at a time, from the reproduction's
way of measuring.

Shapes: N images, S pretext runs, T classifier runs. Everything is read from stored results: the
classifier's side from `Trajectory` runs, the pretext side from `Pretext` runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from itertools import combinations
from typing import Any

import numpy as np

from pt4al import stats
from pt4al.experiments import runs, store
from pt4al.experiments.store import Result
from pt4al.rng import stream
from pt4al.stats.correlation import Estimate

DRAWS = 200  # of the bootstrap of one level
BASE = 'base'
# factors as pages name them; stored tables hold the short names
WORDS = {
    'where': 'evaluation set',
    'kept epoch': 'checkpoint',
    'points': 'number of images',
    'as text': 'lexicographic sort',
}
Sides = tuple[np.ndarray, np.ndarray]  # pretext losses [S,N], main losses [T,N]
Row = tuple[str, str, Sides]  # factor, level, what it compares
Rows = Iterator[Row]
ESTIMATE = tuple(field.name for field in fields(Estimate))
AGREE = ('pretext_reliability', 'main_reliability')


@dataclass(frozen=True)
class Level:
    """One way to measure the correlation; reliabilities are None where a side has one run."""

    factor: str
    level: str
    rho: Estimate
    pretext_reliability: float | None
    main_reliability: float | None

    @property
    def ceiling(self) -> float | None:
        """The highest rho to expect between two measures that agree no better with themselves than
        these.
        """
        pretext, main = self.pretext_reliability, self.main_reliability
        if pretext is None or main is None or min(pretext, main) <= 0:
            return None
        return stats.ceiling(pretext, main)

    @property
    def corrected(self) -> Estimate | None:
        """rho without the noise of single runs (Spearman 1904), both agreements taken as exact;
        None without a ceiling.
        """
        top = self.ceiling
        return (
            None
            if top is None
            else replace(
                self.rho,
                **{name: getattr(self.rho, name) / top for name in ('value', 'low', 'high')},
            )
        )


def levels(dataset: str, task: str = 'rotation') -> list[Level]:
    """Every level that the stored results can tell, the base first; empty where no trajectory or
    pretext run is stored.
    """
    pretext, main = runs('pretext', dataset=dataset, task=task), runs('trajectory', dataset=dataset)
    if not pretext or not main:
        return []
    x = _of(pretext, 'loss')
    return of_losses(
        x,
        main,
        [
            *_on_test(pretext, main),
            *_trained(dataset, x),
            *_pretext_length(pretext[0], main),
            *_wider(pretext[0], main),
            *_started(dataset, task, x),
        ],
    )


def of_losses(x: np.ndarray, main: list[Result], more: Iterable[Row] = ()) -> list[Level]:
    """The levels of any pretext losses [S,N] and trajectories [T] of the same images, with `more`
    of them in between.
    """
    base = x, _of(main, f'loss_in_{main[0].tables["log"]["epoch"][-1]}')
    pairs = [
        (BASE, f'in-sample, epoch {main[0].tables["log"]["epoch"][-1]}, constant rate', base),
        *_measured(x, main),
        *more,
        *_averaged(x, main),
    ]
    measured = [_level(factor, level, *sides) for factor, level, sides in pairs]
    return [
        *measured,
        *_aggregated(*base, main[0].tables['images']['label']),
        *_sampled(*base),
        *_as_text(*base),
    ]


def by_epoch(dataset: str, task: str = 'rotation') -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The logged epochs [E], and by name what changes over them: rho of each classifier run (mean
    over pretext runs) and
    the agreement of each pair of them, [runs or pairs, E]; empty where runs of a side are missing.
    """
    pretext, main = runs('pretext', dataset=dataset, task=task), runs('trajectory', dataset=dataset)
    if not pretext or not main:
        return np.array([], int), {}
    epochs, x, out = main[0].tables['log']['epoch'], _of(pretext, 'loss'), {}
    for side, words in (('in', 'in-sample'), ('out', 'out-of-fold')):
        losses = [_of(main, f'loss_{side}_{epoch}') for epoch in epochs]
        out[f'rho, {words}'] = np.array(
            [[np.mean([stats.spearman(a, b) for a in x]) for b in y] for y in losses]
        ).T
        if len(main) > 1:
            out[f'agreement, {words}'] = np.array(
                [[stats.spearman(*pair) for pair in combinations(y, 2)] for y in losses]
            ).T
    return epochs, out


def published() -> list[Level]:
    """The levels of the three published rotation runs, from their stored comparison with the most
    of our trajectories.
    """
    held = max(
        store.find('against', of='trajectory'), key=lambda r: len(r.spec['results']), default=None
    )
    return from_columns(held.tables['levels']) if held else []


def columns(several: list[Level]) -> dict[str, np.ndarray]:
    """Levels as the columns of a stored table; `from_columns` reads them back."""
    rows = [
        {
            'factor': one.factor,
            'level': one.level,
            **{name: getattr(one.rho, name) for name in ESTIMATE},
            **{
                name: math.nan if (value := getattr(one, name)) is None else value for name in AGREE
            },
        }
        for one in several
    ]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def from_columns(table: Mapping[str, np.ndarray]) -> list[Level]:
    """The levels that `columns` made a table of."""
    rows = [
        dict(zip(table, values)) for values in zip(*(column.tolist() for column in table.values()))
    ]
    return [
        Level(
            row['factor'],
            row['level'],
            Estimate(*(row[name] for name in ESTIMATE)),
            *(None if math.isnan(row[name]) else row[name] for name in AGREE),
        )
        for row in rows
    ]


def _of(results: list[Result], column: str, table: str = 'images') -> np.ndarray:
    return np.stack([r.tables[table][column].astype('float32') for r in results])


def _level(factor: str, level: str, x: np.ndarray, y: np.ndarray) -> Level:
    return Level(
        factor,
        level,
        stats.rank_correlation(x, y, draws=DRAWS),
        *(stats.reliability(side) if len(side) > 1 else None for side in (x, y)),
    )


def _on_test(pretext: list[Result], main: list[Result]) -> Rows:
    """Both losses on images that neither side trained on."""
    last, judged = main[0].tables['log']['epoch'][-1], [r for r in pretext if 'test' in r.tables]
    if judged:
        yield (
            'where',
            f'test images, epoch {last}',
            (_of(judged, 'loss', 'test'), _of(main, f'loss_{last}', 'test')),
        )


def _measured(x: np.ndarray, main: list[Result]) -> Rows:
    """Where the main loss is taken, after how long, and averaged over training."""
    log = main[0].tables['log']
    last, best = (
        log['epoch'][-1],
        log['epoch'][np.mean([r.tables['log']['test'] for r in main], 0).argmax()],
    )
    yield 'where', f'out-of-fold, epoch {last}', (x, _of(main, f'loss_out_{last}'))
    for epoch in log['epoch'][:-1]:
        for side, words in (('in', 'in-sample'), ('out', 'out-of-fold')):
            yield (
                'training length',
                f'{words}, epoch {epoch}',
                (x, _of(main, f'loss_{side}_{epoch}')),
            )
    if best != last:
        yield 'kept epoch', f'in-sample, best on test ({best})', (x, _of(main, f'loss_in_{best}'))
    yield 'over training', 'mean loss', (x, _of(main, 'loss_mean'))
    yield 'over training', 'forgetting events', (x, _of(main, 'forgotten'))
    for name in main[0].tables['images']:
        if name.startswith('error_'):
            yield (
                'over training',
                f'error norm, epoch {name.partition("_")[2]}',
                (x, _of(main, name)),
            )


def _trained(dataset: str, x: np.ndarray) -> Rows:
    """How the classifier is trained."""
    for augment, words in (('flip', 'flips only'), ('none', 'no augmentation')):
        if stored := runs('trajectory', dataset=dataset, augment=augment):
            yield (
                'augmentation',
                words,
                (x, _of(stored, f'loss_in_{stored[0].tables["log"]["epoch"][-1]}')),
            )
    if decayed := runs('main', dataset=dataset):
        spec = decayed[0].spec
        for side, words in (('in', 'in-sample'), ('out', 'out-of-fold')):
            yield (
                'rate',
                f'decayed, {spec["epochs"]} epochs, {words}',
                (x, _of(decayed, f'loss_{side}')),
            )


def _others(usual: Result, field: str, *goes_along: str) -> dict[Any, list[Result]]:
    """Stored runs that differ from the usual one in `field`, in what goes along with it and in seed
    alone, by its value.
    """
    fixed = usual.spec
    out: dict[Any, list[Result]] = {}
    for r in store.find('pretext', dataset=fixed['dataset'], task=fixed['task']):
        if r.spec[field] != fixed[field] and all(
            r.spec[name] == fixed[name] for name in fixed.keys() - {'seed', field, *goes_along}
        ):
            out.setdefault(r.spec[field], []).append(r)
    return dict(sorted(out.items()))


def _pretext_length(usual: Result, main: list[Result]) -> Rows:
    y = _of(main, f'loss_in_{main[0].tables["log"]["epoch"][-1]}')
    for epochs, stored in _others(usual, 'epochs', 'milestones').items():
        yield 'pretext length', f'{epochs} epoch{"s" * (epochs > 1)}', (_of(stored, 'loss'), y)


def _wider(usual: Result, main: list[Result]) -> Rows:
    """Networks of another width: the pretext side's, then both."""
    y = _of(main, f'loss_in_{main[0].tables["log"]["epoch"][-1]}')
    for width, stored in _others(usual, 'width').items():
        yield (
            'width',
            f'rotation {width}, classifier {main[0].spec["width"]}',
            (_of(stored, 'loss'), y),
        )
        if decayed := runs('main', dataset=usual.spec['dataset'], width=width):
            for side, words in (('in', 'in-sample'), ('out', 'out-of-fold')):
                yield (
                    'width',
                    f'both {width}, decayed, {decayed[0].spec["epochs"]} epochs, {words}',
                    (_of(stored, 'loss'), _of(decayed, f'loss_{side}')),
                )


def _started(dataset: str, task: str, x: np.ndarray) -> Rows:
    if shared := runs('trajectory', dataset=dataset, task=task):
        log = shared[0].tables['log']['epoch']
        for epoch in (log[0], log[-1]):
            yield (
                'shared weights',
                f'from the {task} trunk, epoch {epoch}',
                (x, _of(shared, f'loss_in_{epoch}')),
            )


def _averaged(x: np.ndarray, main: list[Result]) -> Rows:
    """Mean ranks over the runs of a side: less noise, so a higher ceiling."""
    last = main[0].tables['log']['epoch'][-1]
    for name, column in (
        ('in-sample', f'loss_in_{last}'),
        ('out-of-fold', f'loss_out_{last}'),
        ('mean loss', 'loss_mean'),
    ):
        y = _of(main, column)
        mean = [stats.normalised_ranks(side).mean(0, keepdims=True) for side in (x, y)]
        if len(y) > 1:
            yield 'seeds averaged', f'{len(y)} main runs, {name}', (x, mean[1])
        if len(x) > 1:
            yield (
                'seeds averaged',
                f'{len(x)} pretext and {len(y)} main runs, {name}',
                (mean[0], mean[1]),
            )


def _aggregated(x: np.ndarray, y: np.ndarray, label: np.ndarray) -> list[Level]:
    """Above or below single images: averaging inflates a correlation."""
    parts = [stats.between_within(a, b, label) for a in x for b in y]
    ranks = [(stats.normalised_ranks(a), stats.normalised_ranks(b)) for a in x for b in y]
    readings = [
        ('mean within a class', np.mean([p.within_class_rho for p in parts])),
        ('class means', np.mean([p.class_mean_correlation for p in parts])),
    ]
    for bins in (b for b in (100, 50, 10) if b <= x.shape[1]):
        readings.append(
            (f'means of {bins} rank bins', np.mean([_of_bins(a, b, bins) for a, b in ranks]))
        )
    pairs = f'{len(x)} pretext x {len(y)} main'
    return [
        Level(
            'level of analysis',
            name,
            Estimate(float(value), math.nan, math.nan, x.shape[1], pairs, 'no interval'),
            None,
            None,
        )
        for name, value in readings
    ]


def _of_bins(a: np.ndarray, b: np.ndarray, bins: int) -> float:
    means = [b[part].mean() for part in np.array_split(np.argsort(a), bins)]
    return stats.spearman(np.arange(bins), np.array(means))


def _sampled(x: np.ndarray, y: np.ndarray, points: int = 1000) -> list[Level]:
    """As many images as the papers draw: the interval is the range of such samples."""
    n = x.shape[1]
    if n <= points:
        return []
    rng = stream(0, 'sensitivity', 'points')
    rho = [
        stats.spearman(x[0, sample], y[0, sample])
        for sample in (rng.choice(n, points, replace=False) for _ in range(DRAWS))
    ]
    low, high = np.quantile(rho, [0.025, 0.975])
    return [
        Level(
            'points',
            f'{points:,} of {n:,} images',
            Estimate(
                float(np.mean(rho)),
                float(low),
                float(high),
                points,
                '1 pretext x 1 main',
                '95% range of samples',
            ),
            None,
            None,
        )
    ]


def _as_text(x: np.ndarray, y: np.ndarray) -> list[Level]:
    """Losses compared as their decimal text, as the release sorts them."""
    text_x, text_y = np.stack(list(map(text_ranks, x))), np.stack(list(map(text_ranks, y)))
    return [
        _level('as text', 'pretext side', text_x, y),
        _level('as text', 'both sides', text_x, text_y),
    ]


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

    Changes are compared, not values: the base need not be the reproduction's own way, and is not
    (see the chapter).  A level whose interval is wider than twice `near` decides nothing.
    """
    moved, apart = level.rho.value - base.rho.value, paper - reproduction
    wide = level.rho.high - level.rho.low > 2 * near
    return round(abs(moved - apart), 6) <= near and not wide
