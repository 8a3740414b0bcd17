"""Specs: frozen descriptions of an experiment, a class a kind, and `spec`, which builds one.

`experiments.get(spec)` reads or computes its result.
"""

from __future__ import annotations

import dataclasses
import json
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

from pt4al import data
from pt4al.data import noise
from pt4al.errors import Refused, choose
from pt4al.query import QUERIES, SEGMENTATION
from pt4al.tasks import TASKS, family


@dataclass(frozen=True)
class Training:
    """How a network is trained; the defaults are those of a kind."""

    kind: ClassVar[str]
    recipe: ClassVar[int] = 1
    dataset: str
    seed: int = 0
    width: int = 16  # channels of the first stage; 64 in the paper
    epochs: int = 30
    batch: int = 128  # images
    lr: float = 0.1
    milestones: tuple[int, ...] = ()  # epochs after which the rate is a tenth


@dataclass(frozen=True)
class Pretext(Training):
    """Pretext training on all images, not augmented (as in the release), then a score per image."""

    kind: ClassVar[str] = 'pretext'
    task: str = 'rotation'
    epochs: int = 15  # passes over the pool; every pass shows all views of every image
    batch: int = 256  # images, each with all its views
    milestones: tuple[int, ...] = (30, 60, 90)
    repeats: int = 1  # draws of the task's own randomness when scoring
    optimiser: str = 'sgd'  # or adam
    minibatches: str = 'full'  # or even, whose sizes differ by one at most (`fit.minibatches`)


@dataclass(frozen=True)
class Main(Training):
    """Supervised training on all folds but one, each in turn, augmented by crops and flips."""

    kind: ClassVar[str] = 'main'
    folds: int = 2
    milestones: tuple[int, ...] = (24,)
    minibatches: str = 'full'  # as of `Pretext`
    noise: str = ''  # wrong labels (`data.noise`): symmetric:20, pairs:20 or human:worse


@dataclass(frozen=True)
class Trajectory(Training):
    """A classifier's loss on every image while it trains in folds, at the epochs of `log` and over
    all of training; the defaults are the reproduction's.
    """

    kind: ClassVar[str] = 'trajectory'
    folds: int = 2
    epochs: int = 100
    log: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100)
    augment: str = 'crop_flip'  # or flip, none
    pretext: Pretext | None = None  # whose trunk it starts from; None: fresh weights
    minibatches: str = 'full'  # as of `Pretext`


@dataclass(frozen=True)
class Active(Training):
    """`cycles` turns of query, training and test, of which the first `until` are run; a longer run
    goes on from them. For what published code did see `pt4al.experiments.protocols`.
    """

    kind: ClassVar[str] = 'active'
    strategy: str = 'pt4al'
    # whose losses order the pool; None if the strategy does not look at them
    pretext: Pretext | None = None
    cycles: int = 10
    until: int = 0  # stop after this many cycles; 0 runs all
    budget: int = 1000  # labels a cycle
    epochs: int = 100  # per cycle
    milestones: tuple[int, ...] = (80,)
    start: str = 'fresh'  # or warm: from the weights of the cycle before
    schedule: str = 'restart'  # or continue: milestones count the epochs of all cycles
    watch: str = ''  # split whose accuracy is taken after every epoch: test, or train (all of it)
    keep: str = 'last'  # or best: the epoch, by watched accuracy, that reports and chooses next
    held_out: int = 0  # training images set aside: never labelled, their accuracy is reported
    channels: str = 'rgb'  # or bgr, as cv2 reads files; normalised as if it were rgb
    minibatches: str = 'full'  # as of `Pretext`


