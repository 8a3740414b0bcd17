"""Tables and pages that people open: picks as CSV and as Label Studio's tasks, labels read back, a
contact sheet.

File names and labels come from anywhere: in a CSV nothing starts as a spreadsheet's formula does, a
page escapes all.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
from PIL import Image

from pt4al.files import whole
from pt4al.errors import Refused

log = logging.getLogger('pt4al')
# what a spreadsheet takes for the start of a formula (OWASP)
FORMULA = ('=', '+', '-', '@', '\t', '\r', '\n')
PATH_HEADS, LABEL_HEADS = ('path', 'image', 'file'), ('label', 'choice', 'class')
MOST_BYTES = 2**28  # of a file of labels
SHOWN = 10  # names in one message


# --- cells ---


def guarded(text: str) -> str:
    """A cell's text that no spreadsheet runs: an apostrophe before what starts a formula, or before
    an apostrophe.
    """
    return f"'{text}" if text.startswith((*FORMULA, "'")) else text


def unguarded(text: str) -> str:
    """What `guarded` was given; text that it does not change comes back as it is."""
    return text[1:] if text.startswith("'") and text[1:].startswith((*FORMULA, "'")) else text


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
    _write(path, text.getvalue())


def _write(path: Path, text: str) -> None:
    try:
        with whole(Path(path)) as file:
            file.write(text.encode('utf-8'))
        Path(path).chmod(0o644)  # a temporary file is for its owner only
    except OSError as error:
        raise Refused(
            f'cannot write {str(path)!r} ({error.strerror}): give a path in a folder you can write to'
        ) from None


# --- labels ---


def read_labels(path: Path) -> dict[str, str]:
    """Labels by file name, of a CSV (columns `path` and `label`) or of Label Studio's JSON or
    JSON_MIN export.

    Rows and tasks without a label are passed over. Raises `Refused` in one line on a file that is
    neither, on an image with two labels, and where nothing is labelled; a label given twice is only
    told.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise Refused(
                f'{str(path)!r} has more than {MOST_BYTES >> 20} MiB: labels are a table of names'
            )
        text = path.read_bytes().decode('utf-8-sig')
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, 'strerror', None) or 'it is not UTF-8'
        raise Refused(
            f'labels {str(path)!r} cannot be read ({why}): give a CSV with the columns path and label, or an '
            'export of Label Studio'
        ) from None
    pairs = _tasks(text, path) if text.lstrip()[:1] in ('[', '{') else _rows(text, path)
    labelled = [(name, label.strip()) for name, label in pairs if label.strip()]
    found = dict(labelled)
    if not found:
        raise Refused(f'{str(path)!r} holds no label: fill the column label')
    if torn := sorted({name for name, label in labelled if found[name] != label}):
        other = next(label for name, label in labelled if name == torn[0] and label != found[name])
        raise Refused(
            f'{str(path)!r}: {len(torn)} images have two labels, {torn[0]!r} has {other!r} and '
            f'{found[torn[0]]!r}: keep one'
        )
    if len(labelled) > len(found):
        log.warning(
            '%r: %d labels are given more than once, always alike',
            str(path),
            len(labelled) - len(found),
        )
    return found


def _head(heads: Iterable[str], valid: Sequence[str], path: Path) -> str:
    there = [head for head in heads if head.strip().lower() in valid]
    if len(there) != 1:
        raise Refused(
            f'{str(path)!r} has {len(there)} columns named {" or ".join(valid)}: it needs one, in its first '
            'line'
        )
    return there[0]


def _rows(text: str, path: Path) -> list[tuple[str, str]]:
    table = csv.reader(io.StringIO(text, newline=''), strict=True)
    try:
        heads = next(table, [])
        name, label = (
            heads.index(_head(heads, valid, path)) for valid in (PATH_HEADS, LABEL_HEADS)
        )
        rows = [row for row in table if row]
    except csv.Error as error:
        raise Refused(
            f'{str(path)!r} is no CSV ({error}, line {table.line_num}): write it again'
        ) from None
    if short := [number for number, row in enumerate(rows, 2) if len(row) <= name]:
        raise Refused(f'{str(path)!r}: row {short[0]} has no {heads[name]}: write it again')
    return [
        (unguarded(row[name]), unguarded(row[label]) if len(row) > label else '') for row in rows
    ]


def _tasks(text: str, path: Path) -> list[tuple[str, str]]:
    """(name, label) of Label Studio's tasks; where several people have answered, one pair each."""
    try:
        tasks = json.loads(text)
        if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
            raise TypeError('no list of tasks')
        return [(_named(task), answer) for task in tasks for answer in _answers(task)]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise Refused(
            f'{str(path)!r} is not the JSON of image classification that Label Studio exports '
            f'({type(error).__name__}): export as JSON or JSON-MIN'
        ) from None


