"""The split without a sort: against a sort, whole and in shards; what is streamed, refused and
written.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers import refused

from benchmarks import split
from pt4al import query, shards
from pt4al.errors import Refused
from pt4al.rng import stream

torch.set_num_threads(1)
RNG = np.random.default_rng(0)
N = 3000
LOSSES = {
    'no ties': RNG.permutation(N) / 7 + 1e-3,
    'below zero': RNG.normal(size=N),
    'some ties': RNG.normal(size=N).round(1),
    'all equal': np.ones(N),
    'one bin': 1 + RNG.random(N) / 1000,
    'both zeros': np.where(RNG.random(N) < 0.5, -0.0, 0.0),
    'subnormal': RNG.normal(size=N) * 1e-44,
    'huge': RNG.integers(-2, 3, N) * 1e38,
}
LOSSES = {name: loss.astype(np.float32) for name, loss in LOSSES.items()}
IDS = RNG.permutation(2 * N)[:N] * 10**12 - 10**15


def mixed(ids: np.ndarray, seed: int) -> list[int]:
    """The published splitmix64, one id at a time in Python's integers."""
    key, out = int(stream(seed, 'cuts', 'ties').integers(2**64, dtype=np.uint64)), []
    for number in ids.tolist():
        z = (number * 0x9E3779B97F4A7C15 + key) % 2**64
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        out.append(z ^ z >> 31)
    return out


def sorted_out(loss: np.ndarray, batches: int, ids: np.ndarray, seed: int) -> np.ndarray:
    """The batch of each image by a sort."""
    order = [
        row
        for *_, row in sorted(
            zip((-loss.astype(float)).tolist(), mixed(ids, seed), range(len(loss)))
        )
    ]
    batch = np.empty(len(loss), int)
    for number, part in enumerate(np.array_split(order, batches)):
        batch[part] = number
    return batch


def in_chunks(loss: np.ndarray, ids: np.ndarray, size: int) -> list:
    return [
        (loss[start : start + size], ids[start : start + size])
        for start in range(0, len(loss), size)
    ]


# --- against a sort ---


@pytest.mark.parametrize('batches', [1, 2, 7, 10, 128])
@pytest.mark.parametrize('name', LOSSES)
def test_the_batches_are_those_of_a_sort(name, batches):
    assert (
        split.split(LOSSES[name], batches, IDS, 3) == sorted_out(LOSSES[name], batches, IDS, 3)
    ).all()


def test_row_numbers_are_the_ids_where_none_are_given(monkeypatch):
    monkeypatch.setattr(split, 'CHUNK', 700)
    loss = LOSSES['some ties']
    assert (split.split(loss, 10) == sorted_out(loss, 10, np.arange(N), 0)).all()


@pytest.mark.parametrize('rows, batches', [(1, 1), (10, 10), (11, 10), (19, 10)])
def test_sizes_are_those_of_array_split(rows, batches):
    batch = split.split(np.zeros(rows, np.float32), batches)
    assert np.bincount(batch).tolist() == [
        len(part) for part in np.array_split(np.arange(rows), batches)
    ]


def test_another_seed_divides_ties_otherwise_and_nothing_else():
    loss = LOSSES['some ties']
    one, other = (split.split(loss, 10, IDS, seed) for seed in (0, 1))
    straddling = [value for value in np.unique(loss) if len(set(one[loss == value])) > 1]
    assert 0 < len(straddling) <= 9 and (one != other).any()
    assert np.isin(loss[one != other], straddling).all()


def test_cuts_tell_the_losses_and_ties_at_them():
    loss = np.float32([5, 4, 4, 4, 3, 2, -1, -2])
    found = shards.find({'all': lambda: split.chunks_of(loss)}, 4)
    assert (found.losses, found.tied, found.rows) == ([4, 3, -1], 3, 8)
    # no ties: two passes
    assert shards.find({'all': lambda: split.chunks_of(loss[4:])}, 4).tied == 0


# --- shards ---


@pytest.mark.parametrize('name', LOSSES)
def test_shards_may_come_in_any_order_and_chunking(name):
    order = RNG.permutation(N)
    loss, ids = LOSSES[name][order], IDS[order]
    parts = ((slice(1000, 1001), 100), (slice(1000), 7), (slice(1001, N), 333))
    found = shards.find(
        {str(part): partial(in_chunks, loss[part], ids[part], size) for part, size in parts}, 10
    )
    batch = np.concatenate([found.batch(*chunk) for chunk in in_chunks(loss, ids, 50)])
    assert (batch == split.split(LOSSES[name], 10, IDS)[order]).all()
    assert found == shards.find({'all': lambda: [(LOSSES[name], IDS)]}, 10)


