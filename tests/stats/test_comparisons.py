"""Oracles: the formulas as slow loops, scipy and statsmodels on each pair, and sample sizes known
from R.
"""

from __future__ import annotations

import chapters
import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from pt4al import stats
from pt4al.errors import Refused
from pt4al.stats import comparisons

# --- paired differences to a baseline ---


@pytest.fixture(scope='module')
def gaps() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        'pt4al': rng.normal(2, 0.5, 6),
        'entropy': rng.normal(-0.5, 0.1, 6),
        'badge': rng.normal(0, 0.2, 5),
        'coreset': rng.normal(-3, 1, 6),
        'typiclust': np.array([5.0, -4.0]),
    }


def test_every_row_is_scipys_t_test_and_statsmodels_tost(gaps):
    rows = comparisons.compare(gaps, margin=1)
    assert [row.strategy for row in rows] == list(gaps)
    p = [scipy_stats.ttest_rel(gap + 7, np.full_like(gap, 7)).pvalue for gap in gaps.values()]
    same = [ttost_paired(gap, np.zeros_like(gap), -1, 1)[0] for gap in gaps.values()]
    assert [row.p_holm for row in rows] == pytest.approx(multipletests(p, method='holm')[1])
    assert [row.equivalence_holm for row in rows] == pytest.approx(
        multipletests(same, method='holm')[1]
    )
    for row, gap in zip(rows, gaps.values()):
        assert row.t == stats.mean_interval(gap)


def test_verdicts_say_the_direction_and_the_margin(gaps):
    verdicts = {row.strategy: row.verdict for row in comparisons.compare(gaps, margin=1)}
    assert verdicts == {
        'pt4al': 'better',
        'entropy': 'worse, yet equal within ±1',
        'badge': 'equal within ±1',
        'coreset': 'worse',
        'typiclust': 'no difference shown',
    }


def test_a_verdict_rests_on_the_adjusted_p_values():
    gap = np.array([1, 2, 3, 4, 0.5])  # p = 0.0305 by itself
    assert comparisons.compare({'a': gap}, 0.1)[0].verdict == 'better'
    noise = {'b': [-1, 1, 2, -2, 0.1], 'c': [1, -1, 3, -3, 0.2]}
    assert comparisons.compare({'a': gap, **noise}, 0.1)[0].verdict == 'no difference shown'
    # equivalence within 0.15: p = 0.045 by itself
    near = np.array([-0.1, 0.1, 0.2, -0.1, 0])
    assert comparisons.compare({'a': near}, 0.15)[0].verdict == 'equal within ±0.15'
    assert comparisons.compare({'a': near, **noise}, 0.15)[0].verdict == 'no difference shown'


def test_strategies_that_cannot_be_tested_are_left_out_of_the_adjustment(gaps):
    untested = {'one seed': [1.0], 'the baseline itself': [0.0, 0, 0, 0, 0]}
    rows = {row.strategy: row for row in comparisons.compare(gaps | untested, 1)}
    for name in untested:
        assert rows[name].verdict == 'no test'
        assert np.isnan([rows[name].p_holm, rows[name].equivalence_holm]).all()
    assert all(rows[row.strategy].p_holm == row.p_holm for row in comparisons.compare(gaps, 1))
    assert [row.verdict for row in comparisons.compare(untested, 1)] == ['no test', 'no test']


def test_nothing_is_compared_with_nothing():
    assert comparisons.compare({}, 1) == []


# --- pairwise penalties ---


@pytest.fixture(scope='module')
def accuracy() -> dict[str, np.ndarray]:
    """Four strategies [6 seeds, 5 budgets] with a shared seed effect, so that pairing matters."""
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 3, (6, 5))
    return {
        name: 50 + gain + shared + rng.normal(0, 1, (6, 5))
        for name, gain in (('random', 0), ('pt4al', 1), ('badge', 2), ('coreset', -1.5))
    }


def test_penalties_are_paired_t_tests_at_every_budget(accuracy):
    got = comparisons.penalties(accuracy)
    slow, names = np.zeros((4, 4)), list(accuracy)
    for i, a in enumerate(names):
        for j, b in enumerate(names):
            for k in range(5):
                test = (
                    scipy_stats.ttest_rel(accuracy[a][:, k], accuracy[b][:, k]) if i != j else None
                )
                slow[i, j] += (test is not None and test.pvalue < 0.05 and test.statistic > 0) / 5
    assert [*got.index] == [*got.columns] == names
    np.testing.assert_allclose(got, slow, atol=1e-12)
    # shares between none and all of the budgets
    assert len(np.unique(slow)) > 3
    np.testing.assert_allclose(got.mean(), slow.sum(axis=0) / 4, atol=1e-12)


def test_a_row_beats_a_column_and_the_best_strategy_has_the_lowest_column_mean():
    rng = np.random.default_rng(0)
    low = rng.integers(50, 60, (5, 4)).astype(float)
    high = low + np.array([5, 5, 0, -5]) + rng.normal(0, 0.1, (5, 4))
    # differences that do not vary count for neither
    high[:, 2] = low[:, 2] + 1
    got = comparisons.penalties({'low': low, 'high': high})
    assert got.values.tolist() == [[0, 0.25], [0.5, 0]]


def test_alpha_is_two_sided():
    # two-sided p = 0.0305 and 0.066, one-sided 0.0153 and 0.033
    gaps = np.array([[1, 2, 3, 4, 0.5], [1, 2, 3, 4, -0.5]]).T
    arms = {'better': gaps, 'baseline': np.zeros((5, 2))}
    assert comparisons.penalties(arms).loc['better', 'baseline'] == 0.5


def test_one_seed_has_no_penalties():
    with pytest.raises(Refused, match='need at least two seeds, not 1'):
        comparisons.penalties({'a': [[50.0, 60.0]], 'b': [[51.0, 61.0]]})


# --- seeds ---


@pytest.mark.parametrize('effect, seeds', [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_seeds_needed_are_the_known_sample_sizes_of_the_paired_t_test(effect, seeds):
    assert chapters.seeds_needed(sd=2, delta=2 * effect) == seeds


@pytest.mark.parametrize('effect', [0.3, 1, 2, 5, 20, 1000])
def test_seeds_needed_is_the_first_number_with_that_power(effect):
    def power(seeds: int) -> float:
        return TTestPower().power(effect, seeds, 0.025, alternative='larger')

    seeds = chapters.seeds_needed(1, effect)
    assert power(seeds) >= 0.8
    assert seeds == 2 or power(seeds - 1) < 0.8


def test_that_many_seeds_see_the_difference_four_times_of_five():
    seeds = chapters.seeds_needed(sd=2, delta=1.5)
    draws = np.random.default_rng(0).normal(1.5, 2, (20_000, seeds))
    seen = scipy_stats.ttest_1samp(draws, 0, axis=1)
    share = np.mean((seen.pvalue < 0.05) & (seen.statistic > 0))
    assert 0.79 < share < 0.83


# --- bad input ---

two = np.zeros((2, 2))


@pytest.mark.parametrize(
    'call, says',
    [
        (lambda: comparisons.compare({'a': [1, 2, np.nan]}, 1), '1 of 3 values are NaN'),
        (lambda: comparisons.compare({'a': [[1, 2], [3, 4]]}, 1), 'one number a seed'),
    ],
)
def test_bad_input_is_refused(call, says):
    with pytest.raises(Refused, match=says):
        call()
