"""One look for all figures: colours, a plotly figure, the same as a still, and sheets of images.

A colour belongs to a method, a task or a class, and never to a position.
"""

from __future__ import annotations

import io
import json
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape, unescape
from itertools import cycle
from typing import Any

import numpy as np
import plotly.graph_objects as go
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

from pt4al import stats
from pt4al.files import ASSETS

_COLOURS = json.loads((ASSETS / 'colours.json').read_text())
# Okabe & Ito (2008) without yellow and black, then Paul Tol's muted scheme; from `pt4al_released`
# on, colours farthest from all before them (Oklab), in three colour blindnesses too (Machado et al.
# 2009), with a contrast above 2.25 on white and on near-black.
METHOD_COLOURS: dict[str, str] = _COLOURS['methods']
TASK_COLOURS: dict[str, str] = _COLOURS['tasks']  # methods and tasks share no figure
# Paul Tol's bright scheme, for what is no method
OTHER_COLOURS: list[str] = _COLOURS['others']
# The first three of Petroff (2021), 'Accessible color sequences for data visualization', then, as
# above, those farthest from all before them; repeats after ten classes.
CLASS_COLOURS: list[str] = _COLOURS['classes']
BANDS = 4  # intervals drawn as bands in one figure; of more, none can be read
# plotly's name: matplotlib's
SYMBOLS = {'circle': 'o', 'square': 's', 'diamond': 'D', 'triangle-up': '^', 'x': 'X'}
# on a page, report.js puts the theme's own text colour over INK
INK, GRID = '#767676', 'rgba(128,128,128,0.25)'
AXIS = {
    **{'gridcolor': GRID, 'linecolor': GRID, 'tickcolor': GRID, 'ticks': 'outside'},
    **{'zeroline': False, 'automargin': True, 'title.standoff': 8},
}
TEMPLATE = {
    'layout': {
        'font': {'family': 'system-ui, sans-serif', 'size': 13, 'color': INK},
        'paper_bgcolor': 'rgba(0,0,0,0)',
        'plot_bgcolor': 'rgba(0,0,0,0)',
        'title': {'x': 0, 'y': 1, 'yanchor': 'top', 'pad.t': 22, 'font.size': 15},
        'title.xanchor': 'left',
        'hoverlabel': {'bgcolor': '#222222', 'font.color': '#ffffff', 'align': 'left'},
        'hoverlabel.bordercolor': '#222222',
        'legend': {'orientation': 'h', 'x': 0, 'y': -0.2, 'yanchor': 'top'},
        'xaxis': AXIS,
        'yaxis': AXIS,
    }
}
# pixels in a still: width of an image, space between two, of a letter, a line
TILE, GAP, LETTER, LINE = 96, 8, 7, 17


@dataclass(frozen=True)
class Figure:
    """One figure three times: to explore, to print, to hear."""

    live: go.Figure | None  # None where there is nothing to explore
    still: bytes  # PNG on white
    alt: str  # what the picture shows, in words and numbers


def colours(names: Iterable[str], fixed: Mapping[str, str] = METHOD_COLOURS) -> list[str]:
    """The fixed colour of a known name, as it is typed or written ('Least confidence'); others
    take, in order, colours that no method has.
    """
    free = cycle(OTHER_COLOURS)
    return [fixed.get(name.lower().replace(' ', '_')) or next(free) for name in names]


def interval(value: float, low: float, high: float, digits: int = 2) -> str:
    """'0.44 [0.43, 0.45]'; without an interval, whose ends are nan, the value alone."""
    ends = '' if math.isnan(low) else f' [{low:.{digits}f}, {high:.{digits}f}]'
    return f'{value:.{digits}f}{ends}'


def error_bar(value: ArrayLike, low: ArrayLike, high: ArrayLike) -> dict[str, Any]:
    """Of plotly; no bar towards an end that is nan or, by rounding, on the wrong side."""
    centre = np.asarray(value, float)
    down, up = (np.maximum(np.nan_to_num(gap), 0) for gap in (centre - low, high - centre))
    return {'type': 'data', 'array': up, 'arrayminus': down, 'thickness': 1.5, 'width': 5}


def plot(title: str, height: int = 440, below: int = 8, **layout: Any) -> go.Figure:
    """An empty plotly figure under its title; `below` are pixels under the axis."""
    lines = textwrap.wrap(title, 46)
    margin = {'l': 8, 'r': 12, 't': 28 + 19 * len(lines), 'b': below}
    text = {'text': '<br>'.join(map(escape, lines))}
    fixed = {'template': TEMPLATE, 'title': text, 'height': height, 'margin': margin}
    return go.Figure(layout={**fixed, 'hovermode': 'closest', **layout})


def add_steps(
    live: go.Figure, edges: np.ndarray, heights: np.ndarray, name: str, colour: str, digits: str
) -> None:
    """A histogram of `heights` [B] between `edges` [B+1]."""
    live.add_scatter(
        x=edges,
        y=np.append(heights, heights[-1]),
        mode='lines',
        name=escape(name),
        line={'shape': 'hv', 'width': 1.5, 'color': colour},
        fill='tozeroy',
        hovertemplate=f'%{{y:{digits}}} in the bin from %{{x:.3g}}'
        '<extra>%{fullData.name}</extra>',
    )