def put(path: Path, **columns) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=400)
    return path


def answers(folder: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in sorted(folder.glob('part-*.parquet')))


@pytest.mark.parametrize('with_ids', [True, False])
def test_parquet_shards_are_split_as_one_array_is(tmp_path, monkeypatch, with_ids):
    monkeypatch.setattr(shards, 'CHUNK', 128)
    loss = LOSSES['some ties']
    columns = {'other': np.zeros(N), 'loss': loss} | ({'id': IDS} if with_ids else {})
    paths = [
        put(
            tmp_path / f'{start}.parquet',
            **{name: full[start : start + 1100] for name, full in columns.items()},
        )
        for start in range(0, N, 1100)
    ]
    found = shards.split_shards(paths, 10, tmp_path / 'a' / 'out', 5)
    wanted = split.split(loss, 10, IDS if with_ids else None, 5)
    table = answers(tmp_path / 'a' / 'out')
    assert (table['batch'].to_numpy() == wanted).all() and table.schema.field(
        'batch'
    ).type == pa.uint8()
    assert table.column_names == ['id'] * with_ids + ['batch']
    about = json.loads((tmp_path / 'a' / 'out' / 'split.json').read_text())
    assert (
        about['losses'] == found.losses and about['tied'] == found.tied > 0 and about['rows'] == N
    )
    if with_ids:
        assert (table['id'].to_numpy() == IDS).all()
        shards.split_shards(paths[::-1], 10, tmp_path / 'reversed', 5)
        again = answers(tmp_path / 'reversed')
        assert dict(zip(*(again[c].to_pylist() for c in ('id', 'batch')))) == dict(
            zip(IDS.tolist(), wanted.tolist())
        )


def test_memory_does_not_grow_with_the_number_of_losses():
    def peak(rows: int) -> float:
        loss = stream(0, 'test').standard_gamma(0.5, rows, dtype=np.float32)
        tracemalloc.start()
        found = shards.find({'all': lambda: split.chunks_of(loss)}, 10)
        for chunk in split.chunks_of(loss):
            found.batch(*chunk)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used / 1e6

    small, large = peak(2**19), peak(2**22)
    assert large < small + 2 and large < 20


# --- the in-memory query ---


def test_without_ties_hash_and_query_cannot_differ():
    loss = LOSSES['no ties']
    for number, part in enumerate(query.split(torch.from_numpy(loss), 10)):
        assert sorted(part.tolist()) == np.flatnonzero(split.split(loss, 10) == number).tolist()


# --- the sampler ---


@pytest.mark.parametrize('k', [1, 10, 299, 300])
@pytest.mark.parametrize('size', [7, 100, 300])
def test_the_k_lowest_of_a_streamed_batch_come_in_one_pass(k, size):
    loss, confidence = LOSSES['some ties'], RNG.random(N).round(2).astype(np.float32)
    found = shards.find({'all': lambda: [(loss, IDS)]}, 10)

    def of_batch(number: int):
        for (chunk, ids), start in zip(in_chunks(loss, IDS, size), range(0, N, size)):
            inside = found.batch(chunk, ids) == number
            yield confidence[start : start + size][inside], ids[inside]

    inside = np.flatnonzero(split.split(loss, 10, IDS) == 4)
    wanted = sorted(inside, key=lambda row: (confidence[row], mixed(IDS[[row]], 0)))
    assert shards.lowest(of_batch(4), k).tolist() == IDS[wanted][:k].tolist()


def test_the_sampler_holds_two_k_and_a_chunk():
    def chunks():
        # falling, so that nothing can be left out early
        for start in range(0, 10**6, 1000):
            yield -np.arange(start, start + 1000.0), np.arange(start, start + 1000)

    tracemalloc.start()
    picked = shards.lowest(chunks(), 100)
    assert tracemalloc.get_traced_memory()[1] < 300_000 and picked.tolist() == list(
        range(999_999, 999_899, -1)
    )
    tracemalloc.stop()


@pytest.mark.parametrize(
    'values, k, message',
    [
        ([1, 2, 3], 4, '4 images of 3 in the batch: lower the budget or the number of batches'),
        ([1, np.nan, -np.inf], 1, '2 values are NaN or infinite: score again'),
        ([1, 2, 3], 0, '0 images: ask for at least one'),
    ],
)
def test_the_sampler_refuses_what_it_cannot_pick(values, k, message):
    with pytest.raises(Refused, match=message):
        shards.lowest([(np.float32(values), np.arange(3))], k)


