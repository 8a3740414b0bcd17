"""Comparisons of active-learning runs paired by seed, and their power.

Shapes: S seeds, L label budgets, M strategies. No function changes its arrays.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from pt4al.errors import Refused
from pt4al.stats.correlation import Estimate, equivalence, mean_interval

ALPHA = 0.05  # of every test
Groups = Mapping[object, Sequence[float]]  # rotation run, or seed -> values of its seeds


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm-adjusted p values [n], in the order given, over those that are not nan (Holm 1979)."""
    # not statsmodels' multipletests, which collects garbage at every call: 0.4 s beside torch
    p = np.asarray(p, float)
    adjusted = np.full(len(p), math.nan)
    tested = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]  # nan sorts last
    steps = p[tested] * np.arange(len(tested), 0, -1)
    adjusted[tested] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


@dataclass(frozen=True)
class Comparison:
    """A strategy against its baseline; p values are nan where no test is possible."""

    strategy: str
    t: Estimate  # mean difference with its t interval
    p_holm: float  # paired t-test, two-sided, adjusted over the strategies of the table
    equivalence_holm: float  # two one-sided tests within the margin, adjusted likewise
    verdict: str  # read from the two p values


def compare(differences: Mapping[str, ArrayLike], margin: float) -> list[Comparison]:
    """Compare strategies with a baseline by their differences to it {strategy: [S]}, one a seed.

    p values are adjusted over the strategies (Holm 1979); without spread, or with one seed, there
    is no test.
    """
    if not differences:
        return []
    t = [mean_interval(gap) for gap in differences.values()]
    tests = [_tests(np.asarray(gap, np.float64), margin) for gap in differences.values()]
    differ, equal = (holm(p) for p in zip(*tests))
    return [
        Comparison(name, mean, p, same, _verdict(mean.value, p, same, margin))
        for name, mean, p, same in zip(differences, t, differ.tolist(), equal.tolist())
    ]


def _tests(gap: np.ndarray, margin: float) -> tuple[float, float]:
    if np.ptp(gap) == 0:
        return math.nan, math.nan
    return float(stats.ttest_1samp(gap, 0).pvalue), equivalence(gap, np.zeros_like(gap), margin)


def _verdict(mean: float, p: float, same: float, margin: float) -> str:
    if math.isnan(p):
        return 'no test'
    verdicts = ['better' if mean > 0 else 'worse'] if p < ALPHA else []
    if same < ALPHA:
        verdicts.append(f'equal within ±{margin:g}')
    return ', yet '.join(verdicts) or 'no difference shown'


def penalties(accuracy: Mapping[str, ArrayLike]) -> pd.DataFrame:
    """Pairwise penalties of strategies {strategy: accuracy [S, L]} over the same seeds and budgets:
    the share of budgets at which the strategy of a row beats that of a column, by a paired t-test
    over seeds, two-sided at 5% (Ash et al. 2020, section 5).

    Nothing is adjusted for the number of tests. Differences that do not vary count for neither.
    """
    runs = np.stack([np.asarray(values, np.float64) for values in accuracy.values()])
    seeds = runs.shape[1]
    if seeds < 2:
        raise Refused(f'pairwise penalties need at least two seeds, not {seeds}')
    gap = runs[:, None] - runs  # [M, M, S, L]
    error = gap.std(axis=2, ddof=1) / math.sqrt(seeds)
    least = stats.t.ppf(1 - ALPHA / 2, seeds - 1) * error
    beats = (gap.mean(axis=2) > least) & (np.ptp(gap, axis=2) > 0)
    return pd.DataFrame(beats.mean(axis=2), index=[*accuracy], columns=[*accuracy])


@dataclass(frozen=True)
class Difference:
    """Mean of one strategy minus that of another, with its tests."""

    estimate: Estimate
    p: float  # two-sided Welch test of no difference
    equal_p: float  # two one-sided tests that it lies within the margin (Schuirmann 1987)


def difference(a: Groups, b: Groups, margin: float = 1.0, paired: bool = False) -> Difference:
    """Compare `a` and `b`, each {rotation run: values of its seeds}, by Welch's t interval over
    `units`; `method` says where all seeds of a side share one rotation run.

    paired  the units of both sides are the same, and share more than their names: a t interval of
            their differences
    """
    from statsmodels.stats.weightstats import ttost_ind  # here: it imports pandas

    left, right = units(a), units(b)
    if min(len(left), len(right)) < 2:
        raise Refused('a difference needs at least two runs on either side')
    gap = float(left.mean() - right.mean())
    if paired:
        return _paired(a, b, margin)
    if np.ptp(left) == 0 and np.ptp(right) == 0:
        low, high, p, equal = gap, gap, math.nan if gap else 1.0, math.nan  # no spread, no test
    else:
        test = stats.ttest_ind(left, right, equal_var=False)
        low, high = test.confidence_interval(0.95)
        p = float(test.pvalue)
        equal = float(ttost_ind(left, right, -margin, margin, usevar='unequal')[0])
    lone = [side for side in (a, b) if len(side) == 1 and len(next(iter(side.values()))) > 1]
    method = '95% Welch interval over runs'
    if lone:
        method += '; one pretext run: others may differ'
    n, seeds = min(len(left), len(right)), f'{_count(a)} against {_count(b)}'
    return Difference(Estimate(gap, float(low), float(high), n, seeds, method), p, equal)


def _paired(a: Groups, b: Groups, margin: float) -> Difference:
    gap = np.array([np.mean(a[unit]) - np.mean(b[unit]) for unit in a])
    p, equal = _tests(gap, margin)
    method = '95% t interval over pairs of runs'
    pairs = f'{len(gap)} pairs of seeds'
    e = mean_interval(gap)
    return Difference(Estimate(e.value, e.low, e.high, len(gap), pairs, method), p, equal)


def units(groups: Groups) -> np.ndarray:
    """The values that count as independent: means by rotation run, or the seeds of a single one."""
    if len(groups) == 1:
        return np.asarray(next(iter(groups.values())), float)
    return np.array([np.mean(values) for values in groups.values()])


def _count(groups: Groups) -> str:
    seeds = sum(len(values) for values in groups.values())
    runs = [run for run in groups if isinstance(run, int)]
    if len(runs) < len(groups):
        return f'{seeds} seeds'
    return f'{len(groups)} rotation run{"s" * (len(groups) > 1)}, {seeds} seeds'
