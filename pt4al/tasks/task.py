"""What a pretext task is, and how every image is scored by it.

n images a batch, N images, any number of views of each, d maps of the trunk.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Generator, Tensor, nn

from pt4al.data import views
from pt4al.training.execution import float32
from pt4al.training.fit import maps
from pt4al.training.nets import Inputs, Model

CALIBRATION = 4096  # images from which batch-norm statistics are taken anew


class Task:
    """A question about images that needs no label, and one loss per image; the first three methods
    make a task.

    Training minimises the mean of the very `per_sample_loss` that scoring records.
    """

    clips = False  # whether it sees clips and sounds as they are, not one picture of each

    def make_batch(self, pixels: Tensor, index: Tensor, rng: Generator) -> tuple[Inputs, Tensor]:
        """uint8 pixels [n,3,h,w] and their data-set indices [n] -> (inputs, targets).

        Inputs of four dimensions are images [n * views, 3, h, w] and pass through the trunk; the
        head sees the maps that come out, and all other inputs (say, which permutation, or indices)
        as they are.
        """
        raise NotImplementedError

    def head(self, dim: int) -> nn.Module:
        """The layers on top of a trunk with `dim` output maps."""
        raise NotImplementedError

    def per_sample_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """One finite float32 loss per image: [n]."""
        raise NotImplementedError

    def start(self, model: Model, pixels: Tensor, rng: Generator) -> None:
        """Called once before training with all pixels [N,3,h,w]: refuse what the task cannot use,
        fill memories.
        """

    def scoring(self, model: Model, pixels: Tensor, rng: Generator) -> Task:
        """The task as it is scored: all views of its set, without draws where the loss can be had
        exactly.
        """
        return self

    def score(
        self, model: Model, pixels: Tensor, rng: Generator, batch: int = 500
    ) -> dict[str, Tensor]:
        """One reading of all pixels [N,3,h,w]: 'loss' and whatever `parts` adds, [N] each."""
        return readings(model, self.scoring(model.eval(), pixels, rng), pixels, rng, batch)

    def parts(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Further readings per image, [n] each: what the loss is made of, or the loss corrected for
        a confound.
        """
        return {}

    def encode(self, pixels: Tensor) -> Tensor:
        """Whole images [n,3,h,w] in the form that the trunk was trained on, for an evaluation of
        what it has learnt.
        """
        return views.normalise(pixels)

    def paintings(self, model: Model, pixels: Tensor) -> dict[str, Tensor]:
        """Named pictures that a task which paints makes of pixels [n,3,h,w], uint8 of the same
        shape; empty for other tasks.
        """
        return {}


# --- scoring ---


@torch.no_grad()
@float32()
def readings(
    model: Model, task: Task, pixels: Tensor, rng: Generator, batch: int = 500
) -> dict[str, Tensor]:
    """Loss and parts of every image in evaluation mode and float32, [N] each.

    model: the trained network
    task: what is read, as `Task.scoring` returned it
    pixels: [N,3,h,w] uint8
    rng: the task's own draws
    batch: images per pass
    """
    model.eval()
    out: dict[str, Tensor] = {}
    for index in torch.arange(len(pixels), device=pixels.device).split(batch):
        inputs, targets = task.make_batch(pixels[index], index, rng)
        outputs = _outputs(model, inputs)
        losses = {'loss': task.per_sample_loss(outputs, targets)}
        for name, values in (losses | task.parts(outputs, targets)).items():
            out.setdefault(name, torch.zeros(len(pixels), device=pixels.device))[index] = values
    return out


def _outputs(model: Model, inputs: Inputs) -> Tensor:
    # a model that passes its inputs through the trunk in another way
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
    """Score every image several times: 'loss' and the task's parts, [repeats,N] each.

    model: the trained network
    task: the task it was trained on
    pixels: [N,3,h,w] uint8
    rng: repeat -> the generator of its draws; a task without any gives equal rows
    repeats: rows
    batch: images per pass
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
    """Batches as in training, of up to 4,096 of the uint8 pixels [N,3,h,w], drawn by `rng`: what
    `recalibrate` reads.
    """
    drawn = torch.randperm(len(pixels), generator=rng, device=pixels.device)[:CALIBRATION]
    return (task.make_batch(pixels[index], index, rng)[0] for index in drawn.split(256))
