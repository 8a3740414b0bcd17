"""Figures: arrays in, `Figure` out. One look for all: a colour belongs to a method or a class, and
never to a position.

Shapes: N images, C classes, S seeds. Neither plotly nor matplotlib is imported before a factory is
called.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

from pt4al import stats
from pt4al.errors import Refused

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from matplotlib.axes import Axes

# Okabe & Ito (2008) without yellow and black, then Paul Tol's muted scheme: told apart by
# colour-blind readers, and
# seen on white as on near-black. From `pt4al_released` on: the colours farthest from all before
# them (Oklab) in normal
# vision and in three colour blindnesses (Machado et al. 2009), with a contrast above 2.25 on both
# grounds.
METHOD_COLOURS = {
    'random': '#8a8a8a',
    'pt4al': '#d55e00',
    'least_confidence': '#0072b2',
    'margin': '#56b4e9',
    'entropy': '#009e73',
    'learning_loss': '#cc79a7',
    'coreset': '#e69f00',
    'badge': '#aa4499',
    'typiclust': '#999933',
    'probcover': '#cc6677',
    'pt4al_released': '#694b2d',
    'pt4al_random': '#9600ff',
    'pt4al_easiest': '#960078',
    'pt4al_text': '#2d3cc3',
    'pt4al_shuffled': '#96b487',
    'pt4al_entropy': '#b41e5a',
    'pt4al_unit_norm': '#8787ff',
    'pt4al_every_kth': '#875a00',
    'pt4al_first_k': '#f000d2',
    'unit_norm_confidence': '#d296c3',
    'balanced_least_confidence': '#7878d2',
    'bald': '#8700a5',
    'coregcn': '#5f8700',
    'class_matched': '#96694b',
    'class_even': '#4b9696',
    'pt4al_class_even': '#005a5a',
    'pt4al_typiclust': '#a55aff',
    'pt4al_batch5_every_kth': '#785a78',
    'pt4al_released_cold': '#ff693c',
    'pt4al_reproduced': '#2d6e3c',
}
# Paul Tol's bright scheme, for what is no method
OTHER_COLOURS = ('#4477aa', '#ccbb44', '#228833', '#ee6677', '#66ccee')
# Petroff (2021), 'Accessible color sequences for data visualization'; repeats after ten classes.
CLASS_COLOURS = (
    '#3f90da',
    '#ffa90e',
    '#bd1f01',
    '#94a4a2',
    '#832db6',
    '#a96b59',
    '#e76300',
    '#b9ac70',
    '#717581',
    '#92dadd',
)
# plotly's name: matplotlib's
SYMBOLS = {'circle': 'o', 'square': 's', 'diamond': 'D', 'triangle-up': '^', 'x': 'X'}
# on a page, report.js puts the theme's own text colour over INK
INK, GRID = '#767676', 'rgba(128,128,128,0.25)'
TEMPLATE = {
    'layout': {
        'font': {'family': 'system-ui, sans-serif', 'size': 13, 'color': INK},
        'paper_bgcolor': 'rgba(0,0,0,0)',
        'plot_bgcolor': 'rgba(0,0,0,0)',
        'title': {
            'x': 0,
            'xanchor': 'left',
            'y': 1,
            'yanchor': 'top',
            'pad': {'t': 22},
            'font': {'size': 15},
        },
        'hoverlabel': {
            'bgcolor': '#222222',
            'bordercolor': '#222222',
            'font': {'color': '#ffffff'},
            'align': 'left',
        },
        'legend': {'orientation': 'h', 'x': 0, 'y': -0.2, 'yanchor': 'top'},
        **{
            axis: {
                'gridcolor': GRID,
                'linecolor': GRID,
                'zeroline': False,
                'ticks': 'outside',
                'tickcolor': GRID,
                'automargin': True,
                'title': {'standoff': 8},
            }
            for axis in ('xaxis', 'yaxis')
        },
    }
}
# pixels in a still: width of an image, space between two, of a letter, a line
TILE, GAP, LETTER, LINE = 96, 8, 7, 17
MAIN_AXIS, PRETEXT_AXIS = 'main-task loss, normalised rank', 'pretext loss, normalised rank'


@dataclass(frozen=True)
class Figure:
    """One figure three times: to explore, to print, to hear."""

    live: go.Figure | None  # None where there is nothing to explore
    still: bytes  # PNG on white
    alt: str  # what the picture shows, in words and numbers


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
    the smallest loss; the legend filters by class; `customdata` holds (index, main loss, pretext
    loss). Refuses NaN and unequal lengths.
    """
    main, pretext, labels, index = _columns(main_loss, pretext_loss, labels, index)
    if labels.min() < 0 or labels.max() >= len(classes):
        raise Refused(
            f'labels must lie in 0..{len(classes) - 1}, found {labels.min()}..{labels.max()}'
        )
    n, kind = len(main), np.uint16 if len(main) < 2**16 else np.uint32
    x, y = (np.round(stats.normalised_ranks(losses) * n).astype(kind) for losses in (main, pretext))
    data = np.stack([index, main, pretext], axis=1).astype(np.float32)
    live = _live(
        title,
        height=540,
        hovermode='closest',
        meta={'images': n},
        xaxis=_rank_axis(MAIN_AXIS, n),
        yaxis=_rank_axis(PRETEXT_AXIS, n),
        template={
            **TEMPLATE,
            'data': {'scattergl': [{'mode': 'markers', 'hovertemplate': _hover(n)}]},
        },
        legend={'itemsizing': 'constant', 'y': -0.14},
        showlegend=len(classes) <= 2 * len(CLASS_COLOURS),
    )
    layers = max(1, 60 // len(classes))  # classes drawn in turns, or the last would hide the others
    for layer in range(layers):
        for code, (name, colour) in enumerate(zip(classes, cycle(CLASS_COLOURS))):
            rows = np.flatnonzero(labels == code)[layer::layers]
            if rows.size:
                live.add_scattergl(
                    x=x[rows],
                    y=y[rows],
                    customdata=data[rows],
                    name=escape(name),
                    legendgroup=escape(name),
                    showlegend=layer == 0,
                    marker={'size': 4 if n > 5000 else 6, 'opacity': 0.55, 'color': colour},
                )
    alt = (
        f'{title}. Scatter plot of {n:,} images: {MAIN_AXIS}, across, against {PRETEXT_AXIS}, '
        'upwards. '
        f'Spearman correlation {stats.spearman(main, pretext):.2f}.'
    )
    return Figure(live, _hexbin(x / n, y / n, title), alt)


def loss_histogram(losses: ArrayLike, title: str, log_x: bool = False) -> Figure:
    """How many of the losses [N] fall in each of 60 bins, of equal width or, with `log_x`, of equal
    ratio.

    A logarithmic axis has no place for losses of zero: the title counts those it leaves out.
    """
    losses = _columns(losses)[0]
    shown = losses[losses > 0] if log_x else losses
    if not shown.size:
        raise Refused('no loss is above zero: draw this histogram without log_x')
    hidden = losses.size - shown.size
    counts, edges = np.histogram(
        shown, (np.geomspace if log_x else np.linspace)(shown.min(), shown.max(), 61)
    )
    title = f'{title} ({hidden:,} losses not above zero are not drawn)' if hidden else title
    kind = 'log' if log_x else 'linear'
    live = _live(
        title,
        height=360,
        hovermode='x',
        xaxis={'title.text': 'loss', 'type': kind, 'exponentformat': 'power'},
        yaxis={'title.text': 'images', 'rangemode': 'tozero'},
    )
    live.add_scatter(
        x=edges,
        y=np.append(counts, counts[-1]),
        mode='lines',
        line={'shape': 'hv', 'width': 1.5},
        fill='tozeroy',
        marker_color=CLASS_COLOURS[0],
        hovertemplate='%{y:,d} images in the bin from %{x:.3g}<extra></extra>',
    )
    figure, axes = _axes(title, 'loss', 'images', (6.4, 3.4))
    axes.stairs(counts, edges, fill=True, color=CLASS_COLOURS[0])
    axes.set_xscale(kind)
    alt = (
        f'{title}. Histogram of {losses.size:,} losses: median {np.median(losses):.3g}, '
        '5% to 95% range '
        f'{np.quantile(losses, 0.05):.3g} to {np.quantile(losses, 0.95):.3g}.'
    )
    return Figure(live, _png(figure), alt)


# --- pictures ---


def picture_grid(
    pixels: np.ndarray, captions: Sequence[str], columns: int, title: str, alt: str
) -> Figure:
    """Images [n,3,h,w] uint8 in rows of `columns`, each above its caption (which may hold line
    breaks).
    """
    if not 1 <= len(pixels) == len(captions):
        raise Refused(
            f'{len(pixels)} images but {len(captions)} captions: give each image one, "" for none'
        )
    rows = [slice(start, start + columns) for start in range(0, len(pixels), columns)]
    return Figure(
        None,
        _contact_sheet([pixels[row] for row in rows], [captions[row] for row in rows], title),
        alt,
    )


def turns(pixels: np.ndarray) -> Figure:
    """Each image of [n,3,h,w] uint8 in its four quarter turns, as the rotation task sees it
    (Gidaris et al. 2018).
    """
    turned = [np.stack([np.rot90(image, k, axes=(1, 2)) for k in range(4)]) for image in pixels]
    captions = [[''] * 4] * (len(pixels) - 1) + [[f'{90 * k}°' for k in range(4)]]
    alt = f'{len(pixels)} images, each rotated by 0, 90, 180 and 270 degrees counter-clockwise.'
    return Figure(None, _contact_sheet(turned, captions), alt)


def batch_strip(batches: Sequence[np.ndarray], names: Sequence[str]) -> Figure:
    """One row of images [n,3,h,w] uint8 a batch, its name in front; hardest batch first."""
    if not 1 <= len(batches) == len(names):
        raise Refused(f'{len(batches)} batches but {len(names)} names: give each batch one')
    alt = (
        f'Sample images of {len(batches)} batches, one row a batch, from {names[0]} to {names[-1]}.'
    )
    return Figure(
        None,
        _contact_sheet(batches, [[''] * len(batch) for batch in batches], row_names=names),
        alt,
    )


# --- comparisons ---


def learning_curves(
    budgets: ArrayLike,
    accuracy: Mapping[str, ArrayLike],
    title: str,
    ylabel: str = 'test accuracy',
    xlabel: str = 'labelled images',
) -> Figure:
    """Mean accuracy of each arm against its labels with a 95% t band over seeds, and a point for
    every seed.

    budgets [cycles]; accuracy maps an arm to [S, cycles]. An arm with one seed has no band. With
    other labels of the axes, any value against any number.
    """
    budgets = np.asarray(budgets)
    live = _live(
        title,
        hovermode='closest',
        xaxis={'title.text': xlabel, 'tickformat': ',d'},
        yaxis={'title.text': ylabel},
    )
    figure, axes = _axes(title, xlabel, ylabel)
    words = []
    for (arm, runs), colour, symbol in zip(accuracy.items(), _colours(accuracy), cycle(SYMBOLS)):
        runs = np.atleast_2d(np.asarray(runs, np.float64))
        if runs.ndim != 2 or runs.shape[1:] != budgets.shape:
            raise Refused(
                f'{arm}: accuracy of shape {list(runs.shape)} for {budgets.size} budgets: '
                'give [S, cycles]'
            )
        seeds = len(runs)
        mean, low, high = np.array(
            [(e.value, e.low, e.high) for e in map(stats.mean_interval, runs.T)]
        ).T
        _live_curve(live, budgets, runs, (mean, low, high), escape(arm), colour, symbol)
        axes.plot(
            budgets, mean, color=colour, marker=SYMBOLS[symbol], markersize=4, label=_plain(arm)
        )
        axes.plot(budgets, runs.T, '.', color=colour, markersize=3, alpha=0.5)
        if seeds > 1:
            axes.fill_between(budgets, low, high, color=colour, alpha=0.2, linewidth=0)
        words.append(
            f'{arm} {mean[0]:.3g} at {budgets[0]:,} to {mean[-1]:.3g} at {budgets[-1]:,} '
            f'({seeds} seed{"s" * (seeds > 1)})'
        )
    _legend(figure)
    return Figure(live, _png(figure), f'{title}. Learning curves of {ylabel}: {"; ".join(words)}.')


def class_balance(
    counts: Mapping[str, ArrayLike], classes: Sequence[str], title: str = 'Labels by class'
) -> Figure:
    """Grouped bars: how many images of each class every arm has picked; counts maps an arm to [C],
    numbers or means.
    """
    arms = {arm: np.asarray(count) for arm, count in counts.items()}
    if wrong := [arm for arm, count in arms.items() if count.shape != (len(classes),)]:
        raise Refused(
            f'{wrong[0]}: counts of shape {list(arms[wrong[0]].shape)} for {len(classes)} classes'
        )
    slanted = 5 * max(map(len, classes))  # pixels that the longest class name needs below the bars
    live = _live(
        title,
        height=360 + slanted,
        below=50 + slanted,
        barmode='group',
        xaxis={'tickangle': -45},
        yaxis={'title.text': 'images'},
        legend={'yref': 'container', 'y': 0, 'yanchor': 'bottom'},
    )
    figure, axes = _axes(title, '', 'images', (max(6.4, 0.3 * len(classes)), 3.6))
    width = 0.8 / len(arms)
    for k, ((arm, count), colour) in enumerate(zip(arms.items(), _colours(arms))):
        live.add_bar(
            x=[escape(name) for name in classes],
            y=count,
            name=escape(arm),
            marker_color=colour,
            hovertemplate='%{x}: %{y:,.1~f} images<extra>%{fullData.name}</extra>',
        )
        axes.bar(
            np.arange(len(classes)) + (k - (len(arms) - 1) / 2) * width,
            count,
            width,
            color=colour,
            label=_plain(arm),
        )
    axes.set_xticks(
        range(len(classes)), [_plain(name) for name in classes], rotation=45, ha='right', fontsize=8
    )
    _legend(figure)
    words = [
        f'{arm} from {_count(count.min())} ({classes[count.argmin()]}) to {_count(count.max())} '
        f'({classes[count.argmax()]})'
        for arm, count in arms.items()
    ]
    return Figure(
        live,
        _png(figure),
        f'{title}. Images in each of {len(classes)} classes: {"; ".join(words)}.',
    )


def rank_forest(
    rows: Iterable[tuple[str, float, float, float]],
    title: str,
    xlabel: str = 'Spearman rank correlation',
    marks: Mapping[str, float] | None = None,
    ceilings: Sequence[float | None] = (),
) -> Figure:
    """Each (label, value, low, high) as a point with its interval, first row on top; nan ends draw
    the point alone.

    `marks` are upright lines by name, to read the points against; `ceilings`, a short bar in each
    row that has one.
    """
    rows = list(rows)
    if not rows:
        raise Refused('no rows to draw: give at least one (label, value, low, high)')
    labels, (value, low, high) = (
        [row[0] for row in rows],
        np.array([row[1:] for row in rows], np.float64).T,
    )
    ends = [_interval(*row[1:]) for row in rows]
    # an end can fall short of a value of exactly one by a rounding
    down, up = (np.maximum(np.nan_to_num(gap), 0) for gap in (value - low, high - value))
    wrapped = [textwrap.wrap(label, 24) for label in labels]
    # pixels, so that no label runs into the next
    row = max(34, 17 * max(map(len, wrapped)))
    live = _live(
        title,
        height=130 + row * len(rows),
        showlegend=False,
        hovermode='closest',
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
        error_x={'type': 'data', 'array': up, 'arrayminus': down, 'thickness': 1.5, 'width': 5},
        hovertemplate='%{text}<extra></extra>',
    )
    top = [(place, x) for place, x in enumerate(ceilings) if x is not None]
    live.add_scatter(
        x=[x for _, x in top],
        y=[place for place, _ in top],
        mode='markers',
        marker={'symbol': 'line-ns-open', 'size': 14, 'color': INK, 'line.width': 2},
        hovertemplate='ceiling %{x:.2f}<extra></extra>',
    )
    figure, axes = _axes(title, xlabel, '', (6.4, 1.3 + 0.32 * len(rows)))
    axes.plot([x for _, x in top], [place for place, _ in top], '|', color=INK, markersize=10)
    axes.errorbar(
        value, range(len(rows)), xerr=[down, up], fmt='o', color=CLASS_COLOURS[0], capsize=3
    )
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(rows)), [_plain(label) for label in labels], fontsize=8)
    axes.invert_yaxis()
    for name, x in (marks or {}).items():  # the names of two stand back to back
        side = 'center' if len(marks) == 1 else 'right' if x == min(marks.values()) else 'left'
        live.add_vline(
            x=x,
            line={'dash': 'dash', 'width': 1, 'color': INK},
            annotation={'text': escape(name), 'yshift': 14, 'xanchor': side},
        )
        axes.axvline(x, color=INK, linewidth=0.8, linestyle='--')
        axes.annotate(
            _plain(name),
            (x, 1),
            xycoords=('data', 'axes fraction'),
            fontsize=7,
            ha=side,
            va='bottom',
        )
    tops = dict(top)
    words = '; '.join(
        f'{label} {text}' + (f', ceiling {tops[place]:.2f}' if place in tops else '')
        for place, (label, text) in enumerate(zip(labels, ends))
    )
    marked = ''.join(f' A line at {x:.2f}: {name}.' for name, x in (marks or {}).items())
    return Figure(live, _png(figure), f'{title}. {xlabel}: {words}.{marked}')


