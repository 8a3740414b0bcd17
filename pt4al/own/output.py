"""What a round writes: the table, the tasks, the contact sheet; and what people typed before."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pt4al.data import folders
from pt4al.errors import Refused
from pt4al.experiments import store
from pt4al.files import write
from pt4al.own import labels, rounds, sheet
from pt4al.own.folder import Tree
from pt4al.own.labels import Labels, Row
from pt4al.own.rounds import Round

THUMB = 96  # pixels of a picture on the contact sheet
DOTS = 400  # of its map: picks, and others


@dataclass(frozen=True)
class Ranking:
    """What a round found and where it was written."""

    tree: Tree
    known: Labels
    round: Round
    picked: np.ndarray  # [budget] indices, in the order of picking
    reasons: tuple[str, ...]  # [budget] why each was picked
    duplicates: np.ndarray  # [k,2] indices of near duplicates, nearest first
    place: np.ndarray  # [N,2] on a map of the features, 0 to 1
    results: tuple[store.Result, ...]
    why: str  # these features
    files: dict[str, Path]
    # of a pretext task, else None and empty
    loss: np.ndarray | None = None  # [N]
    rank: np.ndarray = field(default_factory=lambda: np.zeros(0, int))  # [N] from 1, the hardest
    batch: np.ndarray = field(default_factory=lambda: np.zeros(0, int))  # [N] from 1, the hardest

    @property
    def names(self) -> list[str]:
        """File names of the picks."""
        return [self.tree.names[index] for index in self.picked]


def paths(out: Path) -> dict[str, Path]:
    """What is written for a table `out`, after a look at whether it can be."""
    if out.suffix.lower() != '.csv' or os.path.isdir(out):
        raise Refused(f'out is {str(out)!r}: name the table to write, for example picks.csv')
    if not out.parent.is_dir():
        raise Refused(f'{str(out.parent)!r} is not a folder: make it first')
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise Refused(f'cannot write beside {str(out)!r}: give --out a table in another folder')
    files = {
        'table': out,
        'tasks': out.with_suffix('.json'),
        'sheet': out.with_suffix('.html'),
        'left out': out.with_suffix('.left-out.csv'),
    }
    longest = files['left out'].name
    if len(os.fsencode(longest)) > os.pathconf(out.parent, 'PC_NAME_MAX'):
        raise Refused(f'{longest!r} is too long a name: give a shorter --out')
    return files


def merged(
    known: Labels, source: Path | str, before: sheet.Before, table: Path, tree: Tree
) -> Labels:
    """What is known of the images of a `tree` from a `source`, and from a `table` as it was
    `before`.
    """
    answers = dict(known.answers)
    for i, row in enumerate(tree.rows):
        if (typed := before.answers.get(row)) is None:
            continue
        other = answers.get(i)
        if other and typed and set(other) != set(typed):
            one, two = labels.cell(other), labels.cell(typed)
            both = f'{str(source)!r} says {one!r}, {str(table)!r} says {two!r} of {row.name!r}'
            raise Refused(f'{both}: change one')
        answers[i] = other or typed
    return labels.coded(answers)


def written(made: Ranking, base: Path, before: sheet.Before) -> Ranking:
    """Write everything, the table last: what people typed into the table `base` meanwhile outweighs
    what stood there `before`. Nothing is written where it cannot be read now.
    """
    files, page = made.files, contact_sheet(made).encode('utf-8')
    sheet.check_files(files)
    now = sheet.before(base, made.tree)
    try:
        stored = store.find('round')
    except Refused:  # one is damaged, and its classes are most often those of this round
        stored = []
    classes = {*made.known.classes, *(name for one in stored for name in one.classes)}
    columns = table(made, before, now.with_remarks(rounds.reason_pattern(classes)))
    pictures = [made.tree.rows[i].picture for i in made.picked]
    facts = {'reason': list(made.reasons), 'picture': pictures, **_place(made, made.picked)}
    write(files['sheet'], page)
    sheet.write_tasks(files['tasks'], made.tree.root.name, made.names, facts)
    sheet.write_csv(files['table'], columns)
    return replace(made, files={what: path for what, path in files.items() if path.exists()})


def _place(made: Ranking, rows: np.ndarray) -> dict[str, list[Any]]:
    """Where images stand in the order of a pretext task; nothing where there is none."""
    if made.loss is None:
        return {}
    loss = [round(float(one), 6) for one in made.loss[rows]]
    return {'loss': loss, 'rank': made.rank[rows].tolist(), 'batch': made.batch[rows].tolist()}


def table(made: Ranking, before: sheet.Before, now: sheet.Before) -> dict[str, list[Any]]:
    """One row an image: the picks, all others from the hardest on, and what people typed of images
    that are gone; their table as it was `before` the round and is `now`.
    """
    rows, cycle = made.tree.rows, made.round.cycle
    rest = np.arange(len(rows)) if made.loss is None else np.argsort(made.rank)
    index = np.concatenate([made.picked, rest[~np.isin(rest, made.picked)]])
    chosen = {rows[i]: reason for i, reason in zip(made.picked.tolist(), made.reasons)}
    answers = {rows[i]: answer for i, answer in made.known.answers.items()}
    for row in now.picked:  # every row that is there
        was, typed = before.answers.get(row), now.answers.get(row)
        if typed is not None and (typed != was or row not in answers):
            answers[row] = typed
        elif typed is None and was is not None:  # erased meanwhile
            answers.pop(row, None)
    # the same round once more: what was picked and labelled in it stays
    earlier = {row: one for row, one in now.cycles.items() if one != cycle or row in answers}
    there = set(rows)
    gone = [row for row in now.rows if row not in there]
    order = [rows[i] for i in index] + gone
    cells: dict[str, Mapping[Row, Any]] = {
        'picked': earlier | dict.fromkeys(chosen, cycle),
        'reason': chosen,
        'label': {row: labels.cell(answer) for row, answer in answers.items()},
        'picture': {row: row.picture for row in order},
        **now.columns,
    }
    return (
        {'path': [row.name for row in order]}
        | {head: values + [''] * len(gone) for head, values in _place(made, index).items()}
        | {head: [typed.get(row, '') for row in order] for head, typed in cells.items()}
    )


def contact_sheet(made: Ranking) -> str:
    """The page that shows the picks and what was learnt of the folder."""
    tree, known, picked = made.tree, made.known, made.picked.tolist()
    rest = np.setdiff1d(np.arange(len(tree.names)), made.picked)
    shrink = max(1, tree.size // 64)
    counts = np.bincount(known.label, minlength=len(known.classes)).tolist()
    return sheet.page(
        made=made,
        tree=tree,
        picked=picked,
        why=dict(zip(picked, made.reasons)),
        by_rank=np.argsort(made.rank),
        balance={name: f'{count:,} images' for name, count in zip(known.classes, counts)},
        others=rest[:: max(1, math.ceil(len(rest) / DOTS))].tolist(),
        dots=DOTS,
        thumbnail=lambda i: sheet.picture(_thumbnail(tree, i)),
        small=lambda i: sheet.picture(tree.pixels[i][:, ::shrink, ::shrink]),
    )


def _thumbnail(tree: Tree, index: int) -> np.ndarray:
    try:
        return folders.decode(tree.root / tree.names[index], THUMB)
    # the file is gone or changed since it was decoded: show what was learnt from
    except Exception:
        return tree.pixels[index]
