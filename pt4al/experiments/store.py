"""The result store: one folder per result, named by a key of its spec, whole or absent.

    results/pretext-cifar10-3f2a9c0d1e5b/
        result.json        spec, summary, provenance, the tables' digests, and a digest of all that
        images.parquet     one row per image; other tables, by the kind of result

The key is a digest of (kind, recipe version, spec, data digest). The code's commit and the machine
are recorded beside the result and are not part of the key: otherwise every typo fix would throw
computed hours away.
"""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from pt4al import files
from pt4al.errors import NotStored, Refused, one_line
from pt4al.experiments import specs
from pt4al.progress import log

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
    machine: dict[str, Any] = dataclasses.field(default_factory=dict)  # empty: this one


@dataclass(frozen=True)
class Result:
    """A stored result, verified against its digests when it was read."""

    key: str
    kind: str
    fields: dict[str, Any]  # of the spec, as stored
    tables: Tables
    summary: dict[str, float]
    classes: tuple[str, ...]
    provenance: dict[str, Any]
    folder: Path

    def __repr__(self) -> str:
        return f'<{self.kind} {self.fields.get("dataset", "")}, result {self.key}>'

    @cached_property
    def spec(self) -> Any:
        """What was computed, as `specs.restored` builds it."""
        return specs.restored(self.kind, self.fields)


def canonical(spec: Any) -> dict[str, Any]:
    """The fields of a spec that differ from their defaults, nested specs alike.

    A field added later leaves every old key valid; no default may change: raise `recipe` instead.
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
def only_in(folder: Path) -> Iterator[None]:
    """Read and write results in a folder, and nowhere else, inside this context."""
    token = _CHOSEN.set(Path(folder))
    try:
        yield
    finally:
        _CHOSEN.reset(token)


def roots() -> list[Path]:
    """The stores to read, first match wins; results are written to the first. Inside `only_in` its
    folder; else those of $PT4AL_RESULTS; else `results/` beside the package or here.
    """
    if (chosen := _CHOSEN.get()) is not None:
        return [chosen]
    named = os.environ.get('PT4AL_RESULTS', '').split(os.pathsep)
    if any(named):
        return [Path(part) for part in named if part]
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
    unsealed = {name: value for name, value in content.items() if name != 'digest'}
    return {**unsealed, 'digest': _digest(_text(unsealed).encode())}


def read(folder: Path) -> Result:
    """Read one result; `Refused` when it is damaged, is no result, or not what its name says."""
    with _readable(folder):
        content = _stated(folder)
        _check_form(content)
        dataset = content['spec']['dataset'].partition(':')[0]
        if folder.name != f'{content["kind"]}-{dataset}-{content["key"]}':
            raise ValueError('it is not what its name says')
        paths = {name: folder / f'{name}.parquet' for name in content['tables']}
        contents = {name: _bytes_of(path) for name, path in paths.items()}
        digests = {name: _digest(data) for name, data in contents.items()}
        if content != _sealed(content) or content['tables'] != digests:
            raise ValueError('a file is cut short or edited')
        tables = {name: _table(data) for name, data in contents.items()}
    plain = {name: content[name] for name in ('key', 'kind', 'summary', 'provenance')}
    fields, classes = content['spec'], tuple(content['classes'])
    return Result(**plain, fields=fields, tables=tables, classes=classes, folder=folder)


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Refuse a result that cannot be read in this context, whatever is wrong with its files."""
    try:
        yield
    except (
        *(OSError, ValueError, LookupError, TypeError, AttributeError),
        *(OverflowError, RecursionError, pa.ArrowException),
    ) as damage:
        cure = 'delete the folder and run it again, or restore it with git'
        raise Refused(f'result {folder} is damaged ({one_line(damage)}): {cure}') from None


def _bytes_of(path: Path) -> bytes:
    return files.check_regular_file(path, FILE).read_bytes()


def _stated(folder: Path) -> dict[str, Any]:
    return json.loads(_bytes_of(folder / 'result.json'))


def _check_form(content: Any) -> None:
    """Raise what `_readable` refuses for a result.json of another form than that of `write`."""
    spec, made, classes = content['spec'], content['provenance'], content['classes']
    fit = (
        re.fullmatch('[0-9a-f]{12} [a-z_]+', f'{content["key"]} {content["kind"]}')
        and isinstance(classes, list)
        and isinstance(spec.get('pretext'), dict | None)
        and type(spec.get('seed', 0)) is type(made['recipe']) is int
        and all(isinstance(x, str) for x in [spec['dataset'], *classes])
        and all(isinstance(made[name], str) for name in ('data', 'commit'))
        and all(type(x) in (int, float) for x in [made['seconds'], *content['summary'].values()])
        and all(isinstance(x, str | int | float | None) for x in made.values())
        and all(re.fullmatch(r'\w+', name) for name in content['tables'])
    )
    if not fit:
        raise ValueError('an entry has another form')


