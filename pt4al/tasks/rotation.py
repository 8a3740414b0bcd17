"""Rotation prediction, the task of PT4AL."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from pt4al.data import views
from pt4al.tasks.task import Task
from pt4al.training.nets import Inputs, Pooled


@dataclass(frozen=True)
class Rotation(Task):
    """Predict which of four 90-degree turns was applied (Gidaris et al. 2018).

    The per-image loss is the mean cross-entropy over the four turns (PT4AL, eq. 1). All four stand
    in one batch, so batch normalisation sees 4n views; the release runs four passes of n views.
    """

    def make_batch(self, pixels: Tensor, index: Tensor, rng: Generator) -> tuple[Inputs, Tensor]:
        turned = views.turns(pixels).flatten(0, 1)
        return (views.normalise(turned),), torch.arange(4, device=pixels.device).repeat(len(pixels))

    def head(self, dim: int) -> nn.Module:
        return Pooled(dim, 4)

    def per_sample_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs.float(), targets, reduction='none').view(-1, 4).mean(1)