def run_lines(
    x: ArrayLike,
    runs: Mapping[str, ArrayLike],
    title: str,
    labels: tuple[str, str],
    line_colours: Sequence[str],
    **xaxis: Any,
) -> Figure:
    """Mean of each name's runs [S, len(x)] against x, a point a run and a 95% t band over runs, of
    up to `BANDS` names; `labels` name the axes, across and upwards; `xaxis` is plotly's.
    """
    x, words = np.asarray(x), []
    texts = xaxis.get('ticktext') or [f'{place:,}' for place in x]
    live = plot(title, xaxis={'title.text': labels[0], **xaxis}, yaxis={'title.text': labels[1]})
    for (name, values), colour, symbol in zip(runs.items(), line_colours, cycle(SYMBOLS)):
        values = np.atleast_2d(np.asarray(values, np.float64))
        each = [stats.mean_interval(column) for column in values.T]
        mean, low, high = np.array([(e.value, e.low, e.high) for e in each]).T
        group = {'legendgroup': escape(name), 'name': escape(name)}
        if len(values) > 1 and len(runs) <= BANDS:
            live.add_scatter(
                **group,
                x=np.r_[x, x[::-1]],
                y=np.r_[high, low[::-1]],
                fill='toself',
                fillcolor=colour,
                opacity=0.2,
                line={'width': 0},
                mode='lines',
                hoverinfo='skip',
                showlegend=False,
            )
        live.add_scatter(
            **group,
            x=np.tile(x, len(values)),
            y=values.ravel(),
            mode='markers',
            showlegend=False,
            marker={'size': 4, 'opacity': 0.5, 'color': colour},
            customdata=np.repeat(np.arange(len(values), dtype=np.uint16), len(x)),
            hovertemplate='run %{customdata}: %{y:.4g}<extra>%{fullData.name}</extra>',
        )
        live.add_scatter(
            **group,
            x=x,
            y=mean,
            mode='lines+markers',
            line={'color': colour},
            marker={'symbol': symbol, 'size': 7},
            text=[interval(*row) for row in zip(mean, low, high)],
            hovertemplate=f'mean of {len(values)}: %{{text}}<extra>%{{fullData.name}}</extra>',
        )
        places = sorted({0, int(mean.argmax()), len(x) - 1})
        shown = ', '.join(f'{mean[k]:.3g} at {texts[k]}' for k in places)
        words.append(f'{name} {shown} ({len(values)} seed{"s" * (len(values) > 1)})')
    alt = f'{title}. Lines of {labels[1]} by {labels[0]}: {"; ".join(words)}.'
    return Figure(live, still(live), alt)


# --- stills ---


def still(live: go.Figure, size: tuple[float, float] = (6.4, 4.2)) -> bytes:
    """PNG by matplotlib of what a factory of this room has drawn in plotly; size in inches."""
    layout = live.layout
    xlabel, ylabel = (_plain(axis.title.text) for axis in (layout.xaxis, layout.yaxis))
    figure, axes = canvas(_plain(layout.title.text), xlabel, ylabel, size)
    axes.set(xscale=layout.xaxis.type or 'linear')
    bars = [trace for trace in live.data if trace.type == 'bar']
    for k, bar in enumerate(bars):
        width = 0.8 / len(bars)
        places = np.arange(len(bar.x)) + (k - (len(bars) - 1) / 2) * width
        axes.bar(places, bar.y, width, color=bar.marker.color, label=_plain(bar.name))
    if bars:
        names = [_plain(name) for name in bars[0].x]
        axes.set_xticks(range(len(names)), names, rotation=45, ha='right', fontsize=8)
    for trace in live.data[len(bars) :]:
        _draw(axes, trace, alone=len(live.data) == 1)
    for axis, drawn in ((layout.xaxis, axes.xaxis), (layout.yaxis, axes.yaxis)):
        if axis.tickvals is not None:
            drawn.set_ticks(axis.tickvals, [_plain(text) for text in axis.ticktext], fontsize=8)
            drawn.set_ticks([], minor=True)
    if layout.yaxis.range:
        axes.set_ylim(*layout.yaxis.range)
    if layout.xaxis.zeroline:
        axes.axvline(0, color=INK, linewidth=0.8)
    top: Any = {'xycoords': ('data', 'axes fraction'), 'va': 'bottom', 'fontsize': 7}
    for line, note in zip(layout.shapes, layout.annotations):
        axes.axvline(line.x0, color=INK, linewidth=0.8, linestyle='--')
        axes.annotate(_plain(note.text), (line.x0, 1), ha=note.xanchor, **top)
    if labels := axes.get_legend_handles_labels()[1]:
        columns = 4 if max(map(len, labels)) < 20 else 3
        figure.legend(loc='outside lower center', ncols=columns, frameon=False, fontsize=8)
    return png(figure)


