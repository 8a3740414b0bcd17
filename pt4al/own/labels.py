"""Labels as people bring them: tables of any spreadsheet, exports of Label Studio.

An answer is a tuple of labels: one, several, or none where somebody looked and could not tell. What
cannot be read is refused in one line; nothing is guessed.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

import numpy as np

from pt4al.data import folders
from pt4al.errors import Refused
from pt4al.files import check_regular_file, escape_formula, unescape_formula
from pt4al.progress import log

if TYPE_CHECKING:
    from pt4al.own.folder import Tree

Answer = tuple[str, ...]
# columns in the order in which they are taken
PATHS = ('path', 'image', 'file', 'filename', 'file_name', 'filepath', 'file_path', 'image_path')
LABELS = ('label', 'choice', 'class', 'category', 'labels', 'class_name')
PICTURE = r'(sha256:[0-9a-f]+)?'  # text to every spreadsheet, where bare digits may be a number
CANNOT_TELL = ('?', 'cannot tell', "can't tell", 'can’t tell')
# classes, in small letters, that somebody or a program may have put for no label
NO_LABEL = r'[-–—.?]+|#?n/?a|nan|none|null'
BOXES = 'holds boxes or shapes, not labels of whole images: export a project of choices'
MOST_BYTES = 2**28  # of a file of labels
SHOWN = 10  # names in one message
LOCAL, UPLOAD = '/data/local-files/?d=', '/data/upload/'
EXPORTED = 'annotation_id'  # in every row of a table that Label Studio exports
# terminal escapes, ends of lines, marks that turn the direction of writing
CONTROL = '[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]'
UNWRITTEN = '[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]'  # in labels


class Row(NamedTuple):
    """An image as a table names it."""

    name: str
    picture: str = ''  # digest of the file that had this name, '' where the table has none


class NotLabels(Refused):
    """What is wrong with a file of labels, to be read after its name, and what to do."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Refuse, with the name of the file, what is `NotLabels` inside this context."""
    try:
        yield
    except NotLabels as error:
        raise Refused(f'{str(path)!r} {error}') from None


# --- cells ---


def cell(answer: Answer) -> str:
    """An answer as the cell of a table, which `parsed` reads back."""
    if len(answer) == 1 and answer[0][:1] not in '[{' and parsed(answer[0]) == answer:
        return answer[0]
    return json.dumps(list(answer), ensure_ascii=False) if answer else CANNOT_TELL[0]


def parsed(text: str) -> Answer | None:
    """The answer of a cell; None where nobody has answered.

    Several labels are a JSON list, or Label Studio's `{"choices": [...]}`.
    """
    text = unicodedata.normalize('NFC', text.strip())
    if not text:
        return None
    if text.lower() in CANNOT_TELL:
        return ()
    if text[0] in '[{':
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            raise NotLabels(f'holds {text[:60]!r}, no list: write ["cat", "dog"]') from None
        return _choices(value)
    return (text,)


def _choices(value: Any) -> Answer:
    if isinstance(value, dict) and set(value) == {'choices'}:
        value = value['choices']
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise NotLabels(BOXES)
    names = [unicodedata.normalize('NFC', one.strip()) for one in value]
    return tuple(dict.fromkeys(filter(None, names)))


def listed(names: Sequence[str]) -> str:
    """The first names, for one line of a message."""
    more = f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''
    return ', '.join(repr(name) for name in names[:SHOWN]) + more


def printable(text: str) -> str:
    """Text for a terminal or a page: what controls these becomes a question mark in a diamond."""
    return re.sub(CONTROL, '\ufffd', text)


# --- files ---


def content(path: Path) -> str:
    """The text of a file that people may have saved anyhow: UTF-8, or UTF-16 with its mark."""
    if not os.path.lexists(path):
        raise Refused(f'{str(path)!r} cannot be read: it is not there{folders.near(path)}')
    try:
        raw = check_regular_file(path, MOST_BYTES).read_bytes()
        return raw.decode('utf-16' if raw[:2] in (b'\xff\xfe', b'\xfe\xff') else 'utf-8-sig')
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, 'strerror', None) or 'it is not UTF-8: save it as "CSV UTF-8"'
        raise Refused(f'{str(path)!r} cannot be read ({why})') from None


