"""What a data set is: two digested splits of arrays, and choices of images by class.

Shapes: N images or clips of T frames, C = 3 channels, red, green, blue (a sound is the fourth).
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import ArrayLike

from pt4al.errors import Refused
from pt4al.files import ASSETS
from pt4al.rng import stream

CLASSES = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')
# what is known of data sets before their images are read; the file says what its entries mean
ABOUT: dict[str, dict[str, Any]] = yaml.safe_load((ASSETS / 'datasets.yaml').read_text('utf-8'))
PINNED = {name: tuple(about['digests']) for name, about in ABOUT.items() if 'digests' in about}


@dataclass(frozen=True)
class Images:
    """One split: tensors, or read-only arrays, whose pixels may lie in a mapped file."""

    pixels: Any  # [N,C,H,W] or [N,T,C,H,W] uint8
    labels: Any  # [N] int64
    classes: tuple[str, ...]
    digest: str  # sha256 hex of the pixels' bytes (C order) and the labels as little-endian int64


Pair = tuple[Images, Images]


def release_pages(pixels: np.ndarray) -> None:
    """Give back the memory of pages that are mapped from disk; they are read again when needed."""
    if (pages := getattr(pixels, '_mmap', None)) is not None:
        pages.madvise(mmap.MADV_DONTNEED)


def digest(pixels: np.ndarray, labels: np.ndarray) -> str:
    """SHA-256 of `pixels` (contiguous uint8) and `labels` [N], in hexadecimal."""
    content = hashlib.sha256()
    for start in range(0, len(pixels), 1000):
        content.update(pixels[start : start + 1000].data)
        release_pages(pixels)
    content.update(np.ascontiguousarray(labels, '<i8').data)
    return content.hexdigest()


def split(pixels: ArrayLike, labels: ArrayLike, classes: Sequence[str] = CLASSES) -> Images:
    """The digested split of uint8 pixels [N,C,H,W] or [N,T,C,H,W] and whole labels [N] of
    `classes`, copied.
    """
    images, numbers = np.asarray(pixels), np.array(labels, '<i8')
    fits = images.ndim in (4, 5) and images.shape[-3] in (3, 4)
    if not fits or numbers.shape != images.shape[:1]:
        raise Refused(f'images {images.shape} and labels {numbers.shape} do not make a data set')
    copied = images.astype(np.uint8, order='C')
    if images.dtype != np.uint8 and not (copied == images).all():
        raise Refused(f'pixels are {images.dtype}: give whole numbers from 0 to 255')
    if classes and not ((numbers == labels) & (numbers >= 0) & (numbers < len(classes))).all():
        raise Refused(f'labels must be whole numbers from 0 to {len(classes) - 1}, by class')
    return frozen(copied, numbers, classes)


def frozen(
    pixels: np.ndarray, labels: np.ndarray, classes: Sequence[str], made: str = ''
) -> Images:
    """The split of arrays that are as `split` makes them, read-only now, and its digest."""
    made = made or digest(pixels, labels)
    pixels.setflags(write=False)
    labels.setflags(write=False)
    return Images(pixels, labels, tuple(classes), made)


def without_labels(pixels: np.ndarray, made: str = '') -> Images:
    """The split of pixels alone, and its digest: every label is 0, of no class."""
    return frozen(pixels, np.zeros(len(pixels), '<i8'), (), made)


def checked(name: str, pair: Pair, source: str | Path) -> Pair:
    """Return `pair` if its digests are the pinned ones of `name`, else refuse `source`."""
    for part, one, want in zip(('train', 'test'), pair, PINNED[name], strict=True):
        if one.digest != want:
            wrong = f'{part} has sha256 {one.digest}, expected {want}'
            raise Refused(f'{source} is not {name}: {wrong}; replace it')
    return pair


def _place(labels: np.ndarray, path: str) -> np.ndarray:
    """Place [N] of each image in a random order of its class, drawn by the stream `path`."""
    # sorted uniform numbers, because NumPy may change its shuffles from version to version
    order = np.lexsort((stream(0, 'data', path).random(len(labels)), labels))
    first = np.searchsorted(labels[order], labels[order])
    place = np.empty(len(labels), np.int64)
    place[order] = np.arange(len(labels)) - first
    return place


def imbalance(pair: Pair, counts: Sequence[int]) -> Pair:
    """Keep `counts[c]` train images of each class c, in data-set order, and all test images.

    The images of a smaller count are among those of a larger one.
    """
    train, test = pair
    chosen = _place(train.labels, 'imbalance') < np.asarray(counts)[train.labels]
    return split(train.pixels[chosen], train.labels[chosen], train.classes), test


def test_mask_by_class(labels: np.ndarray, test: int, path: str) -> np.ndarray:
    """Which of the images of `labels` [N] make a test set of about `test` images: bool [N].

    Each class gives its share by largest remainder; a class of two or more images is in both parts,
    one of a single image is in the train set.
    """
    counts = np.bincount(labels)
    share = counts * test / len(labels)
    quota = np.where(counts > 1, np.maximum(share.astype(int), 1), 0)
    open_ = np.flatnonzero((quota < share) & (quota < counts - 1))
    more = open_[np.argsort((quota - share)[open_], kind='stable')][: max(0, test - quota.sum())]
    quota[more] += 1
    return _place(labels, path) < quota[labels]
