"""The three experiments on 72 noise images: specs, tables, equal bits when run again, and what
SIGKILL leaves.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT
from toys import N, images_trained, parquet, toy

import pt4al
from pt4al import data
from pt4al.errors import NotStored, Refused
from pt4al.experiments import main, pretext, running, store
from pt4al.experiments.specs import Main, Pretext, spec
from pt4al.training import fit

pytestmark = pytest.mark.usefixtures('store_of_toys')


# --- specs ---


def test_keys_of_stored_results_do_not_change():
    """A changed default or recipe shows here first: it would orphan every result computed with it."""
    keys = {
        ('pretext', 'cifar10'): '74b738cda9b7',
        ('main', 'cifar10'): '87324fbad041',
        ('active', 'cifar10', 'random', 1): 'f5bfd7129445',
        ('active', 'cifar10', 'pt4al', 1): 'e94674aac1c7',
    }
    for (kind, dataset, *rest), key in keys.items():
        fields = dict(zip(('strategy', 'until'), rest))
        assert store.key(spec(kind, dataset=dataset, **fields), data.key_digest(dataset)) == key


@pytest.mark.parametrize('kind', ['pretext', 'main', 'trajectory', 'active', 'representation'])
def test_full_minibatches_leave_keys_as_they_are_and_even_ones_do_not(kind):
    usual, full, even = (
        store.key(spec(kind, dataset='toy', minibatches=cut), 'digest')
        for cut in (None, 'full', 'even')
    )
    assert usual == full != even
    with pytest.raises(Refused, match="unknown minibatches 'odd'"):
        spec(kind, dataset='toy', minibatches='odd')


def test_even_minibatches_reach_training(store_of_toys):
    """One epoch of 40 images in batches of 32: 32 and 8, or 20 and 20."""
    fields = {'dataset': 'toy', 'strategy': 'random', 'budget': 40, 'until': 1, 'epochs': 1}
    full, even = (
        pt4al.get(spec('active', **fields, batch=32, minibatches=cut)) for cut in ('full', 'even')
    )
    tables = [result.tables for result in (full, even)]
    assert (tables[0]['picks']['index'] == tables[1]['picks']['index']).all()
    assert [table['epochs']['steps'].tolist() for table in tables] == [[2], [2]]
    assert tables[0]['epochs']['loss'] != tables[1]['epochs']['loss']


def test_spec_fills_in_the_defaults_of_the_data_set():
    assert spec('pretext', dataset='toy') == Pretext('toy', width=4, epochs=2, batch=32)
    assert spec('pretext', dataset='toy', epochs=3, seed=None) == Pretext(
        'toy', width=4, epochs=3, batch=32
    )
    assert spec('main', dataset='cifar10') == Main('cifar10')
    made = spec('active', dataset='toy', strategy='pt4al', seed=4, pretext_seed=2)
    assert made.pretext == Pretext('toy', seed=2, width=4, epochs=2, batch=32) and made.seed == 4
    assert spec('active', dataset='toy', strategy='random', pretext_seed=2).pretext is None


@pytest.mark.parametrize(
    'kind, fields, message',
    [
        (
            'pretxt',
            {'dataset': 'toy'},
            r"unknown kind of experiment 'pretxt': did you mean 'pretext'\?",
        ),
        ('pretext', {'dataset': 'cifar1'}, r"unknown dataset 'cifar1': did you mean 'cifar10'"),
        ('pretext', {}, 'name a data set'),
        (
            'pretext',
            {'dataset': 'toy', 'epoch': 3},
            r"unknown parameter of pretext 'epoch': did you mean 'epochs'",
        ),
        (
            'main',
            {'dataset': 'toy', 'fold': 3},
            r"unknown parameter of main 'fold': did you mean 'folds'\?",
        ),
        ('main', {'dataset': 'toy', 'task': 'rotation'}, r"unknown parameter of main 'task'"),
        ('pretext', {'dataset': 'toy', 'recipe': 2}, r"unknown parameter of pretext 'recipe'"),
        (
            'pretext',
            {'dataset': 'toy', 'task': 'rotatoin'},
            r"unknown task 'rotatoin': did you mean 'rotation'\?",
        ),
        (
            'active',
            {'dataset': 'toy', 'task': 'rotatoin'},
            r"unknown task 'rotatoin': did you mean 'rotation'\?",
        ),
        (
            'active',
            {'dataset': 'toy', 'strategy': 'pt4a'},
            r"unknown strategy 'pt4a': did you mean 'pt4al'",
        ),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(kind, fields, message):
    with pytest.raises(Refused, match=message):
        spec(kind, **fields)


@pytest.mark.parametrize(
    'name, value, kind',
    [
        ('epochs', 'abc', 'of type int'),
        ('epochs', True, 'of type int'),
        ('epochs', '1.5', 'of type int'),
        ('epochs', 1.5, 'of type int'),
        ('epochs', [3], 'of type int'),
        ('epochs', '', 'of type int'),
        ('epochs', float('inf'), 'of type int'),
        ('epochs', float('nan'), 'of type int'),
        ('seed', '0x1', 'of type int'),
        ('lr', 'fast', 'of type float'),
        ('lr', True, 'of type float'),
        ('lr', [0.1], 'of type float'),
        ('dataset', 3, 'name'),
        ('task', 3, 'of type str'),
        ('milestones', 5, 'whole numbers in brackets'),
        ('milestones', '3, 4', 'whole numbers in brackets'),
        ('milestones', [1.5], 'whole numbers in brackets'),
        ('milestones', '[1.5]', 'whole numbers in brackets'),
        ('milestones', [True], 'whole numbers in brackets'),
        ('milestones', 'abc', 'whole numbers in brackets'),
    ],
)
def test_a_wrong_type_is_refused(name, value, kind):
    message = (
        f'parameter {name} is .*: it must be {kind}' if kind != 'name' else "unknown dataset '3'"
    )
    with pytest.raises(Refused, match=message):
        spec('pretext', **{'dataset': 'toy', name: value})


@pytest.mark.parametrize(
    'kind, name, value',
    [
        *[('pretext', name, 0) for name in ('width', 'epochs', 'batch', 'repeats')],
        ('main', 'folds', 1),
        ('main', 'epochs', -2),
        ('active', 'cycles', 0),
        ('active', 'budget', 0),
        ('active', 'until', 4),
        ('active', 'until', -1),
        *[('main', 'lr', value) for value in (0, -1, 'nan', 'inf')],
    ],
)
def test_a_value_no_run_can_use_is_refused(kind, name, value):
    with pytest.raises(Refused, match=f'parameter {name} is .*: '):
        spec(kind, dataset='toy', **{name: value})


def test_what_papermill_and_a_shell_hand_over_is_accepted():
    typed = spec(
        'pretext', dataset='toy', epochs='3', seed='7', lr='0.05', milestones='[1, 2]', batch=16.0
    )
    assert typed == spec(
        'pretext', dataset='toy', epochs=3, seed=7, lr=0.05, milestones=(1, 2), batch=16
    )
    assert [type(value) for value in (typed.epochs, typed.lr, typed.milestones[0])] == [
        int,
        float,
        int,
    ]
    assert store.key(typed, 'd') == store.key(dataclasses.replace(typed), 'd')
    assert spec('active', dataset='toy', pretext_seed='2').pretext.seed == 2


# --- what is computed ---

# one for each field that a strategy can ask for; the others differ in the query only
STRATEGIES = (
    'random',
    'pt4al',
    'learning_loss',
    'probcover',
    'coreset',
    'pt4al_released',
    'pt4al_typiclust',
    'class_matched',
)


def run_all(strategies: Sequence[str] = STRATEGIES) -> dict[str, store.Result]:
    specs = [
        spec('pretext', dataset='toy'),
        spec('main', dataset='toy', folds=3),
        *[spec('active', dataset='toy', strategy=strategy) for strategy in strategies],
    ]
    return {f'{s.kind} {getattr(s, "strategy", "")}'.strip(): pt4al.get(s) for s in specs}


def test_every_experiment_runs_and_again_gives_equal_bytes(tmp_path, monkeypatch):
    first = run_all()
    assert all(
        pt4al.get(spec('active', dataset='toy', strategy=s), 'never').key
        == first[f'active {s}'].key
        for s in STRATEGIES
    )
    monkeypatch.setenv('PT4AL_RESULTS', str(tmp_path / 'b'))
    torch.rand(3)
    np.random.rand(3)
    again = run_all(STRATEGIES[:5])  # that the others draw alike is in their contract
    for name, result in list(first.items())[: len(again)]:
        assert parquet(again[name]) == parquet(result) and again[name].summary == result.summary
        assert again[name].folder.parent == tmp_path / 'b'
    check_pretext(first['pretext'])
    check_main(first['main'])
    for name in STRATEGIES:
        check_active(first[f'active {name}'], toy()[0].labels)


def test_what_asks_about_images_sees_the_middle_frame_of_a_clip(monkeypatch):
    def clips() -> data.Pair:
        return tuple(
            data.split(
                np.pad(
                    np.stack([255 - part.pixels, part.pixels, part.pixels // 2], 1),
                    ((0, 0), (0, 0), (0, 1), (0, 0), (0, 0)),  # and a sound
                ),
                part.labels,
                part.classes,
            )
            for part in toy()
        )

    monkeypatch.setitem(data.DATASETS, 'moving', clips)
    for kind, fields in (('pretext', {'task': 'colorization'}), ('main', {'folds': 2})):
        fields |= {'width': 4, 'epochs': 1, 'batch': 32}
        images, moving = (
            pt4al.get(spec(kind, dataset=name, **fields)) for name in ('toy', 'moving')
        )
        for name, values in images.tables['images'].items():
            assert (values == moving.tables['images'][name]).all()
    whole = running.prepared(spec('pretext', dataset='moving', task='frame_order'))[1].pixels
    assert whole.shape == (N, 3, 4, 32, 32)


def check_pretext(result: store.Result) -> None:
    images, epochs = result.tables['images'], result.tables['epochs']
    assert np.array_equal(images['label'], toy()[0].labels) and images['loss'].shape == (N,)
    assert (
        np.isfinite(images['loss']).all() and images['loss'].min() > 0 and images['loss'].std() > 0
    )
    assert result.summary['mean_loss'] == pytest.approx(images['loss'].mean(), rel=1e-5)
    assert epochs['epoch'].tolist() == [1, 2] and epochs['steps'].tolist() == [3, 3]
    assert result.summary['last_epoch_loss'] == pytest.approx(epochs['loss'][-1])
    assert result.provenance['threads'] == 1 and result.classes == ('a', 'b', 'c')


def check_main(result: store.Result) -> None:
    images, epochs = result.tables['images'], result.tables['epochs']
    assert np.bincount(images['fold']).tolist() == [24, 24, 24]
    # 48 images by 32
    assert epochs['run'].tolist() == [0, 0, 1, 1, 2, 2] and epochs['steps'].tolist() == [2] * 6
    assert result.summary['accuracy_out'] == pytest.approx(images['right_out'].mean())


def test_losses_are_by_the_wrong_labels_and_the_table_keeps_the_true_ones(monkeypatch, tmp_path):
    monkeypatch.setattr(main.noise, 'wrong', lambda noise, dataset, labels, seed: (labels + 1) % 3)
    asked = dataclasses.replace(spec('main', dataset='toy', folds=3), noise='symmetric:20')
    noisy, clean = (
        main.run(s, tmp_path / s.noise).tables['images']
        for s in (asked, dataclasses.replace(asked, noise=''))
    )
    assert np.array_equal(noisy['label'], toy()[0].labels) and noisy['wrong'].all()
    assert 'wrong' not in clean and not np.allclose(noisy['loss_out'], clean['loss_out'])
    assert store.key(asked, 'd') != store.key(dataclasses.replace(asked, noise=''), 'd')


def check_active(result: store.Result, labels: np.ndarray) -> None:
    picks, cycles, classes = (result.tables[name] for name in ('picks', 'cycles', 'classes'))
    assert picks['cycle'].tolist() == [1] * 8 + [2] * 8 + [3] * 8 and len(set(picks['index'])) == 24
    assert np.array_equal(picks['label'], labels[picks['index']])
    assert cycles['labels'].tolist() == [8, 16, 24] and cycles['steps'].tolist() == [1, 2, 3]
    mean = classes['accuracy'].reshape(3, 3).mean(1)  # ten test images of each class
    assert cycles['accuracy'] == pytest.approx(mean, abs=1e-6)
    assert result.summary == {'accuracy': pytest.approx(cycles['accuracy'][-1]), 'labels': 24}


def test_no_image_of_a_fold_is_seen_by_the_classifier_that_judges_it(monkeypatch):
    made, train = [], main.train_classifier

    def spy(s, chosen, images, index, *rest):
        model, history = train(s, chosen, images, index, *rest)
        made.append((index, model))
        return model, history

    monkeypatch.setattr(main, 'train_classifier', spy)
    images = pt4al.get(spec('main', dataset='toy', folds=3)).tables['images']
    pixels, labels = (torch.tensor(part) for part in (toy()[0].pixels, toy()[0].labels))
    logits = [fit.predict(model, pixels).logits for _, model in made]
    losses = torch.stack([fit.classification_loss(rows, labels) for rows in logits]).numpy()
    for i in range(N):
        judges = [k for k, (index, _) in enumerate(made) if i not in index.tolist()]
        others = [k for k in range(3) if k not in judges]
        assert judges == [images['fold'][i]]
        assert images['loss_out'][i] == pytest.approx(losses[judges[0], i])
        assert images['loss_in'][i] == pytest.approx(losses[others, i].mean(), rel=1e-5)


def test_another_seed_is_another_result_and_runs_lists_them():
    a, b = (pt4al.get(spec('pretext', dataset='toy', seed=seed, epochs=1)) for seed in (1, 0))
    pt4al.get(spec('pretext', dataset='toy', epochs=2))
    assert not np.array_equal(a.tables['images']['loss'], b.tables['images']['loss'])
    assert [r.key for r in pt4al.runs('pretext', dataset='toy', epochs=1)] == [b.key, a.key]
    with pytest.raises(Refused, match='leave seed out'):
        pt4al.runs('pretext', dataset='toy', epochs=1, seed=1)


def test_a_pretext_spec_is_of_the_same_images_and_dropped_where_no_strategy_reads_it():
    other = spec('pretext', dataset='cifar10-mini')
    with pytest.raises(Refused, match='pretext is of cifar10-mini, not of toy: give one of it'):
        spec('active', dataset='toy', pretext=other)
    with pytest.raises(Refused, match='pretext has width 8, not 16'):
        spec('trajectory', dataset='toy', width=16, pretext=spec('pretext', dataset='toy', width=8))
    pretext = spec('pretext', dataset='toy')
    with pytest.raises(Refused, match='give pretext, or task and pretext_seed: not both'):
        spec('active', dataset='toy', pretext=pretext, task='jigsaw')
    random = {'dataset': 'toy', 'strategy': 'random'}
    assert spec('active', **random, pretext=pretext) == spec('active', **random)


def test_a_short_trajectory_logs_the_usual_epochs_that_it_has():
    assert spec('trajectory', dataset='toy', epochs=4).log == (1, 2)
    with pytest.raises(Refused, match='parameter log'):
        spec('trajectory', dataset='toy', epochs=4, log=[1, 5])


def test_repeats_are_columns():
    images = pt4al.get(spec('pretext', dataset='toy', epochs=1, repeats=2)).tables['images']
    assert set(images) == {'label', 'loss', 'loss_0', 'loss_1'} and np.array_equal(
        images['loss_0'], images['loss_1']
    )


def test_never_computes_nothing_wherever_it_is_said(monkeypatch, store_of_toys):
    for policy, variable in (('never', 'missing'), (None, 'never')):
        monkeypatch.setenv('PT4AL_COMPUTE', variable)
        with pytest.raises(NotStored, match='no result pretext'):
            pt4al.get(spec('pretext', dataset='toy'), policy)
    with pytest.raises(Refused, match="unknown policy 'newer': did you mean 'never'"):
        pt4al.get(spec('pretext', dataset='toy'), 'newer')
    assert not store_of_toys.exists()


@pytest.mark.parametrize(
    'fields, message',
    [
        ({'budget': 25}, 'budget of 75 images in 3 cycles is above the pool of 72'),
        ({'cycles': 7, 'until': 2, 'budget': 11}, 'budget 11 is above the 10 images of a batch'),
    ],
)
def test_a_plan_that_cannot_run_is_refused_before_the_pretext_task_is_trained(
    fields, message, store_of_toys
):
    with pytest.raises(Refused, match=message):
        pt4al.get(spec('active', dataset='toy', **fields))
    assert store.find('pretext') == [] and not [
        *store_of_toys.rglob('*.*pt'),
        *store_of_toys.glob('*-*'),
    ]


def test_more_folds_than_images_are_refused():
    with pytest.raises(Refused, match='73 folds of 72 images'):
        pt4al.get(spec('main', dataset='toy', folds=73))


def test_a_diverging_rate_is_refused_and_leaves_no_result(store_of_toys):
    with pytest.raises(
        Refused, match=r'toy rotation seed 0: the loss is .* in epoch 1 at learning rate 1e\+20'
    ):
        pt4al.get(spec('pretext', dataset='toy', lr=1e20))
    assert store.find('pretext') == []


# --- SIGKILL ---


def kill_when(pattern: str, asked: dict, root: Path) -> Path:
    """Run `get` in another process and kill it when a file of `pattern` is in the scratch; returns
    that file.
    """
    code = (
        'import json, sys; sys.path[:0] = sys.argv[2:]; import pt4al, toys; toys.register();'
        'pt4al.get(pt4al.spec(**json.loads(sys.argv[1])))'
    )
    child = subprocess.Popen(
        [sys.executable, '-c', code, json.dumps(asked), str(ROOT / 'tests'), str(ROOT)]
    )
    try:
        deadline = time.monotonic() + 100
        while not (found := list(root.glob(f'.partial/*/{pattern}'))) and child.poll() is None:
            assert time.monotonic() < deadline, 'no sign of work'
            time.sleep(0.002)
    finally:
        child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, 'it ended before it could be killed'
    assert [path.name for path in root.iterdir() if path.name.startswith(asked['kind'])] == []
    return found[0]


@pytest.mark.slow
def test_killed_pretext_training_goes_on_to_equal_bytes(tmp_path, monkeypatch):
    asked = {'kind': 'pretext', 'dataset': 'toy', 'epochs': 8}
    whole = pt4al.get(spec(**asked))
    monkeypatch.setenv('PT4AL_RESULTS', str(tmp_path / 'killed'))
    checkpoint = kill_when('fit.pt', asked, tmp_path / 'killed')
    done = len(torch.load(checkpoint, weights_only=True)['history']['loss'])
    assert 1 <= done < 8
    assert store.find('pretext') == []
    counts = images_trained(monkeypatch)
    resumed = pt4al.get(spec(**asked))
    assert counts == [N * (8 - done)]
    assert parquet(resumed) == parquet(whole) and resumed.summary == whole.summary
    assert os.listdir(tmp_path / 'killed' / '.partial') == []


@pytest.mark.slow
def test_killed_active_learning_goes_on_to_equal_bytes(tmp_path, monkeypatch):
    asked = {'kind': 'active', 'dataset': 'toy', 'strategy': 'pt4al', 'cycles': 8, 'epochs': 3}
    whole = pt4al.get(spec(**asked))
    monkeypatch.setenv('PT4AL_RESULTS', str(tmp_path / 'killed'))
    kill_when('cycle-001.json', asked, tmp_path / 'killed')
    done = len(list((tmp_path / 'killed').glob('.partial/*/cycle-*.json')))
    assert 2 <= done < 8
    assert store.find('active') == [] and len(store.find('pretext')) == 1
    counts = images_trained(monkeypatch)
    resumed = pt4al.get(spec(**asked))
    # the model of the last whole cycle is trained again, for the query that follows; the pretext
    # task is not
    assert counts == [3 * 8 * labelled for labelled in range(done, 9)]
    assert parquet(resumed) == parquet(whole) and resumed.summary == whole.summary
    assert os.listdir(tmp_path / 'killed' / '.partial') == []


def test_an_interrupted_fold_goes_on_to_equal_bytes(tmp_path, monkeypatch):
    asked = {'kind': 'main', 'dataset': 'toy', 'folds': 2, 'epochs': 3}
    whole = pt4al.get(spec(**asked))
    monkeypatch.setenv('PT4AL_RESULTS', str(tmp_path / 'killed'))
    save, saves = fit._save, []

    def stops(*given):
        save(*given)
        saves.append(given[0].name)
        if len(saves) == 4:  # the second fold's first epoch
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fit, '_save', stops)
        pt4al.get(spec(**asked))
    counts = images_trained(monkeypatch)
    assert parquet(pt4al.get(spec(**asked))) == parquet(whole)
    assert saves == ['fold-0.pt'] * 3 + ['fold-1.pt'] and counts == [0, 2 * (N // 2)]


# --- diagnoses ---


def test_a_diagnosis_is_that_of_the_runs_picks_by_the_encoders_features_and_out_of_fold_doubt():
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

    from pt4al.experiments import diagnosis, representation

    made = spec('diagnosis', dataset='toy', strategy='pt4al', seed=1, encoder='jigsaw')
    found = pt4al.get(made)
    task, model = pretext.trained(made.encoder)
    pixels, labels = (
        torch.tensor(x) for x in (data.arrays('toy')[0].pixels, data.arrays('toy')[0].labels)
    )
    features = torch.nn.functional.normalize(
        representation.embed(model.trunk, pixels, task.encode)
    ).numpy()
    scaled = (
        (features - features.mean(0)) / np.maximum(features.std(0), 1e-6) / features.shape[1] ** 0.5
    )
    logits = np.empty((N, 3))
    for seen, rest in StratifiedKFold(5).split(scaled, labels):
        logits[rest] = (
            LogisticRegression(C=1.0, max_iter=300)
            .fit(scaled[seen], labels[seen])
            .predict_log_proba(scaled[rest])
        )
    picks, queries = pt4al.get(made.active).tables['picks'], found.tables['queries']
    for k in range(3):
        now, so_far = picks['cycle'] == k + 1, picks['cycle'] <= k + 1
        oracle = diagnosis.diagnose(
            picks['index'][now], picks['index'][so_far], labels.numpy(), 3, features, logits
        )
        for name, value in oracle.items():
            assert queries[name][k] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    assert queries['labels'].tolist() == [8, 16, 24]


def test_runs_of_a_diagnosis_are_those_of_every_seed_of_the_run_it_looks_at():
    for seed in (0, 2):
        pt4al.get(
            spec('diagnosis', dataset='toy', strategy='random', seed=seed, encoder='rotation')
        )
    found = pt4al.runs('diagnosis', dataset='toy', strategy='random', encoder='rotation')
    assert [r.spec.active.seed for r in found] == [r.spec.seed for r in found] == [0, 2]
    assert not pt4al.runs('diagnosis', dataset='toy', strategy='pt4al', encoder='jigsaw')


def test_no_run_is_measured_with_the_network_that_ordered_its_pool():
    with pytest.raises(
        Refused,
        match='rotation of seed 0 ordered the pool itself: give another encoder, or encoder_seed',
    ):
        spec('diagnosis', dataset='toy', strategy='pt4al', encoder='rotation')
    assert (
        spec(
            'diagnosis', dataset='toy', strategy='pt4al', encoder='rotation', encoder_seed=1
        ).encoder.seed
        == 1
    )
    with pytest.raises(Refused, match="unknown parameter of active 'enkoder'"):
        spec('diagnosis', dataset='toy', strategy='pt4al', enkoder='rotation')