def read_labels(path: Path) -> dict[Row, Answer]:
    """Answers by image, of a table (columns `path` and `label`, or what others call them) or of
    Label Studio's JSON, JSON-MIN or CSV export; rows and tasks without an answer are passed over.
    """
    with naming(path):
        return _answered(content(path))


def _answered(text: str) -> dict[Row, Answer]:
    answers = united(_tasks(text) if text.lstrip()[:1] in ('[', '{') else _rows(text))
    if not any(answers.values()):
        only = f', only {CANNOT_TELL[0]}' if answers else ''
        raise NotLabels(f'holds no label{only}: fill the column label')
    for row, answer in answers.items():
        if re.search('[\0\ud800-\udfff]', row.name) or re.search(UNWRITTEN, ''.join(answer)):
            what = f'the label {", ".join(map(repr, answer))} of {row.name!r}'
            raise NotLabels(f'holds what cannot be written to a file in {what}: type it again')
    return answers


def united(pairs: Iterable[tuple[Row, Answer | None]]) -> dict[Row, Answer]:
    """Answers by image, one who could tell outweighing one who could not; `NotLabels` where two of
    one image differ.
    """
    answers: dict[Row, Answer] = {}
    for row, answer in pairs:
        if answer is None:
            continue
        other = answers.get(row)
        if answer and other and set(answer) != set(other):
            two = f'{cell(other)!r} and {cell(answer)!r}'
            raise NotLabels(f'holds two labels of {row.name!r}, {two}: keep one')
        answers[row] = answer or other or ()
    return answers


# --- tables ---


@dataclass(frozen=True)
class Sheet:
    """A table as somebody saved it, guards taken off, without empty rows and columns."""

    columns: dict[str, list[str]]  # the cells by head, '' where a row ends before them
    lines: list[int]  # where each row ends in the file

    @property
    def lower(self) -> dict[str, list[str]]:
        """The cells by head in small letters."""
        return {head.lower(): cells for head, cells in self.columns.items()}

    @property
    def ours(self) -> bool:
        """Whether it is a table of rank, even if somebody renamed its paths or labels."""
        return 'picked' in self.lower and bool({'path', 'label'} & self.lower.keys())


def table(text: str) -> Sheet:
    """Read a CSV whatever parts its cells: comma, semicolon or tab, by its first line."""
    if text[:4].lower() == 'sep=':
        raise NotLabels('begins with a line "sep=": remove this line')
    mark = max(',;\t', key=re.sub(r'"[^"\n]*"', '', text.split('\n', 1)[0]).count)
    bare = re.sub(r'"[^"]*"', '""', text)  # without what stands inside quotes
    # a blank may stand before a quote; where none does, it belongs to the name
    blank = mark != '\t' and bool(re.search(rf'{mark} +"', bare))
    # where lines end in \n, a \r within one is an error and begins no other
    end = '\n' if '\n' in bare else ''
    lines_in = io.StringIO(text, newline=end)
    reader = csv.reader(lines_in, strict=True, delimiter=mark, skipinitialspace=blank)
    rows, lines = [], []
    try:
        for row in reader:
            if any(row):
                rows.append([unescape_formula(one) for one in row])
                lines.append(reader.line_num)
    except csv.Error as error:
        why = str(error).split(' - ')[0]
        raise NotLabels(f'is no CSV ({why}, line {reader.line_num}): save it again') from None
    for row, line in zip(rows, lines):
        if any(row[len(rows[0]) :]):
            raise NotLabels(
                f'has more cells in line {line} than the first line names: name that column, or '
                f'put quotes around a cell that holds {mark!r}'
            )
    columns: dict[str, list[str]] = {}
    for head, *cells in zip_longest(*rows, fillvalue=''):
        head = head.strip()
        if head or any(cells):
            if head.lower() in [other.lower() for other in columns]:
                what = f'more than one column {head!r}: rename' if head else 'columns unnamed: name'
                raise NotLabels(f'has {what} one')
            columns[head] = cells
    return Sheet(columns, lines[1:])


