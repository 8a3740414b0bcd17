"""The experiments of the study, each a spec that names it wholly and a function that computes it into the store.

    Pretext   train a network on a pretext task over the whole pool, score every image
    Main      train the classifier in folds, so that every image gets a loss in-sample and out-of-fold
    Active    active learning with one strategy
    Representation    what the trunk of a pretext task has learnt

`spec(kind, dataset=..., ...)` fills in the data set's defaults and checks names and types; `get(spec)` reads or computes.
"""
from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from . import data, store
from .errors import Refused, choose
from .tasks import TASKS, family

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .cycle import Cycle
    from .execution import Execution
    from .fit import History, Schedule
    from .nets import Model
    from .tasks.base import Task


@dataclass(frozen=True)
class Pretext:
    """Pretext training over all unlabelled images, no augmentation (as the release does), then one score per image."""

    kind: ClassVar[str] = 'pretext'
    recipe: ClassVar[int] = 1
    dataset: str
    task: str = 'rotation'
    seed: int = 0
    width: int = 16              # channels of the first stage; 64 in the paper
    epochs: int = 15             # passes over the pool; every pass shows all views of every image
    batch: int = 256             # images, each with all its views
    lr: float = 0.1
    milestones: tuple[int, ...] = (30, 60, 90)
    repeats: int = 1             # draws of the task's own randomness when scoring
    optimiser: str = 'sgd'       # or adam


@dataclass(frozen=True)
class Main:
    """Supervised training on all labels but those of one fold, for each fold in turn; crop and flip augmentation."""

    kind: ClassVar[str] = 'main'
    recipe: ClassVar[int] = 1
    dataset: str
    seed: int = 0
    width: int = 16
    folds: int = 2
    epochs: int = 30
    batch: int = 128             # images
    lr: float = 0.1
    milestones: tuple[int, ...] = (24,)


@dataclass(frozen=True)
class Active:
    """`cycles` turns of query, training from scratch and test; the first `until` of them are run."""

    kind: ClassVar[str] = 'active'
    recipe: ClassVar[int] = 1
    dataset: str
    strategy: str = 'pt4al'
    seed: int = 0
    pretext: Pretext | None = None       # whose losses order the pool; None if the strategy does not look at them
    cycles: int = 10
    until: int = 0                       # 0: all
    budget: int = 1000                   # labels a cycle
    width: int = 16
    epochs: int = 100                    # per cycle
    batch: int = 128
    lr: float = 0.1
    milestones: tuple[int, ...] = (80,)


@dataclass(frozen=True)
class Representation:
    """What the trunk of a pretext task has learnt: probes, neighbours, invariances and fine-tuning (`pt4al.represent`).

    Without `pretext` it is the untrained trunk that rotation starts from or, if `supervised`, a classifier's trunk.
    """

    kind: ClassVar[str] = 'representation'
    recipe: ClassVar[int] = 1
    dataset: str
    seed: int = 0
    pretext: Pretext | None = None
    supervised: int = 0                  # 1: trained on all labels by the recipe below
    transfer: str = ''                   # the data set on which it is read; '': its own
    width: int = 16
    images: int = 10_000                 # training images, at most, of the probes of single blocks
    fractions: tuple[int, ...] = (1, 5, 10, 25, 100)     # percent of the labels that a probe of the last block sees
    finetune: tuple[int, ...] = (10,)    # percent of the labels on which the whole network is trained on
    epochs: int = 100                    # of fine-tuning, by the classifier's recipe
    batch: int = 128
    lr: float = 0.1
    milestones: tuple[int, ...] = (80,)


