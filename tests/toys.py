"""Toys to train on: 72 noise images as a data set named `toy`, and images that are dark or bright."""

from __future__ import annotations

import numpy as np
import torch

from pt4al import data
from pt4al.experiments import specs, store
from pt4al.training import fit
from pt4al.training.execution import Execution

N = 72
TINY = {
    'pretext': {'width': 4, 'epochs': 2, 'batch': 32},
    'main': {'width': 4, 'epochs': 2, 'batch': 32},
    'active': {'width': 4, 'epochs': 1, 'batch': 8, 'cycles': 3, 'budget': 8},
}
CPU = Execution('cpu', 'fp32', 1)


def toy() -> data.Pair:
    """Noise with a tint of the class; three classes."""
    rng = np.random.default_rng(0)

    def part(n: int) -> data.Images:
        labels = rng.permutation(n) % 3
        pixels = rng.integers(200, size=(n, 3, 32, 32))
        pixels[np.arange(n), labels] += 50
        return data.split(pixels, labels, ('a', 'b', 'c'))

    return part(N), part(30)


def register() -> None:
    data.DATASETS['toy'] = toy
    specs.DEFAULTS.update({('toy', kind): values for kind, values in TINY.items()})


def parquet(result: store.Result) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in result.folder.glob('*.parquet')}


def images_trained(monkeypatch) -> list[int]:
    """Collects how many images each call of `fit` really trains on, over all its epochs."""
    counts, original = [], fit.Progress

    class Counting(original):
        def __init__(self, *given):
            super().__init__(*given)
            counts.append(0)

        def add(self, images):
            counts[-1] += images
            super().add(images)

    monkeypatch.setattr(fit, 'Progress', Counting)
    return counts


def separable(n: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    """Dark and bright noise images of 16x16 pixels, and which they are."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(n) % 2
    pixels = rng.integers(60, size=(n, 3, 16, 16)) + 120 * labels[:, None, None, None]
    return torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(labels)


PIXELS, LABELS = separable()
