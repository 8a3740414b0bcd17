"""Query strategies: plain functions of what a strategy may look at, a budget and a random generator.

Every tensor is [N, ...] in data-set order and a strategy returns data-set indices: there is one index space.
To add one: a function of some 10 lines, a line in `QUERIES`; `pt4al.contract.check_query` tests it.

Strategies work with methods of the tensors they are given, so pages that only need their names do not import torch.
"""
from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .errors import Refused
from .rng import stream

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Pool:
    """Everything a strategy may look at; the fields that a strategy `needs` are not None."""

    labelled: Tensor                     # [m] data-set indices
    unlabelled: Tensor                   # [u] data-set indices a strategy may choose from
    cycle: int                           # number of this query, from 0
    cycles: int                          # queries in the whole run
    logits: Tensor | None = None         # [N,C] of the classifier trained in the cycle before
    features: Tensor | None = None       # [N,d] of the same
    pretext_loss: Tensor | None = None   # [N]

    def restrict(self, indices: Tensor) -> Pool:
        """The same pool with only those of `indices` that are unlabelled."""
        free = indices.new_zeros(1 + int(max(indices.max(), self.unlabelled.max())))
        free[self.unlabelled] = 1
        return dataclasses.replace(self, unlabelled=indices[free[indices].bool()])


Query = Callable[[Pool, int, np.random.Generator], 'Tensor']
Split = Callable[['Tensor', int], Sequence['Tensor']]       # losses [N], number of batches -> the indices of each batch
CHUNK = 2 ** 22       # distances held at once: 16 MiB in float32
NOISE = 1e-5          # squared distances below this part of an image's own square are rounding: it is a copy


def needs(*fields: str) -> Callable[[Query], Query]:
    """State which optional fields of `Pool` a strategy reads, so that a lack is told before the first epoch."""
    def mark(query: Query) -> Query:
        query.needs = frozenset(fields)
        return query
    return mark


def finite(values: Tensor, what: str, cure: str = 'the classifier has diverged, lower its learning rate') -> Tensor:
    """Return `values` [n], or refuse: NaN sorts as the largest number, so it would be picked first."""
    bad = int((~values.isfinite()).sum())
    if bad:
        raise Refused(f'{bad} {what} are not finite: {cure}')
    return values


def highest(pool: Pool, value: Tensor, budget: int, rng: np.random.Generator) -> Tensor:
    """The `budget` unlabelled indices of largest value [N]; ties fall as `rng` decides, not by file order."""
    mixed = random(pool, len(pool.unlabelled), rng)
    order = finite(value[mixed], 'values of images').sort(descending=True, stable=True).indices
    return mixed[order[:budget]]


# -- strategies --------------------------------------------------------------------------------------------------------

