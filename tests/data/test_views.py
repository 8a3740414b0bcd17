"""Batched views against slow loops over single images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Generator

from pt4al.data import views


def noise(n: int = 5, size: int = 8) -> torch.Tensor:
    return torch.from_numpy(
        np.random.default_rng(0).integers(256, size=(n, 3, size, size), dtype=np.uint8)
    )


def test_normalise_is_the_formula_pixel_by_pixel():
    pixels = noise(2)
    out = views.normalise(pixels)
    assert out.dtype == torch.float32 and out.is_contiguous(memory_format=torch.channels_last)
    for n, c, y, x in np.ndindex(*pixels.shape):
        by_hand = (int(pixels[n, c, y, x]) / 255 - views.MEAN[c]) / views.STD[c]
        assert out[n, c, y, x].item() == pytest.approx(by_hand, abs=2e-6)


def test_turns_are_numpys_counter_clockwise_quarter_turns():
    pixels = noise()
    turned = views.turns(pixels)
    assert turned.shape == (5, 4, 3, 8, 8) and turned.dtype == torch.uint8
    for image, four in zip(pixels.numpy(), turned.numpy()):
        for k in range(4):
            assert np.array_equal(four[k].transpose(1, 2, 0), np.rot90(image.transpose(1, 2, 0), k))


def test_a_quarter_turn_moves_the_top_right_corner_to_the_top_left():
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, 0, 3] = 1
    corners = [tuple(view[0].nonzero()[0].tolist()) for view in views.turns(image)[0]]
    assert corners == [(0, 3), (0, 0), (3, 0), (3, 3)]


def test_crop_flip_is_a_loop_over_images_with_the_same_draws():
    pixels, pad = noise(40), 3
    draws = Generator().manual_seed(5)
    top, left = torch.randint(2 * pad + 1, (2, 40), generator=draws)
    mirror = torch.randint(2, (40, 1, 1, 1), generator=draws).flatten()
    out = views.crop_flip(pixels, Generator().manual_seed(5), pad)
    for n, image in enumerate(pixels.numpy()):
        padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
        cut = padded[:, top[n] : top[n] + 8, left[n] : left[n] + 8]
        assert np.array_equal(out[n].numpy(), cut[:, :, ::-1] if mirror[n] else cut)


def test_crop_flip_reaches_every_offset_and_mirrors_half():
    ramp = torch.arange(1, 65, dtype=torch.uint8).view(1, 1, 8, 8).expand(4000, 3, 8, 8)
    out = views.crop_flip(ramp, Generator().manual_seed(0))
    centre = out[:, 0, 4, 3:5].long()
    step = centre[:, 1] - centre[:, 0]
    inside = (centre > 0).all(1)
    assert set(step[inside].tolist()) == {-1, 1}
    assert (step[inside] < 0).float().mean().item() == pytest.approx(0.5, abs=0.04)
    # the pixel left of the middle stands, mirrored or not, for its own place plus the offset of the
    # crop
    offsets = {(int(v) - 1) // 8 - 4 for v in centre[inside, 0]}
    assert offsets == {-4, -3, -2, -1, 0, 1, 2, 3}


def test_crop_flip_draws_from_its_generator_only_and_writes_nothing():
    pixels, state = noise(), torch.get_rng_state()
    before = pixels.clone()
    one, two, other = (views.crop_flip(pixels, Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert torch.equal(pixels, before) and torch.equal(torch.get_rng_state(), state)


def test_crop_flip_without_padding_only_mirrors():
    pixels = noise(20)
    out = views.crop_flip(pixels, Generator().manual_seed(0), pad=0)
    kept = [torch.equal(a, b) for a, b in zip(out, pixels)]
    flipped = [torch.equal(a, b.flip(2)) for a, b in zip(out, pixels)]
    assert all(a or b for a, b in zip(kept, flipped)) and any(kept) and any(flipped)
