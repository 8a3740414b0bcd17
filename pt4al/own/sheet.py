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
from pt4al.own.labels import Answer

if TYPE_CHECKING:
    from pt4al.own.folder import Tree

# of the table that `rank` writes; those that every one of them has
ORDER = ('loss', 'rank', 'batch')  # where a pretext task sorts the images
COLUMNS = ('path', *ORDER, 'picked', 'reason', 'label')
KEYS = ('path', 'picked', 'label')
# cells of theirs, as a spreadsheet may write them
NUMBER, CYCLE = r'([-+]?[\d.,]+([eE][-+]?\d+)?)?', r'0*([1-9]\d{0,3})(?:[.,]0{1,2})?'
REMARK = 'remark'  # the column of what people typed among the reasons
TWIN = '; near duplicate of '
GENERATOR = '<meta name="generator" content="pt4al rank">'
PAGE = ASSETS / 'contact_sheet.html'


# --- tables ---


def readable(name: str) -> str:
    """A file name as text: bytes that are no UTF-8 become a question mark in a diamond."""
    return name.encode('utf-8', 'surrogateescape').decode('utf-8', 'replace')


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

    answers: Mapping[str, Answer]  # by file name
    picked: Mapping[str, str]  # every row's: the cycle of its picking, or what they put there
    columns: dict[str, Mapping[str, str]]  # of their own: head -> file name -> cell
    reasons: Mapping[str, str]  # as they stand, by file name

    @property
    def names(self) -> list[str]:
        """Images of which anything is to stay."""
        typed = [name for cells in self.columns.values() for name, cell in cells.items() if cell]
        return list(dict.fromkeys([*self.answers, *typed]))

    @property
    def cycles(self) -> dict[str, int]:
        """The cycle in which an image was picked, by file name."""
        matches = {name: re.fullmatch(CYCLE, cell.strip()) for name, cell in self.picked.items()}
        return {name: int(cycle[1]) for name, cycle in matches.items() if cycle}

    def with_remarks(self, reason: re.Pattern[str]) -> Before:
        """With what is no cycle and no `reason` of rank, so somebody's, in a column of its own."""
        cycles = self.cycles
        typed = [(name, c) for name, c in self.picked.items() if name not in cycles and c.strip()]
        names = {unicodedata.normalize('NFC', name) for name in self.reasons}
        for name, cell in self.reasons.items():
            ours, twin, other = unicodedata.normalize('NFC', cell).partition(TWIN)
            known = reason.fullmatch(ours) and (not twin or other in names)
            if cell and not known:
                typed.append((name, cell))
        remarks = dict(self.columns.get(REMARK, {}))
        for name, cell in typed:
            remarks[name] = '; '.join(filter(None, (remarks.get(name), cell)))
        return replace(self, columns=self.columns | ({REMARK: remarks} if remarks else {}))


NOTHING = Before({}, {}, {}, {})


def before(table: Path, tree: Tree | None = None) -> Before:
    """What people typed into the table `rank` is about to replace, which must be its own; under the
    names that a folder has for its images.
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
        names: dict[str, int] = {}
        for name, line in zip(columns['path'], sheet.lines):
            if not name or line != names.setdefault(name, line):
                raise labels.NotLabels(
                    f'has {name!r} as no path of its own in line {line}: correct it'
                )
        sorts = set(ORDER) <= columns.keys()
        for head in columns.keys() & set(ORDER):
            if not (sorts and all(re.fullmatch(NUMBER, cell) for cell in columns[head])):
                raise labels.NotLabels(f'has a column {head!r} not of pt4al rank: rename it')
        present = labels.renamed(names, tree) if tree else names
        cells = {head: dict(zip(present, column)) for head, column in columns.items()}
        heads = [head for head in cells if head.lower() in labels.LABELS]
        typed = [(name, cells[head][name]) for head in heads for name in present]
        answers = labels.united((name, labels.parsed(cell)) for name, cell in typed)
    return Before(
        answers,
        cells['picked'],
        {head: column for head, column in cells.items() if head not in COLUMNS},
        cells.get('reason', {}),
    )


def base(table: Path, source: Path | None) -> Path:
    """The table that goes on: the one to write or, before it is there, that of the labels."""
    return source if source and not os.path.lexists(table) and ours(source) else table


def ours(path: Path) -> bool:
    """Whether a file is a table of rank, even if somebody renamed its paths or labels."""
    text = labels.content(path)
    if text.lstrip()[:1] in ('[', '{'):  # of Label Studio
        return False
    heads = {head.lower() for head in labels.table(text).columns}
    return 'picked' in heads and len(heads.intersection(KEYS)) > 1


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
