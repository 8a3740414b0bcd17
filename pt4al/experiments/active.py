"""Runs of active learning: cycles of query, training and test."""

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pt4al import data
from pt4al.data.splits import stratified
from pt4al.experiments import cycles, get, running, store
from pt4al.experiments.pretext import load_weights, trained
from pt4al.experiments.representation import embed
from pt4al.experiments.running import labels
from pt4al.experiments.specs import PRETEXT_FIELDS, Active, Pretext, query_needs
from pt4al.query import QUERIES, cycle
from pt4al.query.cycle import Cycle, Learner, Problem, accuracy
from pt4al.training import fit
from pt4al.training.execution import Execution, machine
from pt4al.training.nets import Model

# columns of the table by epoch, nan where nothing was watched
EPOCHS = {'cycle': 'int16', 'epoch': 'int16', 'loss': 'float32', 'lr': 'float32'}
EPOCHS |= {'steps': 'int32', 'test': 'float32', 'pool': 'float32'}


def run(s: Active, scratch: Path) -> store.Computed:
    """'picks', 'cycles', 'epochs' and 'classes' of a run; it goes on from what `scratch` holds."""
    chosen, train, test = running.prepared(s)
    index, pool, held_out = set_aside(s, train)
    budgets, query = [s.budget] * (s.until or s.cycles), QUERIES[s.strategy]
    known = frozenset() if s.pretext is None else PRETEXT_FIELDS
    # before hours of pretext training
    cycle.check(len(index), query, budgets, s.cycles, known)
    cycle.check_tested(test)
    here = {'commit': store.commit(), **machine(chosen)}
    cycles.take_over(scratch, s, index.cpu().numpy())
    rows = cycles.saved(scratch, s, len(index), len(train.classes))
    if len(rows) < len(budgets):
        fields = {}
        if s.pretext is not None:
            columns = pretext_fields(s.pretext, train, query_needs(s.strategy))
            fields = {name: values[index] for name, values in columns.items()}
        if s.channels == 'bgr':
            pool, test = _reversed(pool), _reversed(test)
            held_out = held_out and _reversed(held_out)
        learner = _learner(s, chosen, test, scratch)
        done = [cycles.record(row) for row in rows]
        model = _last_model(s, chosen, train, scratch, len(done))
        problem = Problem(pool, test, budgets, s.cycles, s.seed, fields, held_out)
        for record in cycle.run(problem, learner, query, done, model):
            cycles.save(scratch, record, here)
        rows = cycles.saved(scratch, s, len(index), len(train.classes))
    rows = rows[: len(budgets)]
    records = [cycles.record(row) for row in rows]
    tables = _tables(s, records, index.cpu().numpy(), labels(train), len(train.classes))
    last = tables['cycles']
    summary = {'accuracy': float(last['accuracy'][-1]), 'labels': int(last['labels'][-1])}
    return store.Computed(tables, summary, train.classes, cycles.provenance(rows, here))


def pretext_fields(s: Pretext, train: data.Images, names: frozenset[str]) -> dict[str, Tensor]:
    """Fields of a `Pool` from a pretext task: stored losses [N], features [N,d] of its network."""
    result, out = get(s, 'missing'), {}
    if 'pretext_loss' in names:
        loss = result.tables['images']['loss']
        out['pretext_loss'] = torch.tensor(loss, device=train.labels.device)
    if 'ssl_features' in names:
        task, model = trained(s)
        out['ssl_features'] = embed(model.trunk, train.pixels, task.encode)
    return out


def set_aside(s: Active, train: data.Images) -> tuple[Tensor, data.Images, data.Images | None]:
    """Data-set indices of the images that may be labelled, these images, and those held out."""
    if not s.held_out:
        return torch.arange(len(train.labels), device=train.labels.device), train, None
    held = torch.from_numpy(stratified(labels(train), s.held_out, f'held out {s.seed}'))
    held = held.to(train.labels.device)
    index = (~held).nonzero()[:, 0]
    pool, rest = (
        dataclasses.replace(train, pixels=train.pixels[part], labels=train.labels[part])
        for part in (index, held)
    )
    return index, pool, rest


