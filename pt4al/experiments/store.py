"""The result store: one folder a result, keyed by what was asked for, whole or absent.

    results/pretext-cifar10-3f2a9c0d1e5b/
        result.json        spec, summary, provenance, the tables' digests, and a digest of all that
        images.parquet     one row an image        (and other tables, as the kind of result has
        them)

The key is a digest of (kind, recipe version, spec, data digest).  The code's commit and the machine
are recorded beside the result and are not part of the key: otherwise every typo fix would throw
computed hours away.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pt4al import files
from pt4al.errors import NotStored, Refused

log = logging.getLogger('pt4al')
# how a lock says that another process holds it
BUSY = (errno.EACCES, errno.EAGAIN)
# what one file of a result may hold: bytes, and numbers once it is unfolded
FILE, CELLS = 2**30, 2**27
# table -> column -> values of equal length
Tables = dict[str, dict[str, np.ndarray]]


@dataclass(frozen=True)
class Computed:
    """What an experiment hands to the store: tables, and single numbers that describe the run."""

    tables: Tables
    summary: dict[str, float]
    classes: tuple[str, ...]  # names of the label values
    machine: dict[str, Any]


@dataclass(frozen=True)
class Result:
    """A stored result, verified against its digests when it was read."""

    key: str
    kind: str
    spec: dict[str, Any]
    tables: Tables
    summary: dict[str, float]
    classes: tuple[str, ...]
    provenance: dict[str, Any]
    folder: Path


def canonical(spec: Any) -> dict[str, Any]:
    """The fields of a spec dataclass that differ from their defaults, nested specs alike.

    A field added later therefore leaves every old key valid.  In return no default may change:
    raise `recipe` instead.
    """
    out: dict[str, Any] = {'kind': spec.kind, 'recipe': spec.recipe}
    for field in dataclasses.fields(spec):
        value = getattr(spec, field.name)
        if value != field.default:
            out[field.name] = canonical(value) if dataclasses.is_dataclass(value) else value
    return out


def key(spec: Any, data_digest: str) -> str:
    """Twelve hexadecimal digits that name the result of a spec on given data."""
    text = json.dumps([canonical(spec), data_digest], sort_keys=True, separators=(',', ':'))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


_CHOSEN: ContextVar[Path | None] = ContextVar('store', default=None)


@contextmanager
def using(folder: Path) -> Iterator[None]:
    """Read and write results in a folder, and nowhere else, inside this context."""
    token = _CHOSEN.set(Path(folder))
    try:
        yield
    finally:
        _CHOSEN.reset(token)


def roots() -> list[Path]:
    """The stores to read, first match wins; results are written to the first.

    Inside `using` its folder. Else $PT4AL_RESULTS holds one or more folders joined by the path separator; else `results/` beside
    the package or here.
    """
    if (chosen := _CHOSEN.get()) is not None:
        return [chosen]
    named = os.environ.get('PT4AL_RESULTS')
    if named:
        return [Path(part) for part in named.split(os.pathsep) if part]
    beside = Path(__file__).resolve().parents[2] / 'results'
    return [beside if beside.is_dir() else Path('results')]


def folder_name(spec: Any, name: str) -> str:
    """The name of the folder that holds a spec's result, whose key is `name`."""
    return f'{spec.kind}-{spec.dataset.split(":")[0]}-{name}'


def _text(content: Any) -> str:
    return json.dumps(content, indent=1, sort_keys=True, default=list) + '\n'


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _sealed(content: dict[str, Any]) -> dict[str, Any]:
    return {
        **content,
        'digest': _digest(_text({k: v for k, v in content.items() if k != 'digest'}).encode()),
    }


