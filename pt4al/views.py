"""Batched augmentation and geometry on the device: every function maps [n,c,h,w] images without a Python loop over them."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

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
