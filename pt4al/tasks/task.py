"""What a pretext task is, and how every image is scored by it.

n images a batch, N images, any number of views of each.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import field
from typing import Any, TypeVar

import torch
from torch import Generator, Tensor, nn

from pt4al.data import views
from pt4al.data.clips import still
from pt4al.errors import Refused
from pt4al.training.execution import float32
from pt4al.training.fit import maps
from pt4al.training.nets import Inputs, Model

Network = TypeVar('Network', bound=nn.Module)
Readings = dict[str, Tensor]  # of every image, by name: [N] each
Draws = Callable[[int], Generator]  # makes the generator of each repeat
CALIBRATION = 4096  # images from which batch-norm statistics are taken anew


def for_scoring() -> Any:
    """A dataclass field that `Task.scoring` fills; None in training."""
    return field(default=None, compare=False, repr=False)


class Task:
    """A question about images that needs no label. A task defines the first three methods; the
    others have defaults.

    Training minimises the mean of the very `per_sample_loss` that scoring records.
    """

    clips = False  # whether it sees clips and sounds as they are, not one picture of each

    def make_batch(self, pixels: Tensor, index: Tensor, rng: Generator) -> tuple[Inputs, Any]:
        """uint8 pixels [n,3,h,w] and their data-set indices [n] -> (inputs, targets).

        Inputs of four dimensions are images [n * views, 3, h, w] and pass through the trunk; the
        head gets the maps that come out, and all other inputs as they are.
        """
        raise NotImplementedError

    def head(self, dim: int) -> nn.Module:
        """The layers on top of a trunk with `dim` output maps."""
        raise NotImplementedError

    def per_sample_loss(self, outputs: Tensor, targets: Any) -> Tensor:
        """One finite float32 loss per image: [n]."""
        raise NotImplementedError

    def start(self, model: Model, pixels: Tensor, rng: Generator) -> None:
        """Before training with all pixels [N,3,h,w]: refuse what cannot be used, fill memories."""

    def scoring(self, model: Model, pixels: Tensor, rng: Generator) -> Task:
        """The task used for scoring: every view of each image, no random draws where possible."""
        return self

    def score(self, model: Model, pixels: Tensor, rng: Generator, batch: int = 500) -> Readings:
        """One reading of all pixels [N,3,h,w]: 'loss' and whatever `parts` adds, [N] each."""
        return readings(model, self.scoring(model.eval(), pixels, rng), pixels, rng, batch)

    def parts(self, outputs: Tensor, targets: Any) -> dict[str, Tensor]:
        """Further readings [n]: what the loss is made of, or the loss corrected for a confound."""
        return {}

    def encode(self, pixels: Tensor) -> Tensor:
        """Images or clips in the form that the trunk was trained on, to evaluate its features."""
        return views.normalise(still(pixels))

    def paintings(self, model: Model, pixels: Tensor) -> dict[str, Tensor]:
        """Named pictures that a task which paints makes of pixels [n,3,h,w]: uint8, same shape."""
        return {}


@torch.no_grad()
@float32()
def readings(
    model: Model, task: Task, pixels: Tensor, rng: Generator, batch: int = 500
) -> Readings:
    """Score pixels [N,3,h,w] with a task made by `Task.scoring`: 'loss' and `parts`, [N] each."""
    model.eval()
    plain = type(model).forward is Model.forward  # others pass inputs through the trunk their way
    out: Readings = {}
    for index in torch.arange(len(pixels), device=pixels.device).split(batch):
        inputs, targets = task.make_batch(pixels[index], index, rng)
        if plain:
            outputs = model.head(*[maps(model.trunk, x) if x.ndim == 4 else x for x in inputs])
        else:
            outputs = model(inputs)
        losses = {'loss': task.per_sample_loss(outputs, targets)}
        for name, values in (losses | task.parts(outputs, targets)).items():
            _check(task, name, values, len(index))
            out.setdefault(name, torch.zeros(len(pixels), device=pixels.device))[index] = values
    return out


def _check(task: Task, name: str, values: Tensor, images: int) -> None:
    """Refuse readings that are not one finite number an image."""
    if values.shape != (images,) or values.dtype != torch.float32:
        output = f'{values.dtype} of shape {list(values.shape)}'.removeprefix('torch.')
    elif values.isfinite().all():
        return
    else:
        output = 'NaN or infinity'
    raise Refused(
        f'{type(task).__name__} gave {output} as {name} of {images} images: give one finite '
        'float32 an image'
    )


@torch.no_grad()
def pretext_losses(
    model: Model, task: Task, pixels: Tensor, rng: Draws, repeats: int = 1, batch: int = 500
) -> Readings:
    """Score all pixels [N,3,h,w] several times: 'loss' and the task's parts, [repeats,N] each."""
    rows = [task.score(model, pixels, rng(r), batch) for r in range(repeats)]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


@torch.no_grad()
def recalibrate(model: Network, batches: Iterable[Inputs | Tensor]) -> Network:
    """A copy in evaluation mode whose batch-norm statistics are estimated anew on these inputs: the
    running averages of a trunk that was trained on inputs of several kinds are mixtures.
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
    """Batches as in training of up to 4,096 of pixels [N,3,h,w], for `recalibrate`."""
    drawn = torch.randperm(len(pixels), generator=rng, device=pixels.device)[:CALIBRATION]
    return (task.make_batch(pixels[index], index, rng)[0] for index in drawn.split(256))
