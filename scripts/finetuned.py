"""What `rank --finetune` gains over a linear classifier on frozen features, on real photos.

    python -m scripts.finetuned [--seeds 3] [--sets CIFAR-10]

The labels are drawn at random. Then as many images more are picked by margin, on frozen or on
fine-tuned features, and the same classifiers learn from either. Saved in bench/finetune.json beside
the results, for the book; what is there already is not run again. The rate was chosen on another
split.
"""

from __future__ import annotations

import argparse
import copy
import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pt4al.experiments import records, store
from pt4al.own import features, finetune, order, rounds
from pt4al.own.folder import Tree
from pt4al.own.labels import Labels
from pt4al.own.rounds import Round
from pt4al.progress import log_lines
from pt4al.rng import stream
from scripts.labels_saved import SETS, ordered

TEST = 400  # images
# set -> the features, and the numbers of labels
TRIED = {'CIFAR-10': ('rotation', (300, 1_000)), 'Caltech-101': (features.PRETRAINED, (300,))}
POOL = 2_400  # images to pick from
PICKED = {'CIFAR-10': 600, 'Caltech-101': 300}  # random labels, and as many picks after them
TUNED_AFTER = ('CIFAR-10',)  # sets whose network is trained once more on the picks


@dataclass(frozen=True)
class Study:
    """Images of a set, the first `TEST` of which are the test, and the network that sees them."""

    tree: Tree
    x: np.ndarray  # [N,d] features as they were
    label: np.ndarray  # [N]
    r: Round
    load: finetune.Load

    def known(self, index: np.ndarray) -> Labels:
        """The labels of some images; the test is never proposed."""
        classes = tuple(map(str, range(int(self.label.max()) + 1)))
        there, code = np.unique(self.label[index], return_inverse=True)
        answers = dict.fromkeys(range(TEST), ()) | dict.fromkeys(index.tolist(), ('',))
        return Labels(index, code, tuple(classes[i] for i in there), answers)

    def tuned(self, known: Labels) -> tuple[np.ndarray, float]:
        """Features [N,d] of the network that learnt from the labels, and CPU seconds."""
        start = time.process_time()
        with tempfile.TemporaryDirectory() as scratch:
            x = torch.from_numpy(self.x)
            made = finetune.embedded(self.tree, known, self.r, x, self.load, Path(scratch))
        return made.cpu().numpy(), round(time.process_time() - start, 1)

    def right(self, x: np.ndarray, known: Labels) -> float:
        """Test accuracy of a linear classifier on features [N,d]."""
        read = features.head(x[known.index], known.label, x[:TEST], len(known.classes))
        there = np.array(list(map(int, known.classes)))
        return float((there[read.argmax(1)] == self.label[:TEST]).mean())


@contextmanager
def study(name: str, most: int, seed: int) -> Iterator[Study]:
    """A test and `most` other images of a set, drawn at random."""
    photos, kind = SETS[name](), TRIED[name][0]
    drawn = stream(seed, 'finetuned').permutation(len(photos.label))[: TEST + most]
    r = Round(name, 'margin', 1, seed, kind, cycle=2, finetune=True)
    names = tuple(map(str, drawn))

    def of(pixels: np.ndarray, x: np.ndarray, load: finetune.Load) -> Study:
        there = np.stack([pixels[i] for i in drawn])
        tree = Tree(Path(), pixels.shape[-1], names, there, {}, {})
        return Study(tree, x[drawn], photos.label[drawn], r, load)

    if kind == features.PRETRAINED:
        network = features.network()
        yield of(photos.pixels, photos.x, lambda: copy.deepcopy(network))
    else:
        with ordered(name, photos) as (s, made):
            x = order.embedded(s, made).cpu().numpy()
            yield of(photos.small, x, lambda: order.backbone(s, made))


def gains(name: str, labels: int, seed: int) -> dict[str, float]:
    """Test accuracy with random labels on frozen features and on those of the fine-tuned network,
    and the CPU seconds of the latter.
    """
    with study(name, labels, seed) as one:
        known = one.known(np.arange(TEST, TEST + labels))
        tuned, seconds = one.tuned(known)
        frozen, finetuned = one.right(one.x, known), one.right(tuned, known)
    return {'frozen': frozen, 'finetuned': finetuned, 'cpu_seconds': seconds}


def choices(name: str, labels: int, seed: int) -> dict[str, dict[str, float]]:
    """Test accuracy after as many picks as there were random labels, by what picked (`random`, or
    the margin on `frozen` or on `finetuned` features) and the features of the classifier.
    """
    right = {}
    with study(name, POOL, seed) as one:
        first = np.arange(TEST, TEST + labels)
        known = one.known(first)

        def picked(x: np.ndarray, strategy: str) -> np.ndarray:
            rows, r = torch.from_numpy(x), replace(one.r, budget=labels, strategy=strategy)
            read = rows, rounds.linear(rows, known)
            return rounds.picks(r, known, len(x), lambda: rows, lambda: read).numpy()

        for what, x, strategy in (
            ('random', one.x, 'random'),
            ('frozen', one.x, 'margin'),
            ('finetuned', one.tuned(known)[0], 'margin'),
        ):
            more = one.known(np.sort(np.concatenate([first, picked(x, strategy)])))
            right[what] = {'frozen': one.right(one.x, more)}
            if name in TUNED_AFTER:
                right[what]['finetuned'] = one.right(one.tuned(more)[0], more)
    return right


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--sets', nargs='*', default=list(TRIED), choices=TRIED)
    wanted = parser.parse_args()
    log_lines()
    torch.set_num_threads(1)
    record: dict[str, Any] = records.load('finetune') or {'rows': []}
    passes, commit = finetune.SCHEDULE.epochs, store.commit()
    what = 'test accuracy of a linear classifier on frozen and on fine-tuned features'
    record |= {'what': what, 'test': TEST, 'passes': passes, 'commit': commit}
    tried = [(name, m, 'rows', gains) for name in wanted.sets for m in TRIED[name][1]]
    tried += [(name, PICKED[name], 'picks', choices) for name in wanted.sets]
    for name, labels, table, measure in tried:
        for seed in range(wanted.seeds):
            row = {'set': name, 'features': TRIED[name][0], 'labels': labels, 'seed': seed}
            rows = record.setdefault(table, [])
            if not any(row.items() <= one.items() for one in rows):
                rows.append(row | measure(name, labels, seed))
                logging.info('%s', rows[-1])
                records.save('finetune', record)


if __name__ == '__main__':
    main()
