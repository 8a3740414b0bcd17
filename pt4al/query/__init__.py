"""Query strategies by name, and the ways to build one from others; PT4AL is one of them.

A strategy is a function (pool, budget, rng) -> indices; those that stand alone live in
`strategies`, and all their names are also here.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

import numpy as np

from pt4al.errors import Refused
from pt4al.query.strategies import (
    Pool,
    Query,
    badge,
    bald,
    coreset,
    entropy,
    finite,
    learning_loss,
    least_confidence,
    margin,
    needs,
    probcover,
    random,
    typiclust,
    unit_norm_confidence,
)
from pt4al.rng import stream

if TYPE_CHECKING:
    from torch import Tensor

# losses [N], number of batches -> the indices of each batch
Split = Callable[['Tensor', int], Sequence['Tensor']]


# --- PT4AL: splits of the pool, first picks, the combinator ---


def split(pretext_loss: Tensor, batches: int) -> tuple[Tensor, ...]:
    """Cut all indices, sorted by descending loss [N], into `batches` of equal size (PT4AL, sec. 3).

    Losses are compared as numbers.  Ties fall in an order that is random, yet the same in every
    cycle and run.
    """
    return _cut(pretext_loss, batches, lambda loss: loss.sort(descending=True, stable=True).indices)


def _cut(
    loss: Tensor, batches: int, order: Callable[[Tensor], Tensor | list[int]]
) -> tuple[Tensor, ...]:
    """Cut in the `order` that a stable sort of losses [N] gives; they are handed to it in random
    sequence, for ties.
    """
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

    johnsk95/PT4AL, make_batches.py, reads its losses back from a text file and sorts them without
    making them numbers again.  Python writes a loss below 1e-4 as '9.7e-05', and '9' comes after
    the '0' of '0.9': the easiest images land among the hardest.  From the released losses this
    gives the released batches, but for the order among ties.
    """

    def order(loss: Tensor) -> list[int]:
        text = [str(value) for value in loss.tolist()]
        return sorted(range(len(text)), key=text.__getitem__, reverse=True)

    return _cut(pretext_loss, batches, order)


def shuffled(pretext_loss: Tensor, batches: int) -> tuple[Tensor, ...]:
    """In a random order: batches as large as the others', that say nothing of difficulty.

    Drawn from the losses' digest: the same in every cycle of a run, another with other losses,
    whatever the file order.
    """

    def order(loss: Tensor) -> Tensor:
        hardest = loss.sort(descending=True, stable=True).indices
        digest = zlib.crc32(loss[hardest].double().cpu().numpy().tobytes())
        return hardest[
            hardest.new_tensor(stream(digest, 'split', 'shuffled').permutation(len(loss)))
        ]

    return _cut(pretext_loss, batches, order)


def whole_pool(pretext_loss: Tensor, batches: int) -> tuple[Tensor, ...]:
    """No split: every batch is the whole pool, hardest first."""
    return split(pretext_loss, 1) * batches


