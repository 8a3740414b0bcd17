"""What `rank --finetune` gains over a linear classifier on frozen features, on real photos.

    python -m scripts.finetuned [--seeds 3] [--sets CIFAR-10]

The labels are drawn at random. Saved in bench/finetune.json beside the results, for the book; what
is there already is not run again. The rate was chosen on another split.
"""

from __future__ import annotations

import argparse
import copy
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pt4al.experiments import records, store
from pt4al.own import features, finetune, order
from pt4al.own.folder import Tree
from pt4al.own.labels import Labels
from pt4al.own.rounds import Round
from pt4al.rng import stream
from scripts.labels_saved import SETS, ordered

TEST = 400  # images
# set -> the features, and the numbers of labels
TRIED = {'CIFAR-10': ('rotation', (300, 1_000)), 'Caltech-101': (features.PRETRAINED, (300,))}


def gain(
    pixels: np.ndarray, x: np.ndarray, label: np.ndarray, r: Round, load: finetune.Load, m: int
) -> dict[str, float]:
    """Test accuracy with m labels on frozen features [N,d] and on those of the fine-tuned network,
    and the CPU seconds of the latter.
    """
    drawn = stream(r.seed, 'finetuned').permutation(len(label))[: TEST + m]
    pixels, x, label = np.stack([pixels[i] for i in drawn]), x[drawn], label[drawn]
    there, code = np.unique(label[TEST:], return_inverse=True)
    index = np.arange(TEST, TEST + m)
    known = Labels(index, code, tuple(map(str, there)), dict.fromkeys(index.tolist(), ('',)))
    tree = Tree(Path(), pixels.shape[-1], tuple(map(str, drawn)), pixels, {}, {})

    def right(rows: np.ndarray) -> float:
        read = features.head(rows[TEST:], code, rows[:TEST], len(there))
        return float((there[read.argmax(1)] == label[:TEST]).mean())

    start = time.process_time()
    with tempfile.TemporaryDirectory() as scratch:
        tuned = finetune.embedded(tree, known, r, torch.from_numpy(x), load, Path(scratch))
    seconds = time.process_time() - start
    return {
        'frozen': right(x),
        'finetuned': right(tuned.cpu().numpy()),
        'cpu_seconds': round(seconds, 1),
    }


def gains(name: str, labels: int, seed: int) -> dict[str, float]:
    """`gain` on one of the sets."""
    photos, kind = SETS[name](), TRIED[name][0]
    r = Round(name, 'margin', 1, seed, kind, cycle=2, finetune=True)
    if kind == features.PRETRAINED:
        network = features.network()
        return gain(
            photos.pixels, photos.x, photos.label, r, lambda: copy.deepcopy(network), labels
        )
    with ordered(name, photos) as (s, made):
        x = order.embedded(s, made).cpu().numpy()
        return gain(photos.small, x, photos.label, r, lambda: order.backbone(s, made), labels)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--sets', nargs='*', default=list(TRIED), choices=TRIED)
    wanted = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format='%(asctime)s %(message)s', datefmt='%H:%M:%S')
    torch.set_num_threads(1)
    record: dict[str, Any] = records.load('finetune') or {'rows': []}
    passes, commit = finetune.SCHEDULE.epochs, store.commit()
    what = 'test accuracy of a linear classifier on frozen and on fine-tuned features'
    record |= {'what': what, 'test': TEST, 'passes': passes, 'commit': commit}
    for name in wanted.sets:
        kind, sizes = TRIED[name]
        for labels in sizes:
            for seed in range(wanted.seeds):
                row = {'set': name, 'features': kind, 'labels': labels, 'seed': seed}
                if not any(row.items() <= one.items() for one in record['rows']):
                    record['rows'].append(row | gains(name, labels, seed))
                    logging.info('%s', record['rows'][-1])
                    records.save('finetune', record)


if __name__ == '__main__':
    main()
