"""Per-sample pretext losses of a trained model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor, nn

from pt4al.training.execution import float32
from pt4al.training.fit import maps
from pt4al.training.nets import Inputs, Model

if TYPE_CHECKING:
    from pt4al.tasks.base import Task

CALIBRATION = 4096  # images from which batch-norm statistics are taken anew


@torch.no_grad()
@float32()
def readings(
    model: Model, task: Task, pixels: Tensor, rng: Generator, batch: int = 500
) -> dict[str, Tensor]:
    """Loss and parts of every image of uint8 pixels [N,3,H,W], in evaluation mode and float32: [N]
    each.
    """
    model.eval()
    out: dict[str, Tensor] = {}
    for index in torch.arange(len(pixels), device=pixels.device).split(batch):
        inputs, targets = task.make_batch(pixels[index], index, rng)
        outputs = _outputs(model, inputs)
        for name, values in {
            'loss': task.per_sample_loss(outputs, targets),
            **task.parts(outputs, targets),
        }.items():
            out.setdefault(name, torch.zeros(len(pixels), device=pixels.device))[index] = values
    return out


def _outputs(model: Model, inputs: Inputs) -> Tensor:
    # one that passes its inputs through the trunk in another way
    if type(model).forward is not Model.forward:
        return model(inputs)
    return model.head(*[maps(model.trunk, x) if x.ndim == 4 else x for x in inputs])


@torch.no_grad()
def pretext_losses(
    model: Model,
    task: Task,
    pixels: Tensor,
    rng: Callable[[int], Generator],
    repeats: int = 1,
    batch: int = 500,
) -> dict[str, Tensor]:
    """Score every image of uint8 pixels [N,3,H,W] `repeats` times: 'loss', and the task's parts,
    [repeats,N] each.

    Row r is one draw of the task's own randomness, taken from `rng(r)`; a task without any gives
    equal rows.
    """
    rows = [task.score(model, pixels, rng(r), batch) for r in range(repeats)]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


@torch.no_grad()
def recalibrate(model: Model, batches: Iterable[Inputs]) -> Model:
    """A copy of the model, in evaluation mode, whose batch norms have the mean statistics of the
    given inputs.

    No weight changes, and the model stays as it was.  For a trunk that was trained on inputs of
    several kinds: its running averages mix their statistics.
    """
    model = copy.deepcopy(model).eval()
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in norms:
        layer.reset_running_stats()
        layer.momentum = None  # a plain average over the batches
        layer.train()
    for inputs in batches:
        model(inputs)
    return model.eval()


def training_inputs(task: Task, pixels: Tensor, rng: Generator) -> Iterator[Inputs]:
    """Batches as in training, of up to 4,096 of the uint8 pixels [N,3,H,W], drawn by `rng`: what
    `recalibrate` reads.
    """
    some = torch.randperm(len(pixels), generator=rng, device=pixels.device)[:CALIBRATION]
    return (task.make_batch(pixels[index], index, rng)[0] for index in some.split(256))
