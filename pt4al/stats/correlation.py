"""Rank correlation with intervals, by class and between runs, class balance, means over seeds.

Shapes: N images, C classes, S pretext runs, T main runs. No function changes its arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from pt4al.errors import Refused
from pt4al.stats.remembered import remembered

LEVEL_END = (1 + 0.95) / 2  # quantile at the upper end of every interval


@dataclass(frozen=True)
class Estimate:
    """A value with its interval and what the interval is about."""

    value: float
    low: float  # nan where no interval exists
    high: float
    n: int  # images for a rank correlation, seeds for a mean
    seeds: str  # e.g. '1 pretext x 1 main'
    method: str


@dataclass(frozen=True)
class BetweenWithin:
    """A pooled Spearman correlation split by class: `between + within == total`, all in rho."""

    total: float
    between: float
    within: float
    within_class_rho: float  # unweighted mean over classes, re-ranked inside each class
    class_mean_correlation: float  # Pearson, of the C class mean ranks
    eta_squared: float  # share of the pretext-rank variance that class explains
    classes: int
    n: int

    @property
    def between_share(self) -> float:
        """Between-class part of the total; outside 0 to 1 when the parts differ in sign."""
        return self.between / self.total if self.total else math.nan


# --- rank correlation ---


def normalised_ranks(values: ArrayLike) -> np.ndarray:
    """Average ranks divided by N: values [..., N] to (0, 1], largest highest."""
    values = _numbers(values, 'values')
    return stats.rankdata(values, axis=-1) / values.shape[-1]


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's rho of x [N] and y [N], ties at average rank."""
    return float(stats.spearmanr(*_single_pair(x, y)).statistic)


@remembered
def rank_correlation(
    pretext: ArrayLike,
    main: ArrayLike,
    draws: int = 200,
    seed: int = 0,
    labels: ArrayLike | None = None,
) -> Estimate:
    """Mean Spearman of all pairs of pretext [S, N] and main [T, N] losses, with its interval.

    The interval covers the spread of runs on either side, if there are two, and of images,
    resampled; with `labels` [N] classes are resampled, as is due where few hold most images.
    """
    pretext, main = _pair(pretext, main)
    matrix = partial(_spearman_matrix, _tie_groups(pretext), _tie_groups(main))
    return _bootstrapped(matrix, pretext.shape[1], draws, seed, labels)


def few_classes(labels: ArrayLike) -> bool:
    """Whether the effective number of classes, 1 / sum of squared shares, is below half of all."""
    share = np.unique(np.asarray(labels), return_counts=True)[1] / np.size(labels)
    return bool(1 / np.sum(share**2) < len(share) / 2)


@remembered
def partial_rank_correlation(
    pretext: ArrayLike, main: ArrayLike, confounders: ArrayLike, draws: int = 200, seed: int = 0
) -> Estimate:
    """`rank_correlation` of what confounders [N, k] leave unexplained.

    The ranks of both sides are regressed on those of the confounders, and the residuals correlated
    (partial Spearman). Each draw ranks and regresses anew.
    """
    pretext, main = _pair(pretext, main)
    n, columns = pretext.shape[1], _numbers(confounders, 'confounders')
    if columns.shape[:1] != (n,) or columns.ndim > 2:
        raise Refused(f'confounders must have shape [{n}, k], not {columns.shape}')
    groups = _tie_groups(np.concatenate([pretext, main, columns.reshape(n, -1).T]))
    matrix = partial(_partial_matrix, groups, len(pretext), len(main))
    if np.isnan(matrix(np.ones(n))).any():
        raise Refused('the confounders explain every rank of one side: leave one out')
    return _bootstrapped(matrix, n, draws, seed)


def by_class(
    pretext: ArrayLike, main: ArrayLike, labels: ArrayLike, names: Sequence[str], draws: int = 200
) -> list[tuple[str, int, Estimate]]:
    """`rank_correlation` inside each class: (name, images, estimate); labels [N] index names."""
    pretext, main = _pair(pretext, main)
    members = _members(labels, pretext.shape[1], names)
    return [
        (name, len(rows), rank_correlation(pretext[:, rows], main[:, rows], draws))
        for name, rows in zip(names, members)
    ]


