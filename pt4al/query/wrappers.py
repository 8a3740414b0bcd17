"""Strategies made of other strategies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pt4al.query.strategies import Pick, Pool, Query, as_query, finite, needs, random

if TYPE_CHECKING:
    from torch import Tensor


def cold(query: Query | Pick) -> Query:
    """Let a strategy that needs a classifier start at random in cycle 0."""
    query = as_query(query)

    @needs(*query.needs)
    def started(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
        return (random if pool.cycle == 0 else query)(pool, budget, rng)

    return started


def class_balanced(inner: Query | Pick) -> Query:
    """Let `inner` pick an equal share of the budget in each predicted class, or all of a class that
    has fewer.

    What such a class lacks the others share; which of them get one more is drawn.  Inside of
    `batch_split` it balances each batch; around one, a class may hold fewer images of a batch than
    its share, and is refused.
    """
    inner = as_query(inner)

    @needs('logits', *inner.needs)
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


@needs('oracle_labels')
def class_even(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
    """A control, not a method: at random, an equal share of each true class, or all of a class that
    has fewer.

    From the hardest batch and from the whole pool it tells what hard images do where classes are
    even.
    """
    import torch

    labels = pool.oracle_labels[pool.unlabelled]
    shares = _shares(labels.bincount().cpu().numpy(), budget, rng).tolist()
    return torch.cat(
        [
            random(pool.restrict(pool.unlabelled[labels == c]), share, rng)
            for c, share in enumerate(shares)
            if share
        ]
    )


def class_matched(inner: Query | Pick) -> Query:
    """A control, not a method: in cycle 0 a random draw with as many images of each true class as
    `inner` would pick; at random in all other cycles.

    It tells the effect of the classes of the first picks from that of their difficulty.
    """
    inner = as_query(inner)

    @needs('oracle_labels', *inner.needs)
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
