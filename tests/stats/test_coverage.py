"""Simulations: do intervals cover, and tests err, at the rate they state?

Tolerances are 3.5 binomial standard errors. Bootstraps, which reach their level only as samples
grow, are allowed 0.01 more, 0.02 where ten runs a side are resampled.
"""

from __future__ import annotations

import gc
import math

import numpy as np
import pytest

from pt4al import stats
from pt4al.stats import comparisons

pytestmark = pytest.mark.simulation


def assert_rate(hits: list[bool], expected: float) -> None:
    assert np.mean(hits) == pytest.approx(
        expected, abs=3.5 * math.sqrt(expected * (1 - expected) / len(hits))
    )


def holds(estimate: stats.Estimate, truth: float) -> bool:
    return estimate.low <= truth <= estimate.high


def pearson_as_spearman(r: float) -> float:
    """Spearman's rho of a bivariate normal pair with correlation r (Pearson 1907)."""
    return 6 / math.pi * math.asin(r / 2)


@pytest.fixture(autouse=True)
def no_collection(monkeypatch):
    # statsmodels collects garbage at every adjustment
    monkeypatch.setattr(gc, 'collect', lambda: 0)


# --- over seeds ---


@pytest.mark.parametrize('seeds', [2, 3, 5, 20])
def test_the_paired_t_interval_covers_at_its_level(seeds):
    rng, base = np.random.default_rng(seeds), np.zeros(seeds)
    assert_rate(
        [
            holds(stats.paired_difference(base + rng.normal(0.7, 2, seeds), base), 0.7)
            for _ in range(2000)
        ],
        0.95,
    )


# --- tests over strategies ---


def test_tost_errs_at_five_percent_on_its_margin_and_never_more_beyond():
    rng, base = np.random.default_rng(0), np.zeros(8)
    at = {
        mean: [stats.equivalence(rng.normal(mean, 0.5, 8), base, 1.5) < 0.05 for _ in range(2000)]
        for mean in (1.5, -1.5, 2, 0)
    }
    assert_rate(at[1.5], 0.05), assert_rate(at[-1.5], 0.05)
    assert np.mean(at[2]) < 0.01 and np.mean(at[0]) > 0.99


def test_compare_finds_a_difference_in_five_percent_of_tables_of_equal_strategies():
    rng = np.random.default_rng(0)
    found = [
        any(
            'better' in row.verdict or 'worse' in row.verdict
            for row in comparisons.compare(
                {name: rng.normal(size=4) for name in 'abcd'}, margin=1e-6
            )
        )
        for _ in range(600)
    ]
    # of independent strategies, Holm's first step
    assert_rate(found, 1 - 0.9875**4)


# --- rank correlation ---


@pytest.mark.parametrize('r', [0.0, 0.6, 0.9])
def test_the_image_bootstrap_covers_the_true_rank_correlation(r):
    rng, hits = np.random.default_rng(0), []
    for seed in range(400):
        x, y = rng.multivariate_normal([0, 0], [[1, r], [r, 1]], size=200).T
        hits.append(
            holds(stats.rank_correlation(x, y, draws=200, seed=seed), pearson_as_spearman(r))
        )
    assert np.mean(hits) == pytest.approx(0.95, abs=3.5 * math.sqrt(0.95 * 0.05 / 400) + 0.01)


def test_the_partial_bootstrap_covers_the_true_partial_rank_correlation():
    xy, xz, yz = (pearson_as_spearman(r) for r in (0.7, 0.6, 0.5))
    truth = (xy - xz * yz) / math.sqrt((1 - xz**2) * (1 - yz**2))
    rng, hits = np.random.default_rng(0), []
    for seed in range(400):
        x, y, z = rng.multivariate_normal(
            [0, 0, 0], [[1, 0.7, 0.6], [0.7, 1, 0.5], [0.6, 0.5, 1]], size=200
        ).T
        hits.append(holds(stats.partial_rank_correlation(x, y, z, draws=200, seed=seed), truth))
    assert np.mean(hits) == pytest.approx(0.95, abs=3.5 * math.sqrt(0.95 * 0.05 / 400) + 0.01)


@pytest.mark.parametrize('runs', [3, 8])
def test_the_two_way_bootstrap_is_cautious_where_runs_differ_by_image_noise_alone(runs):
    rng, hits = np.random.default_rng(runs), []
    for seed in range(200):
        image = rng.normal(size=200)
        x, y = (image + rng.normal(size=(runs, 200)) for _ in 'xy')
        hits.append(
            holds(stats.rank_correlation(x, y, draws=200, seed=seed), pearson_as_spearman(0.5))
        )
    assert np.mean(hits) > 0.95 - 3.5 * math.sqrt(0.95 * 0.05 / 200)


def test_the_two_way_bootstrap_covers_where_runs_differ_in_quality():
    noise, runs = np.array([0.5, 2.0]), 10
    truth = np.mean(
        [pearson_as_spearman(1 / math.sqrt((1 + a**2) * (1 + b**2))) for a in noise for b in noise]
    )
    rng, hits = np.random.default_rng(0), []
    for seed in range(250):
        image = rng.normal(size=200)
        x, y = (image + rng.choice(noise, (runs, 1)) * rng.normal(size=(runs, 200)) for _ in 'xy')
        hits.append(holds(stats.rank_correlation(x, y, draws=200, seed=seed), truth))
    assert np.mean(hits) == pytest.approx(0.95, abs=3.5 * math.sqrt(0.95 * 0.05 / 250) + 0.02)
