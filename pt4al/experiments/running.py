"""What the runners share: images on a device, epochs as a table, and training a classifier."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from pt4al import data
from pt4al.data import views
from pt4al.data.clips import still
from pt4al.experiments.specs import Active, Pretext, Spec, Training, query_needs
from pt4al.rng import device_stream, initialising
from pt4al.tasks import TASKS
from pt4al.training import classifiers, fit
from pt4al.training.execution import Execution, execution
from pt4al.training.fit import History, Schedule, Watch, minibatches
from pt4al.training.nets import Model

# called with every batch that was trained on: its indices [n], outputs [n,C] and losses [n]
OnBatch = Callable[[Tensor, Tensor, Tensor], None]
Net = TypeVar('Net', bound=nn.Module)


def prepared(s: Spec) -> tuple[Execution, data.Images, data.Images]:
    """Where a spec runs, and the training and test images of its data set there.

    Of a clip it is one picture, but for a task on clips or sounds.
    """
    chosen = execution()
    train, test = data.load(s.dataset, chosen.device)
    if not (isinstance(s, Pretext) and TASKS[s.task]().clips):
        train, test = (replace(part, pixels=still(part.pixels)) for part in (train, test))
    if s.kind != 'pretext' or train.classes:  # a pretext task needs no labels
        data.check_trainable(train, s.dataset)
    return chosen, train, test


def labels(images: data.Images) -> np.ndarray:
    """Labels [N], stored with every result so that it can be read without the images."""
    return images.labels.cpu().numpy().astype('int16')


def title(s: Spec, *words: str) -> str:
    """How a run is named in messages."""
    return ' '.join([s.dataset, *words, f'seed {s.seed}'])


def schedule(s: Training) -> Schedule:
    return Schedule(s.epochs, s.lr, s.milestones, optimiser=getattr(s, 'optimiser', 'sgd'))


def table(rows: Iterable[tuple], **kinds: str) -> dict[str, np.ndarray]:
    """Rows of values as columns, of the names and types in `kinds`."""
    columns = zip(*rows)
    return {name: np.array(values, kinds[name]) for name, values in zip(kinds, columns)}


def epochs_table(histories: list[History]) -> dict[str, np.ndarray]:
    """One row per run and epoch: loss, learning rate and steps of the optimiser."""
    rows: list[tuple] = []
    for run, h in enumerate(histories):
        rows += [(run, e, *values) for e, values in enumerate(zip(h.loss, h.lr, h.steps), 1)]
    return table(rows, run='int16', epoch='int16', loss='float32', lr='float32', steps='int32')


def train_classifier(
    s: Any,
    chosen: Execution,
    train: data.Images,
    index: Tensor,
    label: str,
    checkpoint: Path | None,
    *path: str | int,
    start: nn.Module | None = None,
    watch: Watch | None = None,
    on_batch: OnBatch | None = None,
) -> tuple[Model, History]:
    """Train a classifier on part of the training images, by the random streams of `path`.

    s           spec with width, epochs, batch, rate, seed and minibatches
    index       [n] the images to train on
    label       how the run is named in messages
    checkpoint  where whole epochs are saved, to go on from; None: nowhere
    start       a trunk or a classifier to copy the weights of; None: fresh ones
    watch       called after every epoch
    on_batch    called with every batch
    """
    kind = architecture(s)
    with initialising(s.seed, *path, 'weights'):
        model = kind.model(s.width, len(train.classes), train.pixels.shape[-1])
    if start is not None:
        target = model if isinstance(start, type(model)) else model.trunk
        target.load_state_dict(start.state_dict())
    model = to_device(model, chosen)
    augment, batch = views.AUGMENTATIONS[getattr(s, 'augment', 'crop_flip')], index[:0]

    def batches(epoch: int):
        nonlocal batch
        rng = device_stream(s.seed, *path, 'epoch', epoch, device=chosen.device)
        for batch in minibatches(index, s.batch, rng, s.minibatches):
            images = views.normalise(augment(train.pixels[batch], rng))
            inputs = (images, *kind.extras(model, len(batch), epoch / s.epochs, rng))
            yield inputs, train.labels[batch]

    step = None if on_batch is None else lambda *made: on_batch(batch, *made)
    where = (chosen, len(index), label, checkpoint, watch, step)
    return model, fit.fit(model, batches, kind.loss, schedule(s), *where)


def to_device(model: Net, chosen: Execution) -> Net:
    """The network on the device in use, in the layout that is fastest there."""
    return model.to(chosen.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def architecture(s: Training) -> classifiers.Plain:
    """The classifier of a spec: the standard one, or one with what its strategy needs."""
    return classifiers.learner(query_needs(s.strategy) if isinstance(s, Active) else frozenset())
