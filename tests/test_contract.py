"""Every registered data set, task and strategy keeps the contract; every seeded defect is caught by
its line.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from pt4al import data, query, testing
from pt4al.data import splits
from pt4al.errors import Refused
from pt4al.query import QUERIES
from pt4al.query.pt4al import batch_split, every_kth, shuffled
from pt4al.query.strategies import (
    badge,
    highest,
    least_confidence,
    needs,
    probcover,
    random,
    typiclust,
)
from pt4al.tasks import TASKS
from pt4al.tasks.rotation import Rotation
from pt4al.training.nets import Pooled

torch.set_num_threads(1)  # networks this small are slower on more

# --- what is registered ---


# what trains a network in every call, or has many images
SLOW = ('coregcn', 'vaal', 'cifar10', 'caltech101:size=64')
# by argument where one is needed; CamVid's labels are maps, not one an image
READ = [
    *(name for name in data.DATASETS if name not in data.SOURCES),
    *('cifar10', 'imbalanced-cifar10', 'caltech101:size=64', 'camvid-clips:32'),
]


def listed(names):
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in names]


@pytest.mark.parametrize('name', listed(READ))
def test_data_set_keeps_the_contract(name):
    if not data.available(name):
        pytest.skip(f'{name} is not at hand')
    base, argument = data.check_name(name)
    testing.check_dataset(lambda: data.DATASETS[base](*argument))


@pytest.mark.parametrize('name', listed(TASKS))
def test_task_keeps_the_contract(name):
    task = TASKS[name]()
    if hasattr(task, 'negatives'):  # six images are few for a memory
        task = dataclasses.replace(task, negatives=6)
    sound = torch.randint(256, (6, 4, 32, 32), generator=torch.Generator().manual_seed(0)).byte()
    testing.check_task(task, pixels=sound if name == 'audio_visual' else None)


# the first task of every kind and grid: the rest of a variant has no side to look at
SHAPES = {(entry.kind, entry.options.get('grid')): name for name, entry in [*TASKS.items()][::-1]}


@pytest.mark.parametrize('side', [64, 96])  # a power of two and a multiple of three
@pytest.mark.parametrize('name', SHAPES.values())
def test_task_keeps_the_contract_at_every_image_size(name, side):
    task = TASKS[name]()
    if hasattr(task, 'negatives'):
        task = dataclasses.replace(task, negatives=3)
    channels = 4 if name == 'audio_visual' else 3
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (3, channels, side, side), generator=rng).byte()
    testing.check_task(task, pixels=pixels)


@pytest.mark.parametrize('name', listed(QUERIES))
def test_query_keeps_the_contract(name):
    testing.check_query(QUERIES[name])


def whole_pool(loss, batches):
    """No split: every batch is the whole pool, hardest first."""
    return query.split(loss, 1) * batches


def evenly(pool, budget, rng):
    return pool.unlabelled[torch.linspace(0, len(pool.unlabelled) - 1, budget).round().long()]


@pytest.mark.parametrize(
    'name, made',
    {
        # deterministic in cycle 0, over tied losses too
        'other first': batch_split(least_confidence, first=evenly),
        'diverse inner': batch_split(badge),
        'no split': batch_split(random, every_kth, whole_pool),
        'another first batch': batch_split(probcover, typiclust, start=0.3),
        'one more order': batch_split(least_confidence, every_kth, shuffled),
        'hardest': needs('pretext_loss')(
            lambda pool, budget, rng: highest(pool, pool.pretext_loss, budget, rng)
        ),
    }.items(),
)
def test_expressions_of_registered_parts_keep_the_contract(name, made):
    testing.check_query(made)


# --- seeded defects of data sets ---


def noise(count, side=8, seed=0, classes='ab'):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 3, side, side), np.uint8)
    return data.split(images, rng.integers(0, len(classes), count), classes)


TRAIN, TEST = noise(30), noise(20, seed=1)


def writable():
    return dataclasses.replace(TRAIN, pixels=TRAIN.pixels.copy()), TEST


def drawn():
    np.random.rand()
    return TRAIN, TEST


DATA_MUTANTS = [
    (lambda argument: (TRAIN, TEST), 'D1'),
    (lambda: TRAIN, 'D1'),
    (lambda: (TRAIN.pixels, TEST.pixels), 'D1'),
    (lambda: (TRAIN, noise(20, side=9)), 'D2'),
    (lambda: (TRAIN, noise(20, seed=1, classes='ba')), 'D2'),
    (writable, 'D3'),
    (lambda: (dataclasses.replace(TRAIN, digest=TEST.digest), TEST), 'D3'),
    (lambda: (TRAIN, noise(20, seed=np.random.default_rng())), 'D4'),
    (drawn, 'D4'),
    (lambda: (TRAIN, TRAIN), 'D5'),
    (lambda: (TRAIN, splits.frozen(*shifted(), 'ab')), 'D5'),
]


def shifted():
    """The images of TEST, one of which is of TRAIN: a twentieth."""
    return np.concatenate([TEST.pixels[1:], TRAIN.pixels[:1]]), TEST.labels.copy()


@pytest.mark.parametrize('defect, line', DATA_MUTANTS)
def test_defect_of_a_data_set_is_caught(defect, line):
    testing.check_dataset(lambda: (TRAIN, TEST))
    with pytest.raises(AssertionError, match=f'^contract line {line}, '):
        testing.check_dataset(defect)


# --- seeded defects of strategies: mutations of least confidence, each after a published one ---


def confidence(pool):
    return torch.rand(0) if pool.logits is None else pool.logits.softmax(1).amax(1)


def mutant(function):
    """Random in cycle 0, as the registry's own; the defect in all other cycles."""
    return query.cold(needs('logits')(function))


