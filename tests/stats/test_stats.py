"""Exact oracles (scipy, slow loops), published facts, and one coverage simulation."""

from __future__ import annotations

import itertools
import math
import os
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from pt4al import stats
from pt4al.errors import Refused
from pt4al.stats import correlation

CIFAR10 = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')


def tied_runs(runs: int, images: int, seed: int) -> np.ndarray:
    """[runs, images] with a common part and many ties."""
    rng = np.random.default_rng(seed)
    return np.round(np.linspace(0, 2, images) + rng.normal(size=(runs, images)), 1)


# --- rank correlation ---


def test_normalised_ranks_average_ties_and_reach_one():
    assert stats.normalised_ranks([10, 3, 3, 99]).tolist() == [0.75, 0.375, 0.375, 1.0]
    assert stats.normalised_ranks([[1, 2], [2, 1]]).tolist() == [[0.5, 1.0], [1.0, 0.5]]
    assert stats.normalised_ranks([9.99e-05, 0.97, 1.2]).tolist() == pytest.approx(
        [1 / 3, 2 / 3, 1]
    )


@pytest.mark.parametrize('seed', range(5))
def test_weighted_spearman_is_scipy_on_the_resampled_arrays(seed):
    x, y, rng = tied_runs(2, 60, seed), tied_runs(3, 60, seed + 100), np.random.default_rng(seed)
    drawn = rng.integers(60, size=60)
    fast = correlation._spearman_matrix(
        correlation._tie_groups(x), correlation._tie_groups(y), np.bincount(drawn, minlength=60)
    )
    slow = [[scipy_stats.spearmanr(a[drawn], b[drawn]).statistic for b in y] for a in x]
    np.testing.assert_allclose(fast, slow, rtol=0, atol=1e-12)


def test_estimate_is_the_mean_over_all_pairs():
    x, y = tied_runs(2, 80, 0), tied_runs(3, 80, 1)
    pairs = [scipy_stats.spearmanr(a, b).statistic for a, b in itertools.product(x, y)]
    assert stats.rank_correlation(x, y, draws=5).value == pytest.approx(np.mean(pairs), abs=1e-12)
    assert stats.spearman(x[0], y[0]) == pytest.approx(pairs[0], abs=1e-12)


def test_the_interval_is_made_of_the_three_sources_of_its_spread():
    x, y, rng = tied_runs(3, 40, 2), tied_runs(2, 40, 3), np.random.default_rng(9)
    z = np.arctanh([[scipy_stats.spearmanr(a, b).statistic for b in y] for a in x])
    slow = []
    for _ in range(1500):
        ranks = scipy_stats.rankdata(np.concatenate([x, y])[:, rng.integers(40, size=40)], axis=1)
        slow.append(np.arctanh(np.corrcoef(ranks)[:3, 3:].mean()))
    runs = np.var(z.mean(1), ddof=1) / 3, np.var(z.mean(0), ddof=1) / 2
    variance = np.var(slow) + sum(runs)
    freedom = variance**2 / (runs[0] ** 2 / 2 + runs[1] ** 2 / 1)
    half = scipy_stats.t.ppf(0.975, freedom) * math.sqrt(variance)
    fast = stats.rank_correlation(x, y, draws=1500)
    middle = np.arctanh(fast.value)
    assert [fast.low, fast.high] == pytest.approx(np.tanh([middle - half, middle + half]), abs=0.02)


def test_whole_classes_are_resampled_where_labels_are_passed():
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(8), 50)
    x, y = np.arange(8)[labels] + 0.1 * rng.normal(size=(2, 400))
    images = stats.rank_correlation(x, y)
    classes = stats.rank_correlation(x, y, labels=labels)
    assert classes.value == images.value and classes.low < images.low
    assert classes.method.startswith('95% t interval, classes only')


