"""Active learning of semantic segmentation: a small U-Net on a backbone, budgets in frames, mean
IoU.

Shapes: N frames of S x S pixels, C classes.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pt4al.data import scenes as scene_files
from pt4al.data import views
from pt4al.data.scenes import VOID, Scenes
from pt4al.experiments import get
from pt4al.experiments.representation import BATCH, Encode, embed, trunk
from pt4al.experiments.running import schedule, table, title, to_device
from pt4al.experiments.specs import Representation, Segmentation, spec
from pt4al.experiments.store import Computed
from pt4al.query import SEGMENTATION
from pt4al.query.cycle import check, unlabelled, verified
from pt4al.query.strategies import Pool
from pt4al.rng import device_stream, initialising, stream
from pt4al.tasks.task import recalibrate
from pt4al.training.execution import Execution, execution, float32
from pt4al.training.fit import History, fit, minibatches
from pt4al.training.nets import Inputs, resnet18, stage_maps

# a supervised trunk has learnt the labels of this data set
SUPERVISED = 'cifar10-mini'


class UNet(nn.Module):
    """A decoder that joins the maps of the trunk's stages (Ronneberger et al. 2015): [n,C,h,w]."""

    def __init__(self, trunk: nn.Module, classes: int, frozen: bool = False):
        super().__init__()
        self.trunk, self.frozen = trunk.requires_grad_(not frozen), frozen
        width = next(trunk.parameters()).shape[0]
        sizes = [8 * width, 4 * width, 2 * width, width]
        self.up = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a + b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in zip(sizes, sizes[1:])
        )
        self.last = nn.Conv2d(width, classes, 1)

    def train(self, mode: bool = True) -> 'UNet':
        super().train(mode)
        self.trunk.train(mode and not self.frozen)
        return self

    def forward(self, inputs: Inputs) -> Tensor:
        *lower, maps = stage_maps(self.trunk, inputs[0])
        for layer, skip in zip(self.up, reversed(lower)):
            maps = layer(torch.cat([F.interpolate(maps, skip.shape[2:]), skip], 1))
        return self.last(maps)


def pixel_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Mean cross-entropy of an image's pixels, void ones aside: [n,C,h,w], [n,h,w] -> [n]."""
    losses = F.cross_entropy(logits.float(), masks.long(), ignore_index=VOID, reduction='none')
    return losses.sum((1, 2)) / (masks != VOID).sum((1, 2)).clamp_min(1)


def intersection_over_union(predicted: Tensor, masks: Tensor, classes: int) -> Tensor:
    """IoU of every class over all pixels [N,h,w] but void; nan where it occurs nowhere: [C]."""
    known = masks != VOID
    pairs = torch.bincount(
        masks[known].long() * classes + predicted[known].long(), minlength=classes**2
    )
    table = pairs.view(classes, classes).double()
    both = table.diagonal()
    return both / (table.sum(0) + table.sum(1) - both)


def train(
    s: Segmentation, trunk: nn.Module, scenes: Scenes, chosen: Execution, encode: Encode, label: str
) -> tuple[UNet, History]:
    """Train a U-Net on a recalibrated copy of a trunk, or its decoder alone if the trunk is frozen;
    half of the images are mirrored.
    """
    trunk = recalibrate(trunk, (encode(part) for part in scenes.pixels.split(BATCH)))
    with initialising(s.seed, 'segment', 'weights'):
        model = UNet(trunk, len(scenes.classes), bool(s.frozen))
    model = to_device(model, chosen)
    everything = torch.arange(len(scenes.pixels), device=scenes.pixels.device)

    def batches(epoch: int) -> Iterator[tuple[Inputs, Tensor]]:
        rng = device_stream(s.seed, 'segment', 'epoch', epoch, device=scenes.pixels.device)
        for index in minibatches(everything, s.batch, rng):
            mirror = torch.randint(2, (len(index), 1, 1), generator=rng, device=index.device).bool()
            pixels, masks = scenes.pixels[index], scenes.masks[index]
            yield (
                (encode(torch.where(mirror[..., None], pixels.flip(3), pixels)),),
                torch.where(mirror, masks.flip(2), masks),
            )

    n = len(everything)
    history = fit(model, batches, pixel_loss, schedule(s), chosen, n, label)  # type: ignore[arg-type]
    return model, history


