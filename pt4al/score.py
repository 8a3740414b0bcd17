"""Per-sample pretext losses of a trained model."""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from .nets import Model
from .tasks import PretextTask


@torch.no_grad()
def pretext_losses(model: Model, task: PretextTask, pixels: Tensor, rng: Callable[[int], Generator],
                   repeats: int = 1, batch: int = 500) -> Tensor:
    """Score every image of uint8 pixels [N,3,h,w] in evaluation mode and float32: [repeats,N].

    Row r is one draw of the task's own randomness, taken from `rng(r)`; a task without any gives equal rows.
    """
    model.eval()
    out = torch.empty(repeats, len(pixels), device=pixels.device)
    for r in range(repeats):
        draws = rng(r)
        for index in torch.arange(len(pixels), device=pixels.device).split(batch):
            inputs, targets = task.make_batch(pixels[index], index, draws)
            out[r, index] = task.per_sample_loss(model(inputs), targets)
    return out