def test_picks_of_shards_are_those_of_one_array(tmp_path, command):
    # with ties
    ids, confidence = (
        np.arange(500, 0, -1) * 7,
        np.float32(np.random.default_rng(0).random(500).round(2)),
    )
    paths = [
        put(tmp_path / f'{number}.parquet', id=ids[part], confidence=confidence[part])
        for number, part in enumerate(np.array_split(np.arange(500), 3))
    ]
    out = tmp_path / 'new' / 'picks.csv'
    code, printed, _ = command('pick', *map(str, paths), '--budget', '40', '--out', str(out))
    assert not code and printed.startswith('40 images, the least confident first\n')
    header, *lines = out.read_text().splitlines()
    assert (
        header == 'id'
        and [int(line) for line in lines] == shards.lowest([(confidence, ids)], 40).tolist()
    )
    refused(command('pick', str(paths[0]), '--budget', '4', '--out', str(out)), 'is there already')
    assert [path.name for path in out.parent.iterdir()] == ['picks.csv']


def test_picks_that_cannot_be_written_are_refused_in_one_line(tmp_path, command):
    path = put(tmp_path / '0.parquet', confidence=np.float32([0.1, 0.2]))
    words = ('pick', str(path), '--budget', '1', '--out', str(path / 'picks.csv'))
    refused(command(*words), 'cannot read or write .*0.parquet')
    assert list(tmp_path.iterdir()) == [path]


def test_without_ids_picks_are_row_numbers_over_all_shards(tmp_path):
    paths = [
        put(tmp_path / f'{number}.parquet', confidence=np.float32(values))
        for number, values in enumerate(([0.9, 0.2], [0.5, 0.1, 0.8]))
    ]
    assert shards.pick_shards(paths, 3, tmp_path / 'picks.csv').tolist() == [3, 1, 2]


@pytest.mark.parametrize(
    'columns, k, message',
    [
        (
            {'loss': np.float32([1, 2])},
            1,
            'column confidence must be float32, it is missing; there are loss',
        ),
        ({'confidence': np.float32([0.1, np.nan])}, 1, '1 values are NaN or infinite: score again'),
        ({'confidence': np.float32([0.1, 0.2])}, 3, '3 images of 2 in the batch: lower the budget'),
    ],
)
def test_shards_that_cannot_be_picked_from_are_refused_and_nothing_is_written(
    tmp_path, columns, k, message
):
    path = put(tmp_path / '0.parquet', **columns)
    with pytest.raises(Refused, match=message):
        shards.pick_shards([path], k, tmp_path / 'picks.csv')
    assert list(tmp_path.iterdir()) == [path]


def test_equal_losses_beyond_memory_are_refused(monkeypatch):
    monkeypatch.setattr(shards, 'TIES', 10)
    with pytest.raises(Refused, match='20 equal losses straddle cuts, more than 10'):
        split.split(ONES, 2)


# --- bad input ---

ONES = np.ones(20, np.float32)
BAD = np.float32([1, np.nan, np.inf, -np.inf, -np.nan])
SHARDS = {
    'not finite': (
        [{'loss': ONES}, {'loss': BAD}],
        r'^\S+1\.parquet: 4 losses are NaN or infinite: score again$',
    ),
    'empty': ([{'loss': ONES}, {'loss': ONES[:0]}], r'1\.parquet is empty: leave it out$'),
    'text': (
        [{'loss': ['9e-5', '0.9']}],
        r'column loss must be float32, it is string; there are loss$',
    ),
    'double': (
        [{'loss': ONES}, {'loss': ONES.astype(float)}],
        r'1\.parquet: column loss must be float32, it is d',
    ),
    'missing': (
        [{'label': ONES, 'x': ONES}],
        r'column loss must be float32, it is missing; there are label, x$',
    ),
    'ids of text': (
        [{'loss': ONES, 'id': list(map(str, range(20)))}],
        'column id must be int64, it is string',
    ),
    'some ids': (
        [{'loss': ONES, 'id': np.arange(20)}, {'loss': ONES}],
        r'1\.parquet has no column id, others have',
    ),
    'null': (
        [{'loss': pa.array([1, None], pa.float32())}],
        r'values are missing \(null\): score again$',
    ),
    'too few': ([{'loss': ONES[:4]}], '10 batches of 4 images: give at most one batch an image$'),
    'repeated id': (
        [{'loss': ONES, 'id': np.zeros(20, int)}],
        'an id is there twice, with equal losses at a cut',
    ),
    'none': ([], 'no shards, or one twice: name at least one Parquet file'),
}