@torch.no_grad()
@float32()
def score(
    model: UNet, scenes: Scenes, encode: Encode = views.normalise
) -> tuple[Tensor, Tensor, Tensor]:
    """The class of every pixel [N,S,S], and each image's mean entropy [N] and mean loss [N]."""
    model.eval()
    parts = []
    for pixels, masks in zip(scenes.pixels.split(BATCH), scenes.masks.split(BATCH)):
        logits = model((encode(pixels),))
        log = logits.log_softmax(1)
        entropy = -(log.exp() * log).sum(1).mean((1, 2))
        parts.append((logits.argmax(1), entropy, pixel_loss(logits, masks)))
    predicted, entropy, loss = (torch.cat(part) for part in zip(*parts))
    return predicted, entropy, loss


def _start(s: Segmentation) -> tuple[nn.Module | None, Encode]:
    """The trunk of every cycle, None for fresh weights, and how images enter it."""
    if s.start == 'fresh':
        return None, views.normalise
    if s.start == 'pretext':
        return trunk(Representation(s.dataset, s.seed, s.width, pretext=s.pretext))
    supervised: Any = spec(
        'representation', dataset=SUPERVISED, task='supervised', width=s.width, seed=s.seed
    )
    return trunk(supervised)


def run(s: Segmentation, scratch: Path) -> Computed:
    """'cycles': mean IoU on the test drives and on the labelled frames; 'classes': IoU of each on
    the test drives; 'images': pretext loss, the last network's loss, and the cycle that labelled it
    (0: none) of every train frame.
    """
    chosen = execution()
    on_device = partial(torch.tensor, device=chosen.device)
    pool, test = (
        Scenes(on_device(part.pixels), on_device(part.masks), part.classes)
        for part in scene_files.read(s.dataset)
    )
    n, classes = len(pool.pixels), len(pool.classes)
    query, budgets = SEGMENTATION[s.strategy], [s.budget] * s.cycles
    check(n, query, budgets, s.cycles, {'pretext_loss'})
    order = torch.tensor(get(s.pretext, 'missing').tables['images']['loss'], device=chosen.device)
    start, encode = _start(s)
    labelled, cycle_of = order[:0].long(), torch.zeros(n, dtype=torch.int16)
    last: dict[str, Any] = {}  # what the network of the cycle before makes of the pool
    rows, by_class = [], []
    for number in range(s.cycles):
        free = unlabelled(labelled, n)
        view = Pool(labelled, free, number, s.cycles, pretext_loss=order, **last)
        rng = stream(s.seed, 'segmentation', number, 'query')
        picked = verified(query(view, s.budget, rng), view, s.budget)
        labelled = torch.cat([labelled, picked])
        cycle_of[picked.cpu()] = number + 1
        with initialising(s.seed, 'segmentation', number, 'trunk'):
            fresh = resnet18(s.width, pool.pixels.shape[-1]).to(chosen.device)
        label = title(s, s.strategy, f'cycle {number + 1}/{s.cycles}')
        known = Scenes(pool.pixels[labelled], pool.masks[labelled], pool.classes)
        model, history = train(s, fresh if start is None else start, known, chosen, encode, label)
        predicted, entropy, loss = score(model, pool, encode)
        last = {'predicted_loss': entropy, 'features': embed(model.trunk, pool.pixels, encode)}
        fitted = intersection_over_union(predicted[labelled], known.masks, classes)
        iou = intersection_over_union(score(model, test, encode)[0], test.masks, classes)
        by_class += [(number + 1, code, value) for code, value in enumerate(iou.tolist())]
        means = iou.nanmean().item(), fitted.nanmean().item()
        rows.append((number + 1, len(labelled), *means, sum(history.steps)))
    kinds = {'cycle': 'int16', 'labels': 'int32', 'iou': 'float32', 'train': 'float32'}
    tables = {
        'cycles': table(rows, **kinds, steps='int32'),
        'classes': table(by_class, **{'cycle': 'int16', 'class': 'int16', 'iou': 'float32'}),
        'images': {
            'pretext_loss': order.cpu().numpy().astype('float32'),
            'loss': loss.cpu().numpy(),
            'cycle': cycle_of.numpy(),
        },
    }
    return Computed(tables, {'iou': rows[-1][2], 'labels': rows[-1][1]}, pool.classes)
