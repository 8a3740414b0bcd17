"""The data sets by name: what `arrays` reads, `load` puts on a device, a result's key is made of.

A name is `NAME` or `NAME:ARGUMENT`, such as `imagefolder:PATH`. Shapes as in `splits`.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakValueDictionary

import numpy as np

from pt4al.data import cifar, clips, download, fashion, folders, scenes

# what other modules and the scripts take from here
from pt4al.data.splits import ABOUT, CLASSES, PINNED, Images, Pair, checked, imbalance, split  # noqa: F401
from pt4al.errors import Refused, choose
from pt4al.progress import log

if TYPE_CHECKING:
    import torch


def _imbalanced() -> Pair:
    """CIFAR-10 with 500, 1000, ..., 5000 images of its classes: the reproduction's convention."""
    pair = imbalance(arrays('cifar10'), range(500, 5001, 500))
    return checked('imbalanced-cifar10', pair, 'what was drawn from cifar10')


# By the part of the name before the colon; what takes an argument is called with the part after it.
DATASETS: dict[str, Callable[..., Pair]] = {
    'cifar10': cifar.cifar10,
    'cifar10-mini': cifar.mini,
    'cifar100': cifar.cifar100,
    'imbalanced-cifar10': _imbalanced,
    'fashion-mnist': fashion.fashion_mnist,
    'caltech101': folders.caltech101,
    'imagefolder': folders.imagefolder,
    'unlabelled': folders.unlabelled,
    'digits-sound': clips.digits_sound,
    'clips': clips.clip_folder,
    'camvid': scenes.camvid,
    'camvid-clips': scenes.camvid_clips,
}
for _entry in entry_points(group='pt4al.datasets'):
    if _entry.name not in DATASETS:
        try:
            DATASETS[_entry.name] = _entry.load()
        except Exception as error:  # whatever a package of others may raise
            log.warning('data set %s of %s cannot be loaded: %s', _entry.name, _entry.value, error)


class Source(NamedTuple):
    """Where the files of a data set are, and what to do where they are not."""

    places: tuple[str, ...]  # any of them has it, for `download.find`; none: the argument names it
    bring: str = 'will be downloaded when first used'
    argument: Callable[[str], object] = str  # reads it, `Refused` before any image is looked for


BRING_UNLABELLED = 'your own images without labels: unlabelled:PATH, which pt4al rank reads'
_CIFAR10 = Source(cifar.PLACES)
_CAMVID = Source(scenes.PLACES, scenes.BRING, folders.side)
# A data set that is not here is always at hand.
SOURCES: dict[str, Source] = {
    'cifar10': _CIFAR10,
    'cifar100': Source(cifar.PLACES_100),
    'imbalanced-cifar10': _CIFAR10,
    'fashion-mnist': Source(fashion.PLACES),
    'caltech101': Source(folders.CALTECH_PLACES, folders.BRING_CALTECH, folders.caltech_options),
    'imagefolder': Source((), 'your own images: imagefolder:PATH', folders.parse_folder),
    'unlabelled': Source((), BRING_UNLABELLED, folders.parse_folder),
    'clips': Source((), 'your own clips: clips:PATH', folders.parse_folder),
    'camvid': _CAMVID,
    'camvid-clips': _CAMVID,
}


def check_name(name: object) -> tuple[str, list[str]]:
    """The key of DATASETS and the argument, if a name has one; `Refused` on what cannot be read."""
    base, colon, argument = str(name).partition(':')
    choose('dataset', base, DATASETS)
    arguments, source = [argument] if colon else [], SOURCES.get(base)
    try:
        inspect.signature(DATASETS[base]).bind(*arguments)
    except TypeError:
        needs = 'takes no argument' if colon else f'needs an argument: {SOURCES[base].bring}'
        raise Refused(f'dataset {name!r}: {base} {needs}') from None
    if colon and not argument:
        raise Refused(f'dataset {name!r}: nothing stands after the colon')
    if colon and source:
        source.argument(argument)
    return base, arguments


@cache
def arrays(name: str) -> Pair:
    """The (train, test) of the data set `name` as read-only arrays, read once per process.

    Published sets are looked for in $PT4AL_DATA, then in the user's cache, then fetched. Raises
    `Refused` on an unknown name, a damaged file (named, with both checksums) or when no source can
    be reached.
    """
    base, arguments = check_name(name)
    return DATASETS[base](*arguments)


# pixels in use, by what they are and where: runs that train side by side share them
_PIXELS: WeakValueDictionary[tuple, torch.Tensor] = WeakValueDictionary()


def load(name: str, device: str | torch.device = 'cpu') -> tuple[Images, Images]:
    """The (train, test) of the data set `name` resident on `device`; errors as `arrays`.

    Pixels are there once, however many use them: nobody writes to them.
    """
    import torch

    def resident(array: np.ndarray) -> torch.Tensor:
        if not isinstance(array, np.memmap):
            return torch.tensor(array, device=device)
        # torch warns of arrays that cannot be written; nothing here writes to images
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', 'The given NumPy array is not writable')
            return torch.from_numpy(array).to(device)  # on a CPU it stays on disk, however large

    def images(one: Images) -> Images:
        key = one.digest, one.pixels.shape, str(device)
        if (pixels := _PIXELS.get(key)) is None:
            pixels = _PIXELS[key] = resident(one.pixels)
        return Images(pixels, resident(one.labels), one.classes, one.digest)

    train, test = arrays(name)
    return images(train), images(test)


def available(name: str) -> bool:
    """Whether `arrays(name)` needs no download; the files are looked for, not yet checked."""
    base, _, argument = str(name).partition(':')
    source = SOURCES.get(choose('dataset', base, DATASETS))
    if source is None:
        return True
    if source.places:
        return download.find(*source.places) is not None
    return bool(argument) and folders.parse_folder(argument)[0].is_dir()


def check_trainable(train: Images, what: str) -> None:
    """Raise `Refused` if `train`, called `what` there, has no images of two classes."""
    if not train.classes:
        raise Refused(f'{what} has no labels: only a pretext task can be trained on it')
    if (present := len(set(train.labels.tolist()))) < 2:
        held = f'{len(train.labels)} images of {present} classes'
        raise Refused(f'{what} holds {held}; training needs at least two classes')


def known(name: str) -> bool:
    """Whether `key_digest` needs no download."""
    return name in PINNED or available(name)


def key_digest(name: str) -> str:
    """What identifies the data in a result's key; without the images where they are pinned."""
    train, test = PINNED.get(name) or tuple(part.digest for part in arrays(name))
    return f'{train[:16]}{test[:16]}'
