"""Split and picks of pools larger than memory, without sorting them (PT4AL, sec. 3).

One pass counts the upper 16 bits of the losses' sorting key, a second the lower 16 bits near a
cut; where equal losses straddle a cut, a third collects hashes of their ids. Ids must be unique; a
duplicate is reported only where it leaves a cut undecided.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pt4al import files
from pt4al.errors import Refused
from pt4al.progress import Progress
from pt4al.rng import stream

CHUNK = 2**18  # rows at a time: their 1 MB of losses stays in a core's cache
BINS = 2**16  # values of 16 bits
MOST = 128  # batches: 127 cuts are 67 MB of counts
TIES = 2**26  # equal losses at cuts, whose hashes are held: 0.8 GB

Chunk = tuple[np.ndarray, np.ndarray]  # values [n] float32, ids [n] int64
Shards = Mapping[str, Callable[[], Iterable[Chunk]]]  # name -> what reads it anew
Opened = tuple[Shards, bool, Progress]


@dataclass(frozen=True)
class Cuts:
    """Where batches 1, 2, ... start in the order of falling loss; ties fall by hash of the ids."""

    rows: int
    batches: int
    seed: int  # keys the hash
    losses: list[float]  # [batches-1] that the batches start at
    hashes: list[int]  # [batches-1] the least hash at which such a loss is in the batch
    tied: int  # losses equal to one whose ties straddle a cut

    def batch(self, loss: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """The batch [n] uint8 of each loss [n], whose ids [n] decide among equal ones."""
        batch = np.zeros(len(loss), np.uint8)
        for cut, least in zip(self.losses, self.hashes):
            batch += loss <= cut
            if least:  # equal losses straddle it
                rows = np.flatnonzero(loss == np.float32(cut))
                batch[rows] -= _hash(ids[rows], self.seed) < least
        return batch


def find(shards: Shards, batches: int, seed: int = 0) -> Cuts:
    """The cuts of all losses into the batches of array_split on the sorted ones, hardest first."""
    if not 1 <= batches <= MOST:
        raise Refused(f'{batches} batches: give 1 to {MOST}')
    upper = np.sum([_upper_bits(name, read()) for name, read in shards.items()], axis=0)
    rows = int(upper.sum())
    if batches > rows:
        raise Refused(f'{batches} batches of {rows} images: give at most one batch an image')
    chunks = lambda: chain.from_iterable(read() for read in shards.values())
    each, more = divmod(rows, batches)
    starts = [number * each + min(number, more) for number in range(1, batches)]
    high = [_bin(upper, start) for start in starts]
    lower = _lower_bits({bits for bits, _ in high}, chunks())
    low = [_bin(lower[bits], left) for bits, left in high]
    left = np.array([rest for _, rest in low], np.int64)
    keys = np.array([a << 16 | b for (a, _), (b, _) in zip(high, low)], np.uint32)
    losses = _turned(keys.view(np.int32)).view(np.float32)
    straddled = left > 0
    tied = sum(int(lower[key >> 16][key & 0xFFFF]) for key in set(keys[straddled].tolist()))
    if tied > TIES:
        raise Refused(f'{tied} equal losses straddle cuts, more than {TIES}: they give no order')
    hashes = np.zeros(len(losses), np.uint64)
    if tied:
        hashes[straddled] = _ties(losses[straddled], left[straddled], chunks(), seed)
    return Cuts(rows, batches, seed, losses.tolist(), hashes.tolist(), tied)


def _bin(counts: np.ndarray, row: int) -> tuple[int, int]:
    """The bin of counts in which a row lies, and how many of the bin's rows precede it."""
    number = int(np.searchsorted(np.cumsum(counts), row, 'right'))
    return number, row - int(counts[:number].sum())