# --- shared ways of drawing ---


def _columns(*columns: ArrayLike) -> list[np.ndarray]:
    columns = [np.asarray(column) for column in columns]
    if len({column.shape for column in columns}) > 1 or columns[0].ndim != 1 or not columns[0].size:
        raise Refused(
            'need columns of one length, got shapes '
            + ', '.join(str(list(c.shape)) for c in columns)
        )
    if not all(np.isfinite(column).all() for column in columns):
        raise Refused('some losses are not finite: drop or recompute them')
    return columns


def _interval(value: float, low: float, high: float) -> str:
    return f'{value:.2f}' if math.isnan(low) else f'{value:.2f} [{low:.2f}, {high:.2f}]'


def _count(number: float) -> str:
    return f'{number:,.1f}'.removesuffix('.0')


def _colours(arms: Iterable[str]) -> list[str]:
    """The fixed colour of a known method; what is no method takes, in order, colours that no method
    has.
    """
    free = cycle(OTHER_COLOURS)
    return [METHOD_COLOURS.get(arm) or next(free) for arm in arms]


def _live(title: str, height: int = 440, below: int = 8, **layout: Any) -> go.Figure:
    import plotly.graph_objects as go

    lines = textwrap.wrap(title, 46)
    return go.Figure(
        layout={
            'template': TEMPLATE,
            'title': {'text': '<br>'.join(map(escape, lines))},
            'height': height,
            'margin': {'l': 8, 'r': 12, 't': 28 + 19 * len(lines), 'b': below},
            **layout,
        }
    )


