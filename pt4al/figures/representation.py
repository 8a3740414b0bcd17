"""Figures of what trunks have learnt: probes by depth and by labels, invariances, neighbours, probe
against rho.

In the manner of `figures`: arrays in, `Figure` out; a colour belongs to a pretext task, its
variants share it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import cycle

import numpy as np
from numpy.typing import ArrayLike

from pt4al import stats
from pt4al.errors import Refused
from pt4al.figures.losses import (
    METHOD_COLOURS,
    OTHER_COLOURS,
    SYMBOLS,
    Figure,
    _axes,
    _contact_sheet,
    _interval,
    _legend,
    _live,
    _live_curve,
    _plain,
    _png,
)

# Colours of `METHOD_COLOURS`, told apart in colour blindness and on both grounds; methods and tasks
# share no figure.
TASK_COLOURS = {
    'none': METHOD_COLOURS['random'],
    'supervised': METHOD_COLOURS['pt4al_released'],
    'rotation': METHOD_COLOURS['pt4al'],
    'colorization': METHOD_COLOURS['least_confidence'],
    'colorization_reproduced': METHOD_COLOURS['unit_norm_confidence'],
    'jigsaw': METHOD_COLOURS['entropy'],
    'relative_position': METHOD_COLOURS['coreset'],
    'context_encoder': METHOD_COLOURS['margin'],
    'simclr': METHOD_COLOURS['badge'],
    'pirl': METHOD_COLOURS['typiclust'],
    'multitask': METHOD_COLOURS['pt4al_text'],
    'shuffle_and_learn': METHOD_COLOURS['pt4al_entropy'],
    'frame_order': METHOD_COLOURS['learning_loss'],
    'audio_visual': METHOD_COLOURS['pt4al_shuffled'],
}
# for what is neither task nor method
SHADES = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#8a8a8a', '#e69f00')


def _task_colours(names: Iterable[str]) -> list[str]:
    free = cycle(OTHER_COLOURS)
    return [TASK_COLOURS.get(name.partition(':')[0]) or next(free) for name in names]


# --- probes ---


def probe_lines(
    accuracy: Mapping[str, ArrayLike], title: str, ylabel: str = 'accuracy of a linear probe'
) -> Figure:
    """Accuracy of a linear probe on every stage of the trunk, one line a task: accuracy maps a task
    to [S, stages].

    Stage 0 is the stem, the others are residual blocks. More seeds than one give a 95% t band and a
    point each.
    """
    stages = {np.shape(np.atleast_2d(runs))[-1] for runs in accuracy.values()}
    if len(stages) != 1:
        raise Refused(
            f'probes of {sorted(stages)} stages do not make one figure: give every task [S, stages]'
        )
    ticks = ['stem', *map(str, range(1, stages.pop()))]
    return _lines(np.arange(len(ticks)), accuracy, title, 'residual block', ylabel, ticks)


def label_fractions(
    labels: ArrayLike,
    accuracy: Mapping[str, ArrayLike],
    title: str,
    ylabel: str = 'accuracy of a linear probe',
) -> Figure:
    """Accuracy of a probe of the last block against the labels it saw [F], one line a task, labels
    on a log scale.

    accuracy maps a task to [S, F].
    """
    return _lines(np.asarray(labels), accuracy, title, 'labelled images', ylabel)


def _lines(
    x: np.ndarray,
    accuracy: Mapping[str, ArrayLike],
    title: str,
    xlabel: str,
    ylabel: str,
    ticks: Sequence[str] = (),
) -> Figure:
    """Mean and 95% t band of every task's runs [S, len(x)]; x is logarithmic unless its ticks are
    named.
    """
    texts = list(ticks) or [f'{value:,}' for value in x]
    kind = 'linear' if ticks else 'log'
    live = _live(
        title,
        hovermode='closest',
        yaxis={'title.text': ylabel},
        xaxis={'title.text': xlabel, 'type': kind, 'tickvals': x, 'ticktext': texts},
    )
    figure, axes = _axes(title, xlabel, ylabel)
    axes.set_xscale(kind)
    words = []
    for (task, runs), colour, symbol in zip(
        accuracy.items(), _task_colours(accuracy), cycle(SYMBOLS)
    ):
        runs = np.atleast_2d(np.asarray(runs, np.float64))
        if runs.ndim != 2 or runs.shape[1:] != x.shape:
            raise Refused(
                f'{task}: accuracy of shape {list(runs.shape)} for {x.size} places: give [S, {x.size}]'
            )
        mean, low, high = np.array(
            [(e.value, e.low, e.high) for e in map(stats.mean_interval, runs.T)]
        ).T
        _live_curve(live, x, runs, (mean, low, high), escape(task), colour, symbol)
        axes.plot(x, mean, color=colour, marker=SYMBOLS[symbol], markersize=4, label=_plain(task))
        if len(runs) > 1:
            axes.plot(x, runs.T, '.', color=colour, markersize=3, alpha=0.5)
            axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        places = sorted({0, int(mean.argmax()), len(x) - 1})
        words.append(
            f'{task} {", ".join(f"{mean[k]:.3g} at {texts[k]}" for k in places)} '
            f'({len(runs)} seed{"s" * (len(runs) > 1)})'
        )
    axes.set_xticks(x, texts)
    axes.set_xticks([], minor=True)
    _legend(figure)
    return Figure(
        live, _png(figure), f'{title}. Lines of {ylabel} by {xlabel}: {"; ".join(words)}.'
    )


# Where a label may stand beside its point, by plotly's name: to the right (1) or left (-1), above
# or below.
LABEL_PLACES = {
    'top center': (0, 1),
    'bottom center': (0, -1),
    'middle right': (1, 0),
    'middle left': (-1, 0),
    'top right': (1, 1),
    'top left': (-1, 1),
    'bottom right': (1, -1),
    'bottom left': (-1, -1),
}
STILL_PLACES = {
    place: {
        'xytext': (6 * dx, 6 * dy),
        'ha': ('right', 'center', 'left')[dx + 1],
        'va': ('top', 'center', 'bottom')[dy + 1],
    }
    for place, (dx, dy) in LABEL_PLACES.items()
}


def probe_against_rho(
    points: Iterable[tuple[str, Sequence[float], Sequence[float]]],
    title: str,
    xlabel: str = 'accuracy of a linear probe',
    ylabel: str = 'rank correlation of pretext and main-task loss',
) -> Figure:
    """One named point a task: (task, (x, low, high), (y, low, high)); nan ends draw no error bar."""
    points = [(task, tuple(map(float, x)), tuple(map(float, y))) for task, x, y in points]
    if not points:
        raise Refused('no points to draw: give at least one (task, (x, low, high), (y, low, high))')
    live = _live(
        title,
        height=480,
        hovermode='closest',
        showlegend=False,
        xaxis={'title.text': xlabel},
        yaxis={'title.text': ylabel},
    )
    figure, axes = _axes(title, xlabel, ylabel)
    colours = _task_colours(task for task, *_ in points)
    places = _label_places([(task, x[0], y[0]) for task, x, y in points])
    for (task, x, y), colour, place in zip(points, colours, places):
        bars = {
            f'error_{name}': {
                'type': 'data',
                'array': [up],
                'arrayminus': [down],
                'thickness': 1.2,
                'width': 4,
            }
            for name, (down, up) in (('x', _reach(*x)), ('y', _reach(*y)))
        }
        live.add_scatter(
            x=x[:1],
            y=y[:1],
            mode='markers+text',
            text=[escape(task)],
            textposition=place,
            name=escape(task),
            marker={'size': 9, 'color': colour},
            **bars,
            hovertemplate=f'{_interval(*x)}, {_interval(*y)}<extra>%{{fullData.name}}</extra>',
        )
        axes.errorbar(
            x[0],
            y[0],
            xerr=np.c_[_reach(*x)].T,
            yerr=np.c_[_reach(*y)].T,
            fmt='o',
            color=colour,
            capsize=3,
        )
        axes.annotate(
            _plain(task),
            (x[0], y[0]),
            textcoords='offset points',
            fontsize=8,
            **STILL_PLACES[place],
        )
    words = '; '.join(f'{task} at {_interval(*x)} and {_interval(*y)}' for task, x, y in points)
    return Figure(
        live, _png(figure), f'{title}. {xlabel}, across, against {ylabel}, upwards: {words}.'
    )


def _label_places(points: Sequence[tuple[str, float, float]]) -> list[str]:
    """For each (text, x, y) a place where its label meets no point, no label and no edge, as far as
    there is one.
    """
    at = np.array([point[1:] for point in points])
    at = (at - at.min(0)) / np.where(np.ptp(at, 0) > 0, np.ptp(at, 0), 1)
    taken = [(x - 0.012, x + 0.012, y - 0.02, y + 0.02) for x, y in at]
    places = [''] * len(points)
    # long ones are the hardest to place
    for k in sorted(range(len(points)), key=lambda k: -len(points[k][0])):
        # of a line, in shares of the plot
        (x, y), wide, high = at[k], 0.014 * len(points[k][0]), 0.045
        boxes = {
            place: (
                x + wide * (dx - 1) / 2 + 0.015 * dx,
                x + wide * (dx + 1) / 2 + 0.015 * dx,
                y + 0.045 * dy - high / 2,
                y + 0.045 * dy + high / 2,
            )
            for place, (dx, dy) in LABEL_PLACES.items()
        }
        free = [
            place
            for place, (x0, x1, y0, y1) in boxes.items()
            if x0 > -0.06
            and x1 < 1.06
            and not any(x0 < b and a < x1 and y0 < d and c < y1 for a, b, c, d in taken)
        ]
        places[k] = (free or ['top center'])[0]
        taken.append(boxes[places[k]])
    return places


def _reach(value: float, low: float, high: float) -> tuple[float, float]:
    return float(np.nan_to_num(value - low)), float(np.nan_to_num(high - value))


# --- invariance ---


def invariance_histogram(
    low: ArrayLike,
    images: Mapping[str, ArrayLike],
    title: str,
    xlabel: str = 'distance of the features, in medians between two images',
) -> Figure:
    """How far images move when they are changed: bins that begin at `low` [B], all of one width;
    images maps to [B].

    After Misra & van der Maaten (2020), figure 7.
    """
    low = np.asarray(low, np.float64)
    counts = {name: np.asarray(count) for name, count in images.items()}
    if wrong := [
        name for name, count in counts.items() if count.shape != low.shape or not count.sum()
    ]:
        raise Refused(
            f'{wrong[0]}: counts of shape {list(counts[wrong[0]].shape)} for {low.size} bins, or all zero'
        )
    edges = np.append(low, 2 * low[-1] - low[-2])
    live = _live(
        title,
        height=400,
        hovermode='closest',
        xaxis={'title.text': xlabel},
        yaxis={'title.text': 'share of images', 'rangemode': 'tozero', 'tickformat': '.0%'},
    )
    figure, axes = _axes(title, xlabel, 'share of images')
    words = []
    for (name, count), colour in zip(counts.items(), cycle(SHADES)):
        share = count / count.sum()
        live.add_scatter(
            x=edges,
            y=np.append(share, share[-1]),
            mode='lines',
            name=escape(name),
            line={'shape': 'hv', 'width': 1.5, 'color': colour},
            fill='tozeroy',
            hovertemplate='%{y:.1%} in the bin from %{x:.3g}<extra>%{fullData.name}</extra>',
        )
        axes.stairs(share, edges, color=colour, label=_plain(name), linewidth=1.5)
        middle = np.searchsorted(share.cumsum(), 0.5)
        words.append(f'{name} mostly near {(edges[middle] + edges[middle + 1]) / 2:.2f}')
    _legend(figure)
    return Figure(
        live,
        _png(figure),
        f'{title}. Histograms of {xlabel}, by their median bin: {"; ".join(words)}.',
    )


# --- neighbours ---


def neighbour_gallery(
    queries: np.ndarray,
    near: np.ndarray,
    names: Sequence[str],
    captions: Sequence[Sequence[str]],
    title: str,
) -> Figure:
    """A row for each query [q,3,h,w] uint8 with its name, then its neighbours [q,k,3,h,w] uint8
    with their captions.
    """
    if not 1 <= len(queries) == len(near) == len(names) == len(captions):
        raise Refused(
            f'{len(queries)} queries, {len(near)} rows of neighbours, {len(names)} names, {len(captions)} rows '
            'of captions: give one of each a query'
        )
    rows = [np.concatenate([query[None], row]) for query, row in zip(queries, near)]
    below = [[f'{name}?', *row] for name, row in zip(names, captions)]
    shown = [', '.join(' '.join(text.split()) for text in row) for row in captions]
    words = '; '.join(f'{name}: {row}' for name, row in zip(names, shown))
    return Figure(
        None,
        _contact_sheet(rows, below, title),
        textwrap.shorten(
            f'{title}. Test images, each followed by its {near.shape[1]} nearest training images: {words}.',
            1500,
        ),
    )
