"""Results that travel: checking stores, merging them, moving a part as one file, and finding what
no study names.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pt4al.errors import Refused
from pt4al.experiments import store
from pt4al.experiments.specs import KINDS, Active, Pretext

FOLDER = re.compile(r'[a-z_]+-[\w.-]+-[0-9a-f]{12}')
MEMBER = re.compile(rf'({FOLDER.pattern})/(result\.json|\w+\.parquet)')
# of every file in an archive: equal results make equal bytes
EPOCH = (1980, 1, 1, 0, 0, 0)


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
            spec = _rebuilt(cls, result.spec)
        # made by later code, whose fields this one does not know
        except TypeError:
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
    spec = _rebuilt(cls, result.spec)
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


def _rebuilt(cls: type, fields: dict[str, Any]) -> Any:
    values = {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }
    for name, nested in {'pretext': Pretext, 'encoder': Pretext, 'active': Active}.items():
        if values.get(name):
            values[name] = _rebuilt(nested, values[name])
    return cls(**values)


def verify(roots: Iterable[Path]) -> tuple[int, list[str]]:
    """How many results the stores hold, and a line for each that is damaged."""
    count, damaged = 0, []
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
        if not (found := folders(source)):
            raise Refused(f'{source} holds no results: give the folder of a store')
        for folder in found:
            old, new = first.get(folder.name, into / folder.name), sound(folder)
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
    """Copy a result whole or not at all."""
    (into / '.partial').mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into / '.partial', prefix='merge-') as part:
        whole = Path(shutil.copytree(folder, Path(part) / folder.name))
        try:
            os.rename(whole, into / folder.name)
        except OSError:
            if not (into / folder.name).is_dir():  # else another process brought it meanwhile
                raise
    return into / folder.name


# --- one file ---


def pack(results: Sequence[store.Result], file: Path, max_mb: float) -> int:
    """Write results as one zip file of at most `max_mb` megabytes (10^6 bytes); returns its bytes.

    Stored, not compressed: the tables already are, and nothing can then unfold beyond the file's
    own size.
    """
    if not results:
        raise Refused('no stored result is chosen: give another --dataset, --kind or --study')
    members = [
        path
        for result in results
        for path in sorted(result.folder.iterdir())
        if MEMBER.fullmatch(f'{path.parent.name}/{path.name}')
    ]
    size = (
        sum(
            path.stat().st_size + 2 * len(f'{path.parent.name}/{path.name}') + 76
            for path in members
        )
        + 22
    )
    if size > max_mb * 1e6:
        raise Refused(
            f'{len(results)} results are {size / 1e6:.1f} MB, more than {max_mb:g}: choose fewer by '
            '--dataset, --kind or --study, or raise --max-mb'
        )
    part = file.with_name(f'{file.name}.{os.getpid()}.part')
    try:
        with zipfile.ZipFile(part, 'w', zipfile.ZIP_STORED) as archive:
            for path in members:
                archive.writestr(
                    zipfile.ZipInfo(f'{path.parent.name}/{path.name}', EPOCH), path.read_bytes()
                )
        os.replace(part, file)
    except OSError as error:
        raise Refused(f'cannot write {file} ({error.strerror}): give another place') from None
    finally:
        part.unlink(missing_ok=True)
    return file.stat().st_size


def unpack(file: Path, into: Path) -> list[Path]:
    """Merge the results of a packed file into a store; `Refused` if it is anything but sound
    results.
    """
    try:
        (into / '.partial').mkdir(parents=True, exist_ok=True)
        with (
            zipfile.ZipFile(file) as archive,
            tempfile.TemporaryDirectory(dir=into / '.partial') as part,
        ):
            _unfold(archive, file, Path(part))
            return merge([Path(part)], into)
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise Refused(f'{file} cannot be imported: {" ".join(str(error).split())}') from None


def _unfold(archive: zipfile.ZipFile, file: Path, into: Path) -> None:
    """Write the members of an archive, by names of our own form alone: no path leads elsewhere,
    none is a link.
    """
    seen: set[str] = set()
    for info in archive.infolist():
        named = MEMBER.fullmatch(info.filename)
        if not named or info.filename in seen or info.compress_type != zipfile.ZIP_STORED:
            raise Refused(
                f'{file} holds {info.filename[:80]!r}, which no export writes: nothing was imported'
            )
        seen.add(info.filename)
        (into / named[1]).mkdir(exist_ok=True)
        (into / named[1] / named[2]).write_bytes(archive.read(info))
    for folder in folders(into):
        tables = {f'{name}.parquet' for name in store.read(folder).tables}
        if tables | {'result.json'} != {path.name for path in folder.iterdir()}:
            raise Refused(
                f'{file} holds files in {folder.name} that its result does not name: nothing was imported'
            )


# --- what no study names ---


def unnamed(root: Path, keys: Iterable[str], unknown: Iterable[str] = ()) -> list[Path]:
    """Results of a store, weights and unfinished work, whose keys are not among `keys`.

    Left out are derived kinds, which no study asks for, results on the data sets `unknown`, whose
    keys cannot be told here, and what another process is computing.
    """
    named, unknown = set(keys), {name.partition(':')[0] for name in unknown}
    found = [
        path
        for path in folders(root)
        if path.name.split('-')[0] in KINDS
        and not any(
            path.name.startswith(f'{path.name.split("-")[0]}-{dataset}-') for dataset in unknown
        )
    ]
    found += sorted([*root.glob('.weights/*.pt'), *root.glob('.partial/*')])
    return [
        path
        for path in found
        if (name := _key(path)) and name not in named and not store.running(name)
    ]


def _key(path: Path) -> str | None:
    """The key in the name of a result's folder, of its weights or of its unfinished work."""
    match = re.search(r'(?<![0-9a-f])[0-9a-f]{12}(?![0-9a-f])', path.name)
    return match and match[0]


def remove(paths: Iterable[Path]) -> None:
    """Delete files and folders; a folder goes under another name first, so that no half of it is
    ever read.
    """
    for path in paths:
        if path.is_file():
            path.unlink(missing_ok=True)
            continue
        partial = path.parent if path.parent.name == '.partial' else path.parent / '.partial'
        partial.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=partial, prefix='removed-') as away:
            os.replace(path, Path(away) / path.name)
