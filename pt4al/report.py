"""What a chapter shows: figures, tables, numbers in the prose, and where they come from.

In a book build (the environment says PT4AL_BOOK=1) output is self-contained HTML, the same bytes on
every build; anywhere else it is what JupyterLab draws by itself. Everything that comes from data is
escaped.
"""

from __future__ import annotations

import base64
import json
import logging
import math
import numbers
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import HTML, display

from pt4al.errors import Refused, choose
from pt4al.experiments import store
from pt4al.figures import Figure
from pt4al.figures.drawing import interval
from pt4al.progress import log
from pt4al.stats.remembered import keep_in

# the prefix under which myst-nb looks for numbers that prose refers to
GLUE = 'application/papermill.record/'
if os.environ.get('PT4AL_BOOK') == '1':  # its pages ask for the same intervals
    keep_in(store.roots()[0] / '.bootstraps')


# --- figures ---


def show(figure: Figure, caption: str, name: str, sprites: str | None = None) -> None:
    """Display a figure with its caption; `name` is its anchor, #fig-name, and must be unique on a
    page.

    In the book the still stands on the page and report.js draws the live figure over it where it
    can. `sprites` names the data set whose training images the points are: pointing at one then
    shows it, if the images are at hand.
    """
    check_anchor(name)
    if _in_book():  # whose own code is on the path of its pages
        import_module('on_page').show(figure, caption, name, sprites)
        return
    # all in one output: JupyterLab draws the first, a viewer without plotly the second
    picture = base64.b64encode(figure.still).decode()
    output: dict[str, Any] = {'image/png': picture, 'text/plain': figure.alt}
    if figure.live is not None:
        output['application/vnd.plotly.v1+json'] = json.loads(figure.live.to_json())
    display(output, raw=True)
    display(HTML(f'<p>{escape(caption)}</p>'))


def _in_book() -> bool:
    return os.environ.get('PT4AL_BOOK') == '1'


def check_anchor(name: str) -> None:
    if not re.fullmatch(r'[a-z][a-z0-9-]*', name):
        raise Refused(f'{name!r} cannot be an anchor: use lower-case letters, digits and hyphens')


# --- numbers and tables ---


def glue(name: str, value: Any, fmt: str = '') -> None:
    """Give the prose of this page a number: {glue:text}`name` then reads as `format(value, fmt)`.
    It is stored quoted, or myst-nb would read '0.440' as a number.
    """
    about = {'scrapbook': {'name': name, 'mime_prefix': GLUE}}
    display({f'{GLUE}text/plain': repr(format(value, fmt))}, raw=True, metadata=about)


def fmt_interval(estimate: Any, digits: int = 2) -> str:
    """'0.44 [0.43, 0.45]'; that one run has no interval is written out."""
    text = interval(estimate.value, estimate.low, estimate.high, digits)
    lone = math.isnan(estimate.low) and getattr(estimate, 'method', '') != 'no interval'
    return f'{text} (one run: no interval)' if lone else text


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
    columns = [[row[head] for row in rows] for head in heads]
    align = align or ''.join('r' if all(map(_is_number, column)) else 'l' for column in columns)

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
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return f'{value:,}'
    return f'{value:.4g}' if isinstance(value, float | np.floating) else str(value)


def folded(words: str, *tables: HTML) -> HTML:
    """Tables behind one line of words."""
    inside = f'<summary>{escape(words)}</summary>{"".join(table.data for table in tables)}'
    return HTML(f'<details class="report-more">{inside}</details>')


def provenance(results: Iterable[Any]) -> HTML:
    """A fold with a line a result: its spec, where and how it was computed, code and data."""
    rows = []
    unique = list({result.key: result for result in results}.values())
    longer = any('earlier' in result.provenance for result in unique)
    for result in unique:
        made = result.provenance
        device = ', '.join(str(made[part]) for part in ('device', 'chip') if made.get(part))
        rows.append(
            {'result': result.key, 'kind': result.kind}
            | {name: getattr(result.spec, name, None) for name in ('dataset', 'seed')}
            | {'seconds': made['seconds'], 'device': device or None}
            | {name: made.get(name) for name in ('threads', 'precision', 'torch')}
            | {'code': made['commit'], 'data': made['data'][:12]}
            | ({'earlier cycles': made.get('earlier')} if longer else {})
        )
    inside = table(rows, 'Where these results come from')
    return folded(f'Results behind this page: {len(rows)}', inside)


# --- notebooks ---

# by the type of its least value, the types of a parameter
TYPES: dict[type, tuple[type, ...]] = {bool: (bool,), int: (int,), float: (int, float)}


def check_parameters(
    namespace: Mapping[str, Any], *declared: str, **least: int | float | bool
) -> None:
    """Refuse a notebook parameter nobody declared, which papermill would pass over, and one of
    another type.

    Call it as `check_parameters(globals(), 'dataset', seeds=1)` right after the parameters cell;
    imports may stand before it. `least` are the numbers that the notebook itself reads, each with
    its least value: 1 asks for a whole number, 0.0 for any, False for True or False. None passes.
    """
    if not _in_book():  # cells that train say how far they are
        logging.basicConfig(format='%(asctime)s %(message)s', datefmt='%H:%M:%S')
        log.setLevel(logging.INFO)
    kinds = (bool, int, float, str, list, tuple, dict, type(None))
    known = [*declared, *least]
    ours = {'In', 'Out', *known}  # In and Out are IPython's
    for name, value in namespace.items():
        if name not in ours and not name.startswith('_') and isinstance(value, kinds):
            choose('parameter', name, known)
    for name, lowest in least.items():
        value = namespace[name]
        fits = type(value) in TYPES[type(lowest)] and value >= lowest
        if value is not None and not fits:
            if isinstance(lowest, bool):
                wanted = 'True or False'
            elif isinstance(lowest, int):
                wanted = f'a whole number of at least {lowest}'
            else:
                wanted = f'a number of at least {lowest}'
            raise Refused(f'parameter {name} is {value!r}: give {wanted}')


def listed(value: Any, least: int = 0) -> list[str]:
    """A notebook's list parameter as words, given as `a,b` or as a list, as papermill's -y does."""
    words = value.split(',') if isinstance(value, str) else value
    words = list(words) if isinstance(words, list | tuple) else [words]
    if not all(isinstance(word, str | int | float) and word is not True for word in words):
        raise Refused(f'{value!r} is no list: write a,b or [a, b]')
    words = [text for word in words if (text := str(word).strip())]
    if len(words) < least:
        raise Refused(f'{value!r} lists {len(words)} values: give at least {least}')
    if twice := [word for word in dict.fromkeys(words) if words.count(word) > 1]:
        raise Refused(f'{value!r} lists {twice[0]} twice: give each value once')
    return words