@pytest.mark.parametrize('what', SHARDS)
def test_bad_shards_are_refused_in_one_line_and_nothing_is_written(tmp_path, what):
    contents, message = SHARDS[what]
    paths = [
        put(tmp_path / f'{number}.parquet', **columns) for number, columns in enumerate(contents)
    ]
    with pytest.raises(Refused, match=message) as refusal:
        shards.split_shards(paths, 10, tmp_path / 'out')
    assert '\n' not in str(refusal.value) and sorted(tmp_path.iterdir()) == paths


def test_files_that_cannot_be_read_are_refused(tmp_path):
    (tmp_path / 'text.parquet').write_text('loss\n1.0\n')
    whole = put(tmp_path / 'whole.parquet', loss=LOSSES['no ties'])
    data = bytearray(whole.read_bytes())
    data[4 : len(data) // 2] = b'\xff' * len(data[4 : len(data) // 2])
    (tmp_path / 'damaged.parquet').write_bytes(data)
    for paths, message in {
        'text': 'text.parquet is no Parquet file',
        'absent': 'absent.parquet cannot be read',
        'whole damaged': 'damaged.parquet is damaged',
        'whole whole': 'no shards, or one twice',
    }.items():
        with pytest.raises(Refused, match=message) as refusal:
            shards.split_shards(
                [tmp_path / f'{name}.parquet' for name in paths.split()], 10, tmp_path / 'out'
            )
        assert '\n' not in str(refusal.value) and len(list(tmp_path.iterdir())) == 3


def test_an_answer_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = put(tmp_path / '0.parquet', loss=ONES)

    def full(*_, **__):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(shards, 'json', SimpleNamespace(dumps=full))  # once the shards are written
    with pytest.raises(OSError, match='No space left on device'):
        shards.split_shards([path], 10, tmp_path / 'out')
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / 'out').mkdir()
    with pytest.raises(Refused, match='is there already: give a place that is not'):
        shards.split_shards([path], 10, tmp_path / 'out')


@pytest.mark.parametrize(
    'loss, batches, message',
    [
        (ONES, 0, '0 batches: give 1 to 128'),
        (ONES, 129, '129 batches: give'),
        (ONES, 21, '21 batches of 20 images'),
        (BAD, 2, '^losses: 4 losses are NaN or infinite'),
    ],
)
def test_losses_in_memory_that_cannot_be_split_are_refused(loss, batches, message):
    with pytest.raises(Refused, match=message):
        split.split(loss, batches)


# --- the command and the benchmark ---


def test_the_command_says_what_it_did(tmp_path, command):
    path = put(tmp_path / '0.parquet', loss=np.float32([4, 3, 3, 1]))
    words = ('split', str(path), '--batches', '2', '--out', str(tmp_path / 'out'))
    code, printed, _ = command(*words)
    assert not code and printed.startswith('4 images in 2 batches, hardest first\n')
    assert (
        'start at losses of 3\n2 images of equal losses at a cut' in printed
        and printed.endswith(f'{tmp_path}/out\n')
    )
    assert sorted(answers(tmp_path / 'out')['batch'].to_pylist()) == [0, 0, 1, 1]
    refused(command(*words), 'is there already')


def test_the_benchmark_measures_every_way_and_cleans_up(tmp_path, monkeypatch):
    monkeypatch.setattr(split, '_apart', lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(split, 'SHARD', 1500)
    found, streamed = split.cuts((1000, 4000), 1), split.shards(2000, tmp_path)
    every = [(rows, way) for rows in (1000, 4000) for way in split.WAYS]
    assert [(row['rows'], row['way']) for row in found['rows']] == every
    assert all(row['seconds'] > 0 for row in found['rows']) and set(found['slopes']) == set(
        split.WAYS
    )
    assert [(row['rows'], row['way'], row['shards']) for row in streamed['rows']] == [
        (200, 'shards', 1),
        (2000, 'shards', 2),
        (200, 'pick', 1),
        (2000, 'pick', 2),
    ]
    assert set(streamed['slopes']) == {'shards', 'pick'}
    assert not list(tmp_path.iterdir()) and json.dumps([found, streamed])
    with pytest.raises(Refused, match='a folder with 6e.06 GB free'):
        split.shards(10**15, tmp_path)
    monkeypatch.setattr(split.shutil, 'disk_usage', lambda folder: SimpleNamespace(free=6 * 4321))
    assert [row['rows'] for row in split.shards(folder=tmp_path)['rows']] == [100, 1000] * 2


def test_the_split_does_not_wait_for_torch():
    code = (
        'import sys; import pt4al.shards; from benchmarks import split; '
        'assert not {"torch", "torchvision"} & set(sys.modules)'
    )
    subprocess.run(
        [sys.executable, '-c', code], check=True, cwd=Path(__file__).resolve().parents[1]
    )