def test_runs_that_disagree_widen_the_two_way_interval():
    base, rng = np.linspace(0, 1, 400), np.random.default_rng(0)
    x = base + np.array([0.05, 0.05, 2, 2])[:, None] * rng.normal(size=(4, 400))
    wide = stats.rank_correlation(x, base, draws=300)
    narrow = stats.rank_correlation(x.mean(axis=0), base, draws=300)
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_method_and_seeds_say_what_the_interval_covers():
    x, y = tied_runs(3, 30, 0), tied_runs(6, 30, 1)
    made = {
        (s, t): stats.rank_correlation(x[:s], y[:t], draws=3)
        for s, t in ((1, 1), (3, 1), (1, 6), (3, 6))
    }
    assert made[1, 1].method == '95% t interval, images only: one run a side'
    assert 'images and 3 pretext runs; one main run: others may differ' in made[3, 1].method
    assert 'images and 6 main runs; one pretext run: others may differ' in made[1, 6].method
    assert made[3, 6].method.endswith('images, 3 pretext runs and 6 main runs')
    assert (made[3, 6].seeds, made[3, 6].n) == ('3 pretext x 6 main', 30)


def test_a_seed_repeats_the_interval_and_inputs_stay_as_they_were():
    x, y = tied_runs(2, 50, 0), tied_runs(2, 50, 1)
    x.setflags(write=False), y.setflags(write=False)
    assert stats.rank_correlation(x, y, draws=20, seed=4) == stats.rank_correlation(
        x, y, draws=20, seed=4
    )
    assert (
        stats.rank_correlation(x, y, draws=20, seed=4).low
        != stats.rank_correlation(x, y, draws=20, seed=5).low
    )


def test_resamples_without_a_correlation_are_left_out():
    # 1 draw in 9 repeats one image three times
    got = stats.rank_correlation([1, 2, 3], [1, 3, 2], draws=300)
    assert np.isfinite([got.low, got.high]).all()


@pytest.mark.slow
def test_image_bootstrap_covers_the_true_correlation():
    r, covered, rng = 0.6, 0, np.random.default_rng(0)
    truth = 6 / math.pi * math.asin(r / 2)  # bivariate normal
    for seed in range(100):
        x, y = rng.multivariate_normal([0, 0], [[1, r], [r, 1]], size=200).T
        got = stats.rank_correlation(x, y, draws=200, seed=seed)
        covered += got.low <= truth <= got.high
    assert 88 <= covered <= 99


# --- partial rank correlation ---


def partial_rho(x, y, confounders) -> float:
    return stats.partial_rank_correlation(x, y, confounders, draws=2).value


def residual_correlation(x, y, confounders) -> float:
    """The definition: ranks, least squares on the ranks of the confounders, Pearson."""
    ranks = scipy_stats.rankdata(np.column_stack([x, y, confounders]), axis=0)
    design = np.column_stack([ranks[:, 2:], np.ones(len(ranks))])
    left = ranks[:, :2] - design @ np.linalg.lstsq(design, ranks[:, :2], rcond=None)[0]
    return np.corrcoef(left.T)[0, 1]