KINDS: dict[str, type] = {cls.kind: cls for cls in (Pretext, Main, Active, Representation)}
# What a data set changes in the defaults above: 4,000 images need smaller batches to be learnt in minutes.
DEFAULTS: dict[tuple[str, str], dict[str, Any]] = {
    ('cifar10-mini', 'pretext'): {'epochs': 8, 'batch': 64, 'milestones': (6,)},
    ('cifar10-mini', 'main'): {'epochs': 16, 'batch': 64, 'milestones': (13,)},
    ('cifar10-mini', 'active'): {'cycles': 5, 'budget': 80, 'epochs': 20, 'batch': 32, 'milestones': (16,)},
    ('cifar10-mini', 'representation'): {'epochs': 20, 'batch': 32, 'milestones': (16,)},
}
DEFAULTS |= {('imbalanced-cifar10-mini', kind): values for (_, kind), values in DEFAULTS.items()}
DEFAULTS |= {('digits-sound', kind): values for (name, kind), values in DEFAULTS.items() if name == 'cifar10-mini'}
# What a task changes in them, for all its variants: the optimiser its source names, a rate at which it learns.
TASK_DEFAULTS: dict[str, dict[str, Any]] = {
    'colorization_reproduced': {'optimiser': 'adam', 'lr': 0.1},
    'shuffle_and_learn': {'repeats': 4},         # a camera's path is drawn once for each
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


def spec(kind: str, **fields: Any) -> Pretext | Main | Active | Representation:
    """Build a spec from the data set's defaults and the given fields; fields that are None keep their default.

    An `Active` spec whose strategy looks at pretext losses gets a `Pretext` spec made of `task` and `pretext_seed`; a
    `Representation` spec gets one too, of its own seed unless told, but not for the tasks 'none' and 'supervised'.
    Raises `Refused` with the nearest valid name for an unknown field, data set, task or strategy, and for a wrong type.
    """
    cls = KINDS[choose('kind of experiment', kind, KINDS)]
    data.check_name(fields.get('dataset'))
    given = {name: value for name, value in fields.items() if value is not None}
    known = {field.name: field for field in dataclasses.fields(cls)}
    own = ('task', 'pretext_seed') if kind in ('active', 'representation') else ()
    for name in given:
        choose(f'parameter of {kind}', name, [*known, *own])
    order = {name: given.pop(name) for name in own if name in given}
    values = DEFAULTS.get((given['dataset'], kind), {}) | _task_defaults(kind, given) | given
    out = cls(**{name: _typed(name, value, str(known[name].type)) for name, value in values.items()})
    if kind == 'active' and out.pretext is None:
        pretext = spec('pretext', dataset=out.dataset, width=out.width, task=order.get('task'),
                       seed=order.get('pretext_seed'))
        if PRETEXT_FIELDS & _query_needs(out.strategy):
            out = dataclasses.replace(out, pretext=pretext)
    if kind == 'representation' and out.pretext is None:
        out = _with_trunk(out, order)
    _check(out)
    return out


def _with_trunk(s: Representation, order: dict[str, Any]) -> Representation:
    if s.supervised or order.get('task') in ('none', 'supervised'):
        return dataclasses.replace(s, supervised=s.supervised or int(order['task'] == 'supervised'))
    return dataclasses.replace(s, pretext=spec('pretext', dataset=s.dataset, width=s.width, task=order.get('task'),
                                               seed=order.get('pretext_seed', s.seed)))


def _task_defaults(kind: str, given: dict[str, Any]) -> dict[str, Any]:
    if kind != 'pretext':
        return {}
    name = family(str(given.get('task', Pretext.task)))
    return TASK_DEFAULTS.get(name, {}) | TASK_DEFAULTS_ON.get((given['dataset'], name), {})


def _query_needs(strategy: str) -> frozenset[str]:
    from .query import QUERIES
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
            return tuple(_typed(name, part, 'int') for part in parts)
        if annotation.startswith('Pretext') and isinstance(value, Pretext):
            return value
    except (TypeError, ValueError, OverflowError):
        pass
    raise Refused(f'parameter {name} is {value!r}: it must be of type {annotation}')


def _check(s: Pretext | Main | Active | Representation) -> None:
    """Refuse values that no run can use, before any training."""
    for name in ('width', 'epochs', 'batch', 'folds', 'cycles', 'budget', 'repeats', 'images'):
        if getattr(s, name, 1) < 1:
            raise Refused(f'parameter {name} is {getattr(s, name)}: it must be at least 1')
    if not 0 < s.lr < float('inf'):
        raise Refused(f'parameter lr is {s.lr}: it must be a positive number')
    if isinstance(s, Pretext):
        choose('task', s.task, TASKS)
        choose('optimiser', s.optimiser, ('sgd', 'adam'))
    if isinstance(s, Main) and s.folds < 2:
        raise Refused(f'parameter folds is {s.folds}: an out-of-fold loss needs at least 2')
    if isinstance(s, Active):
        _query_needs(s.strategy)
        if not 0 <= s.until <= s.cycles:
            raise Refused(f'parameter until is {s.until}: it must lie between 0 (all) and cycles = {s.cycles}')
    if isinstance(s, Representation):
        _check_representation(s)


def _check_representation(s: Representation) -> None:
    if s.transfer:
        data.check_name(s.transfer)
    if s.supervised not in (0, 1) or s.supervised and s.pretext:
        raise Refused(f'parameter supervised is {s.supervised}: it must be 0, or 1 for a trunk without a pretext task')
    if s.pretext and (s.pretext.width, s.pretext.dataset) != (s.width, s.dataset):
        raise Refused(f'the pretext task has width {s.pretext.width} on {s.pretext.dataset}, the evaluation width '
                      f'{s.width} on {s.dataset}: give both the same (and name another data set with transfer)')
    for name in ('fractions', 'finetune'):
        if not all(0 < percent <= 100 for percent in getattr(s, name)) or not s.fractions:
            raise Refused(f'parameter {name} is {list(getattr(s, name))}: give percentages of the labels, from 1 to 100')


def data_digest(s: Pretext | Main | Active | Representation) -> str:
    """What identifies, in a result's key, all the data that its spec names."""
    return ''.join(data.key_digest(name) for name in (s.dataset, getattr(s, 'transfer', '')) if name)


def get(s: Pretext | Main | Active | Representation, policy: str | None = None) -> store.Result:
    """Read the result of a spec from the store, or compute it; policy 'never' makes a lack an error.

    The default policy is $PT4AL_COMPUTE, else 'missing'; the book is built with 'never'.
    """
    policy = choose('policy', policy or os.environ.get('PT4AL_COMPUTE', 'missing'), ('missing', 'never'))
    compute = {'pretext': _pretext, 'main': _main, 'active': _active, 'representation': _representation}[s.kind]
    return store.result(s, data_digest(s), compute, policy)


def runs(kind: str, **fields: Any) -> list[store.Result]:
    """The stored results of one spec under every seed, in order of seed."""
    base = spec(kind, **fields)
    digest = data_digest(base)
    return [r for r in store.find(kind, dataset=base.dataset) if r.key == store.key(_seeded(base, r.spec['seed']), digest)]


def _seeded(s: Pretext | Main | Active | Representation, seed: int) -> Pretext | Main | Active | Representation:
    """The spec under another seed; the pretext task of a representation goes with it if it had the same one."""
    if isinstance(s, Representation) and s.pretext and s.pretext.seed == s.seed:
        s = dataclasses.replace(s, pretext=dataclasses.replace(s.pretext, seed=seed))
    return dataclasses.replace(s, seed=seed)


def _prepare(s: Pretext | Main | Active | Representation) -> tuple[Execution, data.Images, data.Images]:
    from .execution import execution
    chosen = execution()
    train, test = data.load(s.dataset, chosen.device)
    data.check_trainable(train, s.dataset)
    return chosen, train, test


def _labels(images: data.Images) -> np.ndarray:
    """Labels [N], kept with every result so that it can be read where the images are not at hand."""
    return images.labels.cpu().numpy().astype('int16')


def _label(s: Pretext | Main | Active | Representation, *words: str) -> str:
    return ' '.join([s.dataset, *words, f'seed {s.seed}'])


def _schedule(s: Pretext | Main | Active | Representation) -> Schedule:
    from .fit import Schedule
    return Schedule(s.epochs, s.lr, s.milestones, optimiser=getattr(s, 'optimiser', 'sgd'))


def _epochs_table(histories: list[History]) -> dict[str, np.ndarray]:
    rows = [(run, epoch, h.loss[epoch], h.lr[epoch], h.steps[epoch])
            for run, h in enumerate(histories) for epoch in range(len(h.loss))]
    run, epoch, loss, lr, steps = zip(*rows)
    return {'run': np.array(run, 'int16'), 'epoch': np.array(epoch, 'int16') + 1, 'loss': np.array(loss, 'float32'),
            'lr': np.array(lr, 'float32'), 'steps': np.array(steps, 'int32')}


def _untrained(s: Pretext, chosen: Execution, train: data.Images) -> tuple[Task, Model]:
    import torch

    from . import nets
    from .rng import device_stream, initialising
    task = TASKS[s.task]()
    with initialising(s.seed, 'pretext', s.task, 'weights'):
        model = nets.Model(nets.resnet18(s.width), task.head(8 * s.width))
    model = model.to(chosen.device, memory_format=torch.channels_last)
    task.start(model, train.pixels, device_stream(s.seed, 'pretext', s.task, 'start', device=chosen.device))
    return task, model


def _pretext(s: Pretext, scratch: Path) -> store.Computed:
    import torch

    from .execution import machine
    from .fit import fit, minibatches
    from .rng import device_stream
    from .score import pretext_losses
    chosen, train, _ = _prepare(s)
    task, model = _untrained(s, chosen, train)
    everything = torch.arange(len(train.labels), device=chosen.device)

    def batches(epoch: int):
        rng = device_stream(s.seed, 'pretext', s.task, 'epoch', epoch, device=chosen.device)
        for index in minibatches(everything, s.batch, rng):
            yield task.make_batch(train.pixels[index], index, rng)

    history = fit(model, batches, task.per_sample_loss, _schedule(s), chosen, len(everything),
                  _label(s, s.task), scratch / 'fit.pt')
    table = pretext_losses(model, task, train.pixels,
                           lambda r: device_stream(s.seed, 'pretext', s.task, 'score', r, device=chosen.device), s.repeats)
    columns = {name: rows.mean(0).cpu().numpy() for name, rows in table.items()}
    if s.repeats > 1:
        columns |= {f'loss_{r}': row.cpu().numpy() for r, row in enumerate(table['loss'])}
    _keep_weights(s, model)
    return store.Computed({'images': {'label': _labels(train), **columns}, 'epochs': _epochs_table([history])},
                          {'mean_loss': table['loss'].mean().item(), 'last_epoch_loss': history.loss[-1]}, train.classes,
                          machine(chosen))


def _weights(s: Pretext) -> str:
    return f'.weights/{store.key(s, data.key_digest(s.dataset))}.pt'


def _keep_weights(s: Pretext, model: Model) -> None:
    """Save a trained network beside the results, on this machine only: weights are large, and cheap beside their study."""
    import torch
    path = store.roots()[0] / _weights(s)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f'.{os.getpid()}.part')
    torch.save(model.state_dict(), part)
    os.replace(part, path)


