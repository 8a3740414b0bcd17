"""Results that travel: stores merged, damage told, interruption and want of room."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import toys
from helpers import ROOT, refused

import pt4al
from pt4al import experiments
from pt4al.errors import Refused
from pt4al.experiments import exchange, records, store
from pt4al.experiments.specs import Pretext, spec

pytestmark = pytest.mark.usefixtures('store_of_toys')

CODE = (
    'import sys; sys.path[:0] = sys.argv.pop(1).split(); import toys; toys.register();'
    'from pt4al.cli import app; app()'
)


def make(root: Path, *seeds: int) -> None:
    """Results as a run would have stored them, of numbers that depend on the seed alone."""
    for seed in seeds:
        rng, asked = (
            np.random.default_rng(seed),
            spec('pretext', dataset='toy', epochs=1, seed=seed),
        )
        tables = {
            'images': {'label': np.arange(72) % 3, 'loss': rng.random(72, 'float32')},
            'epochs': {'epoch': np.arange(1, 2), 'loss': rng.random(1)},
        }
        computed = store.Computed(
            tables, {'mean_loss': rng.random()}, ('a', 'b', 'c'), {'chip': 'one'}
        )
        store.write(
            root,
            asked,
            experiments.data_digest(asked),
            computed,
            {'commit': 'c0ffee', 'seconds': 1.5},
        )


@pytest.fixture
def two(tmp_path, monkeypatch) -> tuple[Path, Path]:
    """Two stores that share the result of seed 1, as another process on another day made it."""
    make(tmp_path / 'b', 1, 2)
    make(tmp_path / 'a', 0, 1)
    monkeypatch.setenv('PT4AL_RESULTS', str(tmp_path / 'a'))
    return tmp_path / 'a', tmp_path / 'b'


def rewritten(folder: Path, **changes: object) -> None:
    """Change a result as somebody would who knows how its digest is made."""
    content = json.loads((folder / 'result.json').read_text())
    for name, value in changes.items():
        content[name] = {**content[name], **value} if isinstance(value, dict) else value
    (folder / 'result.json').write_text(store._text(store._sealed(content)))


def another_loss(folder: Path) -> None:
    """A whole result of the same key whose numbers differ in one bit."""
    result = store.read(folder)
    loss = result.tables['images']['loss'] = result.tables['images']['loss'].copy()
    loss.view('uint32')[0] ^= 1
    computed = store.Computed(result.tables, result.summary, result.classes, {'chip': 'another'})
    shutil.rmtree(folder)
    store.write(
        folder.parent,
        spec('pretext', dataset='toy', epochs=1, seed=result.spec.seed),
        result.provenance['data'],
        computed,
        {'commit': 'c', 'seconds': 1},
    )


def content(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob('*'))
        if path.is_file()
    }


# --- merging and checking ---


def test_merging_brings_what_is_new_and_keeps_the_first_where_tables_are_equal(two, command):
    a, b = two
    shared = next(path for path in exchange.folders(a) if (b / path.name).exists())
    rewritten(b / shared.name, provenance={'seconds': 9999, 'commit': 'another'})
    before = content(a / shared.name)
    assert command('results', 'merge', str(b))[:2] == (0, f'1 results came to {a}\n')
    assert (
        sorted(r.spec.seed for r in store.find('pretext')) == [0, 1, 2]
        and content(a / shared.name) == before
    )
    assert command('results', 'merge', str(b))[:2] == (0, f'0 results came to {a}\n')
    assert os.listdir(a / '.partial') == []


def test_one_key_with_two_different_results_is_refused_with_both_folders(two, command):
    a, b = two
    shared = next(path for path in exchange.folders(a) if (b / path.name).exists())
    another_loss(b / shared.name)
    before = content(a)
    refused(
        command('results', 'merge', str(b)),
        rf'{shared.name[-12:]} has two different results, {a}/'
        rf'.*and {b}/.*nothing was merged',
    )
    assert content(a) == before


def test_a_damaged_result_is_found_listed_and_not_merged(two, command):
    a, b = two
    assert command('results', 'verify')[:2] == (0, '2 results are whole\n')
    hurt = exchange.folders(b)[0] / 'images.parquet'
    hurt.write_bytes(hurt.read_bytes()[:-1] + b'?')
    before = content(a)
    refused(command('results', 'merge', str(b)), f'result {hurt.parent} is damaged')
    assert content(a) == before
    own = exchange.folders(a)[0] / 'epochs.parquet'
    own.unlink()
    code, printed, _ = command('results', 'verify')
    assert code == 'pt4al: 1 of 2 results are damaged' and printed.startswith(
        f'result {own.parent} is damaged'
    )


def test_a_result_under_the_key_of_another_spec_is_told_though_its_digests_are_right(two):
    a, _ = two
    folder = exchange.folders(a)[0]
    rewritten(folder, spec={'lr': 0.5})
    assert store.read(folder).spec.lr == 0.5
    with pytest.raises(Refused, match='not what its name says'):
        exchange.read_checked(folder)
    assert exchange.verify([a])[0] == 2 and len(exchange.verify([a])[1]) == 1


def test_a_spec_of_other_code_is_refused_in_one_line_and_may_lack_what_was_added_later(two):
    a, _ = two
    folder = exchange.folders(a)[0]
    result = store.read(folder)
    assert isinstance(result.spec, Pretext)
    older = replace(result, fields={'dataset': 'toy', 'milestones': [2]})
    assert older.spec == Pretext('toy', milestones=(2,))
    later = replace(result, fields=result.fields | {'teacher': 1})
    with pytest.raises(Refused, match="a pretext result of other code .* 'teacher'"):
        print(later.spec)
    assert replace(later, kind='plugged_in').spec.teacher == 1


def test_a_result_computed_again_is_equal_or_what_differs_is_told(tmp_path, monkeypatch, command):
    monkeypatch.setenv('PT4AL_RESULTS', str(tmp_path))
    result = experiments.get(
        spec('pretext', dataset='toy', width=1, epochs=1, batch=32, milestones=())
    )
    before = content(result.folder)
    text, printed, _ = command('results', 'again', result.key)
    assert not text and printed.startswith(f'{result.key}  equal to the last bit')
    changed = result.tables['images']['loss'].copy()
    changed[3] += 0.25
    tables = result.tables | {'images': result.tables['images'] | {'loss': changed}}
    found = exchange.difference(result, replace(result, tables=tables))
    assert found == 'images.loss by up to 0.25'
    assert exchange.difference(result, replace(result, tables={})).endswith(
        'is missing or of another length'
    )
    more = result.tables | {'more': {'loss': changed}}
    assert exchange.difference(result, replace(result, tables=more)) == ''
    assert (
        exchange.difference(replace(result, tables=more), result)
        == 'more.loss is missing or of another length'
    )
    assert content(result.folder) == before
    [row] = records.load('again')['rows']
    assert (
        row['differs'] == '' and row['again']['seconds'] >= 0 and row['stored'] == result.provenance
    )
    refused(command('results', 'again', 'c0ffee'), "unknown result 'c0ffee'")
    rewritten(result.folder, provenance={'data': 'd' * 32})
    refused(command('results', 'again', result.key), 'computed from other images of toy')


def test_a_folder_that_is_no_store_is_refused(two, command, tmp_path):
    refused(
        command('results', 'merge', str(tmp_path / 'nowhere')),
        'nowhere holds no results: give the folder',
    )


def unfold(rows: int) -> bytes:
    """A small Parquet file of many rows."""
    import io

    content = io.BytesIO()
    with pq.ParquetWriter(content, pa.schema([('loss', pa.int64())]), compression='zstd') as file:
        part = pa.table({'loss': np.zeros(2**22, 'int64')})
        for _ in range(-(-rows // 2**22)):
            file.write_table(part)
    return content.getvalue()


def test_a_link_in_another_store_is_not_followed_and_only_what_a_result_names_is_copied(
    two, command, tmp_path
):  # noqa: F811
    a, b = two
    new = next(path for path in exchange.folders(b) if not (a / path.name).exists())
    (new / 'notes.txt').write_text('not part of it')
    (new / 'passwd.parquet').symlink_to('/etc/passwd')
    shutil.copytree(b, tmp_path / 'c', symlinks=True)
    assert command('results', 'merge', str(b))[0] == 0
    assert sorted(os.listdir(a / new.name)) == ['epochs.parquet', 'images.parquet', 'result.json']
    shutil.rmtree(a / new.name)
    table = tmp_path / 'c' / new.name / 'images.parquet'
    table.rename(tmp_path / 'elsewhere')
    before = content(a)
    for target, message in (
        (tmp_path / 'elsewhere', 'images.parquet is a link'),
        (Path('/dev/zero'), 'is damaged'),
        (Path('/etc/passwd'), 'is damaged'),
    ):
        table.symlink_to(target)
        refused(command('results', 'merge', str(tmp_path / 'c')), message)
        table.unlink()
    os.mkfifo(table)
    refused(command('results', 'merge', str(tmp_path / 'c')), 'is damaged')
    assert content(a) == before


MALFORMED = {
    'summary': lambda stated: stated.update(summary={'mean_loss': {'deep': 1}}),
    'no summary': lambda stated: stated.update(summary=[1]),
    'classes': lambda stated: stated.update(classes=[1, 2]),
    'seed': lambda stated: stated['spec'].update(seed='one'),
    'no data set': lambda stated: stated['spec'].pop('dataset'),
    'pretext': lambda stated: stated['spec'].update(pretext=['task']),
    'seconds': lambda stated: stated['provenance'].update(seconds='long'),
    'facts': lambda stated: stated['provenance'].update(chip={'a': 1}),
    'table': lambda stated: stated['tables'].update({'../../images': 'c0ffee'}),
}


@pytest.mark.parametrize('form', MALFORMED.values(), ids=MALFORMED)
def test_a_sealed_result_of_another_form_is_one_line(two, command, form):  # noqa: F811
    a, _ = two
    path = exchange.folders(a)[0] / 'result.json'
    stated = json.loads(path.read_text())
    form(stated)
    path.write_text(store._text(store._sealed(stated)))
    refused(command('results'), f'{path.parent} is damaged')
    assert command('results', 'verify')[0] == 'pt4al: 1 of 2 results are damaged'


@pytest.mark.parametrize('rows', [2**28, 2**20])
def test_a_table_that_would_unfold_too_far_is_refused_before_it_does(two, rows):
    a, _ = two
    folder = exchange.folders(a)[0]
    (folder / 'images.parquet').write_bytes(unfold(rows) if rows > 2**27 else b'PAR1no')
    stated = json.loads((folder / 'result.json').read_text())
    stated['tables']['images'] = store._digest((folder / 'images.parquet').read_bytes())
    (folder / 'result.json').write_text(store._text(store._sealed(stated)))
    start = time.monotonic()
    with pytest.raises(Refused, match='is damaged .*(unfolds to|Parquet)'):
        store.read(folder)
    assert time.monotonic() - start < 5


def test_a_store_that_is_not_there_is_an_error(command, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setenv('PT4AL_RESULTS', str(tmp_path / 'none'))
    refused(command('results', 'verify'), 'none is no folder: there is no store to verify')


# --- interruption, company, want of room ---


def child(*words: str, **setting: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, '-c', CODE, f'{ROOT / "tests"} {ROOT}', *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | setting,
    )


def until(sign, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 100
    while not sign():
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.002)


@pytest.mark.slow
def test_sigterm_ends_a_run_with_143_and_the_next_goes_on_to_equal_bytes(tmp_path, monkeypatch):
    whole = pt4al.get(spec('pretext', dataset='toy', epochs=8))
    monkeypatch.setenv('PT4AL_RESULTS', str(tmp_path / 'stopped'))
    stopped = child('run', 'pretext', 'dataset=toy', 'epochs=8')
    until(lambda: list((tmp_path / 'stopped').glob('.partial/*/fit.pt')), stopped)
    stopped.send_signal(signal.SIGTERM)
    assert 'stopped; run it again' in stopped.communicate()[1] and stopped.returncode == 143
    left = [path.name for path in (tmp_path / 'stopped').iterdir()]
    assert left == ['.partial'] and not list((tmp_path / 'stopped').glob('.partial/*.lock'))
    counts = toys.images_trained(monkeypatch)
    assert toys.parquet(pt4al.get(spec('pretext', dataset='toy', epochs=8))) == toys.parquet(whole)
    assert counts[0] < 8 * 72 and os.listdir(tmp_path / 'stopped' / '.partial') == []


@pytest.mark.slow
def test_of_two_runs_of_one_cell_the_second_waits_and_reads(tmp_path, monkeypatch):
    monkeypatch.setenv('PT4AL_RESULTS', str(tmp_path / 'both'))
    words = ('run', 'pretext', 'dataset=toy', 'epochs=8')
    first = child(*words)
    until(lambda: list((tmp_path / 'both').glob('.partial/*/fit.pt')), first)
    scratch = store.scratch_of(
        spec('pretext', dataset='toy', epochs=8),
        experiments.data_digest(spec('pretext', dataset='toy')),
    )
    assert store.running(scratch)
    first.send_signal(signal.SIGSTOP)
    second = child(*words)
    until(lambda: 'waiting for another run' in second.stderr.readline(), second)
    assert not list((tmp_path / 'both').glob('pretext-*'))
    first.send_signal(signal.SIGCONT)
    told = [process.communicate()[0] for process in (first, second)]
    assert told[0] == told[1] and first.returncode == second.returncode == 0
    assert len(store.find('pretext')) == 1 and os.listdir(tmp_path / 'both' / '.partial') == []
    assert not store.running(scratch)


def test_the_lock_of_a_killed_run_holds_up_nobody_and_the_note_of_a_failure_goes(
    tmp_path, monkeypatch
):
    asked = spec('pretext', dataset='toy', epochs=1)
    name, root = store.key(asked, experiments.data_digest(asked)), tmp_path / 'killed'
    monkeypatch.setenv('PT4AL_RESULTS', str(root))
    (root / '.partial').mkdir(parents=True)
    for path in (f'{name}.lock', f'{name}-failed', 'other'):
        (root / '.partial' / path).write_text('half')
    pt4al.get(asked)
    assert os.listdir(root / '.partial') == ['other']


def test_any_command_clears_away_what_killed_runs_left(tmp_path, monkeypatch):
    monkeypatch.setenv('PT4AL_RESULTS', str(tmp_path))
    done = pt4al.get(spec('pretext', dataset='toy', epochs=1))
    left = [tmp_path / '.partial' / name for name in ('c0ffee123456', done.key)]
    for scratch in left:  # a killed run that can go on, and one whose result is there
        scratch.mkdir()
        scratch.with_suffix('.lock').touch()
    store._tidy.cache_clear()
    with store.locked(tmp_path / '.partial' / 'working'):
        pt4al.get(spec('pretext', dataset='toy', epochs=1))
        assert sorted(os.listdir(tmp_path / '.partial')) == ['c0ffee123456', 'working.lock']


def test_where_locks_are_not_to_be_had_it_says_so_and_goes_on(tmp_path, monkeypatch, caplog):
    import fcntl

    def none(*_):
        raise OSError(37, 'No locks available')

    monkeypatch.setattr(fcntl, 'flock', none)
    monkeypatch.setenv('PT4AL_RESULTS', str(tmp_path / 'a'))
    pt4al.get(spec('pretext', dataset='toy', epochs=1))
    assert 'No locks available): start no other run of it' in caplog.text
    assert len(store.find('pretext')) == 1


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 400 kB, where it may be mounted."""
    (tmp_path / 'disk').mkdir()
    mounted = subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', 'size=400k', 'tmpfs', str(tmp_path / 'disk')],
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip('mounting a small file system needs root')
    yield tmp_path / 'disk'
    subprocess.run(['umount', '-l', str(tmp_path / 'disk')], check=True)