@pytest.fixture
def confounded() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tied x [90], y [90], and confounders [90, 2] that move both."""
    rng = np.random.default_rng(0)
    z = np.round(rng.normal(size=(90, 2)), 1)
    x, y = (np.round(z @ [1, -1] + rng.normal(size=90), 1) for _ in 'xy')
    return x, y, z


def test_partial_spearman_is_the_correlation_of_residual_ranks(confounded):
    x, y, z = confounded
    for confounders in (z, z[:, :1]):
        slow = residual_correlation(x, y, confounders)
        assert partial_rho(x, y, confounders) == pytest.approx(slow, abs=1e-12)
    xy, xz, yz = (stats.spearman(*pair) for pair in ((x, y), (x, z[:, 0]), (y, z[:, 0])))
    textbook = (xy - xz * yz) / math.sqrt((1 - xz**2) * (1 - yz**2))
    assert partial_rho(x, y, z[:, 0]) == pytest.approx(textbook, abs=1e-12)


def test_columns_that_add_nothing_change_nothing(confounded):
    x, y, z = confounded
    plain = partial_rho(x, y, z)
    assert partial_rho(x, y, np.column_stack([z, z, np.ones(90)])) == pytest.approx(plain, abs=1e-7)
    assert partial_rho(x, y, np.ones(90)) == pytest.approx(stats.spearman(x, y), abs=1e-12)


def test_a_confounder_that_makes_the_correlation_takes_it_away():
    rng = np.random.default_rng(0)
    z = rng.normal(size=2000)
    x, y = z + rng.normal(size=(2, 2000))
    got = stats.partial_rank_correlation(x, y, z, draws=100)
    assert stats.spearman(x, y) > 0.4 and got.low < 0 < got.high and abs(got.value) < 0.06


def test_partial_draws_are_the_slow_resamples(confounded):
    x, y, z = confounded
    weights = np.bincount(np.random.default_rng(3).integers(90, size=90), minlength=90)
    rows = np.repeat(np.arange(90), weights)
    groups = correlation._tie_groups(np.stack([x, -y, y, *z.T]))
    matrix = correlation._partial_matrix(groups, 2, 1, weights)
    slow = [residual_correlation(side[rows], y[rows], z[rows]) for side in (x, -y)]
    np.testing.assert_allclose(matrix[:, 0], slow, rtol=0, atol=1e-12)


def test_partial_interval_averages_the_runs_and_uses_the_draws_of_the_plain_one(confounded):
    x, y, z = confounded
    runs = np.stack([x, x**2, z[:, 0]]), np.stack([y, y + z[:, 1]])
    got = stats.partial_rank_correlation(*runs, z[:, 1], draws=30, seed=2)
    pairs = [partial_rho(a, b, z[:, 1]) for a, b in itertools.product(*runs)]
    assert got.value == pytest.approx(np.mean(pairs), abs=1e-12)
    assert (got.n, got.seeds) == (90, '3 pretext x 2 main')
    assert got.method.startswith('95% t interval, images, 3 pretext runs and 2')
    plain = stats.rank_correlation(*runs, draws=30, seed=2)
    same = stats.partial_rank_correlation(*runs, np.ones(90), draws=30, seed=2)
    assert (same.value, same.low, same.high) == pytest.approx(
        (plain.value, plain.low, plain.high), abs=1e-12
    )


@pytest.mark.parametrize('seed', range(8))
def test_what_rounding_leaves_of_an_explained_side_is_no_correlation(seed):
    z, y = np.random.default_rng(seed).normal(size=(2, 200))
    with pytest.raises(Refused, match='explain every rank'):
        partial_rho(z**3, y, np.column_stack([z, y**2]))


@pytest.mark.parametrize(
    'confounders, says',
    [
        ([1, 2, 3], r'shape \[6, k\]'),
        ([1, 2, np.nan, 4, 5, 6], '1 of 6 confounders are NaN'),
        ([10, 20, 30, 40, 50, 60], 'explain every rank of one side'),
    ],
)
def test_partial_correlation_refuses(confounders, says):
    with pytest.raises(Refused, match=says):
        partial_rho([1, 2, 3, 4, 5, 6], [2, 1, 4, 3, 6, 5], confounders)


@pytest.mark.parametrize(
    'x, y, says',
    [
        ([1, 2, 3, 4], [1, 2, 3], 'lengths differ'),
        ([1, 2], [2, 1], 'at least 3 images'),
        ([1, np.nan, np.nan, 4], [1, 2, 3, 4], '2 of 4'),
        ([1, 1, 1], [1, 2, 3], 'all losses are equal'),
        (np.zeros((2, 3, 4)), [1, 2, 3, 4], 'shape'),
        (np.zeros((0, 4)), [1, 2, 3, 4], 'shape'),
    ],
)
@pytest.mark.parametrize(
    'function',
    [
        stats.spearman,
        stats.rank_correlation,
        lambda x, y: stats.partial_rank_correlation(x, y, [0, 0, 1, 1]),
    ],
)
def test_bad_losses_are_refused(function, x, y, says):
    with pytest.raises(Refused, match=says):
        function(x, y)


# --- classes ---


def test_by_class_is_rank_correlation_inside_each_class():
    x, y, labels = tied_runs(2, 90, 0), tied_runs(1, 90, 1), np.arange(90) % 3
    rows = stats.by_class(x, y, labels, ['a', 'b', 'c'], draws=50)
    assert [(name, n) for name, n, _ in rows] == [('a', 30), ('b', 30), ('c', 30)]
    inside = labels == 1
    assert rows[1][2] == stats.rank_correlation(x[:, inside], y[:, inside], draws=50)


def test_between_within_is_the_slow_loop():
    x, y = tied_runs(2, 120, 5)
    labels = np.repeat([7, 2, 9], [20, 40, 60])
    got, ranks = stats.between_within(x, y, labels), scipy_stats.rankdata([x, y], axis=1)
    means = {c: ranks[:, labels == c].mean(axis=1) for c in (7, 2, 9)}
    scale = 120 * ranks[0].std() * ranks[1].std()
    between = (
        sum((labels == c).sum() * np.prod(m - ranks.mean(axis=1)) for c, m in means.items()) / scale
    )
    within = sum(np.prod(ranks[:, i] - means[labels[i]]) for i in range(120)) / scale
    inside = [scipy_stats.spearmanr(x[labels == c], y[labels == c]).statistic for c in means]
    spread = sum((labels == c).sum() * (m[0] - ranks[0].mean()) ** 2 for c, m in means.items())
    assert (got.between, got.within) == pytest.approx((between, within), abs=1e-12)
    assert got.between + got.within == pytest.approx(
        scipy_stats.spearmanr(x, y).statistic, abs=1e-12
    )
    assert got.total == got.between + got.within and got.between_share == got.between / got.total
    assert got.within_class_rho == pytest.approx(np.mean(inside), abs=1e-12)
    assert got.class_mean_correlation == pytest.approx(
        np.corrcoef(np.transpose(list(means.values())))[0, 1]
    )
    assert got.eta_squared == pytest.approx(spread / (120 * ranks[0].var()), abs=1e-12)
    assert (got.classes, got.n) == (3, 120)


def test_within_share_vanishes_when_images_of_a_class_are_unrelated():
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(10), 500)
    x, y = labels + rng.normal(size=(2, 5000))
    got = stats.between_within(x, y, labels)
    assert (
        got.between_share > 0.97
        and abs(got.within_class_rho) < 0.05
        and got.class_mean_correlation > 0.99
    )


@pytest.mark.parametrize(
    'labels, says',
    [
        ([0, 0, 0, 0, 1, 1], 'class 1 has 2 images'),
        ([0, 0, 0, 1, 1], 'lengths differ'),
        ([0] * 6, 'one class only'),
    ],
)
def test_between_within_refuses(labels, says):
    with pytest.raises(Refused, match=says):
        stats.between_within([1, 2, 3, 4, 5, 6], [2, 1, 4, 3, 6, 5], labels)


def test_class_functions_refuse_what_they_cannot_answer():
    x, y = tied_runs(2, 6, 0)
    with pytest.raises(Refused, match="class 'dog' has 0 images"):
        stats.by_class(x, y, [0] * 6, ['cat', 'dog'])
    with pytest.raises(Refused, match=r'labels must lie in 0\.\.1, found 0\.\.2'):
        stats.by_class(x, y, [0, 0, 1, 1, 2, 2], ['cat', 'dog'])
    with pytest.raises(Refused, match='one run a side'):
        stats.between_within([x, x], y, [0, 0, 0, 1, 1, 1])
    with pytest.raises(Refused, match='all class means are equal'):
        stats.between_within([1, 2, 3, 1, 2, 3], y, [0, 0, 0, 1, 1, 1])


# --- reliability ---


def test_reliability_is_the_mean_over_pairs_of_runs():
    runs = tied_runs(4, 70, 8)
    pairs = [scipy_stats.spearmanr(a, b).statistic for a, b in itertools.combinations(runs, 2)]
    assert stats.reliability(runs) == pytest.approx(np.mean(pairs), abs=1e-12)
    with pytest.raises(Refused, match='one run only'):
        stats.reliability(runs[:1])


@pytest.mark.parametrize(
    'r_yy, bound, low, high',
    [
        (1, 0.88, 0.50, 0.90),
        (0.9, 0.84, 0.53, 0.94),
        (0.8, 0.79, 0.56, 1.00),
        (0.7, 0.74, 0.60, 1.07),
        (0.5, 0.62, 0.71, 1.27),
    ],
)
def test_ceiling_and_disattenuation_give_the_table_of_the_two_published_numbers(
    r_yy, bound, low, high
):
    got = (
        stats.ceiling(0.777, r_yy),
        stats.disattenuated(0.44, 0.777, r_yy),
        stats.disattenuated(0.79, 0.777, r_yy),
    )
    assert tuple(round(value, 2) for value in got) == (bound, low, high)


def test_a_reliability_that_is_not_positive_is_refused():
    with pytest.raises(Refused, match='reliabilities must lie'):
        stats.ceiling(0.7, -0.1)


# --- label entropy ---


def test_normalised_entropy():
    assert stats.normalised_entropy([0, 1, 2, 3], 4) == pytest.approx(1)
    assert stats.normalised_entropy([2, 2, 2], 4) == 0
    assert stats.normalised_entropy([0, 0, 0, 1], 2) == pytest.approx(2 - 0.75 * math.log2(3))


def test_random_entropy_interval_is_the_slow_draw_and_the_published_reference():
    pool, rng = np.repeat(np.arange(10), 5000), np.random.default_rng(1)
    slow = [
        stats.normalised_entropy(rng.choice(pool, 1000, replace=False), 10) for _ in range(1000)
    ]
    low, high = stats.random_entropy_interval(pool, 1000)
    assert (low, high) == pytest.approx(np.quantile(slow, [0.025, 0.975]), abs=3e-4)
    assert (low, high) == pytest.approx((0.9960, 0.9994), abs=1e-4)
    assert stats.random_entropy_interval(pool, 5000) == pytest.approx((0.9993, 0.9999), abs=1e-4)


def test_drawing_the_whole_pool_leaves_no_chance():
    pool = [0, 0, 0, 1, 2]
    assert stats.random_entropy_interval(pool, 5, draws=10) == pytest.approx(
        [stats.normalised_entropy(pool, 3)] * 2
    )


def test_class_divergence_is_the_sum_of_its_definition():
    labels, pool = [0, 0, 0, 1], [0, 0, 1, 1, 1, 2, 2, 2]
    assert stats.class_divergence(labels, 3, pool) == pytest.approx(
        3 / 4 * math.log(3) + 1 / 4 * math.log(2 / 3)
    )
    assert stats.class_divergence(labels, 3) == pytest.approx(
        3 / 4 * math.log(9 / 4) + 1 / 4 * math.log(3 / 4)
    )
    assert stats.class_divergence(labels, 3) == pytest.approx(
        math.log(3) * (1 - stats.normalised_entropy(labels, 3))
    )
    assert stats.class_divergence([2, 0, 1, 1], 3, [0, 2, 1, 1] * 5) == 0


@pytest.mark.parametrize(
    'call, says',
    [
        (lambda: stats.class_divergence([0, 1], 2, [0, 0]), 'not in the pool'),
        (lambda: stats.normalised_entropy([], 3), 'non-empty'),
        (lambda: stats.normalised_entropy([0.5, 1], 3), 'whole numbers'),
        (lambda: stats.normalised_entropy([0, 3], 3), r'0\.\.2'),
        (lambda: stats.normalised_entropy([0, 0], 1), 'two classes'),
        (lambda: stats.random_entropy_interval([0, 1], 3), 'cannot draw 3 of 2'),
    ],
)
def test_bad_labels_are_refused(call, says):
    with pytest.raises(Refused, match=says):
        call()


# --- seeds ---


def test_mean_interval_is_scipys():
    values = [0.46, 0.48, 0.45, 0.49]
    expected = scipy_stats.ttest_1samp(values, 0).confidence_interval(0.95)
    got = stats.mean_interval(values)
    assert (got.value, got.low, got.high) == pytest.approx((0.47, expected.low, expected.high))
    assert (got.n, got.seeds, got.method) == (4, '4 seeds', '95% t interval over seeds')


def test_one_seed_has_a_mean_and_no_interval():
    got = stats.mean_interval([0.9])
    assert (got.value, got.method) == (0.9, 'one seed: no interval')
    assert math.isnan(got.low) and math.isnan(got.high)


def test_paired_difference_is_scipys_paired_t():
    a, b = np.random.default_rng(0).normal(size=(2, 6))
    expected = scipy_stats.ttest_rel(a, b).confidence_interval()
    got = stats.paired_difference(a, b)
    assert (got.value, got.low, got.high) == pytest.approx(
        (np.mean(a - b), expected.low, expected.high)
    )
    assert got.method == '95% t interval over paired seeds'
    assert stats.paired_difference(a[:1], b[:1]).method == 'one seed: no interval'


def test_equivalence_is_statsmodels_tost():
    a, b = np.random.default_rng(1).normal(size=(2, 12))
    for margin in (0.1, 1, 3):
        assert stats.equivalence(a, b, margin) == pytest.approx(
            ttost_paired(a, b, -margin, margin)[0]
        )
    assert stats.equivalence(a, b, 3) < 0.05 < stats.equivalence(a, b, 0.1)


def test_aubc_matches_the_published_random_and_entropy_curves():
    budgets = np.arange(1000, 10_001, 1000)
    random = [46.98, 57.81, 66.29, 72.86, 78.36, 82.34, 83.83, 85.09, 86.19, 86.85]
    entropy = [46.98, 58.68, 67.40, 74.16, 80.11, 84.39, 86.65, 87.89, 89.34, 89.89]
    assert [round(stats.aubc(curve, budgets), 1) for curve in (random, entropy)] == [75.5, 77.5]
    assert stats.aubc([0, 1, 1], [0, 10, 40]) == pytest.approx(0.875)  # uneven steps: 1/8 + 3/4


def test_holm_by_hand_and_as_statsmodels_has_it_of_what_was_tested():
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    for seed in range(20):
        p = np.random.default_rng(seed).random(9).round(1) ** 2  # with ties
        adjusted = stats.holm([np.nan, *p, np.nan])
        assert np.isnan(adjusted[[0, -1]]).all()
        assert (adjusted[1:-1] == multipletests(p, method='holm')[1]).all()
    assert stats.holm([]).shape == (0,) and np.isnan(stats.holm([np.nan])).all()


@pytest.mark.parametrize(
    'call, says',
    [
        (lambda: stats.mean_interval([]), 'non-empty'),
        (lambda: stats.mean_interval([1, np.nan]), '1 of 2 values are NaN'),
        (lambda: stats.paired_difference([1, 2], [1, 2, 3]), '2 seeds against 3'),
        (lambda: stats.equivalence([1, 2], [2, 3], 1), 'differences vary'),
        (lambda: stats.equivalence([1, 2], [2, 1], 0), 'margin must be positive'),
        (lambda: stats.aubc([1, 2], [1, 2, 3]), 'one accuracy a budget'),
        (lambda: stats.aubc([1, 2, 3], [1, 3, 2]), 'must increase'),
        (lambda: stats.rank_correlation([1, 2, 3], [1, 2, 3], draws=1), 'at least 2'),
    ],
)
def test_bad_comparisons_are_refused(call, says):
    with pytest.raises(Refused, match=says):
        call()


# --- the published losses: not vendored, they carry no licence ---


@pytest.fixture(scope='module')
def published() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(losses [3, 50000]: official, run A, run B; labels [50000]; released order [50000])."""
    root = Path(__file__).resolve().parents[2]
    default = root.parent / 'shared' / 'data'
    folder = Path(os.environ.get('PT4AL_DATA', default)) / 'published-losses'
    files = [folder / f'{run}_rotation_loss.txt' for run in ('official', 'rerun_a', 'rerun_b')]
    order = folder / 'official_batches_0_to_9.txt'
    if missing := [file.name for file in (*files, order) if not file.exists()]:
        pytest.skip(
            f'no {", ".join(missing)} in {folder.name}: set PT4AL_DATA to the folder above {folder.name}'
        )
    losses, labels = np.full((3, 50_000), np.nan), np.full(50_000, -1)
    for run, file in enumerate(files):
        for line in file.read_text().splitlines():
            loss, path = line.split('_', 1)
            index = int(Path(path).stem)
            losses[run, index], labels[index] = float(loss), int(Path(path).parent.name)
    return losses, labels, np.array([int(Path(line).stem) for line in order.read_text().split()])


