"""Colour spaces and the losses of colorization against loops over single pixels written from the
formulas.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import pt4al
from pt4al.data import views
from pt4al.errors import Refused
from pt4al.rng import device_stream, initialising
from pt4al.tasks import TASKS
from pt4al.tasks.colour import (
    LIGHT,
    SPREAD,
    Colorization,
    Diverse,
    Regression,
    Reproduced,
    annealed_mean,
    gamut,
    paint,
)
from pt4al.training.nets import Model, resnet18

torch.set_num_threads(1)  # networks this small are slower on more

NAMES = [name for name in TASKS if name.startswith('colorization')]
SOUND = [Colorization(), Regression(), Diverse()]


def noise(n: int = 3, size: int = 16) -> torch.Tensor:
    return torch.from_numpy(
        np.random.default_rng(1).integers(256, size=(n, 3, size, size), dtype=np.uint8)
    )


def flat(*colours: tuple[int, int, int], size: int = 16) -> torch.Tensor:
    return (
        torch.tensor(colours, dtype=torch.uint8)[:, :, None, None]
        .expand(-1, -1, size, size)
        .contiguous()
    )


def untrained(task) -> Model:
    """A network whose batch statistics have moved away from their start."""
    with initialising(0, 'weights'):
        model = Model(resnet18(4), task.head(32))
    with torch.no_grad():
        for _ in range(20):
            model(task.make_batch(noise(8), torch.arange(8), device_stream(0, 'x'))[0])
    return model.eval()


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=device_stream(0, 'draw')) * 3


# --- colour spaces ---

MATRIX = [
    [0.412453, 0.357580, 0.180423],
    [0.212671, 0.715160, 0.072169],
    [0.019334, 0.119193, 0.950227],
]
WHITE = [0.95047, 1.0, 1.08883]


def lab_of(pixel: list[int]) -> list[float]:
    """L*a*b* of one sRGB pixel by the formulas of IEC 61966-2-1 and CIE 15."""
    linear = [
        ((c / 255 + 0.055) / 1.055) ** 2.4 if c / 255 > 0.04045 else c / 255 / 12.92 for c in pixel
    ]
    xyz = [sum(m * c for m, c in zip(row, linear)) / white for row, white in zip(MATRIX, WHITE)]
    x, y, z = [t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in xyz]
    return [116 * y - 16, 500 * (x - y), 200 * (y - z)]


def rgb_of(colour: list[float]) -> list[int]:
    y = (colour[0] + 16) / 116
    f = [y + colour[1] / 500, y, y - colour[2] / 200]
    xyz = [
        (t**3 if t > 0.2068966 else (t - 16 / 116) / 7.787) * white for t, white in zip(f, WHITE)
    ]
    linear = [min(max(c, 0), 1) for c in np.linalg.solve(MATRIX, xyz)]
    return [
        round(255 * (1.055 * c ** (1 / 2.4) - 0.055 if c > 0.0031308 else 12.92 * c))
        for c in linear
    ]


def test_lab_is_the_formula_pixel_by_pixel():
    pixels = torch.cat([noise(1), flat((0, 0, 0), (9, 3, 5), (255, 255, 255), (12, 11, 10))])
    out = views.lab(pixels)
    assert out.dtype == torch.float32 and out.shape == pixels.shape
    for n in range(5):
        for y, x in np.ndindex(16, 16):
            assert out[n, :, y, x].tolist() == pytest.approx(
                lab_of(pixels[n, :, y, x].tolist()), abs=2e-3
            )


def test_lab_of_the_primaries_is_what_tables_say():
    out = views.lab(flat((255, 0, 0), (0, 255, 0), (0, 0, 255), size=1))[:, :, 0, 0]
    assert out.numpy() == pytest.approx(
        np.array([[53.24, 80.09, 67.20], [87.73, -86.18, 83.18], [32.30, 79.19, -107.86]]), abs=0.02
    )


def test_rgb_is_the_inverse_of_lab_and_clips_what_no_screen_can_show():
    level = torch.arange(0, 256, 5, dtype=torch.uint8)
    cube = torch.cartesian_prod(level, level, level).T[None, :, None]
    assert torch.equal(views.rgb(views.lab(cube)), cube)
    rng = np.random.default_rng(0)
    colours = np.stack([rng.uniform(0, 100, 300), *rng.uniform(-150, 150, (2, 300))], 1)
    out = views.rgb(torch.from_numpy(colours).float().T[None, :, None])[0, :, 0].T
    assert out.dtype == torch.uint8 and (out == 0).any() and (out == 255).any()
    for pixel, colour in zip(out.tolist(), colours):
        assert pixel == pytest.approx(rgb_of(colour), abs=1)


def test_the_bins_are_those_that_a_screen_colour_falls_into():
    bins = gamut()
    assert bins.shape == (261, 2) and len(bins.unique(dim=0)) == 261
    level = torch.arange(0, 256, 5, dtype=torch.uint8)
    # inside the cube, too
    ab = views.lab(torch.cartesian_prod(level, level, level).T[None, :, None])[0, 1:, 0].T
    met = {tuple(pair) for pair in (ab / 10).round().unique(dim=0).add(0.0).tolist()}
    listed = {tuple(pair) for pair in (bins / 10).tolist()}
    # a lattice of 52 levels misses a few of the outermost
    assert met <= listed and len(listed - met) <= 4


# --- inputs and targets ---


@pytest.mark.parametrize('task', SOUND, ids=str)
def test_the_trunk_sees_lightness_and_no_colour(task):
    pixels = noise()
    seen = task.make_batch(pixels, torch.arange(3), device_stream(0, 'x'))[0][0]
    light = (views.lab(pixels)[:, 0] - LIGHT) / SPREAD
    assert seen.is_contiguous(memory_format=torch.channels_last) and torch.equal(
        seen, task.encode(pixels)
    )
    assert all(torch.allclose(seen[:, channel], light) for channel in range(3))


def test_the_light_of_cifar_is_standardised():
    light = Colorization().encode(pt4al.data.load('cifar10-mini')[0].pixels[:1000])
    assert light.mean().item() == pytest.approx(0, abs=0.1) and light.std().item() == pytest.approx(
        1, abs=0.1
    )


def test_targets_are_colours_averaged_over_two_by_two_pixels():
    pixels = noise()
    target = Colorization().target(pixels)
    assert target.shape == (3, 2, 8, 8)
    for n, y, x in np.ndindex(3, 8, 8):
        four = [lab_of(pixels[n, :, 2 * y + i, 2 * x + j].tolist()) for i in (0, 1) for j in (0, 1)]
        assert target[n, :, y, x].tolist() == pytest.approx(np.mean(four, 0)[1:].tolist(), abs=1e-3)


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('size', [8, 20, 28])
def test_images_of_any_size_can_be_coloured(name, size):
    task, pixels = TASKS[name](), noise(4, size)
    model = untrained(task)
    losses = task.score(model, pixels, device_stream(0, 'score'))
    assert all(column.shape == (4,) and column.isfinite().all() for column in losses.values())
    assert task.pictures(model, pixels).shape == pixels.shape


# --- losses ---


def nearest_of(colour: list[float], bins: list[list[float]]) -> int:
    return min(range(len(bins)), key=lambda q: math.dist(colour, bins[q]))


def test_the_loss_is_the_mean_cross_entropy_of_the_nearest_bin():
    task, pixels = Colorization(), noise()
    ab, bins = task.target(pixels), gamut().tolist()
    # outside every bin, as a mean of colours can be
    ab[0, :, 0, 0] = torch.tensor([-140.0, 130.0])
    logits = draw(3, len(bins), 8, 8)
    losses = []
    for n in range(3):
        terms = []
        for y, x in np.ndindex(8, 8):
            scores = logits[n, :, y, x].tolist()
            right = nearest_of(ab[n, :, y, x].tolist(), bins)
            terms.append(math.log(sum(map(math.exp, scores))) - scores[right])
        losses.append(sum(terms) / 64)
    assert task.per_sample_loss(logits, ab).tolist() == pytest.approx(losses, rel=1e-5)


def test_the_corrected_loss_is_less_the_cross_entropy_of_how_frequent_the_bins_are():
    task, pixels = Colorization(), torch.cat([noise(), flat((200, 30, 30), (90, 90, 90))])
    ab, bins = task.target(pixels), gamut().tolist()
    right = [
        [nearest_of(ab[n, :, y, x].tolist(), bins) for y, x in np.ndindex(8, 8)] for n in range(5)
    ]
    counts = [1 + sum(row.count(q) for row in right) for q in range(len(bins))]
    guess = [-sum(math.log(counts[q] / sum(counts)) for q in row) / 64 for row in right]
    scored = task.scoring(None, pixels, device_stream(0, 'x'))
    logits = draw(5, len(bins), 8, 8)
    corrected, loss = (
        scored.parts(logits, ab)['loss_colour_corrected'],
        task.per_sample_loss(logits, ab),
    )
    assert corrected.tolist() == pytest.approx(
        [a.item() - b for a, b in zip(loss, guess)], abs=1e-4
    )
    marginal = torch.tensor(counts).log()[None, :, None, None].expand(5, -1, 8, 8)
    assert scored.parts(marginal, ab)['loss_colour_corrected'].tolist() == pytest.approx(
        [0] * 5, abs=1e-5
    )


def test_the_marginal_is_of_the_pool_however_long_it_is():
    pixels = flat((200, 30, 30), (30, 200, 30), size=8).repeat_interleave(
        torch.tensor([1500, 700]), 0
    )
    counts = Colorization().scoring(None, pixels, device_stream(0, 'x')).marginal
    assert sorted(counts[counts > 0].tolist()) == [700 * 16, 1500 * 16]
    mean = Regression().scoring(None, pixels, device_stream(0, 'x')).marginal
    by_hand = (1500 * np.array(lab_of([200, 30, 30])) + 700 * np.array(lab_of([30, 200, 30])))[
        1:
    ] / 2200
    assert (mean[:2] / mean[2]).tolist() == pytest.approx(by_hand.tolist(), abs=1e-3)


@pytest.mark.parametrize('task', SOUND, ids=str)
def test_colourfulness_is_the_mean_chroma(task):
    pixels = noise()
    ab = task.target(pixels)
    by_hand = [
        np.mean([math.hypot(*ab[n, :, y, x].tolist()) for y, x in np.ndindex(8, 8)])
        for n in range(3)
    ]
    table = task.score(untrained(task), pixels, device_stream(0, 'x'))
    assert table['colourfulness'].tolist() == pytest.approx(by_hand)


def test_the_regression_loss_is_half_the_squared_error_and_its_correction_a_ratio():
    task, pixels = Regression(), torch.cat([noise(), flat((200, 30, 30))])
    ab, outputs = task.target(pixels), draw(4, 2, 8, 8)
    mean = [ab[:, c].mean().item() for c in range(2)]

    def half(predicted, n):
        return (
            sum(
                (predicted[place].item() - ab[n][place].item() / 10) ** 2
                for place in np.ndindex(2, 8, 8)
            )
            / 2
            / 64
        )

    losses = [half(outputs[n], n) for n in range(4)]
    guess = [half(torch.tensor(mean)[:, None, None].expand(2, 8, 8) / 10, n) for n in range(4)]
    assert task.per_sample_loss(outputs, ab).tolist() == pytest.approx(losses, rel=1e-5)
    corrected = task.scoring(None, pixels, device_stream(0, 'x')).parts(outputs, ab)[
        'loss_colour_corrected'
    ]
    assert corrected.tolist() == pytest.approx([a / b for a, b in zip(losses, guess)], rel=1e-4)


def test_an_image_of_the_pools_mean_colour_has_a_finite_corrected_loss():
    task, pixels = Regression(), flat((200, 30, 30), (200, 30, 30))
    scored = task.scoring(None, pixels, device_stream(0, 'x'))
    corrected = scored.parts(torch.ones(2, 2, 8, 8), task.target(pixels))['loss_colour_corrected']
    loss = task.per_sample_loss(torch.ones(2, 2, 8, 8), task.target(pixels))
    assert corrected.tolist() == pytest.approx((loss * 200).tolist())


def test_the_diverse_loss_is_reconstruction_and_divergence_a_pixel():
    task, pixels = Diverse(), noise()
    ab, outputs = task.target(pixels), draw(3, 2 * 64 + 32) / 3
    for n, (loss, *terms) in enumerate(
        zip(task.per_sample_loss(outputs, ab), *task.terms(outputs, ab).values())
    ):
        colours, mean, log_variance = np.split(outputs[n].double().numpy(), [128, 144])
        error = sum((a - b / 10) ** 2 for a, b in zip(colours, ab[n].flatten().tolist())) / 2 / 64
        divergence = sum((m**2 + math.exp(v) - v - 1) / 2 for m, v in zip(mean, log_variance))
        assert [term.item() for term in terms] == pytest.approx([error, divergence / 64], rel=1e-4)
        assert loss.item() == pytest.approx(error + divergence / 64, rel=1e-4)
    parts = task.parts(outputs, ab)
    assert torch.allclose(
        parts['reconstruction'] + parts['divergence'], task.per_sample_loss(outputs, ab)
    )


def test_z_is_the_posteriors_mean_plus_the_given_noise_times_its_deviation():
    task, pixels = Diverse(), noise()
    model = untrained(task)
    (light, ab, given), target = task.make_batch(pixels, torch.arange(3), device_stream(0, 'x'))
    assert torch.equal(given, torch.randn(3, 16, generator=device_stream(0, 'x')))
    assert torch.allclose(ab.view_as(target), target / 10)
    with torch.no_grad():
        colours, mean, log_variance = model((light, ab, given)).split([128, 16, 16], 1)
        by_hand = model.head.decode(model.trunk(light), mean + given * log_variance.exp().sqrt())
        other = model((light, ab.flip(2), given))[:, 128:144]
        darker = model((light - 1, ab, given))[:, 128:144]
    assert torch.allclose(colours, by_hand.flatten(1), atol=1e-5)
    assert not torch.allclose(other, mean, atol=1e-6) and not torch.allclose(
        darker, mean, atol=1e-6
    )


def test_a_diverse_score_draws_nothing():
    task = Diverse()
    scores = [task.score(untrained(task), noise(), device_stream(seed, 'x')) for seed in (0, 1)]
    assert all(torch.equal(scores[0][name], scores[1][name]) for name in scores[0])
    assert set(scores[0]) == {
        'loss',
        'loss_colour_corrected',
        'colourfulness',
        'reconstruction',
        'divergence',
    }


@pytest.mark.parametrize('name', NAMES)
def test_a_score_does_not_depend_on_batch_or_order(name):
    task, pixels = TASKS[name](), noise(7)
    model = untrained(task)
    whole = task.score(model, pixels, device_stream(0, 'x'))
    order = torch.randperm(7, generator=device_stream(0, 'order'))
    shuffled = task.score(model, pixels[order], device_stream(0, 'x'), batch=2)
    assert all(
        torch.allclose(shuffled[column], whole[column][order], atol=1e-4) for column in whole
    )
    assert whole['loss'].std() > 1e-5


# --- the reproduction ---


def test_the_reproduction_is_asked_for_standardised_colours_of_a_grey_image():
    pixels, task = noise(2), Reproduced()
    (seen,), target = task.make_batch(pixels, torch.arange(2), device_stream(0, 'x'))
    luma = (pixels[0].double() * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0).round()
    for channel in range(3):
        by_hand = (luma / 255 - views.MEAN[channel]) / views.STD[channel]
        # one level: ties round
        assert (seen[0, channel] - by_hand).abs().max() < 1.01 / 255 / views.STD[channel]
    assert torch.equal(target, views.normalise(pixels))
    outputs = untrained(task)((seen,)).detach()
    assert outputs.shape == (2, 3, 16, 16) and outputs.min() > 0 and outputs.max() < 1
    for n in range(2):
        squares = [
            (outputs[n, c, y, x].item() - target[n, c, y, x].item()) ** 2
            for c, y, x in np.ndindex(3, 16, 16)
        ]
        assert task.per_sample_loss(outputs, target)[n].item() == pytest.approx(
            sum(squares) / len(squares), rel=1e-5
        )


def test_no_sigmoid_gets_below_the_floor_of_the_reproduction():
    task, pixels = Reproduced(), pt4al.data.load('cifar10-mini')[0].pixels[:200]
    target = views.normalise(pixels)
    floor = task.parts(target, target)['loss_floor']
    best = torch.sigmoid(torch.logit(target.clamp(0, 1), eps=1e-6))
    assert torch.allclose(task.per_sample_loss(best, target), floor, atol=1e-4)
    assert (
        task.per_sample_loss(torch.rand(target.shape, generator=device_stream(0, 'x')), target)
        >= floor
    ).all()
    assert floor.mean() > 0.3 * target.square().mean()  # most of it cannot be learnt
    assert torch.equal(task.parts(target * 0, target)['loss_floor'], floor)


def test_the_reproduction_trains_by_adam_at_the_rate_it_states_and_the_sound_task_by_sgd():
    broken = pt4al.spec('pretext', dataset='cifar10', task='colorization_reproduced')
    sound = pt4al.spec('pretext', dataset='cifar10', task='colorization:l2')
    assert (broken.optimiser, broken.lr) == ('adam', 0.1) and sound.optimiser == 'sgd'
    assert (
        pt4al.spec('pretext', dataset='cifar10', task='colorization_reproduced', lr=1e-3).lr == 1e-3
    )


# --- pictures ---


@pytest.mark.parametrize('temperature', [1.0, 0.38])
def test_the_annealed_mean_is_the_mean_of_bins_under_sharpened_probabilities(temperature):
    logits, bins = draw(2, 261, 3, 4), gamut()
    out = annealed_mean(logits, bins, temperature)
    for n, y, x in np.ndindex(2, 3, 4):
        p = np.exp(logits[n, :, y, x].double().numpy())
        sharp = (p / p.sum()) ** (1 / temperature)
        assert out[n, :, y, x].numpy() == pytest.approx(
            sharp / sharp.sum() @ bins.numpy(), abs=1e-3
        )
    assert torch.allclose(
        annealed_mean(logits, bins, 1e-3), bins[logits.argmax(1)].movedim(-1, 1), atol=1e-3
    )


def test_painting_an_image_with_its_own_colours_gives_it_back():
    pixels = flat((200, 30, 30), (10, 90, 200), (77, 77, 77))
    assert torch.equal(paint(pixels, Colorization().target(pixels)), pixels)
    blue = paint(pixels, Colorization().target(pixels[[1, 1, 1]]))
    light = views.lab(pixels)[:, 0], views.lab(blue)[:, 0]
    assert (
        torch.allclose(light[0][1:], light[1][1:], atol=1) and blue[2, 2, 0, 0] > blue[2, 0, 0, 0]
    )


class Answer(torch.nn.Module):
    """A model that says what it was told, whatever the input."""

    def __init__(self, said: torch.Tensor):
        super().__init__()
        self.said = said

    def forward(self, inputs):
        return self.said


def test_pictures_show_what_the_model_says():
    pixels = flat((200, 30, 30), (10, 90, 200))
    ab = Colorization().target(pixels)
    assert torch.equal(Regression().pictures(Answer(ab / 10), pixels), pixels)
    said = 50.0 * torch.nn.functional.one_hot(Colorization().nearest(ab), len(gamut())).movedim(
        -1, 1
    )
    shown = Colorization().pictures(Answer(said), pixels)
    # half a bin, and rounding
    assert (views.lab(shown)[:, 1:] - views.lab(pixels)[:, 1:]).abs().max() < 8
    target = views.normalise(pixels)
    assert torch.equal(Reproduced().pictures(Answer(target), pixels), pixels)
    dull = Reproduced().pictures(Answer(target.clamp(0, 1)), pixels)
    assert (dull < 180).all() and (dull > 110).all()


def test_colourings_of_one_image_differ_by_their_draws_of_z_alone():
    task, pixels = Diverse(), noise()
    model = untrained(task)
    made, again, other = (
        task.colourings(model, pixels, 4, device_stream(seed, 'x')) for seed in (0, 0, 1)
    )
    assert made.shape == (3, 4, 3, 16, 16) and made.dtype == torch.uint8
    assert torch.equal(made, again) and not torch.equal(made, other)
    assert all(not torch.equal(made[0, 0], made[0, k]) for k in range(1, 4))
    z = torch.randn(12, 16, generator=device_stream(0, 'x'))
    with torch.no_grad():
        maps = model.trunk(task.encode(pixels[1:2]))
        by_hand = paint(pixels[1:2], 10 * model.head.decode(maps, z[6:7]))
        usual = paint(pixels, 10 * model.head.decode(model.trunk(task.encode(pixels)), 0 * z[:3]))
    assert (made[1, 2].int() - by_hand[0].int()).abs().max() <= 1
    assert torch.equal(task.pictures(model, pixels), usual)


# --- what is refused, what is learnt ---


@pytest.mark.parametrize('name', NAMES)
def test_grey_images_are_refused_before_training_and_one_colour_suffices(name):
    pixels = noise()[:, :1].repeat(1, 3, 1, 1)
    with pytest.raises(
        Refused, match='^all 3 images are grey, .* choose a task other than colorization, or '
    ):
        TASKS[name]().start(None, pixels, device_stream(0, 'x'))
    pixels[2, 1, 5, 5] ^= 1
    TASKS[name]().start(None, pixels, device_stream(0, 'x'))


@pytest.mark.parametrize('task', SOUND, ids=str)
def test_colours_that_follow_from_lightness_are_learnt(task):
    dark, light = (60, 60, 120), (220, 210, 130)
    pixels = flat(*[dark, light] * 6, size=8)
    pixels[:6, :, :4] = pixels[6:, :, :4].flip(0)  # images of one colour and of two
    with initialising(0, 'weights'):
        model = Model(resnet18(4), task.head(32))
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(40):
        inputs, targets = task.make_batch(pixels, torch.arange(12), device_stream(0, step))
        loss = task.per_sample_loss(model(inputs), targets).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    scored = task.scoring(model, pixels, device_stream(0, 'x'))
    inputs, targets = scored.make_batch(pixels, torch.arange(12), device_stream(0, 'x'))
    # in training mode, as just trained
    corrected = scored.parts(model(inputs), targets)['loss_colour_corrected']
    assert corrected.mean() < (-0.3 if isinstance(task, Colorization) else 0.3)
