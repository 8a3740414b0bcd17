"""Several processes that train one network together, each on its share of every minibatch, seen
from inside a training.

The minibatches are those of one process, and the gradient of each is the mean over all its images,
whoever saw them. Two things differ.  A batch norm sees the views of its own process only; running
statistics are averaged after every epoch.  And what a task draws in training it draws from a stream
of each process.  Where there is one process, as there is unless `torchrun` started more, nothing
happens here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Generator, Tensor, nn

from pt4al.rng import stream


def rank() -> int:
    """Number of this process among those that train together, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def ranks() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def shares(batches: Sequence[Tensor], rng: Generator) -> Sequence[Tensor]:
    """This process's part of each minibatch [n]; one with fewer images than processes goes to each
    whole.

    What is drawn from `rng` afterwards is this process's own.
    """
    if ranks() == 1:
        return batches
    rng.manual_seed(int(stream(rng.initial_seed(), 'rank', rank()).integers(2**63)))
    return [part if len(part) < ranks() else part.tensor_split(ranks())[rank()] for part in batches]


def average(model: nn.Module, n: int) -> None:
    """Make each gradient the mean over the images of all processes, of which this one saw `n`."""
    if ranks() == 1:
        return
    own = [weight.grad for weight in model.parameters() if weight.grad is not None]
    flat = torch.cat([*(n * gradient.reshape(-1) for gradient in own), own[0].new_full((1,), n)])
    # one message a step, and no wait for it on the host
    dist.all_reduce(flat)
    parts = (flat[:-1] / flat[-1]).split([gradient.numel() for gradient in own])
    for gradient, part in zip(own, parts):
        gradient.copy_(part.view(gradient.shape))


def agree(model: nn.Module, total: Tensor, seen: int) -> float:
    """Mean loss of an epoch over the images of all processes; running statistics become their mean."""
    if ranks() == 1:
        return total.item() / seen
    for buffer in (buffer for buffer in model.buffers() if buffer.is_floating_point()):
        dist.all_reduce(buffer)
        buffer /= ranks()
    both = torch.stack([total.double(), total.new_tensor(seen, dtype=torch.double)])
    dist.all_reduce(both)
    return (both[0] / both[1]).item()


def of_first(path: Path | None) -> Path | None:
    """The path that the first process gave: it alone writes there, and all go on from what it
    holds.
    """
    said = [path]
    if ranks() > 1:
        dist.broadcast_object_list(said)
    return said[0]


def gather(rows: dict[str, Tensor], batch: int) -> dict[str, Tensor]:
    """Readings [N] of all processes, each of which holds every `ranks`-th batch, the first one, and
    zeros.
    """
    if ranks() > 1:
        for values in rows.values():
            values[:batch] *= rank() == 0
            dist.all_reduce(values)
    return rows
