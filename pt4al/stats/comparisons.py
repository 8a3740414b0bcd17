"""Comparisons of active-learning runs paired by seed, and their power.

Shapes: S seeds, L label budgets, M strategies. No function changes its arrays.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from pt4al.errors import Refused
from pt4al.rng import stream
from pt4al.stats.correlation import Estimate, equivalence, mean_interval
from pt4al.stats.runs import holm

FEWEST_FOR_BCA = 5  # seeds; four have 35 distinct resamples, too few for tails of 2.5%
DRAWS = 9_999  # of that interval
ALPHA = 0.05  # of every test


# --- paired differences to a baseline ---


@dataclass(frozen=True)
class Comparison:
    """A strategy against its baseline; p values are nan where no test is possible."""

    strategy: str
    t: Estimate  # mean difference with its t interval
    bca: Estimate  # the same mean with its bootstrap interval
    p: float  # paired t-test, two-sided
    p_holm: float  # adjusted over the strategies of the table
    equivalence_p: float  # two one-sided tests within the margin
    equivalence_holm: float  # adjusted over the strategies of the table
    verdict: str  # read from the two adjusted p values


def bca_interval(values: ArrayLike) -> Estimate:
    """Mean of values [S], one a seed, with a 95% BCa bootstrap interval (Efron 1987).

    Nan below five seeds and where all values are equal. With few seeds it is too narrow (about 84%
    at five, 94% at thirty): read it for skewness, beside the t interval.
    """
    plain, values = mean_interval(values), np.asarray(values, np.float64)
    low = high = math.nan
    if plain.n < FEWEST_FOR_BCA:
        method = f'{plain.seeds}: no BCa interval below {FEWEST_FOR_BCA}'
    elif np.ptp(values) == 0:
        method = 'all values equal: no BCa interval'
    else:
        method = f'95% BCa bootstrap over seeds, {DRAWS:,} draws'
        low, high = stats.bootstrap(
            (values,), np.mean, n_resamples=DRAWS, method='BCa', random_state=stream(0, 'bca')
        ).confidence_interval
    return replace(plain, low=float(low), high=float(high), method=method)


def compare(differences: Mapping[str, ArrayLike], margin: float) -> list[Comparison]:
    """Compare strategies with a baseline by their differences to it {strategy: [S]}, one a seed.

    Tests of difference (t) and of equivalence within `margin` (Schuirmann 1987) are adjusted over
    the strategies (Holm 1979); without spread, or with one seed, there is none.
    """
    if not differences:
        raise Refused('no strategy to compare: give the differences to the baseline by strategy')
    if margin <= 0:
        raise Refused(f'the equivalence margin must be positive, not {margin:g}')
    t = [mean_interval(gap) for gap in differences.values()]
    tests = np.array([_tests(np.asarray(gap, np.float64), margin) for gap in differences.values()])
    rows = np.stack([column for test in tests.T for column in (test, holm(test))], 1).tolist()
    return [
        Comparison(name, mean, bca_interval(gap), p, adjusted, same, equal, verdict)
        for (name, gap), mean, (p, adjusted, same, equal) in zip(differences.items(), t, rows)
        if (verdict := _verdict(mean.value, adjusted, equal, margin))
    ]


def _tests(gap: np.ndarray, margin: float) -> tuple[float, float]:
    if np.ptp(gap) == 0:
        return math.nan, math.nan
    return float(stats.ttest_1samp(gap, 0).pvalue), equivalence(gap, np.zeros_like(gap), margin)


def _verdict(mean: float, p: float, same: float, margin: float) -> str:
    if math.isnan(p):
        return 'no test'
    verdicts = ['better' if mean > 0 else 'worse'] * bool(p < ALPHA) + [
        f'equal within ±{margin:g}'
    ] * bool(same < ALPHA)
    return ', yet '.join(verdicts) or 'no difference shown'


# --- pairwise penalties ---


def penalties(accuracy: Mapping[str, ArrayLike]) -> pd.DataFrame:
    """Pairwise penalties of strategies {strategy: accuracy [S, L]} over the same seeds and budgets:
    the share of budgets at which the strategy of a row beats that of a column.

    At each of the L budgets i beats j if the paired t-test over seeds is significant, two-sided at
    5%, and i is more accurate; that adds 1/L (Ash et al. 2020, section 5, whose L are doubling
    budgets before the curve is flat). A picture of many tests, not itself a test: nothing is
    adjusted for their number. Differences that do not vary count for neither.
    """
    if len({np.shape(values) for values in accuracy.values()}) != 1 or len(accuracy) < 2:
        raise Refused('penalties need two strategies or more, accuracy [seeds, budgets] alike')
    runs = np.stack([np.asarray(values, np.float64) for values in accuracy.values()])
    if runs.ndim != 3 or runs.shape[1] < 2 or not runs.shape[2] or not np.isfinite(runs).all():
        raise Refused(f'accuracy: finite [seeds, budgets], two seeds or more, not {runs.shape[1:]}')
    # [M, M, S, L]
    gap, seeds = runs[:, None] - runs, runs.shape[1]
    error = gap.std(axis=2, ddof=1) / math.sqrt(seeds)
    beats = (gap.mean(axis=2) > stats.t.ppf(1 - ALPHA / 2, seeds - 1) * error) & (
        np.ptp(gap, axis=2) > 0
    )
    return pd.DataFrame(beats.mean(axis=2), index=[*accuracy], columns=[*accuracy])


# --- power ---


def power(seeds: ArrayLike, sd: float, delta: float) -> np.ndarray:
    """Chance that a two-sided paired t-test over each of seeds [K] shows a true mean difference
    delta, and its sign; sd is the standard deviation of the paired differences, in delta's unit.
    """
    seeds = np.asarray(seeds)
    if not seeds.size or seeds.min() < 2:
        raise Refused('a paired t-test needs at least two seeds')
    test, effect = _paired_test(sd, delta)
    return test.power(effect, seeds, ALPHA / 2, alternative='larger')


def seeds_needed(sd: float, delta: float) -> int:
    """Fewest seeds whose `power` to see a mean difference delta reaches 0.8."""
    target, (test, effect) = 0.8, _paired_test(sd, delta)
    if power(2, sd, delta) >= target:  # the solver has no answer below two
        return 2
    return math.ceil(test.solve_power(effect, None, ALPHA / 2, target, alternative='larger'))


def _paired_test(sd: float, delta: float) -> tuple[Any, float]:
    from statsmodels.stats.power import TTestPower  # here, since most pages do without it

    if not (sd > 0 and delta > 0):
        raise Refused(f'sd and difference must be positive, not {sd:g} and {delta:g}')
    return TTestPower(), delta / sd
