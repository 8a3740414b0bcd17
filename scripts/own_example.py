"""A folder of images whose labels are revealed round by round, as someone with a budget would use
`pt4al rank`.

    python scripts/own_example.py [--seeds 3] [--rounds 3] [--budget 80]
    python scripts/own_example.py --scale 20000

Writes the embedded training images as an unlabelled folder, runs three strategies on it, and keeps
what classifiers trained on their labels make of the embedded test images in bench/own.json beside
the results, for the book. With
--scale it writes as many images of CIFAR-10, ranks that folder twice, and keeps time and memory in
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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from pt4al import data, files
from pt4al.experiments import records, store
from pt4al.own import features, order, ranking, rounds, sheet
from pt4al.own import folder as folder_of
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
    wanted: argparse.Namespace,
    work: Path,
) -> list[dict[str, Any]]:
    """One person's rounds: rank, label what was picked, train, rank again."""
    labels, rows = {}, []
    table = work / f'labels-{strategy}-{seed}.csv'
    for cycle in range(1, wanted.rounds + 1):
        ranked = ranking.rank(
            root,
            budget=wanted.budget,
            out=work / f'{strategy}-{seed}-{cycle}.csv',
            seed=seed,
            features='rotation',
            strategy=strategy,
            cycle=cycle,
            cycles=wanted.cycles,
            epochs=wanted.epochs,
            labels=table if labels else None,
        )
        labels |= {name: truth[name] for name in ranked.names}
        sheet.write_csv(table, {'path': list(labels), 'label': list(labels.values())})
        known = folder_of.match(labels, ranked.tree)
        s, n = ranked.round.pretext, len(labels)
        recipe = rounds.active_spec(ranked.tree, s, 'random', wanted.budget, wanted.cycles, seed, n)
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
        steps[name] = {'cpu_seconds': time.process_time() - cpu, 'images': len(truth)}
        logging.info('%s %s', name, steps[name])
        return made

    def embedded() -> None:
        tree = folder_of.read(photos, features.SIDE)
        with store.using(folder_of.place_of(tree, None, work)):
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
    wanted = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format='%(asctime)s %(message)s', datefmt='%H:%M:%S')
    with tempfile.TemporaryDirectory() as work:
        if wanted.scale:
            return print(records.save('own_scale', scale(wanted.scale, Path(work))))
        truth = plant(Path(work) / 'photos', wanted.images)
        rows = [
            row
            for seed in range(wanted.seeds)
            for strategy in STRATEGIES
            for row in labelled(Path(work) / 'photos', strategy, seed, truth, wanted, Path(work))
        ]
        part = folder_of.read(Path(work) / 'photos', folder_of.machine()[1])
        pretext = order.pretext_spec(part, 'rotation', 0, wanted.epochs)
    print(
        records.save(
            'own',
            {
                'what': 'test accuracy after rounds of labelling an unlabelled folder',
                'dataset': 'cifar10-mini',
                'images': wanted.images,
                'budget': wanted.budget,
                'cycles': wanted.cycles,
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
