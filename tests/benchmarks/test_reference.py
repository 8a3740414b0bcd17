"""Fast and plain paths come to the same: losses of fixed weights, weights after training, and the
augmentation's draws.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency, chisquare
from torch import nn

from benchmarks import reference
from pt4al import data, stats
from pt4al.data import views
from pt4al.rng import device_stream, initialising
from pt4al.tasks import TASKS
from pt4al.tasks.task import readings, recalibrate, training_inputs
from pt4al.training import fit, nets
from pt4al.training.execution import Execution
from pt4al.training.fit import Schedule, classification_loss, predict

torch.set_num_threads(1)
CPU, N = Execution('cpu', 'fp32', 1), 96
ROTATION = TASKS['rotation']()


@pytest.fixture(scope='module')
def images() -> data.Images:
    return data.load('cifar10-mini', 'cpu')[0]


@pytest.fixture(scope='module')
def model(images) -> nets.Model:
    """A small network with statistics of real images and a head that tells them apart."""
    with initialising(0, 'reference'):
        model = nets.Model(nets.resnet18(8), ROTATION.head(64)).to(
            memory_format=torch.channels_last
        )
    model.head.linear.weight.data *= 10
    return recalibrate(model, training_inputs(ROTATION, images.pixels[:64], device_stream(0, 'x')))


def fast(model: nets.Model, images: data.Images, precision: str) -> torch.Tensor:
    with Execution('cpu', precision, 1).autocast():
        return readings(model, ROTATION, images.pixels[:N], device_stream(0, 'x'))['loss']


def plain(model: nets.Model, images: data.Images) -> torch.Tensor:
    turned = reference.Turned(
        images.pixels[:N].numpy(), images.labels[:N].numpy(), reference.plain()
    )
    one_by_one = reference.loader(turned, 1, device_stream(0, 'x'), shuffle=False, workers=0)
    single = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    return torch.tensor([*reference.rotation_losses(single, one_by_one, 'cpu')])


def test_scoring_in_batches_gives_the_losses_of_one_image_at_a_time(model, images):
    slow, quick = plain(model, images), fast(model, images, 'fp32')
    assert slow.std() > 0.05 and torch.allclose(slow, quick, rtol=1e-5, atol=1e-5)


def test_scoring_in_bf16_keeps_the_order(model, images):
    slow, quick = plain(model, images), fast(model, images, 'bf16')
    assert not torch.equal(slow, quick) and stats.spearman(slow.numpy(), quick.numpy()) > 0.999


@pytest.mark.parametrize('rows', [20, 50])
def test_parts_of_a_forward_pass_give_equal_bits(model, images, rows, monkeypatch):
    monkeypatch.setattr(fit, 'MAPS', 2**40)
    classifier = nets.Model(model.trunk, nets.Pooled(64, 10))
    with torch.no_grad():
        classifier.head.linear.weight.normal_(generator=device_stream(0, 'y'))
    whole, said = fast(model, images, 'fp32'), predict(classifier, images.pixels[:N])
    shown = []
    model.trunk[0].register_forward_hook(lambda layer, inputs, output: shown.append(len(output)))
    monkeypatch.setattr(fit, 'MAPS', rows * 8 * images.pixels.shape[-1] ** 2)
    assert torch.equal(fast(model, images, 'fp32'), whole)
    assert torch.equal(predict(classifier, images.pixels[:N]).logits, said.logits)
    model.trunk[0]._forward_hooks.clear()
    assert max(shown) <= rows and min(shown) > rows / 2 and sum(shown) == 5 * N


def trained_both_ways(images: data.Images, trunk: nn.Module, dim: int, n: int, epochs: int):
    """A network trained by `fit` and its copy trained by the reference, on n images in file order,
    and their losses.
    """
    ours = nets.Model(trunk, nets.Pooled(dim, 10))
    theirs, (some, labels) = copy.deepcopy(ours), (images.pixels[:n], images.labels[:n])

    def batches(epoch):
        for index in torch.arange(n).split(16):
            yield (views.normalise(some[index]),), labels[index]

    history = fit.fit(
        ours.to(memory_format=torch.channels_last),
        batches,
        classification_loss,
        Schedule(epochs, 0.05),
        CPU,
        n,
        'toy',
    )
    pictures = reference.Pictures(some.numpy(), labels.numpy(), reference.plain())
    optimiser = reference.optimiser(theirs, 0.05)
    means = [
        reference.classify(
            theirs,
            reference.loader(pictures, 16, device_stream(0, 'x'), False, 0),
            optimiser,
            'cpu',
        )
        for _ in range(epochs)
    ]
    return [*ours.parameters()], [*theirs.parameters()], history.loss, means


def test_both_loops_train_to_the_same_weights(images):
    """Of the real network the first step, and loosely: what lies at the kink of a ReLU goes either
    way by rounding.
    """
    with initialising(0, 'loops'):
        small, large = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU()), nets.resnet18(4)
        for trunk, dim, n, epochs, within in ((small, 8, 48, 4, 1e-6), (large, 32, 16, 1, 5e-4)):
            before = next(trunk.parameters()).clone()
            ours, theirs, losses, means = trained_both_ways(images, trunk, dim, n, epochs)
            assert all(
                torch.allclose(one, other, atol=within)
                for one, other in zip(ours, theirs, strict=True)
            )
            assert (theirs[0] - before).abs().max() > 20 * within and losses == pytest.approx(
                means, abs=1e-5
            )


def test_the_four_turns_are_those_of_the_task(images):
    turned = reference.Turned(
        images.pixels[:3].numpy(), images.labels[:3].numpy(), reference.plain()
    )
    (made,), targets = ROTATION.make_batch(
        images.pixels[:3], torch.arange(3), device_stream(0, 'x')
    )
    for i in range(3):
        found, turns = turned[i]
        assert torch.allclose(torch.stack(found), made[4 * i : 4 * i + 4], atol=1e-5)
        assert torch.equal(turns, targets[4 * i : 4 * i + 4])


def test_a_rotation_step_trains(images):
    with initialising(0, 'loops'):
        model = nets.Model(nets.resnet18(4), ROTATION.head(32))
    turned = reference.Turned(
        images.pixels[:16].numpy(), images.labels[:16].numpy(), reference.plain()
    )
    optimiser = reference.optimiser(model, 0.05)
    losses = [
        reference.rotate(
            model, reference.loader(turned, 8, device_stream(0, 'x'), workers=0), optimiser, 'cpu'
        )
        for _ in range(8)
    ]
    assert losses[-1] < 0.95 * losses[0]


# --- augmentation ---

DRAWS = 3240


def placed() -> np.ndarray:
    """An image whose first channel tells the row of every pixel and the second its column, counted
    from 1.
    """
    rows = np.arange(1, 33, dtype=np.uint8)
    return np.stack(
        [
            np.repeat(rows[:, None], 32, 1),
            np.repeat(rows[None], 32, 0),
            np.full((32, 32), 255, np.uint8),
        ]
    )


def cells(images: torch.Tensor) -> np.ndarray:
    """Which of 9 x 9 x 2 crops and flips made each of uint8 images [n,3,32,32] of `placed`; all
    pixels are checked.
    """
    images = images.numpy().astype(int)
    mirrored = images[:, 1, 16, 15] > images[:, 1, 16, 16]
    top, left = images[:, 0, 16, 16] - 17, images[:, 1, 16, 16] - np.where(mirrored, 16, 17)
    padded = np.pad(placed(), ((0, 0), (4, 4), (4, 4)))
    for image, i, j, m in zip(images[:200], top + 4, left + 4, mirrored):
        assert np.array_equal(image, padded[:, i : i + 32, j : j + 32][:, :, :: -1 if m else 1])
    return np.ravel_multi_index((top + 4, left + 4, mirrored.astype(int)), (9, 9, 2))


def test_crops_and_flips_have_the_distribution_of_the_reference():
    ours = cells(
        views.crop_flip(
            torch.from_numpy(placed()).expand(DRAWS, -1, -1, -1), device_stream(0, 'crop')
        )
    )
    pictures = reference.Pictures(placed()[None], np.zeros(1), reference.augmented())
    mean, std = (torch.tensor(values)[:, None, None] for values in (views.MEAN, views.STD))
    with initialising(0, 'crop'):
        drawn = torch.stack([pictures[0][0] for _ in range(DRAWS)])
    theirs = cells(((drawn * std + mean) * 255).round().byte())
    counts = np.stack([np.bincount(found, minlength=162) for found in (ours, theirs)])
    assert counts.shape == (2, 162) and chi2_contingency(counts).pvalue > 0.01
    assert [chisquare(row).pvalue > 0.01 for row in counts] == [True, True]


def test_normalised_images_are_those_of_the_reference(images):
    pictures = reference.Pictures(
        images.pixels[:4].numpy(), images.labels[:4].numpy(), reference.plain()
    )
    assert torch.allclose(
        torch.stack([pictures[i][0] for i in range(4)]),
        views.normalise(images.pixels[:4]),
        atol=1e-5,
    )


def test_workers_hand_over_every_image_once():
    pixels = np.arange(10, dtype=np.uint8)[:, None, None, None] + np.zeros(
        (10, 3, 32, 32), np.uint8
    )
    pictures = reference.Pictures(pixels, np.arange(10), reference.augmented())
    labels = torch.cat(
        [labels for _, labels in reference.loader(pictures, 4, device_stream(0, 'x'))]
    )
    assert labels.tolist() != list(range(10)) and sorted(labels.tolist()) == list(range(10))
