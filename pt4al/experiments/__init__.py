"""The experiments of the study: for each kind of spec a function that computes it into the store."""

from __future__ import annotations

import dataclasses
import io
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pt4al import data, files
from pt4al.data.splits import stratified
from pt4al.errors import Refused, choose
from pt4al.experiments import store, unfinished
from pt4al.experiments.specs import (
    PRETEXT_FIELDS,
    Active,
    Diagnosis,
    Main,
    Pictures,
    Pretext,
    Representation,
    Spec,
    Trajectory,
    data_digest,
    query_needs,
    seeded,
    spec,
)
from pt4al.tasks import TASKS

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from pt4al.experiments.trajectory import Seen
    from pt4al.query.cycle import Cycle, Learner
    from pt4al.tasks.base import Task
    from pt4al.training.classifiers import Plain
    from pt4al.training.execution import Execution
    from pt4al.training.fit import History, Schedule, Watch
    from pt4al.training.nets import Model


def get(s: Spec, policy: str | None = None) -> store.Result:
    """Read the result of a spec from the store, or compute it; policy 'never' makes a lack an
    error.

    The default policy is $PT4AL_COMPUTE, else 'missing'; the book is built with 'never'.
    """
    policy = choose(
        'policy', policy or os.environ.get('PT4AL_COMPUTE', 'missing'), ('missing', 'never')
    )
    return store.result(s, data_digest(s), compute, policy)


def compute(s: Spec, scratch: Path) -> store.Computed:
    """The tables of a spec, whatever the store holds of it; unfinished work is kept in `scratch`."""
    run = {
        'pretext': _pretext,
        'main': _main,
        'active': _active,
        'representation': _representation,
        'pictures': _pictures,
        'diagnosis': _diagnosis,
        'trajectory': _trajectory,
    }[s.kind]
    return run(s, scratch)


def runs(kind: str, **fields: Any) -> list[store.Result]:
    """The stored results of one spec under every seed, in order of seed.

    Where a data set is neither pinned nor at hand, results on any version of it are found.
    """
    base = spec(kind, **fields)
    digest = data_digest(base) if data.known(base.dataset) else ''
    # most results ask for the same few
    keys = cache(lambda seed, version: store.key(seeded(base, seed), version))
    return store.find(
        kind,
        lambda said: (
            said['key'] == keys(said['spec']['seed'], digest or said['provenance']['data'])
        ),
        dataset=base.dataset,
    )


def prepared(s: Spec) -> tuple[Execution, data.Images, data.Images]:
    """Where a spec runs, and the training and test images of its data set there."""
    from pt4al.training.execution import execution

    chosen = execution()
    train, test = data.load(s.dataset, chosen.device)
    if s.kind != 'pretext' or train.classes:  # a pretext task needs no labels
        data.check_trainable(train, s.dataset)
    return chosen, train, test


def _labels(images: data.Images) -> np.ndarray:
    """Labels [N], kept with every result so that it can be read where the images are not at hand."""
    return images.labels.cpu().numpy().astype('int16')


def _label(s: Spec, *words: str) -> str:
    return ' '.join([s.dataset, *words, f'seed {s.seed}'])


def _schedule(s: Spec) -> Schedule:
    from pt4al.training.fit import Schedule

    return Schedule(s.epochs, s.lr, s.milestones, optimiser=getattr(s, 'optimiser', 'sgd'))


def _epochs_table(histories: list[History]) -> dict[str, np.ndarray]:
    rows = [
        (run, epoch, h.loss[epoch], h.lr[epoch], h.steps[epoch])
        for run, h in enumerate(histories)
        for epoch in range(len(h.loss))
    ]
    run, epoch, loss, lr, steps = zip(*rows)
    return {
        'run': np.array(run, 'int16'),
        'epoch': np.array(epoch, 'int16') + 1,
        'loss': np.array(loss, 'float32'),
        'lr': np.array(lr, 'float32'),
        'steps': np.array(steps, 'int32'),
    }


