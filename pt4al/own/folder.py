"""A folder of images as the arrays that everything else works on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from pt4al import files
from pt4al.data import folders
from pt4al.errors import Refused
from pt4al.own import sheet
from pt4al.own.labels import Row, content
from pt4al.progress import log
from pt4al.training.execution import execution

UNREADABLE = 0.1  # the share of images that may be unreadable in a folder from anywhere
# width and side of images, without an accelerator and with one
SLOW, FAST = (16, 32), (64, 64)


@dataclass(frozen=True)
class Tree:
    """The images of a folder in the order of the arrays, and the files that are not among them."""

    root: Path
    size: int  # side of the images as the network sees them
    names: tuple[str, ...]  # [N] relative to root, / between folders
    pixels: np.ndarray  # [N,3,size,size] uint8
    left_out: dict[str, str]  # name -> why
    odd: dict[str, str]  # name, of one that was read -> what is odd about it
    unreadable: int = 0  # of those left out, images that should have been read
    dataset: str = 'unlabelled:images'  # the name under which specs know it, by content
    pictures: tuple[str, ...] = ()  # [N] digests of the files

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """The images [N] as a table names them."""
        return tuple(map(Row, self.names, self.pictures or [''] * len(self.names)))


def read(folder: str | Path, size: int) -> Tree:
    """Read all images below a folder at `size` pixels, as they are listed once.

    Raises `Refused` where there are none, where none can be read, or where they change meanwhile.
    """
    if not str(folder):
        raise Refused("the folder is '': give the folder that holds your images")
    # unlike resolve, realpath bears a link to itself
    root = Path(os.path.realpath(files.expand_home(folder)))
    folders.parse_folder(f'{root}?size={size}')
    paths, left_out = folders.walk(root)
    if not paths:
        others = sheet.summary(left_out) or 'nothing'
        ends = ', '.join(folders.SUFFIXES)
        raise Refused(f'{str(root)!r} holds no images: they end in {ends}; left out: {others}')
    pixels, unreadable, odd, digests = folders.read_images(paths, size, limit=1)
    names = [path.relative_to(root).as_posix() for path in paths]
    bad = {names[index]: f'cannot be read: {why}' for index, why in unreadable}
    fine = tuple(name for name in names if name not in bad)
    dataset = f'unlabelled:{folders.register_pixels(pixels)}'
    remarks = {names[index]: what for index, what in odd}
    pictures = tuple(f'sha256:{digest}' for digest in digests)
    return Tree(root, size, fine, pixels, bad | left_out, remarks, len(bad), dataset, pictures)


def check_readable(tree: Tree, report: Path) -> None:
    """Refuse a folder of which too much cannot be read, or that holds a single image."""
    images = tree.unreadable + len(tree.names)
    if tree.unreadable > max(1, UNREADABLE * images):
        write_left_out(tree, report)
        counts = f'{tree.unreadable} of {images} images cannot be read'
        raise Refused(f'{counts}, {report.name} lists them: repair or remove them')
    if len(tree.names) < 2:
        raise Refused(f'{str(tree.root)!r} holds one image: there is nothing to choose')


def write_left_out(tree: Tree, report: Path) -> None:
    """Write down what was not read or is odd, and say so; where there is nothing, remove the list
    of an earlier round.
    """
    why = tree.left_out | tree.odd
    if why:
        sheet.write_csv(report, {'path': list(why), 'why': list(why.values())})
    elif os.path.lexists(report) and sheet.OURS['left out'](content(report)):
        report.unlink()
    for what, which in (('left out', tree.left_out), ('read with a remark', tree.odd)):
        if which:
            log.warning('%s: %s; see %s', what, sheet.summary(which), report.name)


def machine() -> tuple[int, int]:
    """Width of the network and side of the images that this machine can afford."""
    return FAST if execution().device.startswith('cuda') else SLOW


def place_of(folder: str | Path, keep: str | Path | None, *beside: Path) -> Path:
    """The store of a folder's results, not made yet: `keep`, else in the first of the folders
    `beside` that has one, or in the last; `Refused` where it cannot be made or written into.
    """
    name = Path(os.path.realpath(files.expand_home(folder))).name or 'images'
    places = [other / f'{name}.pt4al' for other in beside]
    place = next((place for place in places if place.is_dir()), places[-1])
    if keep:
        place = files.expand_home(keep)
    there = next(path for path in (place, *place.absolute().parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise Refused(f'cannot write to {str(place)!r}: give --keep a folder that you can write to')
    return place.absolute()  # Arrow takes 'a:b' for an address
