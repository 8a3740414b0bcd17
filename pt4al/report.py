"""What a chapter shows: figures, tables, numbers in the prose, and where they come from.

In a book build (the environment says PT4AL_BOOK=1) output is self-contained HTML, the same bytes on
every build; anywhere else it is what JupyterLab draws by itself. Everything that comes from data is
escaped.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import logging
import math
import numbers
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape, unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from IPython.display import HTML, display
from PIL import Image

from pt4al import data, files
from pt4al.data import clips
from pt4al.errors import Refused, choose
from pt4al.experiments import store
from pt4al.figures import Figure
from pt4al.stats.remembered import keep_in

# tiles on a sprite sheet, tiles side by side, pixels of a tile
TILES, SHEET_COLUMNS, MAX_TILE = 1000, 40, 64
# Losses travel as sixteen-bit steps of their logarithm over these decades: three digits each, half
# the bytes.
DECADES, SMALLEST = 15, -10
# the prefix under which myst-nb looks for numbers that prose refers to
GLUE = 'application/papermill.record/'
if os.environ.get('PT4AL_BOOK') == '1':  # its pages ask for the same intervals
    keep_in(store.roots()[0] / '.bootstraps')


# --- figures ---


@dataclasses.dataclass(frozen=True)
class Panel:
    """One small drawing in SVG, what it shows in words, and its points, a row each."""

    svg: str
    alt: str
    rows: list[dict[str, object]] = dataclasses.field(default_factory=list)


def show(figure: Figure, caption: str, name: str, sprites: str | None = None) -> None:
    """Display a figure with its caption; `name` is its anchor, #fig-name, and must be unique on a
    page.

    In the book the still stands on the page and report.js draws the live figure over it where it
    can. `sprites` names the data set whose training images the points are: pointing at one then
    shows it, if the images are at hand.
    """
    _check_name(name)
    live, picture = figure.live, as_base64(figure.still)
    if not _in_book():
        # all in one output: JupyterLab draws the first, a viewer without plotly the second
        output: dict[str, Any] = {'image/png': picture, 'text/plain': figure.alt}
        if live is not None:
            output['application/vnd.plotly.v1+json'] = json.loads(live.to_json())
        display(output, raw=True)
        display(HTML(f'<p>{escape(caption)}</p>'))
        return
    source = f'data:image/png;base64,{picture}'
    parts = [f'<img class="report-still" alt="{escape(figure.alt)}" src="{source}">']
    if live is not None:
        title = live.layout.title.text.replace('<br>', ' ')  # escaped already
        parts.append(f'<p class="report-title">{title}</p>')
        payload = _payload(live)
        parts.append(f'<script class="report-data" type="application/json">{payload}</script>')
        if live.layout.meta:
            parts.append(_panel(sprites))
    _display('\n'.join(parts), caption, name, None if live is None else drawn(live), figure.alt)


def panels(drawings: Sequence[Panel], caption: str, name: str) -> None:
    """Display drawings side by side, one under another on a narrow screen, with one caption."""
    _check_name(name)
    rows = [row for panel in drawings for row in panel.rows]
    inside = ''.join(f'<div>{panel.svg}</div>' for panel in drawings)
    content = f'<div class="report-row">{inside}</div>'
    alt = ' '.join(panel.alt for panel in drawings)
    _display(content, caption, name, pd.DataFrame(rows) if rows else None, alt)


def _display(content: str, caption: str, name: str, points: pd.DataFrame | None, alt: str) -> None:
    """A figure of the book with its caption and a link to its points."""
    label = escape(caption)
    html = (
        f'<figure class="report-figure" id="fig-{name}" role="figure" aria-label="{label}">\n'
        f'{content}\n<figcaption>{label}{_data_link(points, name)}</figcaption>\n</figure>'
    )
    display({'text/html': html, 'text/plain': f'{caption} {alt}'}, raw=True)


def _data_link(points: pd.DataFrame | None, name: str) -> str:
    """A link to the points as a CSV file beside the pages; offline_report.py knows where it is."""
    static = os.environ.get('PT4AL_STATIC')
    if not static or points is None:
        return ''
    safe = points.rename(columns=_plain).map(_plain)  # class names may come from anywhere
    content = safe.to_csv(index=False, float_format='%.7g').encode()
    file = Path(static) / 'data' / f'{name}-{hashlib.sha256(content).hexdigest()[:8]}.csv'
    file.parent.mkdir(parents=True, exist_ok=True)
    write(file, content)
    link = f'<a href="{{static}}/data/{file.name}" download>data</a>'
    return f' <span class="report-sources">{link}</span>'


def _plain(cell: Any) -> Any:
    number = not isinstance(cell, str) or re.fullmatch(r'[-+]?[\d.,e+-]+ ?%?', cell)
    return cell if number else files.guarded(cell)


def drawn(live: go.Figure) -> pd.DataFrame:
    """What a figure draws, a row a point: series, x, y and its name there, ends of its interval,
    text; of images their number and both losses.
    """
    axis = live.layout.yaxis
    texts = (unescape(text.replace('<br>', ' ')) for text in axis.ticktext or ())
    ticks = dict(zip(axis.tickvals or (), texts))
    tables = []
    for trace in live.data:
        x, y = np.asarray(trace.x), np.asarray(trace.y)
        points = {'series': unescape(trace.name or ''), 'x': x, 'y': y}
        if ticks and set(y.tolist()) <= set(ticks):
            points['label'] = np.array([ticks[place] for place in y.tolist()])
        error = getattr(trace, 'error_x', None)
        if error is not None and error.array is not None:
            points |= {'low': x - np.asarray(error.arrayminus), 'high': x + np.asarray(error.array)}
        if live.layout.meta:
            columns = np.asarray(trace.customdata).T
            points |= dict(zip(('image', 'main_loss', 'pretext_loss'), columns))
        elif (text := np.asarray(getattr(trace, 'text', None))).shape == x.shape:
            points['text'] = text
        tables.append(pd.DataFrame(points))
    return pd.concat(tables, ignore_index=True)


def _payload(live: go.Figure) -> str:
    """The figure as JSON that can stand in a page; see `unpack` in report.js for the other side."""
    content = json.loads(live.to_json())
    layout = content['layout']
    # the page has the title; keep the toolbar
    layout['height'] -= layout['margin']['t'] - 28
    layout['margin']['t'] = 28
    del layout['title']
    if live.layout.meta:
        for trace, points in zip(content['data'], live.data):
            trace['customdata'] = pack(points.customdata)
    text = json.dumps({'data': content['data'], 'layout': layout}, separators=(',', ':'))
    return text.replace('<', '\\u003c')


def pack(points: np.ndarray) -> dict[str, Any]:
    """Columns (index, losses...) [n, 1+k] as typed arrays: exact index, losses to three digits."""
    index, losses = points[:, 0].astype(np.int64), points[:, 1:].astype(np.float64)
    kind = 'u2' if index.max() < 2**16 else 'u4'
    return {'index': typed(index, kind), 'columns': losses.shape[1], **coded(losses)}


def coded(losses: np.ndarray) -> dict[str, Any]:
    """Finite losses of any shape, flat, as sixteen-bit steps of their logarithm."""
    with np.errstate(divide='ignore'):
        steps = np.round((np.log10(np.abs(losses)) - SMALLEST) / DECADES * 32767)
    codes = np.sign(losses) * np.clip(steps, 0, 32767)
    return {'codes': typed(codes.ravel(), 'i2'), 'decades': DECADES, 'smallest': SMALLEST}


def typed(values: np.ndarray, kind: str) -> dict[str, str]:
    return {'dtype': kind, 'bdata': as_base64(values.astype(f'<{kind}').tobytes())}


def as_base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _in_book() -> bool:
    return os.environ.get('PT4AL_BOOK') == '1'


def _check_name(name: str) -> None:
    if not re.fullmatch(r'[a-z][a-z0-9-]*', name):
        raise Refused(f'{name!r} cannot be an anchor: use lower-case letters, digits and hyphens')


# --- the picture behind a point ---


def _panel(dataset: str | None) -> str:
    """Where report.js puts the image one points at; a grey tile without images at hand."""
    folder = sprites(dataset) if dataset else None
    where = f' data-sprites="{folder}"' if folder else ''
    return (
        f'<div class="report-panel"{where} data-per-sheet="{TILES}" '
        f'data-columns="{SHEET_COLUMNS}" hidden><div class="report-tile"></div>'
        '<p aria-live="polite">Point at an image, or tap it.</p></div>'
    )


def sprites(dataset: str) -> str | None:
    """Write the sheets of a data set's training images beside the pages; their folder, or None."""
    static = os.environ.get('PT4AL_STATIC')
    if not static or not data.available(dataset):
        return None
    folder = re.sub(r'[^a-z0-9]+', '-', dataset)  # a name may hold a path
    pixels: Any = data.arrays(dataset)[0].pixels  # `still` takes arrays as it takes tensors
    write_sprites(np.asarray(clips.still(pixels)), Path(static) / 'sprites' / folder)
    return folder