@dataclass(frozen=True)
class Representation(Training):
    """What the trunk of a pretext task has learnt (`pt4al.experiments.representation`); without
    `pretext` an untrained one, as rotation starts from, or, if `supervised`, that of a classifier.
    """

    kind: ClassVar[str] = 'representation'
    pretext: Pretext | None = None
    supervised: int = 0  # 1: trained on all labels by the recipe below
    transfer: str = ''  # the data set on which it is evaluated; '': `dataset`
    images: int = 10_000  # training images, at most, of the probes of single blocks
    fractions: tuple[int, ...] = (1, 5, 10, 25, 100)  # % of labels, for probes of the last block
    finetune: tuple[int, ...] = (10,)  # % of labels, for the fine-tuning of all layers
    epochs: int = 100  # of fine-tuning, by the classifier's recipe
    milestones: tuple[int, ...] = (80,)
    minibatches: str = 'full'  # as of `Pretext`
    # grids whose tiles are looked for among those of other images, instead of all the above
    patches: tuple[int, ...] = ()


@dataclass(frozen=True)
class Pictures:
    """Pictures that a trained task paints of the first images of every class."""

    kind: ClassVar[str] = 'pictures'
    recipe: ClassVar[int] = 1
    dataset: str
    seed: int = 0
    pretext: Pretext = None  # type: ignore[assignment]  # `spec` always sets it
    width: int = 16
    images: int = 1  # of each class


@dataclass(frozen=True)
class Diagnosis:
    """The picks of every query of an active-learning run, measured with an independent network."""

    kind: ClassVar[str] = 'diagnosis'
    recipe: ClassVar[int] = 1
    dataset: str
    seed: int = 0  # that of the run
    active: Active = None  # type: ignore[assignment]  # `spec` always sets both
    # its averaged features measure coverage; a linear classifier on them, uncertainty
    encoder: Pretext = None  # type: ignore[assignment]

    @property
    def width(self) -> int:
        """Width of the independent network."""
        return self.encoder.width


@dataclass(frozen=True)
class Segmentation(Training):
    """Active learning of segmentation: budgets in frames, a U-Net trained anew in each cycle."""

    kind: ClassVar[str] = 'segmentation'
    strategy: str = 'pt4al'  # one of `query.SEGMENTATION`
    # whose losses order the frames; `spec` always sets it
    pretext: Pretext = None  # type: ignore[assignment]
    # backbone of every cycle: fresh, of the pretext task, or of a classifier of CIFAR-10-mini
    start: str = 'fresh'
    frozen: int = 0  # 1: the backbone stays as it is
    cycles: int = 4
    budget: int = 20  # frames a cycle
    epochs: int = 30  # per cycle
    batch: int = 8
    lr: float = 0.05
    milestones: tuple[int, ...] = (24,)


@dataclass(frozen=True)
class Detection(Training):
    """Faster R-CNN on the trunk of a pretext task, or on an untrained one: AP50."""

    kind: ClassVar[str] = 'detection'
    pretext: Pretext | None = None  # None: fresh weights
    frozen: int = 0  # 1: the trunk stays as it is
    epochs: int = 6
    batch: int = 4
    lr: float = 0.001
    milestones: tuple[int, ...] = (5,)
    optimiser: str = 'adam'  # or sgd


Spec = Training | Pictures | Diagnosis
PROTOCOL_FIELDS = {
    'start': ('fresh', 'warm'),
    'schedule': ('restart', 'continue'),
    'watch': ('', 'test', 'train'),
    'keep': ('last', 'best'),
    'channels': ('rgb', 'bgr'),
}
# valid values of the fields that are names
CHOICES: dict[str, Iterable[str]] = PROTOCOL_FIELDS | {
    'strategy': QUERIES,
    'task': TASKS,
    'optimiser': ('sgd', 'adam'),
    'minibatches': ('full', 'even'),
    'augment': ('crop_flip', 'flip', 'none'),
}
COUNTS = ('width', 'epochs', 'batch', 'folds', 'cycles', 'budget', 'repeats', 'images')
LEAST = dict.fromkeys(COUNTS, 1) | {'seed': 0, 'held_out': 0}
# fields of a `Pool` that a pretext network provides
PRETEXT_FIELDS = frozenset({'pretext_loss', 'ssl_features'})
CLASSES: tuple[type[Any], ...] = (*Training.__subclasses__(), Pictures, Diagnosis)
KINDS: dict[str, Any] = {cls.kind: cls for cls in CLASSES}
# defaults by data set and kind
DEFAULTS: dict[tuple[str, str], dict[str, Any]] = {
    (name, kind): values
    for name, about in data.ABOUT.items()
    for kind, values in about.get('defaults', {}).items()
}
# defaults by task, for all its variants: the optimiser of its source, a rate at which it learns
TASK_DEFAULTS: dict[str, dict[str, Any]] = {
    'colorization_reproduced': {'optimiser': 'adam', 'lr': 0.1},
    'shuffle_and_learn': {'repeats': 4},  # a camera's path is drawn once for each
    'frame_order': {'repeats': 4},
    'audio_visual': {'optimiser': 'adam', 'lr': 0.001},
}