def _named(task: dict[str, Any]) -> str:
    """The file name that `write_tasks` gave, or that of local storage where the tasks were made by
    Label Studio.
    """
    given = task.get('data', task)
    return given.get('path') or unquote(given['image'].split('/data/local-files/?d=')[1])


def _answers(task: dict[str, Any]) -> list[str]:
    if 'annotations' not in task:  # JSON_MIN
        given = [task[head] for head in LABEL_HEADS if head in task]
    else:
        given = [
            part['value']['choices']
            for one in task['annotations']
            if not one.get('was_cancelled')
            for part in one['result']
            if part.get('type') == 'choices'
        ]
        given = [one[0] if len(one) == 1 else one for one in given]
    if any(not isinstance(one, str) for one in given):
        raise ValueError('more than one choice for an image')
    return given


def listed(names: Sequence[str]) -> str:
    """The first names, for one line of a message."""
    more = f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''
    return ', '.join(repr(name) for name in names[:SHOWN]) + more


def write_tasks(path: Path, names: Sequence[str], facts: Mapping[str, Sequence[Any]]) -> None:
    """Write Label Studio's import file: one task an image, its local-files address, its name as
    `path`, and its facts.

    The addresses are those of local storage whose document root is the folder of images.
    """
    tasks = [
        {
            'data': {
                'image': f'/data/local-files/?d={quote(name)}',
                'path': name,
                **{fact: values[row] for fact, values in facts.items()},
            }
        }
        for row, name in enumerate(names)
    ]
    _write(path, json.dumps(tasks, indent=1) + '\n')


# --- the contact sheet ---


@dataclass(frozen=True)
class Tile:
    """A picture, uint8 [3,h,w], and the lines under it."""

    pixels: np.ndarray
    lines: tuple[str, ...]


STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .25rem; }
p { margin: .25rem 0 .75rem; max-width: 48rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr)); gap: .75rem; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(15.5rem, 1fr)); gap: .75rem; }
.pair { display: flex; gap: .5rem; border: 1px solid #8886; border-radius: 4px; padding: .5rem; }
figure { margin: 0; width: 7rem; } img { width: 7rem; height: 7rem; display: block; border-radius: 3px; }
figcaption { font-size: .75rem; overflow-wrap: anywhere; opacity: .85; }
td, th { text-align: left; vertical-align: top; padding: .15rem 1rem .15rem 0; overflow-wrap: anywhere; }
td, th { font-size: .85rem; }
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
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<title>{escape(title)}</title><style>{STYLE}</style></head><body>',
            f'<h1>{escape(title)}</h1>',
            *(f'<p>{escape(fact)}</p>' for fact in facts),
            *sections,
            '</body></html>',
            '',
        ]
    )


def tiles(heading: str, says: str, shown: Sequence[Tile]) -> str:
    """A section of pictures; nothing where there are none."""
    return (
        _section(heading, says, f'<div class="tiles">{"".join(map(_figure, shown))}</div>')
        if shown
        else ''
    )


def pairs(heading: str, says: str, shown: Sequence[tuple[Tile, Tile]]) -> str:
    """A section of pictures two by two; a sentence where there are none."""
    found = ''.join(
        f'<div class="pair">{_figure(one)}{_figure(other)}</div>' for one, other in shown
    )
    return _section(heading, says, f'<div class="pairs">{found}</div>')


def rows(heading: str, says: str, shown: Mapping[str, str], most: int = 50) -> str:
    """A section of names and what is said of each, the first `most`; nothing where there are none."""
    body = ''.join(
        f'<tr><td>{escape(readable(name))}</td><td>{escape(readable(text))}</td></tr>'
        for name, text in list(shown.items())[:most]
    )
    return _section(heading, says, f'<table>{body}</table>') if shown else ''


def _section(heading: str, says: str, body: str) -> str:
    return f'<section><h2>{escape(heading)}</h2><p>{escape(says)}</p>{body}</section>'


def _figure(tile: Tile) -> str:
    packed = io.BytesIO()
    Image.fromarray(tile.pixels.transpose(1, 2, 0)).save(packed, 'JPEG', quality=82)
    source = base64.b64encode(packed.getvalue()).decode()
    caption = '<br>'.join(escape(readable(line)) for line in tile.lines)
    return f'<figure><img alt="" src="data:image/jpeg;base64,{source}"><figcaption>{caption}</figcaption></figure>'


def write_page(path: Path, text: str) -> None:
    """Write a page whole or not at all."""
    _write(path, text)


def write_left_out(path: Path, left_out: Mapping[str, str]) -> None:
    """Write what was not read, or read in part, and why; its name with what is no UTF-8 replaced."""
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