def untrained(s: Pretext, chosen: Execution, train: data.Images) -> tuple[Task, Model]:
    """The task of a pretext spec and its network as training finds it."""
    import torch

    from pt4al.rng import device_stream, initialising
    from pt4al.training import nets

    task = TASKS[s.task]()
    with initialising(s.seed, 'pretext', s.task, 'weights'):
        model = nets.Model(nets.resnet18(s.width, train.pixels.shape[-1]), task.head(8 * s.width))
    model = model.to(chosen.device, memory_format=torch.channels_last)
    task.start(
        model, train.pixels, device_stream(s.seed, 'pretext', s.task, 'start', device=chosen.device)
    )
    return task, model


def _pretext(s: Pretext, scratch: Path) -> store.Computed:
    import torch

    from pt4al.rng import device_stream
    from pt4al.tasks.base import Task
    from pt4al.tasks.score import pretext_losses
    from pt4al.training.execution import machine
    from pt4al.training.fit import fit, minibatches

    chosen, train, test = prepared(s)
    task, model = untrained(s, chosen, train)
    everything = torch.arange(len(train.labels), device=chosen.device)

    def batches(epoch: int):
        rng = device_stream(s.seed, 'pretext', s.task, 'epoch', epoch, device=chosen.device)
        for index in minibatches(everything, s.batch, rng):
            yield task.make_batch(train.pixels[index], index, rng)

    history = fit(
        model,
        batches,
        task.per_sample_loss,
        _schedule(s),
        chosen,
        len(everything),
        _label(s, s.task),
        scratch / 'fit.pt',
    )

    def draws(what: str) -> Callable[[int], Generator]:
        return lambda r: device_stream(s.seed, 'pretext', s.task, what, r, device=chosen.device)

    table = pretext_losses(model, task, train.pixels, draws('score'), s.repeats)
    columns = {name: rows.mean(0).cpu().numpy() for name, rows in table.items()}
    tables = {'images': {'label': _labels(train), **columns}, 'epochs': _epochs_table([history])}
    # it keeps no training image, so it can judge others
    if type(task).start is Task.start and len(test.labels):
        rows = pretext_losses(model, task, test.pixels, draws('test'), s.repeats)
        tables['test'] = {'label': _labels(test), 'loss': rows['loss'].mean(0).cpu().numpy()}
    if s.repeats > 1:
        tables['images'] |= {f'loss_{r}': row.cpu().numpy() for r, row in enumerate(table['loss'])}
    _keep_weights(s, model)
    return store.Computed(
        tables,
        {'mean_loss': table['loss'].mean().item(), 'last_epoch_loss': history.loss[-1]},
        train.classes,
        machine(chosen),
    )


def _weights(s: Pretext) -> str:
    return f'.weights/{store.key(s, data.key_digest(s.dataset))}.pt'


def _keep_weights(s: Pretext, model: Model) -> None:
    """Save a trained network beside the results, on this machine only: weights are large, and cheap
    beside their study.
    """
    _save_weights(store.roots()[0] / _weights(s), model)


def _save_weights(path: Path, model: Model) -> None:
    import torch

    content = io.BytesIO()
    torch.save(model.state_dict(), content)
    files.seal(path, content.getbuffer())


def _load_weights(path: Path, model: Model, device: str, cure: str) -> Model:
    import torch

    try:
        model.load_state_dict(
            torch.load(io.BytesIO(files.unseal(path)), weights_only=True, map_location=device)
        )
    # torch names no common class for the ways in which a file can be bad
    except Exception as damage:
        raise Refused(f'weights {path} are damaged ({type(damage).__name__}): {cure}') from None
    return model


def trained(s: Pretext) -> tuple[Task, Model]:
    """The trained network of a pretext spec, on the execution's device; trained again where its
    weights are not kept.
    """
    chosen, train, _ = prepared(s)
    found = [root / _weights(s) for root in store.roots() if (root / _weights(s)).exists()]
    if not found:
        found = [store.roots()[0] / _weights(s)]
        scratch = store.roots()[0] / '.partial' / f'weights-{store.key(s, train.digest)}'
        scratch.parent.mkdir(parents=True, exist_ok=True)
        with store.locked(scratch.with_name(scratch.name + '.lock')):
            # another process may have made them meanwhile
            if not found[0].exists():
                _pretext(s, scratch)
            shutil.rmtree(scratch, ignore_errors=True)
    task, model = untrained(s, chosen, train)
    return task, _load_weights(
        found[0], model, chosen.device, 'delete the file, they are made again'
    )