def test_published_runs_repeat_at_0777(published):
    losses, _, _ = published
    pairs = [stats.spearman(losses[i], losses[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert [round(rho, 4) for rho in pairs] == [0.7761, 0.7789, 0.7769]
    assert stats.reliability(losses) == pytest.approx(np.mean(pairs), abs=1e-12)


def test_published_ranks_repeat_by_class_rather_than_by_image(published):
    losses, labels, _ = published
    splits = [
        stats.between_within(losses[i], losses[j], labels) for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    assert [round(split.within_class_rho, 3) for split in splits] == [0.705, 0.709, 0.705]
    assert [round(split.class_mean_correlation, 3) for split in splits] == [0.989, 0.990, 0.990]
    assert splits[0].eta_squared == pytest.approx(0.201, abs=5e-4)


def test_published_class_ranks(published):
    losses, labels, _ = published
    ranks = stats.normalised_ranks(losses[0])
    means = [ranks[labels == code].mean() for code in range(10)]
    assert means == pytest.approx(
        [0.561, 0.319, 0.633, 0.687, 0.519, 0.566, 0.624, 0.351, 0.401, 0.337], abs=6e-4
    )
    assert (
        CIFAR10[int(np.argmax(means))] == 'cat' and CIFAR10[int(np.argmin(means))] == 'automobile'
    )


def test_published_batches_are_less_balanced_than_random(published):
    losses, labels, released = published
    numeric = np.argsort(-losses[0], kind='stable')
    entropy = {
        name: [stats.normalised_entropy(labels[batch], 10) for batch in order.reshape(10, 5000)]
        for name, order in (('numeric', numeric), ('released', released))
    }
    assert entropy['numeric'] == pytest.approx(
        [0.914, 0.943, 0.964, 0.980, 0.991, 0.998, 0.991, 0.963, 0.912, 0.839], abs=6e-4
    )
    assert entropy['released'] == pytest.approx(
        [0.924, 0.925, 0.948, 0.966, 0.983, 0.993, 0.998, 0.987, 0.955, 0.899], abs=6e-4
    )
    first = [stats.normalised_entropy(labels[order[:5000:5]], 10) for order in (released, numeric)]
    assert first == pytest.approx([0.914, 0.916], abs=6e-4)
    assert max(first) < stats.random_entropy_interval(labels, 1000)[0]