@pytest.mark.slow
def test_a_full_disk_is_told_in_one_line_leaves_no_result_and_the_run_goes_on_once_there_is_room(
    small_disk, tmp_path
):
    def run() -> tuple[int, str]:
        process = child(
            'run', 'pretext', 'dataset=toy', 'epochs=2', PT4AL_RESULTS=str(small_disk / 'store')
        )
        return process.wait(), process.communicate()[1]

    (small_disk / 'ballast').write_bytes(bytes(350_000))
    code, message = run()
    assert code == 1 and re.search(r'^pt4al: .*(No space left|cannot write)', message, re.M), (
        message
    )
    assert exchange.folders(small_disk / 'store') == [] and not list(
        small_disk.glob('store/.partial/*-*')
    )
    (small_disk / 'ballast').unlink()
    subprocess.run(['mount', '-o', 'remount,size=4m', str(small_disk)], check=True)
    assert run()[0] == 0 and exchange.verify([small_disk / 'store']) == (1, [])


def test_a_store_that_cannot_be_written_to_is_refused_before_any_work(small_disk, monkeypatch):
    subprocess.run(['mount', '-o', 'remount,ro', str(small_disk)], check=True)
    monkeypatch.setenv('PT4AL_RESULTS', str(small_disk / 'store'))
    with pytest.raises(Refused, match='cannot write to .*Read-only file system.*set PT4AL_RESULTS'):
        pt4al.get(spec('pretext', dataset='toy', epochs=1))
