"""Whole cycles of an active-learning run that has not ended yet: saved one by one, and believed
only if they make sense.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pt4al import files
from pt4al.errors import Refused

if TYPE_CHECKING:
    from pt4al.query.cycle import Cycle


def save(scratch: Path, record: Cycle) -> None:
    """Save one whole cycle, so that an interrupted run goes on after it."""
    row = dataclasses.asdict(record) | {
        'picked': record.picked.tolist(),
        'per_class': record.per_class.tolist(),
    }
    files.seal(scratch / f'cycle-{record.number:03d}.json', json.dumps(row).encode())


def cycles(scratch: Path, budgets: Sequence[int], pool: int, classes: int) -> list[Cycle]:
    """The saved cycles of a run that picks `budgets` of a pool of so many images, in order.

    `Refused` where one is damaged, or says what no run can say.
    """
    import torch

    from pt4al.query.cycle import Cycle

    rows, labelled = [], set()
    for number, path in enumerate(sorted(scratch.glob('cycle-*.json'))):
        try:
            row = json.loads(files.unseal(path))
            picked = row['picked']
            sound = (
                row['number'] == number
                and path.name == f'cycle-{number:03d}.json'
                and len(picked) == len(set(picked)) == budgets[number]
                and all(type(index) is int and 0 <= index < pool for index in picked)
                and labelled.isdisjoint(picked)
                and len(row['per_class']) == classes
                and 0 <= row['accuracy'] <= 1
            )
        except (ValueError, LookupError, TypeError, RecursionError):
            sound = False
        if not sound:
            raise Refused(f'{path} is damaged: delete {scratch} to start this run over')
        if 'epochs' not in row:
            return []  # begun by code that did not record them
        labelled.update(picked)
        rows.append(row)
    return [
        Cycle(
            **row
            | {'picked': torch.tensor(row['picked']), 'per_class': torch.tensor(row['per_class'])}
        )
        for row in rows
    ]