def spec(kind: str, **fields: Any) -> Spec:
    """Build a spec from the defaults of its data set and from `fields`; None keeps a default.

    `task` and `pretext_seed` make the nested `Pretext` spec. Which kinds have one:

    - active: if its strategy uses one; seed 0 by default
    - trajectory: if a task is given; by default of the spec's seed, as for the next
    - representation, detection: unless the task is 'none' (or, of the first, 'supervised')

    A diagnosis takes the fields of its `Active` spec, and `encoder`, a task that the strategy does
    not use, with `encoder_seed`. `Refused` names what is unknown, of another type or out of bounds.
    """
    cls = KINDS[choose('kind of experiment', kind, KINDS)]
    changes = {name: value for name, value in fields.items() if value is not None}
    types = {field.name: str(field.type) for field in dataclasses.fields(cls)}
    nested = ('task', 'pretext_seed') if 'pretext' in types else ()
    for name in changes if kind != 'diagnosis' else ():
        choose(f'parameter of {kind}', name, [*types, *nested])
    if 'dataset' not in changes:
        raise Refused('name a data set, for example dataset=cifar10-mini')
    data.check_name(fields['dataset'])
    if kind == 'diagnosis':
        return _diagnosis(fields)
    task = pretext_seed = None
    if nested:
        task, pretext_seed = changes.pop('task', None), changes.pop('pretext_seed', None)
    if 'pretext' in changes and (task is not None or pretext_seed is not None):
        raise Refused('give pretext, or task and pretext_seed: not both')
    values = _defaults(kind, changes) | changes
    if kind == 'trajectory' and 'log' not in changes:
        last = _typed('epochs', values.get('epochs', Trajectory.epochs), 'int')
        values['log'] = [epoch for epoch in values.get('log', Trajectory.log) if epoch <= last]
    out = cls(**{name: _typed(name, value, types[name]) for name, value in values.items()})
    if nested and out.pretext is None:
        out = _with_pretext(out, task, pretext_seed)
    if isinstance(out, Active) and not PRETEXT_FIELDS & query_needs(out.strategy):
        out = dataclasses.replace(out, pretext=None)  # a network that it does not use
    _check(out)
    return out


def _with_pretext(s: Any, task: str | None, seed: Any) -> Any:
    """The spec with this pretext task, if it uses one."""
    without = {'representation': ('none', 'supervised'), 'detection': ('none',)}
    if isinstance(s, Representation) and (task == 'supervised' or s.supervised and task is None):
        return dataclasses.replace(s, supervised=s.supervised or 1)
    if task in without.get(s.kind, ()) or isinstance(s, Trajectory) and task is None:
        return s
    if seed is None and not isinstance(s, Active):
        seed = s.seed
    pretext = spec('pretext', dataset=s.dataset, width=s.width, task=task, seed=seed)
    return dataclasses.replace(s, pretext=pretext)


