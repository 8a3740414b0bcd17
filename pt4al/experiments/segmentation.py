"""Active learning of semantic segmentation: a small U-Net on a backbone, budgets in frames, mean
IoU.

Shapes: N frames of S x S pixels, C classes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pt4al.data import scenes as scene_files
from pt4al.data import views
from pt4al.data.scenes import VOID
from pt4al.errors import Refused
from pt4al.experiments import get
from pt4al.experiments.pretext import trained
from pt4al.experiments.representation import BATCH, Encode, stages
from pt4al.experiments.running import placed, title
from pt4al.experiments.specs import Segmentation
from pt4al.experiments.store import Computed
from pt4al.query import batch_split, cold, easiest_first, needs, random
from pt4al.query.cycle import unlabelled, verified
from pt4al.query.strategies import Pool, highest
from pt4al.rng import device_stream, initialising, stream
from pt4al.tasks.task import recalibrate
from pt4al.training.execution import Execution, execution, machine
from pt4al.training.fit import History, Schedule, fit, minibatches
from pt4al.training.nets import Inputs, resnet18


@dataclass(frozen=True)
class Scenes:
    """One split of images with a class, or VOID, for every pixel, on a device."""

    pixels: Tensor  # [N,3,S,S] uint8
    masks: Tensor  # [N,S,S] uint8
    classes: tuple[str, ...]

    def part(self, index: Tensor) -> Scenes:
        """Those of `index` [n]."""
        return Scenes(self.pixels[index], self.masks[index], self.classes)


# --- network ---


class UNet(nn.Module):
    """A decoder that climbs the trunk's stages, joining the maps of each (Ronneberger et al. 2015):
    -> [n,C,h,w].
    """

    def __init__(self, trunk: nn.Module, classes: int):
        super().__init__()
        self.trunk = copy.deepcopy(trunk)
        width = next(trunk.parameters()).shape[0]
        sizes = [8 * width, 4 * width, 2 * width, width]
        self.up = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a + b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in zip(sizes, sizes[1:])
        )
        self.last = nn.Conv2d(width, classes, 1)

    def forward(self, inputs: Inputs) -> Tensor:
        # the last block of each of the four stages
        *lower, maps = stages(self.trunk, inputs[0])[2::2]
        for layer, skip in zip(self.up, reversed(lower)):
            maps = layer(torch.cat([F.interpolate(maps, skip.shape[2:]), skip], 1))
        return self.last(maps)


def pixel_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Mean cross-entropy of the pixels of each image that are not void, 0 if all are: [n,C,h,w],
    [n,h,w] -> [n].
    """
    losses = F.cross_entropy(logits.float(), masks.long(), ignore_index=VOID, reduction='none')
    return losses.sum((1, 2)) / (masks != VOID).sum((1, 2)).clamp_min(1)


def intersection_over_union(predicted: Tensor, masks: Tensor, classes: int) -> Tensor:
    """Of every class, over all pixels of images [N,h,w] that are not void; nan for a class that
    occurs nowhere: [C].
    """
    known = masks != VOID
    pairs = torch.bincount(
        masks[known].long() * classes + predicted[known].long(), minlength=classes**2
    )
    table = pairs.view(classes, classes).double()
    both = table.diagonal()
    return both / (table.sum(0) + table.sum(1) - both)


# --- training and reading ---


def train(
    trunk: nn.Module,
    scenes: Scenes,
    schedule: Schedule,
    execution: Execution,
    seed: int,
    batch: int,
    encode: Encode = views.normalise,
    label: str = 'segmentation',
) -> tuple[UNet, History]:
    """Train a U-Net on a trunk whose statistics are taken anew on the scenes; half of the images
    are mirrored.
    """
    trunk = recalibrate(trunk, (encode(part) for part in scenes.pixels.split(BATCH)))
    with initialising(seed, 'segment', 'weights'):
        model = UNet(trunk, len(scenes.classes))
    model = placed(model, execution)
    everything = torch.arange(len(scenes.pixels), device=scenes.pixels.device)

    def batches(epoch: int) -> Iterator[tuple[Inputs, Tensor]]:
        rng = device_stream(seed, 'segment', 'epoch', epoch, device=scenes.pixels.device)
        for index in minibatches(everything, batch, rng):
            mirror = torch.randint(2, (len(index), 1, 1), generator=rng, device=index.device).bool()
            pixels, masks = scenes.pixels[index], scenes.masks[index]
            yield (
                (encode(torch.where(mirror[..., None], pixels.flip(3), pixels)),),
                torch.where(mirror, masks.flip(2), masks),
            )

    n = len(everything)
    history = fit(model, batches, pixel_loss, schedule, execution, n, label)  # type: ignore[arg-type]
    return model, history


