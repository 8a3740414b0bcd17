"""What training says of every image while it goes on: equal to plain loops, to `Main`, and after an
interruption.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys import N

import pt4al
from pt4al import data
from pt4al.data import views
from pt4al.errors import Refused
from pt4al.experiments import pretext, trajectory
from pt4al.experiments.specs import spec
from pt4al.training import fit

pytestmark = [pytest.mark.usefixtures('store_of_toys'), pytest.mark.long]

torch.set_num_threads(1)


def made(**fields):
    return spec(
        'trajectory',
        **{'dataset': 'toy', 'width': 4, 'epochs': 4, 'batch': 32, 'log': (1, 2, 4), **fields},
    )


def equal(a: pt4al.experiments.store.Result, b: pt4al.experiments.store.Result) -> bool:
    return all(
        (a.folder / f'{t}.parquet').read_bytes() == (b.folder / f'{t}.parquet').read_bytes()
        for t in a.tables
    )


def test_the_losses_at_an_epoch_are_those_of_the_main_task_trained_to_it():
    images = pt4al.get(made()).tables['images']
    for epochs in (2, 4):
        main = pt4al.get(
            spec('main', dataset='toy', width=4, epochs=epochs, batch=32, milestones=())
        ).tables['images']
        for side in ('out', 'in'):
            np.testing.assert_array_equal(images[f'loss_{side}_{epochs}'], main[f'loss_{side}'])
    np.testing.assert_array_equal(images['fold'], main['fold'])


def test_what_is_counted_over_training_is_what_a_loop_counts(tmp_path):
    train, test = data.load('toy')
    trace = trajectory.Trace(train, test, (9,), tmp_path)
    rng = np.random.default_rng(0)
    total, forgotten, right = np.zeros(N), np.zeros(N), np.zeros(N, bool)
    for _ in range(40):
        index = rng.choice(N, 10, replace=False)
        outputs, losses = rng.normal(size=(10, 3)), rng.random(10)
        trace.on_batch(
            torch.tensor(index), torch.tensor(outputs), torch.tensor(losses, dtype=torch.float32)
        )
        for i, row, loss in zip(index, outputs, losses):
            now = row.argmax() == train.labels[i]
            total[i], forgotten[i], right[i] = (
                total[i] + loss,
                forgotten[i] + (right[i] and not now),
                now,
            )
    np.testing.assert_allclose(trace.tally['total'], total, rtol=1e-5)
    np.testing.assert_array_equal(trace.tally['forgotten'], forgotten)
    assert forgotten.max() > 1


def test_means_are_over_the_models_that_trained_on_an_image(monkeypatch):
    seen, original = [], trajectory.Trace.on_batch

    def spy(self, index, outputs, losses):
        seen.append((id(self), index.clone(), losses.clone()))
        original(self, index, outputs, losses)

    monkeypatch.setattr(trajectory.Trace, 'on_batch', spy)
    images = pt4al.get(made(folds=3)).tables['images']
    sums = np.zeros(N)
    for _, index, losses in seen:
        np.add.at(sums, index.numpy(), losses.numpy())
    # two of three models, four epochs
    np.testing.assert_allclose(images['loss_mean'], sums / 2 / 4, rtol=1e-5)
    assert (
        all(len(index) <= 32 for _, index, _ in seen)
        and sum(len(index) for _, index, _ in seen) == 2 * N * 4
    )


def test_early_error_norms_and_accuracies_are_those_of_the_logits(monkeypatch):
    kept, original = {}, trajectory.Trace.watch

    def spy(self, model):
        out = original(self, model)
        kept.setdefault(self.folder.name, {})[self.epoch] = [
            fit.predict(model, part.pixels).logits for part in (self.train, self.test)
        ]
        return out

    monkeypatch.setattr(trajectory.Trace, 'watch', spy)
    found = pt4al.get(made(log=(2, 4)))
    train, test = data.load('toy')
    images, fold = found.tables['images'], found.tables['images']['fold']
    for epoch in (2, 4):
        # [N,C], in-sample
        logits = np.stack([kept[f'fold-{f}'][epoch][0] for f in (0, 1)])[1 - fold, np.arange(N)]
        p = torch.tensor(logits).double().softmax(1).numpy()
        p[np.arange(N), train.labels] -= 1
        np.testing.assert_allclose(images[f'error_{epoch}'], np.linalg.norm(p, axis=1), atol=2e-3)
    log = found.tables['log']
    assert log['epoch'].tolist() == [2, 4]
    assert log['in'][1] == pytest.approx((logits.argmax(1) == train.labels.numpy()).mean())
    right = [
        (kept[f'fold-{f}'][4][1].argmax(1) == test.labels).float().mean().item() for f in (0, 1)
    ]
    assert log['test'][1] == pytest.approx(np.mean(right)) == found.summary['accuracy_test']
    assert found.tables['test']['loss_4'].shape == (30,)


@pytest.mark.parametrize('after', [1, 3, 6])
def test_an_interrupted_run_goes_on_to_equal_bytes(after, monkeypatch, tmp_path):
    whole = pt4al.get(made())
    saves, original = [], fit._save

    def stop(*args):
        original(*args)
        saves.append(1)
        if len(saves) == after:
            raise KeyboardInterrupt

    monkeypatch.setenv('PT4AL_RESULTS', str(tmp_path / 'b'))
    monkeypatch.setattr(fit, '_save', stop)
    with pytest.raises(KeyboardInterrupt):
        pt4al.get(made())
    monkeypatch.setattr(fit, '_save', original)
    assert equal(whole, pt4al.get(made()))


def test_a_stop_between_the_record_and_the_checkpoint_counts_no_epoch_twice(monkeypatch, tmp_path):
    whole = pt4al.get(made())
    monkeypatch.setenv('PT4AL_RESULTS', str(tmp_path / 'b'))
    original, calls = fit._save, []

    def fail(*args):
        calls.append(1)
        if len(calls) == 3:
            # the record of epoch 3 is kept, its checkpoint is not
            raise KeyboardInterrupt
        original(*args)

    monkeypatch.setattr(fit, '_save', fail)
    with pytest.raises(KeyboardInterrupt):
        pt4al.get(made())
    monkeypatch.setattr(fit, '_save', original)
    assert equal(whole, pt4al.get(made()))


def test_a_shared_start_has_the_trunk_of_the_pretext_task_of_its_seed():
    shared = made(task='rotation', seed=1)
    assert shared.pretext.seed == 1 and shared.pretext.task == 'rotation' and made().pretext is None
    images = pt4al.get(shared).tables['images']
    assert not np.array_equal(
        images['loss_in_1'], pt4al.get(made(seed=1)).tables['images']['loss_in_1']
    )
    found = pt4al.runs(
        'trajectory', dataset='toy', width=4, epochs=4, batch=32, log=(1, 2, 4), task='rotation'
    )
    assert [r.spec.seed for r in found] == [1]


def test_augmentations_are_those_of_their_names():
    images = torch.arange(3 * 2 * 4 * 4).float().view(3, 2, 4, 4).repeat(20, 1, 1, 1)
    flipped = views.AUGMENTATIONS['flip'](images, torch.Generator().manual_seed(0))
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    assert ((flipped == images).flatten(1).all(1) ^ mirrored).all() and 10 < mirrored.sum() < 50
    assert views.AUGMENTATIONS['none'](images, torch.Generator()) is images
    a, b = (
        pt4al.get(made(augment=name)).tables['images']['loss_in_4']
        for name in ('crop_flip', 'none')
    )
    assert not np.array_equal(a, b)


@pytest.mark.parametrize(
    'fields, message',
    [
        ({'log': (5,)}, r'parameter log is \[5\]: give epochs from 1 to 4'),
        ({'log': ()}, 'parameter log is'),
        ({'augment': 'flop'}, "unknown augment 'flop': did you mean 'flip'"),
        ({'folds': 1}, 'needs at least 2'),
    ],
)
def test_what_cannot_be_logged_is_refused(fields, message):
    with pytest.raises(Refused, match=message):
        made(**fields)


def test_pretext_tasks_that_keep_no_training_image_judge_the_test_images_too():
    run = pt4al.get(spec('pretext', dataset='toy'))
    task, model = pretext.trained(spec('pretext', dataset='toy'))
    test = data.load('toy')[1]
    x = views.turns(views.normalise(test.pixels)).flatten(0, 1)
    model.eval()
    with torch.no_grad():
        losses = (
            torch.nn.functional.cross_entropy(
                model((x,)), torch.arange(4).repeat(30), reduction='none'
            )
            .view(30, 4)
            .mean(1)
        )
    np.testing.assert_allclose(run.tables['test']['loss'], losses, rtol=1e-4)
    assert (
        'test'
        not in pt4al.get(spec('pretext', dataset='toy', task='pirl:negatives=64', batch=8)).tables
    )
