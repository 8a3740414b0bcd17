"""The active-learning loop with a tiny linear learner on 8x8 images."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from pt4al import data
from pt4al.data import Images, views
from pt4al.errors import Refused
from pt4al.query import QUERIES, Pool, batch_split, cycle, needs, random
from pt4al.query.strategies import FROM_CLASSIFIER, highest
from pt4al.rng import device_stream, initialising, stream
from pt4al.training import classifiers
from pt4al.training.execution import Execution
from pt4al.training.fit import History, Schedule, fit, minibatches, predict
from pt4al.training.nets import Model, Pooled

torch.set_num_threads(1)  # networks this small are slower on more
# coregcn trains a graph network in every call
TRAINED = ('coregcn', 'vaal')  # these train a network in every call
SOME = [pytest.param(name, marks=[pytest.mark.slow] * (name in TRAINED)) for name in QUERIES]
BUDGETS = [6, 4, 6, 5]


def images(n: int, seed: int) -> Images:
    """Noise with a tint of the class: three classes, of unequal size."""
    rng = np.random.default_rng(seed)
    labels = np.minimum(rng.integers(5, size=n), 2)
    pixels = rng.integers(150, size=(n, 3, 8, 8))
    pixels[np.arange(n), labels] += 60
    made = data.split(pixels, labels, ('a', 'b', 'c'))
    return Images(torch.tensor(made.pixels), torch.tensor(made.labels), made.classes, made.digest)


TRAIN, TEST = images(40, 0), images(30, 1)
LOSS = torch.from_numpy(np.random.default_rng(2).lognormal(size=40))
FIELDS = {
    'pretext_loss': LOSS,
    'ssl_features': torch.from_numpy(np.random.default_rng(3).normal(size=(40, 6))),
}


class Alone(nn.Module):
    """A trunk of one stage."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [x]


HEADS = {
    classifiers.Plain: lambda: Model(nn.Identity(), Pooled(3, 3)),
    classifiers.LossPrediction: lambda: Model(Alone(), classifiers.LossHead([3], 3)),
}


class Learner:
    """Trains a linear model from scratch and remembers what it was asked."""

    def __init__(self, seed: int = 0, query=None):
        self.seed, self.calls = seed, []
        self.kind = classifiers.learner(getattr(query, 'needs', frozenset()))

    def __call__(
        self, train: Images, labelled: torch.Tensor, number: int, before: Model | None
    ) -> tuple[Model, History]:
        self.calls.append((number, labelled.tolist()))
        with initialising(self.seed, number, 'weights'):
            model = HEADS[type(self.kind)]()

        def batches(epoch: int):
            rng = device_stream(self.seed, number, 'epoch', epoch)
            for part in minibatches(labelled, 4, rng):
                extras = self.kind.extras(model, len(part), epoch / 3, rng)
                yield (views.normalise(train.pixels[part]), *extras), train.labels[part]

        return model, fit(
            model,
            batches,
            self.kind.loss,
            Schedule(3, 0.5),
            Execution('cpu', 'fp32', 1),
            len(labelled),
            'toy',
        )


def run(query, learner=None, budgets=BUDGETS, seed=0, cycles=None, held_out=None, **resumed):
    problem = cycle.Problem(TRAIN, TEST, budgets, cycles or len(budgets), seed, FIELDS, held_out)
    return list(cycle.run(problem, learner or Learner(query=query), query, **resumed))


def content(records: list[cycle.Cycle]) -> list[dict]:
    """All of the records but the time they took."""
    rows = [dataclasses.asdict(record) for record in records]
    return [
        row
        | {'picked': row['picked'].tolist(), 'per_class': row['per_class'].tolist(), 'seconds': 0}
        for row in rows
    ]


@pytest.mark.parametrize('name', SOME)
def test_resumed_equals_uninterrupted(name):
    whole = run(QUERIES[name])
    assert [record.number for record in whole] == [0, 1, 2, 3]
    for k in range(len(BUDGETS) + 1):
        learner = Learner(query=QUERIES[name])
        rest = run(QUERIES[name], learner, done=whole[:k])
        assert content(rest) == content(whole[k:])
        asks_model = bool(
            {'logits', 'features', 'predicted_loss'} & getattr(QUERIES[name], 'needs', frozenset())
        )
        again = [k - 1] if asks_model and 0 < k < len(BUDGETS) else []
        assert [number for number, _ in learner.calls] == again + list(range(k, len(BUDGETS)))


