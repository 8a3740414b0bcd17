"""Semantic segmentation as a downstream task: folders in the layout of Pascal VOC, a small U-Net on
a trunk, mean IoU.

Shapes: N images of h = w = side pixels, C classes of which 0 is the background.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from pt4al.data import views
from pt4al.errors import Refused
from pt4al.experiments.representation import BATCH, Encode, stages
from pt4al.rng import device_stream, initialising
from pt4al.tasks.task import recalibrate
from pt4al.training.execution import Execution
from pt4al.training.fit import History, Schedule, fit, minibatches
from pt4al.training.nets import Inputs

# pixels that belong to no class: not trained on, not counted
VOID = 255
VOC_CLASSES = (
    'background',
    'aeroplane',
    'bicycle',
    'bird',
    'boat',
    'bottle',
    'bus',
    'car',
    'cat',
    'chair',
    'cow',
    'diningtable',
    'dog',
    'horse',
    'motorbike',
    'person',
    'pottedplant',
    'sheep',
    'sofa',
    'train',
    'tvmonitor',
)


@dataclass(frozen=True)
class Scenes:
    """One split of images with a class, or VOID, for every pixel."""

    pixels: Tensor  # [N,3,side,side] uint8
    masks: Tensor  # [N,side,side] uint8
    classes: tuple[str, ...]


# --- reading ---


def read(
    root: Path,
    split: str,
    side: int = 64,
    classes: tuple[str, ...] = VOC_CLASSES,
    device: str = 'cpu',
) -> Scenes:
    """Read one split, 'train' or 'val', of a folder in the layout of Pascal VOC; every scene is
    resized to a square.

        ImageSets/Segmentation/train.txt      one name a line
        JPEGImages/NAME.jpg                   the image
        SegmentationClass/NAME.png            its mask, a palette image whose numbers are the
        classes, 255 for void

    `Refused` names the first file that is missing, damaged, of another size than its image, or of
    an unknown class.
    """
    listing = Path(root) / 'ImageSets' / 'Segmentation' / f'{split}.txt'
    try:
        names = listing.read_text('utf-8').split()
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(
            f'{listing} cannot be read ({error}): give a folder in the layout of Pascal VOC'
        ) from None
    if not names:
        raise Refused(f'{listing} names no image')
    if odd := [name for name in names if Path(name).name != name or name in ('.', '..')]:
        raise Refused(
            f'{listing} names {odd[0]!r}: write file names without folder or ending, one a line'
        )
    pixels, masks = zip(*[_scene(Path(root), name, side, len(classes)) for name in names])
    return Scenes(
        torch.from_numpy(np.stack(pixels)).to(device),
        torch.from_numpy(np.stack(masks)).to(device),
        classes,
    )


def _scene(root: Path, name: str, side: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    picture, mask = root / 'JPEGImages' / f'{name}.jpg', root / 'SegmentationClass' / f'{name}.png'
    image, labels = _open(picture, 'JPEG').convert('RGB'), _open(mask, 'PNG')
    if labels.mode not in ('P', 'L'):
        raise Refused(
            f'{mask} is a {labels.mode} image: a mask is a palette image whose numbers are the classes'
        )
    if labels.size != image.size:
        raise Refused(
            f'{mask} is {labels.width}x{labels.height} pixels, its image {image.width}x{image.height}: '
            'a mask has the size of its image'
        )
    values = np.unique(np.asarray(labels))
    if unknown := [int(value) for value in values if classes <= value < VOID]:
        raise Refused(
            f'{mask} holds the class {unknown[0]}: known are 0 to {classes - 1}, and {VOID} for void'
        )
    image, labels = (
        part.resize((side, side), way)
        for part, way in ((image, Image.Resampling.BILINEAR), (labels, Image.Resampling.NEAREST))
    )
    return np.asarray(image).transpose(2, 0, 1), np.asarray(labels)


def _open(path: Path, form: str) -> Image.Image:
    try:
        image = Image.open(path, formats=[form])
        image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Refused(
            f'{path} cannot be read as {form} ({error}): replace it or take its name off the list'
        ) from None
    return image


# --- network ---


class UNet(nn.Module):
    """A decoder that climbs the trunk's stages, joining the maps of each (Ronneberger et al. 2015):
    -> [n,C,h,w].

    A frozen trunk keeps its weights and its statistics; otherwise both are trained on.
    """

    def __init__(self, trunk: nn.Sequential, classes: int, frozen: bool):
        super().__init__()
        self.trunk, self.frozen = copy.deepcopy(trunk).requires_grad_(not frozen), frozen
        width = next(trunk.parameters()).shape[0]
        sizes = [8 * width, 4 * width, 2 * width, width]
        self.up = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a + b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in zip(sizes, sizes[1:])
        )
        self.last = nn.Conv2d(width, classes, 1)

    def train(self, mode: bool = True) -> UNet:
        """Training mode of the decoder, and of the trunk unless it is frozen."""
        super().train(mode)
        self.trunk.train(mode and not self.frozen)
        return self

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
    trunk: nn.Sequential,
    scenes: Scenes,
    schedule: Schedule,
    execution: Execution,
    seed: int,
    batch: int = 16,
    frozen: bool = True,
    encode: Encode = views.normalise,
) -> tuple[UNet, History]:
    """Train a U-Net on a trunk whose statistics are taken anew on the scenes; half of the images
    are mirrored.
    """
    trunk = recalibrate(trunk, (encode(part) for part in scenes.pixels.split(BATCH)))
    with initialising(seed, 'segment', 'weights'):
        model = UNet(trunk, len(scenes.classes), frozen)
    model = model.to(execution.device, memory_format=torch.channels_last)
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

    return model, fit(
        model,
        batches,
        pixel_loss,
        schedule,
        execution,
        len(everything),
        f'segmentation seed {seed}',
    )


@torch.no_grad()
def predict(model: UNet, pixels: Tensor, encode: Encode = views.normalise) -> Tensor:
    """The class of every pixel of uint8 pixels [N,3,h,w], in evaluation mode and float32: [N,h,w]."""
    model.eval()
    return torch.cat([model((encode(part),)).argmax(1) for part in pixels.split(BATCH)])


def mean_iou(model: UNet, scenes: Scenes, encode: Encode = views.normalise) -> float:
    """Intersection over union on a split, averaged over the classes that occur in it or in the
    prediction.
    """
    predicted = predict(model, scenes.pixels, encode)
    return intersection_over_union(predicted, scenes.masks, len(scenes.classes)).nanmean().item()