def _upper_bits(name: str, chunks: Iterable[Chunk]) -> np.ndarray:
    """How many losses of a shard have each value of the sorting key's upper 16 bits."""
    counts = np.zeros(BINS, np.int64)
    for loss, _ in chunks:
        np.add.at(counts, _sorting_key(loss) >> 16, 1)
    # the exponents of NaN and infinite numbers are all ones
    if infinite := int(counts[:0x80].sum() + counts[0xFF80:].sum()):
        raise Refused(f'{name}: {infinite} losses are NaN or infinite: score again')
    return counts


def _lower_bits(near: set[int], chunks: Iterable[Chunk]) -> dict[int, np.ndarray]:
    """The same of the lower 16 bits, for each of the upper bits `near`."""
    counts = {bits: np.zeros(BINS, np.int64) for bits in near}
    for loss, _ in chunks:
        key = _sorting_key(loss)
        key = key[np.isin(key >> 16, list(near))]
        for bits in near:
            np.add.at(counts[bits], key[key >> 16 == bits] & 0xFFFF, 1)
    return counts


def _ties(losses: np.ndarray, left: np.ndarray, chunks: Iterable[Chunk], seed: int) -> np.ndarray:
    """The hash at which each cut divides the losses equal to its own, of which `left` precede."""
    parts = []
    for loss, ids in chunks:
        rows = np.flatnonzero(np.isin(loss, losses))
        parts.append((loss[rows], _hash(ids[rows], seed)))
    every, hashes = map(np.concatenate, zip(*parts))
    least = np.empty(len(losses), np.uint64)
    for value in np.unique(losses):
        order, cuts = np.sort(hashes[every == value]), losses == value
        least[cuts] = order[left[cuts]]
        if (order[left[cuts] - 1] == least[cuts]).any():
            raise Refused('an id is there twice, with equal losses at a cut: give unique ids')
    return least


def _sorting_key(loss: np.ndarray) -> np.ndarray:
    """Bits of float32 [n] as uint32 that rise where losses fall; -0 is 0."""
    return _turned((loss + np.float32(0)).view(np.int32)).view(np.uint32)


def _turned(bits: np.ndarray) -> np.ndarray:
    """Turn the bits of what is not negative, all but the sign; twice is not at all."""
    return bits ^ ((~(bits >> 31)).view(np.uint32) >> 1).view(np.int32)