def between_within(pretext: ArrayLike, main: ArrayLike, labels: ArrayLike) -> BetweenWithin:
    """Split Spearman's rho of pretext [N] and main [N] into that of class means and that about
    them; it needs two classes of three images each.
    """
    pretext, main = _single_pair(pretext, main)
    n = len(pretext)
    classes, codes = np.unique(np.asarray(labels), return_inverse=True)
    if len(classes) < 2:
        raise Refused('one class only: a between-class share needs at least two')
    members = _members(codes, n, classes.tolist())
    scores = np.stack([stats.zscore(stats.rankdata(side)) for side in (pretext, main)])
    means = np.stack([scores[:, rows].mean(axis=1) for rows in members], axis=1)
    if np.ptp(means, axis=1).min() < 1e-12:  # rounding of equal means
        raise Refused('all class means are equal: their correlation is not defined')
    centres = means[:, codes]
    between, within = np.mean(centres[0] * centres[1]), np.mean(np.prod(scores - centres, axis=0))
    inside = np.mean([spearman(pretext[rows], main[rows]) for rows in members])
    return BetweenWithin(
        float(between + within),
        float(between),
        float(within),
        float(inside),
        float(np.corrcoef(means)[0, 1]),
        float(np.mean(centres[0] ** 2)),
        len(classes),
        n,
    )


def _bootstrapped(
    matrix: Callable[[np.ndarray], np.ndarray],
    n: int,
    draws: int,
    seed: int,
    labels: ArrayLike | None = None,
) -> Estimate:
    """Mean of matrix(weights [n]) [S, T] at unit weights, with a t interval on Fisher's z.

    Three parts of the variance: runs on either side, from the spread of their means (none where a
    side has one run), and images, or classes of `labels`, resampled. Degrees of freedom after
    Satterthwaite (1946).
    """
    if draws < 2:
        raise Refused(f'draws must be at least 2, not {draws}')
    codes = np.unique(np.arange(n) if labels is None else labels, return_inverse=True)[1]
    things, rng = int(codes.max()) + 1, np.random.default_rng(seed)
    drawn = (rng.integers(things, size=things) for _ in range(draws))
    times = (np.bincount(draw, minlength=things)[codes] for draw in drawn)
    resampled = _fisher([np.mean(matrix(weights)) for weights in times])
    resampled = resampled[np.isfinite(resampled)]
    spread = float(resampled.var(ddof=1)) if len(resampled) > 1 else math.nan
    rho = matrix(np.ones(n))
    z = _fisher(rho)
    parts = [(spread, math.inf)]
    for side in (z.mean(axis=1), z.mean(axis=0)):
        if len(side) > 1:
            parts.append((float(side.var(ddof=1)) / len(side), len(side) - 1))
    variance = sum(part for part, _ in parts)
    share = sum(part**2 / freedom for part, freedom in parts)
    freedom = variance**2 / share if share else math.inf
    half = float(stats.t.ppf(LEVEL_END, min(freedom, 1e9))) * math.sqrt(variance)
    middle = float(_fisher(rho.mean()))
    low, high = math.tanh(middle - half), math.tanh(middle + half)
    s, t = rho.shape
    method = f'95% t interval, {_sources(s, t, "images" if labels is None else "classes")}'
    return Estimate(float(rho.mean()), low, high, n, f'{s} pretext x {t} main', method)


def _fisher(rho: ArrayLike) -> np.ndarray:
    """Fisher's z of correlations; perfect ones are held just inside, so that z is finite."""
    return np.arctanh(np.clip(rho, -1 + 1e-12, 1 - 1e-12))


def _sources(s: int, t: int, units: str) -> str:
    """What an interval covers, in words."""
    if s == t == 1:
        return f'{units} only: one run a side'
    if 1 in (s, t):
        many, one, count = ('main', 'pretext', t) if s == 1 else ('pretext', 'main', s)
        return f'{units} and {count} {many} runs; one {one} run: others may differ'
    return f'{units}, {s} pretext runs and {t} main runs'


def _tie_groups(runs: np.ndarray) -> np.ndarray:
    return np.stack([np.unique(run, return_inverse=True)[1] for run in runs])


