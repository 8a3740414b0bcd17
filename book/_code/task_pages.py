"""What the pages of pretext tasks show: views, numbers, hardest and easiest images, comparisons."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape

import by_task
import gallery
import numpy as np
from IPython.display import display

from pt4al.experiments import runs
from pt4al.experiments.store import Result
from pt4al.figures import Figure, drawing, loss_histogram
from pt4al.figures.representation import task_colours
from pt4al.report import fmt_interval, show, table

SETS = {'cifar10-mini': 'CIFAR-10-mini', 'cifar10': 'CIFAR-10', 'digits-sound': 'digits with sound'}
Rows = Mapping[str, Sequence[by_task.Row]]


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
        task = r.spec.pretext.task
        caption = (
            f'The first image of each class of CIFAR-10-mini, on which {task} was trained, and its '
            f'output (seed {r.spec.seed}).'
        )
        show(gallery.painted(r), caption, f'painted-{_anchor(task)}')
    return made


def numbers(stored: Rows, tasks: Sequence[str], others: str = '') -> None:
    """Correlation, reliability and probe of each task; `others` names its further readings."""
    for dataset, rows in stored.items():
        if rows:
            fitted = 100 * min(main.summary['accuracy_in'] for row in rows for main in row.main)
            caption = (
                f'{SETS[dataset]}: Spearman rho of each loss and the out-of-fold main-task loss, '
                'and its mean within a class; reliability (correlation of runs that differ in '
                'seed) and attenuation ceiling; accuracy of a linear probe. A dash: fewer than two '
                f'runs, or not tested. The classifiers fit {fitted:.0f} % of the images; a verdict '
                'on claim 1 needs 90 %.'
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
        display(table(further, f'Spearman rho with the main-task loss: {others}.'))


def extremes(stored: Rows, *tasks: str) -> None:
    """The hardest and the easiest images of these tasks, then the losses of the first."""
    rows = stored['cifar10-mini']
    for row in rows:
        if row.task in tasks and (picture := gallery.extremes(row.pretext[0])) is not None:
            caption = (
                f'The ten hardest and ten easiest of {row.rho.n:,} images of CIFAR-10-mini for '
                f'{row.task}, with class and loss; one run, seed {row.pretext[0].spec.seed}.'
            )
            show(picture, caption, f'extremes-{_anchor(row.task)}')
    for row in rows[:1]:
        loss = row.pretext[0].tables['images']['loss']
        caption = f'Losses of {len(loss):,} images, one run, seed {row.pretext[0].spec.seed}.'
        show(loss_histogram(loss, f'{row.task} loss, CIFAR-10-mini'), caption, 'histogram')


def sources(stored: Rows) -> list[Result]:
    """Every result behind the numbers."""
    return [r for rows in stored.values() for row in rows for r in (*row.pretext, *row.probes)]


def _anchor(task: str) -> str:
    return re.sub('[^a-z0-9]+', '-', task)


# --- all tasks in one figure ---

LEFT, RIGHT = -0.22, 1.22  # ends of the axis in shares of the points' spread: names need room
PLACES = {  # of a label beside its point: to the right (1) or left (-1), above or below
    'top center': (0, 1),
    'bottom center': (0, -1),
    'middle right': (1, 0),
    'middle left': (-1, 0),
    'top right': (1, 1),
    'top left': (-1, 1),
    'bottom right': (1, -1),
    'bottom left': (-1, -1),
}


def probe_against_rho(
    points: Sequence[tuple[str, Sequence[float], Sequence[float]]],
    title: str,
    xlabel: str,
    ylabel: str = 'rank correlation of pretext and main-task loss',
) -> Figure:
    """A named point a task: (task, (x, low, high), (y, low, high)); nan ends draw no error bar."""
    places = np.array([x[0] for _, x, _ in points])
    ends = [places.min() + share * (np.ptp(places) or 1) for share in (LEFT, RIGHT)]
    axes = {'xaxis': {'title.text': xlabel, 'range': ends}, 'yaxis': {'title.text': ylabel}}
    live = drawing.plot(title, height=480, showlegend=False, **axes)
    bars = [(x[0], *np.where(np.isnan(y[1:]), y[0], y[1:])) for _, x, y in points]
    places = label_places([(task, x[0], y[0]) for task, x, y in points], bars)
    words = []
    for (task, x, y), colour, place in zip(points, task_colours(p[0] for p in points), places):
        ends = drawing.interval(*x), drawing.interval(*y)
        words.append('{} at {} and {}'.format(task, *ends))
        live.add_scatter(
            x=x[:1],
            y=y[:1],
            mode='markers+text',
            text=[escape(task)],
            textposition=place,
            name=escape(task),
            marker={'size': 9, 'color': colour},
            error_x=drawing.error_bar(*([end] for end in x)),
            error_y=drawing.error_bar(*([end] for end in y)),
            hovertemplate=f'{", ".join(ends)}<extra>%{{fullData.name}}</extra>',
        )
    alt = f'{title}. {xlabel}, across, against {ylabel}, upwards: {"; ".join(words)}.'
    return Figure(live, drawing.still(live), alt)


def label_places(
    points: Sequence[tuple[str, float, float]], bars: Sequence[tuple[float, float, float]] = ()
) -> list[str]:
    """For each (text, x, y) a place where its label meets no point, no label, no upright bar (x,
    low, high) and no edge, or the place where it meets the fewest.
    """
    at = np.array([point[1:] for point in points])
    ends = np.array([(x, y) for x, *both in bars for y in both]).reshape(-1, 2)
    every = np.concatenate([at, ends])
    span = np.where(np.ptp(every, 0) > 0, np.ptp(every, 0), 1)
    at, ends = ((places - every.min(0)) / span for places in (at, ends))
    taken = [(x - 0.012, x + 0.012, y - 0.02, y + 0.02) for x, y in at]
    taken += [(x - 0.008, x + 0.008, y0, y1) for (x, y0), (_, y1) in zip(ends[::2], ends[1::2])]
    places = [''] * len(points)
    # long ones are the hardest to place
    for k in sorted(range(len(points)), key=lambda k: -len(points[k][0])):
        (x, y), wide = at[k], 0.0092 * (RIGHT - LEFT) * len(points[k][0])
        boxes, met = {}, {}
        for place, (dx, dy) in PLACES.items():
            left, low = x + wide * (dx - 1) / 2 + 0.015 * dx, y + 0.045 * (dy - 0.5)
            box = x0, x1, y0, y1 = left, left + wide, low, low + 0.045
            boxes[place] = box
            met[place] = 2 * ((x0 < LEFT) + (x1 > RIGHT))  # a name that is cut is the worst
            met[place] += sum(x0 < b and a < x1 and y0 < d and c < y1 for a, b, c, d in taken)
        places[k] = min(PLACES, key=met.__getitem__)
        taken.append(boxes[places[k]])
    return places
