"""What an experiment is: frozen specs that name it wholly, and `spec`, which fills in the defaults
and checks.

    Pretext           train a network on a pretext task over the whole pool, score every image
    Main              train the classifier in folds, so that every image gets a loss in-sample and
    out-of-fold
    Trajectory        the classifier's losses of every image while it trains
    Active            active learning with one strategy
    Representation    what the trunk of a pretext task has learnt
    Pictures          what a task that paints makes of some images
    Diagnosis         what an active-learning run picked, seen by a network that had no part in it

`experiments.get(spec)` reads or computes one.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, ClassVar

from pt4al import data
from pt4al.errors import Refused, choose
from pt4al.tasks import TASKS, family


@dataclass(frozen=True)
class Pretext:
    """Pretext training over all unlabelled images, no augmentation (as the release does), then one
    score per image.
    """

    kind: ClassVar[str] = 'pretext'
    recipe: ClassVar[int] = 1
    dataset: str
    task: str = 'rotation'
    seed: int = 0
    width: int = 16  # channels of the first stage; 64 in the paper
    epochs: int = 15  # passes over the pool; every pass shows all views of every image
    batch: int = 256  # images, each with all its views
    lr: float = 0.1
    milestones: tuple[int, ...] = (30, 60, 90)
    repeats: int = 1  # draws of the task's own randomness when scoring
    optimiser: str = 'sgd'  # or adam


@dataclass(frozen=True)
class Main:
    """Supervised training on all labels but those of one fold, for each fold in turn; crop and flip
    augmentation.
    """

    kind: ClassVar[str] = 'main'
    recipe: ClassVar[int] = 1
    dataset: str
    seed: int = 0
    width: int = 16
    folds: int = 2
    epochs: int = 30
    batch: int = 128  # images
    lr: float = 0.1
    milestones: tuple[int, ...] = (24,)


@dataclass(frozen=True)
class Trajectory:
    """A classifier's losses of every image while it trains in folds: at the epochs of `log`, and
    over all of training.

    The defaults are the reproduction's: 100 epochs at a constant rate.
    """

    kind: ClassVar[str] = 'trajectory'
    recipe: ClassVar[int] = 1
    dataset: str
    seed: int = 0
    width: int = 16
    folds: int = 2
    epochs: int = 100
    batch: int = 128
    lr: float = 0.1
    milestones: tuple[int, ...] = ()
    log: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100)
    augment: str = 'crop_flip'  # or flip, none
    pretext: Pretext | None = None  # whose trunk it starts from; None: fresh weights


@dataclass(frozen=True)
class Active:
    """`cycles` turns of query, training and test; the first `until` of them are run.

    The defaults are those of a sound evaluation; what published code did instead is in
    `pt4al.experiments.protocols`.
    """

    kind: ClassVar[str] = 'active'
    recipe: ClassVar[int] = 1
    dataset: str
    strategy: str = 'pt4al'
    seed: int = 0
    # whose losses order the pool; None if the strategy does not look at them
    pretext: Pretext | None = None
    cycles: int = 10
    until: int = 0  # 0: all
    budget: int = 1000  # labels a cycle
    width: int = 16
    epochs: int = 100  # per cycle
    batch: int = 128
    lr: float = 0.1
    milestones: tuple[int, ...] = (80,)
    start: str = 'fresh'  # or warm: from the weights that the cycle before has kept
    schedule: str = 'restart'  # or continue: milestones count the epochs of all cycles
    # split whose accuracy is taken after every epoch: test, or train (all of it)
    watch: str = ''
    # or best: epoch, by watched accuracy, whose weights report and choose next
    keep: str = 'last'
    # train images set aside: neither labelled nor queried, their accuracy is told
    held_out: int = 0
    # or bgr, as cv2 reads files; they are normalised as if they were rgb
    channels: str = 'rgb'


@dataclass(frozen=True)
class Representation:
    """What the trunk of a pretext task has learnt: probes, neighbours, invariances and fine-tuning
    (`pt4al.experiments.representation`).

    Without `pretext` it is the untrained trunk that rotation starts from or, if `supervised`, a
    classifier's trunk.
    """

    kind: ClassVar[str] = 'representation'
    recipe: ClassVar[int] = 1
    dataset: str
    seed: int = 0
    pretext: Pretext | None = None
    supervised: int = 0  # 1: trained on all labels by the recipe below
    transfer: str = ''  # the data set on which it is read; '': its own
    width: int = 16
    images: int = 10_000  # training images, at most, of the probes of single blocks
    # percent of the labels that a probe of the last block sees
    fractions: tuple[int, ...] = (1, 5, 10, 25, 100)
    # percent of the labels on which the whole network is trained on
    finetune: tuple[int, ...] = (10,)
    epochs: int = 100  # of fine-tuning, by the classifier's recipe
    batch: int = 128
    lr: float = 0.1
    milestones: tuple[int, ...] = (80,)


@dataclass(frozen=True)
class Pictures:
    """What a trained task that paints makes of the first images of every class."""

    kind: ClassVar[str] = 'pictures'
    recipe: ClassVar[int] = 1
    dataset: str
    seed: int = 0
    pretext: Pretext | None = None  # always given once built by `spec`
    width: int = 16
    images: int = 1  # of each class


@dataclass(frozen=True)
class Diagnosis:
    """What each query of an active-learning run picked, by the ruler of a network that had no part
    in choosing it.
    """

    kind: ClassVar[str] = 'diagnosis'
    recipe: ClassVar[int] = 1
    dataset: str
    seed: int = 0  # that of the run
    active: Active | None = None  # both always given once built by `spec`
    # its averaged features measure coverage; a linear classifier on them, doubt
    encoder: Pretext | None = None

    @property
    def width(self) -> int:
        """Of the network that reads the images."""
        return self.encoder.width


Spec = Pretext | Main | Trajectory | Active | Representation | Pictures | Diagnosis
PROTOCOL_FIELDS = {
    'start': ('fresh', 'warm'),
    'schedule': ('restart', 'continue'),
    'watch': ('', 'test', 'train'),
    'keep': ('last', 'best'),
    'channels': ('rgb', 'bgr'),
}
AUGMENT = ('crop_flip', 'flip', 'none')
# what a strategy can ask of a pretext network
PRETEXT_FIELDS = frozenset({'pretext_loss', 'ssl_features'})
KINDS: dict[str, type] = {
    cls.kind: cls
    for cls in (Pretext, Main, Trajectory, Active, Representation, Pictures, Diagnosis)
}
# What a data set changes in the defaults above: 4,000 images need smaller batches to be learnt in
# minutes.
DEFAULTS: dict[tuple[str, str], dict[str, Any]] = {
    ('cifar10-mini', 'pretext'): {'epochs': 8, 'batch': 64, 'milestones': (6,)},
    ('cifar10-mini', 'main'): {'epochs': 16, 'batch': 64, 'milestones': (13,)},
    ('cifar10-mini', 'trajectory'): {'batch': 64, 'epochs': 50, 'log': (1, 2, 5, 10, 20, 50)},
    ('cifar10-mini', 'active'): {
        'cycles': 5,
        'budget': 80,
        'epochs': 20,
        'batch': 32,
        'milestones': (16,),
    },
    ('cifar10-mini', 'representation'): {'epochs': 20, 'batch': 32, 'milestones': (16,)},
}
DEFAULTS['caltech101', 'active'] = {'budget': 150}  # a batch of the split holds 804 images
DEFAULTS |= {
    (small, kind): values
    for (name, kind), values in DEFAULTS.items()
    if name == 'cifar10-mini'
    for small in ('imbalanced-cifar10-mini', 'digits-sound')
}
# What a task changes in them, for all its variants: the optimiser its source names, a rate at which
# it learns.
TASK_DEFAULTS: dict[str, dict[str, Any]] = {
    'colorization_reproduced': {'optimiser': 'adam', 'lr': 0.1},
    'shuffle_and_learn': {'repeats': 4},  # a camera's path is drawn once for each
    'frame_order': {'repeats': 4},
    'audio_visual': {'optimiser': 'adam', 'lr': 0.001},
}
# ... and on a data set: one view an image needs more passes than four to see as many images.
TASK_DEFAULTS_ON: dict[tuple[str, str], dict[str, Any]] = {
    ('cifar10-mini', 'colorization'): {'epochs': 21, 'milestones': (16,)},
    ('cifar10-mini', 'colorization_reproduced'): {'epochs': 21, 'milestones': (16,)},
    ('cifar10-mini', 'jigsaw'): {'epochs': 35, 'milestones': (26,)},
    ('cifar10-mini', 'relative_position'): {'epochs': 35, 'milestones': (26,)},
    ('cifar10-mini', 'context_encoder'): {'epochs': 6, 'milestones': (4,)},
    ('cifar10-mini', 'simclr'): {'epochs': 16, 'milestones': (12,)},
    ('cifar10-mini', 'pirl'): {'epochs': 20, 'milestones': (15,)},
    ('cifar10-mini', 'multitask'): {'epochs': 32, 'milestones': (24,)},
    ('cifar10-mini', 'shuffle_and_learn'): {'epochs': 26, 'milestones': (19,)},
    ('cifar10-mini', 'frame_order'): {'epochs': 43, 'milestones': (32,)},
    ('digits-sound', 'audio_visual'): {'epochs': 40, 'milestones': (30,)},
}


def spec(kind: str, **fields: Any) -> Spec:
    """Build a spec from the data set's defaults and the given fields; fields that are None keep
    their default.

    An `Active` spec whose strategy looks at pretext losses gets a `Pretext` spec made of `task` and
    `pretext_seed`; a `Representation` spec gets one too, of its own seed unless told, but not for
    the tasks 'none' and 'supervised', and so does a `Trajectory` spec with `task`. A `Diagnosis`
    spec takes the fields of the `Active` spec that it looks at, and `encoder`, a task that strategy
    does not use, with `encoder_seed`. Raises `Refused` with the nearest valid name for an unknown
    field, data set, task or strategy, and for a wrong type.
    """
    cls = KINDS[choose('kind of experiment', kind, KINDS)]
    data.check_name(fields.get('dataset'))
    if kind == 'diagnosis':
        return _diagnosis(fields)
    given = {name: value for name, value in fields.items() if value is not None}
    known = {field.name: field for field in dataclasses.fields(cls)}
    own = (
        ('task', 'pretext_seed')
        if kind in ('trajectory', 'active', 'representation', 'pictures')
        else ()
    )
    for name in given:
        choose(f'parameter of {kind}', name, [*known, *own])
    order = {name: given.pop(name) for name in own if name in given}
    values = _defaults(kind, given) | given
    out = cls(
        **{name: _typed(name, value, str(known[name].type)) for name, value in values.items()}
    )
    if kind == 'active' and out.pretext is None:
        pretext = spec(
            'pretext',
            dataset=out.dataset,
            width=out.width,
            task=order.get('task'),
            seed=order.get('pretext_seed'),
        )
        if PRETEXT_FIELDS & query_needs(out.strategy):
            out = dataclasses.replace(out, pretext=pretext)
    if kind == 'trajectory' and 'task' in order and out.pretext is None:
        out = _with_trunk(out, order)
    if kind in ('representation', 'pictures') and out.pretext is None:
        out = _with_trunk(out, order)
    _check(out)
    return out


def _with_trunk(
    s: Trajectory | Representation | Pictures, order: dict[str, Any]
) -> Trajectory | Representation | Pictures:
    if isinstance(s, Representation) and (
        s.supervised or order.get('task') in ('none', 'supervised')
    ):
        return dataclasses.replace(s, supervised=s.supervised or int(order['task'] == 'supervised'))
    return dataclasses.replace(
        s,
        pretext=spec(
            'pretext',
            dataset=s.dataset,
            width=s.width,
            task=order.get('task'),
            seed=order.get('pretext_seed', s.seed),
        ),
    )


def _diagnosis(fields: dict[str, Any]) -> Diagnosis:
    fields = dict(fields)
    encoder = spec(
        'pretext',
        dataset=fields['dataset'],
        width=fields.get('width'),
        task=fields.pop('encoder', 'simclr'),
        seed=fields.pop('encoder_seed', None),
    )
    active = spec('active', **fields)
    if active.pretext == encoder:
        raise Refused(
            f'{encoder.task} of seed {encoder.seed} ordered the pool itself: give another encoder, or encoder_seed'
        )
    return Diagnosis(active.dataset, active.seed, active, encoder)


def _defaults(kind: str, given: dict[str, Any]) -> dict[str, Any]:
    """What the data set changes, by its name with or without its argument, and then the task."""
    dataset, name = given['dataset'], family(str(given.get('task', Pretext.task)))
    base = DEFAULTS.get((dataset, kind), DEFAULTS.get((family(dataset), kind), {}))
    return (
        base
        if kind != 'pretext'
        else base | TASK_DEFAULTS.get(name, {}) | TASK_DEFAULTS_ON.get((dataset, name), {})
    )


def query_needs(strategy: str) -> frozenset[str]:
    from pt4al.query import QUERIES

    return getattr(QUERIES[choose('strategy', strategy, QUERIES)], 'needs', frozenset())


def _typed(name: str, value: Any, annotation: str) -> Any:
    """Accept what papermill and a command line hand over, and nothing that only looks like it."""
    try:
        if annotation == 'int' and not isinstance(value, bool) and int(value) == float(value):
            return int(value)
        if annotation == 'float' and not isinstance(value, bool):
            return float(value)
        if annotation == 'str' and isinstance(value, str):
            return value
        if annotation.startswith('tuple'):
            parts = json.loads(value) if isinstance(value, str) else value
            if not isinstance(parts, list | tuple):
                raise TypeError
            return tuple(_typed(name, part, 'int') for part in parts)
        if annotation.startswith('Pretext') and isinstance(value, Pretext):
            return value
    except (TypeError, ValueError, OverflowError):
        pass
    raise Refused(f'parameter {name} is {value!r}: it must be of type {annotation}')


def _check(s: Spec) -> None:
    """Refuse values that no run can use, before any training."""
    for name in ('width', 'epochs', 'batch', 'folds', 'cycles', 'budget', 'repeats', 'images'):
        if getattr(s, name, 1) < 1:
            raise Refused(f'parameter {name} is {getattr(s, name)}: it must be at least 1')
    if getattr(s, 'seed', 0) < 0:
        raise Refused(f'parameter seed is {s.seed}: it must be at least 0')
    if getattr(s, 'epochs', 1) > 32_767:  # tables number them in 16 bits
        raise Refused(f'parameter epochs is {s.epochs}: it must be at most 32767')
    if min(getattr(s, 'milestones', ()), default=0) < 0:
        raise Refused(f'parameter milestones is {list(s.milestones)}: give epochs from 0 on')
    if not 0 < getattr(s, 'lr', 1) < float('inf'):
        raise Refused(f'parameter lr is {s.lr}: it must be a positive number')
    if isinstance(s, Pretext):
        choose('task', s.task, TASKS)
        choose('optimiser', s.optimiser, ('sgd', 'adam'))
    if isinstance(s, Trajectory):
        choose('augment', s.augment, AUGMENT)
        if not s.log or not all(1 <= epoch <= s.epochs for epoch in s.log):
            raise Refused(f'parameter log is {list(s.log)}: give epochs from 1 to {s.epochs}')
    if isinstance(s, Main | Trajectory) and s.folds < 2:
        raise Refused(f'parameter folds is {s.folds}: an out-of-fold loss needs at least 2')
    if isinstance(s, Active):
        _check_active(s)
    if isinstance(s, Representation):
        _check_representation(s)


def _check_active(s: Active) -> None:
    query_needs(s.strategy)
    if not 0 <= s.until <= s.cycles:
        raise Refused(
            f'parameter until is {s.until}: it must lie between 0 (all) and cycles = {s.cycles}'
        )
    for name, valid in PROTOCOL_FIELDS.items():
        choose(name, getattr(s, name), valid)
    if s.held_out < 0:
        raise Refused(f'parameter held_out is {s.held_out}: it must be at least 0')
    if s.keep == 'best' and not s.watch:
        raise Refused('keep=best needs an accuracy of every epoch: give watch=test or watch=train')
    if s.schedule == 'continue' and s.start == 'fresh':
        raise Refused(
            'schedule=continue goes on with a rate that fresh weights have not had: give start=warm'
        )


def _check_representation(s: Representation) -> None:
    if s.transfer:
        data.check_name(s.transfer)
    if s.supervised not in (0, 1) or s.supervised and s.pretext:
        raise Refused(
            f'parameter supervised is {s.supervised}: it must be 0, or 1 for a trunk without a pretext task'
        )
    if s.pretext and (s.pretext.width, s.pretext.dataset) != (s.width, s.dataset):
        raise Refused(
            f'the pretext task has width {s.pretext.width} on {s.pretext.dataset}, the evaluation width '
            f'{s.width} on {s.dataset}: give both the same (and name another data set with transfer)'
        )
    for name in ('fractions', 'finetune'):
        if not all(0 < percent <= 100 for percent in getattr(s, name)) or not s.fractions:
            raise Refused(
                f'parameter {name} is {list(getattr(s, name))}: give percentages of the labels, from 1 to 100'
            )


def built_on(s: Spec) -> tuple[Spec, ...]:
    """The specs whose results or networks this one reads."""
    named = (getattr(s, name, None) for name in ('pretext', 'active', 'encoder'))
    return tuple(other for other in named if other is not None)


def data_digest(s: Spec) -> str:
    """What identifies, in a result's key, all the data that its spec names."""
    return ''.join(
        data.key_digest(name) for name in (s.dataset, getattr(s, 'transfer', '')) if name
    )


def seeded(s: Spec, seed: int) -> Spec:
    """The spec under another seed; the pretext task of a trunk goes with it if it had the same one."""
    if (
        isinstance(s, Trajectory | Representation | Pictures)
        and s.pretext
        and s.pretext.seed == s.seed
    ):
        s = dataclasses.replace(s, pretext=dataclasses.replace(s.pretext, seed=seed))
    if isinstance(s, Diagnosis):
        s = dataclasses.replace(s, active=dataclasses.replace(s.active, seed=seed))
    return dataclasses.replace(s, seed=seed)
