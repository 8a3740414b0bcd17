"""Figures of what trunks have learnt: probes by depth and by labels, invariances, neighbours.

Arrays in, `Figure` out; a colour belongs to a pretext task, its variants share it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle

import numpy as np
from numpy.typing import ArrayLike

from pt4al.figures import drawing
from pt4al.figures.drawing import TASK_COLOURS, Figure

# for what is neither task nor method
SHADES = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#8a8a8a', '#e69f00')


def task_colours(names: Iterable[str]) -> list[str]:
    families = {name: TASK_COLOURS.get(name.partition(':')[0], '') for name in names}
    return drawing.colours(families, families)


PROBE = 'accuracy of a linear probe, %'


def _percent(shares: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
    return {name: 100 * np.asarray(values) for name, values in shares.items()}


def probe_lines(accuracy: Mapping[str, ArrayLike], title: str) -> Figure:
    """Accuracy of linear probes [S, stages], shares drawn in per cent, by stage, the stem first,
    one line a task.
    """
    places = list(range(max((np.shape(runs)[-1] for runs in accuracy.values()), default=0)))
    names = ['stem', *map(str, places[1:])]
    axis = {'type': 'linear', 'tickvals': places, 'ticktext': names}
    labels, colours = ('residual block', PROBE), task_colours(accuracy)
    return drawing.run_lines(places, _percent(accuracy), title, labels, colours, **axis)


def label_fractions(labels: ArrayLike, accuracy: Mapping[str, ArrayLike], title: str) -> Figure:
    """Accuracy [S, F] of a probe of the last block against its labels [F], shares drawn in per
    cent, one line a task.
    """
    x = np.asarray(labels)
    axis = {'type': 'log', 'tickvals': x, 'ticktext': [f'{value:,}' for value in x]}
    names = 'labelled images', PROBE
    return drawing.run_lines(x, _percent(accuracy), title, names, task_colours(accuracy), **axis)


def invariance_histogram(low: ArrayLike, images: Mapping[str, ArrayLike], title: str) -> Figure:
    """Histograms [B] of how far images move when they are changed, in bins of one width from `low`
    [B] on (after Misra & van der Maaten 2020, figure 7).
    """
    low = np.asarray(low, np.float64)
    edges, words = np.append(low, 2 * low[-1] - low[-2]), []
    xlabel = 'distance, in medians between two images'
    live = drawing.plot(
        title,
        height=400,
        xaxis={'title.text': xlabel},
        yaxis={'title.text': 'share of images', 'rangemode': 'tozero', 'tickformat': '.0%'},
    )
    for (name, count), colour in zip(images.items(), cycle(SHADES)):
        share = np.asarray(count) / np.sum(count)
        drawing.add_steps(live, edges, share, name, colour, '.1%')
        middle = np.searchsorted(share.cumsum(), 0.5)
        words.append(f'{name} mostly near {(edges[middle] + edges[middle + 1]) / 2:.2f}')
    alt = f'{title}. Histograms of {xlabel}, by their median bin: {"; ".join(words)}.'
    return Figure(live, drawing.still(live), alt)


def neighbour_gallery(
    queries: np.ndarray,
    near: np.ndarray,
    names: Sequence[str],
    captions: Sequence[Sequence[str]],
    title: str,
) -> Figure:
    """Rows of a named query [q,3,h,w] uint8 and its captioned neighbours [q,k,3,h,w] uint8."""
    rows = [np.concatenate([query[None], row]) for query, row in zip(queries, near)]
    below = [[f'{name}?', *row] for name, row in zip(names, captions)]
    shown = [', '.join(' '.join(text.split()) for text in row) for row in captions]
    words = '; '.join(f'{name}: {row}' for name, row in zip(names, shown))
    each = f'each followed by its {near.shape[1]} nearest training images'
    alt = f'{title}. Test images, {each}: {words}.'
    return Figure(None, drawing.contact_sheet(rows, below, title), textwrap.shorten(alt, 1500))
