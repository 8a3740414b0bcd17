"""Speed and memory of the split against numpy's sorts, and of the split of Parquet shards, by
number of losses.
"""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pt4al.errors import Refused
from pt4al.rng import stream
from pt4al.shards import CHUNK, Chunk, find, pick_shards, split_shards

BATCHES = 10
SHARD = 25_000_000  # rows of a generated shard: 100 MB
PICKS = 1000
ROOM = 6  # bytes on disk a row, with some to spare


def chunks_of(loss: np.ndarray, ids: np.ndarray | None = None) -> Iterator[Chunk]:
    """An array of losses [N], with its ids if it has any, in chunks."""
    for start in range(0, len(loss), CHUNK):
        chunk = loss[start : start + CHUNK]
        rows = np.arange(start, start + len(chunk))
        yield chunk, rows if ids is None else ids[start : start + CHUNK]


def split(
    loss: np.ndarray, batches: int, ids: np.ndarray | None = None, seed: int = 0
) -> np.ndarray:
    """The batch [N] uint8 of each loss [N] float32 in memory; ids [N], by default row numbers."""
    cuts = find({'losses': lambda: chunks_of(loss, ids)}, batches, seed)
    return np.concatenate([cuts.batch(*chunk) for chunk in chunks_of(loss, ids)])


def _handed_on(loss: np.ndarray) -> None:
    """The batch numbers chunk by chunk, as they go to a file; they are never held together."""
    found = find({'losses': lambda: chunks_of(loss)}, BATCHES)
    for chunk in chunks_of(loss):
        found.batch(*chunk)


WAYS: dict[str, Callable[[np.ndarray], object]] = {
    'argsort': np.argsort,
    'sort': np.sort,
    'split': lambda loss: split(loss, BATCHES),
    'split_by_chunk': _handed_on,
}


def cuts(sizes: Sequence[int] = (10**6, 10**7, 10**8), rounds: int = 3) -> dict[str, Any]:
    """Split float32 losses into ten batches, and sort them with numpy: medians of CPU seconds, and
    memory beside them.

    The answer of `split` is one byte an image, that of argsort 8, `split_by_chunk` holds none;
    `extra_mb` counts it. `slopes` are those of log seconds on log size: 1 is linear.
    """
    rows = []
    for size in sizes:
        loss = _losses(size)
        medians = _in_turns(loss, rounds)
        del loss
        rows += [
            {
                'rows': size,
                'way': name,
                'seconds': medians[name],
                'extra_mb': _apart(_extra_mb, name, size),
                'ratio_to_argsort': medians['argsort'] / medians[name],
            }
            for name in WAYS
        ]
    return {
        'what': 'CPU seconds of a split of losses in memory',
        'batches': BATCHES,
        'rounds': rounds,
        'slopes': _slopes(rows),
        'rows': rows,
    }


