"""What a labelling budget buys on real photos: typical, uncertain and random images, on features of
a pretrained network.

    python scripts/labels_saved.py [--seeds 5]

Labels of Caltech-101 (without its background folder) are revealed round by round. A linear
classifier on frozen features learns from them and names test images that no round has seen. Kept in
bench/labels_saved.json beside the results, for the book; arms that are there already are not run
again.
"""

from __future__ import annotations

import argparse
import logging
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pt4al import files
from pt4al.data import folders, splits
from pt4al.errors import Refused
from pt4al.experiments import records, store
from pt4al.own import features
from pt4al.rng import stream

ROUNDS = (100, 100, 100, 200, 500)  # labels bought in each
TEST = 0.2  # of the images
# arm -> strategy of the first round and of the others
ARMS = {
    'random': ('random', 'random'),
    'typical': ('typiclust', 'typiclust'),
    'margin': ('random', 'margin'),
    'typical, then margin': ('typiclust', 'margin'),
    'ProbCover': ('probcover', 'probcover'),
    'BADGE': ('random', 'badge'),
}


def images() -> tuple[np.ndarray, np.ndarray]:
    """Features [N,d] and labels [N] of Caltech-101."""
    root = folders.find_caltech101()
    if root is None:
        raise Refused('caltech101 is not here: set PT4AL_DATA')
    tree = folders.listing(root, root, ('BACKGROUND_Google',))
    paths = [path for one in tree.values() for path in one]
    labels = np.repeat(np.arange(len(tree)), [len(one) for one in tree.values()])
    pixels, bad = folders.read_images(paths, features.SIDE, files.cache() / 'decoded')
    labels = np.delete(labels, [index for index, _ in bad])
    held = files.cache() / 'features' / f'caltech101-{features.SIDE}.npz'
    return features.embedded(pixels, held).astype(np.float32), labels


def curve(x: np.ndarray, labels: np.ndarray, arm: str, seed: int) -> list[float]:
    """Test accuracy after each round."""
    import torch

    from pt4al.query import QUERIES, Pool
    from pt4al.query.cycle import unlabelled

    torch.set_num_threads(1)
    test = splits.stratified(labels, round(TEST * len(labels)), f'labels saved {seed}')
    pool_x, pool_labels = x[~test], labels[~test]
    rows, classes = torch.from_numpy(pool_x), int(labels.max()) + 1
    known, right = torch.empty(0, dtype=torch.int64), []
    logits = None
    for number, budget in enumerate(ROUNDS):
        pool = Pool(
            known,
            unlabelled(known, len(rows)),
            number,
            len(ROUNDS),
            ssl_features=rows,
            features=rows,
            classes=classes,
            logits=logits,
        )
        pick = QUERIES[ARMS[arm][number > 0]]
        picked = pick(pool, budget, stream(seed, 'labels saved', arm, number))
        known = torch.cat([known, picked])
        both = np.concatenate([x[test], pool_x])
        read = features.head(pool_x[known], pool_labels[known], both, classes)
        right.append(float((read[: test.sum()].argmax(1) == labels[test]).mean()))
        logits = torch.from_numpy(read[test.sum() :])
    return right


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--seeds', type=int, default=5)
    parser.add_argument('--processes', type=int, default=1)
    wanted = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format='%(asctime)s %(message)s', datefmt='%H:%M:%S')
    x, labels = images()
    before = records.load('labels_saved') or {'rows': []}
    rows: list[dict[str, Any]] = before['rows']
    done = {(row['arm'], row['seed']) for row in rows}
    jobs = [(arm, seed) for seed in range(wanted.seeds) for arm in ARMS if (arm, seed) not in done]
    with ProcessPoolExecutor(wanted.processes) as workers:
        for (arm, seed), right in zip(
            jobs, workers.map(partial(curve, x, labels), *zip(*jobs), chunksize=1)
        ):
            rows.append({'arm': arm, 'seed': seed, 'accuracy': right})
            logging.info('%s', rows[-1])
    record = {
        'what': 'test accuracy as labels are revealed, linear classifier on pretrained features',
        'dataset': 'caltech101 without BACKGROUND_Google',
        'images': len(labels),
        'classes': int(labels.max()) + 1,
        'test': TEST,
        'features': f'{features.PRETRAINED}, {features.SIDE} pixels',
        'labels': np.cumsum(ROUNDS).tolist(),
        'commit': store.commit(),
        'rows': rows,
    }
    print(Path(records.save('labels_saved', record)))


if __name__ == '__main__':
    main()