def _rank_axis(name: str, n: int) -> dict[str, Any]:
    """Ranks are whole numbers, half the bytes of fractions; only the ticks are normalised."""
    return {
        'title': {'text': name},
        'range': [-0.01 * n, 1.01 * n],
        'tickvals': [k * n / 5 for k in range(6)],
        'ticktext': [f'{k / 5:g}' for k in range(6)],
    }


def _hover(n: int) -> str:
    def line(name: str, column: int, axis: str) -> str:
        return f'<br>{name} loss %{{customdata[{column}]:.3g}}, rank %{{{axis}:,d}} of {n:,}'

    return (
        '<b>%{fullData.name}</b>, image %{customdata[0]:,d}'
        + line('main-task', 1, 'x')
        + line('pretext', 2, 'y')
        + '<extra></extra>'
    )


def _live_curve(
    live: go.Figure,
    budgets: np.ndarray,
    runs: np.ndarray,
    curve: tuple[np.ndarray, ...],
    arm: str,
    colour: str,
    symbol: str,
) -> None:
    mean, low, high = curve
    shared = {'legendgroup': arm, 'name': arm}
    if len(runs) > 1:
        live.add_scatter(
            x=np.r_[budgets, budgets[::-1]],
            y=np.r_[high, low[::-1]],
            fill='toself',
            fillcolor=colour,
            opacity=0.2,
            line={'width': 0},
            mode='lines',
            hoverinfo='skip',
            showlegend=False,
            **shared,
        )
    live.add_scatter(
        x=np.tile(budgets, len(runs)),
        y=runs.ravel(),
        mode='markers',
        showlegend=False,
        marker={'size': 4, 'opacity': 0.5, 'color': colour},
        customdata=np.repeat(np.arange(len(runs), dtype=np.uint16), len(budgets)),
        hovertemplate='run %{customdata}: %{y:.4g}<extra>%{fullData.name}</extra>',
        **shared,
    )
    live.add_scatter(
        x=budgets,
        y=mean,
        mode='lines+markers',
        line={'color': colour},
        marker={'symbol': symbol, 'size': 7},
        text=[_interval(*row) for row in zip(mean, low, high)],
        hovertemplate=f'mean of {len(runs)}: %{{text}}<extra>%{{fullData.name}}</extra>',
        **shared,
    )


