"""Figures on a page of the book: HTML that needs nothing beside it but report.js, the same bytes on
every build, with the data behind it and the images that its points stand for.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape, unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from IPython.display import display
from PIL import Image

from pt4al import data, files
from pt4al.data import clips
from pt4al.figures import Figure
from pt4al.report import check_anchor

# tiles on a sprite sheet, tiles side by side, pixels of a tile
TILES, SHEET_COLUMNS, MAX_TILE = 1000, 40, 64
# Losses travel as sixteen-bit steps of their logarithm over these decades: three digits each, half
# the bytes.
DECADES, SMALLEST = 15, -10


@dataclass(frozen=True)
class Panel:
    """One small drawing in SVG, what it shows in words, and its points, a row each."""

    svg: str
    alt: str
    rows: list[dict[str, object]] = field(default_factory=list)
    wide: bool = False  # takes the margin beside the page


def show(figure: Figure, caption: str, name: str, sprites: str | None) -> None:
    """What `pt4al.report.show` displays on a page."""
    live = figure.live
    source = f'data:image/png;base64,{as_base64(figure.still)}'
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
    check_anchor(name)
    rows = [row for panel in drawings for row in panel.rows]
    inside = ''.join(f'<div>{panel.svg}</div>' for panel in drawings)
    wide = ' full-width' * any(panel.wide for panel in drawings)  # the theme then hides its menu
    content = f'<div class="report-row{wide}">{inside}</div>'
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
    files.write(file, content)
    link = f'<a href="{{static}}/data/{file.name}" download>data</a>'
    return f' <span class="report-sources">{link}</span>'


def _plain(cell: Any) -> Any:
    number = not isinstance(cell, str) or re.fullmatch(r'[-+]?[\d.,e+-]+ ?%?', cell)
    return cell if number else files.escape_formula(cell)


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
        files.write(folder / f'{number}.jpg', packed.getvalue())
