"""Per-sample pretext losses of a trained model."""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from .nets import Model

if TYPE_CHECKING:
    from .tasks.base import Task


@torch.no_grad()
def readings(model: Model, task: Task, pixels: Tensor, rng: Generator, batch: int = 500) -> dict[str, Tensor]:
    """Loss and parts of every image of uint8 pixels [N,3,H,W], in evaluation mode and float32: [N] each."""
    model.eval()
    out: dict[str, Tensor] = {}
    for index in torch.arange(len(pixels), device=pixels.device).split(batch):
        inputs, targets = task.make_batch(pixels[index], index, rng)
        outputs = model(inputs)
        for name, values in {'loss': task.per_sample_loss(outputs, targets), **task.parts(outputs, targets)}.items():
            out.setdefault(name, torch.empty(len(pixels), device=pixels.device))[index] = values
    return out


@torch.no_grad()
def pretext_losses(model: Model, task: Task, pixels: Tensor, rng: Callable[[int], Generator], repeats: int = 1,
                   batch: int = 500) -> dict[str, Tensor]:
    """Score every image of uint8 pixels [N,3,H,W] `repeats` times: 'loss', and the task's parts, [repeats,N] each.

    Row r is one draw of the task's own randomness, taken from `rng(r)`; a task without any gives equal rows.
    """
    rows = [task.score(model, pixels, rng(r), batch) for r in range(repeats)]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
