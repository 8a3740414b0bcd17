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
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from jinja2 import Environment
from PIL import Image

from pt4al.errors import Refused
from pt4al.files import ASSETS, escape_formula, write
from pt4al.own import labels
from pt4al.own.labels import Answer, Labels, Row

if TYPE_CHECKING:
    from pt4al.own.folder import Tree

# of the table that `rank` writes; those that every one of them has
ORDER = ('loss', 'rank', 'batch')  # where a pretext task sorts the images
COLUMNS = ('path', *ORDER, 'picked', 'reason', 'label', 'picture')
KEYS = ('path', 'picked', 'label')
# cells of theirs, as a spreadsheet may write them
NUMBER, CYCLE = r'([-+]?[\d.,]+([eE][-+]?\d+)?)?', r'0*([1-9]\d{0,3})(?:[.,]0{1,2})?'
FORMS = dict.fromkeys(ORDER, NUMBER) | {'picture': labels.PICTURE}
REMARK = 'remark'  # the column of what people typed among the reasons
TWIN = '; near duplicate of '
GENERATOR = '<meta name="generator" content="pt4al rank">'
PAGE = ASSETS / 'contact_sheet.html'


# --- tables ---


def readable(name: str) -> str:
    """A file name as text: no UTF-8, or the start of a terminal's escape, becomes U+FFFD."""
    text = name.encode('utf-8', 'surrogateescape').decode('utf-8', 'replace')
    return text.replace('\x1b', '\ufffd')