def _table(data: bytes) -> dict[str, np.ndarray]:
    """The columns of a table, whose size is bounded before it is unfolded."""
    source = pa.BufferReader(data)
    words = []
    for field in pq.read_schema(source):
        if pa.types.is_string(field.type):
            words.append(field.name)
        elif not (pa.types.is_primitive(field.type) and not pa.types.is_temporal(field.type)):
            raise ValueError(f'column {field.name} is {field.type}')
    table = unfolded(source, CELLS, words)
    return {
        name: strings(column) if name in words else column.to_numpy()
        for name, column in zip(table.column_names, table.columns)
    }


def unfolded(source: Any, most: int, words: Sequence[str]) -> pa.Table:
    """A Parquet file of `most` values at most; words stay a list of each once."""
    # no Arrow thread may hold a Python object: one that still does when Python exits aborts the
    # process
    file = pq.ParquetFile(source, pre_buffer=False, read_dictionary=words)
    about = file.metadata
    groups = [about.row_group(number) for number in range(about.num_row_groups)]
    values = sum(g.column(c).num_values for g in groups for c in range(about.num_columns))
    if max(values, sum(group.total_byte_size for group in groups) / 8) > most:
        raise ValueError(f'it unfolds to more than {most:,} values')
    return file.read(use_threads=False)


def strings(column: pa.ChunkedArray) -> np.ndarray:
    """The words of a column that was read as a dictionary, each held once."""
    joined = column.combine_chunks()
    return np.array(joined.dictionary.to_pylist(), object)[joined.indices.to_numpy(False)]


def write(root: Path, spec: Any, data_digest: str, computed: Computed, run: dict[str, Any]) -> Path:
    """Write a result whole or not at all; one that another run wrote meanwhile stays."""
    name = key(spec, data_digest)
    target = root / folder_name(spec, name)
    with files.scratch_folder(root / '.partial') as part:
        digests = {}
        for table, columns in computed.tables.items():
            path = part / f'{table}.parquet'
            pq.write_table(pa.table(columns), path, compression='zstd')
            digests[table] = _digest(path.read_bytes())
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
        files.move_into_place(part, target)
    return target


def commit() -> str:
    """The commit of the code that runs, with `+` when the package differs from it; without its
    history $PT4AL_COMMIT names it, else it is 'unknown'.
    """
    if named := os.environ.get('PT4AL_COMMIT'):
        return named
    git = ['git', '-C', str(Path(__file__).resolve().parent.parent)]
    try:
        head, changed = (
            subprocess.run([*git, *words], capture_output=True, text=True, check=True).stdout
            for words in (('rev-parse', '--short=12', 'HEAD'), ('status', '--porcelain', '.'))
        )
    except (OSError, subprocess.CalledProcessError):
        return 'unknown'
    return head.strip() + ('+' if changed else '')


def folders_of(spec: Any, data_digest: str) -> list[Path]:
    """The folders that hold a spec's result, in the order of the stores."""
    return _folders(f'{spec.kind}-*-{key(spec, data_digest)}')


def _folders(pattern: str) -> list[Path]:
    return [path for root in roots() for path in result_folders(root, pattern)]


def result_folders(root: Path, pattern: str) -> list[Path]:
    """The folders of a store whose names fit a pattern, by name."""
    return [path for path in sorted(root.glob(pattern)) if path.is_dir()]


def scratch_of(spec: Any, data_digest: str) -> Path:
    """Where unfinished work on a spec is: runs that differ only in `until` share it."""
    if getattr(spec, 'until', 0):
        spec = dataclasses.replace(spec, until=0)
    return roots()[0] / '.partial' / key(spec, data_digest)


def failure_note(spec: Any, data_digest: str) -> Path:
    """The file that says why the last attempt at a spec failed."""
    return roots()[0] / '.partial' / f'{key(spec, data_digest)}-failed'


