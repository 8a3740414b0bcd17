"""Pretext tasks: each turns unlabelled images into inputs and targets, and gives one loss per image.

A task is a small object behind `PretextTask`; `fit` minimises the mean of the very `per_sample_loss` that `score` records.
To add one: a class of some 25 lines, a line in `TASKS`; `pt4al.contract.check_task` tests it.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from . import views
from .nets import Inputs, Pooled


class PretextTask(Protocol):
    """What `fit` and `score` need of a task; n images a batch, any number of views of each."""

    def make_batch(self, pixels: Tensor, index: Tensor, rng: Generator) -> tuple[Inputs, Tensor]:
        """uint8 pixels [n,3,h,w] and their data-set indices [n] -> (inputs of the trunk, targets)."""

    def head(self, dim: int) -> nn.Module:
        """The layers on top of a trunk with `dim` output maps."""

    def per_sample_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """One finite float32 loss per image: [n]."""


@dataclass(frozen=True)
class Rotation:
    """Predict which of four 90-degree turns was applied (Gidaris et al. 2018).

    The per-image loss is the mean cross-entropy over the four turns (PT4AL, eq. 1).  All four turns of an image stand in
    one batch, so batch normalisation sees 4n views at once; the release runs four forward passes of n views.
    """

    def make_batch(self, pixels: Tensor, index: Tensor, rng: Generator) -> tuple[Inputs, Tensor]:
        turned = views.turns(pixels).flatten(0, 1)
        return (views.normalise(turned),), torch.arange(4, device=pixels.device).repeat(len(pixels))

    def head(self, dim: int) -> nn.Module:
        return Pooled(dim, 4)

    def per_sample_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs.float(), targets, reduction='none').view(-1, 4).mean(1)


TASKS: dict[str, Callable[[], PretextTask]] = {'rotation': Rotation}