@pytest.mark.parametrize('name', SOME)
def test_budgets_are_kept_and_nothing_is_labelled_twice(name):
    learner = Learner(query=QUERIES[name])
    records = run(QUERIES[name], learner)
    assert [len(record.picked) for record in records] == BUDGETS
    picked = torch.cat([record.picked for record in records]).tolist()
    assert len(set(picked)) == sum(BUDGETS)
    assert [labelled for _, labelled in learner.calls] == [
        picked[:6],
        picked[:10],
        picked[:16],
        picked[:21],
    ]
    # 21 images in batches of four: the last one joins the batch before it
    assert [record.steps for record in records] == [3 * n for n in (2, 3, 4, 5)]


def test_another_seed_picks_others_and_the_same_seed_the_same():
    one, again, other = (content(run(QUERIES['random'], seed=seed)) for seed in (0, 0, 1))
    assert one == again and one[0]['picked'] != other[0]['picked']


def test_pt4al_takes_each_cycle_from_its_batch_of_the_whole_run():
    order = LOSS.argsort(descending=True)
    for record in run(QUERIES['pt4al'], budgets=[4, 4], cycles=5):
        assert set(record.picked.tolist()) <= set(
            order[8 * record.number : 8 * record.number + 8].tolist()
        )


def test_the_query_sees_the_model_of_the_cycle_before():
    seen, models = [], []

    @needs('logits', 'features')
    def spy(pool, budget, rng):
        seen.append((pool.cycle, pool.cycles, pool.labelled.tolist(), pool.logits, pool.features))
        return random(pool, budget, rng)

    def learner(*given):
        models.append(Learner()(*given))
        return models[-1]

    records = run(spy, learner, cycles=7)
    assert seen[0] == (0, 7, [], None, None)
    for k in (1, 2, 3):
        number, cycles, labelled, logits, features = seen[k]
        expected = predict(models[k - 1][0], TRAIN.pixels)
        assert torch.equal(logits, expected.logits) and torch.equal(features, expected.features)
        assert (number, cycles) == (k, 7) and labelled == torch.cat(
            [record.picked for record in records[:k]]
        ).tolist()


def test_the_query_sees_what_it_asked_for_and_nothing_else():
    optional = [field.name for field in dataclasses.fields(Pool) if field.default is None]
    for asked in (
        set(),
        {'pretext_loss'},
        {'ssl_features', 'classes'},
        {'oracle_labels'},
        {'logits'},
        {'features'},
        {'predicted_loss'},
    ):
        seen = []

        @needs(*asked)
        def spy(pool, budget, rng, seen=seen):
            seen.append(
                {name: getattr(pool, name) for name in optional if getattr(pool, name) is not None}
            )
            return random(pool, budget, rng)

        run(spy, budgets=[6, 4])
        assert seen[1].keys() == asked and seen[0].keys() == asked - FROM_CLASSIFIER
        assert seen[1].get('classes', 3) == 3
        for name, value in {**FIELDS, 'oracle_labels': TRAIN.labels}.items():
            assert name not in asked or torch.equal(seen[1][name], value)


def test_reading_a_field_without_naming_it_is_refused_in_a_line_that_says_what_to_write():
    def unnamed(pool, budget, rng):
        return highest(pool, pool.pretext_loss.double(), budget, rng)

    with pytest.raises(Refused, match=r"does not name .*'double'\): write .*@needs\('logits'\)"):
        run(unnamed)

    def broken(pool, budget, rng):
        return pool.unlabelled.no_such_method()

    with pytest.raises(AttributeError, match='no_such_method'):
        run(broken)


def test_a_learner_that_does_not_tell_what_is_asked_is_refused():
    with pytest.raises(Refused, match='needs predicted_loss, which its classifier does not tell'):
        run(QUERIES['learning_loss'], Learner())


