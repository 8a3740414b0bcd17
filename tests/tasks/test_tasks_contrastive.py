"""SimCLR and PIRL against their formulas written as loops, their views, their memory, and what
scoring depends on.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor

from pt4al.data import views
from pt4al.errors import Refused
from pt4al.rng import device_stream, initialising
from pt4al.tasks import TASKS, contrastive
from pt4al.tasks.contrastive import OWN, PIRL, ScoredSimCLR, SimCLR
from pt4al.tasks.task import recalibrate
from pt4al.training.execution import Execution
from pt4al.training.fit import Schedule, fit, minibatches
from pt4al.training.nets import Model, resnet18

torch.set_num_threads(1)  # networks this small are slower on more

N = 12
FEW = PIRL(negatives=5)


@pytest.fixture(scope='module')
def pixels() -> Tensor:
    """Patches of smooth colour, so that images differ in more than noise."""
    coarse = np.random.default_rng(3).integers(256, size=(N, 3, 4, 4), dtype=np.uint8)
    return torch.from_numpy(coarse.repeat(8, 2).repeat(8, 3))


def untrained(task) -> Model:
    with initialising(0, 'weights'):
        return Model(resnet18(4), task.head(32))


def started(task, pixels: Tensor) -> Model:
    """A network whose batch statistics and memory have moved away from their start."""
    model = untrained(task)
    task.start(model, pixels, device_stream(0, 'start'))
    model.train()
    with torch.no_grad():
        for draw in range(10):
            model(
                task.make_batch(pixels, torch.arange(len(pixels)), device_stream(0, 'warm', draw))[
                    0
                ]
            )
    return model.eval()


def score(task, model: Model, pixels: Tensor, **settings) -> dict[str, Tensor]:
    return task.score(model, pixels, device_stream(0, 'score'), **settings)


def shuffled(pixels: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, torch.Generator]:
    index = torch.randperm(len(pixels), generator=rng)
    return pixels[index], index, rng


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b)) / math.sqrt(
        sum(x * x for x in a) * sum(x * x for x in b)
    )


def unit(*shape: int) -> Tensor:
    return torch.nn.functional.normalize(
        torch.randn(shape, generator=device_stream(0, 'unit', *shape)), dim=-1
    )


# --- SimCLR's views ---


def test_a_crop_of_everything_is_the_image_and_its_mirror(pixels):
    whole = torch.tensor([[1.0, 0.5, 0.3, 0.9, 0.1], [1.0, 0.5, 0.3, 0.9, 0.7]])
    out = views.resized_crop(pixels[:2], whole)
    assert torch.allclose(out[0], pixels[0].float(), atol=1e-2)
    assert torch.allclose(out[1], pixels[1].float().flip(2), atol=1e-2)


@pytest.mark.parametrize('height, width', [(24, 24), (20, 30)])
def test_a_crop_is_a_bilinear_reading_of_its_box(height, width):
    image = torch.from_numpy(
        np.random.default_rng(0).integers(256, size=(1, 3, height, width), dtype=np.uint8)
    )
    area, shape, left, top, mirror = u = (0.3, 0.8, 0.25, 0.6, 0.1)
    size, ratio = (0.08 + 0.92 * area) * height * width, (3 / 4) ** (1 - 2 * shape)
    wide, tall = math.sqrt(size * ratio), math.sqrt(size / ratio)
    out = views.resized_crop(image, torch.tensor([u]))
    for y, x in ((0, 0), (3, 17), (height - 1, width - 1), (height // 2, 5)):
        row = top * (height - tall) + (y + 0.5) / height * tall - 0.5
        column = left * (width - wide) + (x + 0.5) / width * wide - 0.5
        r, c = int(row), int(column)
        part = image[0, :, r : r + 2, c : c + 2].double()
        weight = torch.tensor([[1 - row + r], [row - r]]) * torch.tensor(
            [1 - column + c, column - c]
        )
        by_hand = (part * weight).sum((1, 2))
        assert out[0, :, y, x].tolist() == pytest.approx(by_hand.tolist(), abs=0.02)


def test_crops_stay_inside_the_image_whatever_is_drawn():
    rows = torch.arange(32.0).view(1, 1, 32, 1).expand(500, 3, 32, 32)
    u = torch.rand((500, 5), generator=device_stream(0, 'u'))
    out = views.resized_crop(rows, u)[:, 0, :, 0]
    assert out.min() >= 0 and out.max() <= 31 and (out[:, -1] > out[:, 0]).all()
    # nor is an edge darkened
    assert views.resized_crop(torch.full((500, 3, 8, 8), 200.0), u).min() > 199.9
    tall = (out[:, 20] - out[:, 10]) / 10  # how much of the height a crop shows
    assert tall.max() <= 1 + 1e-5 and tall.min() == pytest.approx(math.sqrt(0.08 * 3 / 4), abs=0.03)


def jitter(image: list[float], *u: float) -> list[float]:
    """The middle of a picture of one colour, after colour_jitter with these draws."""
    flat = torch.tensor(image).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    return views.colour_jitter(flat, torch.tensor([u]))[0, :, 2, 2].tolist()


def test_colour_jitter_is_its_formula_one_change_at_a_time():
    colour, still = [200.0, 100.0, 40.0], 0.5
    luma = round(0.299 * 200 + 0.587 * 100 + 0.114 * 40)
    assert jitter(colour, 0.5, still, still, still, still, 0.5) == pytest.approx(colour, abs=1e-3)
    assert jitter(colour, 0.5, 0.25, still, still, still, 0.5) == pytest.approx(
        [0.8 * c for c in colour], abs=1e-3
    )
    assert jitter(colour, 0.5, 1.0, still, still, still, 0.5) == pytest.approx(
        [255.0, 140.0, 56.0], abs=1e-3
    )
    faded = [luma + 0.8 * (c - luma) for c in colour]
    assert jitter(colour, 0.5, still, still, 0.25, still, 0.5) == pytest.approx(faded, abs=1e-3)
    # one colour: its own mean
    assert jitter(colour, 0.5, still, 0.25, still, still, 0.5) == pytest.approx(faded, abs=1e-3)
    assert (
        len(set(jitter(colour, 0.5, 0.25, 0.3, 0.2, 0.1, 0.1)))
        == 1
        < len(set(jitter(colour, 0.5, 0.25, 0.3, 0.2, 0.1, 0.5)))
    )
    assert jitter(colour, 0.9, 0.1, 0.1, 0.1, 0.1, 0.5) == colour
    assert jitter(colour, 0.9, 0.1, 0.1, 0.1, 0.1, 0.1) == [luma] * 3


def test_contrast_is_about_the_mean_grey_of_the_image():
    image = torch.zeros(1, 3, 2, 2)
    image[0, :, 0] = 200.0
    out = views.colour_jitter(image, torch.tensor([[0.5, 0.5, 0.0, 0.5, 0.5, 0.5]]))
    assert out[0, 0].flatten().tolist() == pytest.approx([160, 160, 40, 40], abs=1e-3)


def test_a_turn_of_hue_keeps_the_mean_and_moves_the_hue_by_its_angle():
    red = [160.0, 80.0, 80.0]
    for draw in (0.0, 0.25, 1.0):
        out = jitter(red, 0.5, 0.5, 0.5, 0.5, draw, 0.5)
        assert sum(out) == pytest.approx(sum(red), abs=1e-2)
        turn = (colorsys.rgb_to_hsv(*[c / 255 for c in out])[0] + 0.5) % 1 - 0.5
        assert turn == pytest.approx(0.1 * (2 * draw - 1), abs=0.008)
    third = (
        views._turn_hue(torch.tensor(red).view(1, 3, 1, 1), torch.tensor([2 * math.pi / 3]))
        .flatten()
        .tolist()
    )
    assert third == pytest.approx([80, 160, 80], abs=1e-3)


def test_four_views_in_five_are_jittered_and_one_in_five_is_grey():
    colour = torch.tensor([200.0, 100.0, 40.0]).view(1, 3, 1, 1).expand(3000, 3, 2, 2)
    out = views.colour_jitter(colour, torch.rand((3000, 6), generator=device_stream(0, 'u')))
    is_grey = (out[:, 0] == out[:, 1]).all((1, 2))
    assert is_grey.float().mean().item() == pytest.approx(0.2, abs=0.03)
    assert (out[~is_grey] == colour[:1]).all((1, 2, 3)).float().mean().item() == pytest.approx(
        0.2, abs=0.03
    )


def test_views_of_one_image_stand_together_and_differ(pixels):
    (inputs,), targets = SimCLR().make_batch(
        pixels[:3], torch.tensor([7, 8, 9]), device_stream(0, 'x')
    )
    u = torch.rand((3, 2, 11), generator=device_stream(0, 'x'))
    assert inputs.shape == (6, 3, 32, 32) and targets.tolist() == [7, 8, 9]
    for n in range(3):
        for v in range(2):
            alone = contrastive.distort(pixels[n : n + 1], u[n : n + 1, v : v + 1])
            assert torch.allclose(inputs[2 * n + v], alone[0], atol=1e-5)
    assert not torch.allclose(inputs[0], inputs[1], atol=0.1)


# --- SimCLR's losses ---


def nt_xent(z: list[list[float]], temperature: float) -> list[float]:
    """Equation 1 of Chen et al. 2020 for rows 2k and 2k + 1, two views of image k; the mean of
    l(i,j) and l(j,i).
    """

    def one(i: int, j: int) -> float:
        below = sum(math.exp(cosine(z[i], z[k]) / temperature) for k in range(len(z)) if k != i)
        return -math.log(math.exp(cosine(z[i], z[j]) / temperature) / below)

    return [(one(2 * k, 2 * k + 1) + one(2 * k + 1, 2 * k)) / 2 for k in range(len(z) // 2)]


@pytest.mark.parametrize('temperature', [0.5, 0.2])
def test_simclr_is_nt_xent(temperature, monkeypatch):
    z = unit(8, 128)
    monkeypatch.setattr(SimCLR, 'temperature', temperature)
    losses = SimCLR().per_sample_loss(z, torch.arange(4))
    assert losses.tolist() == pytest.approx(nt_xent(z.tolist(), temperature), abs=1e-5)


def test_equal_embeddings_give_the_logarithm_of_the_number_of_candidates():
    same = torch.eye(128)[0].expand(8, -1)
    assert SimCLR().per_sample_loss(same, torch.arange(4)).tolist() == pytest.approx(
        [math.log(7)] * 4
    )


def test_a_projection_has_length_one_and_two_layers():
    head = SimCLR().head(32)
    out = head(torch.rand((5, 32, 2, 2), generator=device_stream(0, 'maps')))
    assert out.shape == (5, 128) and torch.allclose(out.norm(dim=1), torch.ones(5))
    assert [tuple(p.shape) for p in head.parameters()] == [(32, 32), (32,), (128, 32), (128,)]


def test_the_scored_loss_of_simclr_is_infonce_against_the_bank_without_the_own_row(pixels):
    t, v = 0.5, 3
    scored = ScoredSimCLR(None, torch.tensor([4, 0, 6, 2]), unit(4, 128))
    z, index = unit(2 * v, 128), torch.tensor([6, 5])
    losses, parts = scored.per_sample_loss(z, index).tolist(), scored.parts(z, index)
    for n in range(2):
        own = z[n * v : (n + 1) * v].tolist()
        rows = [b for r, b in zip([4, 0, 6, 2], scored.bank.tolist()) if r != index[n]]
        below = [sum(math.exp(cosine(a, b) / t) for b in rows) for a in own]
        pairs = [(a, b) for a in range(v) for b in range(v) if a != b]
        s = [cosine(own[a], own[b]) for a, b in pairs]
        by_hand = [
            -math.log(math.exp(x / t) / (math.exp(x / t) + below[a])) for x, (a, _) in zip(s, pairs)
        ]
        assert losses[n] == pytest.approx(sum(by_hand) / 6, abs=1e-5)
        assert parts['alignment'][n].item() == pytest.approx(1 - sum(s) / 6, abs=1e-5)
        assert parts['density'][n].item() == pytest.approx(
            sum(math.log(b / len(rows)) for b in below) / v, abs=1e-5
        )


def test_the_bank_holds_one_view_of_each_of_many_images(pixels, monkeypatch):
    task, model = SimCLR(), started(SimCLR(), pixels)
    scored = task.scoring(model, pixels, device_stream(0, 'score'))
    assert sorted(scored.rows.tolist()) == list(range(N)) and scored.u.shape == (N, 8, 11)
    u = torch.rand((N, 9, 11), generator=device_stream(0, 'score'))
    with torch.no_grad():
        row = model(
            (contrastive.distort(pixels[scored.rows[3]][None], u[scored.rows[3], 8:][None]),)
        )
    assert torch.allclose(scored.bank[3], row[0], atol=1e-5)
    monkeypatch.setattr(contrastive, 'BANK', 5)
    assert task.scoring(model, pixels, device_stream(0, 'score')).bank.shape == (5, 128)


# --- PIRL's loss ---


def equations_4_to_6(
    m: list[float], transforms: list, f: list[float], others: list, t: float, weight: float
) -> float:
    def h(image: list[float], v: list[float]) -> float:
        below = sum(math.exp(cosine(other, v) / t) for other in others)
        return math.exp(cosine(image, v) / t) / (math.exp(cosine(image, v) / t) + below)

    def nce(v: list[float]) -> float:
        return -math.log(h(m, v)) - sum(math.log(1 - h(other, v)) for other in others)

    return weight * sum(map(nce, transforms)) / len(transforms) + (1 - weight) * nce(f)


@pytest.mark.parametrize('weight', [0, 0.25, 0.5, 1])
def test_pirl_is_equations_4_to_6(weight):
    task = PIRL(weight=weight, negatives=4)
    head = task.head(16).eval()
    head.memory = unit(9, 128)
    image = torch.randn((2, 16, 2, 2), generator=device_stream(0, 'images'))
    tiles = torch.randn((8, 16, 1, 1), generator=device_stream(0, 'tiles'))
    orders, index = torch.tensor([[[0, 1, 2, 3], [3, 1, 0, 2]]] * 2), torch.tensor([2, 7])
    # rows 0, 2, 4, 8; 2 is the first image's own
    places = torch.tensor([0.05, 0.25, 0.5, 0.99], dtype=torch.float64)
    with torch.no_grad():
        losses = task.per_sample_loss(head(image, tiles, orders, index, places), index)
        f, part = head.image(image.mean((2, 3))), head.part(tiles.mean((2, 3))).view(2, 4, 128)
        g = [
            [
                head.joined(torch.cat([part[n, k] for k in order])).tolist()
                for order in orders[n].tolist()
            ]
            for n in range(2)
        ]
    memory = head.memory.tolist()
    for n in range(2):
        others = [memory[row] for row in (0, 2, 4, 8) if row != index[n]]
        by_hand = equations_4_to_6(memory[index[n]], g[n], f[n].tolist(), others, 0.07, weight)
        assert losses[n].item() == pytest.approx(by_hand, rel=1e-4)


def test_the_negative_term_of_equation_5_lies_between_log_2_and_1_whatever_the_cosines():
    def second_term(cosines: Tensor) -> Tensor:
        own = torch.zeros(2 * len(cosines), dtype=torch.int64)
        first = torch.nn.functional.cross_entropy(
            (cosines / 0.07).flatten(0, 1), own, reduction='none'
        )
        whole = PIRL().per_sample_loss(cosines, torch.arange(len(cosines)))
        return whole - first.view(-1, 2).mean(1)

    for scale in (0.0, 0.1, 1.0):
        term = second_term(
            scale * (2 * torch.rand((50, 2, 301), generator=device_stream(0, 'c')) - 1)
        )
        assert math.log(2) - 1e-4 <= term.min() and term.max() <= 1 + 1e-4
    one_near = torch.cat([torch.ones(1, 2, 2), torch.full((1, 2, 50), -1.0)], 2)
    assert second_term(one_near).item() == pytest.approx(math.log(2), abs=1e-4)


def test_an_own_row_among_the_negatives_counts_nothing_even_alone():
    cosines = torch.tensor([[[0.3, 0.2, -0.1, OWN], [0.5, 0.4, 0.0, OWN]]])
    without = FEW.per_sample_loss(cosines[:, :, :3], torch.arange(1))
    assert torch.allclose(FEW.per_sample_loss(cosines, torch.arange(1)), without)
    assert FEW.parts(cosines, torch.arange(1))['density'].item() == pytest.approx(
        math.log((math.exp(0.2 / 0.07) + math.exp(-0.1 / 0.07)) / 2), abs=1e-4
    )
    assert FEW.parts(cosines, torch.arange(1))['alignment'].item() == pytest.approx(0.7, abs=1e-6)
    assert (
        FEW.per_sample_loss(torch.tensor([[[0.3, OWN], [0.3, OWN]]]), torch.arange(1))
        .isfinite()
        .all()
    )


def test_negatives_spread_over_the_whole_memory_and_as_many_as_it_has_are_all_of_it():
    def rows(k: int, n: int, seed: int = 0) -> list[int]:
        return (contrastive._places(k, device_stream(seed, 'x')) * n).long().tolist()

    assert rows(4000, 4000) == list(range(4000))
    few = rows(64, 4000)
    assert len(set(few)) == 64 and few != rows(64, 4000, 1)
    assert all(k * 62.5 - 1 < r < (k + 1) * 62.5 for k, r in enumerate(few))
    drawn = np.bincount(np.concatenate([rows(3, 9, seed) for seed in range(3000)]), minlength=9)
    assert abs(drawn / 1000 - 1).max() < 0.12


# --- PIRL's batches and memory ---


def test_a_jigsaw_batch_has_the_image_its_tiles_and_one_order_of_them(pixels):
    (whole, tiles, orders, index, places), _ = FEW.make_batch(
        pixels, torch.arange(N) + 30, device_stream(0, 'x')
    )
    assert (
        torch.equal(whole, views.normalise(pixels))
        and tiles.shape == (4 * N, 3, 12, 12)
        and places.shape == (5,)
    )
    assert index.tolist() == list(range(30, 30 + N)) and orders.shape == (N, 1, 4)
    assert (
        orders.sort(2).values.flatten().tolist() == [0, 1, 2, 3] * N
        and len(orders.unique(dim=0)) > 4
    )
    assert tiles.mean((1, 2, 3)).abs().max() < 1e-5


def test_the_sets_of_transforms_have_the_sizes_their_names_tell(pixels):
    def orders(name: str) -> Tensor:
        return TASKS[name]()._orders('cpu')

    assert sorted(map(tuple, orders('pirl').tolist())) == sorted(permutations(range(4)))
    assert orders('pirl:permutations=4').shape == (4, 4)
    made = {name: TASKS[name]() for name in TASKS if name.startswith('pirl:')}
    for name, task in made.items():
        what, _, value = name.partition(':')[2].partition('=')
        assert str(getattr(task, {'lambda': 'weight'}.get(what, what))) == value
        assert (
            replace(task, **{field: getattr(PIRL(), field) for field in TASKS[name].options})
            == PIRL()
        )


def test_start_fills_the_memory_with_f_of_the_whole_images(pixels):
    model = untrained(FEW)
    before = {
        name: value.clone() for name, value in model.state_dict().items() if 'memory' not in name
    }
    FEW.start(model, pixels, device_stream(0, 'start'))
    with torch.no_grad():
        f = model.head.image(model.eval().trunk(views.normalise(pixels[4:5])).mean((2, 3)))[0]
    assert torch.allclose(
        model.head.memory[4], f / f.norm(), atol=1e-5
    ) and model.head.memory.shape == (N, 128)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert 'head.memory' in model.state_dict()


def test_a_training_batch_moves_its_own_rows_half_way_and_no_others(pixels):
    model, index = started(FEW, pixels).train(), torch.tensor([3, 8, 5])
    inputs, _ = FEW.make_batch(pixels[index], index, device_stream(0, 'x'))
    before, f = model.head.memory.clone(), []
    model.head.image.register_forward_hook(lambda layer, given, out: f.append(out.detach()))
    model(inputs).sum().backward()
    moved = before[index] / 2 + f[0] / f[0].norm(dim=1, keepdim=True) / 2
    assert torch.allclose(
        model.head.memory[index], moved / moved.norm(dim=1, keepdim=True), atol=1e-5
    )
    assert not torch.allclose(model.head.memory[index], before[index], atol=1e-3)
    rest = [n for n in range(N) if n not in index]
    assert torch.equal(model.head.memory[rest], before[rest])
    after = model.head.memory.clone()
    model.eval()(inputs)
    assert torch.equal(model.head.memory, after)


def test_the_cosines_of_a_batch_are_of_the_memory_before_it_moves(pixels):
    model = started(FEW, pixels)
    inputs, _ = FEW.make_batch(pixels, torch.arange(N), device_stream(0, 'x'))
    model.train()
    norms = [layer.eval() for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        assert norms and torch.equal(
            model(inputs), model(inputs[:5] + (started(FEW, pixels).head.memory,))
        )


def test_cosines_keep_float32_under_autocast(pixels):
    model = started(FEW, pixels)
    inputs, _ = FEW.make_batch(pixels, torch.arange(N), device_stream(0, 'x'))
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        out = model(inputs)
        f = model.head.f(model.trunk(inputs[0]))
    assert out.dtype == torch.float32
    own = (f.double() * model.head.memory.double()).sum(1)
    assert torch.allclose(out[:, -1, 0].double(), own, atol=1e-6)


def test_an_interrupted_run_goes_on_with_the_same_memory(pixels, tmp_path):
    def trained(epochs: int, name: str) -> tuple[Model, list[float]]:
        model = untrained(FEW)
        FEW.start(model, pixels, device_stream(0, 'start'))

        def batches(epoch: int):
            rng = device_stream(0, 'epoch', epoch)
            for index in minibatches(torch.arange(N), 5, rng):
                yield FEW.make_batch(pixels[index], index, rng)

        history = fit(
            model,
            batches,
            FEW.per_sample_loss,
            Schedule(epochs, 0.01),
            Execution('cpu', 'bf16', 1),
            N,
            'toy',
            tmp_path / name,
        )
        return model, history.loss

    whole, losses = trained(3, 'whole.pt')
    trained(2, 'parts.pt')
    again, resumed = trained(3, 'parts.pt')
    assert resumed == losses
    for (name, a), b in zip(whole.state_dict().items(), again.state_dict().values()):
        assert torch.equal(a, b), name


# --- scores ---


@pytest.fixture(scope='module', params=['simclr', 'pirl', 'pirl:permutations=4'])
def scored(request, pixels):
    task = TASKS[request.param]()
    task = replace(task, negatives=5) if isinstance(task, PIRL) else task
    model = started(task, pixels)
    return task, model, score(task, model, pixels)


def test_a_score_does_not_depend_on_the_batch(scored, pixels):
    task, model, table = scored
    for batch in (1, 5):
        for name, values in score(task, model, pixels, batch=batch).items():
            assert torch.allclose(values, table[name], atol=1e-4, rtol=0)
    assert set(table) == {'loss', 'alignment', 'density'} and table['loss'].std() > 1e-3


def test_a_score_changes_neither_the_model_nor_the_task_and_follows_its_generator(scored, pixels):
    task, model, table = scored
    before = {name: value.clone() for name, value in model.state_dict().items()}
    again = task.score(model, pixels, device_stream(0, 'score'))
    assert all(torch.equal(again[name], values) for name, values in table.items())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    other = task.score(model, pixels, device_stream(1, 'score'))['loss']
    assert not torch.allclose(other, table['loss'], atol=1e-4)


def test_scoring_shows_the_trunk_no_more_views_at_once_than_a_batch_has_images(pixels, monkeypatch):
    sizes, model = [], started(SimCLR(), pixels)
    monkeypatch.setattr(contrastive, 'BANK', 2)
    model.trunk.register_forward_pre_hook(lambda trunk, given: sizes.append(len(given[0])))
    score(SimCLR(), model, pixels, batch=17)
    assert max(sizes) == 16


def test_a_score_of_pirl_is_equations_4_to_6_on_f_of_the_final_network(pixels):
    model = started(FEW, pixels)
    out, table = model.head, score(FEW, model, pixels)
    # the whole pool fits in one batch
    seen = FEW.make_batch(*shuffled(pixels, device_stream(0, 'score')))[0]
    of_images, of_tiles = (recalibrate(model.trunk, [x]) for x in seen[:2])
    with torch.no_grad():
        f = out.image(of_images(views.normalise(pixels)).mean((2, 3))).tolist()
        tiles = views.standardise(views.tiles(pixels, 2, 12)).flatten(0, 1)
        part = out.part(of_tiles(tiles).mean((2, 3))).view(N, 4, 128)
        for n in (0, 7):
            g = [
                out.joined(torch.cat([part[n, k] for k in order])).tolist()
                for order in permutations(range(4))
            ]
            others = [f[k] for k in range(N) if k != n]
            assert table['loss'][n].item() == pytest.approx(
                equations_4_to_6(f[n], g, f[n], others, 0.07, 0.5), abs=2e-3
            )
            assert table['alignment'][n].item() == pytest.approx(
                1 - sum(cosine(f[n], v) for v in g) / 24, abs=1e-4
            )


# --- refusals ---


def test_what_cannot_be_used_is_refused(pixels):
    with pytest.raises(Refused, match='draws 13 negatives, but there are 12 images'):
        PIRL(negatives=N + 1).start(untrained(FEW), pixels, device_stream(0, 'start'))
    PIRL(negatives=N).start(untrained(FEW), pixels, device_stream(0, 'start'))
    with pytest.raises(Refused, match='too small for 2x2 tiles'):
        FEW.start(untrained(FEW), pixels[..., :6, :6], device_stream(0, 'start'))
    with pytest.raises(Refused, match='at least two images'):
        SimCLR().start(untrained(SimCLR()), pixels[:1], device_stream(0, 'start'))