def _diagnosis(fields: dict[str, Any]) -> Diagnosis:
    named = {'task': fields.get('encoder') or 'simclr', 'seed': fields.get('encoder_seed')}
    shared = {name: fields.get(name) for name in ('dataset', 'width')}
    encoder: Any = spec('pretext', **shared, **named)
    others = ('encoder', 'encoder_seed')
    active: Any = spec('active', **{n: value for n, value in fields.items() if n not in others})
    if active.pretext == encoder:
        which = f'{encoder.task} of seed {encoder.seed}'
        raise Refused(f'{which} ordered the pool itself: give another encoder, or encoder_seed')
    return Diagnosis(active.dataset, active.seed, active, encoder)


def _defaults(kind: str, fields: dict[str, Any]) -> dict[str, Any]:
    """The defaults of the data set, by its name with or without its argument, and of the task."""
    dataset, name = fields['dataset'], family(str(fields.get('task', Pretext.task)))
    base = DEFAULTS.get((dataset, kind), DEFAULTS.get((family(dataset), kind), {}))
    if kind != 'pretext':
        return base
    here = data.ABOUT.get(dataset, {}).get('tasks', {})
    return base | TASK_DEFAULTS.get(name, {}) | here.get(name, {})


def query_needs(strategy: str) -> frozenset[str]:
    """The optional fields of a `Pool` that a strategy reads."""
    return QUERIES[choose('strategy', strategy, QUERIES)].needs


def _typed(name: str, value: Any, annotation: str) -> Any:
    """Convert a value from a notebook's parameters or a command line to the type of its field."""
    try:
        if annotation == 'int' and not isinstance(value, bool):
            number = int(value)
            if number == float(value):
                return number
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
    wanted = f'of type {annotation}'
    if annotation.startswith('tuple'):
        wanted = "whole numbers in brackets, '[30, 60]'"
    raise Refused(f'parameter {name} is {reprlib.repr(value)}: it must be {wanted}')


def _check(s: Spec) -> None:
    """Refuse values that no run can use, before any training."""
    choices = CHOICES
    if isinstance(s, Segmentation):
        starts = ('fresh', 'pretext', 'supervised')
        choices = CHOICES | {'start': starts, 'strategy': SEGMENTATION}
    for name, valid in choices.items():
        if hasattr(s, name):
            choose(name, getattr(s, name), valid)
    for fit, name, cure in _limits(s):
        if not fit:
            value = getattr(s, name)
            value = list(value) if isinstance(value, tuple) else value
            raise Refused(f'parameter {name} is {value}: {cure}')
    if isinstance(s, Main):
        noise.check(s.noise, s.dataset)
    if isinstance(s, Representation) and s.transfer:
        data.check_name(s.transfer)
    pretext: Any = getattr(s, 'pretext', None)
    if pretext and pretext.dataset != s.dataset:
        cure = 'give one of it'
        if isinstance(s, Representation):
            cure += ' (and name another data set with transfer)'
        raise Refused(f'pretext is of {pretext.dataset}, not of {s.dataset}: {cure}')
    if pretext and pretext.width != s.width and not isinstance(s, Active):  # it gives an order only
        raise Refused(f'pretext has width {pretext.width}, not {s.width}: give both the same')