def trained(s: Pretext) -> tuple[Task, Model]:
    """The trained network of a pretext spec, on the execution's device; trained again where its weights are not kept."""
    import torch
    chosen, train, _ = _prepare(s)
    found = [root / _weights(s) for root in store.roots() if (root / _weights(s)).exists()]
    if not found:
        scratch = store.roots()[0] / '.partial' / f'weights-{store.key(s, train.digest)}'
        _pretext(s, scratch)
        shutil.rmtree(scratch, ignore_errors=True)
        found = [store.roots()[0] / _weights(s)]
    task, model = _untrained(s, chosen, train)
    try:
        model.load_state_dict(torch.load(found[0], weights_only=True, map_location=chosen.device))
    except Exception as damage:                  # torch names no common class for the ways in which a file can be bad
        raise Refused(f'weights {found[0]} are damaged ({type(damage).__name__}): delete the file, they are made again') \
            from None
    return task, model


def _classifier(s: Main | Active | Representation, chosen: Execution, train: data.Images, index: Tensor, label: str,
                checkpoint: Path | None, *path: str | int, start: nn.Module | None = None):
    """Train a fresh classifier on the images of `index`, its trunk from the weights of `start` if that is given.

    All its randomness comes from the stream `path`.
    """
    import torch

    from . import learners, views
    from .fit import fit, minibatches
    from .rng import device_stream, initialising
    kind = learners.learner(_query_needs(s.strategy) if isinstance(s, Active) else frozenset())
    with initialising(s.seed, *path, 'weights'):
        model = kind.model(s.width, len(train.classes))
    if start is not None:
        model.trunk.load_state_dict(start.state_dict())
    model = model.to(chosen.device, memory_format=torch.channels_last)

    def batches(epoch: int):
        rng = device_stream(s.seed, *path, 'epoch', epoch, device=chosen.device)
        for part in minibatches(index, s.batch, rng):
            images = views.normalise(views.crop_flip(train.pixels[part], rng))
            yield (images, *kind.extras(model, len(part), epoch / s.epochs, rng)), train.labels[part]

    return model, fit(model, batches, kind.loss, _schedule(s), chosen, len(index), label, checkpoint)


