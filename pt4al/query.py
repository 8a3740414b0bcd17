"""Query strategies: plain functions of what a strategy may look at, a budget and a random generator.

Every tensor is [N, ...] in data-set order and a strategy returns data-set indices: there is one index space.
To add one: a function of some 10 lines, a line in `QUERIES`; `pt4al.contract.check_query` tests it.

Strategies work with methods of the tensors they are given, so pages that only need their names do not import torch.
"""
from __future__ import annotations

import dataclasses
from collections.abc import Callable
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


def needs(*fields: str) -> Callable[[Query], Query]:
    """State which optional fields of `Pool` a strategy reads, so that a lack is told before the first epoch."""
    def mark(query: Query) -> Query:
        query.needs = frozenset(fields)
        return query
    return mark


def highest(pool: Pool, value: Tensor, budget: int, rng: np.random.Generator) -> Tensor:
    """The `budget` unlabelled indices of largest value [N]; ties fall as `rng` decides, not by file order."""
    shuffled = random(pool, len(pool.unlabelled), rng)
    order = value[shuffled].sort(descending=True, stable=True).indices
    return shuffled[order[:budget]]


def random(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
    """Uniformly, without replacement."""
    return pool.unlabelled[pool.unlabelled.new_tensor(rng.permutation(len(pool.unlabelled))[:budget])]


@needs('logits')
def least_confidence(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
    """The images with the lowest top-1 posterior (Lewis & Gale 1994; PT4AL, eq. 2)."""
    return highest(pool, -pool.logits.softmax(1).amax(1), budget, rng)


def split(pretext_loss: Tensor, batches: int) -> tuple[Tensor, ...]:
    """Cut all indices, sorted by descending loss [N], into `batches` of equal size (PT4AL, sec. 3).

    Losses are compared as numbers.  Ties fall in an order that is random, yet the same in every cycle and run.
    """
    if batches > len(pretext_loss):
        raise Refused(f'{batches} batches of {len(pretext_loss)} images: give at most one batch an image')
    if not pretext_loss.isfinite().all():
        raise Refused(f'{int((~pretext_loss.isfinite()).sum())} pretext losses are not finite: score again')
    shuffled = pretext_loss[:0].long().new_tensor(stream(0, 'split', 'ties').permutation(len(pretext_loss)))
    order = pretext_loss[shuffled].sort(descending=True, stable=True).indices
    return shuffled[order].tensor_split(batches)


def batch_split(inner: Query, first: Query = random) -> Query:
    """PT4AL: cycle k sees only the k-th batch of the pool sorted by pretext loss, hardest first.

    `first` picks in cycle 0, when there is no classifier yet; `inner` in all others.  As many batches as cycles.
    """
    @needs('pretext_loss', *getattr(inner, 'needs', ()))
    def query(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
        part = pool.restrict(split(pool.pretext_loss, pool.cycles)[pool.cycle])
        if budget > len(part.unlabelled):
            raise Refused(f'budget {budget} is above the {len(part.unlabelled)} images left in batch {pool.cycle + 1} '
                          f'of {pool.cycles}: lower the budget or the number of cycles')
        return (first if pool.cycle == 0 else inner)(part, budget, rng)
    return query


def cold(query: Query) -> Query:
    """Let a strategy that needs a classifier start at random in cycle 0."""
    @needs(*getattr(query, 'needs', ()))
    def started(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
        return (random if pool.cycle == 0 else query)(pool, budget, rng)
    return started


QUERIES: dict[str, Query] = {
    'random': random,
    'least_confidence': cold(least_confidence),
    'pt4al': batch_split(least_confidence),
}
