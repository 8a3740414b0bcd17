"""Images with boxes around objects, resized to S x S: CamVid's connected regions."""

from typing import NamedTuple

import numpy as np

from pt4al.data import scenes
from pt4al.data.scenes import Scenes

THINGS = ('car', 'pedestrian', 'bicyclist')
SMALLEST = 0.001  # share of a frame's pixels under which a region is difficult


class Boxed(NamedTuple):
    """One split of N images with n boxes; difficult ones are neither trained on nor counted."""

    pixels: np.ndarray  # [N,3,S,S] uint8
    image: np.ndarray  # [n] int64: the image of a box
    label: np.ndarray  # [n] int64
    difficult: np.ndarray  # [n] bool
    box: np.ndarray  # [n,4] float32: left, top, right, bottom, in pixels of S x S
    classes: tuple[str, ...]


def read(name: str) -> tuple[Boxed, Boxed]:
    """The train and test images of 'camvid' or 'camvid:S'; errors as `scenes.read`."""
    train, test = map(_regions, scenes.read(name))
    return train, test


def _regions(part: Scenes) -> Boxed:
    """Boxes around the connected regions of the classes in THINGS, neighbours by corners included.

    Objects of a class that touch are one region, and one that is cut by a pole is several; a region
    of less than a thousandth of the frame is difficult.
    """
    from scipy import ndimage

    rows = []
    for image, mask in enumerate(part.masks):
        for label, name in enumerate(THINGS):
            regions, _ = ndimage.label(mask == part.classes.index(name), np.ones((3, 3)))
            sizes = np.bincount(regions.ravel())[1:]
            for (y, x), size in zip(ndimage.find_objects(regions), sizes):
                small = size < SMALLEST * mask.size
                rows.append((image, label, small, x.start, y.start, x.stop, y.stop))
    table = np.array(rows, 'float32').reshape(-1, 7)
    image, label, difficult = table[:, :3].astype('int64').T
    return Boxed(part.pixels, image, label, difficult > 0, table[:, 3:], THINGS)
