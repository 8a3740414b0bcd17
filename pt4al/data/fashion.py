"""Fashion-MNIST (Xiao, Rasul & Vollgraf 2017): grey images of 28 pixels, in IDX files."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from pt4al import files
from pt4al.data import download
from pt4al.data.splits import ABOUT, Images, Pair, checked, split
from pt4al.errors import Refused
from pt4al.progress import log

CLASSES = (
    *('T-shirt/top', 'trouser', 'pullover', 'dress', 'coat'),
    *('sandal', 'shirt', 'sneaker', 'bag', 'ankle boot'),
)
PARTS = ('train', 't10k')
PLACES = tuple(
    f'{folder}/train-images-idx3-ubyte.gz' for folder in ('fashion-mnist', 'FashionMNIST/raw')
)
AUTHORS = 'https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion'
ARCHIVES = ABOUT['fashion-mnist']['archives']
LIMIT = 2**26  # bytes; a file that unpacks to more is no such data set


def read_idx(path: Path, axes: int) -> np.ndarray:
    """Read a gzipped IDX file of bytes; `Refused` names a damaged one."""
    try:
        with gzip.open(files.check_regular_file(path)) as file:
            content = file.read(LIMIT + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise Refused(f'{path} cannot be read ({error}); fetch it again') from error
    header = 4 + 4 * axes
    # sizes as Python's integers, which do not overflow
    shape = np.frombuffer(content[4:header].ljust(4 * axes, b'\0'), '>u4').tolist()
    if content[:4] != bytes([0, 0, 8, axes]) or len(content) != header + math.prod(shape):
        raise Refused(f'{path} is no whole IDX file of bytes with {axes} axes; fetch it again')
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def read(folder: Path) -> Pair:
    """Read the four files in `folder`; the digests are the caller's to check."""

    def part(name: str) -> Images:
        grey = read_idx(folder / f'{name}-images-idx3-ubyte.gz', 3)
        framed = np.pad(grey, ((0, 0), (2, 2), (2, 2)))
        labels = read_idx(folder / f'{name}-labels-idx1-ubyte.gz', 1)
        return split(framed[:, None].repeat(3, 1), labels, CLASSES)

    train, test = map(part, PARTS)
    return train, test


def _get(empty: Path) -> Path:
    log.info('fetching %s (31 MB)', AUTHORS)
    for name, sha256 in ARCHIVES.items():
        download.fetch(f'{AUTHORS}/{name}.gz', sha256, empty / 'fashion-mnist')
    return empty / 'fashion-mnist'


def fashion_mnist() -> Pair:
    """60,000 and 10,000 images of 10 classes, zero-padded to 32 pixels, all channels alike."""
    if place := download.find(*PLACES):
        folder = place.parent
    else:
        folder = download.folder('fashion-mnist', files.cache() / 'fashion-mnist', _get)
    return checked('fashion-mnist', read(folder), folder)
