"""The advice: what it measures, against oracles; what it says where the better order is known; and
when it abstains.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import PHOTOS as N
from helpers import picture, plant, written
from scipy import stats as scipy_stats
from sklearn.linear_model import LogisticRegression
from test_own import rows
from test_rounds import typed

from pt4al.errors import Refused
from pt4al.own import advice, ranking
from pt4al.own import features as embeddings
from pt4al.own.advice import Order, Source
from pt4al.rng import stream
from pt4al.stats.correlation import Estimate
from scripts.advice_trust import simulated, truth, wrong

pytestmark = pytest.mark.long

torch.set_num_threads(1)


@pytest.fixture
def quick(monkeypatch) -> None:
    monkeypatch.setattr(advice, 'DRAWS', 1)
    monkeypatch.setattr(advice, 'REPEATS', 2)


def test_the_classifier_is_logistic_regression_on_rows_of_length_one():
    x, _, y = simulated(120, 0, np.random.default_rng(0), classes=3, d=5)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    fitted = LogisticRegression(C=100.0, max_iter=300).fit(unit[:80], y[:80])
    want = fitted.predict_log_proba(unit[80:])
    np.testing.assert_allclose(embeddings.head(x[:80], y[:80], x[80:], 3), want, atol=1e-9)
    lacking = embeddings.head(x[:80], np.where(y[:80] == 1, 0, y[:80]), x[80:], 3)
    assert lacking[:, 1] == pytest.approx(math.log(1e-6)) and np.isfinite(lacking).all()
    assert embeddings.head(x[:9], np.full(9, 2), x[80:], 3).argmax(1).tolist() == [2] * 40


# --- which order would have served? ---


def test_the_interval_is_that_of_paired_images_widened():
    gain = np.random.default_rng(0).normal(3, 10, 400)
    right = {'random': 0 * gain, 'typical': gain / 100, 'hardest': -gain / 100}
    made = advice.compare({('x', name): one for name, one in right.items()})
    error = advice.SAFETY * gain.std(ddof=1) / 20
    one = made['x', 'typical']
    assert one.gap.high - gain.mean() == pytest.approx(scipy_stats.norm.ppf(0.975) * error)
    assert (one.verdict, made['x', 'hardest'].verdict) == ('better', 'not better')


def order(verdict: str, gap: float = 0.0) -> Order:
    return Order(Estimate(gap, gap - 1, gap + 1, 15, '', ''), verdict)


@pytest.mark.parametrize(
    'hardest, typical, choice',
    [
        (order('better', 3), order('better', 2), 'hardest'),
        (order('better', 3), order('better', 4), 'typical'),
        (order('undecided'), order('better', 2), 'typical'),
        (order('not better'), order('not better', -3), 'random'),
        (order('not better'), order('undecided', 5), 'undecided'),
    ],
)
def test_an_order_is_named_only_where_it_is_better_and_random_only_where_none_can_be(
    hardest, typical, choice
):
    orders = {
        ('x', 'hardest'): hardest,
        ('x', 'typical'): typical,
        ('y', 'typical'): order('better'),
    }
    assert advice.choose_order(orders, 'x') == choice


@pytest.mark.parametrize('strength', [0.9, -0.9])
def test_the_gains_show_an_order_that_is_better_by_construction(quick, strength):
    x, loss, y = simulated(240, strength, stream(0, 'test'), classes=4, d=12)
    sources = {'pretext': Source(x, loss), 'blind': Source(np.ones_like(x))}
    made = advice.curves(sources, y)
    gain = 100 * (made['pretext', 'hardest'] - made['pretext', 'random']).mean()
    assert gain > 2 if strength > 0 else gain < -5
    again = advice.curves(sources, y)
    assert all((made[key] == again[key]).all() for key in made)
    assert (
        advice._best_features({'a': made['blind', 'random'], 'b': made['pretext', 'random']}) == 'b'
    )
    assert advice._best_features({'a': np.zeros(9), 'b': np.zeros(9)}) == 'a'


def test_a_first_round_of_one_class_goes_on(quick):
    y = np.r_[np.zeros(55, int), np.ones(5, int)]
    x = np.random.default_rng(0).standard_normal((60, 4))
    made = advice.curves({'x': Source(x)}, y)
    assert set(made) == {('x', name) for name in ('random', 'typical', 'uncertain')}
    assert all(((one >= 0) & (one <= 1)).all() for one in made.values())


# --- in plain words ---


def made(choice: str, gap: float = -0.4, picked: int = 0) -> str:
    orders = {
        ('rotation', 'hardest'): order('better', 3.2),
        ('rotation', 'typical'): order('undecided', gap),
    }
    base = {'rotation': Estimate(40, 38, 42, 200, '', '')}
    out = advice.Advice(200, picked, orders, base, 'rotation', choice)
    return ' '.join(out.sentences)


def test_it_says_in_words_what_the_numbers_say():
    text = made('hardest')
    assert 'random labelling gives 40.0 % [38.0, 42.0]' in text
    assert 'hardest first on rotation features would have been better than random: +3.2' in text
    assert 'typical first on rotation features cannot be told apart from random: -0.4' in text
    assert 'told apart from random, 2 orders having been tried: -1.4 [-2.4, -0.4]' in made(
        'random', gap=-1.4
    )
    assert '(--features rotation --strategy pt4al), and ask again with more labels.' in text
    assert '200 labels are not enough to tell. When in doubt label at random' in made('undecided')
    assert 'No order is better than random here' in made('random')
    assert '9 of these labels were picked by a strategy' in made('random', picked=9)
    assert 'Labels that were not drawn at random bias' in text and 'picked' not in text


# --- a folder, a simulation ---


def test_a_folder_and_its_labels_become_advice_and_share_the_networks_of_rank(
    quick, tmp_path, monkeypatch, caplog
):
    truth = plant(tmp_path / 'photos', 48)
    truth[min(truth)] = 'none'
    monkeypatch.chdir(tmp_path)
    ranking.rank('photos', budget=4, cycles=4, epochs=1, features='rotation')
    monkeypatch.setattr('pt4al.training.fit.fit', lambda *_, **__: pytest.fail('trained again'))
    names = sorted(truth)[:44]
    labels = written(tmp_path / 'l.csv', truth, names)
    made = advice.advise('photos', labels, 'rotation', epochs=1)
    assert caplog.text.count("'none'") == 1  # named once as doubtful, however many features
    assert made.labels == 44 and made.choice in (*advice.ORDERS, 'random', 'undecided')
    assert made.picked == 4
    assert len(made.sentences) >= 4 and all(
        sentence.endswith(('.', 'labels.')) for sentence in made.sentences
    )
    assert advice.advise('photos', labels, 'rotation', epochs=1) == made


def test_picks_are_told_by_the_table_when_the_folder_has_changed(quick, tmp_path, monkeypatch):
    truth, table = plant(tmp_path / 'photos', 48), tmp_path / 'picks.csv'
    monkeypatch.chdir(tmp_path)
    features = f'file:{tmp_path}/x.npz'
    names = [*sorted(truth), 'new.png']
    np.savez('x.npz', path=names, features=np.random.default_rng(0).standard_normal((49, 3)))
    for strategy, count in {'random': 0, 'typiclust': 44}.items():
        ranking.rank('photos', budget=44, features=features, strategy=strategy)
        truth_of = {row['path']: truth[row['path']] for row in rows(table) if row['picked']}
        typed(table, label=truth_of)
        picture(99).save('photos/new.png')
        (tmp_path / 'photos' / next(iter(truth_of))).unlink()  # its row stays, as in rank
        made = advice.advise('photos', table, features)
        assert (made.labels, made.picked) == (43, max(0, count - 1))
        plant(tmp_path / 'photos', 48)
        (tmp_path / 'photos' / 'new.png').unlink()
        table.unlink()


def test_advice_matches_images_as_rank_does(tmp_path, monkeypatch):
    truth, table = plant(tmp_path / 'photos', 48), tmp_path / 'picks.csv'
    names = sorted(truth)
    monkeypatch.chdir(tmp_path)
    np.savez('x.npz', path=['new.png', *names], features=np.eye(49))
    ranking.rank('photos', budget=44, features='file:x.npz', strategy='random')
    typed(table, label=truth)
    (tmp_path / 'photos' / names[0]).rename('photos/new.png')
    monkeypatch.setattr(advice, 'judge', lambda _, label, *more: len(label))
    assert advice.advise('photos', table, 'file:x.npz') == 48
    picture(99).save(tmp_path / 'photos' / names[1])
    with pytest.raises(Refused, match=f"picks.csv' has labels of files that hold .*{names[1]}"):
        advice.advise('photos', table, 'file:x.npz')


def test_labels_that_no_images_share_are_no_classes(tmp_path):
    truth = plant(tmp_path / 'photos', N + 8)
    names = sorted(truth)[:45]
    for labels, message in (
        ({name: name for name in names}, '45 labels name 45 classes, most of one image'),
        (dict.fromkeys(names, '["r", "g"]'), 'images with several labels are not used: 45'),
    ):
        with pytest.raises(Refused, match=message):
            advice.advise(tmp_path / 'photos', written(tmp_path / 'l.csv', labels, names))


def test_one_class_against_a_single_image_is_no_ground_for_advice(tmp_path):
    truth = plant(tmp_path / 'photos', N + 8)
    names = sorted(truth)[:45]
    labels = dict.fromkeys(names, 'r') | {names[0]: 'g'}
    with pytest.raises(Refused, match="45 labels, 44 of them 'r', .* 5 at least of other classes"):
        advice.advise(tmp_path / 'photos', written(tmp_path / 'l.csv', labels, names))


@pytest.mark.parametrize(
    'count, message',
    [(20, '20 labels, .* are not enough to tell: label 40'), (1, "1 labels, 1 of them 'r'")],
)
def test_too_little_is_refused_before_any_training(tmp_path, monkeypatch, count, message):
    truth = plant(tmp_path / 'photos', N + 8)
    monkeypatch.setattr('pt4al.training.fit.fit', lambda *_, **__: pytest.fail('trained'))
    with pytest.raises(Refused, match=message):
        advice.advise(
            tmp_path / 'photos', written(tmp_path / 'l.csv', truth, sorted(truth)[:count])
        )


def test_features_made_elsewhere_are_compared_with_a_task(quick, tmp_path, monkeypatch):
    truth = plant(tmp_path / 'photos', 48)
    monkeypatch.chdir(tmp_path)
    names = sorted(truth)
    code = np.array([sorted(set(truth.values())).index(truth[name]) for name in names])
    x = np.eye(3)[code] + 0.1 * np.random.default_rng(0).standard_normal((48, 3))
    np.savez('x.npz', path=names, features=x)
    labels = written(tmp_path / 'l.csv', truth, names)
    made = advice.advise('photos', labels, 'file:x.npz, rotation', epochs=1)
    assert set(made.random) == {'file:x.npz', 'rotation'} and len(made.orders) == 6
    alone = advice.advise('photos', labels, 'file:x.npz')
    assert len(alone.orders) == 2 and alone.features == 'file:x.npz'
    monkeypatch.setattr(advice, 'MOST', 44)  # of very many labels a part is looked at
    assert advice.advise('photos', labels, 'file:x.npz').labels == 44
    with pytest.raises(Refused, match='epochs are for a task'):
        advice.advise('photos', labels, 'file:x.npz', epochs=3)
    with pytest.raises(Refused, match="unknown features 'rotatoin': did you mean 'rotation'"):
        advice.advise('photos', labels, 'auto,rotatoin')
    with pytest.raises(Refused, match="unknown features 'jigsaw:grid=3,permutations=25'"):
        advice.advise('photos', labels, 'auto,jigsaw:grid=3,permutations=25')


def test_a_choice_is_wrong_where_it_gains_nothing_or_misses_a_gain():
    true = {'hardest': 4.5, 'typical': -1.0}
    assert wrong('typical', true) and wrong('random', true)
    assert not wrong('hardest', true) and not wrong('undecided', true)
    assert not wrong('random', {'hardest': 1.5})


def test_the_truth_of_the_simulation_has_the_sign_of_the_strength(monkeypatch):
    monkeypatch.setattr('scripts.advice_trust.TEST', 300)
    assert truth(*simulated(900, 0.9, stream(0, 'test')), 90)['hardest'] > 2
    assert truth(*simulated(900, -0.9, stream(0, 'test')), 90)['hardest'] < 0


def test_labels_saved_are_those_that_random_labelling_needs_more(monkeypatch):
    import saved

    rows = [
        {'set': 'x', 'features': 'pretrained', 'arm': arm, 'seed': seed}
        | {'accuracy': [one + 0.1 * seed for one in accuracy]}
        for arm, accuracy in {'random': [0.2, 0.4], 'A': [0.3, 0.4], 'B': [0.1, 0.5]}.items()
        for seed in (0, 1)
    ]
    rows.append(rows[0] | {'seed': 2, 'accuracy': [0, 0]})  # no other arm has it
    rows.append(rows[0] | {'features': 'rotation', 'accuracy': [0.3, 0.3]})
    monkeypatch.setattr(saved, 'RECORD', {'rows': rows})
    monkeypatch.setitem(saved.SETS, 'x', {'labels': [100, 300]})
    assert [(row['features'], row['100 labels'][:4]) for row in saved.beside('x')] == [
        ('pretrained', '25.0'),
        ('rotation', '30.0'),
        ('pretrained', '35.0'),
        ('pretrained', '15.0'),
    ]
    assert saved.saved('x') == [
        {'strategy': 'A', '100 labels': '100 [100, 100]', '300 labels': '0 [0, 0]'},
        {'strategy': 'B', '100 labels': '≤\u00a00 [0, 0]', '300 labels': '≥\u00a00 [0, 0]'},
    ]


def test_picks_of_a_fine_tuned_network_are_compared_seed_by_seed(monkeypatch):
    import saved

    about = {'set': 'A', 'features': 'rotation', 'labels': 9}
    both = [
        {by: {'frozen': base + gain} for by, gain in gains.items()}
        for base, gains in (
            (0.5, {'random': 0, 'frozen': 0.1, 'finetuned': 0.13}),
            (0.3, {'random': 0, 'frozen': 0.1, 'finetuned': 0.11}),
        )
    ]
    rows = [about | {'seed': seed} | one for seed, one in enumerate(both)]
    monkeypatch.setattr(saved.records, 'load', lambda name: {'picks': rows})
    (row,) = saved.picked()
    assert (row['random, %'], row['margin, frozen, %'], row['seeds']) == ('40.0', '50.0', 2)
    assert row['fine-tuned above frozen, points'].startswith('2.0 [')
    assert saved.finetuned() == []