def train_classifier(
    s: Main | Trajectory | Active | Representation,
    chosen: Execution,
    train: data.Images,
    index: Tensor,
    label: str,
    checkpoint: Path | None,
    *path: str | int,
    start: nn.Module | None = None,
    watch: Watch | None = None,
    seen: Seen | None = None,
) -> tuple[Model, History]:
    """Train a classifier on the images of `index`, fresh or from the weights of `start`, a trunk or
    a classifier.

    All its randomness comes from the stream `path`.  `seen` is told of every batch: its images,
    outputs and losses.
    """
    import torch

    from pt4al.data import views
    from pt4al.rng import device_stream, initialising
    from pt4al.training.fit import fit, minibatches

    kind = _kind(s)
    with initialising(s.seed, *path, 'weights'):
        model = kind.model(s.width, len(train.classes), train.pixels.shape[-1])
    if start is not None:
        (model if isinstance(start, type(model)) else model.trunk).load_state_dict(
            start.state_dict()
        )
    model = model.to(chosen.device, memory_format=torch.channels_last)
    augment, part = views.AUGMENTATIONS[getattr(s, 'augment', 'crop_flip')], index[:0]

    def batches(epoch: int):
        nonlocal part
        rng = device_stream(s.seed, *path, 'epoch', epoch, device=chosen.device)
        for part in minibatches(index, s.batch, rng):
            images = views.normalise(augment(train.pixels[part], rng))
            yield (
                (images, *kind.extras(model, len(part), epoch / s.epochs, rng)),
                train.labels[part],
            )

    def told(outputs: Tensor, losses: Tensor) -> None:
        seen(part, outputs, losses)

    return model, fit(
        model,
        batches,
        kind.loss,
        _schedule(s),
        chosen,
        len(index),
        label,
        checkpoint,
        watch,
        told if seen is not None else None,
    )


def _kind(s: Main | Trajectory | Active | Representation) -> Plain:
    from pt4al.training import classifiers

    return classifiers.learner(query_needs(s.strategy) if isinstance(s, Active) else frozenset())


def _main(s: Main, scratch: Path) -> store.Computed:
    import torch

    from pt4al.rng import stream
    from pt4al.training.execution import machine
    from pt4al.training.fit import classification_loss, predict

    chosen, train, test = prepared(s)
    n = len(train.labels)
    if s.folds > n:
        raise Refused(f'{s.folds} folds of {n} images: give at most one fold an image')
    fold = torch.from_numpy(stream(s.seed, 'main', 'folds').permutation(n) % s.folds).to(
        chosen.device
    )
    loss_out, right_out = torch.empty(n), torch.empty(n, dtype=torch.bool)
    loss_in, right_in = torch.zeros(n), torch.zeros(n)
    histories, test_accuracy = [], []
    for f in range(s.folds):
        held = (fold == f).cpu()
        model, history = train_classifier(
            s,
            chosen,
            train,
            (fold != f).nonzero()[:, 0],
            _label(s, f'main fold {f + 1}/{s.folds}'),
            scratch / f'fold-{f}.pt',
            'main',
            f,
        )
        logits = predict(model, train.pixels).logits
        loss, right = (
            classification_loss(logits, train.labels).cpu(),
            (logits.argmax(1) == train.labels).cpu(),
        )
        loss_out[held], right_out[held] = loss[held], right[held]
        loss_in[~held] += loss[~held] / (s.folds - 1)
        right_in[~held] += right[~held].float() / (s.folds - 1)
        histories.append(history)
        test_accuracy.append(
            (predict(model, test.pixels).logits.argmax(1) == test.labels).float().mean().item()
        )
    images = {
        'label': _labels(train),
        'fold': fold.cpu().numpy().astype('int16'),
        'loss_out': loss_out.numpy(),
        'loss_in': loss_in.numpy(),
        'right_out': right_out.numpy(),
    }
    return store.Computed(
        {'images': images, 'epochs': _epochs_table(histories)},
        {
            'accuracy_out': right_out.float().mean().item(),
            'accuracy_in': right_in.mean().item(),
            'accuracy_test': float(np.mean(test_accuracy)),
        },
        train.classes,
        machine(chosen),
    )


