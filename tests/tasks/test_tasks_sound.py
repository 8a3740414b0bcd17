"""Audio-visual correspondence against a loop over its pairs; whose sound is compared with whose."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pt4al import testing
from pt4al.data import clips, views
from pt4al.errors import Refused
from pt4al.rng import device_stream, initialising
from pt4al.tasks.sound import AudioVisual
from pt4al.training.nets import Model, resnet18

torch.set_num_threads(1)  # networks this small are slower on more


@pytest.fixture(scope='module')
def pixels() -> torch.Tensor:
    return torch.from_numpy(
        np.random.default_rng(3).integers(256, size=(12, 4, 32, 32), dtype=np.uint8)
    )


@pytest.fixture(scope='module')
def model(pixels) -> Model:
    """A network whose batch statistics have moved away from their start."""
    with initialising(0, 'weights'):
        made = Model(resnet18(4), AudioVisual().head(32))
    with torch.no_grad():
        for step in range(20):
            made(AudioVisual().make_batch(pixels, torch.arange(12), device_stream(0, step))[0])
        made.head.fuse.weight.fill_(-9.0)
    return made.eval()


def answer(model: Model, image: torch.Tensor, sound: torch.Tensor) -> float:
    """The probability that a sound belongs to an image: a logistic function of the distance of two
    unit vectors.
    """
    with torch.no_grad():
        seen = model.head.images(model.trunk(views.normalise(image[None, :3])))[0]
        heard = model.head.sounds(sound[None, None].float() / 127.5 - 1)[0]
    distance = math.dist((seen / seen.norm()).tolist(), (heard / heard.norm()).tolist())
    return 1 / (
        1 + math.exp(-(model.head.fuse.weight.item() * distance + model.head.fuse.bias.item()))
    )


def test_a_loss_is_half_of_the_own_sound_and_half_of_the_others(model, pixels):
    task = AudioVisual(others=3)
    found = task.score(model, pixels, device_stream(0, 's'))['loss']
    drawn = task.scoring(model, pixels, device_stream(0, 's')).drawn
    expected = [
        -math.log(answer(model, pixels[i], pixels[i, 3])) / 2
        - sum(math.log(1 - answer(model, pixels[i], pixels[j, 3])) for j in drawn[i].tolist()) / 6
        for i in range(12)
    ]
    assert np.ptp(expected) > 1e-3
    assert found.tolist() == pytest.approx(expected, abs=1e-4)


def test_training_compares_each_image_with_its_sound_and_one_other_of_the_batch(model, pixels):
    part, partners = pixels[5:9], []
    for draw in range(100):
        (images, sounds, pairs), targets = AudioVisual().make_batch(
            part, torch.arange(5, 9), device_stream(0, draw)
        )
        assert images.shape == (4, 3, 32, 32) and targets.tolist() == [[1, 0]] * 4
        assert torch.allclose(sounds, part[:, 3].float() / 127.5 - 1)
        assert pairs[:, 0].tolist() == [0, 1, 2, 3] and (pairs[:, 1] != pairs[:, 0]).all()
        partners.append(pairs[:, 1])
    for image, row in enumerate(torch.stack(partners, 1)):
        assert row.bincount(minlength=4)[torch.arange(4) != image].min() > 15


def test_a_batch_of_one_asks_only_for_the_own_sound(pixels):
    (_, _, pairs), targets = AudioVisual().make_batch(
        pixels[:1], torch.arange(1), device_stream(0, 'x')
    )
    assert pairs.tolist() == [[0, 0]] and targets.tolist() == [[1, 1]]


def test_scoring_compares_with_the_same_eight_others_in_every_batch(model, pixels):
    scored = AudioVisual().scoring(model, pixels, device_stream(0, 's'))
    own = torch.arange(12)[:, None]
    assert scored.drawn.shape == (12, 8) and (scored.drawn != own).all()
    assert scored.drawn.unique().tolist() == list(range(12))
    index = torch.tensor([7, 2])
    (_, sounds, pairs), targets = scored.make_batch(pixels[index], index, device_stream(0, 'x'))
    assert targets.tolist() == [[1] + [0] * 8] * 2
    meant = torch.cat([index[:, None], scored.drawn[index]], 1)
    assert torch.allclose(sounds[pairs], pixels[meant, 3].float() / 127.5 - 1)
    whole, parts = (
        AudioVisual().score(model, pixels, device_stream(0, 's'), size)['loss'] for size in (12, 5)
    )
    assert torch.allclose(whole, parts, atol=1e-5, rtol=0)


def test_a_network_that_knows_nothing_is_at_chance_however_many_others_there_are():
    for others in (1, 8):
        targets = torch.tensor([[1.0] + [0.0] * others] * 3)
        found = AudioVisual().per_sample_loss(torch.zeros(3, 1 + others), targets)
        assert found.tolist() == pytest.approx([math.log(2)] * 3)


def test_images_without_sound_and_single_images_are_refused_before_training(pixels):
    for bad, told in (
        (pixels[:, :3], '3 channels have no sound'),
        (pixels[:, None, :3], '3 channels have no sound'),
        (pixels[:1], 'single image'),
    ):
        with pytest.raises(Refused, match=told) as refusal:
            AudioVisual().start(None, bad, None)
        assert '\n' not in str(refusal.value)
    for good in (pixels, pixels[:, None]):
        AudioVisual().start(None, good, None)


def test_clips_with_sound_keep_the_contract_and_are_seen_by_their_middle_frame(model, pixels):
    other = pixels.flip(0).clone()
    other[:, 3] = pixels[:, 3]
    film = torch.stack([other, pixels, other, other], 1)[:, [0, 2, 1, 3]]
    testing.check_task(AudioVisual(), pixels=film)
    assert torch.equal(clips.still(film), pixels[:, :3])
    assert torch.equal(AudioVisual().encode(film), views.normalise(pixels[:, :3]))
    still, moving = (
        AudioVisual().score(model, one, device_stream(0, 's'))['loss'] for one in (pixels, film)
    )
    assert torch.equal(still, moving)
