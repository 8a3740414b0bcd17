"""The only training loop, and the forward pass over a whole split."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pt4al import files
from pt4al.data import views
from pt4al.errors import Refused
from pt4al.progress import Progress
from pt4al.training import graphs
from pt4al.training.cohort import yield_turn
from pt4al.training.execution import Execution, float32
from pt4al.training.nets import Inputs, Model

# epoch -> its batches, the same ones whenever this epoch is asked for
Batches = Callable[[int], Iterator[tuple[Inputs, Tensor]]]
Watch = Callable[[Model], dict[str, float]]  # accuracies by split, or none
OnStep = Callable[[Tensor, Tensor], None]  # outputs and losses [n] of one step
# values in the maps of the first stage in one part of an inference pass: they fit a CPU's caches
MAPS = 2**20
# largest share of the time for saving epochs (90 MB each at width 64); on a CPU all are saved
SAVING = 0.05


@dataclass(frozen=True)
class Schedule:
    """Step decay: `milestones` are the epochs from which the rate is a tenth of the one before.

    The optimiser is SGD with momentum 0.9 and weight decay 0.0005, or Adam (Kingma & Ba 2015) with
    neither.
    """

    epochs: int
    lr: float
    milestones: tuple[int, ...] = ()
    optimiser: str = 'sgd'

    def start(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimiser; on a GPU the rate of SGD is a tensor, which a recorded step reads anew."""
        if self.optimiser == 'adam':
            return torch.optim.Adam(model.parameters(), self.lr, fused=True)
        device = next(model.parameters()).device
        rate = torch.tensor(self.lr, device=device) if device.type == 'cuda' else self.lr
        optimiser = torch.optim.SGD(model.parameters(), rate, 0.9, weight_decay=5e-4, fused=True)
        # fused SGD fails at a weight whose first gradient comes in a later step: all buffers now
        for weight in model.parameters():
            optimiser.state[weight]['momentum_buffer'] = torch.zeros_like(weight)
        return optimiser

    def rate(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0."""
        return self.lr * 0.1 ** sum(epoch >= m for m in self.milestones)


@dataclass(frozen=True)
class History:
    """One row per epoch: mean loss over its images, learning rate, optimiser steps, accuracies."""

    loss: list[float]
    lr: list[float]
    steps: list[int]
    # by split, if any; the first split decides which epoch is the best
    watched: dict[str, list[float]] = field(default_factory=dict)
    # weights of the best epoch, the first of equals
    best: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Predictions:
    """Outputs of a classifier for every image of a split, in data-set order."""

    logits: Tensor  # [N,C] float32, before the soft-max
    features: Tensor  # [N,d] float32, pooled
    predicted_loss: Tensor | None = None  # [N] float32, of a head that tells it


def minibatches(
    index: Tensor, size: int, rng: torch.Generator, cut: str = 'full'
) -> Iterator[Tensor]:
    """Cut `index` [n], in a random order, into ceil(n / size) batches: `cut` 'full' leaves the rest
    to the last, 'even' lets no two sizes differ by more than one.

    A batch norm cannot do with one image, so a last batch of one joins the one before.
    """
    order = index[torch.randperm(len(index), generator=rng, device=index.device)]
    count = -(-len(order) // size)
    if size > 1 and count > 1 and len(order) % size == 1:
        count = min(count, len(order) // 2) if cut == 'even' else count - 1
    if cut == 'even':
        yield from order.tensor_split(max(1, count))
    else:
        yield from order.tensor_split([size * k for k in range(1, count)])


def fit(
    model: Model,
    batches: Batches,
    loss: Callable[[Tensor, Tensor], Tensor],
    schedule: Schedule,
    execution: Execution,
    images_per_epoch: int,
    label: str,
    checkpoint: Path | None = None,
    watch: Watch | None = None,
    on_step: OnStep | None = None,
) -> History:
    """Train `model` in place; it is left as the last epoch made it.

    model: on the device of `execution`
    batches: epoch -> its batches of inputs and targets, always the same ones
    loss: outputs, targets -> one loss per image [n], of which the mean is minimised
    schedule: epochs, rates and optimiser
    execution: device and precision
    images_per_epoch: for the progress line
    label: names the training in the progress line and in errors
    checkpoint: where epochs are saved (`SAVING`), and from where training goes on to identical
        weights
    watch: called after every epoch; what it returns is recorded and changes nothing
    on_step: called after every step; it changes nothing

    Raises `Refused`, naming epoch and learning rate, when an epoch's loss is not finite; the last
    complete epoch stays saved.
    """
    optimiser = schedule.start(model)
    history = History([], [], [])
    if checkpoint is not None and checkpoint.exists():
        history = _restore(checkpoint, model, optimiser)
    done = len(history.loss) * images_per_epoch
    progress = Progress(label, schedule.epochs * images_per_epoch, done)
    total = torch.zeros((), device=execution.device)
    step = _step(model, loss, optimiser, execution, total)
    due = -math.inf
    for epoch in range(len(history.loss), schedule.epochs):
        model.train()  # `watch` puts it into evaluation mode
        rate = schedule.rate(epoch)
        _set_rate(optimiser, rate)
        images, steps = 0, 0
        with execution.products(), graphs.stream(execution.device):
            total.zero_()
            for inputs, targets in batches(epoch):
                outputs, losses = step(inputs, targets)
                if on_step is not None:
                    on_step(outputs, losses)
                images += len(losses)
                steps += 1
                progress.add(len(losses))
                with yield_turn():
                    pass
        with yield_turn():
            mean = total.item() / images
        if not math.isfinite(mean):
            progress.close()
            raise Refused(
                f'{label}: the loss is {mean} in epoch {epoch + 1} at learning rate {rate:g}; '
                'lower the learning rate, unless a new task gives such losses'
            )
        history.loss.append(mean)
        history.lr.append(rate)
        history.steps.append(steps)
        progress.note(f'loss {mean:.3f}')
        if watch is not None:
            _watched(history, model, watch(model))
        start = time.monotonic()
        if checkpoint is not None and (start >= due or epoch + 1 == schedule.epochs):
            _save(checkpoint, model, optimiser, history)
            end = time.monotonic()
            due = end + (end - start) / SAVING if execution.device != 'cpu' else end
    progress.close()
    return history


def _set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate; a tensor keeps its place, from which a recorded step reads it."""
    for group in optimiser.param_groups:
        if isinstance(group['lr'], Tensor):
            group['lr'].fill_(rate)
        else:
            group['lr'] = rate


def _step(
    model: Model,
    loss: Callable[[Tensor, Tensor], Tensor],
    optimiser: torch.optim.Optimizer,
    execution: Execution,
    total: Tensor,
) -> graphs.Step:
    """One step of the optimiser, which adds the sum of its losses to `total` []."""

    def step(inputs: Inputs, targets: Tensor) -> tuple[Tensor, Tensor]:
        with execution.autocast():
            outputs = model(inputs)
        losses = loss(outputs, targets)
        optimiser.zero_grad(set_to_none=True)
        losses.mean().backward()
        optimiser.step()
        # stays on the device: no wait for it inside an epoch
        total.add_(losses.detach().sum())
        return outputs.detach(), losses.detach()

    # Adam counts its steps in Python
    return graphs.Recorded(step) if isinstance(optimiser, torch.optim.SGD) else step


def _watched(history: History, model: Model, accuracies: dict[str, float]) -> None:
    """Append this epoch's accuracies; keep the weights if the first split's is a new maximum."""
    for name, value in accuracies.items():
        history.watched.setdefault(name, []).append(value)
    if not accuracies:
        return
    deciding = next(iter(history.watched.values()))
    if deciding[-1] > max(deciding[:-1], default=-1.0):
        history.best.update({name: weight.clone() for name, weight in model.state_dict().items()})


def save(path: Path, content: dict[str, Any]) -> None:
    """Write tensors by name, whole and sealed."""
    packed = io.BytesIO()
    torch.save(content, packed)
    with yield_turn():
        files.seal(path, packed.getbuffer())


@contextmanager
def saved(path: Path, device: torch.device | str, cure: str) -> Iterator[dict[str, Any]]:
    """What `save` wrote; `Refused`, with its `cure`, if it cannot be read, or used in the block."""
    try:
        content = io.BytesIO(files.unseal(path))
        yield torch.load(content, weights_only=True, map_location=device)
    except Refused as damage:
        raise Refused(f'{damage}: {cure}') from None
    # torch names no common class for the ways in which a file can be bad
    except Exception as damage:
        raise Refused(f'{path} is damaged ({type(damage).__name__}): {cure}') from None


def _save(path: Path, model: Model, optimiser: torch.optim.Optimizer, history: History) -> None:
    states = {'model': model.state_dict(), 'optimiser': optimiser.state_dict()}
    save(path, states | {'history': vars(history)})


def _restore(path: Path, model: Model, optimiser: torch.optim.Optimizer) -> History:
    rates = [group['lr'] for group in optimiser.param_groups]
    with saved(path, next(model.parameters()).device, 'delete it to start over') as states:
        model.load_state_dict(states['model'])
        optimiser.load_state_dict(states['optimiser'])
        history = History(**states['history'])
    # a number or a tensor as this device has it, whatever the device that saved
    for group, rate in zip(optimiser.param_groups, rates):
        group['lr'] = rate
    return history


def maps(trunk: nn.Module, images: Tensor) -> Tensor | list[Tensor]:
    """Maps of a trunk in evaluation mode; on a CPU in parts that stay in its caches, equal bits."""
    if images.device.type != 'cpu':
        return trunk(images)
    convolutions = (layer for layer in trunk.modules() if isinstance(layer, nn.Conv2d))
    first = next(convolutions, None)
    channels = first.out_channels if first else images.shape[1]
    rows = max(1, MAPS // (channels * images[0, 0].numel()))
    # no part is much smaller
    parts = [trunk(part) for part in images.tensor_split(-(-len(images) // rows))]
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    return [torch.cat(stage) for stage in zip(*parts)]


@torch.no_grad()
@float32()
def predict(model: Model, pixels: Tensor, batch: int = 1000) -> Predictions:
    """Classify every image of uint8 pixels [N,3,h,w] in evaluation mode, in float32."""
    head = model.eval().head
    logits, features, loss = [], [], []
    for part in pixels.split(batch):
        out = maps(model.trunk, views.normalise(part))
        features.append(head.pool(out))
        logits.append(head.linear(features[-1]))
        if hasattr(head, 'predicted_loss'):
            loss.append(head.predicted_loss(out))
    return Predictions(torch.cat(logits), torch.cat(features), torch.cat(loss) if loss else None)


def correct(model: Model, pixels: Tensor, labels: Tensor) -> Tensor:
    """Which of uint8 pixels [N,3,h,w] are classified as labelled [N]: bool [N]."""
    return predict(model, pixels).logits.argmax(1) == labels


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each image, in float32: [n,C], [n] -> [n]."""
    return F.cross_entropy(logits.float(), labels, reduction='none')
