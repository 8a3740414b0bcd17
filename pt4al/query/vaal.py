"""Variational adversarial active learning (Sinha, Ebrahimi & Darrell 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pt4al.data.clips import still
from pt4al.query.strategies import Pool, highest, needs, random
from pt4al.rng import initialising

if TYPE_CHECKING:
    from torch import Tensor, nn

BATCH = 32
LATENTS, WIDTH = 32, 16  # of the autoencoder: numbers of an image, channels of its first layer


@needs('pixels')
def vaal(pool: Pool, budget: int, rng: np.random.Generator, steps: int = 200) -> Tensor:
    """The images that a discriminator holds for unlabelled with most certainty, in the latent space
    of a variational autoencoder that learns to deceive it.

    A step shows `BATCH` labelled and as many unlabelled images, at most 32 pixels a side. As in the
    paper's equations the autoencoder has all images called labelled, and its reconstruction error
    is summed over pixels as the divergence is over the latents; Adam at 0.0005. The authors'
    networks have eight times the channels and are trained for 100 epochs.
    """
    import torch
    from torch.nn.functional import adaptive_avg_pool2d, softplus

    m, pixels = len(pool.labelled), pool.pixels
    every = torch.cat([pool.labelled, random(pool, len(pool.unlabelled), rng)])
    side = 2 ** min(5, int(np.log2(min(pixels.shape[-2:]))))
    with initialising(int(rng.integers(2**62)), 'vaal'):
        encoder, decoder, judge = (net.to(every.device) for net in _networks(side))
    draws = torch.Generator(every.device).manual_seed(int(rng.integers(2**62)))
    adam = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 0.0005)
    adversary = torch.optim.Adam(judge.parameters(), 0.0005)

    def images(index: Tensor) -> Tensor:
        return adaptive_avg_pool2d(still(pixels[index]) / 127.5 - 1, side)

    def place(low: int, high: int) -> Tensor:
        return torch.randint(low, high, (BATCH,), generator=draws, device=every.device)

    # +1 where the truth is 'labelled', -1 where it is not
    sign = torch.tensor([1.0, -1.0], device=every.device).repeat_interleave(BATCH)[:, None]
    with torch.enable_grad():
        for _ in range(steps):
            x = images(every[torch.cat([place(0, m), place(m, len(every))])])
            mean, log_var = encoder(x).chunk(2, 1)
            noise = torch.randn(mean.shape, generator=draws, device=every.device)
            error = (decoder(mean + (log_var / 2).exp() * noise) - x).square().sum() / 2
            divergence = (mean.square() + log_var.exp() - 1 - log_var).sum() / 2
            loss = (error + divergence) / len(x) + 2 * softplus(-judge(mean)).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
            adversary.zero_grad()
            softplus(-sign * judge(mean.detach())).mean().backward()
            adversary.step()
    encoder.eval()
    score = torch.zeros(len(pixels), device=every.device)
    with torch.no_grad():
        for part in every[m:].split(500):
            score[part] = -judge(encoder(images(part)).chunk(2, 1)[0])[:, 0]
    return highest(pool, score, budget, rng)


def _networks(side: int) -> tuple[nn.Module, ...]:
    """Encoder [n,3,side,side] -> [n,2*LATENTS], decoder from [n,LATENTS], and judge -> [n,1]."""
    from torch import nn

    depth = int(np.log2(side)) - 1
    sizes = [WIDTH * 2**level for level in range(depth)]
    wide = sizes[-1]
    down, up = [], [nn.Linear(LATENTS, 4 * wide), nn.Unflatten(1, (wide, 2, 2))]
    for before, after in zip([3, *sizes], sizes):
        down += [nn.Conv2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    for before, after in zip(sizes[::-1], [*sizes[-2::-1], WIDTH]):
        wider = nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False)
        up += [wider, nn.BatchNorm2d(after), nn.ReLU()]
    hidden = [layer for _ in range(3) for layer in (nn.Linear(128, 128), nn.ReLU())]
    return (
        nn.Sequential(*down, nn.Flatten(), nn.Linear(4 * wide, 2 * LATENTS)),
        nn.Sequential(*up, nn.Conv2d(WIDTH, 3, 1)),
        nn.Sequential(nn.Linear(LATENTS, 128), nn.ReLU(), *hidden, nn.Linear(128, 1)),
    )
