"""Runs of active learning: cycles of query, training and test, saved one file each.

An interrupted run goes on after them, and so does a longer run, which differs only in `until`: from
these files or from the stored result of the shorter one.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pt4al import data, files
from pt4al.data.splits import test_mask_by_class
from pt4al.errors import Refused
from pt4al.experiments import get, running, store
from pt4al.experiments.pretext import load_weights, trained
from pt4al.experiments.representation import embed
from pt4al.experiments.running import labels
from pt4al.experiments.specs import PRETEXT_FIELDS, Active, Pretext, data_digest, query_needs
from pt4al.query import QUERIES, cycle
from pt4al.query.cycle import Cycle, Learner, Problem, accuracy
from pt4al.training import fit
from pt4al.training.execution import Execution, machine
from pt4al.training.nets import Model

# columns of the table by epoch, nan where nothing was watched
EPOCHS = {'cycle': 'int16', 'epoch': 'int16', 'loss': 'float32', 'lr': 'float32'}
EPOCHS |= {'steps': 'int32', 'test': 'float32', 'pool': 'float32'}


def run(s: Active, scratch: Path) -> store.Computed:
    """The tables 'picks', 'cycles', 'epochs' and 'classes' of a run, which goes on from the cycles
    that `scratch` holds.
    """
    chosen, train, test = running.prepared(s)
    index, pool, held_out = set_aside(s, train)
    budgets, query = [s.budget] * (s.until or s.cycles), QUERIES[s.strategy]
    known = frozenset() if s.pretext is None else PRETEXT_FIELDS
    # before hours of pretext training
    cycle.check(len(index), query, budgets, s.cycles, known)
    cycle.check_tested(test)
    here = {'commit': store.commit(), **machine(chosen)}
    take_over(scratch, s, index.cpu().numpy())
    done = saved(scratch)
    if len(done) < len(budgets):
        fields = {}
        if s.pretext is not None:
            columns = pretext_fields(s.pretext, train, query_needs(s.strategy))
            fields = {name: values[index] for name, values in columns.items()}
        if s.channels == 'bgr':
            pool, test = _as_bgr(pool), _as_bgr(test)
            held_out = held_out and _as_bgr(held_out)
        learner = _learner(s, chosen, test, scratch)
        before = [record for record, _ in done]
        model = _last_model(s, chosen, train, scratch, len(before))
        problem = Problem(pool, test, budgets, s.cycles, s.seed, fields, held_out)
        for record in cycle.run(problem, learner, query, before, model):
            save(scratch, record, here)
        done = saved(scratch)
    records, machines = zip(*done[: len(budgets)])
    tables = _tables(s, records, index.cpu().numpy(), labels(train), len(train.classes))
    cycles = tables['cycles']
    summary = {'accuracy': float(cycles['accuracy'][-1]), 'labels': int(cycles['labels'][-1])}
    made = _provenance(machines, frozenset({*here, 'earlier'}))
    made['seconds'] = round(sum(record.seconds for record in records), 1)
    return store.Computed(tables, summary, train.classes, made)


def _provenance(machines: Sequence[dict[str, Any]], names: frozenset[str]) -> dict[str, Any]:
    """`names` of what computed the last of the cycles; where others computed cycles before it,
    'earlier' names these in words.
    """
    parts = [{name: made[name] for name in made if name in names} for made in machines]
    earlier = []
    for number, (part, after) in enumerate(pairwise(parts), 1):
        if part != after:
            earlier += [part['earlier']] if 'earlier' in part else []
            chip, precision = part.get('chip'), part.get('precision')
            earlier.append(f'to cycle {number}: {chip}, {precision}, code {part["commit"]}')
    return parts[-1] | ({'earlier': '; '.join(earlier)} if earlier else {})


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
    held = torch.from_numpy(test_mask_by_class(labels(train), s.held_out, f'held out {s.seed}'))
    held = held.to(train.labels.device)
    index = (~held).nonzero()[:, 0]
    pool = dataclasses.replace(train, pixels=train.pixels[index], labels=train.labels[index])
    rest = dataclasses.replace(train, pixels=train.pixels[held], labels=train.labels[held])
    return index, pool, rest


def _as_bgr(images: data.Images) -> data.Images:
    """Images with their channels as blue, green, red."""
    return dataclasses.replace(images, pixels=images.pixels[..., [2, 1, 0], :, :])


def _learner(s: Active, chosen: Execution, test: data.Images, scratch: Path) -> Learner:
    """How a cycle trains: the start, schedule, watched split and reported epoch of the spec."""

    def learn(images: data.Images, labelled: Tensor, number: int, before: Model | None):
        past = number * s.epochs if s.schedule == 'continue' else 0
        turn = dataclasses.replace(s, milestones=tuple(m - past for m in s.milestones))
        splits = {'test': test} if s.watch else {}
        if s.watch == 'train':
            splits = {'pool': images, 'test': test}

        def watch(model: Model) -> dict[str, float]:
            return {name: accuracy(model, split) for name, split in splits.items()}

        label = running.title(s, s.strategy, f'cycle {number + 1}/{s.cycles}')
        start = before if s.start == 'warm' else None
        train = partial(running.train_classifier, start=start, watch=watch if splits else None)
        model, history = train(turn, chosen, images, labelled, label, None, 'active', number)
        if s.keep == 'best':
            model.load_state_dict(history.best)
        # before the record of this cycle, which promises that they are there
        if s.start == 'warm':
            fit.save(weights(scratch, number), model.state_dict())
        return model, history

    return learn


def _last_model(
    s: Active, chosen: Execution, train: data.Images, scratch: Path, done: int
) -> Model | None:
    """What a warm start goes on from. A fresh one is trained again where a query needs it."""
    if s.start == 'fresh' or not done:
        return None
    model = running.architecture(s).model(s.width, len(train.classes), train.pixels.shape[-1])
    model = running.to_device(model, chosen)
    cure = f'delete {scratch} to start this run over'
    return load_weights(weights(scratch, done - 1), model, chosen.device, cure)


def _tables(
    s: Active, records: Sequence[Cycle], index: np.ndarray, label: np.ndarray, classes: int
) -> store.Tables:
    """Picks, cycles, epochs and classes of a run, of `index` [n], the data-set index of each image
    of the pool, and `label` [N] of all images.
    """
    numbers = np.arange(1, len(records) + 1, dtype='int16')
    picks = index[np.concatenate([r.picked.cpu().numpy() for r in records])]
    columns = dict.fromkeys(('accuracy', 'test', 'test_last', 'test_best', 'train'), 'float32')
    columns |= {'held_out': 'float32'} if s.held_out else {}
    by_cycle = [pd.DataFrame(r.epochs).assign(cycle=number) for number, r in enumerate(records, 1)]
    epochs = pd.concat(by_cycle).reset_index(names='epoch').reindex(columns=EPOCHS)
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
    deciding = [record.accuracy]
    if s.watch == 'train':
        deciding = record.epochs['pool']
    reported = max(deciding) if s.keep == 'best' else deciding[-1]
    last = tests[-1] if tests else record.accuracy
    best = max(tests, default=np.nan)
    return reported, record.accuracy, last, best, record.train, record.held_out


def save(scratch: Path, record: Cycle, machine: dict[str, Any]) -> None:
    """Save a finished cycle, so that an interrupted run goes on after it."""
    row = dataclasses.asdict(record) | {
        'picked': record.picked.tolist(),
        'per_class': record.per_class.tolist(),
        'machine': machine,
    }
    files.seal(_file(scratch, record.number), json.dumps(row).encode())
    weights(scratch, record.number - 1).unlink(missing_ok=True)


def _file(scratch: Path, number: int) -> Path:
    return scratch / f'cycle-{number:03d}.json'


def weights(scratch: Path, number: int) -> Path:
    """Where a warm start keeps the weights of a cycle."""
    return scratch / f'cycle-{number:03d}.pt'


def saved(scratch: Path) -> list[tuple[Cycle, dict[str, Any]]]:
    """The saved cycles of a run, in order, each with the provenance of what computed it; `Refused`
    where one is damaged or missing.
    """
    done: list[tuple[Cycle, dict[str, Any]]] = []
    for number, path in enumerate(sorted(scratch.glob('cycle-*.json'))):
        with suppress(OSError, Refused):
            if path == _file(scratch, number):
                row = json.loads(files.unseal(path))
                machine = row.pop('machine')
                tensors = {name: torch.tensor(row[name]) for name in ('picked', 'per_class')}
                done.append((Cycle(**row | tensors), machine))
        if len(done) <= number:
            raise Refused(f'{path} is damaged: delete {scratch} to start this run over')
    return done


def take_over(scratch: Path, s: Active, index: np.ndarray) -> None:
    """Save the cycles of the longest stored run that differs only in `until`, if `scratch` has
    none; the seconds of a cycle are estimated by its share of the steps.

    index  [n] data-set index of each image of the pool, rising
    """
    if s.start == 'warm' or _file(scratch, 0).exists():  # a warm start needs the weights
        return
    for until in range((s.until or s.cycles) - 1, 0, -1):
        shorter_run = store.find_undamaged(dataclasses.replace(s, until=until), data_digest(s))
        if shorter_run is None:
            continue
        tables = {name: pd.DataFrame(columns) for name, columns in shorter_run.tables.items()}
        each = {name: table.groupby('cycle') for name, table in tables.items()}
        seconds = shorter_run.provenance['seconds'] / tables['cycles']['steps'].sum()
        for row in tables['cycles'].to_dict('records'):
            picks = each['picks'].get_group(row['cycle'])
            classes = each['classes'].get_group(row['cycle'])
            epochs = each['epochs'].get_group(row['cycle'])
            watched = epochs.drop(columns=['cycle', 'epoch']).dropna(axis=1, how='all')
            cycle = Cycle(
                row['cycle'] - 1,
                torch.from_numpy(np.searchsorted(index, picks['index'])),
                row['test'],
                torch.tensor(classes['accuracy'].to_numpy()),
                row['steps'],
                seconds * row['steps'],
                row['train'],
                row.get('held_out', math.nan),
                {name: values.tolist() for name, values in watched.items()},
            )
            save(scratch, cycle, shorter_run.provenance)
        return
