"""Comparisons of two strategies by their runs, which may be nested in rotation runs.

The unit of a strategy that orders the pool is the rotation run, whose seeds are averaged; that of
others is the seed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from pt4al.errors import Refused
from pt4al.stats.correlation import Estimate

Groups = Mapping[object, Sequence[float]]


@dataclass(frozen=True)
class Difference:
    """Mean of one strategy minus that of another, with its tests."""

    estimate: Estimate
    p: float  # two-sided Welch test of no difference
    equal_p: float  # two one-sided tests that it lies within the margin (Schuirmann 1987)


def difference(a: Groups, b: Groups, margin: float = 1.0) -> Difference:
    """Compare values of `a` and `b`, each {rotation run: values of its seeds}; unpaired.

    Welch's t interval over units. Where all seeds share one rotation run, seeds are the unit and
    `method` says so. Values and `margin` share a unit.
    """
    from statsmodels.stats.weightstats import ttost_ind  # here: it imports pandas

    left, right = units(a), units(b)
    if min(len(left), len(right)) < 2:
        raise Refused('a difference needs at least two runs on either side')
    gap = float(left.mean() - right.mean())
    if np.ptp(left) == 0 and np.ptp(right) == 0:
        low, high, p, equal = gap, gap, float(gap == 0), float(abs(gap) >= margin)
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


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm-adjusted p values [n], in the order given, over those that are not nan (Holm 1979)."""
    from statsmodels.stats.multitest import multipletests  # here, since most pages do without it

    p = np.asarray(p, float)
    adjusted, tested = np.full(len(p), math.nan), ~np.isnan(p)
    if tested.any():
        adjusted[tested] = multipletests(p[tested], method='holm')[1]
    return adjusted
