"""Permutation sets against their definition; jigsaw and relative position against loops over tiles
and arrangements.
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
from pt4al.rng import device_stream, initialising, stream
from pt4al.tasks import TASKS, patches
from pt4al.tasks.patches import Jigsaw, RelativePosition, Tiles, max_hamming, permutation_set
from pt4al.tasks.task import pretext_losses
from pt4al.training.nets import Model, resnet18

torch.set_num_threads(1)  # networks this small are slower on more


def noise(n: int = 5, height: int = 32, width: int = 32) -> torch.Tensor:
    return torch.from_numpy(
        np.random.default_rng(3).integers(256, size=(n, 3, height, width), dtype=np.uint8)
    )


def network(task: Tiles) -> Model:
    """A network whose batch statistics have moved away from their start."""
    with initialising(0, 'weights'):
        model = Model(resnet18(4), task.head(32))
    with torch.no_grad():
        for draw in range(30):
            model(task.make_batch(noise(), torch.arange(5), device_stream(0, draw))[0])
    return model.eval()


def score(task: Tiles, model: Model, pixels: torch.Tensor, **settings) -> torch.Tensor:
    return pretext_losses(model, task, pixels, lambda r: device_stream(0, 'score', r), **settings)[
        'loss'
    ][0]


# --- sets of permutations ---


def distances(orders) -> np.ndarray:
    orders = np.asarray(orders)
    return (orders[:, None] != orders[None]).sum(2)


@pytest.mark.parametrize('tiles, size', [(4, 24), (5, 60)])
def test_every_permutation_is_the_farthest_in_the_mean_then_from_the_nearest(tiles, size):
    chosen = [tuple(order) for order in max_hamming(tiles, size, stream(0, 'x')).tolist()]
    for k in range(1, size):
        far = {}
        for order in set(permutations(range(tiles))) - set(chosen[:k]):
            each = [sum(a != b for a, b in zip(order, other)) for other in chosen[:k]]
            far[order] = sum(each), min(each)
        assert far[chosen[k]] == max(far.values())


def test_all_orders_of_four_tiles_are_each_there_once():
    assert sorted(map(tuple, permutation_set(4, 24).tolist())) == list(permutations(range(4)))


def test_a_hundred_permutations_have_the_mean_distance_of_the_paper():
    chosen = max_hamming(9, 100, stream(0, 'x'))
    apart = distances(chosen)[np.triu_indices(100, 1)]
    assert chosen.shape == (100, 9) and chosen.dtype == np.uint8
    assert apart.mean() == pytest.approx(8.08, abs=0.005)  # Noroozi & Favaro 2016, table 4
    assert apart.min() >= 3  # theirs has 2: ties fell otherwise


def test_a_smaller_set_begins_a_larger_one_and_another_stream_gives_another():
    large = max_hamming(6, 90, stream(0, 'x'))
    assert np.array_equal(max_hamming(6, 40, stream(0, 'x')), large[:40])
    assert not np.array_equal(max_hamming(6, 90, stream(1, 'x')), large)
    ties = {tuple(max_hamming(4, 2, stream(seed, 'x'))[1]) for seed in range(60)}
    # ties do not fall in the order of the list
    assert len(ties) > 12


def test_permutation_sets_are_kept_and_cannot_be_written_to():
    kept = permutation_set(6, 40)
    assert kept is permutation_set(6, 40)
    assert np.array_equal(kept, max_hamming(6, 40, stream(0, 'permutations', 6)))
    with pytest.raises(ValueError, match='read-only'):
        kept[0, 0] = 1


@pytest.mark.parametrize('grid, size, most', [(2, 25, '24'), (2, 1, '24'), (3, 362_881, '362880')])
def test_a_set_larger_than_there_are_orders_is_refused_when_the_task_is_made(grid, size, most):
    with pytest.raises(
        Refused, match=f'^{size} permutations of {grid**2} tiles: give from 2 to {most}$'
    ):
        Jigsaw(grid=grid, permutations=size)
    with pytest.raises(Refused, match='^16 tiles: a jigsaw has 9 at most$'):
        Jigsaw(grid=4, permutations=size)


# --- losses ---


def embeddings(model: Model, image: np.ndarray, grid: int, size: int) -> list[torch.Tensor]:
    """Each tile cut from the middle of its cell and put through the trunk alone."""
    out, cell = [], 32 // grid
    for row in range(grid):
        for column in range(grid):
            top, left = (
                (32 - grid * cell) // 2 + cell * k + (cell - size) // 2 for k in (row, column)
            )
            tile = image[:, top : top + size, left : left + size].astype(float)
            tile = torch.tensor((tile - tile.mean()) / tile.std(), dtype=torch.float32)
            with torch.no_grad():
                out.append(model.trunk(tile[None])[0].mean((1, 2)))
    return out


def cross_entropy(model: Model, shown: list[torch.Tensor], truth: int) -> float:
    with torch.no_grad():
        logits = model.head.classify(torch.cat(shown)).tolist()
    return -math.log(math.exp(logits[truth]) / sum(map(math.exp, logits)))


@pytest.mark.parametrize('grid, size, number', [(2, 12, 24), (3, 8, 30)])
def test_jigsaw_loss_is_the_mean_over_all_permutations_of_the_set(grid, size, number):
    task, pixels = Jigsaw(grid=grid, permutations=number), noise()
    model, by_hand = network(task), []
    for image in pixels.numpy():
        tiles = embeddings(model, image, grid, size)
        by_hand.append(
            sum(
                cross_entropy(model, [tiles[t] for t in order], label)
                for label, order in enumerate(permutation_set(grid**2, number))
            )
            / number
        )
    assert np.ptp(by_hand) > 1e-3  # the images differ, else the next line says little
    assert score(task, model, pixels).tolist() == pytest.approx(by_hand, abs=1e-5)


def test_relative_position_loss_is_the_mean_over_the_eight_neighbours_of_the_grey_image():
    task, pixels = RelativePosition(), noise()
    model, by_hand = network(task), []
    for image in views.grey(pixels).numpy():
        tiles = embeddings(model, image, 3, 8)
        by_hand.append(
            sum(
                cross_entropy(model, [tiles[t], tiles[4]], label)
                for label, t in enumerate((0, 1, 2, 3, 5, 6, 7, 8))
            )
            / 8
        )
    assert np.ptp(by_hand) > 1e-3
    assert score(task, model, pixels).tolist() == pytest.approx(by_hand, abs=1e-5)


@pytest.mark.parametrize(
    'task, chance', [(Jigsaw(), 24), (Jigsaw(grid=3, permutations=30), 30), (RelativePosition(), 8)]
)
def test_a_head_that_knows_nothing_is_at_chance(task, chance):
    model = network(task)
    torch.nn.init.zeros_(model.head.classify[2].weight)
    torch.nn.init.zeros_(model.head.classify[2].bias)
    assert score(task, model, noise()).tolist() == pytest.approx([math.log(chance)] * 5)
    inputs, targets = task.make_batch(noise(), torch.arange(5), device_stream(0, 'x'))
    assert task.per_sample_loss(model(inputs), targets).tolist() == pytest.approx(
        [math.log(chance)] * 5
    )


@pytest.mark.parametrize('values', [1, 5 * 128 * 7])
def test_permutations_are_scored_in_parts_that_memory_can_hold(monkeypatch, values):
    task, pixels, sizes = Jigsaw(), noise(), []
    model, logits = network(task), patches.Arranged.logits
    whole = score(task, model, pixels)
    monkeypatch.setattr(patches, 'VALUES', values)
    monkeypatch.setattr(
        patches.Arranged, 'logits', lambda *given: sizes.append(given[2].shape[1]) or logits(*given)
    )
    assert torch.allclose(score(task, model, pixels), whole, atol=1e-6, rtol=0)
    assert sizes == ([1] * 24 if values == 1 else [7, 7, 7, 3])


def test_logits_bound_the_parts_where_a_set_is_larger_than_the_joined_tiles(monkeypatch):
    task, sizes = Jigsaw(grid=3, permutations=400), []
    logits = patches.Arranged.logits
    with initialising(0, 'weights'):
        model = Model(resnet18(4), task.head(32))
    monkeypatch.setattr(patches, 'VALUES', 2 * 400 * 150)
    monkeypatch.setattr(
        patches.Arranged, 'logits', lambda *given: sizes.append(given[2].shape[1]) or logits(*given)
    )
    assert score(task, model, noise(2)).shape == (2,)
    assert sizes == [150, 150, 100]


@pytest.mark.parametrize('task', [Jigsaw(), RelativePosition()])
@pytest.mark.parametrize('batch', [1, 2, 5])
def test_a_score_needs_no_draw_and_does_not_depend_on_the_batch(task, batch):
    model, pixels = network(task), noise()
    table = pretext_losses(
        model, task, pixels, lambda r: device_stream(0, 'score', r), repeats=2, batch=batch
    )['loss']
    assert torch.equal(table[0], table[1])
    assert torch.allclose(table[0], score(task, model, pixels), atol=1e-5, rtol=0)


# --- batches ---


def test_training_cuts_tiles_anywhere_and_scoring_in_the_middle():
    task, pixels = Jigsaw(), noise()
    (tiles, _), _ = task.make_batch(pixels, torch.arange(5), device_stream(0, 'x'))
    assert torch.equal(
        tiles, views.standardise(views.tiles(pixels, 2, 12, device_stream(0, 'x'))).flatten(0, 1)
    )
    (tiles, _), _ = task.scoring(None, pixels, None).make_batch(
        pixels, torch.arange(5), device_stream(0, 'x')
    )
    assert torch.equal(tiles, views.standardise(views.tiles(pixels, 2, 12)).flatten(0, 1))
    assert tiles.is_contiguous(memory_format=torch.channels_last)


def test_training_asks_about_random_permutations_and_scoring_about_all():
    task, pixels = Jigsaw(), noise(40)
    (_, asked), targets = task.make_batch(pixels, torch.arange(40), device_stream(0, 'x'))
    assert asked.shape == (40, 8) and torch.equal(asked, targets)
    assert set(asked.flatten().tolist()) == set(range(24)) and not torch.equal(asked[0], asked[1])
    (_, asked), _ = task.scoring(None, pixels, None).make_batch(
        pixels, torch.arange(40), device_stream(0, 'x')
    )
    assert torch.equal(asked, torch.arange(24).expand(40, -1))
    (_, asked), _ = RelativePosition().make_batch(pixels, torch.arange(40), device_stream(0, 'x'))
    assert torch.equal(asked, torch.arange(8).expand(40, -1))


def test_two_images_of_three_lose_their_colours_in_training_and_all_when_scored():
    pixels = noise(600)
    (tiles, _), _ = RelativePosition().make_batch(pixels, torch.arange(600), device_stream(0, 'x'))
    grey = (tiles[:, :1] == tiles).flatten(1).all(1).view(600, 9)
    assert torch.equal(grey.any(1), grey.all(1))  # whole images, not tiles
    assert grey[:, 0].double().mean().item() == pytest.approx(2 / 3, abs=0.06)
    scored = RelativePosition().scoring(None, pixels, None)
    (tiles, _), _ = scored.make_batch(pixels[:5], torch.arange(5), device_stream(0, 'x'))
    assert torch.equal(
        tiles, views.standardise(views.tiles(views.grey(pixels[:5]), 3, 8)).flatten(0, 1)
    )


@pytest.mark.parametrize(
    'task, height, width, size',
    [
        (Jigsaw(), 32, 32, 12),
        (Jigsaw(grid=3, permutations=100), 32, 32, 8),
        (RelativePosition(), 28, 28, 7),
        (RelativePosition(), 224, 224, 56),
        (Jigsaw(), 20, 64, 8),
        (RelativePosition(), 12, 12, 4),
    ],
)
def test_a_tile_is_three_quarters_of_its_cell(task, height, width, size):
    (tiles, _), _ = task.make_batch(noise(2, height, width), torch.arange(2), device_stream(0, 'x'))
    assert tiles.shape == (2 * task.grid**2, 3, size, size)


@pytest.mark.parametrize(
    'task, side', [(Jigsaw(), 7), (RelativePosition(), 11), (Jigsaw(grid=3, permutations=24), 2)]
)
def test_images_too_small_for_the_grid_are_refused_before_training(task, side):
    with pytest.raises(
        Refused, match=f'of {side}x{side} pixels are too small for {task.grid}x{task.grid} tiles'
    ):
        task.start(None, noise(3, side, side), device_stream(0, 'x'))


def test_images_that_are_not_square_keep_the_contract():
    testing.check_task(Jigsaw(), pixels=noise(4, 20, 36))


def test_whole_images_are_shown_standardised_as_tiles_are():
    pixels = noise()
    assert torch.equal(Jigsaw().encode(pixels), views.standardise(pixels))


def test_the_head_takes_losses_in_float32_of_what_it_computed_in_bfloat16():
    head, asked = Jigsaw().head(8).bfloat16(), torch.arange(24)[None]
    maps = torch.randn(4, 8, 2, 2, generator=device_stream(0, 'x')).bfloat16()
    logits = head.logits(maps.mean((2, 3))[None], asked)[0].double()
    assert head(maps, asked).dtype == torch.float32
    exact = (logits.logsumexp(1) - logits.diagonal()).tolist()
    assert head(maps, asked)[0].tolist() == pytest.approx(exact, abs=1e-5)


def test_arrangements_are_no_weights():
    assert set(Jigsaw().head(8).state_dict()) == {
        f'classify.{k}.{what}' for k in (0, 2) for what in ('weight', 'bias')
    }


def test_registered_variants_say_what_they_change():
    assert TASKS['jigsaw']() == Jigsaw(2, permutations=24)
    assert TASKS['jigsaw:grid=3']() == Jigsaw(3, permutations=100)
    assert TASKS['relative_position']() == RelativePosition()
