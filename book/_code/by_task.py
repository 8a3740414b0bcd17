"""Each pretext task in one row: correlation with the main-task loss, reliability, features.

Chapters and the comparison of all tasks read these same rows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from pt4al import data, stats
from pt4al.claims.sensitivity import ceiling
from pt4al.experiments import runs, store
from pt4al.experiments.store import Result
from pt4al.report import fmt_interval
from pt4al.stats import Estimate
from pt4al.tasks import TASKS

# of an evaluation on another data set
TRANSFER = {'images': 2000, 'fractions': (10,), 'finetune': ()}


@dataclass(frozen=True)
class Row:
    """One task on one data set; fields are None where the store lacks the runs that they need."""

    task: str
    pretext: tuple[Result, ...]
    rho: Estimate  # of the task's loss and the out-of-fold main-task loss
    others: dict[str, Estimate]  # the same for the task's further readings, by column
    within: float  # mean rho within a class, first runs
    reliability: float | None  # between pretext seeds
    main_reliability: float | None
    main: tuple[Result, ...]
    probes: tuple[Result, ...]  # evaluations of the representation

    @property
    def ceiling(self) -> float | None:
        """Largest correlation these reliabilities allow between single runs."""
        return ceiling(self.reliability, self.main_reliability)

    def probe(self, name: str = 'accuracy') -> float | None:
        """Mean of a summary value of the representation's evaluations over pretext seeds."""
        return float(np.mean([r.summary[name] for r in self.probes])) if self.probes else None


def transfers(dataset: str, task: str, other: str) -> list[Result]:
    """Evaluations of a task's trunk on another data set, without fine-tuning and with a tenth of
    its labels.
    """
    return runs('representation', dataset=dataset, task=task, transfer=other, **TRANSFER)


def row(dataset: str, task: str) -> Row | None:
    """What is stored of a task, or None without both a pretext run and a main run."""
    pretext, main = runs('pretext', dataset=dataset, task=task), runs('main', dataset=dataset)
    if not pretext or not main:
        return None
    probes = runs('representation', dataset=dataset, task=task)
    return _row(task, *(tuple(r.folder for r in part) for part in (pretext, main, probes)))


@cache
def _row(task: str, *folders: tuple[Path, ...]) -> Row:
    """The row of these pretext, main and representation results; bootstraps take seconds."""
    pretext, main, probes = (tuple(map(store.read, part)) for part in folders)
    out = np.stack([r.tables['images']['loss_out'] for r in main])
    label = main[0].tables['images']['label']
    columns = {
        name: np.stack([r.tables['images'][name] for r in pretext])
        for name in pretext[0].tables['images']
        if name != 'label'
        and not re.fullmatch(r'loss_\d+', name)
        and all(name in r.tables['images'] for r in pretext)
    }
    loss = columns.pop('loss')
    return Row(
        task,
        pretext,
        stats.rank_correlation(loss, out),
        {name: stats.rank_correlation(values, out, draws=300) for name, values in columns.items()},
        stats.between_within(loss[0], out[0], label).within_class_rho,
        stats.reliability(loss) if len(loss) > 1 else None,
        stats.reliability(out) if len(out) > 1 else None,
        main,
        probes,
    )


@cache
def confounders(dataset: str) -> np.ndarray | None:
    """Brightness, contrast and colourfulness of every training image: [N,3]; None where the images
    are not at hand.

    Mean and standard deviation of the mean channel, and the mean distance of the channels from it,
    in grey-levels.
    """
    if not data.available(dataset):
        return None
    pixels = data.arrays(dataset)[0].pixels[:, :3].astype('float32')
    grey = pixels.mean(1, keepdims=True)
    return np.stack(
        [grey.mean((1, 2, 3)), grey.std((1, 2, 3)), np.abs(pixels - grey).mean((1, 2, 3))], 1
    )


def partial(r: Row) -> Estimate | None:
    """The row's rho at equal brightness, contrast and colourfulness; None where the images are not
    at hand.
    """
    known = confounders(r.pretext[0].spec.dataset)
    if known is None:
        return None
    loss, out = (
        np.stack([run.tables['images'][name] for run in side])
        for side, name in ((r.pretext, 'loss'), (r.main, 'loss_out'))
    )
    return stats.partial_rank_correlation(loss, out, known, draws=200)


def rows(dataset: str, tasks: tuple[str, ...] = tuple(TASKS)) -> list[Row]:
    """The rows of all tasks that have results, in the order of the registry."""
    return [of_task for task in tasks if (of_task := row(dataset, task)) is not None]


def table(dataset: str, tasks: tuple[str, ...] = tuple(TASKS)) -> list[dict[str, Any]]:
    """The comparison of tasks as rows to print; a lack is None, which prints as a dash."""
    return [
        {
            'task': r.task,
            'rho [95 % interval]': fmt_interval(r.rho),
            'within classes': _rounded(r.within),
            'reliability': _rounded(r.reliability),
            'ceiling': _rounded(r.ceiling),
            'probe, %': None if (p := r.probe()) is None else round(100 * p, 1),
            'seeds': len(r.pretext),
        }
        for r in rows(dataset, tasks)
    ]


def _rounded(value: float | None, digits: int = 2) -> float | None:
    return None if value is None else round(value, digits)
