"""Results that travel: checking stores, merging them, and computing a stored result again."""

import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from pt4al import files
from pt4al.errors import Refused
from pt4al.experiments import compute, store
from pt4al.experiments.specs import KINDS, Spec, data_digest, restored


def folders(root: Path) -> list[Path]:
    """The result folders of a store, by name."""
    return store.result_folders(root, '[a-z]*-*-' + 12 * '[0-9a-f]')


def spec_of(kind: str, fields: Mapping[str, Any], recipe: int) -> Spec | None:
    """The spec of a result from what it states; None if it is not of this code's recipe."""
    if kind in KINDS and recipe == KINDS[kind].recipe:
        with suppress(Refused):  # made by later code, whose fields this one does not know
            return restored(kind, fields)
    return None


def read_checked(folder: Path) -> store.Result:
    """Read one result; `Refused` if a digest is wrong, or if its key is not that of its spec."""
    result = store.read(folder)
    made = result.provenance
    spec = spec_of(result.kind, result.fields, made['recipe'])
    if spec and folder.name != store.folder_name(spec, store.key(spec, made['data'])):
        raise Refused(f'result {folder} is not what its name says: delete the folder')
    return result


def again(result: store.Result) -> store.Result:
    """Compute a stored result once more, beside the stores, from what these hold of its parts."""
    recipe = result.provenance['recipe']
    if (spec := spec_of(result.kind, result.fields, recipe)) is None:
        what = f'its kind is {result.kind}, its recipe {recipe}'
        raise Refused(f'{result.key} is not an experiment of this code: {what}')
    if (digest := data_digest(spec)) != result.provenance['data']:
        other = f'other images of {spec.dataset} than those at hand'
        raise Refused(f'{result.key} was computed from {other}')
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        computed = compute(spec, Path(folder) / 'scratch')
        took = {'commit': store.commit(), 'seconds': round(time.monotonic() - start, 1)}
        return store.read(store.write(Path(folder), spec, digest, computed, took))


def difference(stored: store.Result, new: store.Result) -> str:
    """The stored column that differs most, or '' where all equal the new ones to the last bit."""
    gaps = {}
    for table, columns in stored.tables.items():
        for name, old in columns.items():
            values = new.tables.get(table, {}).get(name)
            if values is None or len(values) != len(old):
                return f'{table}.{name} is missing or of another length'
            if old.dtype == values.dtype == object:
                if list(old) != list(values):
                    gaps[f'{table}.{name}'] = 0.0
            elif old.dtype != values.dtype or old.tobytes() != values.tobytes():
                gaps[f'{table}.{name}'] = float(np.abs(old.astype(float) - values).max())
    most = max(gaps, key=lambda name: gaps[name], default='')
    return f'{most} by up to {gaps[most]:.2g}' if most else ''


def _differ(a: store.Result, b: store.Result) -> bool:
    return bool(difference(a, b) or difference(b, a))


def verify(roots: Iterable[Path]) -> tuple[int, list[str]]:
    """How many results the stores hold, and a line for each damaged one."""
    stored, damaged = [], []
    for root in roots:
        if not root.is_dir():
            raise Refused(f'{root} is no folder: there is no store to verify')
        stored += folders(root)
    for folder in stored:
        try:
            read_checked(folder)
        except Refused as damage:
            damaged.append(str(damage))
    return len(stored), damaged


def merge(sources: Sequence[Path], into: Path) -> list[Path]:
    """Copy the results of other stores into one: none if any is damaged, or has other tables than
    one of its key; of equal ones the first stays.
    """
    first: dict[str, Path] = {}
    for source in sources:
        if not (stored := folders(source)):
            raise Refused(f'{source} holds no results: give the folder of a store')
        for folder in stored:
            old, new = first.get(folder.name, into / folder.name), read_checked(folder)
            _named(new)
            if old.exists() and _differ(read_checked(old), new):
                raise Refused(
                    f'{new.key} has two different results, {old} and {folder}: remove one of '
                    'them, or leave its store out; nothing was merged'
                )
            first.setdefault(folder.name, old if old.exists() else folder)
    return [_copied(folder, into) for folder in first.values() if folder.parent != into]


def _copied(folder: Path, into: Path) -> Path:
    """Copy a result whole or not at all: the files that it names and no others."""
    with files.scratch_folder(into / '.partial') as part:
        copy = part / folder.name
        copy.mkdir()
        for path in _named(store.read(folder)):
            shutil.copyfile(path, copy / path.name, follow_symlinks=False)
        store.read(copy)  # what came is what was checked
        files.move_into_place(copy, into / folder.name)
    return into / folder.name


def _named(result: store.Result) -> list[Path]:
    """The files of a result; `Refused` where one is a link, which could lead to anything."""
    names = ['result.json', *(f'{table}.parquet' for table in result.tables)]
    paths = [result.folder / name for name in names]
    for path in (result.folder, *paths):
        if path.is_symlink():
            raise Refused(f'{path} is a link: copy the store with its files, not links to them')
    return paths
