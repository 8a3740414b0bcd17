"""How much of a study is done: one row an entry, with what it took and what the rest would take."""

from __future__ import annotations

from typing import Any

from pt4al import experiments
from pt4al.errors import NotStored
from pt4al.studies import plan


def coverage(study: plan.Study, device: str = 'cpu') -> list[dict[str, Any]]:
    """A row per entry: cells, how many are stored, minutes that those took, and minutes that the
    others would take on `device`, None where no result of their kind is stored.
    """
    stored = plan.timed()
    out: dict[str, dict[str, Any]] = {}
    for cell in study.cells:
        row = out.setdefault(
            cell.entry, {'entry': cell.entry, 'stored': 0, 'cells': 0, 'spent': 0.0, 'left': 0.0}
        )
        row['cells'] += 1
        try:
            took = experiments.get(cell.spec, 'never').provenance['seconds']
            row['stored'] += 1
            row['spent'] += took / 60
        except NotStored:
            more = plan.seconds(cell.spec, device, stored)
            if more is None or row['left'] is None:
                row['left'] = None
            else:
                row['left'] += more / 60
    return list(out.values())