def _main(s: Main, scratch: Path) -> store.Computed:
    import torch

    from .execution import machine
    from .fit import classification_loss, predict
    from .rng import stream
    chosen, train, test = _prepare(s)
    n = len(train.labels)
    if s.folds > n:
        raise Refused(f'{s.folds} folds of {n} images: give at most one fold an image')
    fold = torch.from_numpy(stream(s.seed, 'main', 'folds').permutation(n) % s.folds).to(chosen.device)
    loss_out, right_out = torch.empty(n), torch.empty(n, dtype=torch.bool)
    loss_in, right_in = torch.zeros(n), torch.zeros(n)
    histories, test_accuracy = [], []
    for f in range(s.folds):
        held = (fold == f).cpu()
        model, history = _classifier(s, chosen, train, (fold != f).nonzero()[:, 0],
                                     _label(s, f'main fold {f + 1}/{s.folds}'), scratch / f'fold-{f}.pt', 'main', f)
        logits = predict(model, train.pixels).logits
        loss, right = classification_loss(logits, train.labels).cpu(), (logits.argmax(1) == train.labels).cpu()
        loss_out[held], right_out[held] = loss[held], right[held]
        loss_in[~held] += loss[~held] / (s.folds - 1)
        right_in[~held] += right[~held].float() / (s.folds - 1)
        histories.append(history)
        test_accuracy.append((predict(model, test.pixels).logits.argmax(1) == test.labels).float().mean().item())
    images = {'label': _labels(train), 'fold': fold.cpu().numpy().astype('int16'), 'loss_out': loss_out.numpy(),
              'loss_in': loss_in.numpy(), 'right_out': right_out.numpy()}
    return store.Computed({'images': images, 'epochs': _epochs_table(histories)},
                          {'accuracy_out': right_out.float().mean().item(), 'accuracy_in': right_in.mean().item(),
                           'accuracy_test': float(np.mean(test_accuracy))}, train.classes, machine(chosen))


