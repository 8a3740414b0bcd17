"""The order that a pretext task gives to a folder of images, and how it outlives changes of the
folder.

An image is known by its content. Where some came or went since the order was made, the old ones
keep their losses and batches; new ones are scored by the network that was kept. N images.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pt4al import data, experiments
from pt4al.errors import choose
from pt4al.experiments import store
from pt4al.experiments.pretext import load_weights, trained, untrained
from pt4al.experiments.representation import embed
from pt4al.experiments.running import prepared
from pt4al.experiments.specs import Pretext, spec
from pt4al.files import seal, unseal
from pt4al.own.features import Encode, contents
from pt4al.own.folder import Tree, machine
from pt4al.progress import log
from pt4al.rng import device_stream
from pt4al.tasks import TASKS
from pt4al.tasks.task import Task, pretext_losses
from pt4al.training.nets import Model

TURNED = 64_000  # images that rotation sees in all on a CPU: 16 passes over 4,000
LEAST = 0.5  # the share of the old images that must be there for their order to stay


@dataclass(frozen=True)
class Order:
    """Losses of the images of a folder, and the order that they are cut by."""

    result: store.Result  # of the images that the network was trained on
    loss: np.ndarray  # [N]
    row: np.ndarray | None = None  # [N] in the result, -1 if new; None: the images are its images

    def batches(self, cut: Callable[[Tensor, int], Any], cycles: int) -> np.ndarray:
        """The batch [N] of every image, from 0, by one of `pt4al.query`'s splits; of a new image
        that of the old one whose loss is nearest.
        """
        old = self.result.tables['images']['loss']
        batch = np.empty(len(old), int)
        for number, part in enumerate(cut(torch.tensor(old), cycles)):
            batch[part.numpy()] = number
        if self.row is None:
            return batch
        by_loss = np.argsort(old, kind='stable')
        place = np.searchsorted(old[by_loss], self.loss).clip(1, len(old) - 1)
        low, high = old[by_loss[place - 1]], old[by_loss[place]]
        near = by_loss[np.where(self.loss - low <= high - self.loss, place - 1, place)]
        return batch[np.where(self.row >= 0, self.row, near)]


def pretext_spec(tree: Tree, task: str, seed: int, epochs: int | None) -> Pretext:
    """The pretext task at the width that this machine can afford, few images in more passes."""
    cost, width = TASKS[choose('task', task, TASKS)].cost, machine()[0]
    n = len(tree.names)
    work = TURNED * (4 if width == 64 else 1) * min(4.0, 4 / cost)
    if epochs is None:
        epochs = int(np.clip(round(work / n), 5, 200 if cost < 4 else 50))
    batch = 256 if n > 20_000 else 64
    s = spec(
        'pretext',
        dataset=tree.dataset,
        task=task,
        seed=seed,
        width=width,
        epochs=epochs,
        # a last batch of one image has no spread, which batch norm divides by
        batch=batch - (n % batch == 1),
        milestones=(max(1, 3 * epochs // 4),),
    )
    assert isinstance(s, Pretext)
    return s


def order(tree: Tree, s: Pretext, epochs: int | None) -> Order:
    """The order of a folder by a task: as before if most images are there, else by training."""
    name = f'order-{s.task}-{s.seed}-{epochs or "auto"}-{s.width}-{tree.size}.json'
    note = store.roots()[0] / name
    images = [content.hex() for content in contents(tree.pixels)]
    before = read_note(note)
    changed = before is None or before['images'] != images
    if changed and before and (made := _again(s, before, images, note)):
        return made
    if not store.folders_of(s, data.key_digest(s.dataset)):
        line = '%s on %d images, %d passes, width %d; interrupted, it goes on from there'
        log.info(line, s.task, len(tree.names), s.epochs, s.width)
    result = experiments.get(s, 'missing')
    if changed:
        seal(note, json.dumps({'key': result.key, 'images': images}).encode())
    return Order(result, result.tables['images']['loss'])


def _again(s: Pretext, before: dict[str, Any], images: list[str], note: Path) -> Order | None:
    """The order as it was, with new images added; None where it has to be made anew."""
    row = {name: place for place, name in enumerate(before['images'])}
    gone, new = set(row) - set(images), [i for i, name in enumerate(images) if name not in row]
    line = 'the folder has changed since it was ordered: %d images are new, %d are gone'
    log.warning(line, len(new), len(gone))
    stored = sorted(store.roots()[0].glob(f'pretext-*-{before["key"]}'))
    if (
        len(gone) > (1 - LEAST) * len(row)
        or type(TASKS[s.task]()).start is not Task.start
        or not stored
        or not _weights(before['key']).is_file()
    ):
        log.warning('too little of the order is left to keep: the task is trained again')
        return None
    known = before.get('added', {})
    if lack := [i for i in new if images[i] not in known]:
        known |= dict(zip([images[i] for i in lack], _scored(s, before['key'], lack)))
        seal(note, json.dumps({**before, 'added': known}).encode())
    result = store.read(stored[0])
    old = result.tables['images']['loss']
    loss = [old[row[name]] if name in row else known[name] for name in images]
    rows = np.array([row.get(name, -1) for name in images])
    return Order(result, np.array(loss, np.float32), rows)


def _weights(key: str) -> Path:
    return store.roots()[0] / '.weights' / f'{key}.pt'


def _network(s: Pretext, made: Order) -> tuple[Task, Model]:
    return trained(s) if made.row is None else _trained_before(s, made.result.key)


def backbone(s: Pretext, made: Order) -> tuple[nn.Module, Encode]:
    """A new copy of the network of an order up to its features, and what makes its inputs."""
    task, model = _network(s, made)
    return nn.Sequential(model.trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten()), task.encode


def embedded(s: Pretext, made: Order, index: np.ndarray | None = None) -> Tensor:
    """Features [N,d] of a folder, or of those in `index`, by the network that gave an order."""
    task, model = _network(s, made)
    pixels = data.load(s.dataset, next(model.parameters()).device)[0].pixels
    pixels = pixels if index is None else pixels[index.tolist()]
    return embed(model.trunk, pixels, task.encode)  # type: ignore[arg-type]


def _trained_before(s: Pretext, key: str) -> tuple[Task, Model]:
    chosen, train, _ = prepared(s)
    task, model = untrained(s, chosen, train)
    cure = 'delete the file, the task is trained again'
    return task, load_weights(_weights(key), model, chosen.device, cure)


def _scored(s: Pretext, key: str, index: list[int]) -> list[float]:
    """Losses of some images of the folder by a network that was kept."""
    task, model = _trained_before(s, key)
    pixels = data.load(s.dataset, next(model.parameters()).device)[0].pixels[index]

    def draws(r: int) -> Any:
        return device_stream(s.seed, 'pretext', s.task, 'score', r, device=pixels.device)

    return pretext_losses(model, task, pixels, draws, s.repeats)['loss'].mean(0).tolist()


def read_note(note: Path) -> dict[str, Any] | None:
    """What a sealed note of a store holds; None where there is none or it is damaged."""
    if not note.exists():
        return None
    try:
        return json.loads(unseal(note))
    except (OSError, ValueError):
        log.warning('%s is damaged: it is made again', note)
        return None
