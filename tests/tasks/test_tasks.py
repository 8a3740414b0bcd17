"""Rotation against eq. 1 written as a loop, and the promise that scoring an image does not depend
on its batch.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pt4al.data import views
from pt4al.errors import Refused
from pt4al.rng import device_stream, initialising
from pt4al.tasks import TASKS, Entry
from pt4al.tasks.rotation import Rotation
from pt4al.tasks.task import pretext_losses
from pt4al.training.nets import Model, resnet18

torch.set_num_threads(1)  # networks this small are slower on more


@pytest.fixture(scope='module')
def pixels() -> torch.Tensor:
    return torch.from_numpy(
        np.random.default_rng(3).integers(256, size=(11, 3, 32, 32), dtype=np.uint8)
    )


@pytest.fixture(scope='module')
def model(pixels) -> Model:
    """A network whose batch statistics have moved away from their start."""
    with initialising(0, 'weights'):
        made = Model(resnet18(4), Rotation().head(32))
    with torch.no_grad():
        for _ in range(30):
            made((views.normalise(pixels),))
    return made


def score(model: Model, pixels: torch.Tensor, **settings) -> torch.Tensor:
    return pretext_losses(
        model, Rotation(), pixels, lambda r: device_stream(0, 'score', r), **settings
    )['loss']


def equation_1(model: Model, image: np.ndarray) -> float:
    """Mean over the four turns of minus the log of the soft-max posterior of the turn that was
    made.
    """
    losses = []
    for k in range(4):
        turned = np.rot90(image.transpose(1, 2, 0), k) / 255
        whitened = ((turned - views.MEAN) / views.STD).transpose(2, 0, 1).astype('float32')
        with torch.no_grad():
            logits = model.eval()((torch.from_numpy(whitened)[None],))[0].tolist()
        losses.append(-math.log(math.exp(logits[k]) / sum(map(math.exp, logits))))
    return sum(losses) / 4


def test_rotation_loss_is_equation_1(model, pixels):
    by_hand = [equation_1(model, image) for image in pixels.numpy()]
    assert np.ptp(by_hand) > 1e-3  # the images differ, else the next line says little
    assert score(model, pixels)[0].tolist() == pytest.approx(by_hand, abs=1e-5)


def test_targets_name_the_turn_of_each_view(pixels):
    (inputs,), targets = Rotation().make_batch(pixels[:2], torch.arange(2), device_stream(0, 'x'))
    assert targets.tolist() == [0, 1, 2, 3, 0, 1, 2, 3] and inputs.shape == (8, 3, 32, 32)
    assert torch.equal(inputs[6], views.normalise(pixels[1:2].rot90(2, (2, 3)))[0])


def test_a_batch_loss_is_the_mean_of_its_per_sample_losses():
    outputs, targets = (
        torch.randn(12, 4, generator=device_stream(0, 'x')),
        torch.arange(4).repeat(3),
    )
    losses = Rotation().per_sample_loss(outputs, targets)
    assert losses.shape == (3,)
    assert losses.mean().item() == pytest.approx(
        torch.nn.functional.cross_entropy(outputs, targets).item(), abs=1e-6
    )
    assert Rotation().per_sample_loss(torch.zeros(8, 4), targets[:8]).tolist() == pytest.approx(
        [math.log(4)] * 2
    )


@pytest.mark.parametrize('batch', [1, 4, 10, 11, 500])
def test_a_score_does_not_depend_on_the_batch(model, pixels, batch):
    assert torch.allclose(
        score(model, pixels, batch=batch), score(model, pixels), atol=1e-5, rtol=0
    )


def test_a_score_does_not_depend_on_the_other_images(model, pixels):
    alone = score(model, pixels)[0]
    order = torch.randperm(11, generator=device_stream(0, 'order'))
    assert torch.allclose(score(model, pixels[order])[0], alone[order], atol=1e-5, rtol=0)
    changed = torch.cat([pixels[:1], 255 - pixels[1:]])
    assert torch.equal(score(model, changed)[0, 0], alone[0])


def test_scoring_trains_nothing_and_repeats_equal_a_task_without_draws(model, pixels):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    table = score(model.train(), pixels, repeats=3)
    assert (
        table.shape == (3, 11)
        and torch.equal(table[0], table[1])
        and torch.equal(table[0], table[2])
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_repeats_draw_from_their_own_streams(model, pixels):
    class Noisy(Rotation):
        def per_sample_loss(self, outputs, targets):
            return super().per_sample_loss(outputs, targets) * 0 + self.draw

        def make_batch(self, pixels, index, rng):
            object.__setattr__(self, 'draw', torch.rand(len(pixels), generator=rng))
            return super().make_batch(pixels, index, rng)

    table = pretext_losses(
        model, Noisy(), pixels, lambda r: device_stream(0, 'score', r), repeats=2
    )['loss']
    expected = torch.stack(
        [torch.rand(11, generator=device_stream(0, 'score', r)) for r in range(2)]
    )
    assert torch.equal(table, expected)


def test_every_registered_task_is_made_without_arguments():
    assert TASKS['rotation']() == Rotation()


def test_what_a_task_of_another_package_lacks_is_one_line_and_it_states_its_cost(
    tmp_path, monkeypatch
):
    (tmp_path / 'foreign.py').write_text(
        'from pt4al.tasks.rotation import Rotation\n'
        'class Twice(Rotation):\n    cost = 2\n'
        'class Sized(Rotation):\n    def __init__(self, size): pass\n'
    )
    (tmp_path / 'torn.py').write_text('def (:\n')
    monkeypatch.syspath_prepend(tmp_path)
    assert (Entry('foreign', 'Twice').cost, Entry('.rotation', 'Rotation').cost) == (2, 1)
    for module, kind, reason in (
        ('foreign', 'Sized', "missing 1 required positional argument: 'size'"),
        ('foreign', 'Twise', "no attribute 'Twise'"),
        ('torn', 'Torn', 'invalid syntax'),
    ):
        with pytest.raises(Refused, match=f'task {module}:{kind} cannot be loaded: .*{reason}'):
            Entry(module, kind)()


@pytest.mark.parametrize(
    'spoil, words',
    [
        (lambda loss: loss.mean(0, keepdim=True), r'float32 of shape \[1\] as loss of 6 images'),
        (lambda loss: loss[:-1], r'float32 of shape \[5\] as loss'),
        (lambda loss: loss.double(), r'float64 of shape \[6\] as loss'),
        (lambda loss: loss / 0, 'NaN or infinity as loss'),
    ],
    ids=['mean', 'few', 'double', 'infinite'],
)
def test_losses_that_are_not_one_finite_number_an_image_are_refused(model, pixels, spoil, words):
    class Spoilt(Rotation):
        def per_sample_loss(self, outputs, targets):
            return spoil(super().per_sample_loss(outputs, targets))

    with pytest.raises(Refused, match=f'Spoilt gave {words}'):
        Spoilt().score(model, pixels[:6], torch.Generator())
