"""What the page of a pretext task shows: its views, its numbers, its hardest and easiest images."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import gallery
from IPython.display import display

from pt4al.claims import by_task
from pt4al.experiments import runs
from pt4al.experiments.store import Result
from pt4al.figures.losses import loss_histogram
from pt4al.report.page import fmt_interval, show, table

SETS = {'cifar10-mini': 'CIFAR-10-mini', 'cifar10': 'CIFAR-10', 'digits-sound': 'digits with sound'}
Found = Mapping[str, Sequence[by_task.Row]]


def find(tasks: Sequence[str], *datasets: str) -> dict[str, list[by_task.Row]]:
    """What is stored of these tasks on each data set; usually on CIFAR-10-mini and CIFAR-10."""
    return {d: by_task.rows(d, tasks) for d in datasets or ('cifar10-mini', 'cifar10')}


def views(task: str, dataset: str = 'cifar10-mini') -> None:
    """What the network is shown; nothing where the images are not at hand."""
    if (picture := gallery.views(dataset, task)) is not None:
        caption = (
            f'Three images, and what {task} shows the network of each in one training batch; every '
            'view is stretched to the full range of brightness.'
        )
        show(picture, caption, f'views-{_anchor(task)}')


def painted(tasks: Sequence[str]) -> list[Result]:
    """What tasks that paint made of an image of each class; the results behind the pictures."""
    made = [r for task in tasks for r in runs('pictures', dataset='cifar10-mini', task=task)[:1]]
    for r in made:
        task = r.spec['pretext']['task']
        caption = (
            f'The first image of each class of CIFAR-10-mini, on which {task} was trained, and its '
            f'output (seed {r.spec["seed"]}).'
        )
        show(gallery.painted(r), caption, f'painted-{_anchor(task)}')
    return made


def numbers(stored: Found, tasks: Sequence[str], others: str = '') -> None:
    """Correlation, reliability and probe of each task; `others` names its further readings."""
    for dataset, rows in stored.items():
        if rows:
            caption = (
                f'{SETS[dataset]}: Spearman rho of each loss and the out-of-fold classification '
                'loss; reliability (correlation of runs that differ in seed) and the attenuation '
                'ceiling. A dash: fewer than two runs.'
            )
            display(table(by_task.table(dataset, tuple(tasks)), caption))
    further = [
        {
            'data set': SETS[dataset],
            'task': row.task,
            'measure': name,
            'rho [95 % interval]': fmt_interval(e),
        }
        for dataset, rows in stored.items()
        for row in rows
        for name, e in row.others.items()
    ]
    if others and further:
        display(table(further, f'The same for {others}.'))


def extremes(stored: Found, *tasks: str) -> None:
    """The hardest and the easiest images of these tasks, then the losses of the first."""
    rows = stored['cifar10-mini']
    for row in rows:
        if row.task in tasks and (picture := gallery.extremes(row.pretext[0])) is not None:
            caption = (
                f'The ten hardest and ten easiest of {row.rho.n:,} images of CIFAR-10-mini for '
                f'{row.task}, with class and loss; one run, seed {row.pretext[0].spec["seed"]}.'
            )
            show(picture, caption, f'extremes-{_anchor(row.task)}')
    for row in rows[:1]:
        loss = row.pretext[0].tables['images']['loss']
        caption = f'Losses of {len(loss):,} images, one run, seed {row.pretext[0].spec["seed"]}.'
        show(loss_histogram(loss, f'{row.task} loss, CIFAR-10-mini'), caption, 'histogram')


def sources(stored: Found) -> list[Result]:
    """Every result behind the numbers."""
    return [r for rows in stored.values() for row in rows for r in (*row.pretext, *row.probes)]


def _anchor(task: str) -> str:
    return re.sub('[^a-z0-9]+', '-', task)
