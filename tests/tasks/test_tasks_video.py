"""The order tasks against loops over their definition, on clips whose frames can be told apart by
one number.
"""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch

from pt4al import testing
from pt4al.data import views
from pt4al.errors import Refused
from pt4al.rng import device_stream, initialising
from pt4al.tasks import video
from pt4al.tasks.task import pretext_losses
from pt4al.tasks.video import PAIRS, FrameOrder, Ordered, ShuffleAndLearn
from pt4al.training.nets import Model, resnet18

torch.set_num_threads(1)  # networks this small are slower on more

TASKS = (ShuffleAndLearn(), FrameOrder())


@pytest.fixture(scope='module')
def stills() -> torch.Tensor:
    return torch.from_numpy(
        np.random.default_rng(3).integers(256, size=(7, 3, 32, 32), dtype=np.uint8)
    )


@pytest.fixture(scope='module')
def real() -> torch.Tensor:
    """Clips of nine 16-pixel frames; frame t of clip i is of the one colour 20 t + i."""
    shade = 20 * torch.arange(9) + torch.arange(7)[:, None]
    return shade.to(torch.uint8)[..., None, None, None].expand(-1, -1, 3, 16, 16).clone()


def trained(task, pixels: torch.Tensor) -> Model:
    """A network whose batch statistics have moved away from their start."""
    with initialising(0, 'weights'):
        model = Model(resnet18(4), task.head(32))
    with torch.no_grad():
        for step in range(20):
            model(task.make_batch(pixels, torch.arange(len(pixels)), device_stream(0, step))[0])
    return model.eval()


