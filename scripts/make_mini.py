"""Build pt4al/assets/cifar10-mini.{webp,json} from the complete CIFAR-10, which is checked first.

python scripts/make_mini.py
"""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from pt4al import data  # noqa: E402
from pt4al.data import cifar  # noqa: E402
from pt4al.errors import Refused  # noqa: E402

PER_CLASS = {'train': 400, 'test': 100}
SOURCE = 'CIFAR-10 (Krizhevsky, 2009)'
NOTE = (
    'The first 400 train and first 100 test images of each class, in official order; '
    'for research use.'
)


def first_per_class(labels: np.ndarray, count: int) -> np.ndarray:
    """Return the ascending indices of the first `count` images of each class in `labels` [N]."""
    return np.sort(
        np.concatenate([np.flatnonzero(labels == label)[:count] for label in np.unique(labels)])
    )


def sheet(pixels: np.ndarray) -> bytes:
    """Return `pixels` [N,3,32,32] as lossless WebP, `MINI_COLUMNS` images a row, read left to
    right.
    """
    tiles = pixels.reshape(-1, cifar.MINI_COLUMNS, 3, 32, 32).transpose(0, 3, 1, 4, 2)
    image = Image.fromarray(np.ascontiguousarray(tiles.reshape(-1, cifar.MINI_COLUMNS * 32, 3)))
    image.save(held := io.BytesIO(), 'WEBP', lossless=True, quality=100, method=6)
    return held.getvalue()


def build(full: data.Pair) -> tuple[bytes, bytes]:
    """Return the sheet and its sidecar for the complete (train, test) in `full`."""
    picked = [
        first_per_class(one.labels, count)
        for one, count in zip(full, PER_CLASS.values(), strict=True)
    ]
    pair = tuple(
        data.split(one.pixels[index], one.labels[index])
        for one, index in zip(full, picked, strict=True)
    )
    data.checked('cifar10-mini', pair, 'the part cut out')
    note = {'source': SOURCE, 'note': NOTE, 'classes': data.CLASSES}
    for part, one, index in zip(PER_CLASS, pair, picked, strict=True):
        note[part] = {
            'digest': one.digest,
            'labels': one.labels.tolist(),
            'indices': index.tolist(),
        }
    lines = ',\n'.join(f'{json.dumps(key)}: {json.dumps(value)}' for key, value in note.items())
    return sheet(np.concatenate([one.pixels for one in pair])), f'{{\n{lines}\n}}\n'.encode()


def write(path: Path, content: bytes) -> None:
    """Write `content` whole or not at all."""
    partial = path.with_name(f'.{path.name}.part')
    partial.write_bytes(content)
    os.replace(partial, path)


def main() -> None:
    for suffix, content in zip(('.webp', '.json'), build(data.arrays('cifar10')), strict=True):
        path = cifar.MINI.with_suffix(suffix)
        write(path, content)
        print(f'{path}: {len(content):,} bytes')


if __name__ == '__main__':
    try:
        main()
    except (Refused, OSError) as error:
        sys.exit(str(error))