def shards(rows: int | None = None, folder: Path | str | None = None) -> dict[str, Any]:
    """Split generated Parquet shards of a tenth of `rows`, then of all, and pick 1,000 from as
    many: seconds, bytes, memory.

    Without `rows` they are 10^9, or as large a power of ten as there is room for.  They are written
    under `folder`, by default where temporary files go, at most 5 bytes a row, and are deleted at
    the end.  `extra_mb` is memory beside the modules'.
    """
    folder = Path(folder or tempfile.gettempdir())
    room = shutil.disk_usage(folder).free // ROOM
    rows = rows or 10 ** min(9, len(str(room)) - 1)
    if not 10 * BATCHES <= rows <= room:
        raise Refused(
            f'{rows} rows in {folder}: give at least {10 * BATCHES}, and a folder with '
            f'{ROOM * rows / 1e9:.3g} GB free'
        )
    found = [
        _apart(measured, size, str(folder))
        for measured in (_split_of, _picks_of)
        for size in (rows // 10, rows)
    ]
    return {
        'what': 'CPU seconds of a split of losses in Parquet shards, and of picks from one batch',
        'batches': BATCHES,
        'picks': PICKS,
        'slopes': _slopes(found),
        'rows': found,
    }


def _in_turns(loss: np.ndarray, rounds: int) -> dict[str, float]:
    """Median CPU seconds of each way, taken in turns; the first turn does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds + 1):
        for name, way in WAYS.items():
            start = time.process_time()
            way(loss)
            seconds[name].append(time.process_time() - start)
    return {name: float(np.median(values[1:])) for name, values in seconds.items()}


def _slopes(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Of log seconds on log rows, for each way that was measured at two sizes or more."""
    slopes = {}
    for way in dict.fromkeys(row['way'] for row in rows):
        points = np.log([(row['rows'], row['seconds']) for row in rows if row['way'] == way])
        if len(points) > 1:
            slopes[way] = float(np.polyfit(*points.T, 1)[0])
    return slopes


def _losses(size: int) -> np.ndarray:
    loss = np.empty(size, np.float32)
    for start, chunk in zip(range(0, size, CHUNK), _drawn(size)):
        loss[start : start + CHUNK] = chunk
    return loss


def _drawn(size: int, shard: int = 0) -> Iterator[np.ndarray]:
    """Losses as they are after training, many small and few large, in chunks."""
    rng = stream(0, 'bench', 'losses', shard)
    for start in range(0, size, CHUNK):
        yield rng.standard_gamma(0.5, min(CHUNK, size - start), dtype=np.float32)


# --- memory is measured in a process of its own ---


def _apart(function: Callable[..., Any], *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:
        return pool.submit(function, *arguments).result()


def _memory_mb(which: str) -> float | None:
    """This process's memory now, 'VmRSS', or at most so far, 'VmHWM'; None where the system does
    not say.
    """
    try:
        lines = Path('/proc/self/status').read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(which))


def _peak(run: Callable[[], Any]) -> tuple[Any, float | None]:
    """What `run` returns, and by how much memory rose at most meanwhile."""
    before = _memory_mb('VmRSS')
    answer = run()
    return answer, None if before is None else _memory_mb('VmHWM') - before


def _extra_mb(way: str, size: int) -> float | None:
    loss = _losses(size)
    return _peak(lambda: WAYS[way](loss))[1]


def _split_of(rows: int, folder: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        paths = _generated(Path(name), rows, 'loss')
        row, found = _timed(
            rows, 'shards', paths, lambda: split_shards(paths, BATCHES, Path(name) / 'split')
        )
        written = sum(path.stat().st_size for path in (Path(name) / 'split').iterdir())
    return row | {'bytes_written': written, 'passes': 3 if found.tied else 2, 'tied': found.tied}


def _picks_of(rows: int, folder: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        paths = _generated(Path(name), rows, 'confidence')
        return _timed(
            rows,
            'pick',
            paths,
            lambda: pick_shards(paths, min(PICKS, rows), Path(name) / 'picks.csv'),
        )[0]


def _timed(
    rows: int, way: str, paths: Sequence[Path], run: Callable[[], Any]
) -> tuple[dict[str, Any], Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    found, extra = _peak(run)
    return {
        'rows': rows,
        'way': way,
        'shards': len(paths),
        'seconds': time.process_time() - cpu,
        'wall_seconds': time.perf_counter() - wall,
        'extra_mb': extra,
        'bytes_read': sum(path.stat().st_size for path in paths),
    }, found


def _generated(folder: Path, rows: int, column: str) -> list[Path]:
    """Shards of a column of numbers as losses are."""
    paths = []
    for start in range(0, rows, SHARD):
        paths.append(folder / f'{start}.parquet')
        schema = pa.schema([(column, pa.float32())])
        with pq.ParquetWriter(paths[-1], schema, compression='none', use_dictionary=False) as file:
            for chunk in _drawn(min(SHARD, rows - start), start):
                file.write_table(pa.table({column: chunk}))
    return paths
