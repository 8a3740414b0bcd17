"""Segmentation: mean IoU by counting, a U-Net that learns shapes on noise, and runs of active
learning.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import shapes, write_camvid
from torch import nn

from pt4al import experiments
from pt4al.data.scenes import VOID
from pt4al.errors import Refused
from pt4al.experiments import segmentation, store
from pt4al.experiments.specs import seeded, spec
from pt4al.query import SEGMENTATION
from pt4al.rng import initialising
from pt4al.training.execution import Execution
from pt4al.training.nets import resnet18

torch.set_num_threads(1)
CLASSES = ('background', 'square', 'bar')
CPU = Execution('cpu', 'fp32', 1)


def scenes(n: int, seed: int) -> segmentation.Scenes:
    return segmentation.Scenes(*map(torch.from_numpy, shapes(n, seed)), CLASSES)


def trunk(width: int = 4) -> nn.Sequential:
    with initialising(0, 'test'):
        return resnet18(width)


def train(trunk: nn.Module, scenes, encode=segmentation.views.normalise, **fields):
    usual = {'epochs': 1, 'lr': 0.1, 'milestones': (), 'batch': 4}
    s = segmentation.Segmentation('camvid', **usual | fields)
    return segmentation.train(s, trunk, scenes, CPU, encode, 'test')


# --- measures ---


def test_iou_is_what_one_counts_pixel_by_pixel():
    rng = np.random.default_rng(0)
    predicted, masks = rng.integers(3, size=(2, 5, 5, 6))
    masks[rng.random(masks.shape) < 0.2] = VOID
    for c in range(3):
        both = sum((p == c) and (m == c) for p, m in zip(predicted.flat, masks.flat))
        either = sum(
            ((p == c) or (m == c)) and m != VOID for p, m in zip(predicted.flat, masks.flat)
        )
        got = segmentation.intersection_over_union(
            torch.from_numpy(predicted), torch.from_numpy(masks).byte(), 4
        )
        assert got[c].item() == pytest.approx(both / either)
    assert got[3].isnan()


def test_the_loss_of_an_image_is_the_mean_over_its_pixels_that_are_not_void():
    logits, masks = (
        torch.randn(3, 4, 5, 6, generator=torch.manual_seed(0)),
        torch.randint(4, (3, 5, 6)).byte(),
    )
    masks[0, 1:, 2] = VOID
    masks[2] = VOID
    loss = segmentation.pixel_loss(logits.bfloat16(), masks)
    chosen = [
        [
            -logits[i].bfloat16().float().log_softmax(0)[masks[i, r, c].int(), r, c]
            for r in range(5)
            for c in range(6)
            if masks[i, r, c] != VOID
        ]
        for i in (0, 1)
    ]
    assert (
        loss.tolist() == pytest.approx([*(np.mean(rows) for rows in chosen), 0], rel=1e-5)
        and loss.dtype == torch.float32
    )


# --- network ---


@pytest.mark.parametrize('side', [32, 36])
def test_every_pixel_gets_a_score_and_every_stage_is_joined(side):
    net = segmentation.UNet(trunk(), 3)
    x = torch.randn(2, 3, side, side, requires_grad=True)
    net((x,)).square().sum().backward()
    assert net((x,)).shape == (2, 3, side, side) and all(
        p.grad.abs().sum() > 0 for p in net.parameters()
    )


def test_a_trunk_is_trained_while_the_given_one_stays():
    given = trunk()
    before = {name: value.clone() for name, value in given.state_dict().items()}
    made = train(given, scenes(8, 0))[0]
    again = segmentation.recalibrate(
        given, (segmentation.views.normalise(scenes(8, 0).pixels),)
    ).state_dict()
    same = {
        name: torch.equal(value, again[name]) for name, value in made.trunk.state_dict().items()
    }
    assert not any(same.values())
    assert all(torch.equal(value, before[name]) for name, value in given.state_dict().items())


def test_a_frozen_trunk_stays_as_it_is_while_its_decoder_learns():
    start, given = trunk(), scenes(8, 3)
    before, after = (train(start, given, epochs=epochs, lr=0.05, frozen=1)[0] for epochs in (0, 2))
    for name, value in after.trunk.state_dict().items():
        assert torch.equal(value, before.trunk.state_dict()[name]), name
    assert not torch.equal(after.last.weight, before.last.weight)


def test_a_supervised_trunk_is_that_of_a_classifier(monkeypatch):
    specs = []
    monkeypatch.setattr(segmentation, 'trunk', lambda s: specs.append(s) or ('trunk', None))
    one = spec('segmentation', dataset='camvid:32', width=8, seed=2, start='supervised')
    assert segmentation._start(one) == ('trunk', None)
    assert (specs[0].supervised, specs[0].dataset, specs[0].seed) == (1, 'cifar10-mini', 2)


def test_a_mask_is_mirrored_with_its_image_and_half_of_them_are(monkeypatch):
    masks = torch.from_numpy(shapes(40, 0)[1])
    given = segmentation.Scenes(masks[:, None].expand(-1, 3, -1, -1).clone(), masks, CLASSES)
    seen = []
    monkeypatch.setattr(segmentation, 'fit', lambda model, batches, *_: seen.extend(batches(0)))
    train(trunk(), given, lambda pixels: pixels.float(), batch=10)
    images, targets = (
        torch.cat([inputs[0] for inputs, _ in seen]),
        torch.cat([targets for _, targets in seen]),
    )
    assert torch.equal(images[:, 0], targets.float()) and len(targets) == 40
    plain = {mask.numpy().tobytes() for mask in masks}
    assert 10 < sum(mask.numpy().tobytes() in plain for mask in targets) < 30


@pytest.mark.long
def test_shapes_on_noise_are_learnt_and_training_again_gives_the_same_network():
    learning, held = scenes(64, 0), scenes(16, 1)
    made, history = train(trunk(8), learning, epochs=12, lr=0.05, milestones=(9,), batch=8)
    guess = (
        segmentation.intersection_over_union(torch.zeros_like(held.masks), held.masks, 3)
        .nanmean()
        .item()
    )
    predicted = segmentation.score(made, held)[0]
    iou = segmentation.intersection_over_union(predicted, held.masks, 3).nanmean().item()
    assert iou > 0.6 > 1.5 * guess and history.loss[-1] < history.loss[0] / 2
    short = [train(trunk(), scenes(8, 0), seed=seed)[0] for seed in (0, 0, 1)]
    maps = [
        net((segmentation.views.normalise(held.pixels[:2]),)) for net in map(nn.Module.eval, short)
    ]
    assert torch.equal(maps[0], maps[1]) and not torch.equal(maps[0], maps[2])


def test_entropy_and_loss_are_means_over_the_pixels_of_an_image():
    net, given = segmentation.UNet(trunk(), 3), scenes(3, 0)
    predicted, entropy, loss = segmentation.score(net, given)
    with torch.no_grad():
        posterior = net.eval()((segmentation.views.normalise(given.pixels),)).softmax(1)
    assert torch.equal(predicted, posterior.argmax(1))
    by_hand = -(posterior * posterior.log()).sum(1).mean((1, 2))
    assert entropy.tolist() == pytest.approx(by_hand.tolist(), rel=1e-4)
    one = segmentation.score(net, segmentation.Scenes(given.pixels[2:3], given.masks[2:3], CLASSES))
    assert loss[2].item() == pytest.approx(one[2].item(), rel=1e-4)


# --- runs ---


def test_a_run_labels_frames_by_the_pretext_loss_and_repeats(tmp_path, monkeypatch):
    write_camvid(tmp_path / 'camvid', 12)
    monkeypatch.setenv('PT4AL_DATA', str(tmp_path))
    monkeypatch.setenv('PT4AL_RESULTS', str(tmp_path / 'results'))
    fields = {'dataset': 'camvid:16', 'width': 2, 'epochs': 1, 'budget': 2, 'cycles': 3}
    pretext = spec('pretext', dataset=fields['dataset'], width=2, epochs=1)
    runs = {
        name: experiments.get(spec('segmentation', strategy=name, pretext=pretext, **fields))
        for name in SEGMENTATION
    }
    for result in runs.values():
        cycle = result.tables['images']['cycle']
        assert np.bincount(cycle).tolist() == [6, 2, 2, 2]
        assert result.tables['cycles']['labels'].tolist() == [2, 4, 6]
        assert (result.tables['images']['loss'] > 0).all() and len(result.classes) == 11
    table = runs['pt4al'].tables['images']
    batch = np.argsort(np.argsort(-table['pretext_loss'])) // 4 + 1
    labelled = table['cycle'] > 0
    assert (table['cycle'] == batch)[labelled].all()
    first = spec('segmentation', strategy='pt4al', pretext=pretext, **fields)
    again = segmentation.run(first, tmp_path)
    np.testing.assert_array_equal(
        again.tables['classes']['iou'], runs['pt4al'].tables['classes']['iou']
    )
    warm = segmentation.run(
        spec('segmentation', strategy='random', start='pretext', pretext=pretext, **fields),
        tmp_path,
    )
    assert warm.summary['iou'] != runs['random'].summary['iou']
    frozen = spec('segmentation', strategy='random', frozen=1, pretext=pretext, **fields)
    assert segmentation.run(frozen, tmp_path).summary['iou'] != runs['random'].summary['iou']
    assert store.read(runs['random'].folder).key == runs['random'].key


def test_what_cannot_run_is_refused_before_training(tmp_path):
    with pytest.raises(Refused, match='has no masks'):
        segmentation.run(spec('segmentation', dataset='cifar10-mini'), tmp_path)
    with pytest.raises(Refused, match='unknown strategy'):
        spec('segmentation', dataset='camvid', strategy='badge')
    with pytest.raises(Refused, match="image size '7': give a number"):
        spec('segmentation', dataset='camvid:7')
    two = seeded(spec('segmentation', dataset='camvid'), 2)
    assert (two.seed, two.pretext.seed) == (2, 2)
