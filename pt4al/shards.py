"""The split of a pool of any size into batches of falling pretext loss, without sorting it (PT4AL,
sec. 3).

Ten batches need nine cuts, not an order.  Each pass over the losses counts 16 more bits of their
sorting key where a cut still lies: a float32 takes two passes, and only where equal losses straddle
a cut do more follow, over a keyed hash of the image's id.  The counts are all the state there is,
half a megabyte a cut, and those of shards add up: losses are read in chunks, from memory or from
Parquet, on one machine or on many, in any order.  That no id is given twice is not checked; it is
noticed only where it leaves a cut undecided.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import chain
from operator import add
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pt4al import files
from pt4al.errors import Refused
from pt4al.progress import Progress
from pt4al.rng import stream

# rows at a time: their 1 MB of losses stays in a core's cache
CHUNK = 2**18
BINS = 2**16  # values of the 16 bits that one pass counts
# where these bits stand: twice in the loss's 32, then in the hash's 64
SHIFTS = (16, 0, 48, 32, 16, 0)
MOST = 128  # batches: 127 cuts are 67 MB of counts

# losses [n] float32; ids [n] int64, or the row number of the first
Chunk = tuple[np.ndarray, 'np.ndarray | int']


@dataclass(frozen=True)
class Counts:
    """How many losses have each value of the next 16 bits where a cut lies, [places, 65536]; `+`
    merges shards.
    """

    bins: np.ndarray

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.bins + other.bins)

    @property
    def infinite(self) -> int:
        """Losses that are NaN or infinite, in the counts of a first pass: their exponent's bits are
        all 1.
        """
        return int(self.bins[0, :0x80].sum() + self.bins[0, 0xFF80:].sum())


@dataclass(frozen=True)
class Cuts:
    """Where batches 1, 2, ... start in the order of falling loss, as far as `level` passes tell;
    exact when `found`.

    Ties fall by a hash of the ids that `seed` keys; with `seed` None ids are taken as they are, the
    smallest first.
    """

    batches: int
    seed: int | None = 0
    level: int = 0
    rows: int = 0
    tied: int = 0  # losses equal to one whose ties straddle a cut
    # [batches-1] sorting keys of the losses that the batches start at
    keys: tuple[int, ...] = ()
    # [batches-1] the least hash at which such a loss is in the batch
    ties: tuple[int, ...] = ()
    # [batches-1] rows from the start of the known bits to the cut: 0, it is found
    left: tuple[int, ...] = ()

    @property
    def found(self) -> bool:
        """Whether every cut is exact."""
        return self.level > 1 and not any(self.left)

    @property
    def losses(self) -> list[float]:
        """The loss that each batch but the first starts at [batches-1]."""
        return _losses(self.keys).tolist()

    @property
    def places(self) -> list[tuple[int, int]]:
        """The bits known of each cut that is not found yet, without repeats: what a pass counts."""
        if not self.level:
            return [(0, 0)]
        return sorted(
            {
                (key, tie)
                for key, tie, left in zip(self.keys, self.ties, self.left)
                if left or self.level == 1
            }
        )

    def count(self, chunks: Iterable[Chunk]) -> Counts:
        """Count the next 16 bits of a shard's losses; the counts of all shards together `refine`
        the cuts.
        """
        bins = np.zeros((len(self.places), BINS), np.int64)
        for loss, ids in chunks:
            for row, digits in (self._hashes if self.level > 1 else self._keys)(loss, ids):
                # as fast as bincount, and free where they are few
                np.add.at(bins[row], digits, 1)
        return Counts(bins)

    def _keys(self, loss: np.ndarray, ids: np.ndarray | int) -> Iterator[tuple[int, np.ndarray]]:
        """The first 16 bits of all sorting keys; then, of those that begin as a place does, the
        last 16.
        """
        key = _sorting_key(loss)
        if not self.level:
            yield 0, key >> 16
            return
        near = np.zeros(BINS, bool)
        near[[place >> 16 for place, _ in self.places]] = True
        key = key[near.take(key >> 16)]
        for row, (place, _) in enumerate(self.places):
            yield row, key[key >> 16 == place >> 16] & 0xFFFF

    def _hashes(self, loss: np.ndarray, ids: np.ndarray | int) -> Iterator[tuple[int, np.ndarray]]:
        """Of the hashes where losses are equal to a place's and begin as it does, the next 16 bits."""
        shift, values = SHIFTS[self.level], _losses([place for place, _ in self.places])
        _, loss, hashed = self._equal(loss, ids, values)
        for row, (value, (_, tie)) in enumerate(zip(values, self.places)):
            # a shift by 64 bits is undefined
            mine = (loss == value) & (hashed >> shift >> 16 == tie >> shift >> 16)
            yield row, hashed[mine] >> shift & 0xFFFF

    def _equal(
        self, loss: np.ndarray, ids: np.ndarray | int, values: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """The rows, losses and hashes of what is equal to one of some losses."""
        rows = np.flatnonzero(np.isin(loss, values))
        return rows, loss[rows], _hash(ids, rows, self.seed)

    def refine(self, counts: Counts) -> Cuts:
        """The cuts with 16 bits more, from the counts of all shards; `Refused` where an id must be
        there twice.
        """
        start = self if self.level else self._start(int(counts.bins.sum()))
        row, shift, tied = (
            {place: row for row, place in enumerate(self.places)},
            SHIFTS[self.level],
            {},
        )
        known = []
        for key, tie, left in zip(start.keys, start.ties, start.left):
            if left or self.level < 2:
                bins = counts.bins[row[key, tie]]
                below = np.cumsum(bins)
                digit = int(np.searchsorted(below, left, 'right'))
                left -= int(below[digit] - bins[digit])
                key, tie = (
                    (key, tie | digit << shift) if self.level > 1 else (key | digit << shift, tie)
                )
                if left and self.level == 1:
                    tied[key] = int(bins[digit])
            known.append((key, tie, left))
        keys, ties, left = zip(*known) if known else ((), (), ())
        if any(left) and self.level + 1 == len(SHIFTS):
            raise Refused(
                'an id is given twice, with equal losses at a cut: give every image an id of its own'
            )
        return dataclasses.replace(
            start,
            level=self.level + 1,
            tied=start.tied + sum(tied.values()),
            keys=keys,
            ties=ties,
            left=left,
        )

    def _start(self, rows: int) -> Cuts:
        if self.batches > rows:
            raise Refused(
                f'{self.batches} batches of {rows} images: give at most one batch an image'
            )
        each, more = divmod(rows, self.batches)
        left = tuple(batch * each + min(batch, more) for batch in range(1, self.batches))
        return dataclasses.replace(
            self, rows=rows, keys=(0,) * len(left), ties=(0,) * len(left), left=left
        )

    def batch(self, loss: np.ndarray, ids: np.ndarray | int = 0) -> np.ndarray:
        """The batch [n] uint8 of each loss [n]; ids as they were counted: an array, or the row
        number of the first.
        """
        batch = np.zeros(len(loss), np.uint8)
        for cut in self.losses:
            batch += loss <= cut
        straddling = {(cut, tie) for cut, tie in zip(self.losses, self.ties) if tie}
        if straddling:
            rows, equal, hashed = self._equal(loss, ids, np.float32([cut for cut, _ in straddling]))
            for cut, tie in straddling:
                batch[rows] -= (equal == cut) & (hashed < tie)
        return batch


def _sorting_key(loss: np.ndarray) -> np.ndarray:
    """Bits of float32 [n] as uint32 that rise where losses fall; -0 is 0."""
    return _turned((loss + np.float32(0)).view(np.int32)).view(np.uint32)


def _losses(keys: Sequence[int]) -> np.ndarray:
    """The losses [n] of sorting keys."""
    return _turned(np.array(keys, np.uint32).view(np.int32)).view(np.float32)


def _turned(bits: np.ndarray) -> np.ndarray:
    """Turn the bits of what is not negative, all but the sign; twice is not at all."""
    return bits ^ ((~(bits >> 31)).view(np.uint32) >> 1).view(np.int32)


def _hash(ids: np.ndarray | int, rows: np.ndarray, seed: int | None) -> np.ndarray:
    """The ids of some rows, hashed without collisions [n] uint64: splitmix64 (Steele et al., OOPSLA
    2014).
    """
    x = (rows + ids if isinstance(ids, int) else ids[rows]).astype(np.uint64)
    if seed is None:
        return x
    x *= np.uint64(0x9E3779B97F4A7C15)
    x += stream(seed, 'cuts', 'ties').integers(2**64, dtype=np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        x ^= x >> np.uint64(shift)
        x *= np.uint64(factor)
    return x


def find(
    shards: dict[str, Callable[[], Iterable[Chunk]]], batches: int, seed: int | None = 0
) -> Cuts:
    """The exact cuts of all losses of named shards, each a function that reads it anew: two passes,
    six at most.

    The batches are those of numpy.array_split on the sorted losses, batch 0 the hardest.  Raises
    `Refused`.
    """
    if not 1 <= batches <= MOST:
        raise Refused(f'{batches} batches: give 1 to {MOST}')
    cuts = Cuts(batches, seed)
    cuts = cuts.refine(reduce(add, (_first(cuts, name, read()) for name, read in shards.items())))
    while not cuts.found:
        cuts = cuts.refine(cuts.count(chain.from_iterable(read() for read in shards.values())))
    return cuts


def _first(cuts: Cuts, name: str, chunks: Iterable[Chunk]) -> Counts:
    counts = cuts.count(chunks)
    if counts.infinite:
        raise Refused(f'{name}: {counts.infinite} losses are NaN or infinite: score again')
    return counts


def split(
    loss: np.ndarray, batches: int, ids: np.ndarray | None = None, seed: int | None = 0
) -> np.ndarray:
    """The batch [N] uint8 of each loss [N] float32 held in memory; ids [N] int64, by default the
    row numbers.
    """
    if loss.dtype != np.float32:
        raise Refused(f'losses are {loss.dtype}: give float32, as they are computed')
    read = partial(chunks_of, loss, ids)
    cuts, batch = find({'losses': read}, batches, seed), np.empty(len(loss), np.uint8)
    for start, chunk in zip(range(0, len(loss), CHUNK), read()):
        batch[start : start + CHUNK] = cuts.batch(*chunk)
    return batch


def chunks_of(loss: np.ndarray, ids: np.ndarray | None = None) -> Iterator[Chunk]:
    """An array of losses [N], with its ids if it has any, in chunks."""
    for start in range(0, len(loss), CHUNK):
        yield loss[start : start + CHUNK], start if ids is None else ids[start : start + CHUNK]


# --- Parquet, larger than memory ---


def split_shards(paths: Sequence[Path], batches: int, out: Path, seed: int = 0) -> Cuts:
    """Split the losses of Parquet shards; write the folder `out`, whole or not at all, and return
    the cuts.

    A shard has a column `loss` float32, and `id` int64; where no shard has ids, an image's id is
    the number of its row in all shards, in the order given.  `out` holds part-00000.parquet, ...:
    each shard's ids, if it has any, and `batch` uint8, row by row; and split.json.  Raises
    `Refused` for what cannot be read, split or written.
    """
    if out.exists():
        raise Refused(f'{out} is there already: give a folder that is not')
    with_ids, rows = _checked(paths, 'loss')
    # two passes and the writing; ties take more
    progress = Progress('split', 3 * sum(rows))
    firsts = np.cumsum([0, *rows]).tolist()
    shards = {
        str(path): partial(_read, path, with_ids, first, progress)
        for path, first in zip(paths, firsts)
    }
    cuts = find(shards, batches, seed)
    about = {
        'rows': cuts.rows,
        'batches': batches,
        'seed': seed,
        'cuts': cuts.losses,
        'tied': cuts.tied,
        'shards': list(shards),
    }
    try:
        with files.fresh(out.parent) as part:
            for number, read in enumerate(shards.values()):
                _write(part / f'part-{number:05d}.parquet', cuts, read(), with_ids)
            (part / 'split.json').write_text(json.dumps(about, indent=1) + '\n')
            part.rename(out)
    except OSError as error:
        raise Refused(
            f'cannot write {out} ({error.strerror or error}): give a folder with room for it'
        ) from None
    progress.close()
    return cuts


def _checked(paths: Sequence[Path], column: str) -> tuple[bool, list[int]]:
    """Whether the shards of a column have ids, and the rows of each; `Refused` for the first that
    does not fit.
    """
    with_ids, rows = {}, []
    for path in paths:
        if path in with_ids:
            raise Refused(f'{path} is given twice')
        try:
            file = pq.ParquetFile(files.plain(path))
        except (OSError, pa.ArrowException) as error:
            raise Refused(
                f'{path} is no Parquet file that can be read: {str(error).splitlines()[0]}'
            ) from None
        found = {field.name: str(field.type) for field in file.schema_arrow}
        for name, kind in {column: 'float', 'id': 'int64'}.items():
            if found.get(name, kind if name == 'id' else None) != kind:
                raise Refused(
                    f'{path}: column {name} must be {kind.replace("float", "float32")}, it is '
                    f'{found.get(name, "missing")}; there are {", ".join(found)}'
                )
        if not file.metadata.num_rows:
            raise Refused(f'{path} is empty: leave it out')
        with_ids[path] = 'id' in found
        rows.append(file.metadata.num_rows)
    if len(set(with_ids.values())) != 1:
        lacking = [path for path, has in with_ids.items() if not has]
        raise Refused(
            f'{lacking[0]} has no column id, others have: give it to all shards or to none'
            if lacking
            else 'no shards: name at least one Parquet file'
        )
    return with_ids[paths[0]], rows


def _read(
    path: Path, with_ids: bool, first: int, progress: Progress, column: str = 'loss'
) -> Iterator[Chunk]:
    """A shard's column with its ids, or with the row number that its first one has."""
    try:
        # buffered, for a row group may be larger than memory
        file = pq.ParquetFile(path, buffer_size=2**20, pre_buffer=False)
        for part in file.iter_batches(
            CHUNK, columns=[column] + ['id'] * with_ids, use_threads=False
        ):
            if any(column.null_count for column in part.columns):
                raise Refused(f'{path}: values are missing (null): score again')
            values = part[column].to_numpy()
            yield values, part['id'].to_numpy() if with_ids else first
            first += len(values)
            progress.add(len(values))
            progress.total = max(progress.total, progress.done)
    except (OSError, pa.ArrowException) as error:
        raise Refused(f'{path} is damaged: {str(error).splitlines()[0]}') from None


def _write(path: Path, cuts: Cuts, chunks: Iterable[Chunk], with_ids: bool) -> None:
    """A shard's batches, with its ids if it has any."""
    schema = pa.schema([('id', pa.int64())] * with_ids + [('batch', pa.uint8())])
    with pq.ParquetWriter(
        path,
        schema,
        compression='zstd',
        use_dictionary=['batch'],
        column_encoding={'id': 'DELTA_BINARY_PACKED'} if with_ids else None,
    ) as file:
        for loss, ids in chunks:
            columns = [ids] * with_ids + [cuts.batch(loss, ids)]
            file.write_batch(pa.record_batch(list(map(pa.array, columns)), schema))


# --- the sampler inside of a batch ---


def lowest(chunks: Iterable[tuple[np.ndarray, np.ndarray]], k: int, seed: int = 0) -> np.ndarray:
    """The ids [k] of the k lowest values, lowest first, of a pool streamed as (ids [n] int64,
    values [n]): one pass.

    With the confidence in the images of one batch it is PT4AL's sampler (eq. 2).  Ties fall by hash
    of the id; no more than 2 k values and a chunk are held.  Raises `Refused` for NaN or infinite
    values and where there are fewer than k.
    """
    if k < 1:
        raise Refused(f'{k} images: ask for at least one')
    best_ids, best, seen, worst = np.empty(0, np.int64), np.empty(0), 0, np.inf

    def trimmed() -> tuple[np.ndarray, np.ndarray]:
        order = np.lexsort((_hash(best_ids, slice(None), seed), best))[:k]
        return best_ids[order], best[order]

    for ids, values in chunks:
        if bad := np.count_nonzero(~np.isfinite(values)):
            raise Refused(f'{bad} values are NaN or infinite: score again')
        seen += len(ids)
        near = values <= worst
        best_ids, best = np.concatenate([best_ids, ids[near]]), np.concatenate([best, values[near]])
        if len(best) > 2 * k:
            best_ids, best = trimmed()
            worst = best[-1]
    if seen < k:
        raise Refused(
            f'{k} images of {seen} in the batch: lower the budget or the number of batches'
        )
    return trimmed()[0]


def pick_shards(paths: Sequence[Path], k: int, out: Path, seed: int = 0) -> np.ndarray:
    """The ids [k] of the least confident images of Parquet shards, which hold one batch; also
    written as CSV, whole.

    A shard has a column `confidence` float32, the largest class probability, and `id` int64; where
    no shard has ids, an image's id is the number of its row in all shards.  Raises `Refused` for
    what cannot be read, picked or written.
    """
    if out.exists():
        raise Refused(f'{out} is there already: give a file that is not')
    with_ids, rows = _checked(paths, 'confidence')
    progress = Progress('pick', sum(rows))
    chunks = (
        (ids if with_ids else np.arange(ids, ids + len(values)), values)
        for path, first in zip(paths, np.cumsum([0, *rows]).tolist())
        for values, ids in _read(path, with_ids, first, progress, 'confidence')
    )
    picked = lowest(chunks, k, seed)
    progress.close()
    try:
        with files.whole(out) as file:
            np.savetxt(file, picked, '%d', header='id', comments='')
    except OSError as error:
        raise Refused(
            f'cannot write {out} ({error.strerror or error}): give a place with room for it'
        ) from None
    return picked