def _reversed(images: data.Images) -> data.Images:
    """Images with their channels as blue, green, red."""
    return dataclasses.replace(images, pixels=images.pixels[..., [2, 1, 0], :, :])


def _learner(s: Active, chosen: Execution, test: data.Images, scratch: Path) -> Learner:
    """How a cycle trains: the start, schedule, watched split and reported epoch of the spec."""

    def learn(images: data.Images, labelled: Tensor, number: int, before: Model | None):
        past = number * s.epochs if s.schedule == 'continue' else 0
        turn = dataclasses.replace(s, milestones=tuple(m - past for m in s.milestones))
        splits = {'': {}, 'test': {'test': test}, 'train': {'pool': images, 'test': test}}[s.watch]

        def watch(model: Model) -> dict[str, float]:
            return {name: accuracy(model, split) for name, split in splits.items()}

        start, watched = before if s.start == 'warm' else None, watch if splits else None
        learn = partial(running.train_classifier, start=start, watch=watched)
        label = running.title(s, s.strategy, f'cycle {number + 1}/{s.cycles}')
        model, history = learn(turn, chosen, images, labelled, label, None, 'active', number)
        if s.keep == 'best':
            model.load_state_dict(history.best)
        # before the record of this cycle, which promises that they are there
        if s.start == 'warm':
            fit.save(cycles.weights(scratch, number), model.state_dict())
        return model, history

    return learn


def _last_model(
    s: Active, chosen: Execution, train: data.Images, scratch: Path, done: int
) -> Model | None:
    """What a warm start goes on from. A fresh one is trained again where a query needs it."""
    if s.start == 'fresh' or not done:
        return None
    model = running.architecture(s).model(s.width, len(train.classes), train.pixels.shape[-1])
    model = running.placed(model, chosen)
    cure = f'delete {scratch} to start this run over'
    return load_weights(cycles.weights(scratch, done - 1), model, chosen.device, cure)


def _tables(
    s: Active, records: list[Cycle], index: np.ndarray, label: np.ndarray, classes: int
) -> store.Tables:
    """Picks, cycles, epochs and classes of a run.

    index  [n] data-set index of each image of the pool
    label  [N] labels of all images of the data set
    """
    numbers = np.arange(1, len(records) + 1, dtype='int16')
    picks = index[np.concatenate([r.picked.cpu().numpy() for r in records])]
    columns = dict.fromkeys(('accuracy', 'test', 'test_last', 'test_best', 'train'), 'float32')
    columns |= {'held_out': 'float32'} if s.held_out else {}
    by_run = [pd.DataFrame(r.epochs).assign(cycle=number) for number, r in enumerate(records, 1)]
    epochs = pd.concat(by_run).reset_index(names='epoch').reindex(columns=EPOCHS)
    epochs['epoch'] += 1
    return {
        'picks': {'cycle': np.repeat(numbers, s.budget), 'index': picks, 'label': label[picks]},
        'cycles': {
            'cycle': numbers,
            'labels': np.cumsum([s.budget] * len(records)),
            **running.table((_accuracies(s, r) for r in records), **columns),
            'steps': np.array([r.steps for r in records]),
        },
        'epochs': {name: epochs[name].to_numpy(kind) for name, kind in EPOCHS.items()},
        'classes': {
            'cycle': np.repeat(numbers, classes),
            'label': np.tile(np.arange(classes, dtype='int16'), len(records)),
            'accuracy': np.concatenate([r.per_class.cpu().numpy() for r in records]),
        },
    }


def _accuracies(s: Active, record: Cycle) -> tuple[float, ...]:
    """The accuracy that the protocol reports, and beside it those that others would."""
    tests = record.epochs.get('test', [])
    deciding = record.epochs['pool'] if s.watch == 'train' else [record.accuracy]
    reported = max(deciding) if s.keep == 'best' else deciding[-1]
    last = tests[-1] if tests else record.accuracy
    best = max(tests, default=np.nan)
    return reported, record.accuracy, last, best, record.train, record.held_out
