"""A round of labelling: what identifies it, what it may not be, what it picks and why.

N images, d features, m labels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from torch import Tensor

from pt4al.errors import Refused
from pt4al.experiments.representation import neighbours
from pt4al.experiments.specs import Pretext, query_needs
from pt4al.own import features
from pt4al.own.labels import Labels
from pt4al.own.order import Order
from pt4al.query import QUERIES, Pool, cycle
from pt4al.query.strategies import FROM_CLASSIFIER
from pt4al.rng import stream
from pt4al.training.execution import execution

# a near duplicate is closer than this part of the median distance to the nearest neighbour, or
# closer than rounding, where most images have a copy
NEAR, FLOOR = 0.2, 0.02
# labels a class from which uncertain images serve better than typical ones (book, chapter "Your own
# data")
SWITCH = 10


@dataclass(frozen=True)
class Round:
    """One query on images of one's own, knowing some labels."""

    kind: ClassVar[str] = 'round'
    recipe: ClassVar[int] = 4
    dataset: str
    strategy: str
    budget: int
    seed: int
    features: str  # their name and, of a file, its digest
    # whose losses are listed and whose features tell duplicates; None: features made elsewhere
    pretext: Pretext | None = None
    cycle: int = 1  # from 1; its batch is the cycle-th hardest
    cycles: int = 1  # batches of the order
    labels: str = ''  # digest of what is labelled
    batches: str = ''  # digest of the batches, where an earlier order was kept
    finetune: bool = False  # the network of the features learns from the labels, too


@dataclass(frozen=True)
class Neighbours:
    """The nearest neighbour of every image and its place on a map, whatever is labelled."""

    kind: ClassVar[str] = 'neighbours'
    recipe: ClassVar[int] = 3
    dataset: str
    features: str
    pretext: Pretext | None = None


# of `Pool`, what a linear classifier on features has, or a pretext task
THERE = frozenset({'ssl_features', 'logits', 'features', 'classes', 'pretext_loss'})


def check(r: Round, known: Labels, n: int) -> None:
    """Refuse, before any training, what cannot be picked."""
    needs, free = query_needs(r.strategy), n - len(known.answers)
    lack = ', '.join(sorted(needs - THERE))
    trained, several = needs & FROM_CLASSIFIER and r.cycle > 1, len(known.classes) > 1
    most, of = free, 'images without a label: lower it'
    if 'pretext_loss' in needs and n // r.cycles < free:
        batches = f'({n} images in {r.cycles} batches)'
        most, of = n // r.cycles, f'images of a batch {batches}: lower it, or give fewer --cycles'
    for bad, why in (
        (lack, f'{r.strategy} needs {lack}, which a linear classifier has not: choose another'),
        (
            ('classes' in needs or trained) and not several,
            f'cycle {r.cycle} of {r.strategy} needs labels of two classes, and there are '
            f'{len(known.index)} of {len(known.classes)}: give more',
        ),
        (r.cycle > 1 and not known.answers, 'no labels: give --labels, or leave out --cycle'),
        (
            r.finetune and (not trained or not several or r.features.startswith('file:')),
            '--finetune needs a strategy with a classifier, such as margin, in a round after the '
            'first, and --features of a network: give these, or leave it out',
        ),
        (
            r.pretext and r.cycles > n,
            f'{r.cycles} batches of {n} images: give at most one batch an image',
        ),
        (not free, 'every image has a label: there is nothing left to choose'),
        (r.budget > most, f'budget {r.budget} is above the {most} {of}'),
    ):
        if bad:
            raise Refused(why)


def check_batch(r: Round, known: Labels, batch: np.ndarray) -> None:
    """Refuse a batch that has too few images left."""
    left = np.setdiff1d(np.flatnonzero(batch == r.cycle - 1), list(known.answers))
    if QUERIES[r.strategy].split and len(left) < r.budget:
        raise Refused(
            f'batch {r.cycle} has {len(left)} images without a label, fewer than the budget of '
            f'{r.budget}: give another --cycle, or a smaller --budget'
        )


def linear(x: Tensor, known: Labels) -> Tensor:
    """Log-posteriors [N,C] of a linear classifier that learns from the labelled of all images, an
    image of several classes as an example of each.
    """
    rows = x.cpu().numpy()
    posterior = features.head(rows[known.index], known.label, rows, len(known.classes))
    return torch.from_numpy(posterior).float().to(x.device)


