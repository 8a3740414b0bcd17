"""A folder of images whose labels are revealed round by round, as someone with a budget would use
`pt4al rank`.

    python scripts/own_example.py [--seeds 3] [--rounds 3] [--budget 80]
    python scripts/own_example.py --scale 20000

Writes the embedded training images as an unlabelled folder, runs three strategies on it, and keeps
what classifiers trained on their labels make of the embedded test images in bench/own.json beside
the results, for the book. With
--scale it writes as many images of CIFAR-10, reads that folder, and keeps time and memory in
bench/own_scale.json.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pt4al import data, files
from pt4al.experiments import records, store
from pt4al.own import folder as folder_of
from pt4al.own import order, ranking, rounds, sheet
from pt4al.own.labels import Labels

STRATEGIES = ('random', 'pt4al', 'typiclust')


def plant(root: Path, images: int) -> dict[str, str]:
    """Write the first embedded training images as PNG files; the truth by file name."""
    train = data.arrays('cifar10-mini')[0]
    root.mkdir(parents=True)
    for number, pixels in enumerate(train.pixels[:images]):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(root / f'{number:04d}.png')
    return {
        f'{number:04d}.png': train.classes[label]
        for number, label in enumerate(train.labels[:images])
    }


def accuracy(s: Any, known: Labels) -> float:
    """Share of the embedded test images that a classifier trained on the known labels names as they
    are labelled.
    """
    from pt4al.training.execution import execution
    from pt4al.training.fit import correct

    model, test = (
        rounds.classifier(s, known, 0)[2],
        data.load('cifar10-mini', execution().device)[1],
    )
    # a class that nobody has met has none
    place = {name: code for code, name in enumerate(known.classes)}
    codes = test.labels.new_tensor([place.get(name, -1) for name in test.classes])
    return correct(model, test.pixels, codes[test.labels]).float().mean().item()


def labelled(
    root: Path,
    strategy: str,
    seed: int,
    truth: dict[str, str],
    given: argparse.Namespace,
    work: Path,
) -> list[dict[str, Any]]:
    """One person's rounds: rank, label what was picked, train, rank again."""
    labels, rows = {}, []
    table = work / f'labels-{strategy}-{seed}.csv'
    for cycle in range(1, given.rounds + 1):
        found = ranking.rank(
            root,
            budget=given.budget,
            out=work / f'{strategy}-{seed}-{cycle}.csv',
            seed=seed,
            features='rotation',
            strategy=strategy,
            cycle=cycle,
            cycles=given.cycles,
            epochs=given.epochs,
            labels=table if labels else None,
        )
        labels |= {name: truth[name] for name in found.names}
        sheet.write_csv(table, {'path': list(labels), 'label': list(labels.values())})
        known = folder_of.match(labels, found.tree)
        recipe = rounds.active_spec(
            found.tree, found.round.pretext, 'random', given.budget, given.cycles, seed, len(labels)
        )
        rows.append(
            {
                'strategy': strategy,
                'seed': seed,
                'cycle': cycle,
                'labels': len(labels),
                'accuracy': accuracy(recipe, known),
                'classes': len(known.classes),
            }
        )
        logging.info('%s', rows[-1])
    return rows


def scale(images: int, work: Path) -> dict[str, Any]:
    """What a folder of so many small PNG files takes to read, twice, and to train on: seconds, and
    peak memory.
    """
    (work / 'photos').mkdir()
    for number, pixels in enumerate(data.arrays('cifar10')[0].pixels[:images]):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(work / 'photos' / f'{number:05d}.png')
    # whose peak is not that of the writing
    with multiprocessing.get_context('forkserver').Pool(1) as another:
        return another.apply(measured, (images, work))


def measured(images: int, work: Path) -> dict[str, Any]:
    """Wall and CPU seconds to decode the folder, to read it again, and what follows."""
    from pt4al.training.execution import execution, machine

    files.cache = lambda: work / 'cache'  # decode, whatever is in the user's cache
    before, found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, {}
    for name in ('decoding', 'again'):
        wall, cpu = time.perf_counter(), time.process_time()
        tree = folder_of.read(work / 'photos', folder_of.machine()[1])
        found |= {
            f'{name}_seconds': time.perf_counter() - wall,
            f'{name}_cpu_seconds': time.process_time() - cpu,
        }
    s = order.pretext_spec(tree, 'rotation', 0, None)
    wall, cpu = time.perf_counter(), time.process_time()
    features = torch.from_numpy(
        np.random.default_rng(0).standard_normal((images, 8 * s.width))
    ).float()
    rounds.nearest(features)
    found |= {
        'neighbours_seconds': time.perf_counter() - wall,
        'neighbours_cpu_seconds': time.process_time() - cpu,
    }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        'what': 'reading a folder of images, and what follows',
        'images': images,
        **found,
        'training_seconds': order.seconds(s),
        'training_cpu_seconds': order.seconds(s, clock=time.process_time),
        'pretext_epochs': s.epochs,
        'memory_before_mb': before / 1024,
        'memory_mb': peak / 1024,
        'load': os.getloadavg()[0],
        'commit': store.commit(),
        **machine(execution()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (
        ('seeds', 3),
        ('rounds', 3),
        ('budget', 80),
        ('cycles', 5),
        ('images', 2000),
        ('epochs', None),
        ('scale', 0),
    ):
        parser.add_argument(f'--{name}', type=int, default=default)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format='%(asctime)s %(message)s', datefmt='%H:%M:%S')
    with tempfile.TemporaryDirectory() as work:
        if given.scale:
            return print(records.save('own_scale', scale(given.scale, Path(work))))
        truth = plant(Path(work) / 'photos', given.images)
        rows = [
            row
            for seed in range(given.seeds)
            for strategy in STRATEGIES
            for row in labelled(Path(work) / 'photos', strategy, seed, truth, given, Path(work))
        ]
        some = folder_of.read(Path(work) / 'photos', folder_of.machine()[1])
        pretext = order.pretext_spec(some, 'rotation', 0, given.epochs)
    print(
        records.save(
            'own',
            {
                'what': 'test accuracy after rounds of labelling an unlabelled folder',
                'dataset': 'cifar10-mini',
                'images': given.images,
                'budget': given.budget,
                'cycles': given.cycles,
                'task': pretext.task,
                'pretext_epochs': pretext.epochs,
                'width': pretext.width,
                'commit': store.commit(),
                'rows': rows,
            },
        )
    )


if __name__ == '__main__':
    main()
