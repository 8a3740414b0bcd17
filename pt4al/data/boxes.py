"""Images with boxes around objects, resized to S x S: CamVid's connected regions, and Pascal VOC's
annotations.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from pt4al import files
from pt4al.data import scenes, splits
from pt4al.data.folders import place
from pt4al.data.scenes import Scenes
from pt4al.data.splits import Pair
from pt4al.errors import Refused

THINGS = ('car', 'pedestrian', 'bicyclist')
SMALLEST = 0.001  # share of a frame's pixels under which a region is difficult
LARGEST = 2**20  # bytes of an annotation
VOC = tuple(scenes.VOC.split()[1:])
# image, class, 1 if difficult; left, top, right, bottom in pixels
Row = tuple[float, float, float, float, float, float, float]


class Boxed(NamedTuple):
    """One split of N images with n boxes; difficult ones are neither trained on nor counted."""

    pixels: np.ndarray  # [N,3,S,S] uint8
    image: np.ndarray  # [n] int64: the image of a box
    label: np.ndarray  # [n] int64
    difficult: np.ndarray  # [n] bool
    box: np.ndarray  # [n,4] float32: left, top, right, bottom, in pixels of S x S
    classes: tuple[str, ...]


@cache
def read(name: str) -> tuple[Boxed, Boxed]:
    """The train and test images of 'camvid', 'camvid:S', 'voc-boxes:PATH' or
    'voc-boxes:PATH?size=S'.

    PATH holds VOC's folders, or such folders by year (VOC2007, VOC2012), which are joined: all of
    trainval, tested on test; train and val where there is no test. `Refused` names the first file
    that is missing, damaged, or does not fit its image.
    """
    base, _, argument = name.partition(':')
    if base == 'camvid':
        train, test = (_regions(part) for part in scenes.read(name))
    elif base == 'voc-boxes':
        root, size = place(argument, scenes.SIDE)
        years = sorted(root.glob('VOC[0-9]*')) or [root]
        tested = [year for year in years if _listing(year, 'test').exists()]
        train = _annotated(years, 'trainval' if tested else 'train', size)
        test = _annotated(tested or years, 'test' if tested else 'val', size)
    else:
        raise Refused(f'{name} has no boxes: detection reads camvid, camvid:SIDE, voc-boxes:PATH')
    return train, test


def voc_boxes(argument: str) -> Pair:
    """VOC's images as a data set without labels, whose digests cover the boxes too."""

    def plain(part: Boxed) -> splits.Images:
        boxes = np.column_stack(part[1:5]).astype('<f4').view('<i4')
        return splits.without_labels(part.pixels, splits.digest(part.pixels, boxes))

    train, test = read(f'voc-boxes:{argument}')
    return plain(train), plain(test)


def _boxed(pixels: np.ndarray, rows: Iterable[Row], classes: tuple[str, ...]) -> Boxed:
    table = np.array([*rows], 'float32').reshape(-1, 7)
    image, label, difficult = table[:, :3].astype('int64').T
    return Boxed(pixels, image, label, difficult > 0, table[:, 3:], classes)


def _regions(part: Scenes) -> Boxed:
    """Boxes around the connected regions of the classes in THINGS, neighbours by corners included.

    Objects of a class that touch are one region, and one that is cut by a pole is several; a region
    of less than a thousandth of the frame is difficult.
    """
    from scipy import ndimage

    def rows() -> Iterator[Row]:
        for image, mask in enumerate(part.masks):
            for label, name in enumerate(THINGS):
                regions, _ = ndimage.label(mask == part.classes.index(name), np.ones((3, 3)))
                sizes = np.bincount(regions.ravel())[1:]
                for (y, x), size in zip(ndimage.find_objects(regions), sizes):
                    small = size < SMALLEST * mask.size
                    yield image, label, small, x.start, y.start, x.stop, y.stop

    return _boxed(part.pixels, rows(), THINGS)


def _listing(root: Path, split: str) -> Path:
    return root / 'ImageSets' / 'Main' / f'{split}.txt'


def _annotated(roots: list[Path], split: str, size: int) -> Boxed:
    """One split of folders in VOC's layout: ImageSets/Main/SPLIT.txt, JPEGImages/NAME.jpg and
    Annotations/NAME.xml.
    """
    pixels: list[np.ndarray] = []
    rows: list[Row] = []
    for root in roots:
        for name in scenes.names(_listing(root, split)):
            picture = scenes.opened(root / 'JPEGImages' / f'{name}.jpg')
            annotation = root / 'Annotations' / f'{name}.xml'
            scale = size / np.array([*picture.size, *picture.size])
            for label, difficult, box in _objects(annotation, *picture.size):
                rows.append((len(pixels), label, difficult, *(box * scale)))
            pixels.append(scenes.squeezed(picture, size))
    if not pixels:
        raise Refused(f'{_listing(roots[0], split)} names no image: at least one is needed')
    return _boxed(np.ascontiguousarray(np.stack(pixels)), rows, VOC)


class _Plain(ElementTree.TreeBuilder):
    """Builds a tree of a document that declares no type, so that no entity can unfold."""

    def doctype(self, *_: object) -> None:
        raise ValueError('it declares a document type')


def _objects(path: Path, width: int, height: int) -> Iterator[tuple[int, bool, np.ndarray]]:
    """Class, whether difficult, and box [4] of every object in an annotation."""
    try:
        content = files.plain(path, LARGEST).read_bytes()
        tree = ElementTree.fromstring(content, ElementTree.XMLParser(target=_Plain()))
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise Refused(f'{path} cannot be read ({error}): mend it or leave it out') from None
    for thing in tree.findall('object'):
        name = thing.findtext('name', '').strip()
        if name not in VOC:
            raise Refused(f'{path} names the class {name!r}: known are {", ".join(VOC)}')
        sides = [thing.findtext(f'bndbox/{side}', '') for side in ('xmin', 'ymin', 'xmax', 'ymax')]
        try:
            # VOC counts pixels from 1, and its last pixel is inside
            box = np.array([*map(float, sides)]) - (1, 1, 0, 0)
        except ValueError:
            raise Refused(f'{path}: a box is {sides}: give four numbers') from None
        if not (-1 <= box[0] < box[2] <= width and -1 <= box[1] < box[3] <= height):
            raise Refused(f'{path}: the box {sides} is not inside the {width}x{height} image')
        yield VOC.index(name), thing.findtext('difficult', '').strip() == '1', box.clip(0)
