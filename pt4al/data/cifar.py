"""CIFAR-10 and CIFAR-100 from disk or the network, and the part of CIFAR-10 in the package.

Images are 3 x 32 x 32. Every file is checked against a published or pinned checksum.
"""

import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
from PIL import Image

from pt4al import files
from pt4al.data import download
from pt4al.data.splits import ABOUT, Images, Pair, checked, split
from pt4al.errors import Refused
from pt4al.progress import log

MD5, MD5_100 = (ABOUT[name]['files'] for name in ('cifar10', 'cifar100'))
AUTHORS = 'https://www.cs.toronto.edu/~kriz'
ARCHIVES = ABOUT['cifar10']['archives'] | ABOUT['cifar100']['archives']
TRAIN_FILES = tuple(name for name in MD5 if name.startswith('data_batch'))
PLACES = tuple(f'cifar-10-batches-py/{name}' for name in MD5)
PLACES_100 = tuple(f'cifar-100-python/{name}' for name in MD5_100)
MINI = files.ASSETS / 'cifar10-mini.webp'
LARGEST = 2**28  # bytes of a file
DAMAGE = (
    *(OSError, EOFError, ValueError, KeyError, TypeError, SyntaxError),
    Image.DecompressionBombError,
)
MINI_COLUMNS = 100  # images side by side in the sheet


def _read_batch(path: Path, md5: dict[str, str] = MD5) -> dict:
    content = files.check_regular_file(path, LARGEST).read_bytes()
    if (actual := hashlib.md5(content).hexdigest()) != md5[path.name]:
        raise Refused(f'{path} is damaged: md5 {actual}, expected {md5[path.name]}; fetch it again')
    return pickle.loads(content, encoding='latin1')  # nobody can make another file of this digest


def read_batches(folder: Path) -> Pair:
    """Read CIFAR-10's seven official files, each checked first; `Refused` names a damaged one."""
    batches = {name: _read_batch(folder / name) for name in MD5}

    def joined(names: tuple[str, ...]) -> Images:
        pixels = np.concatenate([batches[name]['data'].reshape(-1, 3, 32, 32) for name in names])
        return split(pixels, np.concatenate([batches[name]['labels'] for name in names]))

    return joined(TRAIN_FILES), joined(('test_batch',))


def read_cifar100(folder: Path) -> Pair:
    """Read CIFAR-100's three official files, with the fine labels; errors as `read_batches`."""
    *parts, meta = (_read_batch(folder / name, MD5_100) for name in MD5_100)
    train, test = (
        split(part['data'].reshape(-1, 3, 32, 32), part['fine_labels'], meta['fine_label_names'])
        for part in parts
    )
    return train, test


def _folder(name: str, places: tuple[str, ...], archive: str) -> Path:
    """The folder of a data set's files, not yet checked; fetched where it is nowhere."""
    if place := download.find(*places):
        return place.parent
    inside = places[0].partition('/')[0]
    return download.folder(
        name, files.cache() / inside, lambda empty: _unpacked(archive, empty) / inside
    )


def _unpacked(archive: str, folder: Path) -> Path:
    url = f'{AUTHORS}/{archive}.tar.gz'
    log.info('fetching %s (170 MB)', url)
    return download.unpacked(url, ARCHIVES[archive], folder)


def cifar10() -> Pair:
    """CIFAR-10: 50,000 and 10,000 images of 10 classes, in official order (Krizhevsky 2009)."""
    folder = _folder('cifar10', PLACES, 'cifar-10-python')
    return checked('cifar10', read_batches(folder), folder)


def cifar100() -> Pair:
    """CIFAR-100: 50,000 and 10,000 images of 100 classes, in official order (Krizhevsky 2009)."""
    return read_cifar100(_folder('cifar100', PLACES_100, 'cifar-100-python'))


# --- the part of CIFAR-10 that ships with the package ---


def _sidecar() -> dict:
    return json.loads(MINI.with_suffix('.json').read_text('utf-8'))


def mini() -> Pair:
    """The first 400 train and 100 test images of each class of CIFAR-10, inside the package."""
    try:
        note = _sidecar()
        with Image.open(MINI, formats=['WEBP']) as image:
            sheet = np.asarray(image).reshape(-1, 32, MINI_COLUMNS, 32, 3)
        pixels = sheet.transpose(0, 2, 4, 1, 3).reshape(-1, 3, 32, 32)
        train, test = (note[part]['labels'] for part in ('train', 'test'))
        pair = split(pixels[: len(train)], train), split(pixels[len(train) :], test)
    except DAMAGE as error:
        raise Refused(f'{MINI} cannot be read ({error}); install pt4al again') from error
    return checked('cifar10-mini', pair, MINI)


def mini_indices() -> tuple[np.ndarray, np.ndarray]:
    """Where the images of `cifar10-mini` stand in `cifar10`: ([4000], [1000]) int64, ascending."""
    train, test = (np.array(_sidecar()[part]['indices'], np.int64) for part in ('train', 'test'))
    return train, test