def read(folder: Path) -> Result:
    """Read one result, refusing it when any file is missing, cut short or edited, or when it has
    not the form of a result.
    """
    try:
        content = _stated(folder)
        sound = content['digest'] == _sealed(content)['digest'] and folder.name.endswith(
            content['key']
        )
        contents = {name: _bytes(folder / f'{name}.parquet') for name in content['tables']}
        sound = sound and all(
            _digest(contents[name]) == digest for name, digest in content['tables'].items()
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise Refused(
            f'result {folder} is damaged (a file is missing, cut short or edited): delete the '
            'folder and run it again, or restore it with git'
        )
    if wrong := malformed(content):
        raise Refused(f'result {folder} is no result ({wrong}): delete the folder')
    dataset = content['spec']['dataset'].partition(':')[0]
    if folder.name != f'{content["kind"]}-{dataset}-{content["key"]}':
        raise Refused(f'result {folder} is not what its name says: delete the folder')
    try:
        tables = {name: _table(data) for name, data in contents.items()}
    except (pa.ArrowException, OSError, ValueError, KeyError, OverflowError) as damage:
        raise Refused(
            f'result {folder} is no result ({" ".join(str(damage).split())}): delete the folder'
        ) from None
    return Result(
        content['key'],
        content['kind'],
        content['spec'],
        tables,
        content['summary'],
        tuple(content['classes']),
        content['provenance'],
        folder,
    )


def _bytes(path: Path) -> bytes:
    """What a plain file holds, none larger than any of a result."""
    if files.plain(path).stat().st_size > FILE:
        raise Refused(f'{path} has more than {FILE:,} bytes')
    return path.read_bytes()


def _stated(folder: Path) -> dict[str, Any]:
    return json.loads(_bytes(folder / 'result.json'))


def malformed(content: Any) -> str:
    """What in a result.json has not the form that `write` gives it, or ''."""
    parts = {
        'key': str,
        'kind': str,
        'spec': dict,
        'summary': dict,
        'classes': list,
        'tables': dict,
        'provenance': dict,
    }
    if not isinstance(content, dict):
        return 'it is no mapping'
    for name, kind in parts.items():
        if not isinstance(content.get(name), kind):
            return f'{name} is no {kind.__name__}'
    made, spec = content['provenance'], content['spec']
    checks = {
        'key': re.fullmatch('[0-9a-f]{12}', content['key']),
        'kind': re.fullmatch('[a-z_]+', content['kind']),
        'classes': all(isinstance(name, str) for name in content['classes']),
        'summary': all(type(value) in (int, float) for value in content['summary'].values()),
        'tables': all(
            re.fullmatch(r'\w+', name) and isinstance(digest, str)
            for name, digest in content['tables'].items()
        ),
        'spec.dataset': isinstance(spec.get('dataset'), str),
        'spec.seed': type(spec.get('seed', 0)) is int,
        'spec.pretext': isinstance(spec.get('pretext'), dict | None),
        'provenance.recipe': type(made.get('recipe')) is int,
        'provenance.data': isinstance(made.get('data'), str),
        'provenance.commit': isinstance(made.get('commit'), str),
        'provenance.seconds': type(made.get('seconds')) in (int, float),
        'provenance': all(isinstance(fact, str | int | float | None) for fact in made.values()),
    }
    return next((f'{name} has another form' for name, good in checks.items() if not good), '')


def _table(data: bytes) -> dict[str, np.ndarray]:
    """The columns of a table, whose size is bounded before it is unfolded."""
    source = pa.BufferReader(data)
    schema = pq.read_schema(source)
    words = [field.name for field in schema if pa.types.is_string(field.type)]
    plain = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    for field in schema:
        if field.name not in words and not any(is_kind(field.type) for is_kind in plain):
            raise ValueError(f'column {field.name} is {field.type}')
    # no Arrow thread may hold a Python object: one that still does when Python exits aborts the
    # process; words stay a list of each once, however many rows name it
    file = pq.ParquetFile(source, pre_buffer=False, read_dictionary=words)
    about = file.metadata
    groups = [about.row_group(number) for number in range(about.num_row_groups)]
    if (
        about.num_rows * about.num_columns > CELLS
        or sum(group.total_byte_size for group in groups) > 8 * CELLS
    ):
        raise ValueError(f'{about.num_rows:,} rows of {about.num_columns} columns unfold too far')
    table = file.read(use_threads=False)
    return {
        name: _words(column) if name in words else column.to_numpy()
        for name, column in zip(table.column_names, table.columns)
    }


def _words(column: pa.ChunkedArray) -> np.ndarray:
    parts = [
        np.array(chunk.dictionary.to_pylist(), object)[chunk.indices.to_numpy(False)]
        for chunk in column.chunks
        if len(chunk)
    ]
    return np.concatenate(parts) if parts else np.empty(0, object)


def write(root: Path, spec: Any, data_digest: str, computed: Computed, run: dict[str, Any]) -> Path:
    """Write a result whole or not at all; if another run wrote the same key meanwhile, that one
    stays.
    """
    name = key(spec, data_digest)
    target = root / folder_name(spec, name)
    with files.fresh(root / '.partial') as part:
        digests = {}
        for table, columns in computed.tables.items():
            pq.write_table(pa.table(columns), part / f'{table}.parquet', compression='zstd')
            digests[table] = _digest((part / f'{table}.parquet').read_bytes())
        content = {
            'key': name,
            'kind': spec.kind,
            'spec': dataclasses.asdict(spec),
            'summary': computed.summary,
            'classes': computed.classes,
            'tables': digests,
            'provenance': {'recipe': spec.recipe, 'data': data_digest, **run, **computed.machine},
        }
        (part / 'result.json').write_text(_text(_sealed(content)))
        try:
            os.rename(part, target)
        except OSError:
            if not target.is_dir():
                raise
    return target


def commit() -> str:
    """The commit of the code that runs, with `+` when the package differs from it.

    PT4AL_COMMIT says it where the code was copied without its history; else it is 'unknown' there.
    """
    if named := os.environ.get('PT4AL_COMMIT'):
        return named
    here = Path(__file__).resolve().parent.parent
    try:

        def git(*words: str) -> str:
            return subprocess.run(
                ['git', '-C', str(here), *words], capture_output=True, text=True, check=True
            ).stdout

        return git('rev-parse', '--short=12', 'HEAD').strip() + (
            '+' if git('status', '--porcelain', '.') else ''
        )
    except (OSError, subprocess.CalledProcessError):
        return 'unknown'


def folders_of(spec: Any, data_digest: str) -> list[Path]:
    """The folders that hold a spec's result, in the order of the stores."""
    return [
        path
        for root in roots()
        for path in sorted(root.glob(f'{spec.kind}-*-{key(spec, data_digest)}'))
    ]


def result(
    spec: Any, data_digest: str, compute: Callable[[Any, Path], Computed], policy: str = 'missing'
) -> Result:
    """Read the result of a spec, or compute and store it if `policy` is 'missing'; with 'never' a
    lack is refused.

    `compute(spec, scratch)` may keep unfinished work in `scratch`, which outlives an interruption
    and goes with the result. A damaged result is refused with 'never'; else another store's copy is
    read, or it is computed again.
    """
    if stored := _stored(spec, data_digest, policy):
        return stored
    if policy == 'never':
        raise NotStored(
            f'no result {spec.kind} {canonical(spec)} in {", ".join(map(str, roots()))}: run it first'
        )
    root, name = roots()[0], key(spec, data_digest)
    scratch = root / '.partial' / name
    try:
        scratch.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=scratch.parent).close()
    except OSError as error:  # before hours of work, not after them
        raise Refused(
            f'cannot write results to {root} ({error.strerror}): set PT4AL_RESULTS to a folder you can write to'
        ) from None
    with locked(_lock(root, name)) as alone:
        for folder in (scratch, root / '.weights'):
            files.sweep(folder)
        if alone:
            _clear(scratch)
        if stored := _stored(spec, data_digest, policy, root):  # while this one waited
            return stored
        # the code as it is now, not as it may be hours later
        code, start = commit(), time.monotonic()
        try:
            computed = compute(spec, scratch)
            target = write(
                root,
                spec,
                data_digest,
                computed,
                {'commit': code, 'seconds': round(time.monotonic() - start, 1)},
            )
        except BaseException:
            if alone:
                _clear(scratch)
            raise
        shutil.rmtree(scratch, ignore_errors=True)
        return read(target)


