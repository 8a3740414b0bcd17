"""Batched augmentation and geometry on the device: every function maps [n,c,h,w] images without a Python loop over them."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from .errors import Refused

# CIFAR-10 channel statistics as the method's release states them (RGB, of pixels scaled to 0..1)
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2023, 0.1994, 0.2010)


def normalise(pixels: Tensor) -> Tensor:
    """Scale uint8 pixels [n,3,h,w] to float32 of zero mean and unit variance per channel, channels last in memory."""
    mean = torch.tensor(MEAN, device=pixels.device)[:, None, None] * 255
    std = torch.tensor(STD, device=pixels.device)[:, None, None] * 255
    return ((pixels.float() - mean) / std).contiguous(memory_format=torch.channels_last)


def turns(images: Tensor) -> Tensor:
    """Turn every image by 0, 90, 180 and 270 degrees counter-clockwise: [n,c,h,h] -> [n,4,c,h,h]."""
    return torch.stack([images.rot90(k, (2, 3)) for k in range(4)], 1)


def crop_flip(images: Tensor, rng: Generator, pad: int = 4) -> Tensor:
    """Pad with zeros, crop back at random and mirror half of the images, each image by its own draw: [n,c,h,w] -> same."""
    n, _, height, width = images.shape
    top, left = torch.randint(2 * pad + 1, (2, n), generator=rng, device=images.device)
    mirror = torch.randint(2, (n, 1, 1, 1), generator=rng, device=images.device).bool()
    windows = F.pad(images, (pad,) * 4).unfold(2, height, 1).unfold(3, width, 1)       # a view: [n,c,2p+1,2p+1,h,w]
    cropped = windows[torch.arange(n, device=images.device), :, top, left]
    return torch.where(mirror, cropped.flip(3), cropped)


def grey(pixels: Tensor) -> Tensor:
    """Replace every colour of uint8 pixels [n,3,h,w] by its luma (Rec. 601), in all three channels: uint8, same shape."""
    weight = torch.tensor([.299, .587, .114], device=pixels.device)[:, None, None]
    return (pixels.float() * weight).sum(1, keepdim=True).round().to(pixels.dtype).expand_as(pixels)


def tiles(images: Tensor, grid: int, size: int, rng: Generator | None = None) -> Tensor:
    """Cut one square of `size` pixels from every cell of a grid, row by row: [n,c,h,w] -> [n,grid*grid,c,size,size].

    It lies in the middle of its cell or, with `rng`, anywhere in it, by each tile's own draw.
    """
    n, _, *sides = images.shape
    cells = [side // grid for side in sides]
    if size > min(cells):
        raise Refused(f'images of {sides[0]}x{sides[1]} pixels are too small for {grid}x{grid} tiles of {size} pixels: each '
                      f'side needs {grid * size}')
    corners = []
    for axis, (side, cell) in enumerate(zip(sides, cells)):
        number = torch.arange(grid * grid, device=images.device)
        start = (side - grid * cell) // 2 + cell * (number % grid if axis else number // grid)
        slack = cell - size
        shift = torch.tensor(slack // 2, device=images.device) if rng is None else torch.randint(
            slack + 1, (n, grid * grid), generator=rng, device=images.device)
        corners.append((start + shift).expand(n, -1))
    windows = images.unfold(2, size, 1).unfold(3, size, 1)                             # a view: [n,c,h',w',size,size]
    return windows[torch.arange(n, device=images.device)[:, None], :, corners[0], corners[1]]


def standardise(images: Tensor) -> Tensor:
    """Bring each image of pixels [...,c,h,w] to zero mean and unit variance by its own statistics; a flat one becomes 0."""
    x = images.float()
    return (x - x.mean((-3, -2, -1), keepdim=True)) / x.std((-3, -2, -1), correction=0, keepdim=True).clamp_min(1)
