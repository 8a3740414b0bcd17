from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from pt4al.rng import device_stream, initialising, stream


def test_streams_are_the_same_for_ever():
    """Stored results were drawn from these; a change here would make them irreproducible."""
    assert stream(0, 'cycle', 4, 'query').integers(1000, size=4).tolist() == [439, 463, 894, 409]
    assert stream(0, 'main', 'folds').permutation(6).tolist() == [2, 0, 4, 1, 5, 3]
    assert device_stream(3, 'a').initial_seed() == 7139517013543303159


def test_a_stream_does_not_depend_on_what_was_drawn_before():
    first = stream(7, 'a', 1).random(5)
    stream(7, 'b').random(1000)
    np.random.rand(3)
    torch.rand(3)
    assert np.array_equal(stream(7, 'a', 1).random(5), first)
    one, two = (torch.rand(5, generator=device_stream(7, 'a', 1)) for _ in range(2))
    assert torch.equal(one, two)


@pytest.mark.parametrize(
    'seed, path',
    [
        (1, ('a', 1)),
        (0, ('a', 2)),
        (0, ('a', '1')),
        (0, ('a1',)),
        (0, (1, 'a')),
        (0, ('a',)),
        (0, ('a', 1, 1)),
        (0, ('["a",1]',)),
    ],
)
def test_another_seed_or_path_is_another_stream(seed, path):
    assert stream(seed, *path).integers(2**62) != stream(0, 'a', 1).integers(2**62)
    assert device_stream(seed, *path).initial_seed() != device_stream(0, 'a', 1).initial_seed()


def test_streams_of_neighbouring_seeds_are_uncorrelated():
    draws = np.stack([stream(seed, 'x').normal(size=4000) for seed in range(6)])
    off_diagonal = np.corrcoef(draws)[~np.eye(6, dtype=bool)]
    assert np.abs(off_diagonal).max() < 4 / np.sqrt(4000)


def weights(seed: int, *path: str) -> torch.Tensor:
    with initialising(seed, *path):
        return torch.nn.Linear(5, 3).weight.detach()


def test_initialising_is_reproducible_and_leaves_the_global_generators_alone():
    torch.manual_seed(11)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first = weights(0, 'weights')
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1]) and random.getstate() == before[2]
    torch.rand(9)
    assert torch.equal(weights(0, 'weights'), first)
    assert not torch.equal(weights(1, 'weights'), first) and not torch.equal(
        weights(0, 'other'), first
    )


def test_initialising_gives_the_global_generator_back_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), initialising(0, 'x'):
        raise ZeroDivisionError
    assert torch.equal(torch.get_rng_state(), before)