def _hash(ids: np.ndarray, seed: int) -> np.ndarray:
    """Ids [n], hashed without collisions [n] uint64: splitmix64 (Steele et al. 2014)."""
    x = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x += stream(seed, 'cuts', 'ties').integers(2**64, dtype=np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        x ^= x >> np.uint64(shift)
        x *= np.uint64(factor)
    return x


def lowest(chunks: Iterable[Chunk], k: int, seed: int = 0) -> np.ndarray:
    """The ids [k] of the k lowest values, lowest first: of confidences, PT4AL's sampler (eq. 2)."""
    if k < 1:
        raise Refused(f'{k} images: ask for at least one')
    best_ids, best = np.empty(0, np.int64), np.empty(0)
    for values, ids in chunks:
        if bad := np.count_nonzero(~np.isfinite(values)):
            raise Refused(f'{bad} values are NaN or infinite: score again')
        near = values <= (best[-1] if len(best) == k else np.inf)
        best_ids, best = np.concatenate([best_ids, ids[near]]), np.concatenate([best, values[near]])
        order = np.lexsort((_hash(best_ids, seed), best))[:k]
        best_ids, best = best_ids[order], best[order]
    if (n := len(best)) < k:
        raise Refused(f'{k} images of {n} in the batch: lower the budget or the number of batches')
    return best_ids


def split_shards(paths: Sequence[Path], batches: int, out: Path, seed: int = 0) -> Cuts:
    """Split the losses of Parquet shards into the new folder `out`, whole or not at all.

    A shard has columns `loss` float32 and `id` int64, or rows are numbered over all `paths`. `out`
    holds part-00000.parquet, ...: a shard's ids, if any, and `batch` uint8; and split.json.
    """
    shards, with_ids, progress = _opened(paths, 'loss', out, passes=4)
    cuts = find(shards, batches, seed)
    columns = [('id', pa.int64()), ('batch', pa.uint8())]
    schema = pa.schema(columns if with_ids else columns[1:])
    options = {'compression': 'zstd', 'use_dictionary': ['batch']}
    with files.scratch_folder(out.parent) as part:
        for number, read in enumerate(shards.values()):
            with pq.ParquetWriter(part / f'part-{number:05d}.parquet', schema, **options) as file:
                for loss, ids in read():
                    values = [pa.array(ids), pa.array(cuts.batch(loss, ids))]
                    file.write_batch(pa.record_batch(values if with_ids else values[1:], schema))
        about = asdict(cuts) | {'shards': list(shards)}
        (part / 'split.json').write_text(json.dumps(about, indent=1) + '\n')
        part.rename(out)
    progress.close()
    return cuts


def pick_shards(paths: Sequence[Path], k: int, out: Path, seed: int = 0) -> np.ndarray:
    """The ids [k] of the least confident images of Parquet shards of one batch, written as CSV.

    A shard has a column `confidence` float32, the largest class probability, and perhaps `id`.
    """
    shards, _, progress = _opened(paths, 'confidence', out, passes=1)
    picked = lowest(chain.from_iterable(read() for read in shards.values()), k, seed)
    progress.close()
    with files.written(out) as file:
        np.savetxt(file, picked, '%d', header='id', comments='')
    return picked


def _opened(paths: Sequence[Path], column: str, out: Path, passes: int) -> Opened:
    """Readers of each shard's column, whether there are ids, and the progress of all reading."""
    if out.exists():
        raise Refused(f'{out} is there already: give a place that is not')
    if not paths or len(set(paths)) < len(paths):
        raise Refused('no shards, or one twice: name at least one Parquet file, each once')
    with_ids, rows = zip(*(_checked(path, column) for path in paths))
    if len(set(with_ids)) > 1:
        one = paths[with_ids.index(False)]
        raise Refused(f'{one} has no column id, others have: give it to all shards or to none')
    names = [column, 'id'] if with_ids[0] else [column]
    progress = Progress(column, passes * sum(rows))
    firsts = zip(paths, np.cumsum([0, *rows]).tolist())
    shards = {str(path): partial(_read, path, names, first, progress) for path, first in firsts}
    return shards, with_ids[0], progress


def _checked(path: Path, column: str) -> tuple[bool, int]:
    """Whether a shard has ids, and its rows; `Refused` where it does not fit."""
    try:
        about = pq.read_metadata(files.check_regular_file(path))
        types = {field.name: str(field.type) for field in about.schema.to_arrow_schema()}
    except (OSError, pa.ArrowException) as error:
        raise Refused(f'{path} is no Parquet file: {str(error).splitlines()[0]}') from None
    wanted = {column: 'float'} | ({'id': 'int64'} if 'id' in types else {})
    for name, kind in wanted.items():
        if types.get(name) != kind:
            must = f'column {name} must be {kind.replace("float", "float32")}'
            there = f'it is {types.get(name, "missing")}; there are {", ".join(types)}'
            raise Refused(f'{path}: {must}, {there}')
    if not about.num_rows:
        raise Refused(f'{path} is empty: leave it out')
    return 'id' in types, about.num_rows


def _read(path: Path, names: list[str], first: int, progress: Progress) -> Iterator[Chunk]:
    """A shard's column with its ids, or its row numbers from `first` on."""
    try:
        # buffered, for a row group may be larger than memory
        file = pq.ParquetFile(path, buffer_size=2**20, pre_buffer=False)
        for part in file.iter_batches(CHUNK, columns=names, use_threads=False):
            if any(column.null_count for column in part.columns):
                raise Refused(f'{path}: values are missing (null): score again')
            values = part[names[0]].to_numpy()
            rows = np.arange(first, first + len(values))
            yield values, part['id'].to_numpy() if 'id' in names else rows
            first += len(values)
            progress.add(len(values))
    except (OSError, pa.ArrowException) as error:
        raise Refused(f'{path} is damaged: {str(error).splitlines()[0]}') from None
