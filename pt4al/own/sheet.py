"""Tables and pages that people open: picks as CSV and as Label Studio's tasks, a contact sheet.

File names and labels come from anywhere: in a CSV nothing starts as a spreadsheet's formula does, a
page escapes all.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from pt4al.errors import Refused
from pt4al.files import guarded, written
from pt4al.own import labels
from pt4al.own.labels import Answer

# of the table that `rank` writes; those that every one of them has
COLUMNS = ('path', 'loss', 'rank', 'batch', 'picked', 'reason', 'label')
KEYS = ('path', 'picked', 'label')
GENERATOR = '<meta name="generator" content="pt4al rank">'


# --- tables ---


def readable(name: str) -> str:
    """A file name as text that can be written anywhere: bytes that are no UTF-8 become a question
    mark in a diamond.
    """
    return name.encode('utf-8', 'surrogateescape').decode('utf-8', 'replace')


def write_csv(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write columns of equal length, strings guarded, as a CSV in UTF-8, whole or not at all."""
    text = io.StringIO(newline='')
    table = csv.writer(text)
    table.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        table.writerow([guarded(cell) if isinstance(cell, str) else cell for cell in row])
    write(path, text.getvalue())


def write(path: Path, text: str) -> None:
    """Write a file in UTF-8, whole or not at all."""
    try:
        with written(path) as file:
            file.write(text.encode('utf-8'))
    except OSError as error:
        raise Refused(
            f'cannot write {str(path)!r} ({error.strerror}): give a path in a folder you can '
            'write to'
        ) from None


# --- what is there already ---


@dataclass(frozen=True)
class Before:
    """What people typed into a table that an earlier round wrote."""

    answers: Mapping[str, Answer]  # by file name
    picked: Mapping[str, str]  # the cycle in which an image was picked
    columns: Mapping[str, Mapping[str, str]]  # of their own: head -> file name -> cell

    @property
    def names(self) -> list[str]:
        """Images of which anything is to stay."""
        typed = [name for cells in self.columns.values() for name, cell in cells.items() if cell]
        return list(dict.fromkeys([*self.answers, *typed]))


NOTHING = Before({}, {}, {})


def before(table: Path) -> Before:
    """What the table `rank` is about to replace holds; `Refused` if `rank` did not write it."""
    if not os.path.lexists(table):
        return NOTHING
    sheet = labels.table(labels.content(table, 'the table'), table)
    if not set(KEYS) <= set(sheet.heads) or len(set(sheet.heads)) < len(sheet.heads):
        raise _foreign(table, 'is no table of pt4al rank')
    names = sheet.column('path')
    if not all(names) or len(set(names)) < len(names):
        raise _foreign(table, 'names an image twice or not at all')
    cells = {head: dict(zip(names, sheet.column(head))) for head in sheet.heads}
    try:
        answers = {name: labels.parsed(cell) for name, cell in cells['label'].items()}
    except ValueError as error:
        raise _foreign(table, f'holds {error}') from None
    return Before(
        {name: answer for name, answer in answers.items() if answer is not None},
        {name: cell for name, cell in cells['picked'].items() if cell},
        {
            head: column
            for head, column in cells.items()
            if head not in COLUMNS and (head or any(column.values()))
        },
    )


def check_replaceable(tasks: Path, page: Path, left_out: Path, inputs: Sequence[Path]) -> None:
    """Refuse to write over an input, or a file that `rank` did not write or others added to."""
    for path, check in ((tasks, _our_tasks), (page, _our_page), (left_out, _our_list)):
        for one in inputs:
            if path.exists() and one.exists() and os.path.samefile(path, one):
                raise _foreign(path, 'is an input, and would be written over')
        if os.path.lexists(path):
            text = labels.content(path, 'the file') if path.is_file() else ''
            if text.strip() and not check(text):
                raise _foreign(path, 'was not written by pt4al rank, or holds labels')
            if not path.is_file():
                raise _foreign(path, 'is no plain file')


def _foreign(path: Path, why: str) -> Refused:
    return Refused(f'{str(path)!r} {why}: give another --out, or move the file away')


def _our_tasks(text: str) -> bool:
    try:
        return all(
            set(task) == {'data'} and task['data']['image'].startswith(labels.LOCAL)
            for task in json.loads(text)
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def _our_page(text: str) -> bool:
    return GENERATOR in text


def _our_list(text: str) -> bool:
    return text.split('\n', 1)[0].strip() == 'path,why'


# --- tasks ---


def write_tasks(
    path: Path, folder: str, names: Sequence[str], facts: Mapping[str, Sequence[Any]]
) -> None:
    """Write Label Studio's import file: one task an image, its local-files address, its name as
    `path`, and its facts.

    Its document root must be the folder above the images, its local storage the folder of images,
    named `folder`: the document root itself cannot be a storage.
    """
    tasks = [
        {
            'data': {
                'image': f'{labels.LOCAL}{quote(f"{folder}/{name}")}',
                'path': name,
                **{fact: values[row] for fact, values in facts.items()},
            }
        }
        for row, name in enumerate(names)
    ]
    write(path, json.dumps(tasks, indent=1) + '\n')


# --- the contact sheet ---


@dataclass(frozen=True)
class Tile:
    """A picture, uint8 [3,h,w], and the lines under it."""

    pixels: np.ndarray
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Dot:
    """A place on a map, 0 to 1 from left to right and from bottom to top."""

    x: float
    y: float
    picked: bool
    tile: Tile


STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .25rem; }
p { margin: .25rem 0 .75rem; max-width: 48rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr)); gap: .75rem; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(15.5rem, 1fr));
  gap: .75rem; }