def _trajectory(s: Trajectory, scratch: Path) -> store.Computed:
    import torch

    from pt4al.experiments.trajectory import Trace, tables
    from pt4al.rng import stream
    from pt4al.training.execution import machine

    chosen, train, test = prepared(s)
    trunk = None if s.pretext is None else trained(s.pretext)[1].trunk
    fold = torch.from_numpy(
        stream(s.seed, 'main', 'folds').permutation(len(train.labels)) % s.folds
    ).to(chosen.device)
    traces, histories = [], []
    for f in range(s.folds):
        trace = Trace(train, test, s.log, scratch / f'fold-{f}')
        label, rest = _label(s, f'trajectory fold {f + 1}/{s.folds}'), (fold != f).nonzero()[:, 0]
        histories.append(
            train_classifier(
                s,
                chosen,
                train,
                rest,
                label,
                scratch / f'fold-{f}' / 'fit.pt',
                'main',
                f,
                start=trunk,
                watch=trace.watch,
                seen=trace.seen,
            )[1]
        )
        traces.append(trace)
    found, summary = tables(s, traces, fold, train, test)
    return store.Computed(
        found | {'epochs': _epochs_table(histories)}, summary, train.classes, machine(chosen)
    )


def pretext_fields(s: Pretext, train: data.Images, asked: frozenset[str]) -> dict[str, Tensor]:
    """The fields of a `Pool` that come of a pretext task: losses as they are stored, features of
    the kept network.
    """
    import torch

    from pt4al.experiments.representation import embed

    result, out = get(s, 'missing'), {}
    if 'pretext_loss' in asked:
        out['pretext_loss'] = torch.tensor(
            result.tables['images']['loss'], device=train.labels.device
        )
    if 'ssl_features' in asked:
        task, model = trained(s)
        out['ssl_features'] = embed(model.trunk, train.pixels, task.encode)
    return out


def _set_aside(s: Active, train: data.Images) -> tuple[Tensor, data.Images, data.Images | None]:
    """Data-set indices of the images that may be labelled, these images, and those held out."""
    import torch

    if not s.held_out:
        return torch.arange(len(train.labels), device=train.labels.device), train, None
    held = torch.from_numpy(stratified(_labels(train), s.held_out, f'held out {s.seed}')).to(
        train.labels.device
    )
    index = (~held).nonzero()[:, 0]
    return index, *(
        dataclasses.replace(train, pixels=train.pixels[part], labels=train.labels[part])
        for part in (index, held)
    )


def _shown(s: Active, images: data.Images) -> data.Images:
    """Images with their channels in the order that the network is to see."""
    return (
        images
        if s.channels == 'rgb'
        else dataclasses.replace(images, pixels=images.pixels[..., [2, 1, 0], :, :])
    )


def _learner(s: Active, chosen: Execution, test: data.Images, scratch: Path) -> Learner:
    """Trains as the protocol says: from which weights, at which rate, watched on what, and keeping
    which epoch.
    """
    from pt4al.query.cycle import accuracy

    def learn(images: data.Images, labelled: Tensor, number: int, before: Model | None):
        past = number * s.epochs if s.schedule == 'continue' else 0
        turn = dataclasses.replace(s, milestones=tuple(m - past for m in s.milestones))
        splits = {'': {}, 'test': {'test': test}, 'train': {'pool': images, 'test': test}}[s.watch]
        model, history = train_classifier(
            turn,
            chosen,
            images,
            labelled,
            _label(s, s.strategy, f'cycle {number + 1}/{s.cycles}'),
            None,
            'active',
            number,
            start=before if s.start == 'warm' else None,
            watch=(lambda model: {name: accuracy(model, split) for name, split in splits.items()})
            if splits
            else None,
        )
        if s.keep == 'best':
            model.load_state_dict(history.best)
        # before the record of this cycle, which says that they are there
        if s.start == 'warm':
            _save_weights(_kept(scratch, number), model)
        return model, history

    return learn


def _kept(scratch: Path, number: int) -> Path:
    return scratch / f'cycle-{number:03d}.pt'