def _draw(axes: Axes, trace: Any, alone: bool) -> None:
    """One scatter trace: band, steps, error bars, points or a line; lone steps are filled."""
    x, y, colour = trace.x, trace.y, trace.line.color or trace.marker.color
    label = None if alone or trace.showlegend is False else _plain(trace.name) or None
    if trace.fill == 'toself':
        axes.fill(x, y, color=trace.fillcolor, alpha=0.2, linewidth=0)
    elif trace.line.shape == 'hv':
        axes.stairs(y[:-1], x, fill=alone, color=colour, label=label, linewidth=1.5)
    elif trace.error_x.array is not None:
        up = trace.error_y
        across = [trace.error_x.arrayminus, trace.error_x.array]
        upwards = None if up.array is None else [up.arrayminus, up.array]
        axes.errorbar(x, y, upwards, across, 'o', color=colour, capsize=3)
        if trace.textposition:
            high, side = trace.textposition.split()
            dx, ha = {'left': (-6, 'right'), 'center': (0, 'center'), 'right': (6, 'left')}[side]
            dy, va = {'bottom': (-6, 'top'), 'middle': (0, 'center'), 'top': (6, 'bottom')}[high]
            place: Any = {'xytext': (dx, dy), 'textcoords': 'offset points', 'ha': ha, 'va': va}
            axes.annotate(_plain(trace.text[0]), (x[0], y[0]), fontsize=8, **place)
    elif trace.mode == 'markers':
        form, size = ('|', 10) if trace.marker.symbol == 'line-ns-open' else ('.', 3)
        axes.plot(x, y, form, color=colour, markersize=size, alpha=trace.marker.opacity)
    else:
        marker = SYMBOLS[trace.marker.symbol]
        axes.plot(x, y, color=colour, marker=marker, markersize=4, label=label)


def _plain(text: str | None) -> str:
    """Plotly's text for matplotlib, which would read $ as mathematics."""
    return unescape((text or '').replace('<br>', ' ')).replace('$', r'\$')


def canvas(
    title: str, xlabel: str, ylabel: str, size: tuple[float, float] = (6.4, 4.2)
) -> tuple[Canvas, Axes]:
    figure = Canvas(figsize=size, dpi=130, layout='constrained', facecolor='white')
    axes = figure.add_subplot()
    # over the figure, not the axes: long tick labels leave these little room
    figure.suptitle('\n'.join(textwrap.wrap(title, 84)), x=0.01, ha='left', fontsize=10)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    return figure, axes


def png(figure: Canvas) -> bytes:
    """The figure in 256 colours: half the bytes, and the same bytes on every run."""
    drawn = FigureCanvasAgg(figure)
    drawn.draw()  # `savefig` would draw twice, and pack what is unpacked here
    picture = Image.fromarray(np.asarray(drawn.buffer_rgba())).convert('RGB')
    return _packed(picture.quantize(256, Image.Quantize.MAXCOVERAGE))


def _packed(picture: Image.Image) -> bytes:
    packed = io.BytesIO()
    picture.save(packed, 'PNG', optimize=True)
    return packed.getvalue()


# --- sheets of images ---


def contact_sheet(
    rows: Sequence[np.ndarray],
    captions: Sequence[Sequence[str]],
    title: str = '',
    row_names: Sequence[str] = (),
) -> bytes:
    """PNG of rows of images [n,3,h,w] uint8, captions below, row names in front; transparent with
    grey words, so that it reads on white and on black.
    """
    # of a clip the middle frame, without its sound
    rows = [row[:, row.shape[1] // 2] if row.ndim == 5 else row for row in rows]
    rows = [row[:, :3] if row.ndim == 4 else row for row in rows]
    lead = GAP + LETTER * max(map(len, row_names)) if row_names else 0
    width = lead + (TILE + GAP) * max(map(len, rows))
    tall = [TILE * row.shape[2] // row.shape[3] for row in rows]
    words = [[_wrapped(caption, TILE + GAP) for caption in below] for below in captions]
    lines = [max(map(len, below)) for below in words]
    # a row of captions stands nearer to its own images than to the next
    steps = [t + GAP * (1 + bool(n)) + LINE * n for t, n in zip(tall, lines)]
    head = _wrapped(title, width)
    begin = LINE * len(head) + GAP * bool(head)
    sheet = Image.new('RGBA', (width, begin + sum(steps)), INK + '00')
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)

    def write(x: int, y: int, lines: Sequence[str]) -> None:
        draw.multiline_text((x, y), '\n'.join(lines), INK, font, spacing=2)

    write(0, 0, head)
    top = begin
    for k, (row, below) in enumerate(zip(rows, words)):
        for n, (image, caption) in enumerate(zip(row, below)):
            left = lead + (TILE + GAP) * n
            tile = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
            sheet.paste(tile.resize((TILE, tall[k]), Image.Resampling.NEAREST), (left, top))
            write(left, top + tall[k] + GAP // 2, caption)
        if row_names:
            write(0, top + (steps[k] - LINE - GAP) // 2, [row_names[k]])
        top += steps[k]
    return _packed(sheet)


def _wrapped(text: str, width: int) -> list[str]:
    return [part for line in text.split('\n') for part in textwrap.wrap(line, width // LETTER)]
