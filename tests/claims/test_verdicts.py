"""The first page's table: which runs decide, and every verdict at its boundary."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import put, put_losses
from scipy import stats as scipy_stats

from pt4al import stats
from pt4al.claims import curves, verdicts
from pt4al.experiments import specs
from pt4al.stats import remembered
from pt4al.stats.comparisons import Difference
from pt4al.stats.correlation import Estimate

pytestmark = pytest.mark.usefixtures('root')


def run(strategy, seed, accuracy, labelled=1.0, order=None, dataset='cifar10', **fields):
    """Store a run of 100 labels a cycle with this test accuracy [cycles] and labelled accuracy."""
    cycles = np.arange(1, len(accuracy) + 1, dtype='int16')
    labels = np.tile(np.arange(10, dtype='int16'), 10 * len(cycles))
    tables = {
        'picks': {
            'cycle': np.repeat(cycles, 100),
            'index': np.arange(len(labels)),
            'label': labels,
        },
        'cycles': {
            'cycle': cycles,
            'labels': 100 * cycles.astype(int),
            'accuracy': np.array(accuracy, 'float32'),
            'train': np.broadcast_to(np.float32(labelled), len(cycles)).copy(),
        },
        'classes': {
            'cycle': np.repeat(cycles, 10),
            'label': np.tile(np.arange(10, dtype='int16'), len(cycles)),
            'accuracy': np.repeat(accuracy, 10).astype('float32'),
        },
    }
    fields |= {'pretext_seed': order} if order is not None else {}
    return put(tables, 'active', dataset=dataset, strategy=strategy, seed=seed, **fields)


def cell(claim, dataset='cifar10'):
    return next(row.cells[dataset] for row in verdicts.overview() if row.claim == claim)


def test_an_empty_store_tests_nothing():
    cells = [c for row in verdicts.overview() for c in row.cells.values()]
    assert {c.verdict for c in cells} == {'not tested'} and {c.text for c in cells} == {''}


@pytest.mark.parametrize(
    'gain, verdict', [(0.2, 'better than random'), (-0.2, 'worse than random')]
)
def test_rotation_runs_are_the_unit(gain, verdict):
    values = [[0.5 + gain + d, 0.6 + gain + d] for d in (0, 0.01, 0.02)]
    for order, value in enumerate(values):
        run('pt4al', order, value, order=order)
        run('random', order, [0.5 - 0.01 * order, 0.6 - 0.01 * order])
    run('pt4al', 7, values[0], order=0)  # a second seed on a rotation run is no further unit
    found = cell('3b')
    by_run = [100 * np.mean(value) for value in values]
    expected = scipy_stats.ttest_ind(by_run, [55, 54, 53], equal_var=False)
    assert found.verdict == verdict and found.n.startswith('3 rotation runs, 4 seeds against 3 of')
    assert found.estimate.value == pytest.approx(np.mean(by_run) - 54, abs=1e-4)
    assert (found.estimate.low, found.estimate.high) == pytest.approx(
        tuple(expected.confidence_interval()), abs=1e-3
    )


def test_no_verdict_where_a_network_does_not_fit_its_labels():
    for seed in range(3):
        run('pt4al', seed, [0.2, 0.9], labelled=np.float32([0.94, 0.96]), order=seed)
        run('random', seed, [0.5, 0.6 + 0.01 * seed], labelled=1.0)
    assert cell('3a').verdict == 'not trained enough' and cell('3a').text == ''
    assert '200 labels' in cell('3b').n and cell('3b').verdict == 'better than random'


def test_the_deciding_training_is_the_one_that_fits_whatever_its_accuracy():
    for seed in range(2):
        run('pt4al', seed, [0.9], labelled=0.5, order=seed, width=64)
        run('random', seed, [0.1], labelled=0.5, width=64)
        run('pt4al', seed, [0.3 + 0.001 * seed], order=seed)
        run('random', seed, [0.3 - 0.001 * seed])
    assert curves.regimes('cifar10')[0].spec.width == 16
    assert cell('3b').verdict == 'equal within 1 point'


def test_budgets_with_three_runs_come_before_more_budgets_with_two():
    for seed in range(3):
        run('pt4al', seed, [0.5, 0.6], order=seed, width=64)
        run('random', seed, [0.5, 0.6], width=64)
    for seed in range(2):
        run('pt4al', seed, [0.5, 0.6, 0.7], order=seed)
        run('random', seed, [0.5, 0.6, 0.7])
    assert curves.regimes('cifar10')[0].spec.width == 64


def test_a_training_with_a_control_decides_and_one_with_more_labels_stands_beside_it():
    for seed in range(3):
        for strategy, order in (('pt4al', seed), ('random', None), ('least_confidence', None)):
            run(strategy, seed, [0.5, 0.6 + 0.01 * seed], order=order, width=64)
        # a fourth budget of two runs alone
        run('pt4al', seed, [0.5, 0.6, 0.75, 0.9][: 4 - seed // 2], order=seed)
        run('random', seed, [0.5, 0.6, 0.7 + 0.001 * seed, 0.8][: 4 - seed // 2])
    beside = cell('3c')
    assert 'width 64' in beside.n and 'with 300 labels, width 16, ' in beside.note
    assert (
        ': 4.9 [4.7, 5.1] (3 rotation runs, 3 seeds against 3 seeds), not adjusted' in beside.note
    )


def test_a_first_query_whose_labels_the_deciding_training_does_not_fit_is_judged_in_the_next():
    for seed in range(3):
        run('pt4al', seed, [0.1, 0.5, 0.6], np.float32([0.9, 1, 1]), order=seed, width=64)
        run('random', seed, [0.5, 0.5, 0.6 + 0.01 * seed], np.float32([0.9, 1, 1]), width=64)
    assert cell('3a').verdict == 'not trained enough' and 'width 64' in cell('3a').n
    for seed in range(3):
        run('pt4al', seed, [0.2 + 0.01 * seed], order=seed)
        run('random', seed, [0.6 + 0.01 * seed])
    assert cell('3a').verdict == 'worse than random' and 'width 16' in cell('3a').n
    assert '200 to 300 labels' in cell('3b').n and 'width 64' in cell('3b').n


@pytest.mark.parametrize(
    'name, words',
    [
        ('caltech101', ''),
        ('caltech101:size=128', ', 128 pixels'),
        ('caltech101:size=64,background=no', ', 64 pixels, without the background class'),
    ],
)
def test_a_row_says_which_images_it_rests_on(name, words):
    assert verdicts.pixels(name) == words


def test_seeds_of_one_pretext_run_give_no_verdict_and_weigh_on_no_other():
    for seed in range(3):
        run('pt4al', seed, [0.2 + 0.01 * seed, 0.5 + 0.01 * seed], order=4)
        run('random', seed, [0.6 + 0.01 * seed, 0.5 - 0.01 * seed])
    found = cell('3a')
    assert (found.verdict, found.p) == ('one pretext run', ()) and found.text.startswith('-40.0')
    run('pt4al', 3, [0.22, 0.52], order=5)
    assert cell('3a').verdict == 'worse than random'


def test_the_control_begins_after_the_first_query_which_it_shares_with_random_labels():
    for seed in range(3):
        run('pt4al', seed, [0.4, 0.4], order=seed)
        run('random', seed, [0.5 + 0.01 * seed, 0.5 + 0.1 * seed])
        # the same picks on another machine: other accuracies
        run('least_confidence', seed, [0.6, 0.7 + 0.1 * seed + 0.01 * (seed == 2)])
    run('random', 3, [0.5])
    found = cell('control')
    assert found.estimate.value == pytest.approx(20 + 1 / 3) and ', 200 labels, ' in found.n
    assert found.estimate.seeds == '3 pairs of seeds' and found.estimate.low > 15
    assert found.n.startswith('3 pairs of seeds, ')


@pytest.mark.parametrize(
    'worst, verdict', [(1.3, 'worse than random'), (1.4, 'not trained enough')]
)
def test_an_order_by_a_network_that_guesses_decides_nothing(worst, verdict):
    for seed, mean in enumerate((0.2, 0.4, worst)):
        run('pt4al', seed, [0.2 + 0.01 * seed], order=seed)
        run('random', seed, [0.6 + 0.01 * seed])
        images = {'label': np.arange(10, dtype='int16'), 'loss': np.full(10, mean, 'float32')}
        put({'images': images}, 'pretext', dataset='cifar10', seed=seed)
    found = cell('3a')
    assert found.verdict == verdict and found.text.startswith('-40.0')
    assert f'mean rotation loss 0.20 to {worst:.2f} (guessing: 1.39)' in found.note


def test_the_end_of_all_cycles_is_judged_where_it_is_fitted_and_earlier_budgets_are_named():
    last = {'budget': 100, 'cycles': 3}
    for seed in range(3):
        labelled = np.float32([0.5, 1, 1])
        run('pt4al', seed, [0.2, 0.5, 0.9 + 0.01 * seed], labelled, order=seed, **last)
        run('random', seed, [0.5, 0.6, 0.7 + 0.01 * seed], labelled, **last)
        run('pt4al', seed, [0.2, 0.5], order=seed, width=64)
        run('random', seed, [0.5, 0.6], width=64)
    found = cell('3d')
    assert found.verdict == 'better than random' and ' 300 labels, ' in found.n
    assert 'at 1 of 2 earlier budgets labels are not fitted' in found.note
    assert 'width 64' in cell('3b').n


@pytest.mark.parametrize(
    'p, verdict, after',
    [
        ((0.01,), None, 0),
        ((0.02,), 'no difference shown', 0.06),
        ((0.04, 0.06), 'no difference shown', 0.12),
        ((0.04, 0.001), 'depends on the metric', 0.12),
        ((0.2, 0.3), None, 0),
    ],
)
def test_a_verdict_that_more_looks_would_undo_is_named(p, verdict, after):
    row = verdicts.Row('3a', '', '', cells={'cifar10': verdicts.Cell(p=p)})
    found = verdicts.after_looks(row, 'cifar10')
    assert found == (verdict and (verdict, pytest.approx(after)))


def test_one_classifier_gives_no_verdict_on_the_correlation_as_reproduced(monkeypatch):
    fake = SimpleNamespace(spec=SimpleNamespace(width=64, dataset='cifar10', epochs=100))
    fake.summary = {'accuracy_in': 0.95}
    loss = np.random.rand(99)
    images = {f'loss_in_{epoch}': sign * loss for epoch, sign in ((5, 1), (10, 1), (100, -1))}
    fake.tables = {'log': {'epoch': np.array([5, 10, 100])}, 'images': images}
    monkeypatch.setattr(verdicts, 'runs', lambda kind, **fields: [fake])
    monkeypatch.setattr(verdicts, 'losses', lambda runs, column: np.stack([loss for _ in runs]))
    found = verdicts._as_reproduced('cifar10', None)
    assert found.verdict == 'one classifier run'
    assert 'its rho varies from -1.00 to 1.00 between epochs 10 and 100' in found.note


def test_orders_that_were_trained_otherwise_are_not_pooled_and_an_argument_names_a_set():
    for epochs in (None, 3):
        order = specs.spec('pretext', dataset='cifar10', epochs=epochs)
        run('pt4al', 0, [0.5], pretext=order)
    run('pt4al', 0, [0.5], dataset='caltech101:size=32', order=0)
    (regime,) = curves.regimes('cifar10')
    assert {name: len(side) for name, side in regime.curves.items()} == {
        'pt4al': 1,
        'pt4al, rotation trained otherwise': 1,
    }
    for name in ('caltech101', 'caltech101:size=32'):
        assert len(curves.regimes(name)) == 1
    assert not curves.regimes('caltech101:size=64')


def test_runs_that_choose_by_the_test_set_decide_nothing():
    for seed in range(2):
        run('pt4al', seed, [0.9 + 0.01 * seed], order=seed, watch='test', keep='best')
        run('random', seed, [0.1 + 0.01 * seed], watch='test', keep='best')
    assert cell('3b').verdict == 'not tested'


def test_one_run_a_side_gives_no_verdict():
    run('pt4al', 0, [0.9], order=0)
    run('random', 0, [0.1])
    assert (cell('3a').verdict, cell('3a').text) == ('not tested', '')
    assert 'one run on a side' in cell('3a').note


@pytest.mark.parametrize(
    'low, high, verdict',
    [
        (0.70, 0.80, 'compatible with the paper'),
        (0.70, 0.74, 'compatible with the paper'),
        (0.70, 0.739, 'smaller than the paper'),
        (0.85, 0.9, 'larger than the paper'),
    ],
)
def test_a_correlation_is_judged_by_interval_and_tolerance(low, high, verdict):
    assert verdicts.agreement('cifar10', 0.7, low, high, verdicts.ROWS[0])[0] == verdict


@pytest.mark.parametrize(('fitted', 'decides'), [(0.89, False), (0.9, True)])
def test_classifiers_that_do_not_fit_their_images_decide_nothing_about_a_correlation(
    fitted, decides
):
    row = next(row for row in verdicts.ROWS if row.claim == '1')
    s = SimpleNamespace(width=16, dataset='x')
    main = SimpleNamespace(spec=s, summary={'accuracy_in': fitted})
    cell = verdicts._measured(row, 'cifar10', Estimate(0.3, 0.2, 0.4, 10, '', ''), '', [main])
    assert (cell.verdict != verdicts.UNTRAINED) == decides and cell.text


def test_losses_of_the_widest_network_are_compared():
    for width in (16, 64):
        for seed in range(2):
            put_losses('pretext', seed, width=width)
            put_losses('main', seed, width=width)
    found = cell('1')
    assert 'width 64' in found.n and '2 rotation runs x 2 classifiers' in found.n


@pytest.mark.parametrize('narrow, width', [((3, 2), 16), ((3, 1), 64), ((2, 2), 64)])
def test_three_pretext_runs_and_two_classifiers_come_before_a_wider_network(narrow, width):
    for wide, sizes in ((64, (2, 2)), (16, narrow)):
        for kind, count in zip(('pretext', 'main'), sizes):
            for seed in range(count):
                put_losses(kind, seed, width=wide)
    assert verdicts.loss_runs('cifar10', 'rotation')[0][0].spec.width == width


def test_cells_are_remembered_until_a_result_comes(root, monkeypatch):
    monkeypatch.setattr(remembered, '_folder', root / '.bootstraps')
    for seed in range(2):
        put_losses('pretext', seed)
        put_losses('main', seed)
    first = verdicts.overview()
    measures = verdicts.MEASURES
    monkeypatch.setattr(verdicts, 'MEASURES', None)  # nothing more can be measured
    assert repr(verdicts.overview()) == repr(first)
    monkeypatch.setattr(verdicts, 'MEASURES', measures)
    put_losses('main', 2)
    assert '2 rotation runs x 3 classifiers' in cell('1').n


# --- the intervals behind the verdicts ---


def coverage(s: int, t: int, run: float, image: float, repetitions: int = 4000) -> float:
    """Share of simulated studies whose interval of `rank_correlation` holds the truth.

    `run` and `image` are the standard deviations, on Fisher's z, between runs of either side and
    from image to image; normal effects, the same interval as above.
    """
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, run, (repetitions, s, 1)), rng.normal(0, run, (repetitions, 1, t))
    z = x + y + rng.normal(0, image, (repetitions, 1, 1))
    parts = [(np.full(repetitions, image**2), math.inf)]
    for side in (z.mean(axis=2), z.mean(axis=1)):
        if side.shape[1] > 1:
            parts.append((side.var(axis=1, ddof=1) / side.shape[1], side.shape[1] - 1))
    variance = np.sum([part for part, _ in parts], axis=0)
    spread = np.sum([part**2 / freedom for part, freedom in parts], axis=0)
    freedom = np.minimum(variance**2 / np.maximum(spread, 1e-300), 1e9)
    half = scipy_stats.t.ppf(0.975, freedom) * np.sqrt(variance)
    return float(np.mean(np.abs(z.mean(axis=(1, 2))) <= half))


@pytest.mark.parametrize('runs', [(2, 2), (3, 2), (3, 3)])
@pytest.mark.parametrize('run_sd', [0.0065, 0.018])
def test_intervals_cover_at_least_ninety_percent(runs, run_sd):
    assert coverage(*runs, run_sd, 0.0045) >= 0.90


@pytest.mark.parametrize('n, m', [(2, 3), (3, 3), (3, 5)])
def test_the_same_strategy_twice_differs_no_oftener_than_the_level(n, m):
    rng = np.random.default_rng(0)
    verdicts = [
        stats.difference({0: rng.normal(size=n)}, {0: rng.normal(size=m)}).p < 0.05
        for _ in range(400)
    ]
    assert np.mean(verdicts) <= 0.07


def test_few_classes_are_noticed():
    assert not stats.few_classes(np.arange(1000) % 10)
    assert stats.few_classes(np.r_[np.zeros(900, int), np.arange(100)])


def test_a_difference_without_spread_is_no_division_by_zero():
    found = stats.difference({0: [50.0], 1: [50.0]}, {'a': [50.0], 'b': [50.0]})
    assert found.estimate.low == found.estimate.high == 0 and found.p == 1


def compared(p: float, balanced: tuple[float, float] | None = None) -> verdicts.Pending:
    def one(value: float, p: float) -> Difference:
        return Difference(Estimate(value, value - 1, value + 1, 3, '', ''), p, 1.0)

    metrics = {'classification': one(-5, p)}
    if balanced:
        metrics['balanced'] = one(*balanced)
    return verdicts.Pending(metrics, verdicts.Cell(), ('better than random', 'worse than random'))


def test_where_both_metrics_are_one_number_verdict_and_p_are_of_the_same_test():
    # of two families the one with more tests adjusts more
    one = {('2a', 'a'): compared(0.03), ('3b', 'a'): compared(0.04, (-5.00003, 0.04))}
    made = verdicts._adjusted(one | {('3a', 'b'): compared(0.02, (3, 0.9))})
    for found in made.values():
        assert (max(found.p) < 0.05) == (found.verdict == 'worse than random')


def test_a_comparison_that_claims_share_counts_once_and_equal_metrics_never_disagree():
    cells = {('3b', 'a'): compared(0.02, (-5, 0.02)), ('2a', 'a'): compared(0.001)}
    one = verdicts._adjusted(cells | {('3a', 'b'): compared(0.5, (-5, 0.5))})
    shared = {(claim, 'b'): compared(0.5, (-5, 0.5)) for claim in ('3a', '3b', '3c')}
    assert verdicts._adjusted(cells | shared)['3b', 'a'] == one['3b', 'a']
    assert one['3b', 'a'].verdict == 'worse than random'
    apart = {('3b', 'a'): compared(0.001, (5, 0.001))}
    assert verdicts._adjusted(apart)['3b', 'a'].verdict == 'depends on the metric'