def picks(
    r: Round,
    known: Labels,
    n: int,
    embedded: Callable[[], Tensor],
    classified: Callable[[], tuple[Tensor, Tensor]],
    ordered: Order | None = None,
    batch: np.ndarray | None = None,
) -> Tensor:
    """The picks [budget] of a round of n images, drawn as `pt4al.query.cycle.run` draws them.

    r           the round, with what is `known`
    embedded    gives features [N,d]; `classified` those of a classifier and its log-posteriors
    ordered     by a pretext task, in `batch` [N] from 0
    """
    device, needs = execution().device, query_needs(r.strategy)
    index = torch.tensor(sorted(known.answers), dtype=torch.int64, device=device)
    fields: dict[str, Any] = {'classes': len(known.classes)} if 'classes' in needs else {}
    if 'ssl_features' in needs:
        fields['ssl_features'] = embedded()
    if 'pretext_loss' in needs and ordered and batch is not None:
        fields['pretext_loss'] = torch.tensor(ordered.loss, device=device)
        if ordered.row is not None:
            fields['batch'] = torch.from_numpy(batch).to(device)
    if r.cycle > 1 and (wanted := needs & FROM_CLASSIFIER):
        read = dict(zip(('features', 'logits'), classified()))
        fields |= {name: read[name] for name in wanted}
    pool = Pool(index, cycle.unlabelled(index, n), r.cycle - 1, r.cycles, **fields)
    draws = stream(r.seed, 'cycle', r.cycle - 1, 'query')
    return cycle.verified(QUERIES[r.strategy](pool, r.budget, draws), pool, r.budget)


def nearest(x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Index and distance [N] of each image's nearest neighbour in standardised unit features [N,d].

    Exact, in chunks: time O(N^2 d), memory O(N d).
    """
    spread = x.std(0)
    if spread.any():  # there are two different images
        x = (x - x.mean(0)).div_(spread.clamp_min(1e-6))
    similarity, index = neighbours(x, x, 2)
    # a copy may come before the image itself
    itself = index[:, 0] == torch.arange(len(x), device=x.device)
    column = itself.long()[:, None]
    gap = (2 - 2 * similarity.gather(1, column)).clamp_min(0).sqrt()[:, 0]
    return index.gather(1, column)[:, 0].cpu().numpy(), gap.cpu().numpy()


def plane(x: Tensor) -> np.ndarray:
    """The first two principal components of features [N,d], as unit rows: places [N,2], 0 to 1."""
    rows = F.normalize(x.float()).cpu().numpy()
    if (rows == rows[0]).all():  # there are no components
        return np.full((len(rows), 2), 0.5, np.float32)
    two = min(2, *rows.shape)
    place = np.pad(PCA(two, random_state=0).fit_transform(rows), ((0, 0), (0, 2 - two)))
    low, high = place.min(0), place.max(0)
    return ((place - low) / np.maximum(high - low, 1e-12)).astype(np.float32)


def near_duplicates(neighbour: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Pairs [k,2], nearest first, closer than `FLOOR`, or `NEAR` of the median without copies."""
    apart = distance > FLOOR
    bar = max(FLOOR, NEAR * np.median(distance[apart])) if apart.any() else FLOOR
    close = np.flatnonzero(distance <= bar)
    close = close[np.argsort(distance[close], kind='stable')]
    pairs = np.sort(np.stack([close, neighbour[close]], 1), 1)
    return pairs[np.sort(np.unique(pairs, axis=0, return_index=True)[1])]


def reason_pattern(classes: Iterable[str]) -> re.Pattern[str]:
    """What `reasons` writes with these classes, whatever the numbers."""
    name = '|'.join(map(re.escape, classes))
    parts = [*map(re.escape, QUERIES), 'at random: no labels yet', r'loss [-+.\de]+']
    parts.append(rf'({name}) or ({name}), margin [01]\.\d\d')
    parts.append(r'(typical of cluster|in the midst of group) \d+ \(size [\d,]+\)')
    one = '|'.join(parts)
    return re.compile(f'({one})(; ({one}))*', re.DOTALL)


def reasons(
    r: Round,
    known: Labels,
    embedded: Callable[[], Tensor],
    classified: Callable[[], tuple[Tensor, Tensor]],
    picked: np.ndarray,
    loss: Any = None,
) -> list[str]:
    """Why each was picked: what the strategy looks at, of loss, wavering classes and neighbours."""
    needs, parts = query_needs(r.strategy), []
    if 'pretext_loss' in needs:
        parts.append([f'loss {loss[i]:.3g}' for i in picked.tolist()])
    if r.cycle > 1 and needs & FROM_CLASSIFIER:
        log_posterior = classified()[1].cpu().numpy()[picked]
        parts.append(
            [
                f'{known.classes[one]} or {known.classes[other]}, margin '
                f'{np.exp(row[one]) - np.exp(row[other]):.2f}'
                for row, (one, other) in zip(log_posterior, np.argsort(-log_posterior, 1)[:, :2])
            ]
        )
    if needs & {'ssl_features', 'features'}:
        x = embedded()
        _, near = neighbours(x, x[picked.tolist()], 1)
        size = near[:, 0].bincount(minlength=len(picked)).tolist()
        word = 'typical of cluster' if r.strategy == 'typiclust' else 'in the midst of group'
        parts.append([f'{word} {i} (size {count:,})' for i, count in enumerate(size, 1)])
    cold = r.cycle == 1 and bool(needs & FROM_CLASSIFIER)
    word = 'at random: no labels yet' if cold else r.strategy
    return ['; '.join(words) for words in zip(*parts)] or [word] * len(picked)