@torch.no_grad()
def score(
    model: UNet, scenes: Scenes, encode: Encode = views.normalise
) -> tuple[Tensor, Tensor, Tensor]:
    """The class of every pixel, and the mean entropy and the mean loss of the pixels of each image,
    in evaluation mode and float32: [N,S,S], [N], [N].
    """
    model.eval()
    parts = []
    for pixels, masks in zip(scenes.pixels.split(BATCH), scenes.masks.split(BATCH)):
        logits = model((encode(pixels),))
        log = logits.log_softmax(1)
        entropy = -(log.exp() * log).sum(1).mean((1, 2))
        parts.append((logits.argmax(1), entropy, pixel_loss(logits, masks)))
    predicted, entropy, loss = (torch.cat(part) for part in zip(*parts))
    return predicted, entropy, loss


# --- the run ---


@needs('predicted_loss')
def uncertain(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
    """The frames of highest mean entropy over their pixels, which stands in `predicted_loss`."""
    assert pool.predicted_loss is not None
    return highest(pool, pool.predicted_loss, budget, rng)


STRATEGIES = {
    'random': random,
    'entropy': cold(uncertain),
    'pt4al': batch_split(uncertain),
    'pt4al_easiest': batch_split(uncertain, order=easiest_first),
    'pt4al_random': batch_split(random),
}


def run(s: Segmentation, scratch: Path) -> Computed:
    """'cycles': mean IoU on the test drives and on the labelled frames; 'classes': IoU of each on
    the test drives; 'images': pretext loss, the last network's loss, and the cycle that labelled it
    (0: none) of every train frame.
    """
    chosen = execution()
    pool, test = (
        Scenes(
            torch.tensor(part.pixels, device=chosen.device),
            torch.tensor(part.masks, device=chosen.device),
            part.classes,
        )
        for part in scene_files.read(s.dataset)
    )
    n = len(pool.pixels)
    if s.budget * s.cycles > n or s.budget > n // s.cycles:
        raise Refused(
            f'{s.cycles} budgets of {s.budget} frames are above the pool of {n}: lower them'
        )
    order = torch.tensor(get(s.pretext, 'missing').tables['images']['loss'], device=chosen.device)
    task, pretrained = trained(s.pretext) if s.start == 'pretext' else (None, None)
    encode = views.normalise if task is None else task.encode
    labelled, cycle_of = order[:0].long(), torch.zeros(n, dtype=torch.int16)
    entropy, rows, by_class = None, [], []
    for number in range(s.cycles):
        measured: dict[str, Any] = {'predicted_loss': entropy}
        view = Pool(
            labelled, unlabelled(labelled, n), number, s.cycles, pretext_loss=order, **measured
        )
        rng = stream(s.seed, 'segmentation', number, 'query')
        picked = verified(STRATEGIES[s.strategy](view, s.budget, rng), view, s.budget)
        labelled = torch.cat([labelled, picked])
        cycle_of[picked.cpu()] = number + 1
        with initialising(s.seed, 'segmentation', number, 'trunk'):
            fresh = resnet18(s.width, pool.pixels.shape[-1]).to(chosen.device)
        model, history = train(
            fresh if pretrained is None else pretrained.trunk,
            pool.part(labelled),
            Schedule(s.epochs, s.lr, s.milestones),
            chosen,
            s.seed,
            s.batch,
            encode,
            title(s, s.strategy, f'cycle {number + 1}/{s.cycles}'),
        )
        predicted, entropy, loss = score(model, pool, encode)
        known = intersection_over_union(
            predicted[labelled], pool.masks[labelled], len(pool.classes)
        )
        iou = intersection_over_union(score(model, test, encode)[0], test.masks, len(pool.classes))
        by_class.append(iou)
        means = (iou.nanmean().item(), known.nanmean().item())
        rows.append((len(labelled), *means, sum(history.steps)))
    count, mean, on_labelled, steps = (np.array(column) for column in zip(*rows))
    cycles = np.arange(1, s.cycles + 1, dtype='int16')
    tables = {
        'cycles': {
            'cycle': cycles,
            'labels': count.astype('int32'),
            'iou': mean.astype('float32'),
            'train': on_labelled.astype('float32'),
            'steps': steps.astype('int32'),
        },
        'classes': {
            'cycle': np.repeat(cycles, len(pool.classes)),
            'class': np.tile(np.arange(len(pool.classes), dtype='int16'), s.cycles),
            'iou': torch.cat(by_class).cpu().numpy().astype('float32'),
        },
        'images': {
            'pretext_loss': order.cpu().numpy().astype('float32'),
            'loss': loss.cpu().numpy(),
            'cycle': cycle_of.numpy(),
        },
    }
    summary = {'iou': float(mean[-1]), 'labels': int(count[-1])}
    return Computed(tables, summary, pool.classes, machine(chosen))
