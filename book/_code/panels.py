"""Small drawings that stand side by side: SVG in the page's own colours, no script.

Text is `currentColor`, so a panel reads on light and on dark; each says in words what it shows and
carries the numbers that it draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import ArrayLike
from on_page import Panel

from pt4al import stats
from pt4al.figures import CLASS_COLOURS, METHOD_COLOURS, drawing

# what a panel is wide; at three in a row of a page about one to one
WIDTH = 280
PUBLISHED = '#8a8a8a'
# a strategy by the pretext task that orders its pool
COLOURS = {
    'rotation': METHOD_COLOURS['pt4al'],
    'colorization': METHOD_COLOURS['least_confidence'],
    'random': METHOD_COLOURS['random'],
}
OURS = CLASS_COLOURS[0]
NAMES = {'rotation': 'PT4AL', 'colorization': 'PT4AL by colorization'}
LEFT, SIDE = 38, 232  # of a plot in a panel
MARKS = {'paper': 'm-5 0l5 -5l5 5l-5 5z', 'reproduction': 'm-4 -4h8v8h-8z'}
# on learning curves, where both stand close together
SMALL_MARKS = {'paper': 'm-4 0l4 -4l4 4l-4 4z', 'reproduction': 'm-3 -3h6v6h-6z'}
# curves of other trainings than the first
DASHES = ('6 4', '1.5 3')
# what a verdict says of the paper's claim, and so its colour
TONES = {
    'better than random': 'good',
    'compatible with the paper': 'good',
    'supported': 'good',
    'worse than random': 'bad',
    'smaller than the paper': 'bad',
    'larger than the paper': 'bad',
    'contradicted': 'bad',
    'depends on the metric': 'mixed',
    'no difference shown': 'same',
    'equal within 1 point': 'same',
    'not tested': 'none',
    'nothing published to compare with': 'none',
    'compatible with the reproduction': 'same',
    # the paper says nothing there
    'smaller than the reproduction': 'same',
    'larger than the reproduction': 'same',
    'not trained enough': 'none',
}
TONE_COLOURS = {
    'good': '#1a7f4e',
    'bad': '#d55e00',
    'mixed': '#b8860b',
    'same': '#3f78c2',
    'none': '#8a8a8a',
}


@dataclass(frozen=True)
class Curve:
    """Runs of a strategy: budgets [K]; accuracy, and that on labelled images, [S,K] per cent, nan
    at budgets that a run does not reach. `units` says which of them share a pretext run.
    """

    labels: np.ndarray
    accuracy: np.ndarray
    labelled: np.ndarray | None = None
    units: Sequence[object] = ()


def runs_of(curve: Curve) -> str:
    """How many runs reach its budgets: '3 runs', or '1 to 5 runs' where fewer go far."""
    counts = (~np.isnan(curve.accuracy)).sum(0)
    fewest, most = int(counts.min()), int(counts.max())
    return f'{fewest} runs' if fewest == most else f'{fewest} to {most} runs'


def independent(curve: Curve, k: int, there: np.ndarray) -> np.ndarray:
    """The accuracies at budget k of the runs `there` that count as independent."""
    units = curve.units or range(len(curve.accuracy))
    groups: dict[object, list[float]] = {}
    for run in np.flatnonzero(there):
        groups.setdefault(units[run], []).append(float(curve.accuracy[run, k]))
    return stats.units(groups)


def tone(verdict: str) -> str:
    """The colour class of a verdict; one that is new here is drawn as none."""
    return TONES.get(verdict, 'none')


def scatter(
    title: str,
    main: ArrayLike,
    pretext: ArrayLike,
    ours: tuple[float, float, float],
    published: Mapping[str, float],
    axes: tuple[str, str],
    points: int = 1000,
) -> Panel:
    """Ranks [N] of two losses in a square with its diagonal and rho with its interval; below it a
    scale from -0.2 to 1 with rho and the published values.

    `axes` name across and upwards; the images drawn are evenly spaced in the data set.
    """
    x, y = (stats.normalised_ranks(np.asarray(side)) for side in (main, pretext))
    few = np.linspace(0, len(x) - 1, min(points, len(x))).astype(int)
    places = (f'M{LEFT + x[i] * SIDE:.0f} {26 + SIDE - y[i] * SIDE:.0f}h0' for i in few)
    parts = [
        _path(''.join(places), OURS, 3.2, stroke_opacity='.55', stroke_linecap='round'),
        _path(f'M{LEFT} {26 + SIDE}L{LEFT + SIDE} 26', width=1.5, dash='5 4'),
    ]
    alt = (
        f'{title}: {len(x):,} images, Spearman rho {drawing.interval(*ours)}; {_listed(published)}.'
    )
    rows = [
        {'data': title, 'image': int(i)}
        | {name: round(float(side[i]), 5) for name, side in zip(axes, (x, y))}
        for i in few
    ]
    return Panel(_square(title, parts, ours, published, axes, alt), alt, rows)


def empty_scatter(
    title: str, published: Mapping[str, float], axes: tuple[str, str], cost: str
) -> Panel:
    """The square of `scatter` without points: what has not been run, and what it would take."""
    alt = f'{title}: not tested here; {_listed(published)}.'
    parts = _untested(LEFT + SIDE / 2, 26 + SIDE / 2, cost)
    return Panel(_square(title, parts, None, published, axes, alt), alt)


def curves(
    title: str,
    arms: Mapping[str, Curve | None],
    published: Sequence[tuple[str, int, float]] = (),
    cost: str = '',
    fitted: float = 95.0,
    training: str = '',
    others: Sequence[tuple[str, Mapping[str, Curve]]] = (),
) -> Panel:
    """Test accuracy against labels, a colour a strategy; underneath, where a run of any curve is
    below `fitted`, the accuracy on labelled images, both in per cent.

    Bands are 95 % t intervals over pretext runs, or over seeds where there is one or none, cut at 0
    and 100. A strategy that is None has not been run. `published` are ('source, strategy', labels,
    per cent). `others` are curves of other trainings, by strategy, dashed and without bands.
    """
    there = {name: curve for name, curve in arms.items() if curve is not None}
    ways = [(training, there), *others]
    drawn = [
        (name, curve, way, '' if k == 0 else DASHES[(k - 1) % len(DASHES)])
        for k, (way, by_name) in reversed([*enumerate(ways)])  # the first training on top
        for name, curve in by_name.items()
    ]
    ends = [*(int(curve.labels[-1]) for _, curve, *_ in drawn), *(n for _, n, _ in published), 10]
    most, missing = max(ends), [name for name in arms if not any(name in w for _, w in ways)]
    upper, lower = (88, 180), (324, 34)  # top and height of the two plots

    def place(n: float, percent: float, plot: tuple[int, int] = upper) -> str:
        return f'{LEFT + SIDE * n / most:.1f} {plot[0] + plot[1] * (1 - percent / 100):.1f}'

    def line(labels: ArrayLike, percents: ArrayLike, plot: tuple[int, int]) -> str:
        return 'L'.join(place(n, p, plot) for n, p in zip(labels, percents))

    parts, x = [_text(4, 14, title, 'start', weight=600)], 4.0
    notes = [
        (way, '' if k == 0 else DASHES[(k - 1) % len(DASHES)]) for k, (way, _) in enumerate(ways)
    ]
    for k, (way, dash) in enumerate(note for note in notes if note[0]):
        parts.append(_path(f'M4 {27 + 13 * k}h22', 'currentColor', 1.8, dash))
        words = way.replace(' pixels, without the background class', ' px, no background')
        parts.append(_text(31, 31 + 13 * k, words, 'start', 10))
    for name in arms:
        parts.append(_path(f'M{x:g} 72h12', _colour(name), 3, '2 3' if name in missing else ''))
        parts.append(_text(x + 16, 76, NAMES.get(name, name), 'start', 10))
        x += 28 + 5.7 * len(NAMES.get(name, name))
    parts += _grid(upper, range(0, 101, 20))
    step = next((s for s in (100, 200, 400, 1000, 2000, 5000) if most <= 5 * s), most)
    for n in range(0, most + 1, step):
        at = f'{n}' if most < 4000 or not n else f'{n / 1000:g}k'
        # the last one ends within the drawing
        end, side = (8, 'end') if n == most else (0, 'middle')
        parts.append(_text(LEFT + SIDE * n / most + end, 283, at, side, 10))
    parts.append(_text(LEFT + SIDE / 2, 298, 'labelled images', 'middle', 11))
    parts.append(_text(LEFT + 3, 98, 'test accuracy, %', 'start', 10))
    floor = min(
        (np.nanmin(c.labelled) for _, c, *_ in drawn if c.labelled is not None), default=100
    )
    if floor < fitted:
        parts.append(_text(LEFT, 317, 'accuracy on labelled images, %', 'start', 10))
        parts += [
            *_grid(lower, (0, 50, 100)),
            _path(f'M{place(0, fitted, lower)}h{SIDE}', dash='3 3'),
        ]
    rows: list[dict[str, object]] = []
    words_of: dict[str, list[str]] = {}
    for name, curve, way, dash in drawn:
        labels, reached = curve.labels, ~np.isnan(curve.accuracy)
        each = [
            stats.mean_interval(independent(curve, k, there)) for k, there in enumerate(reached.T)
        ]
        mean = [e.value for e in each]
        low, high = np.clip([[e.low, e.high] for e in each], 0, 100).T
        several = ~np.isnan(low) & (not dash)  # budgets that one run reaches have no band
        if several.sum() > 1:
            x, top, bottom = labels[several], high[several], low[several]
            outline = f'{line(x, top, upper)}L{line(x[::-1], bottom[::-1], upper)}'
            parts.append(f'<path d="M{outline}z" fill="{_colour(name)}" fill-opacity=".18"/>')
        thin = {'stroke_opacity': '.75'} if dash else {}
        width = 1.6 if dash else 2.2
        parts.append(_path(f'M{line(labels, mean, upper)}', _colour(name), width, dash, **thin))
        lowest = None if curve.labelled is None else np.nanmin(curve.labelled, 0)
        if lowest is not None and floor < fitted:
            parts.append(
                _path(f'M{line(labels, lowest, lower)}', _colour(name), width - 0.4, dash, **thin)
            )
        # one budget is no line
        if len(labels) == 1:
            if several[0]:
                bar = place(labels[0], low[0]), place(labels[0], high[0])
                parts.append(_path(f'M{bar[0]}L{bar[1]}', _colour(name), 1.5))
            for value, plot in ((mean, upper), (lowest if floor < fitted else None, lower)):
                if value is not None:
                    x, y = place(labels[0], value[0], plot).split()
                    parts.append(f'<circle cx="{x}" cy="{y}" r="3" fill="{_colour(name)}"/>')
        for run, k in np.argwhere(reached).tolist():
            accuracy = curve.accuracy[run, k]
            inside = None if curve.labelled is None else round(float(curve.labelled[run, k]), 2)
            rows.append(
                {'data': title, 'strategy': NAMES.get(name, name), 'training': way}
                | {'run': run, 'labels': int(labels[k])}
                | {'test accuracy, %': round(float(accuracy), 2)}
                | {'accuracy on labelled images, %': inside}
            )
        words_of.setdefault(way, []).append(
            f'{NAMES.get(name, name)} {mean[0]:.1f} % at {labels[0]:,} labels, {mean[-1]:.1f} % at '
            f'{labels[-1]:,} ({runs_of(curve)})'
        )
    # the paper last: where both are close, its mark is seen
    for name, n, percent in sorted(published, key=lambda one: one[0].startswith('paper')):
        source, _, strategy = name.partition(', ')
        colour = COLOURS.get({'PT4AL': 'rotation'}.get(strategy, strategy), PUBLISHED)
        parts.append(
            f'<path d="M{place(n, percent)}{SMALL_MARKS[source]}" fill="{colour}" '
            f'stroke="currentColor"><title>{escape(name)}: {percent:g} % at {n:,} labels</title>'
            '</path>'
        )
    if not drawn:
        parts += _untested(LEFT + SIDE / 2, 180, cost)
    elif cost and missing:  # at the left no curve is high
        left = ' and '.join(NAMES.get(name, name) for name in missing)
        parts.append(_text(LEFT + 3, 111, f'{left}: not tested; {cost}', 'start', 9))
    said = [f'{way + ": " if way else ""}{"; ".join(words_of.get(way, ()))}' for way, _ in ways]
    said += [f'{NAMES.get(name, name)}: not tested' for name in missing]
    alt = f'{title}: {"; ".join(filter(None, said))}.'
    return Panel(_svg(parts, 362 if floor < fitted else 304, alt), alt, rows, wide=True)


def dots(
    title: str,
    unit: str,
    rows: Sequence[tuple[str, tuple[float, float, float] | None, str, Mapping[str, float]]],
    span: tuple[float, float],
) -> Panel:
    """One value a data set, with its interval: (name, (value, low, high) or None, verdict,
    published values by who reports them).
    """
    left, bottom, at = 18, 34 + 62 * len(rows), _along(18, 244, *span)
    parts = [_text(left, 14, title, 'start', weight=600), _text(left, 29, unit, 'start', 11)]
    for tick in np.linspace(*span, 5):
        parts.append(_path(f'M{at(tick):.1f} 38V{bottom}', stroke_opacity='.15'))
        parts.append(_text(at(tick), bottom + 14, f'{tick:.2g}'.replace('-', '−'), 'middle', 10))
    if span[0] < 0 < span[1]:
        parts.append(_path(f'M{at(0):.1f} 38V{bottom}', stroke_opacity='.6'))
    words, points = [], []
    for k, (name, ours, verdict, published) in enumerate(rows):
        y, point = 50 + 62 * k, {'panel': title, 'data': name}
        parts.append(_text(left, y + 2, name, 'start', 11, weight=600))
        parts.append(_text(left, y + 36, verdict, 'start', 10))
        parts += _marks(published, at, y + 17, 'g')
        points += [point | {'who': who, 'value': value} for who, value in published.items()]
        if ours is None:
            words.append(f'{name}: {verdict}')
            continue
        parts += _dot(ours, at, y + 17, TONE_COLOURS[tone(verdict)], 3)
        words.append(f'{name} {ours[0]:g} ({verdict})')
        points.append(point | {'who': 'this report', 'value': ours[0]})
    alt = f'{title}, {unit}: {"; ".join(words)}.'
    return Panel(_svg(parts, bottom + 22, alt), alt, points)


def by_cycle(
    title: str,
    unit: str,
    series: Mapping[str, Sequence[tuple[float, float, float]]],
    span: tuple[int, int],
    below: str,
) -> Panel:
    """Values with their intervals, cycle by cycle, of a few series: {name: (value, low, high)}."""
    top, bottom, cycles = 62, 206, max([*map(len, series.values()), 1])
    height = _along(bottom, top - bottom, *span)
    parts = [_text(18, 14, title, 'start', weight=600), _text(18, 29, unit, 'start', 11)]
    for tick in range(span[0], span[1] + 1, 10):
        opacity = '.15' if tick else '.6'
        parts.append(_path(f'M{LEFT} {height(tick):.1f}h{SIDE}', stroke_opacity=opacity))
        parts.append(_text(LEFT - 5, height(tick) + 4, f'{tick}'.replace('-', '−'), 'end', 10))
    step = SIDE / cycles
    parts += [
        _text(LEFT + step * (k + 0.5), bottom + 14, f'{k + 1}', 'middle', 10) for k in range(cycles)
    ]
    parts.append(_text(LEFT + SIDE / 2, bottom + 30, below, 'middle', 10))
    words, points, x = [], [], 18.0
    for row, (name, values) in enumerate(series.items()):
        parts.append(_sign(row, x + 5, 44))
        parts.append(_text(x + 13, 48, name, 'start', 10))
        x += 26 + 6 * len(name)
        for k, (value, low, high) in enumerate(values):
            across = LEFT + step * (k + 0.5 + 0.24 * (row - (len(series) - 1) / 2))
            if not np.isnan(low):
                bar = f'M{across:.1f} {height(low):.1f}V{height(high):.1f}'
                parts.append(_path(bar, width=1.5, stroke_opacity='.6'))
            parts.append(_sign(row, across, height(value)))
            points.append({'panel': title, 'data': name, 'who': f'cycle {k + 1}', 'value': value})
        listed = ', '.join(f'{value:.1f}' for value, *_ in values)
        words.append(f'{name} {listed or "not tested"}')
    alt = f'{title}, {unit}: {"; ".join(words)}.'
    return Panel(_svg(parts, bottom + 36, alt), alt, points)


def _sign(row: int, x: float, y: float) -> str:
    """The mark of a series: a full circle, an empty one, a triangle."""
    place, page = f'{x:.1f} {y:.1f}', 'var(--pst-color-background, Canvas)'
    if row == 2:
        return f'<path d="M{place}m-4.5 3.5h9l-4.5 -8z" fill="currentColor"/>'
    fill = ('currentColor', page)[row]
    spot = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" stroke="currentColor" stroke-width="1.5" '
    return f'{spot}style="fill:{fill}"/>'


def framework() -> Panel:
    """The method as one drawing: pool, loss, order, batches, sampler, labels, the cycle back."""
    boxes = [
        (8, 'Unlabelled', 'pool'),
        (128, 'Pretext loss', 'of each image'),
        (248, 'Sort,', 'hardest first'),
        (368, 'Cut into', 'ten batches'),
    ]
    parts = [
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="currentColor"/></marker>'
        '</defs>'
    ]
    for x, *lines in boxes:
        parts.append(_box(x, 14, 100, 56, lines))
    parts += [_arrow(f'M{x} 42h18') for x in (109, 229, 349)]
    for k in range(6):
        shade = 0.9 - 0.14 * k
        parts.append(
            f'<rect x="{372 + 16 * k}" y="82" width="14" height="26" rx="2" '
            f'fill="{COLOURS["rotation"]}" fill-opacity="{shade:.2f}"/>'
        )
    parts.append(_text(386, 124, 'batch 1, 2, ... , 10', 'start', 11))
    parts.append(_arrow('M379 110V158'))
    parts.append(_text(490, 145, 'cycle 1: at random in batch 1', 'start', 11))
    parts.append(_text(490, 160, 'cycle i: the K least confident', 'start', 11))
    parts.append(_text(490, 175, 'images of batch i', 'start', 11))
    parts.append(_box(330, 162, 150, 46, ['Sampler picks K images', "of this cycle's batch"]))
    parts.append(_arrow('M329 185h-46'))
    parts.append(_box(180, 162, 100, 46, ['An expert', 'labels them']))
    parts.append(_arrow('M179 185h-46'))
    parts.append(_box(8, 162, 122, 46, ['Train a classifier', 'on all labels so far']))
    parts.append(_arrow('M69 209v28h336v-26'))
    back = 'the classifier tells the next cycle how sure it is of each image'
    parts.append(_text(237, 254, back, 'middle', 11))
    alt = (
        'The method: a pretext loss of each unlabelled image, sorted hardest first, cut into ten '
        'batches; in each cycle the sampler picks K images of one batch, an expert labels them, a '
        'classifier is trained on all labels so far, and its confidence guides the next cycle.'
    )
    return Panel(_svg(parts, 262, alt, 700), alt)


# --- parts of a drawing ---


def _grid(plot: tuple[int, int], ticks: Iterable[int]) -> list[str]:
    """Lines across a plot of learning curves, with their per cents."""
    parts, (top, height) = [], plot
    for tick in ticks:
        y = top + height * (1 - tick / 100)
        parts.append(_path(f'M{LEFT} {y:.1f}h{SIDE}', stroke_opacity='.15'))
        parts.append(_text(LEFT - 5, y + 4, f'{tick}', 'end', 10))
    return parts


def _svg(parts: Sequence[str], height: float, alt: str, width: float = WIDTH) -> str:
    return (
        f'<svg class="report-panel-svg" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{escape(alt)}" fill="none" xmlns="http://www.w3.org/2000/svg">'
        + ''.join(parts)
        + '</svg>'
    )


def _text(
    x: float, y: float, text: str, anchor: str, size: int = 13, weight: int = 400, turn: str = ''
) -> str:
    heavy = f' font-weight="{weight}"' if weight != 400 else ''
    return (
        f'<text x="{x:.4g}" y="{y:.4g}" text-anchor="{anchor}" font-size="{size + 1}"{heavy}{turn} '
        f'fill="currentColor">{escape(text)}</text>'
    )


def _path(
    d: str, colour: str = 'currentColor', width: float = 1, dash: str = '', **more: str
) -> str:
    more |= {'stroke_width': f'{width}'} if width != 1 else {}
    more |= {'stroke_dasharray': dash} if dash else {}
    rest = ''.join(f' {name.replace("_", "-")}="{value}"' for name, value in more.items())
    return f'<path d="{d}" stroke="{colour}"{rest}/>'


def _colour(strategy: str) -> str:
    return COLOURS.get(strategy, OURS)


def _along(left: float, width: float, low: float, high: float) -> Callable[[float], float]:
    """Where a value stands on a scale; what lies outside of it stands at its end."""
    return lambda value: left + width * (min(max(value, low), high) - low) / (high - low)


def _dot(
    ours: tuple[float, float, float],
    at: Callable[[float], float],
    y: float,
    colour: str,
    width: int,
) -> list[str]:
    value, low, high = ours
    bar = [] if np.isnan(low) else [_path(f'M{at(low):.1f} {y}H{at(high):.1f}', colour, width)]
    return [*bar, f'<circle cx="{at(value):.1f}" cy="{y}" r="5" fill="{colour}"/>']


def _marks(
    published: Mapping[str, float], at: Callable[[float], float], y: float, digits: str
) -> list[str]:
    return [
        f'<path d="M{at(value):.1f} {y}{MARKS.get(who, MARKS["reproduction"])}" '
        f'stroke="currentColor" stroke-width="1.5">'
        f'<title>{escape(who)} {value:{digits}}</title></path>'
        for who, value in published.items()
    ]


def _listed(published: Mapping[str, float]) -> str:
    return ', '.join(f'{who} {rho:.2f}' for who, rho in published.items())


def _box(x: float, y: float, width: float, height: float, lines: Sequence[str]) -> str:
    top = y + height / 2 + 4 - 7.5 * (len(lines) - 1)
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" stroke="currentColor" '
        'stroke-opacity=".6"/>'
        + ''.join(
            _text(x + width / 2, top + 15 * k, line, 'middle', 12) for k, line in enumerate(lines)
        )
    )


def _arrow(path: str) -> str:
    return f'<path d="{path}" stroke="currentColor" stroke-opacity=".7" marker-end="url(#tip)"/>'


def _square(
    title: str,
    inside: list[str],
    ours: tuple[float, float, float] | None,
    published: Mapping[str, float],
    axes: tuple[str, str],
    alt: str,
) -> str:
    """A square with its axes, what is drawn in it, and rho in its upper left corner, off the
    diagonal; below it rho as a line: ours with its interval, what is published as marks.
    """
    top, middle, y = 26, 26 + SIDE / 2, 74 + SIDE
    turn = f' transform="rotate(-90 11 {middle:g})"'
    parts = [
        _text(LEFT, 15, title, 'start', weight=600),
        f'<rect x="{LEFT}" y="{top}" width="{SIDE}" height="{SIDE}" stroke="currentColor" '
        'stroke-opacity=".5"/>',
        _text(LEFT + SIDE / 2, top + SIDE + 30, axes[0], 'middle', 11),
        _text(11, middle, axes[1], 'middle', 11, turn=turn),
    ]
    for tick in (0, 0.5, 1):
        parts.append(_text(LEFT + SIDE * tick, top + SIDE + 15, f'{tick:g}', 'middle', 10))
        parts.append(_text(LEFT - 5, top + SIDE * (1 - tick) + 4, f'{tick:g}', 'end', 10))
    at = _along(LEFT, SIDE, -0.2, 1)
    parts += [*inside, _path(f'M{LEFT} {y}h{SIDE}M{at(0):.1f} {y - 5}v10', stroke_opacity='.5')]
    parts += [_text(at(tick), y - 8, f'{tick}', 'middle', 9) for tick in (0, 1)]
    if ours is not None:
        parts += _dot(ours, at, y, OURS, 5)
        text = f'rho = {drawing.interval(*ours)}'.replace('-', '−')
        width = 7.2 * len(text) + 8
        parts.append(
            f'<rect x="{LEFT + 4}" y="{top + 4}" width="{width:.0f}" height="22" rx="3" '
            'style="fill:var(--pst-color-background, Canvas)" fill-opacity=".85"/>'
        )
        parts.append(_text(LEFT + 8, top + 19, text, 'start', 12, weight=600))
    signs = _listed(published).replace('paper', '◇ paper').replace('repro', '□ repro')
    legend = f'{"● ours  " if ours else ""}{signs}'.replace('-', '−')
    parts += [*_marks(published, at, y, '.2f'), _text(8, y + 22, legend, 'start', 11)]
    return _svg(parts, y + 30, alt)


def _untested(x: float, y: float, cost: str) -> list[str]:
    words = [_text(x, y, 'not tested', 'middle', 15)]
    return [*words, _text(x, y + 20, cost, 'middle', 11)] if cost else words