def _last_model(
    s: Active, chosen: Execution, train: data.Images, scratch: Path, done: int
) -> Model | None:
    """What a warm start goes on from; a fresh one is trained again where a query asks for it."""
    import torch

    if s.start == 'fresh' or not done:
        return None
    model = _kind(s).model(s.width, len(train.classes), train.pixels.shape[-1])
    model = model.to(chosen.device, memory_format=torch.channels_last)
    return _load_weights(
        _kept(scratch, done - 1), model, chosen.device, f'delete {scratch} to start this run over'
    )


def _active(s: Active, scratch: Path) -> store.Computed:
    from pt4al.query import QUERIES, cycle
    from pt4al.training.execution import machine

    chosen, train, test = prepared(s)
    index, pool, held_out = _set_aside(s, train)
    budgets, query = [s.budget] * (s.until or s.cycles), QUERIES[s.strategy]
    known = set() if s.pretext is None else PRETEXT_FIELDS
    # before hours of pretext training
    cycle.check(pool, test, query, budgets, s.cycles, known)
    given = {} if s.pretext is None else pretext_fields(s.pretext, train, query_needs(s.strategy))
    given = {name: values[index] for name, values in given.items()}
    pool, test = _shown(s, pool), _shown(s, test)
    held_out = held_out and _shown(s, held_out)
    records = unfinished.cycles(scratch, budgets, len(pool.labels), len(test.classes))
    model = _last_model(s, chosen, train, scratch, len(records))
    learner = _learner(s, chosen, test, scratch)
    for record in cycle.run(
        pool, test, learner, query, budgets, s.seed, s.cycles, records, given, model, held_out
    ):
        unfinished.save(scratch, record)
        _kept(scratch, record.number - 1).unlink(missing_ok=True)
        records.append(record)
    tables = _active_tables(s, records, index.cpu().numpy(), _labels(train), len(train.classes))
    return store.Computed(
        tables,
        {
            'accuracy': float(tables['cycles']['accuracy'][-1]),
            'labels': int(tables['cycles']['labels'][-1]),
        },
        train.classes,
        machine(chosen),
    )


def _active_tables(
    s: Active, records: list[Cycle], index: np.ndarray, label: np.ndarray, classes: int
) -> store.Tables:
    """Picks, cycles, epochs and classes of a run; `index` [n] turns an index of the pool into one
    of the data set.
    """
    cycles = np.arange(1, len(records) + 1, dtype='int16')
    picks = index[np.concatenate([r.picked.cpu().numpy() for r in records])]
    rows = {
        name: np.array([row[name] for row in (_accuracies(s, r) for r in records)], 'float32')
        for name in (
            'accuracy',
            'test',
            'test_last',
            'test_best',
            'train',
            *['held_out'] * bool(s.held_out),
        )
    }
    lengths = [len(r.epochs['loss']) for r in records]
    kinds = {
        'loss': 'float32',
        'lr': 'float32',
        'steps': 'int32',
        'test': 'float32',
        'pool': 'float32',
    }
    by_epoch = {
        name: np.concatenate(
            [np.array(r.epochs.get(name, [np.nan] * n), kind) for r, n in zip(records, lengths)]
        )
        for name, kind in kinds.items()
    }
    return {
        'picks': {'cycle': np.repeat(cycles, s.budget), 'index': picks, 'label': label[picks]},
        'cycles': {
            'cycle': cycles,
            'labels': np.cumsum([s.budget] * len(records)),
            **rows,
            'steps': np.array([r.steps for r in records]),
        },
        'epochs': {
            'cycle': np.repeat(cycles, lengths),
            'epoch': np.concatenate([np.arange(1, n + 1, dtype='int16') for n in lengths]),
            **by_epoch,
        },
        'classes': {
            'cycle': np.repeat(cycles, classes),
            'label': np.tile(np.arange(classes, dtype='int16'), len(records)),
            'accuracy': np.concatenate([r.per_class.cpu().numpy() for r in records]),
        },
    }


def _accuracies(s: Active, record: Cycle) -> dict[str, float]:
    """What a cycle's row says: the accuracy that the protocol reports, and beside it what others
    would have.
    """
    tests = record.epochs.get('test', [])
    deciding = record.epochs['pool'] if s.watch == 'train' else [record.accuracy]
    return {
        'accuracy': max(deciding) if s.keep == 'best' else deciding[-1],
        'test': record.accuracy,
        'test_last': tests[-1] if tests else record.accuracy,
        'test_best': max(tests, default=np.nan),
        'train': record.train,
        'held_out': record.held_out,
    }