@mutant
def with_replacement(pool, budget, rng):
    return pool.unlabelled[torch.from_numpy(rng.integers(len(pool.unlabelled), size=budget))]


@mutant
def short(pool, budget, rng):
    return least_confidence(pool, budget, rng)[:-1]


@mutant
def local_index(pool, budget, rng):
    return confidence(pool)[pool.unlabelled].argsort()[:budget]


@mutant
def labelled_again(pool, budget, rng):
    return confidence(pool).argsort()[:budget]


@mutant
def global_rng(pool, budget, rng):
    return pool.unlabelled[torch.randperm(len(pool.unlabelled))[:budget]]


@mutant
def in_place(pool, budget, rng):
    pool.logits.div_(pool.logits.norm(dim=1, keepdim=True))
    return least_confidence(pool, budget, rng)


@mutant
def reseeded(pool, budget, rng):
    return random(pool, budget, np.random.default_rng(0))


@mutant
def mixed_space(pool, budget, rng):
    return pool.unlabelled[confidence(pool)[: len(pool.unlabelled)].argsort()[:budget]]


@mutant
def tail_dropped(pool, budget, rng):
    chunks = pool.unlabelled[: len(pool.unlabelled) // 256 * 256]
    return least_confidence(dataclasses.replace(pool, unlabelled=chunks), budget, rng)


@needs('ssl_features', 'classes')
def balls_of_whole_chunks(pool, budget, rng, chunk=100):
    """As the public code of ProbCover builds its graph: images after the last whole chunk have no
    ball.
    """
    rows = torch.cat([pool.labelled, pool.unlabelled]).sort().values
    free = torch.searchsorted(rows, random(pool, len(pool.unlabelled), rng))
    x = torch.nn.functional.normalize(pool.ssl_features[rows])
    inside = x @ x.T > 0.7
    inside[len(x) // chunk * chunk :] = False
    covered = inside[torch.searchsorted(rows, pool.labelled)].any(0)
    picked = []
    for _ in range(budget):
        gain = (inside & ~covered).sum(1)[free]
        gain[picked] = -1
        picked.append(int(gain.argmax()))
        covered |= inside[free[picked[-1]]]
    return rows[free[picked]]


@needs('ssl_features')
def clusters_of_whole_chunks(pool, budget, rng, chunk=256):
    """Typical images, the neighbours of which are looked up in whole chunks: those after the last
    are never found.
    """
    whole = (len(pool.labelled) + len(pool.unlabelled)) // chunk * chunk
    found = pool.unlabelled[pool.unlabelled < whole]
    return typiclust(dataclasses.replace(pool, unlabelled=found), budget, rng)


@mutant
def float_indices(pool, budget, rng):
    return random(pool, budget, rng).double()


@mutant
def file_order_ties(pool, budget, rng):
    return pool.unlabelled[confidence(pool)[pool.unlabelled].sort(stable=True).indices[:budget]]


def short_at_the_end(pool, budget, rng):
    return random(pool, min(budget, len(pool.unlabelled) - 1), rng)


def refuses_the_end(pool, budget, rng):
    if budget == len(pool.unlabelled):
        raise Refused('too few left')
    return random(pool, budget, rng)


@needs('logits')
def undeclared(pool, budget, rng):
    return (
        random(pool, budget, rng)
        if pool.cycle == 0
        else highest(pool, pool.pretext_loss.double(), budget, rng)
    )


@needs('logits', 'entropy')
def unknown_field(pool, budget, rng):
    return random(pool, budget, rng)


QUERY_MUTANTS = [
    (with_replacement, 'Q2'),
    (short, 'Q2'),
    (local_index, 'Q3'),
    (labelled_again, 'Q3'),
    (global_rng, 'Q5'),
    (in_place, 'Q4'),
    (reseeded, 'Q6'),
    (mixed_space, 'Q6'),
    (tail_dropped, 'Q6'),
    (balls_of_whole_chunks, 'Q6'),
    (clusters_of_whole_chunks, 'Q6'),
    (float_indices, 'Q2'),
    (file_order_ties, 'Q7'),
    (least_confidence, 'Q1'),
    (undeclared, 'Q1'),
    (unknown_field, 'Q1'),
    (short_at_the_end, 'Q8'),
    (refuses_the_end, 'Q8'),
]


@pytest.mark.parametrize('defect, line', QUERY_MUTANTS)
def test_defect_of_a_strategy_is_caught(defect, line):
    with pytest.raises(AssertionError, match=f'^contract line {line}, '):
        testing.check_query(defect)


# --- seeded defects of tasks: mutations of rotation ---


def task(**methods):
    return type('Mutant', (Rotation,), methods)()


def list_of_inputs(self, pixels, index, rng):
    inputs, targets = Rotation().make_batch(pixels, index, rng)
    return list(inputs), targets


def bytes_as_inputs(self, pixels, index, rng):
    return (pixels.repeat_interleave(4, 0),), torch.arange(4).repeat(len(pixels))


def torch_noise(self, pixels, index, rng):
    (turned,), targets = Rotation().make_batch(pixels, index, rng)
    return (turned + torch.randn(turned.shape),), targets


def numpy_noise(self, pixels, index, rng):
    np.random.rand()
    return Rotation().make_batch(pixels, index, rng)


def flips_the_pool(self, pixels, index, rng):
    return Rotation().make_batch(pixels.copy_(pixels.flip(3)), index, rng)


def reduced(self, outputs, targets):
    return Rotation().per_sample_loss(outputs, targets).mean()


def half(self, outputs, targets):
    return nn.functional.cross_entropy(outputs, targets, reduction='none').view(-1, 4).mean(1)


def one_a_view(self, outputs, targets):
    return nn.functional.cross_entropy(outputs.float(), targets, reduction='none')


def wrong_grouping(self, outputs, targets):
    return (
        nn.functional.cross_entropy(outputs.float(), targets, reduction='none').view(4, -1).mean(0)
    )


def not_finite(self, outputs, targets):
    return Rotation().per_sample_loss(outputs, targets).log().neg().sqrt().log()


class DeadBranch(Pooled):
    def __init__(self, dim, out):
        super().__init__(dim, out)
        self.unused = nn.Linear(dim, out)


class BatchStatistics(Pooled):
    def forward(self, maps):
        out = super().forward(maps)
        return out - out.mean(0)


TASK_MUTANTS = [
    (task(make_batch=list_of_inputs), 'T1'),
    (task(make_batch=bytes_as_inputs), 'T1'),
    (task(per_sample_loss=reduced), 'T2'),
    (task(per_sample_loss=half), 'T2'),
    (task(per_sample_loss=one_a_view), 'T2'),
    (task(per_sample_loss=not_finite), 'T2'),
    (task(head=lambda self, dim: DeadBranch(dim, 4)), 'T3'),
    (task(make_batch=torch_noise), 'T4'),
    (task(make_batch=numpy_noise), 'T4'),
    (task(make_batch=flips_the_pool), 'T5'),
    (task(per_sample_loss=wrong_grouping), 'T6'),
    (task(head=lambda self, dim: BatchStatistics(dim, 4)), 'T6'),
]


@pytest.mark.parametrize('defect, line', TASK_MUTANTS)
def test_defect_of_a_task_is_caught(defect, line):
    with pytest.raises(AssertionError, match=f'^contract line {line}, '):
        testing.check_task(defect)


def test_a_class_is_no_task():
    with pytest.raises(Refused, match=r'give an instance of the class: check_task\(Rotation\(\)\)'):
        testing.check_task(Rotation)


def test_every_line_of_the_contract_catches_something():
    assert {line for _, line in DATA_MUTANTS + QUERY_MUTANTS + TASK_MUTANTS} == set(testing.LINES)
