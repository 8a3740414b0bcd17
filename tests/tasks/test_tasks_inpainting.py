"""The context encoder's holes and losses against loops over pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pt4al import testing
from pt4al.data import views
from pt4al.errors import Refused
from pt4al.rng import device_stream, initialising
from pt4al.tasks import TASKS
from pt4al.tasks.inpainting import ContextEncoder, pictures
from pt4al.tasks.task import pretext_losses
from pt4al.training.nets import Model, resnet18

torch.set_num_threads(1)  # networks this small are slower on more

# of the 16-pixel holes in 32 pixels, by grid
CORNERS = {2: [(0, 0), (0, 16), (16, 0), (16, 16)], 1: [(8, 8)]}


def noise(n: int = 5, height: int = 32, width: int = 32) -> torch.Tensor:
    """Noise whose strength grows from image to image and from top to bottom: holes and images
    differ in variance.
    """
    rng = np.random.default_rng(3)
    strength = np.linspace(5, 90, n)[:, None, None, None] * np.linspace(0.3, 1, height)[:, None]
    return torch.from_numpy(
        (128 + strength * rng.uniform(-1, 1, (n, 3, height, width))).astype(np.uint8)
    )


def network(task: ContextEncoder) -> Model:
    """A network whose batch statistics have moved away from their start."""
    with initialising(0, 'weights'):
        model = Model(resnet18(4), task.head(32))
    with torch.no_grad():
        for _ in range(30):
            model(task.make_batch(noise(), torch.arange(5), device_stream(0, 'x'))[0])
    return model.eval()


@pytest.mark.parametrize('grid', [1, 2])
def test_loss_and_parts_are_their_formulas_in_every_hole(grid):
    task, pixels = ContextEncoder(grid), noise()
    model = network(task)
    table = pretext_losses(model, task, pixels, lambda r: device_stream(0, 'score', r))
    whole = views.normalise(pixels)
    for n in range(len(pixels)):
        losses, errors, variances = [], [], []
        for top, left in CORNERS[grid]:
            hole = slice(top, top + 16), slice(left, left + 16)
            shown = whole[n].clone()
            shown[:, hole[0], hole[1]] = 0
            with torch.no_grad():
                painted = model((shown[None],))[0].numpy()
            truth = whole[n].numpy().astype(float)
            error = [
                (painted[c, y, x] - truth[c, y, x]) ** 2
                for c in range(3)
                for y in range(32)[hole[0]]
                for x in range(32)[hole[1]]
            ]
            errors.append(sum(error) / len(error))
            variances.append(sum(truth[c][hole].var() for c in range(3)) / 3)
            losses.append(errors[-1] / (variances[-1] + 0.1))
        assert table['loss'][0, n].item() == pytest.approx(np.mean(losses), rel=1e-4)
        assert table['squared_error'][0, n].item() == pytest.approx(np.mean(errors), rel=1e-4)
        assert table['variance'][0, n].item() == pytest.approx(np.mean(variances), rel=1e-4)
    assert set(table) == {'loss', 'squared_error', 'variance'}


def test_quadrants_hide_every_pixel_once_and_the_centre_is_one_hole():
    masks = ContextEncoder().masks(noise())
    assert masks.shape == (4, 1, 32, 32) and (masks.sum(0) == 1).all()
    for mask, (top, left) in zip(masks[:, 0], CORNERS[2]):
        assert mask[top : top + 16, left : left + 16].all() and mask.sum() == 256
    centre = ContextEncoder(1).masks(noise())
    assert centre.shape == (1, 1, 32, 32) and centre[0, 0, 8:24, 8:24].all() and centre.sum() == 256


def test_holes_of_odd_images_do_not_meet():
    odd = ContextEncoder().masks(noise(1, 21, 34))
    assert odd.sum((1, 2, 3)).tolist() == [10 * 17] * 4 and (odd.sum(0) <= 1).all()


def test_what_a_hole_hides_is_not_shown_and_all_else_is():
    task, pixels = ContextEncoder(), noise()
    (shown,), whole = task.make_batch(pixels, torch.arange(5), device_stream(0, 'x'))
    assert shown.shape == (20, 3, 32, 32) and shown.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(whole, views.normalise(pixels))
    masks = task.masks(pixels)
    views_of = shown.unflatten(0, (5, 4))
    assert (views_of.masked_select(masks) == 0).all()
    assert torch.equal(
        views_of.masked_select(~masks), whole[:, None].expand_as(views_of).masked_select(~masks)
    )


def test_the_loss_looks_into_the_hole_only_and_a_perfect_painter_has_none():
    task, pixels = ContextEncoder(), noise()
    _, whole = task.make_batch(pixels, torch.arange(5), device_stream(0, 'x'))
    masks = task.masks(pixels)
    inside = whole[:, None] * masks + 7.5 * ~masks
    assert task.per_sample_loss(inside.flatten(0, 1), whole).tolist() == pytest.approx(
        [0] * 5, abs=1e-6
    )
    outside = whole[:, None] * ~masks + 7.5 * masks
    assert (task.per_sample_loss(outside.flatten(0, 1), whole) > 1).all()


def test_the_mean_colour_of_every_hole_loses_one_but_for_the_floor_and_flat_images_stay_finite():
    task, pixels = ContextEncoder(), noise()
    _, whole = task.make_batch(pixels, torch.arange(5), device_stream(0, 'x'))
    mean = torch.stack([whole[:, :, y : y + 16, x : x + 16].mean((2, 3)) for y, x in CORNERS[2]], 1)
    losses = task.per_sample_loss(
        mean[..., None, None].expand(5, 4, 3, 32, 32).flatten(0, 1), whole
    )
    assert (
        losses[-1].item() == pytest.approx(1, abs=0.35)
        and (losses < 1).all()
        and (losses.diff() > 0).all()
    )
    flat = torch.zeros(1, 3, 32, 32)
    assert task.per_sample_loss(torch.ones(4, 3, 32, 32), flat).tolist() == pytest.approx([10])


def test_an_image_without_room_for_a_hole_is_refused_before_training():
    with pytest.raises(Refused, match='^no hole fits into 1 pixels'):
        ContextEncoder().start(None, noise(2, 1, 1), device_stream(0, 'x'))


@pytest.mark.parametrize('height, width', [(20, 36), (28, 28)])
def test_images_of_other_sizes_keep_the_contract_and_are_painted_whole(height, width):
    testing.check_task(ContextEncoder(), pixels=noise(4, height, width))
    shown, painted = pictures(network(ContextEncoder()), ContextEncoder(), noise(2, height, width))
    assert shown.shape == painted.shape == (2, 4, 3, height, width)


@pytest.mark.parametrize('grid', [1, 2])
def test_pictures_keep_what_is_visible_and_paint_what_the_network_says(grid):
    task, pixels = ContextEncoder(grid), noise(3)
    model = network(task)
    shown, painted = pictures(model.train(), task, pixels)
    assert shown.dtype == painted.dtype == torch.uint8 and shown.shape == (3, grid**2, 3, 32, 32)
    (inputs,), _ = task.make_batch(pixels, torch.arange(3), device_stream(0, 'x'))
    with torch.no_grad():
        answer = model.eval()((inputs,)).unflatten(0, (3, -1)).numpy()
    for v, (top, left) in enumerate(CORNERS[grid]):
        hole = np.zeros((32, 32), bool)
        hole[top : top + 16, left : left + 16] = True
        for n in range(3):
            for c in range(3):
                said = np.clip((answer[n, v, c] * views.STD[c] + views.MEAN[c]) * 255, 0, 255)
                assert np.abs(painted[n, v, c].numpy()[hole] - said[hole]).max() <= 0.51
                assert (shown[n, v, c].numpy()[hole] == round(views.MEAN[c] * 255)).all()
                for image in (shown, painted):
                    assert np.array_equal(
                        image[n, v, c].numpy()[~hole], pixels[n, c].numpy()[~hole]
                    )


def test_colours_out_of_range_are_cut_off_in_pictures():
    task, model = ContextEncoder(1), network(ContextEncoder(1))
    with torch.no_grad():
        model.head.net[-1].weight.zero_()
        model.head.net[-1].bias.copy_(torch.tensor([50.0, -50.0, 0.0]))
    _, painted = pictures(model, task, noise(1))
    assert painted[0, 0, :, 16, 16].tolist() == [255, 0, round(views.MEAN[2] * 255)]


def test_registered_variants_say_what_they_change():
    assert TASKS['context_encoder']() == ContextEncoder(2) and TASKS[
        'context_encoder:centre'
    ]() == ContextEncoder(1)