PRETEXT_FIELDS = frozenset({'pretext_loss', 'ssl_features'})        # what a strategy can ask of a pretext network


def _of_pretext(s: Pretext, train: data.Images, asked: frozenset[str]) -> dict[str, Tensor]:
    """The fields of a `Pool` that come of a pretext task: losses as they are stored, features of the kept network."""
    import torch

    from .represent import embed
    result, out = get(s, 'missing'), {}
    if 'pretext_loss' in asked:
        out['pretext_loss'] = torch.tensor(result.tables['images']['loss'], device=train.labels.device)
    if 'ssl_features' in asked:
        task, model = trained(s)
        out['ssl_features'] = embed(model.trunk, train.pixels, task.encode)
    return out


def _active(s: Active, scratch: Path) -> store.Computed:
    import torch

    from . import cycle
    from .execution import machine
    from .query import QUERIES
    chosen, train, test = _prepare(s)
    budgets, query = [s.budget] * (s.until or s.cycles), QUERIES[s.strategy]
    known = set() if s.pretext is None else PRETEXT_FIELDS
    cycle.check(train, test, query, budgets, s.cycles, known)      # before hours of pretext training
    given = {} if s.pretext is None else _of_pretext(s.pretext, train, _query_needs(s.strategy))

    def learner(images: data.Images, labelled: Tensor, number: int):
        return _classifier(s, chosen, images, labelled, _label(s, s.strategy, f'cycle {number + 1}/{s.cycles}'),
                           None, 'active', number)

    records = _finished(scratch)
    for record in cycle.run(train, test, learner, query, budgets, s.seed, s.cycles, records, given):
        _keep(scratch, record)
        records.append(record)
    picks = torch.cat([r.picked.cpu() for r in records]).numpy()
    labels = np.cumsum(budgets)
    tables = {
        'picks': {'cycle': np.repeat(np.arange(len(budgets), dtype='int16'), budgets) + np.int16(1), 'index': picks,
                  'label': _labels(train)[picks]},
        'cycles': {'cycle': np.arange(1, len(budgets) + 1, dtype='int16'), 'labels': labels,
                   'accuracy': np.array([r.accuracy for r in records], 'float32'),
                   'steps': np.array([r.steps for r in records])},
        'classes': {'cycle': np.repeat(np.arange(1, len(budgets) + 1, dtype='int16'), len(train.classes)),
                    'label': np.tile(np.arange(len(train.classes), dtype='int16'), len(budgets)),
                    'accuracy': torch.cat([r.per_class.cpu() for r in records]).numpy()},
    }
    return store.Computed(tables, {'accuracy': records[-1].accuracy, 'labels': int(labels[-1])}, train.classes,
                          machine(chosen))


