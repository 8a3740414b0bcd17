"""Small drawings that stand side by side: SVG in the page's own colours, no script.

Text is `currentColor`, so a panel reads on light and on dark; each says in words what it shows and
carries the numbers that it draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import ArrayLike

from pt4al import stats
from pt4al.figures import CLASS_COLOURS, METHOD_COLOURS
from pt4al.report import Panel

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
# what a verdict says of the paper's claim, and so its colour
TONES = {
    'better than random': 'good',
    'compatible with the paper': 'good',
    'supported': 'good',
    'worse than random': 'bad',
    'smaller than the paper': 'bad',
    'larger than the paper': 'bad',
    'contradicted': 'bad',
    'mixed': 'mixed',
    'depends on the metric': 'mixed',
    'no difference shown': 'same',
    'equal within 1 point': 'same',
    'not tested': 'none',
    'nothing published to compare with': 'none',
    'compatible with the reproduction': 'same',
    'smaller than the reproduction': 'bad',
    'larger than the reproduction': 'bad',
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
    """Runs of a strategy: budgets [K]; accuracy, and that on labelled images, [S,K] per cent."""

    labels: np.ndarray
    accuracy: np.ndarray
    labelled: np.ndarray | None = None


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
    """Ranks [N] of two losses in a square with its diagonal, and below it rho with its interval
    on a scale where the published values stand.

    `axes` name across and upwards; the images drawn are evenly spaced in the data set.
    """
    main, pretext = (stats.normalised_ranks(np.asarray(side)) for side in (main, pretext))
    few = np.linspace(0, len(main) - 1, min(points, len(main))).astype(int)
    left, top, side = 34, 26, 236
    drawn = ''.join(
        f'M{left + x * side:.0f} {top + side - y * side:.0f}h0'
        for x, y in zip(main[few], pretext[few])
    )
    parts = _square(title, left, top, side, axes)
    parts += [
        f'<path d="M{left} {top + side}L{left + side} {top}" stroke="currentColor" '
        'stroke-opacity=".45" stroke-dasharray="4 4"/>',
        f'<path d="{drawn}" stroke="{OURS}" stroke-opacity=".55" stroke-width="3.2" '
        'stroke-linecap="round"/>',
        _scale(ours, published, left, top + side + 62, side),
    ]
    value, low, high = ours
    text = f'{value:.2f}' if np.isnan(low) else f'{value:.2f} [{low:.2f}, {high:.2f}]'
    listed = ', '.join(f'{who} {rho:.2f}' for who, rho in published.items())
    alt = f'{title}: {len(main):,} images, Spearman rho {text}; {listed}.'
    rows = [
        {'data': title, 'image': int(i), axes[0]: round(float(main[i]), 5)}
        | {axes[1]: round(float(pretext[i]), 5)}
        for i in few
    ]
    return Panel(_svg(parts, top + side + 112, alt), alt, rows)


def empty_scatter(
    title: str, published: Mapping[str, float], axes: tuple[str, str], cost: str
) -> Panel:
    """The square of `scatter` without points: what has not been run, and what it would take."""
    left, top, side = 34, 26, 236
    parts = _square(title, left, top, side, axes)
    parts += _untested(left + side / 2, top + side / 2, cost)
    parts.append(_scale(None, published, left, top + side + 62, side))
    listed = ', '.join(f'{who} {rho:.2f}' for who, rho in published.items())
    alt = f'{title}: not tested here; {listed}.'
    return Panel(_svg(parts, top + side + 112, alt), alt)


def curves(
    title: str,
    arms: Mapping[str, Curve | None],
    published: Sequence[tuple[str, int, float]] = (),
    cost: str = '',
    fitted: float = 95.0,
) -> Panel:
    """Test accuracy against labels, a colour a strategy, with accuracy on the labelled images
    underneath and a line at `fitted`, both in per cent.

    Bands are 95 % t intervals over runs, cut at 0 and 100. A strategy that is None has not been
    run. `published` are (name, labels, per cent), drawn in grey.
    """
    there = {name: curve for name, curve in arms.items() if curve is not None}
    most = max([*(int(c.labels[-1]) for c in there.values()), *(n for _, n, _ in published), 10])
    left, top, width, tall, low_top, short = 34, 44, 236, 170, 252, 62

    def place(n: float, percent: float, y0: float, height: float) -> str:
        return f'{left + width * n / most:.1f} {y0 + height * (1 - percent / 100):.1f}'

    parts = [_text(left, 14, title, 'start', weight=600)]
    x = left
    for name in arms:
        dashes = '' if name in there else ' stroke-dasharray="2 3"'
        parts.append(
            f'<path d="M{x} 30h14" stroke="{COLOURS.get(name, OURS)}" stroke-width="2.5"{dashes}/>'
        )
        parts.append(_text(x + 18, 34, name, 'start', 11))
        x += 24 + 6 * len(name)
    for y0, height, ticks in ((top, tall, range(0, 101, 20)), (low_top, short, (0, 50, 100))):
        for tick in ticks:
            y = y0 + height * (1 - tick / 100)
            parts.append(
                f'<path d="M{left} {y:.1f}h{width}" stroke="currentColor" stroke-opacity=".15"/>'
            )
            parts.append(_text(left - 5, y + 4, f'{tick}', 'end', 10))
    for k in range(0, 5):
        n = most * k / 4
        at = f'{n:.0f}' if most < 4000 or k == 0 else f'{n / 1000:g}k'
        end = k == 4  # within the drawing
        x_tick, side = left + width * k / 4 + 8 * end, 'end' if end else 'middle'
        parts.append(_text(x_tick, low_top + short + 14, at, side, 10))
    parts.append(_text(left + width / 2, low_top + short + 29, 'labelled images', 'middle', 11))
    parts.append(_text(left, low_top - 8, 'accuracy on labelled images, %', 'start', 10))
    parts.append(_text(left + 3, top - 2 + 10, 'test accuracy, %', 'start', 10))
    line = low_top + short * (1 - fitted / 100)
    parts.append(
        f'<path d="M{left} {line:.1f}h{width}" stroke="currentColor" stroke-dasharray="3 3"/>'
    )
    rows: list[dict[str, object]] = []
    words = []
    for name, curve in there.items():
        colour, each = COLOURS.get(name, OURS), [stats.mean_interval(c) for c in curve.accuracy.T]
        mean = [e.value for e in each]
        ends = np.clip([[e.low, e.high] for e in each], 0, 100)
        if len(curve.accuracy) > 1:
            outline = [
                *(place(n, high, top, tall) for n, high in zip(curve.labels, ends[:, 1])),
                *(place(n, lo, top, tall) for n, lo in zip(curve.labels[::-1], ends[::-1, 0])),
            ]
            parts.append(f'<path d="M{"L".join(outline)}z" fill="{colour}" fill-opacity=".18"/>')
        parts.append(
            _line([place(n, a, top, tall) for n, a in zip(curve.labels, mean)], colour, 2.2)
        )
        if curve.labelled is not None:
            lowest = curve.labelled.min(0)
            parts.append(
                _line([place(n, a, low_top, short) for n, a in zip(curve.labels, lowest)], colour)
            )
        for run, accuracies in enumerate(curve.accuracy):
            for k, (n, accuracy) in enumerate(zip(curve.labels, accuracies)):
                row = {'data': title, 'strategy': name, 'run': run, 'labels': int(n)}
                row |= {'test accuracy, %': round(float(accuracy), 2)}
                inside = None if curve.labelled is None else round(float(curve.labelled[run, k]), 2)
                rows.append(row | {'accuracy on labelled images, %': inside})
        words.append(
            f'{name} {mean[0]:.1f} % at {int(curve.labels[0]):,} labels, {mean[-1]:.1f} % at '
            f'{int(curve.labels[-1]):,} ({len(curve.accuracy)} runs)'
        )
    for name, n, percent in published:
        at = place(n, percent, top, tall).split()
        parts.append(
            f'<path d="M{at[0]} {at[1]}m-5 0l5 -5l5 5l-5 5z" fill="{PUBLISHED}">'
            f'<title>{escape(name)}: {percent:g} % at {n:,} labels</title></path>'
        )
    words += [f'{name}: not tested' for name in arms if name not in there]
    if not there:
        parts += _untested(left + width / 2, top + tall / 2, cost)
    elif cost and len(there) < len(arms):
        missing = ' and '.join(name for name in arms if name not in there)
        parts.append(_text(left + width - 2, top + tall - 18, f'{missing}:', 'end', 10))
        parts.append(_text(left + width - 2, top + tall - 6, f'not tested; {cost}', 'end', 10))
    alt = f'{title}: {"; ".join(words)}.'
    return Panel(_svg(parts, low_top + short + 36, alt), alt, rows)


def dots(
    title: str,
    unit: str,
    rows: Sequence[tuple[str, tuple[float, float, float] | None, str, Mapping[str, float]]],
    span: tuple[float, float],
) -> Panel:
    """One value a data set, with its interval: (name, (value, low, high) or None, verdict,
    published values by who reports them).
    """
    left, width, step = 18, 244, 62
    low, high = span

    def at(value: float) -> float:
        return left + width * (min(max(value, low), high) - low) / (high - low)

    bottom = 34 + step * len(rows)
    parts = [_text(left, 14, title, 'start', weight=600), _text(left, 29, unit, 'start', 11)]
    for tick in np.linspace(low, high, 5):
        parts.append(
            f'<path d="M{at(tick):.1f} 38V{bottom}" stroke="currentColor" stroke-opacity=".15"/>'
        )
        parts.append(_text(at(tick), bottom + 14, f'{tick:.2g}'.replace('-', '−'), 'middle', 10))
    if low < 0 < high:
        parts.append(
            f'<path d="M{at(0):.1f} 38V{bottom}" stroke="currentColor" stroke-opacity=".6"/>'
        )
    words, points = [], []
    for k, (name, ours, verdict, published) in enumerate(rows):
        y = 50 + step * k
        parts.append(_text(left, y + 2, name, 'start', 11, weight=600))
        for who, value in published.items():
            mark = 'm-5 0l5 -5l5 5l-5 5z' if who == 'paper' else 'm-4 -4h8v8h-8z'
            parts.append(
                f'<path d="M{at(value):.1f} {y + 17}{mark}" fill="none" stroke="currentColor" '
                f'stroke-width="1.5"><title>{escape(who)} {value:g}</title></path>'
            )
            points.append({'panel': title, 'data': name, 'who': who, 'value': value})
        if ours is None:
            parts.append(_text(left, y + 36, verdict, 'start', 10))
            words.append(f'{name}: {verdict}')
            continue
        value, down, up = ours
        colour = TONE_COLOURS[tone(verdict)]
        if not np.isnan(down):
            parts.append(
                f'<path d="M{at(down):.1f} {y + 17}H{at(up):.1f}" stroke="{colour}" '
                'stroke-width="3"/>'
            )
        parts.append(f'<circle cx="{at(value):.1f}" cy="{y + 17}" r="5" fill="{colour}"/>')
        parts.append(_text(left, y + 36, verdict, 'start', 10))
        words.append(f'{name} {value:g} ({verdict})')
        points.append({'panel': title, 'data': name, 'who': 'this report', 'value': value})
    alt = f'{title}, {unit}: {"; ".join(words)}.'
    return Panel(_svg(parts, bottom + 22, alt), alt, points)


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
    parts.append(_text(420, 124, 'batch 1, 2, ... , 10', 'middle', 11))
    parts.append(_arrow('M379 110V158'))
    parts.append(_text(500, 145, 'cycle 1: at random within batch 1', 'start', 11))
    parts.append(_text(500, 160, 'cycle i: the K least confident', 'start', 11))
    parts.append(_text(500, 175, 'images of batch i', 'start', 11))
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


def _line(points: Sequence[str], colour: str, width: float = 1.8) -> str:
    return f'<path d="M{"L".join(points)}" stroke="{colour}" stroke-width="{width}"/>'


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


def _square(title: str, left: float, top: float, side: float, axes: tuple[str, str]) -> list[str]:
    parts = [
        _text(left, 15, title, 'start', weight=600),
        f'<rect x="{left}" y="{top}" width="{side}" height="{side}" stroke="currentColor" '
        'stroke-opacity=".5"/>',
        _text(left + side / 2, top + side + 30, axes[0], 'middle', 11),
        _text(
            11, top + side / 2, axes[1], 'middle', 11,
            turn=f' transform="rotate(-90 11 {top + side / 2:g})"',
        ),
    ]  # fmt: skip
    for tick in (0, 0.5, 1):
        parts.append(_text(left + side * tick, top + side + 15, f'{tick:g}', 'middle', 10))
        parts.append(_text(left - 5, top + side * (1 - tick) + 4, f'{tick:g}', 'end', 10))
    return parts


def _scale(
    ours: tuple[float, float, float] | None,
    published: Mapping[str, float],
    left: float,
    y: float,
    width: float,
) -> str:
    """Rho from -0.2 to 1 as a line: ours with its interval, what is published as grey marks."""

    def at(rho: float) -> float:
        return left + width * (min(max(rho, -0.2), 1) + 0.2) / 1.2

    parts = [
        f'<path d="M{left} {y}h{width}M{at(0):.1f} {y - 5}v10" stroke="currentColor" '
        'stroke-opacity=".5"/>'
    ]
    if ours is not None:
        value, low, high = ours
        text = (
            f'rho = {value:.2f}' if np.isnan(low) else f'rho = {value:.2f} [{low:.2f}, {high:.2f}]'
        )
        if not np.isnan(low):
            parts.append(
                f'<path d="M{at(low):.1f} {y}H{at(high):.1f}" stroke="{OURS}" stroke-width="5"/>'
            )
        parts.append(f'<circle cx="{at(value):.1f}" cy="{y}" r="5" fill="{OURS}"/>')
        parts.append(_text(left, y - 12, text.replace('-', '−'), 'start', 12, weight=600))
    for who, rho in published.items():
        mark = 'm-5 0l5 -5l5 5l-5 5z' if who == 'paper' else 'm-4 -4h8v8h-8z'
        parts.append(
            f'<path d="M{at(rho):.1f} {y}{mark}" stroke="currentColor" stroke-width="1.5">'
            f'<title>{escape(who)} {rho:.2f}</title></path>'
        )
    listed = ', '.join(
        f'{"◇" if who == "paper" else "□"} {who} {rho:.2f}'.replace('-', '−')
        for who, rho in published.items()
    )
    parts.append(_text(left, y + 22, f'{"● ours  " if ours else ""}{listed}', 'start', 11))
    return ''.join(parts)


def _untested(x: float, y: float, cost: str) -> list[str]:
    words = [_text(x, y, 'not tested', 'middle', 15)]
    return [*words, _text(x, y + 20, cost, 'middle', 11)] if cost else words