def random(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
    """Uniformly, without replacement."""
    return pool.unlabelled[pool.unlabelled.new_tensor(rng.permutation(len(pool.unlabelled))[:budget])]


@needs('logits')
def least_confidence(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
    """The images with the lowest top-1 posterior (Lewis & Gale 1994; PT4AL, eq. 2)."""
    return highest(pool, -pool.logits.softmax(1).amax(1), budget, rng)


@needs('logits')
def unit_norm_confidence(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
    """Least confidence after scaling each image's logits to unit length, which is what PT4AL's release computes.

    johnsk95/PT4AL, `get_plabels2` in main.py; not eq. 2 of the paper, since how large the logits are is lost.
    """
    length = pool.logits.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return least_confidence(dataclasses.replace(pool, logits=pool.logits / length), budget, rng)


@needs('logits')
def margin(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
    """The images whose two highest posteriors differ least (Scheffer, Decomain & Wrobel 2001)."""
    top, second = pool.logits.softmax(1).topk(2).values.unbind(1)
    return highest(pool, second - top, budget, rng)


@needs('logits')
def entropy(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
    """The images whose posterior has the highest entropy (Settles 2009, sec. 2.1)."""
    log = pool.logits.log_softmax(1)
    return highest(pool, -(log.exp() * log).sum(1), budget, rng)


@needs('features')
def coreset(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
    """Greedy k-centre: one by one, the image farthest from its nearest centre (Sener & Savarese 2018, algorithm 1).

    Centres are the labelled images and the ones picked so far; distances are Euclidean between features.  Time
    O(N d (labelled + budget)); memory O(N d), since all that is kept is each image's squared distance to its nearest.
    """
    free = random(pool, len(pool.unlabelled), rng)
    x, step = pool.features[free], max(1, CHUNK // len(free))
    square = finite(x.norm(dim=1).square(), 'rows of features')

    def nearest(centres: Tensor) -> Tensor:
        gap = ((x @ centres.T).mul_(-2) + centres.norm(dim=1).square()).amin(1) + square
        return gap.where(gap > NOISE * square, 0)

    near, picked = x.new_full((len(x),), math.inf), []
    for start in range(0, len(pool.labelled), step):
        near = near.minimum(nearest(pool.features[pool.labelled[start:start + step]]))
    for _ in range(budget):
        last = int(near.argmax())
        near = near.minimum(nearest(x[last:last + 1]))
        near[last] = -math.inf
        picked.append(last)
    return free[picked]


@needs('features', 'logits')
def badge(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
    """k-means++ seeding among gradients of the last layer, under the predicted labels (Ash et al. 2020, algorithm 1).

    Image i has the gradient g_i = q_i x_i^T, q_i its posterior less its predicted one-hot label, x_i its features, and
    <g_i, g_j> = <q_i, q_j> <x_i, x_j>: the C d numbers of g_i are never formed, so memory is O(N(C + d)).  As in the
    authors' code the first pick is the longest gradient; each other is drawn by squared distance to its nearest pick.
    """
    free = random(pool, len(pool.unlabelled), rng)
    x, q = pool.features[free], pool.logits[free].softmax(1)
    top = q.argmax(1, keepdim=True)
    q.scatter_(1, top, q.gather(1, top) - 1)
    square = finite(q.norm(dim=1).square() * x.norm(dim=1).square(), 'gradients')
    picked, near = [int(square.argmax())], square.new_full((len(x),), math.inf)
    while len(picked) < min(budget, len(x)):
        last = picked[-1]
        gap = square + square[last] - 2 * (q @ q[last]) * (x @ x[last])
        near = near.minimum(gap.where(gap > NOISE * square, 0))
        near[last] = 0
        picked.append(_draw(near.double().cpu().numpy(), picked, rng))
    return free[picked]


def _draw(weight: np.ndarray, picked: list[int], rng: np.random.Generator) -> int:
    """Draw a place with probability proportional to its weight [u]; among all not `picked` if no weight is left."""
    if not weight.any():
        weight = np.ones(len(weight))
        weight[picked] = 0
    total = weight.cumsum()
    return int(np.searchsorted(total, (1 - rng.random()) * total[-1]))      # in (0, total]: never a weight of zero


# -- PT4AL: splits of the pool, first picks, the combinator ------------------------------------------------------------

def split(pretext_loss: Tensor, batches: int) -> tuple[Tensor, ...]:
    """Cut all indices, sorted by descending loss [N], into `batches` of equal size (PT4AL, sec. 3).

    Losses are compared as numbers.  Ties fall in an order that is random, yet the same in every cycle and run.
    """
    return _cut(pretext_loss, batches, lambda loss: loss.sort(descending=True, stable=True).indices)


def _cut(loss: Tensor, batches: int, order: Callable[[Tensor], Tensor | list[int]]) -> tuple[Tensor, ...]:
    """Cut in the `order` that a stable sort of losses [N] gives; they are handed to it in random sequence, for ties."""
    if batches > len(loss):
        raise Refused(f'{batches} batches of {len(loss)} images: give at most one batch an image')
    finite(loss, 'pretext losses', 'score again')
    mixed = loss[:0].long().new_tensor(stream(0, 'split', 'ties').permutation(len(loss)))
    return mixed[order(loss[mixed])].tensor_split(batches)


hardest_first = split


def easiest_first(pretext_loss: Tensor, batches: int) -> tuple[Tensor, ...]:
    """By ascending loss."""
    return _cut(pretext_loss, batches, lambda loss: loss.sort(stable=True).indices)


def as_text(pretext_loss: Tensor, batches: int) -> tuple[Tensor, ...]:
    """By the losses' decimal text, descending, which is what PT4AL's release does.

    johnsk95/PT4AL, make_batches.py, reads its losses back from a text file and sorts them without making them numbers
    again.  Python writes a loss below 1e-4 as '9.7e-05', and '9' comes after the '0' of '0.9': the easiest images land
    among the hardest.  From the released losses this gives the released batches, but for the order among ties.
    """
    def order(loss: Tensor) -> list[int]:
        text = [str(value) for value in loss.tolist()]
        return sorted(range(len(text)), key=text.__getitem__, reverse=True)
    return _cut(pretext_loss, batches, order)


def shuffled(pretext_loss: Tensor, batches: int) -> tuple[Tensor, ...]:
    """In a random order: batches as large as the others', that say nothing of difficulty.

    Drawn from the losses' digest: the same in every cycle of a run, another with other losses, whatever the file order.
    """
    def order(loss: Tensor) -> Tensor:
        hardest = loss.sort(descending=True, stable=True).indices
        digest = zlib.crc32(loss[hardest].double().cpu().numpy().tobytes())
        return hardest[hardest.new_tensor(stream(digest, 'split', 'shuffled').permutation(len(loss)))]
    return _cut(pretext_loss, batches, order)


def whole_pool(pretext_loss: Tensor, batches: int) -> tuple[Tensor, ...]:
    """No split: every batch is the whole pool, hardest first."""
    return split(pretext_loss, 1) * batches


def first_k(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
    """The first ones of a sorted pool; sorted it is only inside of `batch_split`."""
    return pool.unlabelled[:budget]


def every_kth(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
    """Evenly spaced ones of a sorted pool, from its first on: 0, 5, ..., 4995 of 5,000 in PT4AL's release (main.py)."""
    return pool.unlabelled[pool.unlabelled.new_tensor(np.arange(budget) * len(pool.unlabelled) // budget)]


def batch_split(inner: Query, first: Query = random, order: Split = hardest_first) -> Query:
    """PT4AL: cycle k sees only the k-th batch of the pool sorted by pretext loss, hardest first.

    `first` picks in cycle 0, when there is no classifier yet; `inner` in all others.  As many batches as cycles.
    The ablations are expressions: `inner` any strategy, `first` one of random, every_kth, first_k, `order` one of
    hardest_first, easiest_first, as_text, shuffled, whole_pool.
    """
    @needs('pretext_loss', *getattr(inner, 'needs', ()), *getattr(first, 'needs', ()))
    def query(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
        part = pool.restrict(order(pool.pretext_loss, pool.cycles)[pool.cycle])
        if budget > len(part.unlabelled):
            raise Refused(f'budget {budget} is above the {len(part.unlabelled)} images left in batch {pool.cycle + 1} '
                          f'of {pool.cycles}: lower the budget or the number of cycles')
        return (first if pool.cycle == 0 else inner)(part, budget, rng)
    return query


# -- wrappers ----------------------------------------------------------------------------------------------------------

def class_balanced(inner: Query) -> Query:
    """Ask `inner` in each predicted class for an equal share of the budget, or for all of a class that has fewer.

    What such a class lacks the others share; who gets one more than others is drawn.  Inside of `batch_split` it
    balances each batch; around one, a class may hold fewer images of a batch than its share, and is refused.
    """
    @needs('logits', *getattr(inner, 'needs', ()))
    def query(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
        import torch
        logits = pool.logits[pool.unlabelled]
        finite(logits.sum(1), 'rows of logits')
        predicted = logits.argmax(1)
        shares = _shares(predicted.bincount().cpu().numpy(), budget, rng).tolist()
        return torch.cat([inner(pool.restrict(pool.unlabelled[predicted == c]), share, rng)
                          for c, share in enumerate(shares) if share])
    return query


def _shares(available: np.ndarray, budget: int, rng: np.random.Generator) -> np.ndarray:
    """Deal `budget` out in rounds of one each to the classes [C] that have more; the last round's order is drawn."""
    share = np.zeros_like(available)
    while (left := min(budget, available.sum()) - share.sum()) > 0:
        share[rng.permutation(np.flatnonzero(share < available))[:left]] += 1
    return share


def cold(query: Query) -> Query:
    """Let a strategy that needs a classifier start at random in cycle 0."""
    @needs(*getattr(query, 'needs', ()))
    def started(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
        return (random if pool.cycle == 0 else query)(pool, budget, rng)
    return started


QUERIES: dict[str, Query] = {
    'random': random,
    'least_confidence': cold(least_confidence),
    'unit_norm_confidence': cold(unit_norm_confidence),
    'margin': cold(margin),
    'entropy': cold(entropy),
    'coreset': cold(coreset),
    'badge': cold(badge),
    'balanced_least_confidence': cold(class_balanced(least_confidence)),
    'pt4al': batch_split(least_confidence),
    # one thing changed in each: the order, the sampler, the first picks; then all three, as in the authors' release
    'pt4al_easiest': batch_split(least_confidence, order=easiest_first),
    'pt4al_text': batch_split(least_confidence, order=as_text),
    'pt4al_shuffled': batch_split(least_confidence, order=shuffled),
    'pt4al_random': batch_split(random),
    'pt4al_entropy': batch_split(entropy),
    'pt4al_unit_norm': batch_split(unit_norm_confidence),
    'pt4al_every_kth': batch_split(least_confidence, first=every_kth),
    'pt4al_first_k': batch_split(least_confidence, first=first_k),
    'pt4al_released': batch_split(unit_norm_confidence, first=every_kth, order=as_text),
}
