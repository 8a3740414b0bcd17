"""Strategies made of other strategies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pt4al.query.strategies import Pick, Pool, Query, as_query, joined, needs, random

if TYPE_CHECKING:
    from torch import Tensor


def cold(query: Query | Pick) -> Query:
    """Let a strategy that needs a classifier start at random in cycle 0."""
    query = as_query(query)

    @needs(*query.needs)
    def started(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
        return (random if pool.cycle == 0 else query)(pool, budget, rng)

    return started


@needs('oracle_labels')
def class_even(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
    """A control, not a method: at random, an equal share of each true class, or all it has.

    What a small class lacks the others share; which of them get one more is drawn.
    """
    label = pool.oracle_labels[pool.unlabelled]
    available = label.bincount().cpu().numpy()
    share = np.zeros_like(available)
    while (left := min(budget, available.sum()) - share.sum()) > 0:
        share[rng.permutation(np.flatnonzero(share < available))[:left]] += 1
    parts = {c: pool.restrict(pool.unlabelled[label == c]) for c in np.flatnonzero(share).tolist()}
    return joined([random(part, int(share[c]), rng) for c, part in parts.items()])


def class_matched(inner: Query | Pick) -> Query:
    """A control, not a method: in cycle 0 a random draw of the true classes that `inner` would
    pick, which tells the effect of classes from that of difficulty; then at random.
    """
    inner = as_query(inner)

    @needs('oracle_labels', *inner.needs)
    def query(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
        if pool.cycle:
            return random(pool, budget, rng)
        wanted = pool.oracle_labels[inner(pool, budget, rng)].bincount().tolist()
        mixed = random(pool, len(pool.unlabelled), rng)
        labels = pool.oracle_labels[mixed]
        return joined([mixed[labels == c][:count] for c, count in enumerate(wanted)])

    return query
