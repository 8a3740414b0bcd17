"""Figures of losses, images and strategies: arrays in, `Figure` out.

Shapes: N images, C classes, S seeds.
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
from pt4al.figures import drawing
from pt4al.figures.drawing import CLASS_COLOURS, INK, TEMPLATE, Figure

MAIN_AXIS, PRETEXT_AXIS = 'main-task loss, normalised rank', 'pretext loss, normalised rank'
HOVER = (
    '<b>%{fullData.name}</b>, image %{customdata[0]:,d}'
    '<br>main-task loss %{customdata[1]:.3g}, rank %{x:,d} of COUNT'
    '<br>pretext loss %{customdata[2]:.3g}, rank %{y:,d} of COUNT<extra></extra>'
)


# --- losses ---


def loss_rank_scatter(
    main_loss: ArrayLike,
    pretext_loss: ArrayLike,
    labels: ArrayLike,
    classes: Sequence[str],
    index: ArrayLike,
    title: str,
) -> Figure:
    """Normalised rank of the main-task loss against that of the pretext loss, one point an image
    (paper, figure 1).

    Losses [N], labels [N] that index `classes`, index [N] of each image in its data set. Rank 1 is
    the smallest loss; `customdata` holds (index, main-task loss, pretext loss).
    """
    main, pretext, labels, index = map(np.asarray, (main_loss, pretext_loss, labels, index))
    n, kind = len(main), np.uint16 if len(main) < 2**16 else np.uint32
    x, y = (np.round(stats.normalised_ranks(losses) * n) for losses in (main, pretext))
    data = np.stack([index, main, pretext], axis=1).astype(np.float32)
    hover = {'mode': 'markers', 'hovertemplate': HOVER.replace('COUNT', f'{n:,}')}
    ticks = {  # ranks are whole numbers, half the bytes of fractions
        'range': [-0.01 * n, 1.01 * n],
        'tickvals': [k * n / 5 for k in range(6)],
        'ticktext': [f'{k / 5:g}' for k in range(6)],
    }
    live = drawing.plot(
        title,
        height=540,
        meta={'images': n},
        xaxis={'title.text': MAIN_AXIS, **ticks},
        yaxis={'title.text': PRETEXT_AXIS, **ticks},
        template={**TEMPLATE, 'data': {'scattergl': [hover]}},
        legend={'itemsizing': 'constant', 'y': -0.14},
        showlegend=len(classes) <= 2 * len(CLASS_COLOURS),
    )
    layers = max(1, 60 // len(classes))  # classes drawn in turns, or the last would hide the others
    for layer in range(layers):
        for code, (name, colour) in enumerate(zip(classes, cycle(CLASS_COLOURS))):
            rows = np.flatnonzero(labels == code)[layer::layers]
            if rows.size:
                live.add_scattergl(
                    x=x[rows].astype(kind),
                    y=y[rows].astype(kind),
                    customdata=data[rows],
                    name=escape(name),
                    legendgroup=escape(name),
                    showlegend=layer == 0,
                    marker={'size': 4 if n > 5000 else 6, 'opacity': 0.55, 'color': colour},
                )
    alt = (
        f'{title}. Scatter plot of {n:,} images: {MAIN_AXIS}, across, against {PRETEXT_AXIS}, '
        f'upwards. Spearman correlation {stats.spearman(main, pretext):.2f}.'
    )
    figure, axes = drawing.canvas(title.replace('$', r'\$'), MAIN_AXIS, PRETEXT_AXIS, (6.4, 5.2))
    cells = axes.hexbin(
        x / n, y / n, gridsize=50 if n > 5000 else 25, mincnt=1, cmap='viridis', extent=(0, 1, 0, 1)
    )
    figure.colorbar(cells, label='images in a cell')
    return Figure(live, drawing.png(figure), alt)


def loss_histogram(losses: ArrayLike, title: str, log_x: bool = False) -> Figure:
    """Histogram of losses [N] in 60 bins of equal width or, with `log_x`, of equal ratio; the title
    then counts the losses of zero, which have no place.
    """
    losses = np.asarray(losses)
    shown = losses[losses > 0] if log_x else losses
    if not shown.size:
        raise Refused('no loss is above zero: draw this histogram without log_x')
    hidden = losses.size - shown.size
    places = (np.geomspace if log_x else np.linspace)(shown.min(), shown.max(), 61)
    counts, edges = np.histogram(shown, places)
    title = f'{title} ({hidden:,} losses not above zero are not drawn)' if hidden else title
    kind = 'log' if log_x else 'linear'
    live = drawing.plot(
        title,
        height=360,
        hovermode='x',
        xaxis={'title.text': 'loss', 'type': kind, 'exponentformat': 'power'},
        yaxis={'title.text': 'images', 'rangemode': 'tozero'},
    )
    drawing.add_steps(live, edges, counts, 'images', CLASS_COLOURS[0], ',d')
    low, middle, high = np.quantile(losses, [0.05, 0.5, 0.95])
    spread = f'median {middle:.3g}, 5% to 95% range {low:.3g} to {high:.3g}'
    alt = f'{title}. Histogram of {losses.size:,} losses: {spread}.'
    return Figure(live, drawing.still(live, (6.4, 3.4)), alt)


# --- pictures ---


def picture_grid(
    pixels: np.ndarray, captions: Sequence[str], columns: int, title: str, alt: str
) -> Figure:
    """Images [n,3,h,w] uint8 in rows of `columns`, each above its caption."""
    rows = [slice(start, start + columns) for start in range(0, len(pixels), columns)]
    sheet = [pixels[row] for row in rows], [captions[row] for row in rows]
    return Figure(None, drawing.contact_sheet(*sheet, title), alt)


def turns(pixels: np.ndarray) -> Figure:
    """Each image [n,3,h,w] uint8 in the four turns of the rotation task (Gidaris et al. 2018)."""
    turned = [np.stack([np.rot90(image, k, axes=(1, 2)) for k in range(4)]) for image in pixels]
    captions = [[''] * 4] * (len(pixels) - 1) + [[f'{90 * k}°' for k in range(4)]]
    alt = f'{len(pixels)} images, each rotated by 0, 90, 180 and 270 degrees counter-clockwise.'
    return Figure(None, drawing.contact_sheet(turned, captions), alt)


# --- comparisons ---


def learning_curves(
    budgets: ArrayLike,
    accuracy: Mapping[str, ArrayLike],
    title: str,
    ylabel: str = 'test accuracy',
    xlabel: str = 'labelled images',
) -> Figure:
    """Mean accuracy of each arm {arm: [S, cycles]} against its labels [cycles], with a 95% t band
    over seeds and a point for every seed.
    """
    colours = drawing.colours(accuracy)
    return drawing.run_lines(budgets, accuracy, title, (xlabel, ylabel), colours, tickformat=',d')


def class_balance(
    counts: Mapping[str, ArrayLike], classes: Sequence[str], title: str = 'Labels by class'
) -> Figure:
    """Grouped bars: images of each class [C], numbers or means, that every arm has picked."""
    arms = {arm: np.asarray(count) for arm, count in counts.items()}
    slanted = 5 * max(map(len, classes))  # pixels that the longest class name needs below the bars
    live = drawing.plot(
        title,
        height=360 + slanted,
        below=50 + slanted,
        hovermode=None,
        barmode='group',
        xaxis={'tickangle': -45},
        yaxis={'title.text': 'images'},
        legend={'yref': 'container', 'y': 0, 'yanchor': 'bottom'},
    )
    words = []
    for (arm, count), colour in zip(arms.items(), drawing.colours(arms)):
        live.add_bar(
            x=[escape(name) for name in classes],
            y=count,
            name=escape(arm),
            marker_color=colour,
            hovertemplate='%{x}: %{y:,.1~f} images<extra>%{fullData.name}</extra>',
        )
        ends = [(count[k], classes[k]) for k in (int(count.argmin()), int(count.argmax()))]
        low, high = (f'{f"{n:,.1f}".removesuffix(".0")} ({name})' for n, name in ends)
        words.append(f'{arm} from {low} to {high}')
    alt = f'{title}. Images in each of {len(classes)} classes: {"; ".join(words)}.'
    return Figure(live, drawing.still(live, (max(6.4, 0.3 * len(classes)), 3.6)), alt)


def rank_forest(
    rows: Iterable[tuple[str, float, float, float]],
    title: str,
    xlabel: str = 'Spearman rank correlation',
    marks: Mapping[str, float] | None = None,
    ceilings: Sequence[float | None] = (),
) -> Figure:
    """Each (label, value, low, high) as a point with its interval, if any, first row on top;
    `marks` are upright lines by name, `ceilings` short bars by row.
    """
    rows, marks = list(rows), marks or {}
    value, low, high = np.array([row[1:] for row in rows], np.float64).T
    ends = [drawing.interval(*row[1:]) for row in rows]
    wrapped = [textwrap.wrap(label, 24, break_on_hyphens=False) for label, *_ in rows]
    step = max(34, 17 * max(map(len, wrapped)))  # pixels, so that no label runs into the next
    live = drawing.plot(
        title,
        height=130 + step * len(rows),
        showlegend=False,
        xaxis={'title.text': xlabel, 'zeroline': True, 'zerolinecolor': INK},
        yaxis={
            'tickvals': list(range(len(rows))),
            'range': [len(rows) - 0.4, -0.6],
            'showgrid': False,
            'ticktext': ['<br>'.join(map(escape, lines)) for lines in wrapped],
        },
    )
    live.add_scatter(
        x=value,
        y=np.arange(len(rows)),
        mode='markers',
        text=ends,
        marker={'size': 9, 'color': CLASS_COLOURS[0]},
        error_x=drawing.error_bar(value, low, high),
        hovertemplate='%{text}<extra></extra>',
    )
    tops = {place: x for place, x in enumerate(ceilings) if x is not None}
    live.add_scatter(
        x=list(tops.values()),
        y=list(tops),
        mode='markers',
        marker={'symbol': 'line-ns-open', 'size': 14, 'color': INK, 'line.width': 2},
        hovertemplate='ceiling %{x:.2f}<extra></extra>',
    )
    for name, x in marks.items():  # the names of two stand back to back
        side = 'center' if len(marks) == 1 else 'right' if x == min(marks.values()) else 'left'
        live.add_vline(
            x=x,
            line={'dash': 'dash', 'width': 1, 'color': INK},
            annotation={'text': escape(name), 'yshift': 14, 'xanchor': side},
        )
    words = '; '.join(
        f'{label} {text}' + (f', ceiling {tops[place]:.2f}' if place in tops else '')
        for place, ((label, *_), text) in enumerate(zip(rows, ends))
    )
    marked = ''.join(f' A line at {x:.2f}: {name}.' for name, x in marks.items())
    still = drawing.still(live, (6.4, 1.3 + 0.32 * len(rows)))
    return Figure(live, still, f'{title}. {xlabel}: {words}.{marked}')