def _columns(sheet: Sheet, valid: Sequence[str]) -> list[list[str]]:
    """The columns whose heads are in `valid`, in its order; those with text, if any."""
    there = [sheet.lower[head] for head in valid if head in sheet.lower]
    if not there:
        raise NotLabels(f'has no column {" or ".join(valid)}: name the columns in its first line')
    return [cells for cells in there if any(map(str.strip, cells))] or there


def _rows(text: str) -> Iterator[tuple[Row, Answer | None]]:
    sheet = table(text)
    names = _columns(sheet, PATHS)[0]
    pictures = sheet.lower.get('picture', [''] * len(names))
    # in a table of rank other columns hold what people like
    answers_in = _columns(sheet, LABELS[:1] if sheet.ours else LABELS)
    for line, name, picture, *answers in zip(sheet.lines, names, pictures, *answers_in):
        if not name:
            raise NotLabels(f'has no path in line {line}: remove this line or give it a path')
        for answer in answers:
            yield Row(_local(name), _digest(picture)), parsed(answer)


def _digest(text: Any) -> str:
    """The digest that a cell holds; '' where it holds something else."""
    return text.strip() if isinstance(text, str) and re.fullmatch(PICTURE, text.strip()) else ''


# --- Label Studio ---


def _local(name: str) -> str:
    """A file name as local storage was given it; others as they stand."""
    return unquote(name.split(LOCAL)[1]) if LOCAL in name else name


def _tasks(text: str) -> list[tuple[Row, Answer | None]]:
    """(image, answer) of Label Studio's tasks; one pair each where several people have answered."""
    try:
        tasks = json.loads(text)
        if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
            raise TypeError('no list of tasks')
        if any(EXPORTED in task and not set(LABELS) & set(task) for task in tasks):  # JSON-MIN
            raise NotLabels(f'has choices of another name than {", ".join(LABELS)}: export as JSON')
        return [(_named(task), answer) for task in tasks for answer in _answers(task)]
    except NotLabels:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        why = f'is not the JSON of image classification ({type(error).__name__})'
        raise NotLabels(f'{why}: export as JSON or JSON-MIN from Label Studio') from None


def _named(task: dict[str, Any]) -> Row:
    """The image by its name from `write_tasks`, else by the address of the task's image."""
    data = task.get('data', task)
    texts = {name: value for name, value in data.items() if isinstance(value, str)}
    if 'path' in texts:
        return Row(texts['path'], _digest(texts.get('picture')))
    named = [texts[name] for name in PATHS if name in texts]
    return Row(_local((named or [one for one in texts.values() if one.startswith('/data/')])[0]))


def _answers(task: dict[str, Any]) -> list[Answer | None]:
    if 'annotations' not in task:  # JSON-MIN
        return [_choices(task[head]) for head in LABELS if head in task]
    made = [one for one in task['annotations'] if not one.get('was_cancelled')]
    answers: list[Answer | None] = []
    for one in made:
        kinds = {part.get('type') for part in one['result']}
        chosen = [part['value']['choices'] for part in one['result'] if part['type'] == 'choices']
        if not chosen and kinds - {'textarea', 'rating'}:
            raise NotLabels(BOXES)
        answers += [_choices([label for labels in chosen for label in labels])] if chosen else []
    # nothing but skipped: somebody looked and could not tell
    return answers or [()] * (not made and bool(task['annotations']))


# --- whose they are ---


@dataclass(frozen=True)
class Labels:
    """What is known so far of the images of a folder; an image of two classes is there twice."""

    index: np.ndarray  # [m] of images, ascending
    label: np.ndarray  # [m] of classes
    classes: tuple[str, ...]  # by name
    answers: Mapping[int, Answer]  # of every image that is not to be asked again

    @property
    def digest(self) -> str:
        """What identifies them in a result's key."""
        unsure = sorted(index for index, answer in self.answers.items() if not answer)
        known = json.dumps([self.classes, self.index.tolist(), self.label.tolist(), unsure])
        return hashlib.sha256(known.encode()).hexdigest()[:32] if self.answers else ''

    @property
    def single(self) -> Labels:
        """Without the images of several classes, for what can learn from one only."""
        one = np.array([len(self.answers[i]) == 1 for i in self.index.tolist()], bool)
        return Labels(self.index[one], self.label[one], self.classes, self.answers)


