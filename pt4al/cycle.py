"""The active-learning loop: an iterator that yields one record a cycle and can go on from any of them."""
from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .data import Images
from .errors import Refused
from .fit import History, predict
from .nets import Model
from .query import Pool, Query
from .rng import stream

Learner = Callable[[Images, Tensor, int], tuple[Model, History]]    # train set, labelled indices, cycle -> a fresh model


@dataclass(frozen=True)
class Cycle:
    """One turn: what was picked, and how a model trained on all labels so far does on the test set."""

    number: int
    picked: Tensor               # [K] data-set indices
    accuracy: float              # of the last epoch, on the test set
    per_class: Tensor            # [C] the same, class by class
    steps: int                   # optimiser steps of this cycle's training
    seconds: float


def check(train: Images, query: Query, budgets: Sequence[int], cycles: int, given: set[str]) -> None:
    """Refuse, before any training, a plan that cannot run to its end."""
    n, lack = len(train.labels), getattr(query, 'needs', frozenset()) - {'logits', 'features'} - given
    if lack:
        raise Refused(f'the strategy needs {", ".join(sorted(lack))}: score a pretext task first')
    if min(budgets, default=0) < 1:
        raise Refused(f'budget {min(budgets, default=0)}: label at least one image a cycle')
    if sum(budgets) > n:
        raise Refused(f'budget of {sum(budgets)} images in {len(budgets)} cycles is above the pool of {n}: lower it')
    if cycles > n:
        raise Refused(f'{cycles} batches of {n} images: give at most one batch an image')
    if 'pretext_loss' in getattr(query, 'needs', ()) and max(budgets) > n // cycles:
        raise Refused(f'budget {max(budgets)} is above the {n // cycles} images of a batch ({n} images in {cycles} '
                      'batches): lower the budget or the number of cycles')


def run(train: Images, test: Images, learner: Learner, query: Query, budgets: Sequence[int], seed: int,
        cycles: int | None = None, done: Sequence[Cycle] = (), pretext_loss: Tensor | None = None) -> Iterator[Cycle]:
    """Query, train from scratch, test, once for each of `budgets`; `cycles` is the number of batches of the split.

    The generator is replayed from `done`: with named streams, cycle k draws the same whether or not the cycles before it
    ran in this process.  Only the model of the last cycle in `done` is trained again, and only if the next query needs it.
    """
    cycles = cycles or len(budgets)
    check(train, query, budgets, cycles, set() if pretext_loss is None else {'pretext_loss'})
    asks_model = bool(getattr(query, 'needs', frozenset()) & {'logits', 'features'})
    labelled = torch.cat([torch.empty(0, dtype=torch.int64), *[c.picked.cpu() for c in done]]).to(train.labels.device)
    model = learner(train, labelled, len(done) - 1)[0] if done and asks_model and len(done) < len(budgets) else None
    for number in range(len(done), len(budgets)):
        start = time.perf_counter()
        seen = predict(model, train.pixels) if asks_model and model is not None else None
        pool = Pool(labelled, unlabelled(labelled, len(train.labels)), number, cycles,
                    None if seen is None else seen.logits, None if seen is None else seen.features, pretext_loss)
        picked = verified(query(pool, budgets[number], stream(seed, 'cycle', number, 'query')), pool, budgets[number])
        labelled = torch.cat([labelled, picked])
        model, history = learner(train, labelled, number)
        right = predict(model, test.pixels).logits.argmax(1) == test.labels
        per_class = torch.stack([right[test.labels == c].float().mean() for c in range(len(test.classes))])
        yield Cycle(number, picked, right.float().mean().item(), per_class, sum(history.steps),
                    time.perf_counter() - start)


def unlabelled(labelled: Tensor, n: int) -> Tensor:
    """All of 0..n-1 that are not in `labelled`, ascending."""
    free = torch.ones(n, dtype=torch.bool, device=labelled.device)
    free[labelled] = False
    return free.nonzero()[:, 0]


def verified(picked: Tensor, pool: Pool, budget: int) -> Tensor:
    """Return `picked` if a strategy kept its contract, else refuse it."""
    if len(picked) != budget or len(picked.unique()) != budget or not torch.isin(picked, pool.unlabelled).all():
        raise Refused(f'the strategy returned {len(picked)} indices, {len(picked.unique())} of them distinct, for a budget '
                      f'of {budget}: it must return exactly that many distinct unlabelled ones')
    return picked