def write_csv(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write columns of equal length, strings guarded, as a CSV in UTF-8, whole or not at all."""
    text = io.StringIO(newline='')
    table = csv.writer(text)
    table.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        cells = (escape_formula(readable(one)) if isinstance(one, str) else one for one in row)
        table.writerow(cells)
    write(path, text.getvalue().encode('utf-8'))


# --- what is there already ---


@dataclass(frozen=True)
class Before:
    """What people typed into a table that an earlier round wrote."""

    answers: Mapping[Row, Answer]
    picked: Mapping[Row, str]  # every row's: the cycle of its picking, or what they put there
    columns: dict[str, Mapping[Row, str]]  # of their own: head -> image -> cell
    reasons: Mapping[Row, str]  # as they stand

    @property
    def rows(self) -> list[Row]:
        """Images of which anything is to stay."""
        typed = [row for cells in self.columns.values() for row, cell in cells.items() if cell]
        return list(dict.fromkeys([*self.answers, *typed]))

    @property
    def cycles(self) -> dict[Row, int]:
        """The cycle in which an image was picked."""
        matches = {row: re.fullmatch(CYCLE, cell.strip()) for row, cell in self.picked.items()}
        return {row: int(cycle[1]) for row, cycle in matches.items() if cycle}

    def with_remarks(self, reason: re.Pattern[str]) -> Before:
        """With what is no cycle and no `reason` of rank, so somebody's, in a column of its own."""
        cycles = self.cycles
        typed = [(row, c) for row, c in self.picked.items() if row not in cycles and c.strip()]
        names = {unicodedata.normalize('NFC', row.name) for row in self.reasons}
        for row, cell in self.reasons.items():
            ours, twin, other = unicodedata.normalize('NFC', cell).partition(TWIN)
            known = reason.fullmatch(ours) and (not twin or other in names)
            if cell and not known:
                typed.append((row, cell))
        head = next((head for head in self.columns if head.lower() == REMARK), REMARK)
        remarks = dict(self.columns.get(head, {}))
        for row, cell in typed:
            remarks[row] = '; '.join(filter(None, (remarks.get(row), cell)))
        return replace(self, columns=self.columns | ({head: remarks} if remarks else {}))


NOTHING = Before({}, {}, {}, {})


def before(table: Path, tree: Tree | None = None) -> Before:
    """What people typed into the table `rank` is about to replace, which must be its own; of images
    of a `tree` as that has them now.
    """
    if not os.path.lexists(table):
        return NOTHING
    with labels.naming(table):
        sheet = labels.table(labels.content(table))
        # a head of ours in whatever case
        cased = {head: head.lower() if head.lower() in COLUMNS else head for head in sheet.columns}
        columns = {cased[head]: column for head, column in sheet.columns.items()}
        lack = [head for head in KEYS if head not in columns]
        if lack in (['path'], ['label']):
            raise labels.NotLabels(f'has no column {lack[0]}: give that column this name again')
        if lack:
            raise _foreign(table, f'is no table of pt4al rank: it has no column {lack[0]}')
        for head in columns.keys() & FORMS.keys():
            sorts = head not in ORDER or set(ORDER) <= columns.keys()
            if not (sorts and all(re.fullmatch(FORMS[head], cell) for cell in columns[head])):
                raise labels.NotLabels(f'has a column {head!r} not of pt4al rank: rename it')
        lines: dict[Row, int] = {}
        pictures = columns.get('picture', [''] * len(sheet.lines))
        for name, picture, line in zip(columns['path'], pictures, sheet.lines):
            if not name:
                raise labels.NotLabels(f'has no path in line {line}: remove this line or mend it')
            if line != lines.setdefault(Row(name, picture), line):
                raise labels.NotLabels(f'repeats {name!r} in line {line}: remove one of the two')
        rows, typed = list(lines), [labels.parsed(cell) for cell in columns['label']]
        if tree:
            answered = [row for row, one in zip(rows, typed) if one is not None]
            place = labels.meant([*answered, *rows], tree)
            labels.check(answered, place, tree)
            rows = [tree.rows[place[row]] if row in place else row for row in rows]
        cells = {head: dict(zip(rows, column)) for head, column in columns.items()}
    return Before(
        {row: answer for row, answer in zip(rows, typed) if answer is not None},
        cells['picked'],
        {head: column for head, column in cells.items() if head not in COLUMNS},
        cells.get('reason', {}),
    )


def labelled(source: Path, tree: Tree) -> Labels:
    """What a file of labels, a table of rank or another, tells of the images of a folder."""
    rows = before(source).picked if ours(source) else ()
    with labels.naming(source):
        return labels.match(labels.read_labels(source), tree, rows)


def base(table: Path, source: Path | None) -> Path:
    """The table that goes on: the one to write or, before it is there, that of the labels."""
    return source if source and not os.path.lexists(table) and ours(source) else table


def ours(path: Path) -> bool:
    """Whether a file is a table of rank, even if somebody renamed its paths or labels."""
    text = labels.content(path)
    # not of Label Studio
    return text.lstrip()[:1] not in ('[', '{') and labels.table(text).ours


def check_files(files: Mapping[str, Path]) -> None:
    """Refuse to write over a file that `rank` did not write or others added to."""
    before(files['table'])
    for kind, check in OURS.items():
        text = labels.content(files[kind]) if os.path.lexists(files[kind]) else ''
        if text.strip() and not check(text):
            raise _foreign(files[kind], 'is not as pt4al rank writes it, and would be replaced')


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


OURS: dict[str, Callable[[str], bool]] = {
    'tasks': _our_tasks,
    'sheet': lambda text: GENERATOR in text,
    'left out': lambda text: text.split('\n', 1)[0].strip() == 'path,why',
}


# --- tasks ---


def write_tasks(
    path: Path, folder: str, names: Sequence[str], facts: Mapping[str, Sequence[Any]]
) -> None:
    """Write Label Studio's import file: one task an image, with its name as `path` and its facts.

    Its document root is the folder above the one of images, which is named `folder`: the root
    itself cannot be a storage.
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
    write(path, json.dumps(tasks, indent=1).encode('utf-8') + b'\n')


# --- the contact sheet ---


def picture(pixels: np.ndarray) -> str:
    """Pixels uint8 [3,h,w] as an address that holds all of the picture."""
    packed = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(packed, 'JPEG', quality=82)
    return f'data:image/jpeg;base64,{base64.b64encode(packed.getvalue()).decode()}'


def page(**facts: Any) -> str:
    """A page that needs no script and no network: pictures inside, all text escaped."""
    make = Environment(
        autoescape=True,
        finalize=lambda text: labels.printable(readable(text)) if type(text) is str else text,
    )
    return make.from_string(PAGE.read_text('utf-8')).render(facts)


def summary(left_out: Mapping[str, str]) -> str:
    """How many files for which reason, most frequent first, details left out, in one line."""
    counts = Counter(why.split(':')[0] for why in left_out.values()).most_common()
    rest = sum(count for _, count in counts[5:])
    parts = [f'{count} {labels.printable(readable(why))}' for why, count in counts[:5]]
    return ', '.join(parts) + f' and {rest} more' * bool(rest)
