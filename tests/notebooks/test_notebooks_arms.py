"""The notebooks that set arms side by side, the cold start and the factorial: their form, and
numbers on noise images.
"""

from __future__ import annotations

import numpy as np
import pytest
from notebook_form import FORM, execute

import pt4al
from pt4al import stats
from pt4al.errors import Refused
from pt4al.experiments import specs

pytestmark = pytest.mark.long


@pytest.fixture(autouse=True)
def toys(store_of_toys):
    return store_of_toys


@pytest.mark.parametrize('rule', FORM)
@pytest.mark.parametrize('name', ['cold_start', 'ablation', 'sensitivity'])
def test_they_have_the_form_of_all_notebooks(name, rule):
    rule(name)


def test_the_cold_start_compares_first_queries_paired_by_seed(capsys):
    variables = execute(
        'cold_start', dataset='toy', arms='random,pt4al,class_matched', seeds=2, epochs=1
    )
    runs, said = variables['found'], capsys.readouterr().out
    assert all(r.spec.until == 1 for each in runs.values() for r in each)
    first = {
        arm: np.array([100 * r.tables['cycles']['accuracy'][0] for r in each])
        for arm, each in runs.items()
    }
    gap = stats.paired_difference(first['pt4al'], first['random'])
    assert (
        f'uniform in the hardest batch (the paper): {gap.value:.1f} [{gap.low:.1f}, {gap.high:.1f}] points'
        in said
    )
    picked = [
        [np.sort(r.tables['picks']['label']).tolist() for r in runs[arm]]
        for arm in ('pt4al', 'class_matched')
    ]
    # the control has the classes, and here nothing else to differ by
    assert picked[0] == picked[1]


def test_the_factorial_fills_its_cells_and_sets_orders_against_shuffled(capsys):
    variables = execute(
        'ablation',
        dataset='toy',
        orders='hardest,shuffled',
        samplers='confidence,random',
        seeds=2,
        epochs=1,
    )
    area, said = variables['area'], capsys.readouterr().out
    assert variables['cells'] == {
        ('hardest', 'confidence'): 'pt4al',
        ('hardest', 'random'): 'pt4al_random',
        ('shuffled', 'confidence'): 'pt4al_shuffled',
        ('shuffled', 'random'): 'pt4al_shuffled_random',
    }
    gap = float(np.mean(area['pt4al'] - area['pt4al_shuffled']))
    assert f'confidence: hardest first minus shuffled {gap:.1f} [' in said


def test_picks_are_measured_by_an_encoder_where_one_is_named():
    variables = execute(
        'active_learning', dataset='toy', seeds=2, pretext_runs=1, epochs=1, encoder='jigsaw'
    )
    assert [row['strategy'] for row in variables['rows']] == ['random', 'pt4al']
    found = [
        r.tables['queries']['radius'].mean()
        for r in pt4al.runs(
            'diagnosis',
            dataset='toy',
            strategy='pt4al',
            epochs=1,
            minibatches='even',
            encoder='jigsaw',
        )
    ]
    assert len(found) == 2 and variables['rows'][1]['largest distance'].startswith(
        f'{np.mean(found):.3f} ['
    )


def test_the_sensitivity_study_starts_from_the_base_and_changes_one_factor_at_a_time(
    capsys, monkeypatch
):
    monkeypatch.setitem(
        specs.DEFAULTS, ('toy', 'trajectory'), {'width': 4, 'epochs': 2, 'batch': 32, 'log': (1, 2)}
    )
    variables = execute(
        'sensitivity', dataset='toy', seeds=2, pretext_seeds=1, lengths='1', variants='none,shared'
    )
    levels = {(level.factor, level.level) for level in variables['levels']}
    assert {
        ('base', 'in-sample, epoch 2, constant rate'),
        ('evaluation set', 'out-of-fold, epoch 2'),
        ('pretext length', '1 epoch'),
        ('augmentation', 'no augmentation'),
        ('shared weights', 'from the rotation backbone, epoch 2'),
    } <= levels
    assert f'Starting point: {variables["base"].rho.value:.2f} [' in capsys.readouterr().out


@pytest.mark.parametrize(
    'name, given, message',
    [
        ('sensitivity', {'variants': 'flop'}, "unknown variant 'flop': did you mean 'flip'"),
        ('cold_start', {'arms': 'random'}, 'give at least 2'),
        ('cold_start', {'arms': 'random,pt4a'}, "unknown strategy 'pt4a': did you mean 'pt4al'"),
        ('cold_start', {'seeds': 0}, 'give a whole number of at least 1'),
        ('ablation', {'orders': 'hardst'}, "unknown order 'hardst': did you mean 'hardest'"),
        (
            'ablation',
            {'samplers': 'confidence,entrpy'},
            "unknown sampler 'entrpy': did you mean 'entropy'",
        ),
        ('ablation', {'orders': 'none', 'samplers': 'random'}, 'is the baseline alone'),
        ('cold_start', {'arms': 'random,random'}, 'lists random twice'),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_trained(name, given, message, toys):
    with pytest.raises(Refused, match=message):
        execute(name, dataset='toy', **given)
    assert not toys.exists()
