"""What the stored results say of each pretext task: its correlation with the main loss, its reliability, its features.

One row a task, made the same way for all, so that chapters and the comparison read the same numbers.
"""
from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from . import bench, stats
from .experiments import runs
from .stats import Estimate
from .store import Result
from .tasks import TASKS


@dataclass(frozen=True)
class Row:
    """One task on one data set; fields are None where the store lacks the runs that they need."""

    task: str
    pretext: tuple[Result, ...]
    rho: Estimate                          # of the task's loss and the out-of-fold main loss
    others: dict[str, Estimate]            # the same for the task's further readings, by column
    within: float                          # mean rho within a class, first runs
    reliability: float | None              # between pretext seeds
    main_reliability: float | None
    probes: tuple[Result, ...]             # evaluations of the representation

    @property
    def ceiling(self) -> float | None:
        """Largest correlation these reliabilities allow between single runs."""
        if self.reliability is None or self.main_reliability is None or min(self.reliability, self.main_reliability) <= 0:
            return None
        return stats.ceiling(self.reliability, self.main_reliability)

    def probe(self, name: str = 'accuracy') -> float | None:
        """Mean of a summary value of the representation's evaluations over pretext seeds."""
        return float(np.mean([r.summary[name] for r in self.probes])) if self.probes else None


def pretext_runs(dataset: str, task: str) -> list[Result]:
    """The stored runs of a task with the data set's default parameters, by seed."""
    return runs('pretext', dataset=dataset, task=task)


@cache
def row(dataset: str, task: str) -> Row | None:
    """What is stored of a task, or None without both a pretext run and a main run."""
    pretext, main = pretext_runs(dataset, task), runs('main', dataset=dataset)
    if not pretext or not main:
        return None
    out = np.stack([r.tables['images']['loss_out'] for r in main])
    label = main[0].tables['images']['label']
    columns = {name: np.stack([r.tables['images'][name] for r in pretext])
               for name in pretext[0].tables['images'] if name != 'label' and not re.fullmatch(r'loss_\d+', name)}
    loss = columns.pop('loss')
    return Row(task, tuple(pretext), stats.rank_correlation(loss, out),
               {name: stats.rank_correlation(values, out, draws=300) for name, values in columns.items()},
               stats.between_within(loss[0], out[0], label).within_class_rho,
               stats.reliability(loss) if len(loss) > 1 else None, stats.reliability(out) if len(out) > 1 else None,
               tuple(runs('representation', dataset=dataset, task=task)))


def rows(dataset: str, tasks: tuple[str, ...] = tuple(TASKS)) -> list[Row]:
    """The rows of all tasks that have results, in the order of the registry."""
    return [found for task in tasks if (found := row(dataset, task)) is not None]


def speed(task: str) -> dict[str, Any]:
    """Lines of code and images per second of a task, from the stored benchmark; empty where there is none."""
    content = bench.kept('tasks') or {'rows': []}
    return next((r for r in content['rows'] if r['task'] == task), {})


def table(dataset: str, tasks: tuple[str, ...] = tuple(TASKS)) -> list[dict[str, Any]]:
    """The comparison of tasks as rows to print; a lack is None, which prints as a dash."""
    from .report import fmt_interval
    return [{'task': r.task, 'lines of code': speed(r.task).get('lines'),
             'images/s': speed(r.task).get('images_per_second'), 'rho [95 % interval]': fmt_interval(r.rho),
             'within classes': r.within, 'reliability': r.reliability, 'ceiling': r.ceiling,
             'probe accuracy, %': None if r.probe() is None else 100 * r.probe(), 'seeds': len(r.pretext)}
            for r in rows(dataset, tasks)]
