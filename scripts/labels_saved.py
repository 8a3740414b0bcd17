"""What a labelling budget buys on real photos: random, typical, covering and uncertain images, and
the order of PT4AL.

    python -m scripts.labels_saved [--seeds 5] [--sets CIFAR-10] [--features rotation]

Labels are revealed round by round. A linear classifier on frozen features learns from them and
names test images that no round has seen. Features are those of a pretrained network, and those of a
rotation network that was trained on the same photos without labels, as `rank` trains it. Saved in
bench/labels_saved.json beside the results, for the book; what is there already is not run again.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pt4al import data, files
from pt4al.data import download, folders, splits
from pt4al.errors import Refused
from pt4al.experiments import records, store
from pt4al.experiments.specs import Pretext
from pt4al.own import features, order
from pt4al.own.folder import Tree, machine
from pt4al.own.rounds import SWITCH
from pt4al.progress import log_lines
from pt4al.query import QUERIES, Pool
from pt4al.query.cycle import unlabelled
from pt4al.rng import stream

TEST = 0.2  # of the images
POOL = 3_000  # images of CIFAR-10, those of the test among them
# arm -> the first strategy, the next one, and from how many labels a class on the next one is used
ARMS: dict[str, tuple[str, str, float]] = {
    'random': ('random', 'random', 0),
    'typical': ('typiclust', 'typiclust', 0),
    'margin': ('random', 'margin', 0),
    'typical, then margin': ('typiclust', 'margin', 0),
    'as rank does': ('typiclust', 'margin', SWITCH),
    'ProbCover': ('probcover', 'probcover', 0),
    'BADGE': ('random', 'badge', 0),
    'PT4AL': ('pt4al', 'pt4al', 0),
}
# those that are compared on features of a rotation network, too
BOTH = ('random', 'typical', 'margin', 'ProbCover', 'BADGE', 'PT4AL')
PRETRAINED, HERE = 'pretrained', 'rotation'
# of the rotation network, where fewer than `rank` takes: a machine that was busy with other work
PASSES = {'Caltech-101': 3}


@dataclass(frozen=True)
class Photos:
    """Images whose labels are known, N of them."""

    x: np.ndarray  # [N,d] features
    label: np.ndarray  # [N]
    rounds: tuple[int, ...]  # labels bought in each
    note: str  # what ImageNet has of their classes
    pixels: np.ndarray  # [N,3,side,side] as the pretrained network sees them
    small: np.ndarray  # the same as a rotation network sees them
    loss: np.ndarray | None = None  # [N] of rotation, stored for these images; nan where not


def caltech101() -> Photos:
    """Caltech-101 without its background folder."""
    root = download.find(*folders.CALTECH_PLACES)
    if root is None:
        raise Refused('caltech101 is not here: set PT4AL_DATA')
    tree = folders.classes_in(root)
    paths = [path for one in tree.values() for path in one]
    label = np.repeat(np.arange(len(tree)), [len(one) for one in tree.values()])
    loss = np.full(len(label), np.nan)
    train = ~splits.test_mask_by_class(label, folders.CALTECH_TEST, 'caltech101')
    loss[train] = _rotation('pretext-caltech101-bd202538f2ca', label[train])
    there = label != list(tree).index('BACKGROUND_Google')
    shown = [path for path, one in zip(paths, there) if one]
    pixels, small = (folders.read_images(shown, side)[0] for side in (features.SIDE, machine()[1]))
    label = np.unique(label[there], return_inverse=True)[1]
    note = 'most classes are among those of ImageNet'
    rounds = (100, 100, 100, 200, 500)
    x = _embedded('caltech101', pixels)
    return Photos(x, label, rounds, note, pixels, small, loss[there])


def cifar10() -> Photos:
    """The first training images of CIFAR-10, enlarged."""
    train = data.arrays('cifar10')[0]
    side = features.SIDE, features.SIDE
    pixels = np.stack(
        [
            np.asarray(Image.fromarray(image.transpose(1, 2, 0)).resize(side)).transpose(2, 0, 1)
            for image in train.pixels[:POOL]
        ]
    )
    loss = _rotation('pretext-cifar10-e8f05d543fc5', train.labels)[:POOL]
    note = 'all ten classes are among those of ImageNet, by other photos'
    x, rounds = _embedded('cifar10', pixels), (20, 30, 50, 100, 300)
    return Photos(x, train.labels[:POOL], rounds, note, pixels, train.pixels[:POOL], loss)


def camvid() -> Photos:
    """Frames of CamVid by the class of most of their pixels, of classes with 30 frames or more."""
    root = next(one / 'camvid' for one in files.roots() if (one / 'camvid').is_dir())
    frames = sorted(path for part in ('train', 'val', 'test') for path in (root / part).iterdir())
    masks = (
        np.asarray(Image.open(p.parent.with_name(f'{p.parent.name}annot') / f'{p.stem}.png'))
        for p in frames
    )
    most = np.array([np.bincount(mask[mask < 11], minlength=11).argmax() for mask in masks])
    there = np.bincount(most, minlength=11)[most] >= 30
    pixels, small = (
        np.stack([folders.decode(path, side) for path in frames])[there]
        for side in (features.SIDE, machine()[1])
    )
    label = np.unique(most[there], return_inverse=True)[1]
    note = 'none of its classes is one of ImageNet; frames of one drive resemble each other'
    x = _embedded('camvid', pixels)
    return Photos(x, label, (10, 10, 20, 40, 80), note, pixels, small)


SETS: dict[str, Callable[[], Photos]] = {
    'Caltech-101': caltech101,
    'CIFAR-10': cifar10,
    'CamVid': camvid,
}


def _embedded(name: str, pixels: np.ndarray) -> np.ndarray:
    held = files.cache() / 'features' / f'{name}-{features.SIDE}.npz'
    return features.embedded(pixels, held).astype(np.float32)


def _rotation(folder: str, label: np.ndarray) -> np.ndarray:
    """Losses of a stored rotation network of width 64, of images with these labels."""
    images = store.read(store.roots()[-1] / folder).tables['images']
    if not np.array_equal(images['label'], label):
        raise Refused(f'{folder} is not of these images')
    return images['loss']


@contextmanager
def ordered(name: str, photos: Photos) -> Iterator[tuple[Pretext, order.Order]]:
    """The order of a rotation network that learns from all photos, without labels."""
    names = tuple(map(str, range(len(photos.small))))
    dataset = f'unlabelled:{folders.register_pixels(photos.small)}'
    tree = Tree(Path(), photos.small.shape[-1], names, photos.small, {}, {}, dataset=dataset)
    with store.only_in(files.cache() / 'trained' / name):
        s = order.pretext_spec(tree, 'rotation', 0, PASSES.get(name))
        yield s, order.order(tree, s, PASSES.get(name))


def trained_here(name: str, photos: Photos) -> Photos:
    """The same photos with features and losses of that network."""
    with ordered(name, photos) as (s, made):
        return replace(photos, x=order.embedded(s, made).cpu().numpy(), loss=made.loss)


def curve(photos: Photos, arm: str, seed: int) -> list[float]:
    """Test accuracy after each round."""
    label, classes = photos.label, int(photos.label.max()) + 1
    test = splits.test_mask_by_class(label, round(TEST * len(label)), f'labels saved {seed}')
    free = ~test
    loss = None
    if arm == 'PT4AL':  # an image without a loss has no place in the order
        free &= np.isfinite(photos.loss)
        loss = torch.from_numpy(photos.loss[free])
    pool_x, pool_label = photos.x[free], label[free]
    rows = torch.from_numpy(pool_x)
    known, right, logits = torch.empty(0, dtype=torch.int64), [], None
    for number, budget in enumerate(photos.rounds):
        pool = Pool(
            known,
            unlabelled(known, len(rows)),
            number,
            len(photos.rounds),
            ssl_features=rows,
            features=rows,
            classes=classes,
            logits=logits,
            pretext_loss=loss,
        )
        first, later, when = ARMS[arm]
        strategy = later if number and len(known) >= when * classes else first
        picked = QUERIES[strategy](pool, budget, stream(seed, 'labels saved', arm, number))
        known = torch.cat([known, picked])
        both = np.concatenate([photos.x[test], pool_x])
        read = features.head(pool_x[known], pool_label[known], both, classes)
        right.append(float((read[: test.sum()].argmax(1) == label[test]).mean()))
        logits = torch.from_numpy(read[test.sum() :])
    return right


def arms(photos: Photos) -> list[str]:
    """Those that these images allow, and that differ from the others on them."""
    classes = int(photos.label.max()) + 1
    absent = ['PT4AL'] if photos.loss is None else []
    if SWITCH * classes > sum(photos.rounds[:-1]):
        absent.append('as rank does')
    return [arm for arm in ARMS if arm not in absent]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--seeds', type=int, default=5)
    parser.add_argument('--sets', nargs='*', default=list(SETS), choices=SETS)
    parser.add_argument('--features', nargs='*', default=[PRETRAINED, HERE])
    wanted = parser.parse_args()
    log_lines()
    torch.set_num_threads(1)
    record: dict[str, Any] = records.load('labels_saved') or {'sets': {}, 'rows': []}
    for name in wanted.sets:
        photos = SETS[name]()
        record |= {
            'what': 'test accuracy as labels are revealed, linear classifier on frozen features',
            'features': f'{features.PRETRAINED}, {features.SIDE} pixels',
            'test': TEST,
            'commit': store.commit(),
        }
        record['sets'][name] = {
            'images': len(photos.label),
            'classes': int(photos.label.max()) + 1,
            'labels': np.cumsum(photos.rounds).tolist(),
            'note': photos.note,
            'passes': PASSES.get(name),
        }
        todo = {PRETRAINED: arms(photos), HERE: BOTH}
        for source in wanted.features:
            rows = [
                row for row in record['rows'] if (row['set'], row['features']) == (name, source)
            ]
            done = {(row['arm'], row['seed']) for row in rows}
            left = set(product(todo[source], range(wanted.seeds))) - done
            here = trained_here(name, photos) if left and source == HERE else photos
            for arm, seed in sorted(left, key=lambda one: (one[1], todo[source].index(one[0]))):
                row = {'set': name, 'features': source, 'arm': arm, 'seed': seed}
                record['rows'].append(row | {'accuracy': curve(here, arm, seed)})
                logging.info('%s', record['rows'][-1])
                records.save('labels_saved', record)


if __name__ == '__main__':
    main()