def _plain(text: str) -> str:
    """Text that matplotlib does not read as mathematics."""
    return text.replace('$', r'\$')


def _axes(
    title: str, xlabel: str, ylabel: str, size: tuple[float, float] = (6.4, 4.2)
) -> tuple[Any, Axes]:
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=size, dpi=130, layout='constrained', facecolor='white')
    axes = figure.add_subplot()
    axes.set_title('\n'.join(textwrap.wrap(_plain(title), 64)), fontsize=10, loc='left')
    axes.set(xlabel=_plain(xlabel), ylabel=_plain(ylabel))
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    return figure, axes


def _legend(figure: Any) -> None:
    longest = max(
        len(label.get_label())
        for axes in figure.axes
        for label in axes.get_legend_handles_labels()[0]
    )
    figure.legend(
        loc='outside lower center', ncols=4 if longest < 20 else 3, frameon=False, fontsize=8
    )


def _hexbin(x: np.ndarray, y: np.ndarray, title: str) -> bytes:
    figure, axes = _axes(title, MAIN_AXIS, PRETEXT_AXIS, (6.4, 5.2))
    cells = axes.hexbin(
        x, y, gridsize=50 if len(x) > 5000 else 25, mincnt=1, cmap='viridis', extent=(0, 1, 0, 1)
    )
    figure.colorbar(cells, label='images in a cell')
    return _png(figure)