def times(images: torch.Tensor) -> torch.Tensor:
    """At which time each frame of `real`, as the trunk gets it, was taken."""
    unit = views.STD[0] * 255
    return ((images[:, 0, 0, 0] * unit + views.MEAN[0] * 255).round() // 20).long()


# --- shuffle and learn ---


def test_both_tuples_of_a_pair_share_their_ends_and_one_is_in_order():
    for right, wrong in PAIRS:
        assert right[0] == wrong[0] and right[2] == wrong[2] and {right[0], right[2]} == {1, 3}
        assert right[1] == 2 and wrong[1] in (0, 4)
    assert len(set(PAIRS)) == 4


def test_training_shows_one_tuple_in_order_and_one_not_by_the_generator(stills):
    task, index = ShuffleAndLearn(), torch.arange(7)
    (images, shown), targets = task.make_batch(
        stills.repeat(60, 1, 1, 1), index.repeat(60), device_stream(0, 'x')
    )
    assert (
        images.shape == (2100, 3, 16, 16)
        and shown.shape == (420, 2, 3)
        and targets.tolist() == [[1, 0]] * 420
    )
    drawn = [tuple(map(tuple, pair)) for pair in shown.tolist()]
    assert all(80 < drawn.count(pair) < 130 for pair in PAIRS)


def test_the_frames_of_a_clip_are_steps_of_its_camera(stills):
    (images, _), _ = FrameOrder().make_batch(stills, torch.arange(7), device_stream(0, 'x'))
    path = video.camera_path(7, 3, device_stream(0, 'x'))
    expected = torch.cat([video.follow(stills[i : i + 1], path[i : i + 1])[0] for i in range(7)])
    # a pixel may be rounded the other way
    assert torch.allclose(images, views.normalise(expected), atol=0.03)


def by_hand(task, model: Model, clip: torch.Tensor, questions) -> float:
    """Mean over questions (frame numbers, target) of the cross-entropy, one frame and one tuple at
    a time.
    """
    net, losses = model.head.net, []
    with torch.no_grad():
        features = [model.trunk(views.normalise(frame[None])).mean((2, 3))[0] for frame in clip]
        for numbers, target in questions:
            out = net(torch.cat([features[k] for k in numbers])).tolist()
            if len(out) == 1:
                p = 1 / (1 + math.exp(-out[0]))
                losses.append(-math.log(p if target else 1 - p))
            else:
                losses.append(-math.log(math.exp(out[target]) / sum(map(math.exp, out))))
    return sum(losses) / len(losses)


def questions(task) -> list:
    """What is asked of a clip in scoring, written out from the papers."""
    if isinstance(task, ShuffleAndLearn):
        return [
            ((1, 2, 3), 1),
            ((3, 2, 1), 1),
            ((1, 0, 3), 0),
            ((1, 4, 3), 0),
            ((3, 0, 1), 0),
            ((3, 4, 1), 0),
            ((1, 2, 3), 1),
            ((3, 2, 1), 1),
        ]
    seen, out = [], []
    for order in permutations(range(task.frames)):
        if order not in seen and order[::-1] not in seen:
            seen.append(order)
        out.append((order, seen.index(order if order in seen else order[::-1])))
    return out


@pytest.mark.parametrize('task', TASKS)
def test_a_loss_is_the_mean_over_all_questions_about_a_clip(task, stills):
    model = trained(task, stills)
    found = task.score(model, stills, device_stream(0, 's'))['loss']
    path = video.camera_path(7, task.frames, device_stream(0, 's'))
    expected = [
        by_hand(task, model, video.follow(stills[i : i + 1], path[i : i + 1])[0], questions(task))
        for i in range(7)
    ]
    assert np.ptp(expected) > 1e-4
    assert found.tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize('task', TASKS)
def test_a_loss_of_a_real_clip_is_of_frames_spread_over_it(task, real):
    model = trained(task, real)
    found = task.score(model, real, device_stream(0, 's'))['loss']
    even = [round(8 * k / (task.frames - 1)) for k in range(task.frames)]
    expected = [by_hand(task, model, real[i, even], questions(task)) for i in range(7)]
    assert found.tolist() == pytest.approx(expected, abs=1e-5)
    assert torch.equal(found, task.score(model, real, device_stream(1, 's'))['loss'])


@pytest.mark.parametrize(('task', 'chance'), [(ShuffleAndLearn(), 2), (FrameOrder(), 3)])
def test_a_network_that_knows_nothing_is_at_chance(task, chance, stills):
    (_, shown), targets = task.make_batch(stills, torch.arange(7), device_stream(0, 'x'))
    outputs = torch.zeros(*shown.shape[:2], 1 if chance == 2 else chance)
    assert task.per_sample_loss(outputs, targets).tolist() == pytest.approx([math.log(chance)] * 7)


def test_an_order_and_its_reverse_are_one_answer_and_others_are_not(stills):
    (_, shown), targets = FrameOrder().make_batch(stills, torch.arange(7), device_stream(0, 'x'))
    answer = dict(zip(map(tuple, shown[0].tolist()), targets[0].tolist()))
    assert len(answer) == 6 and set(answer.values()) == {0, 1, 2}
    assert all((answer[a] == answer[b]) == (a in (b, b[::-1])) for a in answer for b in answer)


# --- frames of real clips ---


@pytest.mark.parametrize('task', TASKS)
def test_training_draws_frames_of_a_real_clip_in_order_of_time(task, real):
    index = torch.arange(7).repeat(30)
    (images, _), _ = task.make_batch(real[index], index, device_stream(0, 'x'))
    drawn = times(images).view(-1, task.frames)
    assert (drawn.diff(dim=1) > 0).all() and drawn.flatten().unique().tolist() == list(range(9))
    assert len(drawn.unique(dim=0)) > 30


def test_clips_of_too_few_frames_are_refused_before_training(real):
    ShuffleAndLearn().start(None, real[:, :5], None)
    with pytest.raises(Refused, match='clips of 4 frames are too short: this task shows 5 of each'):
        ShuffleAndLearn().start(None, real[:, :4], None)


@pytest.mark.parametrize('task', TASKS)
def test_clips_and_images_with_sound_keep_the_contract_and_sound_is_not_seen(task, stills, real):
    for pixels in (real, torch.cat([stills, stills[:, :1]], 1)):
        testing.check_task(task, pixels=pixels)
    loud = torch.cat([real, 255 - real[:, :, :1]], 2)
    model = trained(task, real)
    quiet, heard = (
        task.score(model, pixels, device_stream(0, 's'))['loss'] for pixels in (real, loud)
    )
    assert torch.equal(quiet, heard)
    assert torch.equal(task.encode(loud), views.normalise(real[:, 4]))
    assert torch.equal(task.encode(stills), views.normalise(stills))


# --- scoring ---


@pytest.mark.parametrize('batch', [1, 3, 500])
def test_a_score_belongs_to_the_image_and_not_to_its_batch(stills, batch):
    task = ShuffleAndLearn()
    model = trained(task, stills)
    whole, parts = (
        task.score(model, stills, device_stream(0, 's'), size)['loss'] for size in (7, batch)
    )
    assert torch.allclose(whole, parts, atol=1e-5, rtol=0)


def test_repeats_draw_other_paths(stills):
    task = FrameOrder()
    model = trained(task, stills)
    table = pretext_losses(model, task, stills, lambda r: device_stream(0, 'score', r), repeats=2)[
        'loss'
    ]
    assert (table[0] != table[1]).all()


def test_the_head_can_tell_whether_a_frame_lies_between_two_others():
    place = torch.rand((512, 3), generator=device_stream(0, 'x'))
    between = ((place[:, 1] - place[:, 0]) * (place[:, 2] - place[:, 1]) > 0).float()
    with initialising(0, 'weights'):
        head = Ordered(1, 1, 3)
    optimiser = torch.optim.Adam(head.parameters(), 0.05)
    for _ in range(100):
        logits = head(
            place.flatten()[:, None, None, None], torch.tensor([[[0, 1, 2]]]).expand(512, -1, -1)
        )[:, 0, 0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, between)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    # the best sum of three terms reaches .68
    assert ((logits > 0) == between.bool()).float().mean() > 0.95
