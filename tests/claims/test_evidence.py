"""What the store says of each task, against scipy on made results; nothing is computed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import by_task
import numpy as np
import pytest
from helpers import LABEL, N, put, put_losses
from scipy.stats import spearmanr

from pt4al import data, stats
from pt4al.experiments import specs, store
from pt4al.tasks import TASKS

pytestmark = pytest.mark.usefixtures('root', 'store_of_toys')

ROOT = Path(__file__).resolve().parents[2]
MINI = 'cifar10-mini'


def rho(a: np.ndarray, b: np.ndarray) -> float:
    return spearmanr(a, b).statistic


def put_pretext(
    task: str = 'rotation', seed: int = 0, like: np.ndarray | None = None, **columns: np.ndarray
) -> np.ndarray:
    """Store a pretext run whose loss follows `like` in part; returns the loss [N]."""
    noise = np.random.default_rng([seed, len(task)]).normal(size=N)
    loss = np.exp(noise + (0 if like is None else np.log(like))).astype('float32')
    put(
        {'images': {'label': LABEL, 'loss': loss, **columns}},
        'pretext',
        dataset=MINI,
        task=task,
        seed=seed,
    )
    return loss


def put_probe(task: str, seed: int, accuracy: float, **fields) -> None:
    spec = specs.spec('representation', dataset=MINI, task=task, seed=seed, **fields)
    made = store.Computed({}, {'accuracy': accuracy}, data.CLASSES, {})
    store.write(
        store.roots()[0], spec, specs.data_digest(spec), made, {'commit': 'c0ffee', 'seconds': 0}
    )


def test_a_task_needs_a_pretext_and_a_main_run():
    assert by_task.row(MINI, 'rotation') is None
    put_pretext()
    assert by_task.row(MINI, 'rotation') is None and by_task.rows(MINI) == []
    put_losses('main', dataset='cifar10')
    assert by_task.row(MINI, 'rotation') is None
    put_losses('main', dataset=MINI)
    assert by_task.row(MINI, 'rotation').task == 'rotation' and by_task.row(MINI, 'jigsaw') is None


def test_a_row_holds_scipys_correlations_over_all_pairs_of_runs():
    main = [put_losses('main', seed, MINI) for seed in (0, 1)]
    pretext = [put_pretext(seed=seed, like=main[0]) for seed in (0, 1, 2)]
    row = by_task.row(MINI, 'rotation')
    assert row.rho.value == pytest.approx(np.mean([rho(a, b) for a in pretext for b in main]))
    assert row.rho.seeds == '3 pretext x 2 main' and row.rho.low < row.rho.value < row.rho.high
    inside = [rho(pretext[0][c == LABEL], main[0][c == LABEL]) for c in range(10)]
    assert row.within == pytest.approx(np.mean(inside))
    between = [rho(pretext[a], pretext[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert row.reliability == pytest.approx(
        np.mean(between)
    ) and row.main_reliability == pytest.approx(rho(*main))
    assert row.ceiling == pytest.approx(np.sqrt(np.mean(between) * rho(*main)))
    assert [r.spec.seed for r in row.pretext] == [0, 1, 2]
    assert [r.spec.seed for r in row.main] == [0, 1]


def test_further_readings_are_correlated_too_but_not_repeats_nor_what_only_some_runs_have():
    main = put_losses('main', dataset=MINI)
    grey, odd = main[::-1].copy(), np.arange(N, dtype='float32')
    put_pretext(seed=0, grey=grey, loss_0=odd, late=odd)
    put_pretext(seed=1, grey=main, loss_0=odd)
    row = by_task.row(MINI, 'rotation')
    assert list(row.others) == ['grey'] and row.others['grey'].value == pytest.approx(
        (rho(grey, main) + 1) / 2
    )


def test_one_run_has_no_reliability_and_opposite_runs_no_ceiling():
    main = put_losses('main', 0, MINI)
    put_pretext('jigsaw', like=main)
    row = by_task.row(MINI, 'jigsaw')
    assert row.reliability is row.main_reliability is row.ceiling is None
    put_losses('main', 1, MINI)
    loss = put_pretext('rotation', 0)
    put({'images': {'label': LABEL, 'loss': 1 / loss}}, 'pretext', dataset=MINI, seed=1)
    row = by_task.row(MINI, 'rotation')
    assert row.reliability == pytest.approx(-1) and row.main_reliability > 0 and row.ceiling is None


def test_a_row_follows_the_store():
    put_losses('main', dataset=MINI)
    put_pretext()
    one = by_task.row(MINI, 'rotation')
    assert by_task.row(MINI, 'rotation') is one  # not bootstrapped again
    put_pretext(seed=1)
    two = by_task.row(MINI, 'rotation')
    assert (len(one.pretext), len(two.pretext), two.probes) == (1, 2, ())
    put_probe('rotation', 0, 0.5)
    assert by_task.row(MINI, 'rotation').probe() == 0.5


def test_probes_are_means_over_the_seeds_of_this_very_task():
    put_losses('main', dataset=MINI)
    put_pretext()
    assert by_task.row(MINI, 'rotation').probe() is None
    put_probe('rotation', 0, 0.25)
    put_probe('rotation', 1, 0.5)
    put_probe('jigsaw', 0, 0.9)
    put_probe('none', 0, 0.1)
    put_probe('rotation', 0, 0.95, width=4)
    put_probe('rotation', 0, 0.125, transfer='cifar10', **by_task.TRANSFER)
    row = by_task.row(MINI, 'rotation')
    assert row.probe() == 0.375 and len(row.probes) == 2
    (moved,) = by_task.transfers(MINI, 'rotation', 'cifar10')
    assert moved.summary['accuracy'] == 0.125 and by_task.transfers(MINI, 'jigsaw', 'cifar10') == []


def test_rows_stand_in_the_order_of_the_registry_and_a_variant_is_a_task_of_its_own():
    put_losses('main', dataset=MINI)
    for task in ('simclr', 'jigsaw:grid=3', 'rotation', 'jigsaw'):
        put_pretext(task)
    found = [row.task for row in by_task.rows(MINI)]
    assert (
        found
        == ['rotation', 'jigsaw', 'jigsaw:grid=3', 'simclr']
        == [task for task in TASKS if task in found]
    )
    assert [row.task for row in by_task.rows(MINI, ('simclr', 'pirl', 'jigsaw'))] == [
        'simclr',
        'jigsaw',
    ]
    loss = {row.task: row.pretext[0].tables['images']['loss'] for row in by_task.rows(MINI)}
    assert not np.array_equal(loss['jigsaw'], loss['jigsaw:grid=3'])


def test_the_table_prints_what_there_is_and_none_for_what_is_not():
    assert by_task.table(MINI) == []
    put_losses('main', dataset=MINI)
    for task, seed in (('rotation', 0), ('rotation', 1), ('jigsaw', 0)):
        put_pretext(task, seed)
    put_probe('rotation', 0, 0.25)
    first, second = by_task.table(MINI)
    row = by_task.row(MINI, 'rotation')
    assert first == {
        'task': 'rotation',
        'rho [95 % interval]': f'{row.rho.value:.2f} [{row.rho.low:.2f}, {row.rho.high:.2f}]',
        'within classes': round(row.within, 2),
        'reliability': round(row.reliability, 2),
        'ceiling': None,
        'probe, %': 25,
        'seeds': 2,
    }
    assert [second[name] for name in ('task', 'reliability', 'probe, %', 'seeds')] == [
        'jigsaw',
        None,
        None,
        1,
    ]
    assert by_task.table(MINI, ('jigsaw',)) == [second]


def test_the_partial_correlation_holds_light_and_colour_equal():
    data.DATASETS['two'] = lambda: (
        (
            data.split(
                np.stack([np.full((3, 4, 4), 50), np.arange(48).reshape(3, 4, 4)]),
                np.array([0, 1]),
                ('a', 'b'),
            ),
        )
        * 2
    )
    try:
        flat, ramp = by_task.confounders('two')
    finally:
        del data.DATASETS['two']
    assert flat.tolist() == [50, 0, 0]
    assert ramp == pytest.approx([23.5, np.std(np.arange(16)), (16 + 0 + 16) / 3])


def test_a_partial_correlation_needs_the_images_at_hand(monkeypatch, store_of_toys):
    label = data.arrays('toy')[0].labels.astype('int16')
    light = by_task.confounders('toy')
    noise = np.random.default_rng(0).normal(size=(3, 72)).astype('float32')
    brightness = (light[:, 0] - light[:, 0].mean()) / light[:, 0].std()
    put({'images': {'label': label, 'loss': 2 * brightness + noise[0]}}, 'pretext', dataset='toy')
    for seed in (0, 1):
        out = 2 * brightness + noise[1 + seed]
        put({'images': {'label': label, 'loss_out': out}}, 'main', dataset='toy', seed=seed)
    row = by_task.row('toy', 'rotation')
    found = by_task.partial(row)
    loss = row.pretext[0].tables['images']['loss']
    each = [
        stats.partial_rank_correlation(loss, r.tables['images']['loss_out'], light, draws=2).value
        for r in row.main
    ]
    assert found.value == pytest.approx(np.mean(each)) and abs(found.value) < 0.4 < row.rho.value
    monkeypatch.setattr(data, 'available', lambda name: False)
    by_task.confounders.cache_clear()
    assert by_task.partial(row) is None
    by_task.confounders.cache_clear()


@pytest.mark.parametrize(
    'module', ['pt4al.claims', 'pt4al.figures', 'pt4al.report', 'pt4al.experiments.records']
)
def test_a_page_does_not_wait_for_torch(module):
    code = f'import sys, {module}; sys.exit("torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT).returncode == 0