def _png(figure: Any) -> bytes:
    """The figure in 256 colours: half the bytes, and the same bytes on every run."""
    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, metadata={'Software': None})
    Image.open(drawn).convert('RGB').quantize(256, Image.Quantize.MAXCOVERAGE).save(
        packed, 'PNG', optimize=True
    )
    return packed.getvalue()


def _contact_sheet(
    rows: Sequence[np.ndarray],
    captions: Sequence[Sequence[str]],
    title: str = '',
    row_names: Sequence[str] = (),
) -> bytes:
    """PNG of rows of images [n,3,h,w] uint8, captions below, row names in front; the ground is
    transparent and the words are grey, so that it reads on white and on black.
    """
    # of a clip the middle frame, without its sound
    rows = [row[:, row.shape[1] // 2] if row.ndim == 5 else row for row in rows]
    rows = [row[:, :3] if row.ndim == 4 else row for row in rows]
    if any(row.ndim != 4 or row.shape[1] != 3 or row.dtype != np.uint8 for row in rows):
        raise Refused('pictures must be uint8 of shape [n, 3, height, width]')
    strips = []
    for row, below in zip(rows, captions):
        lines = max(len(_lines(caption, TILE)) for caption in below)
        strips.append(
            np.hstack(
                [
                    np.vstack([_tile(image), _words(caption, TILE + GAP, lines)])
                    for image, caption in zip(row, below)
                ]
            )
        )
    if row_names:
        lead = GAP + max(map(len, row_names)) * LETTER
        strips = [
            np.hstack([_words(name, lead, 1, len(strip)), strip])
            for name, strip in zip(row_names, strips)
        ]
    width = max(strip.shape[1] for strip in strips)
    strips = [np.pad(strip, ((0, 0), (0, width - strip.shape[1]), (0, 0))) for strip in strips]
    sheet, packed = (
        np.vstack([_words(title, width, len(_lines(title, width))), *strips]),
        io.BytesIO(),
    )
    Image.fromarray(sheet).save(packed, 'PNG', optimize=True)
    return packed.getvalue()


def _tile(image: np.ndarray) -> np.ndarray:
    """The image [3,h,w] at TILE pixels of width, with GAP clear pixels right and below."""
    height = TILE * image.shape[1] // image.shape[2]
    picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).convert('RGBA')
    picture = np.asarray(picture.resize((TILE, height), Image.Resampling.NEAREST))
    return np.pad(picture, ((0, GAP), (0, GAP), (0, 0)))


def _lines(text: str, width: int) -> list[str]:
    return [part for line in text.split('\n') for part in textwrap.wrap(line, width // LETTER)]


def _words(text: str, width: int, lines: int, height: int = 0) -> np.ndarray:
    """Grey text on clear ground, [max(lines of text, height), width, 4]."""
    canvas = Image.new('RGBA', (width, max(LINE * lines, height)), INK + '00')
    top = max(0, (height - LINE * lines - GAP) // 2)
    ImageDraw.Draw(canvas).multiline_text(
        (0, top), '\n'.join(_lines(text, width)), INK, ImageFont.load_default(13), spacing=2
    )
    return np.asarray(canvas)
