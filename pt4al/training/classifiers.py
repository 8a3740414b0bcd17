"""The standard classifier, and one that also predicts its loss.

Shapes: n images a batch, N images, C classes, d features, w channels of the first stage.
"""

from __future__ import annotations

from collections.abc import Set

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from pt4al.training.fit import classification_loss
from pt4al.training.nets import Model, Pooled, resnet18, stage_maps


class Plain:
    """ResNet-18 and a linear layer, trained on the cross-entropy."""

    def model(self, width: int, classes: int, side: int = 32) -> Model:
        """The untrained network; layers that all learners have are drawn first, alike in all."""
        return Model(resnet18(width, side), Pooled(8 * width, classes))

    def extras(self, model: Model, n: int, progress: float, rng: Generator) -> tuple[Tensor, ...]:
        """Further inputs of the head for `n` training images; `progress` is the share of epochs."""
        return ()

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """One loss per image [n], of which training minimises the mean."""
        return classification_loss(outputs, labels)


class LossPrediction(Plain):
    """The classifier also learns which of two images has the higher loss (Yoo & Kweon 2019)."""

    joint = 0.6  # part of the epochs in which the loss module trains the trunk too

    def model(self, width: int, classes: int, side: int = 32) -> Model:
        dims = [width, 2 * width, 4 * width, 8 * width]
        return Model(Stages(*resnet18(width, side)), LossHead(dims, classes))

    def extras(self, model: Model, n: int, progress: float, rng: Generator) -> tuple[Tensor, ...]:
        return (torch.full((), float(progress < self.joint), device=rng.device),)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        losses = classification_loss(outputs[:, :-1], labels)
        return losses + ranking_loss(outputs[:, -1].float(), losses)


class Stages(nn.Sequential):
    """`resnet18` that returns the maps of its four stages."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return stage_maps(self, x)


class LossHead(Pooled):
    """`Pooled` on the last maps, and a loss predicted from the averaged maps of all: [n,C+1]."""

    def __init__(self, dims: list[int], out: int):
        super().__init__(dims[-1], out)
        self.stages = nn.ModuleList(nn.Linear(dim, 128) for dim in dims)
        self.join = nn.Linear(128 * len(dims), 1)

    def pool(self, maps: list[Tensor]) -> Tensor:  # type: ignore[override]
        return super().pool(maps[-1])

    def predicted_loss(self, maps: list[Tensor]) -> Tensor:
        """[n], on no scale: only its order is trained."""
        hidden = [F.relu(to(m.mean((2, 3)))) for to, m in zip(self.stages, maps)]
        return self.join(torch.cat(hidden, 1))[:, 0]

    def forward(self, maps: list[Tensor], share: Tensor) -> Tensor:  # type: ignore[override]
        """`share` (0 or 1) scales the loss module's gradient into the trunk."""
        apart = [m.detach() + share * (m - m.detach()) for m in maps]
        return torch.cat([self.linear(self.pool(maps)), self.predicted_loss(apart)[:, None]], 1)


def ranking_loss(predicted: Tensor, losses: Tensor) -> Tensor:
    """Hinge loss of each image and the one as far from the other end of the batch: [n] (eq. 2).

    An image without a partner, or as hard as it, has none. No gradient reaches `losses`.
    """
    harder = (losses - losses.flip(0)).sign()
    return F.relu(1 - harder * (predicted - predicted.flip(0))) * harder.abs()


def learner(needs: Set[str]) -> Plain:
    """The learner whose outputs fill all the fields of `Pool` that a strategy needs."""
    return LossPrediction() if 'predicted_loss' in needs else Plain()
