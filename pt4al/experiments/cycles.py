"""The cycles of an active-learning run on disk, one file each.

An interrupted run goes on after them, and so does a run that differs from it only in `until`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pt4al import files
from pt4al.errors import Refused
from pt4al.experiments import store
from pt4al.experiments.specs import Active, data_digest
from pt4al.query.cycle import Cycle

# a `Cycle` as JSON, with `machine`: the provenance of the code and the machine that computed it
Row = dict[str, Any]
# what a watched split is called in the table of epochs
WATCHED = {'': (), 'test': ('test',), 'train': ('pool', 'test')}
# what a result's provenance holds beside the machine
NOT_MACHINE = ('recipe', 'data', 'seconds')


def save(scratch: Path, record: Cycle, machine: dict[str, Any]) -> None:
    """Save a finished cycle, so that an interrupted run goes on after it."""
    row = dataclasses.asdict(record) | {
        'picked': record.picked.tolist(),
        'per_class': record.per_class.tolist(),
        'machine': machine,
    }
    _write(scratch, row)
    weights(scratch, record.number - 1).unlink(missing_ok=True)


def _write(scratch: Path, row: Row) -> None:
    files.seal(_file(scratch, row['number']), json.dumps(row).encode())


def _file(scratch: Path, number: int) -> Path:
    return scratch / f'cycle-{number:03d}.json'


def weights(scratch: Path, number: int) -> Path:
    """Where a warm start keeps the weights of a cycle."""
    return scratch / f'cycle-{number:03d}.pt'


def saved(scratch: Path, s: Active, pool: int, classes: int) -> list[Row]:
    """The saved cycles of a run on a pool of so many images, in order.

    `Refused` where one is damaged, missing, or not what a run can have made.
    """
    rows, labelled = [], set()
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
            )
        except (OSError, ValueError, LookupError, TypeError, RecursionError, Refused):
            sound = False
        if not sound:
            raise Refused(f'{path} is damaged: delete {scratch} to start this run over')
        if 'epochs' not in row:
            return []  # begun by code that did not record them
        labelled.update(picked)
        rows.append(row)
    return rows


def record(row: Row) -> Cycle:
    fields = {name: value for name, value in row.items() if name != 'machine'}
    tensors = {name: torch.tensor(row[name]) for name in ('picked', 'per_class')}
    return Cycle(**(fields | tensors))


def provenance(rows: list[Row], here: dict[str, Any]) -> dict[str, Any]:
    """The machine that computed a run's last cycle (`here` if none is recorded), and the seconds of
    all of its cycles: they replace what `store.result` measures, which is this process alone.
    """
    return rows[-1].get('machine', here) | {'seconds': round(sum(r['seconds'] for r in rows), 1)}


def take_over(
    s: Active, scratch: Path, index: np.ndarray, classes: int, machine: dict[str, Any]
) -> None:
    """Put into `scratch` the cycles of a run that differs from `s` only in `until`.

    Stored results and unfinished runs of every store are looked at; nothing happens unless one has
    more cycles than `scratch`. Cycles from another machine, and those of a warm start, whose
    weights are not stored, serve only if they are all that `s` needs: what is trained after them
    would not be what `s` computes alone.

    s        the run that is to be computed
    scratch  the folder of the cycles that it has saved itself
    index    [n] data-set index of each image of the pool, ascending
    classes  their number
    machine  the provenance of the code and the machine that run now
    """
    needed = s.until or s.cycles
    best = already = saved(scratch, s, len(index), classes)
    for rows in _alike(s, index, classes):
        rows, alone = rows[:needed], s.start == 'warm' or not _computed_on(machine, rows)
        if len(rows) > len(best) and (len(rows) == needed or not alone):
            best = rows
        if len(best) == needed:
            break
    for row in best if best is not already else ():
        _write(scratch, row)


def _computed_on(machine: dict[str, Any], rows: list[Row]) -> bool:
    """Whether all cycles come from this machine; other commits of the code give the same cycles."""
    bare = [{**row.get('machine', machine), 'commit': ''} for row in rows]
    return all(each == {**machine, 'commit': ''} for each in bare)


def _alike(s: Active, index: np.ndarray, classes: int) -> Iterator[list[Row]]:
    """The cycles of every stored or unfinished run that differs from `s` only in `until`."""
    digest = data_digest(s)
    for until in range(s.cycles + 1):
        other = dataclasses.replace(s, until=until)
        if other == s:
            continue
        # what is damaged, or of earlier code with fewer columns, is passed over
        for folder in store.folders_of(other, digest):
            with suppress(Refused, KeyError):
                yield _of_result(s, store.read(folder), index)
        for root in store.roots():
            with suppress(Refused):
                scratch = root / '.partial' / store.key(other, digest)
                yield saved(scratch, s, len(index), classes)


def _of_result(s: Active, result: store.Result, index: np.ndarray) -> list[Row]:
    """The cycles of a stored result, as they were saved; its seconds are shared out by steps."""
    tables = result.tables
    cycles, all_steps = tables['cycles'], max(1, tables['cycles']['steps'].sum())
    machine = {k: v for k, v in result.provenance.items() if k not in NOT_MACHINE}

    def part(table: str, column: str, cycle: int) -> np.ndarray:
        return tables[table][column][tables[table]['cycle'] == cycle]

    return [
        {
            'number': number,
            'picked': np.searchsorted(index, part('picks', 'index', cycle)).tolist(),
            'accuracy': float(cycles['test'][number]),
            'per_class': part('classes', 'accuracy', cycle).tolist(),
            'steps': int(cycles['steps'][number]),
            'seconds': float(result.provenance['seconds'] * cycles['steps'][number] / all_steps),
            'train': float(cycles['train'][number]),
            'held_out': float(cycles['held_out'][number]) if s.held_out else float('nan'),
            'epochs': {
                name: part('epochs', name, cycle).tolist()
                for name in ('loss', 'lr', 'steps', *WATCHED[s.watch])
            },
            'machine': machine,
        }
        for number, cycle in enumerate(cycles['cycle'])
    ]