def write_sprites(pixels: np.ndarray, folder: Path) -> None:
    """Write images [N,3,h,w] uint8 to `folder` as sheets 0.jpg, 1.jpg, ... of 1000 tiles.

    Tile i % 1000 of sheet i // 1000 is image i; 40 tiles side by side, at most 64 pixels each way.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tile = min(max(pixels.shape[2:]), MAX_TILE)
    for number, start in enumerate(range(0, len(pixels), TILES)):
        images = pixels[start : start + TILES].transpose(0, 2, 3, 1)
        sheet = Image.new('RGB', (SHEET_COLUMNS * tile, -(-len(images) // SHEET_COLUMNS) * tile))
        for i, image in enumerate(images):
            picture = Image.fromarray(np.ascontiguousarray(image)).resize((tile, tile))
            sheet.paste(picture, (i % SHEET_COLUMNS * tile, i // SHEET_COLUMNS * tile))
        packed = io.BytesIO()
        sheet.save(packed, 'JPEG', quality=88, subsampling=0)
        write(folder / f'{number}.jpg', packed.getvalue())


def write(path: Path, content: bytes) -> None:
    with files.written(path) as file:
        file.write(content)


# --- numbers and tables ---


def glue(name: str, value: Any, fmt: str = '') -> None:
    """Give the prose of this page a number: {glue:text}`name` then reads as `format(value, fmt)`.
    It is stored quoted, or myst-nb would read '0.440' as a number.
    """
    about = {'scrapbook': {'name': name, 'mime_prefix': GLUE}}
    display({f'{GLUE}text/plain': repr(format(value, fmt))}, raw=True, metadata=about)


def fmt_interval(estimate: Any, digits: int = 2) -> str:
    """'0.44 [0.43, 0.45]'; one run has no interval (nan bounds), which is written out."""
    ends = estimate.value, estimate.low, estimate.high
    value, low, high = (f'{number:.{digits}f}' for number in ends)
    if not math.isnan(estimate.low):
        return f'{value} [{low}, {high}]'
    none = getattr(estimate, 'method', '') == 'no interval'
    return value if none else f'{value} (one run: no interval)'


def typeset(text: str) -> str:
    """The text with real minus signs, and with no line break inside '0.2 [-3.4, 1.0]' and '5 %'."""
    text = re.sub(r'(?<![^\s(\[])-(?=\d)', '−', text)
    text = re.sub(r'(?<=\d) %', '\u00a0%', text)
    return re.sub(
        r'(?:\d )?\[[−\d.,]+, [−\d.,]+\]', lambda match: match[0].replace(' ', '\u00a0'), text
    )


def note(text: str) -> HTML:
    """A sentence in place of a table that has no rows."""
    return HTML(f'<p>{typeset(escape(text))}</p>')


def table(rows: Sequence[Mapping[str, Any]] | pd.DataFrame, caption: str, align: str = '') -> HTML:
    """An HTML table under the first row's keys; floats get four digits, None and nan a dash.
    `align` holds l, r or c for each column; else columns of numbers stand right.
    """
    rows = rows.to_dict('records') if isinstance(rows, pd.DataFrame) else rows
    if not rows:
        raise Refused(f'nothing to put into the table {caption!r}: give at least one row')
    heads = list(rows[0])
    for row in rows:
        if list(row) != heads:
            raise Refused(
                f'table {caption!r}: a row has the columns {list(row)}, the first has {heads}'
            )
    columns = [[row[head] for row in rows] for head in heads]
    align = align or ''.join('r' if all(map(_is_number, column)) else 'l' for column in columns)
    if len(align) != len(heads) or set(align) - set('lrc'):
        raise Refused(f'align {align!r} must hold one of l, r, c for each of {len(heads)} columns')

    def line(tag: str, values: Iterable[Any]) -> str:
        opened = (f'<{tag} class="report-{side}">' for side in align)
        cells = (f'{o}{typeset(escape(_text(v)))}</{tag[:2]}>' for o, v in zip(opened, values))
        return f'<tr>{"".join(cells)}</tr>'

    body = '\n'.join(line('td', row.values()) for row in rows)
    return HTML(
        f'<div class="report-scroll" role="region" tabindex="0" aria-label="{escape(caption)}">\n'
        f'<table class="report-table"><caption>{escape(caption)}</caption>\n'
        f'<thead>{line("th scope=col", heads)}</thead>\n<tbody>\n{body}\n</tbody></table>\n</div>'
    )


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, numbers.Real) and not isinstance(value, bool)


def _text(value: Any) -> str:
    if value is None or isinstance(value, numbers.Real) and math.isnan(value):
        return '–'
    return f'{value:.4g}' if isinstance(value, float | np.floating) else str(value)


def folded(words: str, *tables: HTML) -> HTML:
    """Tables behind one line of words."""
    inside = f'<summary>{escape(words)}</summary>{"".join(table.data for table in tables)}'
    return HTML(f'<details class="report-more">{inside}</details>')


def provenance(results: Iterable[Any]) -> HTML:
    """A fold with a line a result: its spec, where and how it was computed, code and data."""
    rows = []
    for result in {result.key: result for result in results}.values():
        made = result.provenance
        device = ', '.join(str(made[part]) for part in ('device', 'chip') if made.get(part))
        rows.append(
            {'result': result.key, 'kind': result.kind}
            | {name: result.spec.get(name) for name in ('dataset', 'seed')}
            | {'seconds': made['seconds'], 'device': device or None}
            | {name: made.get(name) for name in ('threads', 'precision', 'torch')}
            | {'code': made['commit'], 'data': made['data'][:12]}
        )
    inside = table(rows, 'Where these results come from')
    return folded(f'Results behind this page: {len(rows)}', inside)


# --- notebooks ---


def check_parameters(namespace: Mapping[str, Any], *declared: str) -> None:
    """Refuse a notebook parameter nobody declared; papermill would run on with the default.

    Call it as `check_parameters(globals(), 'dataset', 'seed')` right after the parameters cell;
    imports may stand before it.
    """
    if not _in_book():  # cells that train say how far they are
        logging.basicConfig(format='%(asctime)s %(message)s', datefmt='%H:%M:%S')
        logging.getLogger('pt4al').setLevel(logging.INFO)
    kinds = (bool, int, float, str, list, tuple, dict, type(None))
    ours = {'In', 'Out', *declared}  # In and Out are IPython's
    for name, value in namespace.items():
        if name not in ours and not name.startswith('_') and isinstance(value, kinds):
            choose('parameter', name, declared)


def listed(value: Any, least: int = 0) -> list[str]:
    """A notebook's list parameter as words, given as `a,b` or as a list, as papermill's -y does."""
    words = value.split(',') if isinstance(value, str) else value
    words = list(words) if isinstance(words, list | tuple) else [words]
    if not all(isinstance(word, str | int | float) and word is not True for word in words):
        raise Refused(f'{value!r} is no list: write a,b or [a, b]')
    words = [text for word in words if (text := str(word).strip())]
    if len(words) < least:
        raise Refused(f'{value!r} lists {len(words)} values: give at least {least}')
    return words