def _trunk(s: Representation) -> tuple[nn.Sequential, Callable[[Tensor], Tensor]]:
    """The trunk that a spec asks for, and how images enter it."""
    from . import views
    if s.pretext is not None:
        task, model = trained(s.pretext)
        return model.trunk, task.encode
    chosen, train, _ = _prepare(s)
    if not s.supervised:
        return _untrained(Pretext(s.dataset, seed=s.seed, width=s.width), chosen, train)[1].trunk, views.normalise
    import torch
    everything = torch.arange(len(train.labels), device=chosen.device)
    model, _ = _classifier(s, chosen, train, everything, _label(s, 'supervised'), None, 'representation', 'supervised')
    return model.trunk, views.normalise


def _representation(s: Representation, scratch: Path) -> store.Computed:
    from . import represent
    from .execution import machine
    trunk, encode = _trunk(s)
    chosen, train, test = _prepare(dataclasses.replace(s, dataset=s.transfer or s.dataset))

    def learn(index: Tensor, start: nn.Module | None, percent: int) -> Model:
        label = _label(s, 'scratch' if start is None else 'fine-tuning', f'{percent} %')
        return _classifier(s, chosen, train, index, label, None, 'representation', 'finetune', percent, start=start)[0]

    tables, summary = represent.evaluate(trunk, encode, train, test, s.seed, s.images, s.fractions)
    if s.finetune:
        tables['finetune'] = represent.finetune(learn, trunk, train, test, s.seed, s.finetune)
        summary |= {name: float(tables['finetune'][name][-1]) for name in ('finetuned', 'scratch')}
    return store.Computed(tables, summary, train.classes, machine(chosen))


def _keep(scratch: Path, record: Cycle) -> None:
    """Save one whole cycle, so that an interrupted run goes on after it."""
    scratch.mkdir(parents=True, exist_ok=True)
    row = dataclasses.asdict(record) | {'picked': record.picked.tolist(), 'per_class': record.per_class.tolist()}
    part = scratch / f'cycle-{record.number:03d}.{os.getpid()}.part'
    part.write_text(json.dumps(row))
    os.replace(part, scratch / f'cycle-{record.number:03d}.json')


def _finished(scratch: Path) -> list[Cycle]:
    import torch

    from .cycle import Cycle
    rows = [json.loads(path.read_text()) for path in sorted(scratch.glob('cycle-*.json'))]
    return [Cycle(**(row | {'picked': torch.tensor(row['picked']), 'per_class': torch.tensor(row['per_class'])}))
            for row in rows]
