"""PT4AL (Yi et al., ECCV 2022): the pool, ordered by a pretext loss, is labelled batch by batch.

Losses [N] of all images are sorted and cut into as many batches as there are cycles, and cycle k
labels images of batch k: at first at random, then those of which the classifier of the cycle before
is least confident. The method is `batch_split(least_confidence)`; ablations change one argument.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING

import numpy as np

from pt4al.errors import Refused
from pt4al.query.strategies import Pick, Pool, Query, as_query, finite, needs, random
from pt4al.rng import stream

if TYPE_CHECKING:
    from torch import Tensor

# losses [N], number of batches -> the indices of each batch
Split = Callable[['Tensor', int], Sequence['Tensor']]


# --- the batches (sec. 3) ---


def batches_by(order: Callable[[Tensor], Tensor | list[int]]) -> Split:
    """Turn a sorting function into a `Split`: all indices in its order, cut into equal batches.

    Ties fall in an order that is random, yet the same in every cycle and run.
    """

    @wraps(order)
    def split(loss: Tensor, batches: int) -> tuple[Tensor, ...]:
        n = len(loss)
        if batches > n:
            raise Refused(f'{batches} batches of {n} images: give at most one batch an image')
        finite(loss, 'pretext losses', 'score again')
        # an index tensor where `loss` lies, without importing torch here
        mixed = loss[:0].long().new_tensor(stream(0, 'split', 'ties').permutation(n))
        return mixed[order(loss[mixed])].tensor_split(batches)

    return split


@batches_by
def hardest_first(loss: Tensor) -> Tensor:
    """By descending loss."""
    return loss.sort(descending=True, stable=True).indices


split = hardest_first


@batches_by
def easiest_first(loss: Tensor) -> Tensor:
    """By ascending loss."""
    return loss.sort(stable=True).indices


@batches_by
def as_text(loss: Tensor) -> list[int]:
    """By the decimal text of the losses, descending, as the authors' release does.

    johnsk95/PT4AL, make_batches.py, sorts the lines of a text file. Python writes a loss below
    1e-4 as '9.7e-05', and '9' comes after the '0' of '0.9': the easiest images land among the
    hardest. From the released losses this gives the released batches, but for ties.
    """
    text = [str(value) for value in loss.tolist()]
    return sorted(range(len(text)), key=text.__getitem__, reverse=True)


@batches_by
def shuffled(loss: Tensor) -> Tensor:
    """In a random order, drawn from a digest of the losses: the same in every cycle of a run."""
    hardest = loss.sort(descending=True, stable=True).indices
    digest = zlib.crc32(loss[hardest].double().cpu().numpy().tobytes())
    mixed = stream(digest, 'split', 'shuffled').permutation(len(loss))
    return hardest[hardest.new_tensor(mixed)]


# --- first picks: the paper's are `random`; these read a batch as `batch_split` sorts it ---


@needs()
def first_k(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
    """The first ones of the batch, which are the hardest by `hardest_first`."""
    return pool.unlabelled[:budget]


@needs()
def every_kth(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
    """Evenly spaced ones from the first on: 0, 5, ..., 4995 of 5,000 in the release (main.py)."""
    places = np.arange(budget) * len(pool.unlabelled) // budget
    return pool.unlabelled[pool.unlabelled.new_tensor(places)]


# --- the method ---


def batch_split(
    inner: Query | Pick,
    first: Query | Pick = random,
    order: Split = hardest_first,
    start: float = 0,
) -> Query:
    """The strategy whose cycle k picks from batch k of the sorted pool alone.

    inner: picks in every cycle but the first; the paper's is `least_confidence`
    first: picks in cycle 0, when there is no classifier
    order: makes the batches, as many as cycles
    start: share of the batches that cycle 0 skips; they follow at the end
    """
    inner, first = as_query(inner), as_query(first)

    @needs('pretext_loss', *inner.needs, *first.needs)
    def query(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
        batch = (pool.cycle + int(start * pool.cycles)) % pool.cycles
        if pool.batch is None:
            members = order(pool.pretext_loss, pool.cycles)[batch]
        else:  # later rounds of `pt4al rank` keep the batches of the first, whatever `order`
            members = (pool.batch == batch).nonzero()[:, 0]
            loss = pool.pretext_loss[members]
            members = members[loss.sort(descending=True, stable=True).indices]
        part = pool.restrict(members)
        left = len(part.unlabelled)
        if budget > left:
            raise Refused(
                f'budget {budget} is above the {left} images left in batch {batch + 1} of '
                f'{pool.cycles}: lower the budget or the number of cycles'
            )
        return (first if pool.cycle == 0 else inner)(part, budget, rng)

    return replace(query, split=order)  # tells callers that it cuts batches, and how