def in_numbers(known: Labels) -> str:
    """How many images each class has, the rarest first: a slip of the hand is a rare class."""
    counts = np.bincount(known.label, minlength=len(known.classes))
    order = np.argsort(counts, kind='stable')
    parts = [f'{printable(known.classes[k])} {counts[k]}' for k in order[:SHOWN].tolist()]
    more = f' and {len(order) - SHOWN} more' if len(order) > SHOWN else ''
    return f'{", ".join(parts)}{more}'


def log_classes(known: Labels) -> None:
    """Log how many images each class has, and what may be slips among the classes."""
    if known.classes:
        log.info('labels: %s', in_numbers(known))
    for line in doubts(known.classes):
        log.warning('%s', line)


def alike(classes: Sequence[str]) -> list[str]:
    """Classes that differ in case, blanks or characters that nobody sees alone."""
    visible = [''.join(c for c in name if unicodedata.category(c) != 'Cf') for name in classes]
    plain = [' '.join(name.casefold().split()) for name in visible]
    return [name for name, form in zip(classes, plain) if plain.count(form) > 1]


def doubts(classes: Sequence[str]) -> list[str]:
    """What may be slips among the classes, a line of each kind."""
    empty = [name for name in classes if re.fullmatch(NO_LABEL, name.casefold())]
    several = [name for name in classes if re.search(r'\w.*[;,].*\w', name)]
    kinds = (
        (alike(classes), 'classes that look alike: %s; give images of one class one label'),
        (empty, 'classes that may mean no label: %s; empty the cells, or write ? (cannot tell)'),
        (several, 'classes that may be several labels: %s; write several as ["cat", "dog"]'),
    )
    return [line % listed(names) for names, line in kinds if names]


def match(answers: Mapping[Row, Answer], tree: Tree, others: Iterable[Row] = ()) -> Labels:
    """Answers by image as labels by index into the images of a folder; `others` stand beside them
    in a table, without an answer.
    """
    place = {row: i for row, i in meant([*answers, *others], tree).items() if row in answers}
    check(answers, place, tree)
    if away := [row.name for row in answers if row not in place]:
        log.warning('labelled pictures that are not here, their rows stay: %s', listed(away))
    images = _Names(tree.root, tree.names)
    moved = [(row.name, i) for row, i in place.items() if i not in images.places(row.name)]
    if moved:
        old, i = moved[0]
        line = 'labelled pictures with another name now: %d, such as %r -> %r; their labels stay'
        log.warning(line, len(moved), old, tree.names[i])
    return coded({i: answers[row] for row, i in place.items()})


def coded(answers: Mapping[int, Answer]) -> Labels:
    """Answers by index as labels."""
    classes = tuple(sorted({label for answer in answers.values() for label in answer}))
    code = {label: number for number, label in enumerate(classes)}
    pairs = sorted((i, code[label]) for i, answer in answers.items() for label in answer)
    index, label = np.array(pairs, np.int64).reshape(-1, 2).T
    return Labels(index, label, classes, answers)


def meant(rows: Iterable[Row], tree: Tree) -> dict[Row, int]:
    """The image that each row means, if any: by name and picture, where a row has both; else by the
    picture, which was renamed or moved; else by the name. `NotLabels` where two mean the same.
    """
    images, copies = _Names(tree.root, tree.names), dict[str, list[int]]()
    for i, row in enumerate(tree.rows):
        copies.setdefault(row.picture, []).append(i)
    named = {row: images.places(row.name) for row in rows}
    place, owner = dict[Row, int](), dict[int, Row]()

    def take(row: Row, i: int) -> None:
        if owner.setdefault(i, row) != row:
            two = f'{owner[i].name!r} and {row.name!r}'
            raise NotLabels(f'has two rows of one image, {two}: remove one of these rows')
        place[row] = i

    for row, places in named.items():
        if row.picture:
            places = [i for i in places if tree.rows[i].picture == row.picture][:1]
        if len(places) == 1:
            take(row, places[0])
    for row in named:
        if row.picture and row not in place and (same := copies.get(row.picture)):
            free = [i for i in same if i not in owner]
            if one := free or [i for i in same if not owner[i].picture]:
                take(row, one[0])
    for row, places in named.items():
        if row not in place and len(places) == 1 and places[0] not in owner:
            take(row, places[0])
    return place