def _stored(spec: Any, data_digest: str, policy: str, clean: Path | None = None) -> Result | None:
    """A whole stored result; damaged ones are passed over, and removed from the store `clean`."""
    for folder in folders_of(spec, data_digest):
        try:
            return read(folder)
        except Refused as damage:
            if policy == 'never':
                raise
            log.warning('%s; going on without it', damage)
            if folder.parent == clean:  # other stores are only read
                shutil.rmtree(folder)
    return None


def _lock(root: Path, name: str) -> Path:
    return root / '.partial' / f'{name}.lock'


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold the file `path` alone among processes, after whoever holds it; yields False where locks
    are not to be had.

    A POSIX record lock: it ends with its process, however that ends, and reaches other nodes where
    the file system's do (NFS, Lustre with `flock`).  Where they do not, two nodes may compute one
    result; the first that is written stays.
    """
    with _sweeping:
        _sweep_locks(path.parent)
    file, held = _take(path)
    try:
        yield held
    finally:
        if held:
            path.unlink(missing_ok=True)
        file.close()


# one thread sweeps before any takes a lock: who closes a file loses the locks on it
_sweeping = threading.Lock()
_swept: set[Path] = set()


def _sweep_locks(folder: Path) -> None:
    """Remove the lock files of dead processes, once a process."""
    if folder.resolve() in _swept:
        return
    _swept.add(folder.resolve())
    for path in folder.glob('*.lock'):
        try:
            with open(path, 'r+b') as file:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
        except OSError:
            pass  # a living one holds it, or has removed it


def _take(path: Path) -> tuple[IO[bytes], bool]:
    while True:
        file = open(path, 'ab')
        try:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in BUSY:
                    log.warning(
                        '%s cannot be locked here (%s): start no other run of it',
                        path,
                        error.strerror,
                    )
                    return file, False
                log.info('waiting for another process that computes %s', path.stem)
                fcntl.lockf(file, fcntl.LOCK_EX)
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file, True  # else its last holder has removed it
        except BaseException as end:
            file.close()
            if not isinstance(end, FileNotFoundError):
                raise
        file.close()


def running(name: str) -> bool:
    """Whether another process holds the lock of a key of the first store; where locks do not reach,
    False.
    """
    try:
        with open(_lock(roots()[0], name), 'r+b') as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in BUSY
    return False


def _clear(scratch: Path) -> None:
    """Remove the note of a failure, and what processes of earlier code left half-written."""
    for stray in [*scratch.glob('*.part'), *scratch.parent.glob(f'{scratch.name}-*')]:
        shutil.rmtree(stray) if stray.is_dir() else stray.unlink(missing_ok=True)


def find(
    kind: str, where: Callable[[Mapping[str, Any]], bool] | None = None, **fields: Any
) -> list[Result]:
    """All stored results of a kind ('*': any) whose spec has these values, by kind, seed and key;
    damage is refused.

    `where` is asked of what `result.json` says; the tables of other results are not read.
    """
    matches: dict[str, Result] = {}
    for folder in (path for root in roots() for path in sorted(root.glob(f'{kind}-*-*'))):
        about = _said(folder)
        if (
            about['key'] not in matches
            and all(about['spec'].get(name) == value for name, value in fields.items())
            and (where is None or where(about))
        ):
            matches[about['key']] = read(folder)
    return sorted(matches.values(), key=lambda r: (r.kind, r.spec.get('seed', 0), r.key))


def stated() -> list[Mapping[str, Any]]:
    """What the `result.json` of every stored result says; damage is refused."""
    folders = [path for root in roots() for path in sorted(root.glob('*-*-*')) if path.is_dir()]
    return [_said(path) for path in folders]


def _said(folder: Path) -> Mapping[str, Any]:
    """What a result's `result.json` says, for looking only: it is parsed again when the file has
    changed.
    """
    try:
        path = folder / 'result.json'
        now = path.stat()
        about = _parsed(path, now.st_mtime_ns, now.st_size)
        if not malformed(about):
            return about
    except (OSError, ValueError, RecursionError):
        pass
    return vars(read(folder))  # says what is wrong with it


@cache
def _parsed(path: Path, changed: int, size: int) -> Mapping[str, Any]:
    return _stated(path.parent)


def copies(result: Result) -> list[Result]:
    """The same result in every store that has it: this machine's and the committed one, say."""
    return [
        read(folder)
        for root in roots()
        for folder in sorted(root.glob(f'{result.kind}-*-{result.key}'))
    ]