.pair { display: flex; gap: .5rem; border: 1px solid #8886; border-radius: 4px; padding: .5rem; }
figure { margin: 0; width: 7rem; }
img { width: 7rem; height: 7rem; display: block; border-radius: 3px; }
figcaption { font-size: .75rem; overflow-wrap: anywhere; opacity: .85; }
td, th { text-align: left; vertical-align: top; padding: .15rem 1rem .15rem 0;
  overflow-wrap: anywhere; }
td, th { font-size: .85rem; }
.map { position: relative; height: 32rem; margin: 1rem; border: 1px solid #8886; }
.dot { position: absolute; width: .5rem; height: .5rem; margin: -.25rem; border-radius: 50%;
  border: 1px solid #888; box-sizing: border-box; }
.dot.picked { background: #d55e00; border-color: #d55e00; }
.dot figure { display: none; position: absolute; left: .75rem; bottom: .75rem; z-index: 2;
  background: Canvas; padding: .25rem; border: 1px solid #8886; pointer-events: none; }
.dot:hover figure, .dot:focus figure { display: block; }
"""


def page(title: str, facts: Sequence[str], sections: Sequence[str]) -> str:
    """A whole page that needs nothing beside it: no script, no network, pictures inside; `sections`
    are HTML.
    """
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return '\n'.join(
        [
            '<!doctype html>',
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            GENERATOR,
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<title>{escape(title)}</title><style>{STYLE}</style></head><body>',
            f'<h1>{escape(title)}</h1>',
            *(f'<p>{escape(fact)}</p>' for fact in facts),
            *sections,
            '</body></html>',
            '',
        ]
    )


def tiles(heading: str, text: str, shown: Sequence[Tile]) -> str:
    """A section of pictures; nothing where there are none."""
    return (
        _section(heading, text, f'<div class="tiles">{"".join(map(_figure, shown))}</div>')
        if shown
        else ''
    )


def pairs(heading: str, text: str, shown: Sequence[tuple[Tile, Tile]]) -> str:
    """A section of pictures two by two; a sentence where there are none."""
    body = ''.join(
        f'<div class="pair">{_figure(one)}{_figure(other)}</div>' for one, other in shown
    )
    return _section(heading, text, f'<div class="pairs">{body}</div>')


def cloud(heading: str, text: str, shown: Sequence[Dot]) -> str:
    """A section of dots, each with a picture that is seen when one points at it."""
    body = ''.join(
        f'<a tabindex="0" class="dot{" picked" * dot.picked}" '
        f'style="left:{100 * dot.x:.1f}%;bottom:{100 * dot.y:.1f}%">{_figure(dot.tile)}</a>'
        for dot in shown
    )
    return _section(heading, text, f'<div class="map">{body}</div>')


def rows(heading: str, text: str, shown: Mapping[str, str], most: int = 50) -> str:
    """A section of names and a text on each, the first `most`; nothing where there are none."""
    body = ''.join(
        f'<tr><td>{escape(readable(name))}</td><td>{escape(readable(why))}</td></tr>'
        for name, why in list(shown.items())[:most]
    )
    return _section(heading, text, f'<table>{body}</table>') if shown else ''


def _section(heading: str, text: str, body: str) -> str:
    return f'<section><h2>{escape(heading)}</h2><p>{escape(text)}</p>{body}</section>'


def _figure(tile: Tile) -> str:
    packed = io.BytesIO()
    Image.fromarray(tile.pixels.transpose(1, 2, 0)).save(packed, 'JPEG', quality=82)
    source = base64.b64encode(packed.getvalue()).decode()
    caption = '<br>'.join(escape(readable(line)) for line in tile.lines)
    image = f'<img alt="" src="data:image/jpeg;base64,{source}">'
    return f'<figure>{image}<figcaption>{caption}</figcaption></figure>'


def write_left_out(path: Path, left_out: Mapping[str, str]) -> None:
    """Write what was not read, or read in part, and why; names with what is no UTF-8 replaced."""
    write_csv(
        path,
        {
            'path': [readable(name) for name in left_out],
            'why': [readable(why) for why in left_out.values()],
        },
    )


def summary(left_out: Mapping[str, str]) -> str:
    """How many files for which reason, most frequent first, in one line; causes that differ in
    detail count as one.
    """
    counts = Counter(why.split(':')[0] for why in left_out.values())
    return ', '.join(f'{count} {readable(why)}' for why, count in counts.most_common(5))
