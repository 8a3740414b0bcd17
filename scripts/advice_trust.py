"""How far the advice can be trusted: asked of labelled sets whose better order is known.

    python -m scripts.advice_trust [--runs 10]

The sets are drawn from real photos, on pretrained features, CIFAR-10 with stored rotation losses,
on features and losses of a rotation network that was trained on them, and from a simulation in
which the loss of a task tells which images show their class clearly. The true gain of an order is
that of labelling as many images of everything there is, not of the set.
Saved in bench/advice.json beside the results, for the book; rows that are there already are not
run again.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from pt4al.experiments import records, store
from pt4al.own import advice
from pt4al.own.advice import ORDERS, Source
from pt4al.progress import log_lines
from pt4al.rng import stream
from scripts.labels_saved import SETS as PHOTOS
from scripts.labels_saved import caltech101, cifar10, trained_here

CLEAR = 5.0  # points: a gain that should not be missed
POOL, TEST, TRUE = 8_000, 2_000, 2  # of a simulated folder; images of a test; curves averaged
LABELS = (500, 200)
Set = tuple[np.ndarray, np.ndarray | None, np.ndarray]  # features [N,d], losses [N], labels [N]


def simulated(
    n: int, strength: float, rng: np.random.Generator, classes: int = 10, d: int = 32
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features [n,d], losses [n] and labels [n] of classes that some images show clearly and others
    hardly.

    `strength` is the rank correlation, about, of loss and clarity: at 1 the hardest are the
    clearest and labelling them first is better, at -1 they show the least and it is worse, at 0 the
    order is a random one.
    """
    label = rng.integers(classes, size=n)
    centres = stream(0, 'advice', 'centres').standard_normal((classes, d))
    blur = rng.standard_normal(n)
    x = centres[label] + 1.5 * np.exp(blur)[:, None] * rng.standard_normal((n, d))
    return x, -strength * blur + math.sqrt(1 - strength**2) * rng.standard_normal(n), label


def truth(
    x: np.ndarray, loss: np.ndarray | None, label: np.ndarray, labels: int
) -> dict[str, float]:
    """Gain of each order over random in points, labelling from all images but a test."""
    budget = round(labels * (1 - 1 / advice.FOLDS)) // (2 * advice.TURNS)
    rows, out = advice.reduced(x), {}
    right: dict[str, list[float]] = {}
    for number in range(TRUE):
        test = np.zeros(len(x), bool)
        test[stream(number, 'advice', 'truth').permutation(len(x))[: min(TEST, len(x) // 4)]] = True
        for name in ('random', *ORDERS):
            if loss is None and name == 'hardest':
                continue
            parts = rows[~test], None if loss is None else loss[~test], label[~test]
            for draw in range(3 if name == 'random' else 1):
                one = advice.curve(
                    ORDERS.get(name, name),
                    *parts,
                    rows[test],
                    label[test],
                    stream(number, 'advice', 'truth', name, draw),
                    budget,
                )
                right.setdefault(name, []).append(100 * float(one.mean()))
    for name in right.keys() - {'random'}:
        out[name] = float(np.mean(right[name]) - np.mean(right['random']))
    return out


def wrong(choice: str, true: Mapping[str, float]) -> bool:
    """Whether an order was named that gains nothing, or random where one gains over the margin."""
    if choice == 'random':
        return max(true.values()) > advice.MARGIN
    return choice != 'undecided' and true[choice] <= 0


def largest(most: int) -> Set:
    """The images of the largest classes of Caltech-101."""
    photos = caltech101()
    there = np.isin(photos.label, np.argsort(-np.bincount(photos.label))[:most])
    return photos.x[there], None, photos.label[there]


def small_photos() -> Set:
    """The images of CIFAR-10, with the losses of a rotation network."""
    photos = cifar10()
    return photos.x, photos.loss, photos.label


def self_trained(name: str) -> Set:
    """Real photos, with features and losses of a rotation network trained on them, as `rank` trains
    it on a CPU.
    """
    photos = trained_here(name, PHOTOS[name]())
    return photos.x, photos.loss, photos.label


def folder(strength: float) -> Set:
    """A simulated folder."""
    return simulated(POOL, strength, stream(0, 'advice', 'folder', f'{strength:g}'))


SETS: dict[str, Callable[[], Set]] = {
    'Caltech-101, all classes': partial(largest, 101),
    'Caltech-101, 50 largest classes': partial(largest, 50),
    'Caltech-101, 20 largest classes': partial(largest, 20),
    'CIFAR-10': small_photos,
    'CIFAR-10, rotation features': partial(self_trained, 'CIFAR-10'),
    'Caltech-101, rotation features': partial(self_trained, 'Caltech-101'),
} | {
    f'simulated, strength {strength:g}': partial(folder, strength)
    for strength in (-0.8, -0.4, 0.0, 0.4, 0.8)
}


def choices(what: str, images: Set, labels: int, runs: int) -> list[dict[str, Any]]:
    """What is advised on sets of so many labels, drawn at random of all images."""
    x, loss, label = images
    made = []
    for run in range(runs):
        part = stream(run, 'advice', 'set', what, labels).permutation(len(x))[:labels]
        source = Source(x[part], None if loss is None else loss[part])
        code = np.unique(label[part], return_inverse=True)[1]
        orders = advice.compare(advice.curves({'x': source}, code, run))
        gap = {name: [one.gap.value, one.gap.low] for (_, name), one in orders.items()}
        made.append({'choice': advice.choose_order(orders, 'x'), 'gap': gap})
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--runs', type=int, default=10)
    parser.add_argument('--sets', nargs='*', default=list(SETS), choices=SETS)
    wanted = parser.parse_args()
    log_lines()
    torch.set_num_threads(1)
    record: dict[str, Any] = records.load('advice') or {'rows': []}
    record |= {
        'what': 'choices of the advice on labelled sets whose better order is known',
        'margin': advice.MARGIN,
        'clear': CLEAR,
        'safety': advice.SAFETY,
        'commit': store.commit(),
    }
    done = {(row['images'], row['labels']) for row in record['rows']}
    for what in wanted.sets:
        for labels in LABELS:
            if (what, labels) not in done:
                images = SETS[what]()
                true = truth(*images, labels)
                runs = choices(what, images, labels, wanted.runs)
                for run in runs:
                    run['wrong'] = wrong(run['choice'], true)
                row = {'images': what, 'labels': labels, 'true': true, 'runs': runs}
                record['rows'].append(row)
                counts = Counter(run['choice'] for run in runs)
                logging.info('%s, %d labels: %s %s', what, labels, true, counts)
                records.save('advice', record)


if __name__ == '__main__':
    main()