def test_accuracy_is_a_count_over_the_test_set():
    models = []

    def learner(*given):
        models.append(Learner()(*given))
        return models[-1]

    for record in run(QUERIES['random'], learner):
        logits = predict(models[record.number][0], TEST.pixels).logits.tolist()
        right = [
            max(range(3), key=row.__getitem__) == label
            for row, label in zip(logits, TEST.labels.tolist())
        ]
        by_class = [
            [r for r, label in zip(right, TEST.labels.tolist()) if label == c] for c in range(3)
        ]
        assert record.accuracy == pytest.approx(sum(right) / 30)
        assert record.per_class.tolist() == pytest.approx([sum(rs) / len(rs) for rs in by_class])
        assert len({len(rs) for rs in by_class}) > 1


def test_what_was_trained_is_recorded_beside_accuracies_on_labelled_and_on_held_out_images():
    models = []

    def learner(*given):
        models.append(Learner()(*given))
        return models[-1]

    records = run(
        QUERIES['random'], learner, held_out=dataclasses.replace(TEST, labels=TEST.labels.flip(0))
    )
    for k, record in enumerate(records):
        model, history = models[k]
        labelled = torch.cat([r.picked for r in records[: k + 1]])
        right = predict(model, TRAIN.pixels).logits.argmax(1) == TRAIN.labels
        assert record.train == pytest.approx(right[labelled].float().mean().item())
        other = predict(model, TEST.pixels).logits.argmax(1) == TEST.labels.flip(0)
        assert record.held_out == pytest.approx(other.float().mean().item())
        assert record.epochs == {'loss': history.loss, 'lr': history.lr, 'steps': history.steps}
    assert all(math.isnan(record.held_out) for record in run(QUERIES['random']))


def test_a_learner_is_given_the_model_of_the_cycle_before():
    given, made = [], []

    def learner(train, labelled, number, before):
        given.append(before)
        made.append(Learner()(train, labelled, number, before))
        return made[-1]

    whole = run(QUERIES['random'], learner)
    assert given[0] is None and all(a is b[0] for a, b in zip(given[1:], made))
    last = made[1][0]
    given.clear()
    # not trained again
    assert run(QUERIES['entropy'], learner, done=whole[:2], model=last) and given[0] is last


def test_learning_helps():
    assert run(QUERIES['random'], budgets=[30])[0].accuracy > 0.8


# --- plans that cannot run ---


def never(*_):
    raise AssertionError('the learner was called')


@pytest.mark.parametrize(
    'name, budgets, cycles, message',
    [
        ('random', [], None, r'budget 0: label at least one image a cycle'),
        ('random', [5, 0, 5], None, r'budget 0: label at least one image a cycle'),
        ('random', [5, -1], None, r'budget -1: label at least one image a cycle'),
        (
            'random',
            [20, 21],
            None,
            r'budget of 41 images in 2 cycles is above the pool of 40: lower it',
        ),
        ('random', [1], 41, r'41 batches of 40 images'),
        (
            'pt4al',
            [4, 14],
            3,
            r'budget 14 is above the 13 images of a batch \(40 images in 3 batches\)',
        ),
    ],
)
def test_a_bad_plan_is_refused_before_any_training(name, budgets, cycles, message):
    with pytest.raises(Refused, match=message):
        run(QUERIES[name], never, budgets, cycles=cycles)


def test_a_lack_of_pretext_losses_is_refused_before_any_training():
    for query in (QUERIES['pt4al'], batch_split(random)):
        with pytest.raises(
            Refused, match='the strategy needs pretext_loss: score a pretext task first'
        ):
            list(cycle.run(cycle.Problem(TRAIN, TEST, BUDGETS, 4, 0), never, query))


def test_a_lack_of_features_is_refused_before_any_training():
    for name in ('typiclust', 'probcover'):
        with pytest.raises(
            Refused, match='the strategy needs ssl_features: score a pretext task first'
        ):
            problem = cycle.Problem(TRAIN, TEST, BUDGETS, 4, 0, {'pretext_loss': LOSS})
            list(cycle.run(problem, never, QUERIES[name]))


def test_a_class_without_test_images_is_refused_before_any_training():
    test = dataclasses.replace(TEST, classes=('a', 'b', 'c', 'd'))
    with pytest.raises(
        Refused, match="^no test image is of the class 'd': add one, or its accuracy is unknown$"
    ):
        list(cycle.run(cycle.Problem(TRAIN, test, BUDGETS, 4, 0), never, random))


