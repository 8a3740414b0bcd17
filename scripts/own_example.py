"""What the first two rounds of `pt4al rank` on a large folder take: seconds and memory.

    python -m scripts.own_example --scale 20000

Writes as many images of CIFAR-10, enlarged, ranks that folder twice, and keeps time and memory in
bench/own_scale.json beside the results, for the book.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from pt4al import data, files
from pt4al.experiments import records, store
from pt4al.own import features, ranking, sheet
from pt4al.own import folder as folder_of
from pt4al.progress import log_lines


def scale(images: int, work: Path) -> dict[str, Any]:
    """What the first two rounds on a folder of so many PNG files of 128 pixels take: seconds, and
    peak memory.
    """
    (work / 'photos').mkdir()
    train, truth = data.arrays('cifar10')[0], {}
    for number, pixels in enumerate(train.pixels[:images]):
        image = Image.fromarray(pixels.transpose(1, 2, 0)).resize((features.SIDE, features.SIDE))
        image.save(work / 'photos' / f'{number:05d}.png')
        truth[f'{number:05d}.png'] = train.classes[train.labels[number]]
    # whose peak is not that of the writing
    with multiprocessing.get_context('forkserver').Pool(1) as another:
        return another.apply(measured, (truth, work))


def measured(truth: Mapping[str, str], work: Path) -> dict[str, Any]:
    """CPU seconds of every step, and the most memory held."""
    from pt4al.training.execution import execution, machine

    files.cache = lambda: work / 'cache'  # decode, whatever is in the user's cache
    before, steps, photos = peak(), {}, work / 'photos'

    def step(name: str, call: Callable[[], Any]) -> Any:
        cpu = time.process_time()
        made = call()
        steps[name] = {
            'cpu_seconds': time.process_time() - cpu,
            'images': len(truth),
            'peak_mb': peak(),
            'held_mb': held(),
        }
        logging.info('%s %s', name, steps[name])
        return made

    def embedded() -> None:
        tree = folder_of.read(photos, features.SIDE)
        with store.only_in(folder_of.place_of(photos, None, work)):
            features.of(features.PRETRAINED, tree.pixels, tree.names)

    step('decode', lambda: folder_of.read(photos, features.SIDE))
    step('read again', lambda: folder_of.read(photos, features.SIDE))
    step('features', embedded)
    first = {'budget': 100, 'out': work / 'picks.csv'}
    names = step('first round', lambda: ranking.rank(photos, **first).names)
    sheet.write_csv(work / 'l.csv', {'path': names, 'label': [truth[name] for name in names]})
    again = {'budget': 100, 'out': work / 'next.csv', 'labels': work / 'l.csv'}
    step('next round', lambda: ranking.rank(photos, **again).names)
    return {
        'what': 'the first two rounds on a folder of images, from nothing',
        'images': len(truth),
        'steps': steps,
        'memory_before_mb': before,
        'memory_mb': peak(),
        'load': os.getloadavg()[0],
        'commit': store.commit(),
        **machine(execution()),
    }


def peak() -> float:
    """The most memory that this process has held, in MB, pages of mapped files with it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def held() -> float:
    """Memory that this process holds now, in MB, without pages of mapped files."""
    status = Path('/proc/self/status').read_text()
    return int(status.split('RssAnon:')[1].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--scale', type=int, default=20_000, help='images')
    wanted = parser.parse_args()
    log_lines()
    with tempfile.TemporaryDirectory() as work:
        print(records.save('own_scale', scale(wanted.scale, Path(work))))


if __name__ == '__main__':
    main()
