"""The cycles of an active-learning run on disk, one file each.

An interrupted run goes on after them, and so does a longer run, which differs only in `until`: from
these files or from the stored result of the shorter one.
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from pt4al import files
from pt4al.errors import Refused
from pt4al.experiments import store
from pt4al.experiments.specs import Active, data_digest
from pt4al.query.cycle import Cycle

# a `Cycle` as JSON, with `machine`: the provenance of the code and the machine that computed it
Row = dict[str, Any]


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


def saved(scratch: Path, s: Active, pool: int, classes: int) -> list[Row]:
    """The saved cycles of a run on a pool of so many images, in order.

    `Refused` where one is damaged, missing, or not what a run can have made.
    """
    rows: list[Row] = []
    labelled: set[int] = set()
    for number, path in enumerate(sorted(scratch.glob('cycle-*.json'))):
        try:
            row = json.loads(files.unseal(path))
            picked = row['picked']
            sound = (
                row['number'] == number
                and path == _file(scratch, number)
                and len(picked) == len(set(picked)) == s.budget
                and all(type(index) is int and 0 <= index < pool for index in picked)
                and labelled.isdisjoint(picked)
                and len(row['per_class']) == classes
                and 0 <= row['accuracy'] <= 1
                and 'epochs' in row
            )
        except (OSError, ValueError, LookupError, TypeError, RecursionError, Refused):
            sound = False
        if not sound:
            raise Refused(f'{path} is damaged: delete {scratch} to start this run over')
        labelled.update(picked)
        rows.append(row)
    return rows


def take_over(scratch: Path, s: Active, index: np.ndarray) -> None:
    """Save the cycles of the longest stored run that differs only in `until`, if `scratch` has
    none; of the seconds of a cycle its share of the steps is known.

    index  [n] data-set index of each image of the pool, rising
    """
    if s.start == 'warm' or _file(scratch, 0).exists():  # a warm start needs the weights
        return
    shorter = (dataclasses.replace(s, until=n) for n in range((s.until or s.cycles) - 1, 0, -1))
    digest = data_digest(s)
    for folder in (path for spec in shorter for path in store.folders_of(spec, digest)):
        try:
            shorter_run = store.read(folder)
        except Refused:  # damaged: train instead
            continue
        tables = {name: pd.DataFrame(columns) for name, columns in shorter_run.tables.items()}
        each = {name: table.groupby('cycle') for name, table in tables.items()}
        seconds = shorter_run.provenance['seconds'] / tables['cycles']['steps'].sum()
        for row in tables['cycles'].to_dict('records'):
            picks, classes, epochs = (
                each[name].get_group(row['cycle']) for name in ('picks', 'classes', 'epochs')
            )
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


def record(row: Row) -> Cycle:
    fields = {name: value for name, value in row.items() if name != 'machine'}
    tensors = {name: torch.tensor(row[name]) for name in ('picked', 'per_class')}
    return Cycle(**(fields | tensors))


def provenance(rows: list[Row], here: dict[str, Any]) -> dict[str, Any]:
    """The machine of a run's last cycle (`here` if none is recorded), and the seconds of all."""
    return rows[-1].get('machine', here) | {'seconds': round(sum(r['seconds'] for r in rows), 1)}
