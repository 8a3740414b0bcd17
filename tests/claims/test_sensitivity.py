"""One factor changed at a time: every level is the correlation of the columns it names."""

from __future__ import annotations

import dataclasses
import math

import chapters
import numpy as np
import pytest
import released
from helpers import put
from scipy import stats as scipy_stats

from pt4al import stats
from pt4al.claims import sensitivity
from pt4al.claims.sensitivity import levels, reconciles
from pt4al.stats.correlation import Estimate

pytestmark = pytest.mark.usefixtures('root')

N, M, LOG = 1200, 300, (1, 2, 50)
LABEL = np.arange(N, dtype='int16') % 10
DATA = 'cifar10-mini'


def latent(n: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=n)


def losses(n: int, *seed: int) -> np.ndarray:
    return np.exp(latent(n) + np.random.default_rng(seed).normal(size=n)).astype('float32')


def put_pretext(seed: int, test: bool = True, **fields) -> np.ndarray:
    loss = (
        losses(N, 1, seed, *fields.values())
        if all(isinstance(v, int) for v in fields.values())
        else losses(N, 1, seed, 9)
    )
    tables = {'images': {'label': LABEL, 'loss': loss}}
    put(
        tables | ({'test': {'loss': losses(M, 1, seed)}} if test else {}),
        'pretext',
        dataset=DATA,
        seed=seed,
        **fields,
    )
    return loss


def put_trajectory(seed: int, salt: int = 2, **fields) -> dict[str, np.ndarray]:
    images = {
        'label': LABEL,
        **{
            f'loss_{side}_{e}': losses(N, salt, seed, e, k)
            for e in LOG
            for k, side in enumerate(('in', 'out'))
        },
        'error_1': losses(N, salt, seed, 7).astype('float16'),
        'loss_mean': losses(N, salt, seed, 8),
        'forgotten': np.floor(losses(N, salt, seed, 9)),
    }
    log = {
        'epoch': np.array(LOG, 'int16'),
        'in': np.array([0.3, 0.4, 0.9]),
        'out': np.array([0.3, 0.4, 0.5]),
        'test': np.array([0.3, 0.5, 0.45]),
    }
    put(
        {
            'images': images,
            'test': {f'loss_{e}': losses(M, salt, seed, e) for e in LOG},
            'log': log,
        },
        'trajectory',
        dataset=DATA,
        seed=seed,
        **fields,
    )
    return images


def by_name(found) -> dict[tuple[str, str], sensitivity.Level]:
    assert len({(level.factor, level.level) for level in found}) == len(found)
    return {(level.factor, level.level): level for level in found}


def rho(x: np.ndarray, y: np.ndarray) -> float:
    return float(
        np.mean(
            [
                scipy_stats.spearmanr(a, b).statistic
                for a in np.atleast_2d(x)
                for b in np.atleast_2d(y)
            ]
        )
    )


def test_nothing_is_told_without_both_sides():
    assert levels(DATA) == []
    put_pretext(0)
    assert levels(DATA) == []


def test_every_level_is_the_correlation_of_its_columns():
    x = np.stack([put_pretext(seed) for seed in (0, 1)])
    runs = [put_trajectory(seed) for seed in (0, 1)]
    y = {name: np.stack([r[name].astype('float32') for r in runs]) for name in runs[0]}
    found = levels(DATA)
    assert found[0].factor == 'base'
    told = by_name(found)
    expected = {
        ('base', 'in-sample, epoch 50, constant rate'): y['loss_in_50'],
        ('evaluation set', 'out-of-fold, epoch 50'): y['loss_out_50'],
        ('training length', 'in-sample, epoch 1'): y['loss_in_1'],
        ('training length', 'out-of-fold, epoch 2'): y['loss_out_2'],
        ('checkpoint', 'in-sample, best on test (2)'): y['loss_in_2'],
        ('over training', 'mean loss'): y['loss_mean'],
        ('over training', 'forgetting events'): y['forgotten'],
        ('over training', 'error norm, epoch 1'): y['error_1'],
    }
    for name, main in expected.items():
        assert told[name].rho.value == pytest.approx(rho(x, main), abs=1e-6), name
        assert told[name].main_reliability == pytest.approx(rho(main[:1], main[1:]), abs=1e-6), name
        assert told[name].ceiling == pytest.approx(
            math.sqrt(rho(x[:1], x[1:]) * rho(main[:1], main[1:])), abs=1e-5
        )
        assert told[name].corrected.value == pytest.approx(
            told[name].rho.value / told[name].ceiling
        )
        assert told[name].corrected.low == pytest.approx(told[name].rho.low / told[name].ceiling)
    test = told['evaluation set', 'test images, epoch 50']
    assert test.rho.value == pytest.approx(
        rho(
            np.stack([losses(M, 1, s) for s in (0, 1)]),
            np.stack([losses(M, 2, s, 50) for s in (0, 1)]),
        ),
        abs=1e-6,
    )
    mean = [scipy_stats.rankdata(side, axis=1).mean(0) for side in (x, y['loss_out_50'])]
    assert told[
        'seeds averaged', '2 pretext and 2 main runs, out-of-fold'
    ].rho.value == pytest.approx(rho(*mean), abs=1e-4)
    assert (
        told['seeds averaged', '2 main runs, in-sample'].rho.value
        > told[found[0].factor, found[0].level].rho.value
    )