def _limits(s: Spec) -> Iterator[tuple[bool, str, str]]:
    """Of each field that has limits: whether its value lies within, its name, and the cure."""
    for name, least in LEAST.items():
        yield getattr(s, name, least) >= least, name, f'it must be at least {least}'
    # tables number epochs in 16 bits
    yield getattr(s, 'epochs', 1) <= 32_767, 'epochs', 'it must be at most 32767'
    yield min(getattr(s, 'milestones', ()), default=0) >= 0, 'milestones', 'give epochs from 0 on'
    yield 0 < getattr(s, 'lr', 1) < float('inf'), 'lr', 'it must be a positive number'
    if isinstance(s, Trajectory):
        fit = bool(s.log) and all(1 <= epoch <= s.epochs for epoch in s.log)
        yield fit, 'log', f'give epochs from 1 to {s.epochs}'
    if isinstance(s, Main | Trajectory):
        yield s.folds >= 2, 'folds', 'an out-of-fold loss needs at least 2'
    if isinstance(s, Active):
        cure = f'it must lie between 0 (all) and cycles = {s.cycles}'
        yield 0 <= s.until <= s.cycles, 'until', cure
        cure = 'to know the accuracy of every epoch give watch=test or watch=train'
        yield s.keep != 'best' or s.watch != '', 'keep', cure
        fit = s.schedule != 'continue' or s.start != 'fresh'
        yield fit, 'schedule', 'for weights that go on, too, give start=warm'
    if isinstance(s, Detection | Segmentation):
        yield s.frozen in (0, 1), 'frozen', 'it must be 0, or 1 for a backbone that stays as it is'
    if isinstance(s, Representation):
        fit = s.supervised == 0 or s.supervised == 1 and not s.pretext
        yield fit, 'supervised', 'it must be 0, or 1 for a trunk without a pretext task'
        yield all(1 <= n <= 8 for n in s.patches), 'patches', 'give grids of 1 to 8 tiles a side'
        for name in ('fractions', 'finetune'):
            fit = bool(s.fractions) and all(0 < percent <= 100 for percent in getattr(s, name))
            yield fit, name, 'give percentages of the labels, from 1 to 100'


def restored(kind: str, fields: Mapping[str, Any]) -> Any:
    """The spec of a kind from its fields as JSON holds them; of another kind, its fields by name.
    `Refused` where this code knows other fields.
    """
    nested = {'pretext': 'pretext', 'encoder': 'pretext', 'active': 'active'}

    def value(name: str, stored: Any) -> Any:
        if isinstance(stored, dict) and name in nested:
            return restored(nested[name], stored)
        return tuple(stored) if isinstance(stored, list) else stored

    try:
        values = {name: value(name, stored) for name, stored in fields.items()}
        return KINDS.get(kind, SimpleNamespace)(**values)
    except TypeError as error:
        raise Refused(f'a {kind} result of other code than this: {error}') from None


def built_on(s: Spec) -> tuple[Spec, ...]:
    """The specs whose results or networks this one uses."""
    named = (getattr(s, name, None) for name in ('pretext', 'active', 'encoder'))
    return tuple(other for other in named if other is not None)


def in_words(s: Any) -> str:
    """A spec in one line: 'active cifar10 seed 0, pt4al, pretext (seed 0, rotation), until 6',
    with every setting that is not the default of its kind, data set and task.
    """
    return f'{s.kind} {s.dataset} {_settings(s)}'


def _settings(s: Any) -> str:
    task = getattr(s, 'task', getattr(getattr(s, 'pretext', None), 'task', ''))
    what = getattr(getattr(s, 'active', s), 'strategy', task)
    defaults = _defaults(s.kind, {'dataset': s.dataset, 'task': task})
    words = [f'seed {s.seed}', what]
    for field in dataclasses.fields(s):
        value = getattr(s, field.name)
        if dataclasses.is_dataclass(value):
            words.append(f'{field.name} ({_settings(value)})')
        elif field.name not in ('dataset', 'seed', 'strategy', 'task'):
            usual = defaults.get(field.name, field.default)
            if value != (tuple(usual) if isinstance(usual, list) else usual):
                words.append(f'{field.name} {value!r}')
    return ', '.join(filter(None, words))


def data_digest(s: Spec) -> str:
    """The digest, part of a result's key, of all data that its spec names."""
    return ''.join(
        data.key_digest(name) for name in (s.dataset, getattr(s, 'transfer', '')) if name
    )


def seeded(s: Spec, seed: int) -> Spec:
    """The spec with another seed, also for the pretext task of a trunk if it had the same seed."""
    trunk = None if isinstance(s, Active) else getattr(s, 'pretext', None)
    if trunk and trunk.seed == s.seed:
        s = dataclasses.replace(s, pretext=dataclasses.replace(trunk, seed=seed))
    if isinstance(s, Diagnosis):
        s = dataclasses.replace(s, active=dataclasses.replace(s.active, seed=seed))
    return dataclasses.replace(s, seed=seed)
