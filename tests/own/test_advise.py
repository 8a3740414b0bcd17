"""The advice: what it measures, against oracles; what it says where the better order is known; and
when it abstains.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from helpers import PHOTOS as N
from helpers import plant, written
from scipy import stats as scipy_stats
from sklearn.linear_model import LogisticRegression

from pt4al.errors import Refused
from pt4al.own import advice, ranking
from pt4al.own.advice import Order
from pt4al.rng import stream
from pt4al.stats.correlation import Estimate

torch.set_num_threads(1)


@pytest.fixture
def quick(monkeypatch) -> None:
    monkeypatch.setattr(advice, 'SPLITS', 4)
    monkeypatch.setattr(advice, 'DRAWS', 1)
    monkeypatch.setattr(advice, 'REPEATS', 2)


# --- does the rank predict the loss? ---


def test_the_probe_is_logistic_regression_on_standardised_features():
    x, _, y = advice.simulated(120, 0, np.random.default_rng(0), classes=3, d=5)
    scaled = (x - x[:80].mean(0)) / (x[:80].std(0) * math.sqrt(5))
    want = (
        LogisticRegression(C=1.0, max_iter=300)
        .fit(scaled[:80], y[:80])
        .predict_log_proba(scaled[80:])
    )
    np.testing.assert_allclose(advice.probe(x[:80], y[:80], x[80:], 3), want, atol=1e-9)
    lacking = advice.probe(x[:80], np.where(y[:80] == 1, 0, y[:80]), x[80:], 3)
    assert lacking[:, 1] == pytest.approx(math.log(1e-6)) and np.isfinite(lacking).all()
    assert advice.probe(x[:9], np.full(9, 2), x[80:], 3).argmax(1).tolist() == [2] * 40


def test_no_image_is_scored_by_a_classifier_that_saw_its_label(quick):
    # noise that can be learnt by heart
    x, y = np.random.default_rng(0).standard_normal((60, 80)), np.arange(60) % 2
    assert (
        np.mean(-advice.probe(x, y, x, 2)[range(60), y])
        < 0.6
        < np.mean(advice.out_of_fold(x, y, 0))
    )


def test_rho_and_its_ceiling_find_a_loss_that_predicts(quick):
    x, _, y = advice.simulated(150, 0, np.random.default_rng(1), classes=3, d=6)
    own_loss = advice.out_of_fold(x, y, 5).mean(0)
    rho, ceiling = advice.agreement(x, own_loss, y)
    none, _ = advice.agreement(x, np.random.default_rng(2).random(150), y)
    assert rho.low > 0.5 and ceiling > rho.value and none.low < 0 < none.high


# --- which order would have served? ---


def test_the_interval_is_the_corrected_resampled_t():
    gap = np.random.default_rng(0).normal(3, 1, 15)
    found = advice.compare({'hardest': gap, 'typical': -gap}, margin=2.0)
    # Nadeau & Bengio, test 1/3, rest 2/3
    error = gap.std(ddof=1) * math.sqrt(1 / 15 + 0.5)
    t = gap.mean() / error
    assert found['hardest'].gap.high - gap.mean() == pytest.approx(
        scipy_stats.t.ppf(0.975, 14) * error
    )
    assert found['hardest'].p == pytest.approx(min(1, 2 * 2 * scipy_stats.t.sf(t, 14)))
    assert (found['hardest'].verdict, found['typical'].verdict) == ('better', 'worse')
    near = advice.compare({'hardest': gap - 3, 'typical': gap}, margin=3.0)['hardest']
    assert near.verdict == 'equal' and near.same == pytest.approx(
        2 * scipy_stats.t.cdf((abs(near.gap.value) - 3) / error, 14)
    )


def order(verdict: str, gap: float = 0.0) -> Order:
    return Order(Estimate(gap, gap - 1, gap + 1, 15, '', ''), 0.5, 0.5, verdict)


@pytest.mark.parametrize(
    'hardest, typical, choice',
    [
        (order('better', 3), order('better', 2), 'hardest'),
        (order('better', 3), order('better', 4), 'typical'),
        (order('undecided'), order('better', 2), 'typical'),
        (order('equal'), order('worse', -3), 'random'),
        (order('equal'), order('undecided', 5), 'undecided'),
        (order('worse', -2), order('worse', -2), 'random'),
    ],
)
def test_an_order_is_named_only_where_it_is_better_and_random_only_where_none_can_be(
    hardest, typical, choice
):
    assert advice.choose_order({'hardest': hardest, 'typical': typical}) == choice


@pytest.mark.parametrize('strength, want', [(0.9, 'better'), (-0.9, None)])
def test_the_gaps_show_an_order_that_is_better_by_construction(quick, strength, want):
    x, loss, y = advice.simulated(240, strength, stream(0, 'test'), classes=4, d=12)
    found = advice.gaps(x, loss, y, splits=6)
    assert (found['hardest'].mean() > 3) if want else (found['hardest'].mean() < 0)
    again = advice.gaps(x, loss, y, splits=6)
    assert all((found[name] == again[name]).all() for name in found)


def test_a_round_labels_by_the_registered_strategy_from_the_hardest_part_on(monkeypatch):
    x, loss, y = advice.simulated(60, 0.5, np.random.default_rng(0), classes=3, d=4)
    seen = []
    monkeypatch.setattr(
        advice, 'probe', lambda x, *rest: seen.append(x) or np.zeros((len(rest[1]), 3))
    )
    advice.curve('pt4al_random', x, loss, y, x[:5], y[:5], 3, np.random.default_rng(0))
    hardest, budget = np.argsort(-loss), 60 // (2 * advice.TURNS)
    assert [len(rows) for rows in seen] == [budget * turn for turn in range(1, advice.TURNS + 1)]
    for turn, part in enumerate(np.array_split(hardest, advice.TURNS)):
        picked = [
            int(np.flatnonzero((x == row).all(1))[0])
            for row in seen[-1][turn * budget : (turn + 1) * budget]
        ]
        assert set(picked) <= set(part.tolist())


# --- in plain words ---


RHO = Estimate(0.1, -0.1, 0.3, 200, '', '')


def made(
    choice: str, strategy: str, sample: float = 0.5, rho: Estimate = RHO, gap: float = -0.4
) -> str:
    orders = {'hardest': order('better', 3.2), 'typical': order('undecided', gap)}
    found = advice.Advice(200, 5, rho, 0.9, sample, orders, choice, strategy, ())
    return ' '.join(advice.words(found, 'rotation', 2))


def test_it_says_in_words_what_the_numbers_say():
    said = made('hardest', 'pt4al')
    assert (
        'rotation loss does not visibly predict' in said
        and 'rho 0.10 [-0.10, 0.30] on 200 labelled images' in said
    )
    assert 'hardest first would have been better than random: +3.2 [+2.2, +4.2] points' in said
    assert 'typical first cannot be told apart from random: -0.4' in said
    assert 'told apart from random, 2 orders having been tried: -1.4 [-2.4, -0.4]' in made(
        'random', 'random', gap=-1.4
    )
    assert said.endswith('Label hardest first (--strategy pt4al), and ask again with more labels.')
    assert '200 labels are not enough to tell. When in doubt label at random' in made(
        'undecided', 'random'
    )
    assert 'No order is better than random here' in made('random', 'random')
    assert 'not a random sample of the folder' in made('undecided', 'random', sample=1e-5)
    assert ' weakly predicts' in made('random', 'random', rho=Estimate(0.2, 0.1, 0.3, 9, '', ''))
    assert ' runs against' in made('random', 'random', rho=Estimate(-0.2, -0.3, -0.1, 9, '', ''))


def test_labels_from_one_end_of_the_order_are_not_taken_for_a_sample(quick):
    x, loss, y = advice.simulated(60, 0.9, np.random.default_rng(0), classes=2, d=4)
    whole = advice.judge(x, loss, y, np.arange(1, 61) / 60)
    hard = advice.judge(x, loss, y, 0.9 + np.arange(60) / 600)
    assert (
        whole.sample > 0.9
        and hard.sample < 1e-6
        and (hard.choice, hard.strategy) == ('undecided', 'random')
    )
    assert dataclasses.replace(
        whole, choice='', strategy='', sample=0, says=()
    ) == dataclasses.replace(hard, choice='', strategy='', sample=0, says=())


def test_of_very_many_labels_a_part_is_looked_at(quick, monkeypatch):
    monkeypatch.setattr(advice, 'MOST', 50)
    x, loss, y = advice.simulated(80, 0, np.random.default_rng(0), classes=2, d=4)
    assert advice.judge(x, loss, y, np.arange(1, 81) / 80).labels == 50


# --- a folder, a simulation ---


def test_a_folder_and_its_labels_become_advice_and_share_the_networks_of_rank(
    quick, tmp_path, monkeypatch
):
    truth = plant(tmp_path / 'photos', 48)
    monkeypatch.chdir(tmp_path)
    ranking.rank('photos', budget=4, cycles=4, epochs=1, features='rotation')
    monkeypatch.setattr('pt4al.training.fit.fit', lambda *_, **__: pytest.fail('trained again'))
    names = sorted(truth)[:44]
    found = advice.advise('photos', written(tmp_path / 'l.csv', truth, names), epochs=1)
    assert (found.labels, found.classes) == (44, 3) and found.choice in (
        'hardest',
        'typical',
        'random',
        'undecided',
    )
    assert len(found.says) >= 4 and all(
        sentence.endswith(('.', 'labels.')) for sentence in found.says
    )
    assert advice.advise('photos', tmp_path / 'l.csv', epochs=1) == found


def test_one_class_against_a_single_image_is_no_ground_for_advice(tmp_path):
    truth = plant(tmp_path / 'photos', N + 8)
    names = sorted(truth)[:45]
    labels = dict.fromkeys(names, 'r') | {names[0]: 'g'}
    with pytest.raises(Refused, match="44 of 45 labels are of the class 'r': label at least 5"):
        advice.advise(tmp_path / 'photos', written(tmp_path / 'l.csv', labels, names))


@pytest.mark.parametrize(
    'count, margin, message',
    [
        (20, 2.0, '20 labels are not enough to tell: label at least 40'),
        (44, 0.0, 'margin is 0: give points of accuracy'),
        (1, 2.0, "of the class 'r'"),
    ],
)
def test_too_little_is_refused_before_any_training(tmp_path, monkeypatch, count, margin, message):
    truth = plant(tmp_path / 'photos', N + 8)
    monkeypatch.setattr('pt4al.training.fit.fit', lambda *_, **__: pytest.fail('trained'))
    with pytest.raises(Refused, match=message):
        advice.advise(
            tmp_path / 'photos',
            written(tmp_path / 'l.csv', truth, sorted(truth)[:count]),
            margin=margin,
        )


def test_the_calibration_counts_choices_against_the_truth(monkeypatch):
    monkeypatch.setattr(
        advice, 'truth', lambda n, strength, pools, seed: {'hardest': 5 * strength, 'typical': -1.0}
    )
    made = iter(['hardest', 'undecided', 'typical', 'random', 'hardest', 'random'])
    monkeypatch.setattr(advice, '_simulated_choice', lambda *_: next(made))
    up, down = advice.calibration(sizes=(60,), strengths=(0.9, -0.9), runs=3)['rows']
    assert up['best'] == 'hardest' and up['choices'] == {
        'hardest': 1,
        'typical': 1,
        'random': 0,
        'undecided': 1,
    }
    assert up['wrong'] == 1 and down['best'] == 'random' and down['wrong'] == 1
    assert advice._wrong('random', up['true'], 2.0) and not advice._wrong('random', up['true'], 5.0)


def test_a_small_calibration_runs_and_its_truth_has_the_sign_of_the_strength(quick):
    made = advice.calibration(sizes=(90,), strengths=(0.9,), runs=1, pools=4)
    (row,) = made['rows']
    assert row['true']['hardest'] > 2 and sum(row['choices'].values()) == 1 and row['labels'] == 90
    assert advice.truth(90, -0.9, 4)['hardest'] < 0