def test_the_largest_plan_that_fits_runs():
    assert sorted(
        torch.cat([r.picked for r in run(QUERIES['pt4al'], budgets=[10] * 4)]).tolist()
    ) == list(range(40))


@pytest.mark.parametrize(
    'broken',
    [
        lambda pool, budget, rng: pool.unlabelled[:1].expand(budget),
        lambda pool, budget, rng: torch.arange(40, 40 + budget),
        lambda pool, budget, rng: pool.unlabelled[:budget] - 41,
        lambda pool, budget, rng: torch.arange(budget),
        lambda pool, budget, rng: pool.unlabelled[: budget - 1],
        lambda pool, budget, rng: pool.unlabelled[: budget + 1],
    ],
    ids=['duplicates', 'out of range', 'negative', 'labelled', 'too few', 'too many'],
)
def test_a_strategy_that_breaks_its_word_is_refused(broken):
    done = [cycle.Cycle(0, torch.arange(6), 0.5, torch.zeros(3), 1, 0.0)]
    with pytest.raises(Refused, match='must return exactly that many distinct unlabelled ones'):
        run(broken, never, done=done)


@pytest.mark.parametrize(
    'broken, seen',
    [
        (lambda pool, budget, rng: list(range(20, 20 + budget)), 'a list'),
        (lambda pool, budget, rng: None, 'a NoneType'),
        (lambda pool, budget, rng: pool.unlabelled[:budget].numpy(), 'a numpy.ndarray'),
        (
            lambda pool, budget, rng: pool.unlabelled[:budget].double(),
            'torch.float64 of shape \\[4\\]',
        ),
        (
            lambda pool, budget, rng: pool.unlabelled[:budget, None],
            'torch.int64 of shape \\[4, 1\\]',
        ),
    ],
    ids=['list', 'none', 'numpy', 'float', 'column'],
)
def test_what_is_no_row_of_indices_is_refused(broken, seen):
    done = [cycle.Cycle(0, torch.arange(6), 0.5, torch.zeros(3), 1, 0.0)]
    with pytest.raises(Refused, match=f'returned {seen}.*: it must return a torch tensor'):
        run(broken, never, done=done)


def test_unlabelled_is_the_rest_in_order():
    assert cycle.unlabelled(torch.tensor([4, 0]), 6).tolist() == [1, 2, 3, 5]
    assert cycle.unlabelled(torch.empty(0, dtype=torch.int64), 3).tolist() == [0, 1, 2]


def test_query_draws_come_from_the_stream_of_the_cycle():
    labelled = torch.empty(0, dtype=torch.int64)
    for record in run(QUERIES['random'], seed=9):
        free = cycle.unlabelled(labelled, 40)
        place = stream(9, 'cycle', record.number, 'query').permutation(len(free))[
            : BUDGETS[record.number]
        ]
        assert record.picked.tolist() == free[place].tolist()
        labelled = torch.cat([labelled, record.picked])


def test_classes_without_a_label_are_named(caplog):
    def of_class(name: int):
        def query(pool: Pool, budget: int, rng: np.random.Generator) -> torch.Tensor:
            own = pool.unlabelled[
                TRAIN.labels[pool.unlabelled] == (name if pool.cycle == 0 else 2 - name)
            ]
            return own[:budget]

        return query

    run(of_class(0), budgets=[4, 4])
    assert [r.getMessage() for r in caplog.records] == [
        "cycle 1: no label is of these classes, which the classifier cannot know: 'b', 'c'",
        "cycle 2: no label is of these classes, which the classifier cannot know: 'b'",
    ]


def test_a_strategy_that_cuts_no_batches_may_pick_more_than_one_holds():
    loss = needs('pretext_loss')(lambda pool, budget, rng: pool.unlabelled[:budget])
    cycle.check(40, loss, [14, 14], 3, {'pretext_loss'})
    with pytest.raises(Refused, match="unknown field of a pool 'logit': did you mean 'logits'"):
        cycle.check(40, needs('logit')(loss.pick), [14], 3, set())