def get_or_compute(
    spec: Any, data_digest: str, compute: Callable[[Any, Path], Computed], policy: str = 'missing'
) -> Result:
    """Read the result of a spec, or compute and store it.

    compute  the function (spec, scratch); unfinished work in `scratch` outlives an interruption
    policy   'never' refuses a missing result, and a damaged one; with 'missing' another store's
             copy of a damaged one is read, or it is computed again
    """
    if policy == 'never':
        if stored_in := folders_of(spec, data_digest):
            return read(stored_in[0])
        places = ', '.join(map(str, roots()))
        raise NotStored(f'no result {spec.kind} {canonical(spec)} in {places}: run it first')
    root, scratch = roots()[0], scratch_of(spec, data_digest)
    _tidy(root)
    if stored := find_undamaged(spec, data_digest):
        return stored
    # before hours of work, not after them
    place = 'give --keep' if _CHOSEN.get() else 'set PT4AL_RESULTS to'
    files.check_writable(scratch.parent, f'{place} a folder you can write to')
    with locked(scratch):
        failure_note(spec, data_digest).unlink(missing_ok=True)
        if stored := find_undamaged(spec, data_digest, root):  # while this one waited
            return stored
        # the code as it is now, not as it may be hours later
        code, start = commit(), time.monotonic()
        computed = compute(spec, scratch)
        run = {'commit': code, 'seconds': round(time.monotonic() - start, 1)}
        target = write(root, spec, data_digest, computed, run)
        if not getattr(spec, 'until', 0):  # else a longer run goes on from it
            shutil.rmtree(scratch, ignore_errors=True)
        return read(target)


def find_undamaged(spec: Any, data_digest: str, clean: Path | None = None) -> Result | None:
    """The stored result of a spec. Damaged ones are passed over, and removed from `clean`, if it is
    their store.
    """
    for folder in folders_of(spec, data_digest):
        try:
            return read(folder)
        except Refused as damage:
            log.warning('%s; going on without it', damage)
            if folder.parent == clean:  # other stores are only read
                shutil.rmtree(folder)
    return None


@contextmanager
def locked(scratch: Path) -> Iterator[None]:
    """Work in `scratch` alone, after whoever does, where locks reach."""
    path = _lock(scratch)
    lock = FileLock(path, fallback_to_soft=False)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            from pt4al.training import cohort  # torch, which computing takes anyway

            log.info('waiting for another run that computes %s', scratch.name)
            while not lock.is_locked:
                with cohort.yield_turn(), suppress(Timeout):
                    lock.acquire(timeout=1)
    except (OSError, NotImplementedError) as error:
        log.warning('%s cannot be locked here (%s): start no other run of it', path, error)
    try:
        yield
    finally:
        if lock.is_locked:
            path.unlink(missing_ok=True)
            lock.release()


def running(scratch: Path) -> bool:
    """Whether another process works in `scratch`; False where locks do not reach.

    What a killed process left is removed: its lock, and work whose result is there.
    """
    path = _lock(scratch)
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0, fallback_to_soft=False):
            path.unlink()
            if any(scratch.parents[1].glob(f'*-*-{scratch.name}')):
                shutil.rmtree(scratch, ignore_errors=True)
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):
        return False


@cache
def _tidy(root: Path) -> None:
    """Clear away what killed processes left in a store; looked at once a process."""
    for lock in (root / '.partial').glob('*.lock'):
        running(lock.with_suffix(''))


def _lock(scratch: Path) -> Path:
    return scratch.with_name(f'{scratch.name}.lock')


def find(
    kind: str, where: Callable[[Mapping[str, Any]], bool] = lambda about: True, **fields: Any
) -> list[Result]:
    """All stored results of a kind ('*': any) whose spec has these values, and whose `result.json`
    passes `where`, by kind, seed and key; a damaged one raises `Refused`.
    """
    matches: dict[str, Result] = {}
    for folder in _folders(f'{kind}-*-*'):
        about = _content(folder)
        fits = all(about['spec'].get(name) == value for name, value in fields.items())
        if fits and about['key'] not in matches and where(about):
            matches[about['key']] = read(folder)
    return sorted(matches.values(), key=lambda r: (r.kind, r.fields.get('seed', 0), r.key))


def all_result_json() -> list[Mapping[str, Any]]:
    """The content of every stored `result.json`; damage is refused."""
    return [_content(folder) for folder in _folders('*-*-*')]


def _content(folder: Path) -> Mapping[str, Any]:
    """The content of a result's `result.json`, parsed again only when the file has changed."""
    with _readable(folder):
        now = (folder / 'result.json').stat()
        about = _parsed(folder, now.st_mtime_ns, now.st_size)
        _check_form(about)
    return about


@cache
def _parsed(folder: Path, changed: int, size: int) -> Mapping[str, Any]:
    return _stated(folder)
