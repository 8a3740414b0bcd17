"""Several pretext tasks on one trunk."""

from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor, nn

from pt4al import stats
from pt4al.tasks import TASKS
from pt4al.tasks.task import Readings, Task, recalibrate, training_inputs
from pt4al.training.nets import Inputs, Model


class Heads(nn.Module):
    """One head a task; the last input, a number on the CPU, names the one of this batch."""

    def __init__(self, heads: list[nn.Module]):
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.heads[int(inputs[-1])](*inputs[:-1])


@dataclass(frozen=True)
class MultiTask(Task):
    """One trunk for several tasks, each with its own head (Doersch & Zisserman 2017).

    Every batch belongs to one task, drawn evenly. Losses of different tasks have no common scale,
    so the score of an image is the mean of its ranks among all images, over tasks, in (0, 1];
    'loss_<task>' are the losses themselves. Each task is scored with batch-norm statistics of its
    own inputs (tiles, grey images), which training mixes.
    """

    names: tuple[str, ...] = ('relative_position', 'colorization')
    tasks: tuple[Task, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, 'tasks', tuple(TASKS[name]() for name in self.names))

    def make_batch(self, pixels: Tensor, index: Tensor, rng: Generator) -> tuple[Inputs, tuple]:
        # one wait a batch
        turn = int(torch.randint(len(self.tasks), (), generator=rng, device=pixels.device))
        inputs, targets = self.tasks[turn].make_batch(pixels, index, rng)
        return (*inputs, torch.tensor(turn)), (turn, targets)

    def head(self, dim: int) -> nn.Module:
        return Heads([task.head(dim) for task in self.tasks])

    def per_sample_loss(self, outputs: Tensor, targets: tuple[int, Tensor]) -> Tensor:
        turn, target = targets
        return self.tasks[turn].per_sample_loss(outputs, target)

    def start(self, model: Model, pixels: Tensor, rng: Generator) -> None:
        for task, head in zip(self.tasks, model.head.heads):
            task.start(Model(model.trunk, head), pixels, rng)

    def score(self, model: Model, pixels: Tensor, rng: Generator, batch: int = 500) -> Readings:
        losses = {}
        for name, task, head in zip(self.names, self.tasks, model.head.heads):
            part = recalibrate(Model(model.trunk, head), training_inputs(task, pixels, rng))
            losses[f'loss_{name}'] = task.score(part, pixels, rng, batch)['loss']
        ranks = stats.normalised_ranks(torch.stack(list(losses.values())).cpu().numpy()).mean(0)
        return {'loss': torch.from_numpy(ranks).to(pixels.device, torch.float32), **losses}

    def encode(self, pixels: Tensor) -> Tensor:
        return self.tasks[-1].encode(pixels)