def _spearman_matrix(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Spearman [S, T] of tie groups x [S, N] and y [T, N] where image i occurs weights[i] times."""
    x, y = (_centred_ranks(side, weights) for side in (x, y))
    # whole numbers below 2**53 for pools up to 200,000 images: no order of summing changes a bit
    times = x * weights
    spread = np.outer(np.einsum('sn,sn->s', times, x), np.einsum('tn,tn,n->t', y, y, weights))
    with np.errstate(invalid='ignore'):
        # einsum, not @: for a few rows threads of a matrix product are only waited for
        return np.einsum('sn,tn->st', times, y) / np.sqrt(spread)


def _partial_matrix(groups: np.ndarray, s: int, t: int, weights: np.ndarray) -> np.ndarray:
    """Partial Spearman [S, T] of tie groups [S + T + k, N]; nan where no variance is left."""
    ranks = _centred_ranks(groups, weights)
    ranks /= np.sqrt(np.maximum(np.einsum('in,in,n->i', ranks, ranks, weights), 1))[:, None]
    # confounders are regressed out by a Schur complement
    gram, known = np.einsum('in,jn,n->ij', ranks, ranks, weights), slice(s + t, None)
    # collinear columns count once
    inverse = np.linalg.pinv(gram[known, known], rcond=1e-9, hermitian=True)
    left = (gram - gram[:, known] @ inverse @ gram[known])[: s + t, : s + t]
    spread = np.where(left.diagonal() > 1e-9, left.diagonal(), math.nan)
    return left[:s, s:] / np.sqrt(np.outer(spread[:s], spread[s:]))


def _centred_ranks(groups: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mid-ranks [S, N] of tie groups minus their mean, doubled so that they stay whole numbers."""
    out = np.empty(groups.shape)
    for run, ranks in zip(groups, out):
        size = np.bincount(run, weights).astype(np.int64)  # whole numbers sum eight times as fast
        middle = 2 * np.cumsum(size) - size - int(weights.sum())
        np.take(middle.astype(float), run, out=ranks, mode='clip')  # nothing is clipped
    return out


# --- reliability (classical test theory, applied to ranks) ---


def reliability(losses: ArrayLike) -> float:
    """Mean Spearman over all pairs of the R >= 2 repeats or seeds in losses [R, N].

    For an interval, give `rank_correlation` two disjoint halves of the runs.
    """
    groups = _tie_groups(_runs(losses, 'losses'))
    if len(groups) < 2:
        raise Refused('one run only: reliability needs at least two')
    rho = _spearman_matrix(groups, groups, np.ones(groups.shape[1]))
    return float(rho[np.triu_indices(len(groups), 1)].mean())


def ceiling(r_xx: float, r_yy: float) -> float:
    """Largest correlation to expect between two measures of these reliabilities (Spearman 1904)."""
    if not (0 < r_xx <= 1 and 0 < r_yy <= 1):
        raise Refused(f'reliabilities must lie in (0, 1], not {r_xx:g} and {r_yy:g}: measure again')
    return math.sqrt(r_xx * r_yy)


def disattenuated(rho: float, r_xx: float, r_yy: float) -> float:
    """rho corrected for unreliability (Spearman 1904); above 1 they cannot give it."""
    return rho / ceiling(r_xx, r_yy)


# --- class balance ---


def normalised_entropy(labels: ArrayLike, classes: int) -> float:
    """Entropy of the class frequencies of labels [n], divided by ln(classes): 1 is balanced."""
    return float(_entropy(_class_counts(labels, classes)))


def random_entropy_interval(
    pool_labels: ArrayLike, k: int, draws: int = 10_000
) -> tuple[float, float]:
    """2.5% and 97.5% quantiles of `normalised_entropy` of k labels drawn without replacement.

    The pool is taken to hold its last class, so that classes = largest label + 1.
    """
    pool = np.asarray(pool_labels)
    if not 1 <= k <= pool.size:
        raise Refused(f'cannot draw {k} of {pool.size} labels: choose k from 1 to {pool.size}')
    counts = _class_counts(pool, int(pool.max()) + 1)
    sample = np.random.default_rng(0).multivariate_hypergeometric(
        counts, k, size=draws, method='marginals'
    )
    low, high = np.quantile(_entropy(sample), [0.025, 0.975])
    return float(low), float(high)


def class_divergence(
    labels: ArrayLike, classes: int, pool_labels: ArrayLike | None = None
) -> float:
    """Kullback-Leibler divergence, in nats, of labels [n] from the pool's, or uniform, classes."""
    picked = _class_counts(labels, classes)
    pool = np.ones(classes) if pool_labels is None else _class_counts(pool_labels, classes)
    if picked[pool == 0].any():
        raise Refused('a labelled class is not in the pool: give the labels of all images')
    return float(stats.entropy(picked, pool))


def _entropy(counts: np.ndarray) -> np.ndarray:
    return stats.entropy(counts, axis=-1) / math.log(counts.shape[-1])


def _class_counts(labels: ArrayLike, classes: int) -> np.ndarray:
    labels = np.asarray(labels)
    if classes < 2:
        raise Refused(f'label entropy needs at least two classes, not {classes}')
    if labels.ndim != 1 or not labels.size or labels.dtype.kind not in 'iu':
        raise Refused('labels must be a non-empty list of whole numbers')
    if labels.min() < 0 or labels.max() >= classes:
        raise Refused(f'labels must lie in 0..{classes - 1}, found {labels.min()}..{labels.max()}')
    return np.bincount(labels, minlength=classes)


# --- seeds: the unit of every accuracy comparison ---


def mean_interval(values: ArrayLike) -> Estimate:
    """Mean of values [S], one a seed, with a t interval; both ends are nan for one seed."""
    values = _numbers(values, 'values')
    if values.ndim != 1 or not values.size:
        raise Refused('values must be a non-empty list, one number a seed')
    n, mean = len(values), float(values.mean())
    if n == 1:
        return Estimate(mean, math.nan, math.nan, 1, '1 seed', 'one seed: no interval')
    half = float(stats.t.ppf(LEVEL_END, n - 1) * stats.sem(values))
    return Estimate(mean, mean - half, mean + half, n, f'{n} seeds', '95% t interval over seeds')


def paired_difference(a: ArrayLike, b: ArrayLike) -> Estimate:
    """Mean of a - b over seeds, a [S] and b [S] in one order of seeds, with a paired t interval."""
    estimate = mean_interval(_differences(a, b))
    return replace(estimate, method=estimate.method.replace('over seeds', 'over paired seeds'))


def equivalence(a: ArrayLike, b: ArrayLike, margin: float) -> float:
    """p value of two one-sided paired tests of mean(a - b) inside +-margin (Schuirmann 1987)."""
    from statsmodels.stats.weightstats import ttost_paired  # here: it imports pandas

    gap = _differences(a, b)
    if margin <= 0:
        raise Refused(f'the equivalence margin must be positive, not {margin:g}')
    if len(gap) < 2 or np.ptp(gap) == 0:
        raise Refused('an equivalence test needs at least two seeds whose differences vary')
    return float(ttost_paired(gap, np.zeros_like(gap), -margin, margin)[0])


def aubc(accuracy: ArrayLike, budgets: ArrayLike) -> float:
    """Area under the curve of accuracy [cycles] by trapezoid, budgets scaled to [0, 1]."""
    accuracy, budgets = _numbers(accuracy, 'accuracy'), _numbers(budgets, 'budgets')
    if accuracy.shape != budgets.shape or accuracy.ndim != 1 or len(budgets) < 2:
        raise Refused(
            f'need one accuracy a budget and at least two: got {accuracy.size} and {budgets.size}'
        )
    if (np.diff(budgets) <= 0).any():
        raise Refused('budgets must increase from cycle to cycle')
    return float(np.trapezoid(accuracy, budgets) / (budgets[-1] - budgets[0]))


# --- input checks ---


def _numbers(values: ArrayLike, what: str) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if missing := int(np.isnan(values).sum()):
        raise Refused(f'{missing} of {values.size} {what} are NaN: drop or recompute them')
    return values


def _runs(values: ArrayLike, what: str) -> np.ndarray:
    runs = np.atleast_2d(_numbers(values, what))
    if runs.ndim != 2 or runs.shape[1] < 3 or not len(runs):
        raise Refused(f'{what} of shape {runs.shape}: give [runs, images], at least 3 images')
    for number, run in enumerate(runs):
        if run.min() == run.max():
            raise Refused(f'{what}, run {number}: all losses are equal, they have no order')
    return runs


def _pair(pretext: ArrayLike, main: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    x, y = _runs(pretext, 'pretext'), _runs(main, 'main')
    if x.shape[1] != y.shape[1]:
        raise Refused(f'lengths differ: {x.shape[1]} pretext, {y.shape[1]} main images')
    return x, y


def _single_pair(pretext: ArrayLike, main: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    x, y = _pair(pretext, main)
    if len(x) * len(y) > 1:
        raise Refused(f'one run a side needed, got {len(x)} and {len(y)}: use rank_correlation')
    return x[0], y[0]


def _members(labels: ArrayLike, n: int, names: Sequence[object]) -> list[np.ndarray]:
    labels = np.asarray(labels)
    if labels.shape != (n,):
        raise Refused(f'lengths differ: {n} images, {labels.size} labels')
    _class_counts(labels, max(len(names), 2))
    members = [np.flatnonzero(labels == code) for code in range(len(names))]
    for name, rows in zip(names, members):
        if len(rows) < 3:
            raise Refused(f'class {name!r} has {len(rows)} images: a correlation inside it needs 3')
    return members


def _differences(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    a, b = _numbers(a, 'values'), _numbers(b, 'values')
    if a.shape != b.shape or a.ndim != 1:
        raise Refused(f'lengths differ: {a.size} seeds against {b.size}; pair them seed by seed')
    return a - b