def _trunk(s: Representation) -> tuple[nn.Sequential, Callable[[Tensor], Tensor]]:
    """The trunk that a spec asks for, and how images enter it."""
    from pt4al.data import views

    if s.pretext is not None:
        task, model = trained(s.pretext)
        return model.trunk, task.encode
    chosen, train, _ = prepared(s)
    if not s.supervised:
        return untrained(Pretext(s.dataset, seed=s.seed, width=s.width), chosen, train)[
            1
        ].trunk, views.normalise
    import torch

    everything = torch.arange(len(train.labels), device=chosen.device)
    model, _ = train_classifier(
        s, chosen, train, everything, _label(s, 'supervised'), None, 'representation', 'supervised'
    )
    return model.trunk, views.normalise


def _representation(s: Representation, scratch: Path) -> store.Computed:
    from pt4al.experiments import representation
    from pt4al.training.execution import machine

    trunk, encode = _trunk(s)
    chosen, train, test = prepared(dataclasses.replace(s, dataset=s.transfer or s.dataset))

    def learn(index: Tensor, start: nn.Module | None, percent: int) -> Model:
        label = _label(s, 'scratch' if start is None else 'fine-tuning', f'{percent} %')
        return train_classifier(
            s, chosen, train, index, label, None, 'representation', 'finetune', percent, start=start
        )[0]

    tables, summary = representation.evaluate(
        trunk, encode, train, test, s.seed, s.images, s.fractions
    )
    if s.finetune:
        tables['finetune'] = representation.finetune(learn, trunk, train, test, s.seed, s.finetune)
        summary |= {name: float(tables['finetune'][name][-1]) for name in ('finetuned', 'scratch')}
    return store.Computed(tables, summary, train.classes, machine(chosen))


def _pictures(s: Pictures, scratch: Path) -> store.Computed:
    from pt4al.training.execution import machine

    chosen, train, _ = prepared(s)
    task, model = trained(s.pretext)
    labels = train.labels.cpu().numpy()
    some = np.concatenate(
        [np.flatnonzero(labels == c)[: s.images] for c in range(len(train.classes))]
    )
    made = task.paintings(model, train.pixels[some.tolist()])
    if not made:
        raise Refused(f'{s.pretext.task} paints no pictures: take colorization or context_encoder')
    height, width = train.pixels.shape[2:]
    tables = {
        name.replace(' ', '_'): {'value': values.cpu().numpy().ravel()}
        for name, values in made.items()
    }
    return store.Computed(
        {'images': {'index': some.astype('int32'), 'label': _labels(train)[some]}, **tables},
        {'height': height, 'width': width},
        train.classes,
        machine(chosen),
    )


def _diagnosis(s: Diagnosis, scratch: Path) -> store.Computed:
    from pt4al.stats.comparisons import diagnose
    from pt4al.training.execution import machine

    chosen, train, _ = prepared(s)
    picks = get(s.active, 'missing').tables['picks']
    features, log_posterior = _ruler(s.encoder)
    rows = []
    for cycle in np.unique(picks['cycle']):
        labelled = picks['index'][picks['cycle'] <= cycle]
        found = diagnose(
            picks['index'][picks['cycle'] == cycle],
            labelled,
            _labels(train),
            len(train.classes),
            features,
            log_posterior,
        )
        rows.append({'cycle': cycle, 'labels': len(labelled), **dataclasses.asdict(found)})
    queries = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return store.Computed(
        {'queries': queries},
        {name: float(queries[name][-1]) for name in ('mean_distance', 'uncertainty')},
        train.classes,
        machine(chosen),
    )


@cache
def _ruler(encoder: Pretext) -> tuple[np.ndarray, np.ndarray]:
    """Features [N,d] of unit length of an encoder's trunk, and the log-posterior [N,C] of a linear
    classifier on them.
    """
    import torch.nn.functional as F

    from pt4al.experiments import representation

    task, model = trained(encoder)
    _, train, _ = prepared(encoder)
    features = F.normalize(representation.embed(model.trunk, train.pixels, task.encode))
    return features.cpu().numpy(), representation.posterior(features, train.labels)
