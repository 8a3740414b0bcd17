"""Results that travel: checking stores, merging them, and computing a stored result again."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pt4al import files
from pt4al.errors import Refused
from pt4al.experiments import store
from pt4al.experiments.specs import KINDS, Active, Pretext

FOLDER = re.compile(r'[a-z_]+-[\w.-]+-[0-9a-f]{12}')


def folders(root: Path) -> list[Path]:
    """The result folders of a store, by name."""
    return sorted(
        path for path in root.glob('*-*-*') if path.is_dir() and FOLDER.fullmatch(path.name)
    )


def sound(folder: Path) -> store.Result:
    """Read one result; `Refused` if a digest is wrong, or if its key is not that of the spec it
    states.
    """
    result = store.read(folder)
    cls = KINDS.get(result.kind)
    if cls and result.provenance.get('recipe') == cls.recipe:
        try:
            spec = rebuilt(cls, result.spec)
        # made by later code, whose fields this one does not know
        except (TypeError, AttributeError):
            return result
        if folder.name != store.folder_name(spec, store.key(spec, result.provenance['data'])):
            raise Refused(
                f'result {folder} is not what its name says: its spec has another key; delete it'
            )
    return result


def again(result: store.Result) -> store.Result:
    """Compute a stored result once more, on this machine and beside the stores; what it rests on is
    read from them.

    `Refused` where the images are not those, or where the recipe has changed since.
    """
    from pt4al import experiments

    cls = KINDS.get(result.kind)
    if cls is None or result.provenance.get('recipe') != cls.recipe:
        raise Refused(
            f'{result.key} is not an experiment of this code: its kind is {result.kind}, its recipe '
            f'{result.provenance.get("recipe")}'
        )
    spec = rebuilt(cls, result.spec)
    if (digest := experiments.data_digest(spec)) != result.provenance['data']:
        raise Refused(
            f'{result.key} was computed from other images of {spec.dataset} than those at hand'
        )
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        computed = experiments.compute(spec, Path(folder) / 'scratch')
        took = {'commit': store.commit(), 'seconds': round(time.monotonic() - start, 1)}
        return store.read(store.write(Path(folder), spec, digest, computed, took))


def difference(stored: store.Result, new: store.Result) -> str:
    """Where what was stored is not what was computed anew, by the column that differs most; ''
    where each stored column is
    there to the last bit. Later code may tell more: columns that were not stored are not looked at.
    """
    gaps = {}
    for table, columns in stored.tables.items():
        for name, old in columns.items():
            values = new.tables.get(table, {}).get(name)
            if values is None or len(values) != len(old):
                return f'{table}.{name} is missing or of another length'
            if not alike(old, values):
                gaps[f'{table}.{name}'] = (
                    float(np.abs(old.astype(float) - values).max())
                    if old.dtype.kind in 'fiu'
                    else 0.0
                )
    most = max(gaps, key=gaps.get, default='')
    return f'{most} by up to {gaps[most]:.2g}' if most else ''


def alike(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two columns are equal to the last bit."""
    return a.dtype == b.dtype and (
        list(a) == list(b) if a.dtype == object else a.tobytes() == b.tobytes()
    )


def rebuilt(cls: type, fields: dict[str, Any]) -> Any:
    """The spec of a class from the fields that a result states."""
    values = {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }
    for name, nested in {'pretext': Pretext, 'encoder': Pretext, 'active': Active}.items():
        if values.get(name):
            values[name] = rebuilt(nested, values[name])
    return cls(**values)


def verify(roots: Iterable[Path]) -> tuple[int, list[str]]:
    """How many results the stores hold, and a line for each that is damaged; `Refused` where a
    store is not there.
    """
    count, damaged, roots = 0, [], list(roots)
    if absent := [root for root in roots if not root.is_dir()]:
        raise Refused(f'{absent[0]} is no folder: there is no store to verify')
    for folder in (folder for root in roots for folder in folders(root)):
        count += 1
        try:
            sound(folder)
        except Refused as damage:
            damaged.append(str(damage))
    return count, damaged


# --- merging ---


def merge(sources: Sequence[Path], into: Path) -> list[Path]:
    """Copy the results of other stores into one; nothing is copied if any is damaged, or differs
    from one of its key.

    Two results of one key agree if their tables are equal to the last bit; the first is kept then,
    with its provenance.
    """
    first: dict[str, Path] = {}
    for source in sources:
        if not (stored := folders(source)):
            raise Refused(f'{source} holds no results: give the folder of a store')
        for folder in stored:
            old, new = first.get(folder.name, into / folder.name), sound(folder)
            _named(new)
            if old.exists() and not same(sound(old), new):
                raise Refused(
                    f'{new.key} has two different results, {_origin(sound(old))} and {_origin(new)}: '
                    'remove one of the folders, or leave its store out; nothing was merged'
                )
            first.setdefault(folder.name, old if old.exists() else folder)
    return [_copied(folder, into) for folder in first.values() if folder.parent != into]


def same(one: store.Result, two: store.Result) -> bool:
    """Whether the tables of two results are equal to the last bit."""
    return {t: list(c) for t, c in one.tables.items()} == {
        t: list(c) for t, c in two.tables.items()
    } and all(
        alike(values, two.tables[table][name])
        for table in one.tables
        for name, values in one.tables[table].items()
    )


def _origin(result: store.Result) -> str:
    names = ('commit', 'chip', 'device', 'precision', 'threads', 'torch', 'seconds')
    facts = (f'{name} {result.provenance[name]}' for name in names if name in result.provenance)
    return f'{result.folder} ({", ".join(facts)})'


def _copied(folder: Path, into: Path) -> Path:
    """Copy a result whole or not at all: the files that it names and no others."""
    with files.fresh(into / '.partial') as part:
        copy = part / folder.name
        copy.mkdir()
        for path in _named(store.read(folder)):
            shutil.copyfile(path, copy / path.name, follow_symlinks=False)
        store.read(copy)  # what came is what was checked
        try:
            os.rename(copy, into / folder.name)
        except OSError:
            if not (into / folder.name).is_dir():  # else another process brought it meanwhile
                raise
    return into / folder.name


def _named(result: store.Result) -> list[Path]:
    """The files of a result; `Refused` where one is a link, which could lead to anything."""
    paths = [
        result.folder / name
        for name in ('result.json', *(f'{table}.parquet' for table in result.tables))
    ]
    for path in (result.folder, *paths):
        if path.is_symlink():
            raise Refused(f'{path} is a link: copy the store with its files, not links to them')
    return paths