def test_a_table_of_levels_reads_back_as_the_levels_it_was_made_of():
    put_pretext(0)
    put_trajectory(0)
    found = levels(DATA)
    table = released.as_columns(found)
    assert {len(column) for column in table.values()} == {len(found)}
    for one, back in zip(found, released.from_columns(table), strict=True):
        # nan is not equal to itself
        assert repr(back) == repr(one)
    table['factor'] = np.array(['as text' if 'sort' in f else f for f in table['factor'].tolist()])
    assert repr(released.from_columns(table)) == repr(found)  # as an older table has it


def test_what_changes_over_the_epochs_is_told_run_by_run_and_pair_by_pair():
    assert chapters.by_epoch(DATA)[1] == {}
    x = [put_pretext(seed) for seed in (0, 1)]
    y = [put_trajectory(seed) for seed in (0, 1, 2)]
    epochs, found = chapters.by_epoch(DATA)
    assert epochs.tolist() == list(LOG)
    assert found['rho, out-of-fold'][2, 1] == pytest.approx(rho(np.stack(x), y[2]['loss_out_2']))
    assert found['reliability, in-sample'].shape == (3, 3)
    assert found['reliability, in-sample'][0, 2] == pytest.approx(
        rho(y[0]['loss_in_50'], y[1]['loss_in_50'])
    )


def test_other_trainings_and_lengths_are_levels_of_their_own():
    x, short = put_pretext(0), put_pretext(0, epochs=2, milestones=())
    # differs in more than its length
    put_pretext(0, batch=32)
    wide = put_pretext(0, width=32)
    own = put_trajectory(0)['loss_in_50']
    flip, shared = put_trajectory(0, 3, augment='flip'), put_trajectory(0, 4, task='rotation')
    told = by_name(levels(DATA))
    assert told['pretext length', '2 epochs'].rho.value == pytest.approx(rho(short, own), abs=1e-6)
    assert sum(factor == 'pretext length' for factor, _ in told) == 1
    assert told['width', 'rotation 32, classifier 16'].rho.value == pytest.approx(
        rho(wide, own), abs=1e-6
    )
    assert told['augmentation', 'flips only'].rho.value == pytest.approx(
        rho(x, flip['loss_in_50']), abs=1e-6
    )
    assert told['shared weights', 'from the rotation backbone, epoch 1'].rho.value == pytest.approx(
        rho(x, shared['loss_in_1']), abs=1e-6
    )
    single = told['shared weights', 'from the rotation backbone, epoch 50']
    assert single.ceiling is None and single.corrected is None
    main = losses(N, 6)
    put({'images': {'label': LABEL, 'loss_in': main, 'loss_out': main}}, 'main', dataset=DATA)
    assert by_name(levels(DATA))[
        'rate', 'decayed, 16 epochs, in-sample'
    ].rho.value == pytest.approx(rho(x, main), abs=1e-6)


def test_means_of_bins_inflate_and_samples_do_not():
    x, y = put_pretext(0), put_trajectory(0)['loss_in_50']
    told = by_name(levels(DATA))
    pooled = rho(x, y)
    ranks, order = scipy_stats.rankdata(y), np.argsort(x)
    ten = [ranks[part].mean() for part in np.array_split(order, 10)]
    assert told['level of analysis', 'means of 10 rank bins'].rho.value == pytest.approx(
        rho(np.arange(10), np.array(ten))
    )
    assert told['level of analysis', 'means of 10 rank bins'].rho.value > pooled + 0.2
    split = stats.between_within(x, y, LABEL)
    assert told['level of analysis', 'mean within a class'].rho.value == pytest.approx(
        split.within_class_rho
    )
    assert told['level of analysis', 'class means'].rho.value == pytest.approx(
        split.class_mean_correlation
    )
    some = told['number of images', '1,000 of 1,200 images'].rho
    assert some.value == pytest.approx(pooled, abs=0.02) and some.low < pooled < some.high


def test_text_puts_the_smallest_losses_among_the_largest():
    ranks = sensitivity.text_ranks(np.array([0.5, 9.7e-5, 0.9, 0.0004, 1.5]))
    # 0.0004 0.5 0.9 1.5 9.7e-05
    assert np.argsort(ranks).tolist() == [3, 0, 2, 4, 1]
    x, y = put_pretext(0), put_trajectory(0)['loss_in_50']
    told = by_name(levels(DATA))
    assert told['sorted as text', 'pretext side'].rho.value == pytest.approx(
        rho(sensitivity.text_ranks(x), y), abs=1e-6
    )
    assert told['sorted as text', 'both sides'].rho.value == pytest.approx(
        rho(*map(sensitivity.text_ranks, (x, y))), abs=1e-6
    )


@pytest.mark.parametrize(
    'base, value, width, found',
    [
        (0.44, 0.79, 0.06, True),
        (0.44, 0.74, 0.06, True),
        (0.44, 0.73, 0.06, False),
        (0.33, 0.68, 0.06, True),
        (0.33, 0.79, 0.06, False),
        (0.44, 0.79, 0.11, False),
    ],
)
def test_a_change_reconciles_if_it_moves_rho_as_far_as_the_published_values_lie_apart(
    base, value, width, found
):
    def level(v):
        return sensitivity.Level(
            'f', 'l', Estimate(v, v - width / 2, v + width / 2, N, '3 x 3', ''), None, None
        )

    assert reconciles(level(value), level(base), 0.79, 0.44) is found
    assert dataclasses.is_dataclass(level(value))