def check(labelled: Collection[Row], place: Mapping[Row, int], tree: Tree) -> None:
    """Refuse labels of other pictures and of no image; one with a digest may be gone, not all."""
    there = [(row, tree.rows[place[row]]) for row in labelled if row in place]
    if other := [row.name for row, image in there if row.picture not in ('', image.picture)]:
        raise NotLabels(
            f'has labels of files that hold other pictures in {str(tree.root)!r}: {listed(other)}; '
            'give the table of this folder, or restore these files; if you edited a picture, empty '
            'its cell in the column picture'
        )
    away, out = [row for row in labelled if row not in place], tree.left_out
    if lost := [row.name for row in away if not (row.picture and place) or row.name in out]:
        why = next((f'; {name!r} {out[name]}' for name in lost if name in out), '')
        raise NotLabels(
            f'has labels of files that are not among the images of {str(tree.root)!r}, '
            f'{len(lost)} of {len(labelled)}: {listed(lost)}{why or _hint(lost[0], tree)}; '
            'restore these files, or correct these lines'
        )


def _hint(name: str, tree: Tree) -> str:
    """What may be wrong with a name that means no image."""
    end = re.split(r'[/\\]', name)[-1]
    several = [tree.names[i] for i in _Names(tree.root, tree.names).places(name)]
    several = several or [other for other in tree.names if other.split('/')[-1] == end]
    if len(several) > 1:
        return f'; several images have this name, {listed(several)}: write its whole path'
    if re.match(r'[/\\]|[A-Za-z]:', name):
        return f'; write paths as they are in the folder, such as {tree.names[0]!r}'
    return folders.nearest(name, tree.names)


class _Names:
    """The images of a folder under every name by which people and programs call them."""

    def __init__(self, root: Path, names: Sequence[str]):
        self.root = root
        self.place, self.uploaded = dict[str, list[int]](), dict[str, list[int]]()
        for i, name in enumerate(names):
            # Macs write é as two characters
            self.place.setdefault(unicodedata.normalize('NFC', name), []).append(i)
            self.uploaded.setdefault(_upload(name.split('/')[-1]), []).append(i)
        self.place |= {name: [i] for i, name in enumerate(names)}

    def places(self, name: str) -> list[int]:
        """The images that a name may mean."""
        if UPLOAD in name:  # renamed when it was uploaded: 8 digits, a hyphen, a tamed name
            end = re.sub(r'^[0-9a-f]{8}-', '', name.split('/')[-1])
            return self.uploaded.get(_upload(end), [])
        places: dict[int, None] = {}
        # a file whose name starts with an apostrophe, written without a guard
        for form in (name, escape_formula(name), *self._inside(name)):
            nfc = unicodedata.normalize('NFC', form)
            places |= dict.fromkeys(self.place.get(form) or self.place.get(nfc, []))
        return list(places)

    def _inside(self, name: str) -> Iterator[str]:
        """Relative to the folder: of an absolute name, through links, or from a folder above it."""
        name = name.replace('\\', '/')
        if os.path.isabs(name):
            yield os.path.relpath(os.path.realpath(name), self.root)
        yield os.path.normpath(name)
        parts, above = name.strip('/').split('/'), self.root.parts
        for cut in range(1, len(parts)):
            if above[-cut:] == tuple(parts[:cut]):
                yield '/'.join(parts[cut:])


def _upload(name: str) -> str:
    """A file name as an upload keeps it: blanks become _, and letters, digits, - _ . stay."""
    name = unicodedata.normalize('NFC', unquote(name))
    return re.sub(r'[^-\w.]', '', name.strip().replace(' ', '_'))