def first_k(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
    """The first ones of a sorted pool; sorted it is only inside of `batch_split`."""
    return pool.unlabelled[:budget]


def every_kth(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
    """Evenly spaced ones of a sorted pool, from its first on: 0, 5, ..., 4995 of 5,000 in PT4AL's
    release (main.py).
    """
    return pool.unlabelled[
        pool.unlabelled.new_tensor(np.arange(budget) * len(pool.unlabelled) // budget)
    ]


def batch_split(
    inner: Query, first: Query = random, order: Split = hardest_first, start: float = 0
) -> Query:
    """PT4AL: cycle k sees only the k-th batch of the pool sorted by pretext loss, hardest first.

    `first` picks in cycle 0, when there is no classifier yet; `inner` in all others.  As many
    batches as cycles. The ablations are expressions: `inner` any strategy, `first` one of random,
    every_kth, first_k, typiclust, `order` one of hardest_first, easiest_first, as_text, shuffled,
    whole_pool.  With `start` 0.5, cycle 0 sees the batch in the middle, number 5 of 0 to 9, and the
    others follow from there, round the end.
    """

    @needs('pretext_loss', *getattr(inner, 'needs', ()), *getattr(first, 'needs', ()))
    def query(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
        batch = (pool.cycle + int(start * pool.cycles)) % pool.cycles
        if pool.batch is None:
            members = order(pool.pretext_loss, pool.cycles)[batch]
        else:
            members = (pool.batch == batch).nonzero()[:, 0]
            loss = pool.pretext_loss[members]
            members = members[loss.sort(descending=True, stable=True).indices]
        part = pool.restrict(members)
        if budget > len(part.unlabelled):
            raise Refused(
                f'budget {budget} is above the {len(part.unlabelled)} images left in batch {batch + 1} '
                f'of {pool.cycles}: lower the budget or the number of cycles'
            )
        return (first if pool.cycle == 0 else inner)(part, budget, rng)

    query.order = order
    return query


# --- wrappers ---


def class_balanced(inner: Query) -> Query:
    """Ask `inner` in each predicted class for an equal share of the budget, or for all of a class
    that has fewer.

    What such a class lacks the others share; who gets one more than others is drawn.  Inside of
    `batch_split` it balances each batch; around one, a class may hold fewer images of a batch than
    its share, and is refused.
    """

    @needs('logits', *getattr(inner, 'needs', ()))
    def query(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
        import torch

        logits = pool.logits[pool.unlabelled]
        finite(logits.sum(1), 'rows of logits')
        predicted = logits.argmax(1)
        shares = _shares(predicted.bincount().cpu().numpy(), budget, rng).tolist()
        return torch.cat(
            [
                inner(pool.restrict(pool.unlabelled[predicted == c]), share, rng)
                for c, share in enumerate(shares)
                if share
            ]
        )

    return query


def _shares(available: np.ndarray, budget: int, rng: np.random.Generator) -> np.ndarray:
    """Deal `budget` out in rounds of one each to the classes [C] that have more; the last round's
    order is drawn.
    """
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


def class_matched(inner: Query) -> Query:
    """A control, not a method: in cycle 0 a random draw with as many images of each true class as
    `inner` would pick.

    It tells what the classes of the first picks do from what their difficulty does.  At random in
    all other cycles.
    """

    @needs('oracle_labels', *getattr(inner, 'needs', ()))
    def query(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
        import torch

        if pool.cycle:
            return random(pool, budget, rng)
        wanted = pool.oracle_labels[inner(pool, budget, rng)].bincount().tolist()
        mixed = random(pool, len(pool.unlabelled), rng)
        return torch.cat(
            [mixed[pool.oracle_labels[mixed] == c][:count] for c, count in enumerate(wanted)]
        )

    return query


QUERIES: dict[str, Query] = {
    'random': random,
    'least_confidence': cold(least_confidence),
    'unit_norm_confidence': cold(unit_norm_confidence),
    'margin': cold(margin),
    'entropy': cold(entropy),
    'coreset': cold(coreset),
    'badge': cold(badge),
    'balanced_least_confidence': cold(class_balanced(least_confidence)),
    'bald': cold(bald),
    'learning_loss': cold(learning_loss),
    'typiclust': typiclust,
    'probcover': probcover,
    'class_matched': class_matched(batch_split(random)),
    'pt4al': batch_split(least_confidence),
    # one thing changed in each: the order, the sampler, the first picks; then all three, as in the
    # authors' release
    'pt4al_easiest': batch_split(least_confidence, order=easiest_first),
    'pt4al_text': batch_split(least_confidence, order=as_text),
    'pt4al_shuffled': batch_split(least_confidence, order=shuffled),
    'pt4al_random': batch_split(random),
    'pt4al_entropy': batch_split(entropy),
    'pt4al_unit_norm': batch_split(unit_norm_confidence),
    'pt4al_every_kth': batch_split(least_confidence, first=every_kth),
    'pt4al_first_k': batch_split(least_confidence, first=first_k),
    'pt4al_typiclust': batch_split(least_confidence, first=typiclust),
    'pt4al_batch5_every_kth': batch_split(least_confidence, first=every_kth, start=0.5),
    'pt4al_released': batch_split(unit_norm_confidence, first=every_kth, order=as_text),
    # ... and as in its cold-start script, whose first picks are of batch 5
    'pt4al_released_cold': batch_split(
        unit_norm_confidence, first=every_kth, order=as_text, start=0.5
    ),
    # ... and as in the code of the reproduction
    'pt4al_reproduced': batch_split(unit_norm_confidence, first=first_k),
}
# The factorial of orders and samplers: registered above where one thing changed, here where two
# did.
ORDERS = {'hardest': hardest_first, 'easiest': easiest_first, 'text': as_text, 'shuffled': shuffled}
SAMPLERS = {'random': random, 'entropy': entropy, 'unit_norm': unit_norm_confidence}
TWO_CHANGES = {
    f'pt4al_{order}_{sampler}': batch_split(inner, order=sort)
    for order, sort in ORDERS.items()
    for sampler, inner in SAMPLERS.items()
    if order != 'hardest'
}
QUERIES |= TWO_CHANGES


def factorial() -> dict[tuple[str, str], str]:
    """The registered strategy of every (order, sampler); order 'none' is the whole pool without a
    split.
    """
    cells = {
        (order, sampler): f'pt4al_{order}_{sampler}'
        for order in ORDERS
        for sampler in SAMPLERS
        if order != 'hardest'
    }
    cells |= {(order, 'confidence'): f'pt4al_{order}' for order in ORDERS if order != 'hardest'}
    cells |= {('hardest', sampler): f'pt4al_{sampler}' for sampler in SAMPLERS} | {
        ('hardest', 'confidence'): 'pt4al'
    }
    return cells | {
        ('none', 'confidence'): 'least_confidence',
        ('none', 'entropy'): 'entropy',
        ('none', 'random'): 'random',
        ('none', 'unit_norm'): 'unit_norm_confidence',
    }


QUERIES |= {
    entry.name: entry.load()
    for entry in entry_points(group='pt4al.queries')
    if entry.name not in QUERIES
}
