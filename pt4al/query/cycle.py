"""The active-learning loop: an iterator that yields one record a cycle and goes on from any."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pt4al.data import Images
from pt4al.errors import Refused, choose, first, one_line
from pt4al.progress import log
from pt4al.query.strategies import FROM_CLASSIFIER, FROM_DATA, Pick, Pool, Query, as_query
from pt4al.rng import stream
from pt4al.training.fit import History, correct, predict
from pt4al.training.nets import Model

# train set, labelled indices, cycle, the model of the cycle before -> the model of this cycle
Learner = Callable[[Images, Tensor, int, Model | None], tuple[Model, History]]


@dataclass(frozen=True)
class Cycle:
    """One turn: the picks, and the test accuracy of a model trained on all labels so far."""

    number: int
    picked: Tensor  # [K] data-set indices
    accuracy: float  # of the kept model, on the test set
    per_class: Tensor  # [C] the same, class by class
    steps: int  # optimiser steps of this cycle's training
    seconds: float
    train: float = math.nan  # accuracy on the labelled images
    held_out: float = math.nan  # and on those set aside
    # loss, lr, steps and what was watched, by epoch
    epochs: Mapping[str, list[float]] = field(default_factory=dict)


def check(n: int, query: Query, budgets: Sequence[int], cycles: int, fields: Set[str]) -> None:
    """Refuse a plan that cannot run to its end, of `n` images; others as in `Problem`, by name."""
    for name in query.needs:
        choose('field of a pool', name, {one.name for one in dataclasses.fields(Pool)})
    if lack := query.needs - FROM_CLASSIFIER - FROM_DATA - fields:
        raise Refused(f'the strategy needs {", ".join(sorted(lack))}: score a pretext task first')
    if (least := min(budgets, default=0)) < 1:
        raise Refused(f'budget {least}: label at least one image a cycle')
    if sum(budgets) > n:
        total = f'budget of {sum(budgets)} images in {len(budgets)} cycles'
        raise Refused(f'{total} is above the pool of {n}: lower it')
    if cycles > n:
        raise Refused(f'{cycles} batches of {n} images: give at most one batch an image')
    if query.split is not None and max(budgets) > n // cycles:
        raise Refused(
            f'budget {max(budgets)} is above the {n // cycles} images of a batch ({n} images in '
            f'{cycles} batches): lower the budget or the number of cycles'
        )


def check_tested(test: Images) -> None:
    """Refuse test images that lack a class."""
    if absent := set(range(len(test.classes))) - set(test.labels.tolist()):
        name = repr(test.classes[min(absent)])
        raise Refused(f'no test image is of the class {name}: add one, or its accuracy is unknown')


@dataclass(frozen=True)
class Problem:
    """What stays the same over the cycles of a run."""

    train: Images  # to label
    test: Images
    budgets: Sequence[int]  # labels of each cycle to run
    cycles: int  # batches of the split
    seed: int  # of all streams
    # of `Pool`, by name: losses and features of the pretext network
    fields: Mapping[str, Tensor] = field(default_factory=dict)
    held_out: Images | None = None  # whose accuracy is recorded and decides nothing


def run(
    problem: Problem,
    learner: Learner,
    query: Query | Pick,
    done: Sequence[Cycle] = (),
    model: Model | None = None,
) -> Iterator[Cycle]:
    """Query, train, test: one record per cycle.

    learner: trains the classifier of a cycle
    query: the strategy; a plain function needs no optional field
    done: records of cycles that ran before, after which the others draw the same
    model: of the last cycle in `done`; trained again if it is None and the next query needs it
    """
    query, train, test = as_query(query), problem.train, problem.test
    budgets, seed = problem.budgets, problem.seed
    check(len(train.labels), query, budgets, problem.cycles, problem.fields.keys())
    check_tested(test)
    from_classifier = query.needs & FROM_CLASSIFIER
    fields: dict[str, Any] = {'pixels': train.pixels, 'oracle_labels': train.labels}
    fields |= {'classes': len(train.classes), **problem.fields}
    fields = {name: value for name, value in fields.items() if name in query.needs}
    before = [torch.empty(0, dtype=torch.int64), *[cycle.picked.cpu() for cycle in done]]
    labelled = torch.cat(before).to(train.labels.device)
    if model is None and done and from_classifier and len(done) < len(budgets):
        model = learner(train, labelled, len(done) - 1, None)[0]
    for number in range(len(done), len(budgets)):
        start = time.perf_counter()
        read = {} if model is None else predictions(model, train, from_classifier)
        free = unlabelled(labelled, len(train.labels))
        pool = Pool(labelled, free, number, problem.cycles, **(fields | read))
        picked = _pick(query, pool, budgets[number], stream(seed, 'cycle', number, 'query'))
        labelled = torch.cat([labelled, verified(picked, pool, budgets[number])])
        _warn_of_absent(train, labelled, number)
        model, history = learner(train, labelled, number, model)
        right = correct(model, test.pixels, test.labels).float()
        by_class = torch.stack([right[test.labels == c].mean() for c in range(len(test.classes))])
        seconds, steps = time.perf_counter() - start, [*map(float, history.steps)]
        epochs = {'loss': history.loss, 'lr': history.lr, 'steps': steps, **history.watched}
        known = accuracy(model, train, labelled)
        apart = math.nan if problem.held_out is None else accuracy(model, problem.held_out)
        tested, total = right.mean().item(), sum(history.steps)
        yield Cycle(number, picked, tested, by_class, total, seconds, known, apart, epochs)


def _pick(query: Query, pool: Pool, budget: int, rng: np.random.Generator) -> Any:
    """What a strategy picks; `Refused` where it reads a field of the pool that is not there."""
    try:
        return query(pool, budget, rng)
    except (AttributeError, TypeError) as error:
        if 'NoneType' not in str(error):
            raise
        raise Refused(
            f'the strategy reads a field that it does not name ({one_line(error)}): write for '
            "example @needs('logits'), and cold(...) where a classifier must be there"
        ) from error


def _warn_of_absent(train: Images, labelled: Tensor, number: int) -> None:
    counts = train.labels[labelled].bincount(minlength=len(train.classes))
    absent = [name for name, count in zip(train.classes, counts.tolist()) if not count]
    if absent:
        text = 'cycle %d: no label is of these classes, which the classifier cannot know: %s'
        log.warning(text, number + 1, first([repr(name) for name in absent], 3))


def accuracy(model: Model, images: Images, index: Tensor | slice = slice(None)) -> float:
    """Share of the images, or of those of `index`, that are classified as labelled."""
    return correct(model, images.pixels[index], images.labels[index]).float().mean().item()


def predictions(model: Model, train: Images, fields: Set[str]) -> dict[str, Tensor]:
    """The named fields of `Pool` that a classifier's outputs fill: [N,...] each."""
    if not fields:
        return {}
    out = vars(predict(model, train.pixels))
    if lack := sorted(name for name in fields if out.get(name) is None):
        raise Refused(f'the strategy needs {", ".join(lack)}, which its classifier does not tell')
    return {name: out[name] for name in fields}


def unlabelled(labelled: Tensor, n: int) -> Tensor:
    """All of 0..n-1 that are not in `labelled`, ascending."""
    free = torch.ones(n, dtype=torch.bool, device=labelled.device)
    free[labelled] = False
    return free.nonzero()[:, 0]


def verified(picked: Tensor, pool: Pool, budget: int) -> Tensor:
    """Return `picked` if it is what a strategy must return, else refuse it."""
    if not isinstance(picked, Tensor) or picked.dtype != torch.int64 or picked.ndim != 1:
        raise Refused(
            f'the strategy returned {_described(picked)}: it must return a torch tensor of int64 '
            'data-set indices [budget]'
        )
    distinct, free = len(picked.unique()), bool(torch.isin(picked, pool.unlabelled).all())
    if not len(picked) == distinct == budget or not free:
        raise Refused(
            f'the strategy returned {len(picked)} indices, {distinct} of them distinct, for a '
            f'budget of {budget}: it must return exactly that many distinct unlabelled ones'
        )
    return picked


def _described(picked: object) -> str:
    if isinstance(picked, Tensor):
        return f'{picked.dtype} of shape {list(picked.shape)}'
    return f'a {type(picked).__module__}.{type(picked).__name__}'.replace('builtins.', '')
