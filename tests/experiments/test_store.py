"""The result store: stable keys, whole or absent, damage told, one folder however many write."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from pt4al.errors import Refused
from pt4al.experiments import store
from pt4al.experiments.store import Computed

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Toy:
    kind: ClassVar[str] = 'toy'
    recipe: ClassVar[int] = 1
    dataset: str
    seed: int = 0
    sizes: tuple[int, ...] = (3, 4)
    inner: Toy | None = None


def computed(seed: int = 0) -> Computed:
    rng = np.random.default_rng(seed)
    return Computed(
        {
            'images': {'loss': rng.random(50, 'float32'), 'right': rng.random(50) < 0.5},
            'epochs': {'epoch': np.arange(1, 4, dtype='int16'), 'loss': rng.random(3)},
        },
        {'mean': 0.1 + seed, 'bad': float('nan')},
        ('cat', 'dög'),
        {'chip': 'toy'},
    )


def counting(calls: list):
    def compute(spec, scratch):
        calls.append(scratch)
        return computed(spec.seed)

    return compute


def never(spec, scratch):
    raise AssertionError('computed')


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv('PT4AL_RESULTS', str(tmp_path / 'a'))
    monkeypatch.setattr(store, 'commit', lambda: 'c0ffee')
    return tmp_path / 'a'


def names(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob('*'))


def same(one: store.Result, two: store.Result) -> bool:
    return {t: list(c) for t, c in one.tables.items()} == {
        t: list(c) for t, c in two.tables.items()
    } and all(
        np.array_equal(a, two.tables[t][c]) and a.dtype == two.tables[t][c].dtype
        for t in one.tables
        for c, a in one.tables[t].items()
    )


# --- keys ---


def grown(default) -> type:
    """`Toy` as a later version has it: with one field more."""
    more = ('more', int, dataclasses.field(default=default))
    return dataclasses.make_dataclass('Toy', [more], bases=(Toy,), frozen=True)


def test_a_field_added_later_leaves_old_keys_valid():
    Later = grown(5)
    assert store.key(Later('x', 1), 'd') == store.key(Toy('x', 1), 'd')
    assert store.key(Later('x', inner=Later('y')), 'd') == store.key(Toy('x', inner=Toy('y')), 'd')
    assert store.key(Later('x', 1, more=6), 'd') != store.key(Toy('x', 1), 'd')


def test_a_changed_field_recipe_or_data_set_is_another_key():
    class Revised(Toy):
        recipe = 2

    specs = [
        Toy('x'),
        Toy('y'),
        Toy('x', 1),
        Toy('x', sizes=(3,)),
        Toy('x', sizes=(4, 3)),
        Toy('x', inner=Toy('x')),
        Toy('x', inner=Toy('x', 1)),
        Revised('x'),
    ]
    keys = [store.key(spec, data) for spec in specs for data in ('d', 'e')]
    assert len(set(keys)) == len(keys) and all(len(key) == 12 for key in keys)


def test_a_default_given_by_name_is_the_default():
    assert store.canonical(Toy('x', 0, (3, 4), None)) == {
        'kind': 'toy',
        'recipe': 1,
        'dataset': 'x',
    }
    assert store.key(Toy('x', 0, (3, 4)), 'd') == store.key(Toy('x'), 'd')


# --- reading and writing ---


def test_a_result_is_computed_once_and_read_back_with_all_that_was_said(root):
    calls, spec = [], Toy('x', 2, inner=Toy('y'))
    first = store.get_or_compute(spec, 'digest', counting(calls))
    again = store.get_or_compute(spec, 'digest', never)
    assert (
        len(calls) == 1
        and same(first, again)
        and same(first, dataclasses.replace(first, tables=computed(2).tables))
    )
    assert again.key == store.key(spec, 'digest') and again.folder == root / f'toy-x-{again.key}'
    assert again.fields == {
        'dataset': 'x',
        'seed': 2,
        'sizes': [3, 4],
        'inner': {'dataset': 'y', 'seed': 0, 'sizes': [3, 4], 'inner': None},
    }
    assert (
        again.classes == ('cat', 'dög')
        and again.summary['mean'] == 2.1
        and np.isnan(again.summary['bad'])
    )
    facts = again.provenance
    assert (facts['recipe'], facts['data'], facts['commit'], facts['chip']) == (
        1,
        'digest',
        'c0ffee',
        'toy',
    )
    assert 0 <= facts['seconds'] < 60
    assert sorted(path.name for path in again.folder.iterdir()) == [
        'epochs.parquet',
        'images.parquet',
        'result.json',
    ]
    assert sorted(path.name for path in root.iterdir()) == ['.partial', again.folder.name]


def test_a_folder_can_be_read_by_others(root):
    folder = store.get_or_compute(Toy('x'), 'd', counting([])).folder
    assert folder.stat().st_mode & 0o777 == 0o755


def test_equal_computations_give_equal_bytes(root, monkeypatch, tmp_path):
    one = store.get_or_compute(Toy('x'), 'd', counting([])).folder
    monkeypatch.setenv('PT4AL_RESULTS', str(tmp_path / 'b'))
    two = store.get_or_compute(Toy('x'), 'd', counting([])).folder
    for name in ('images.parquet', 'epochs.parquet'):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_policy_never_computes_nothing(root):
    with pytest.raises(Refused, match=r"no result toy .*'dataset': 'x'.* run it first"):
        store.get_or_compute(Toy('x'), 'd', never, 'never')
    assert not root.exists()
    store.get_or_compute(Toy('x'), 'd', counting([]))
    assert store.get_or_compute(Toy('x'), 'd', never, 'never').spec.dataset == 'x'


# --- damage ---


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    'lost': Path.unlink,
    'cut': cut,
    'empty': lambda path: path.write_bytes(b''),
    'edited': flip,
}


@pytest.mark.parametrize('file', ['result.json', 'images.parquet', 'epochs.parquet'])
@pytest.mark.parametrize('how', DAMAGE)
def test_damage_is_told_and_computed_again(root, file, how, caplog):
    whole = store.get_or_compute(Toy('x'), 'd', counting([]))
    DAMAGE[how](whole.folder / file)
    with pytest.raises(
        Refused, match='is damaged .*: delete the folder and run it again, or restore it with git'
    ):
        store.get_or_compute(Toy('x'), 'd', never, 'never')
    with pytest.raises(Refused, match='is damaged'):
        store.find('toy')
    assert whole.folder.is_dir()
    assert (
        same(store.get_or_compute(Toy('x'), 'd', counting([])), whole)
        and 'going on without it' in caplog.text
    )
    assert same(store.get_or_compute(Toy('x'), 'd', never, 'never'), whole)


@pytest.mark.parametrize(
    'edit',
    [
        lambda content: content['summary'].update(mean=0.9),
        lambda content: content['spec'].update(seed=1),
        lambda content: content['tables'].pop('epochs'),
        lambda content: content['provenance'].update(commit='other'),
        lambda content: content['classes'].reverse(),
        lambda content: content.pop('digest'),
    ],
    ids=['summary', 'spec', 'tables', 'provenance', 'classes', 'digest'],
)
def test_an_edited_number_is_told(root, edit):
    path = store.get_or_compute(Toy('x'), 'd', counting([])).folder / 'result.json'
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    with pytest.raises(Refused, match='is damaged'):
        store.read(path.parent)


def test_a_whole_result_under_another_key_is_told(root):
    folder = store.get_or_compute(Toy('x'), 'd', counting([])).folder
    shutil.copytree(folder, root / f'toy-x-{store.key(Toy("x", 1), "d")}')
    with pytest.raises(Refused, match='is not what its name says'):
        store.get_or_compute(Toy('x', 1), 'd', never, 'never')


@pytest.mark.parametrize('text', ['[]', '3', 'null', '{}', '{"tables": 3}', 'no json', '\x00'])
def test_any_other_content_is_damage_and_nothing_worse(tmp_path, text):
    (tmp_path / 'result.json').write_text(text)
    with pytest.raises(Refused, match='is damaged'):
        store.read(tmp_path)


# --- interruption and company ---


def test_nothing_is_left_when_computing_fails_but_the_scratch(root):
    def fails(spec, scratch):
        scratch.mkdir(parents=True)
        (scratch / 'half').write_text('done')
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.get_or_compute(Toy('x'), 'd', fails)
    key = store.key(Toy('x'), 'd')
    assert names(root) == ['.partial', f'.partial/{key}', f'.partial/{key}/half']
    assert store.find('toy') == [] and store.folders_of(Toy('x'), 'd') == []

    def goes_on(spec, scratch):
        assert (scratch / 'half').read_text() == 'done'
        return computed()

    assert not (
        store.get_or_compute(Toy('x'), 'd', goes_on).folder.parent / '.partial' / key
    ).exists()


def test_scratches_of_two_specs_are_apart(root):
    calls = []
    for seed in (0, 1):
        store.get_or_compute(Toy('x', seed), 'd', counting(calls))
    assert calls[0] != calls[1]


@pytest.mark.parametrize(
    'bad',
    [
        {'short': {'a': np.zeros(2), 'b': np.zeros(3)}},
        {'whole': {'a': np.zeros(2)}, 'odd': {'a': object()}},
    ],
)
def test_nothing_is_left_when_writing_fails(root, bad):
    with pytest.raises((ValueError, TypeError)):
        store.get_or_compute(
            Toy('x'), 'd', lambda spec, scratch: dataclasses.replace(computed(), tables=bad)
        )
    assert names(root) == ['.partial'] and names(root / '.partial') == []


def test_nothing_is_left_when_the_last_step_fails(root, monkeypatch):
    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(store.os, 'rename', full)
    with pytest.raises(OSError, match='No space left'):
        store.get_or_compute(Toy('x'), 'd', counting([]))
    assert names(root) == ['.partial'] and names(root / '.partial') == []


def test_a_result_written_meanwhile_stays(root):
    def slow(spec, scratch):
        other = dataclasses.replace(computed(), machine={'chip': 'other'})
        store.write(root, spec, 'd', other, {'commit': 'c0ffee', 'seconds': 0})
        return computed()

    result = store.get_or_compute(Toy('x'), 'd', slow)
    assert result.provenance['chip'] == 'other' and len(store.find('toy')) == 1
    assert names(root / '.partial') == []


def test_of_threads_that_want_one_result_one_computes_and_all_read(root):
    calls, results = [], []

    def compute(spec, scratch):
        calls.append(scratch)
        time.sleep(0.2)
        return computed()

    threads = [
        threading.Thread(
            target=lambda: results.append(store.get_or_compute(Toy('x'), 'd', compute))
        )
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1 and len(results) == 6
    assert {result.folder for result in results} == set(store.folders_of(Toy('x'), 'd'))
    assert [path.name for path in root.iterdir() if path.name != '.partial'] == [
        results[0].folder.name
    ]


# --- stores and search ---


def test_the_first_store_wins_and_is_the_one_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr(store, 'commit', lambda: 'c0ffee')
    a, b = tmp_path / 'a', tmp_path / 'b'
    monkeypatch.setenv('PT4AL_RESULTS', str(b))
    for seed in (0, 1):
        store.get_or_compute(Toy('x', seed), 'd', counting([]))
    monkeypatch.setenv('PT4AL_RESULTS', f'{a}{store.os.pathsep}{b}')
    assert store.roots() == [a, b]
    assert store.get_or_compute(Toy('x', 0), 'd', never).folder.parent == b
    assert store.get_or_compute(Toy('x', 2), 'd', counting([])).folder.parent == a
    shutil.copytree(
        store.folders_of(Toy('x', 1), 'd')[0], a / store.folders_of(Toy('x', 1), 'd')[0].name
    )
    assert store.get_or_compute(Toy('x', 1), 'd', never).folder.parent == a
    assert [(found.spec.seed, found.folder.parent) for found in store.find('toy')] == [
        (0, b),
        (1, a),
        (2, a),
    ]


def test_without_the_variable_the_store_is_beside_the_package(monkeypatch, tmp_path):
    monkeypatch.delenv('PT4AL_RESULTS', raising=False)
    monkeypatch.setattr(store, '__file__', str(tmp_path / 'pt4al' / 'experiments' / 'store.py'))
    assert store.roots() == [Path('results')]
    (tmp_path / 'results').mkdir()
    assert store.roots() == [tmp_path / 'results']


def test_find_filters_by_fields_and_sorts_by_seed(root):
    for dataset, seed in (('x', 10), ('x', 2), ('y', 2)):
        store.get_or_compute(Toy(dataset, seed), 'd', counting([]))
    assert [(r.spec.dataset, r.spec.seed) for r in store.find('toy', dataset='x')] == [
        ('x', 2),
        ('x', 10),
    ]
    assert {r.spec.dataset for r in store.find('toy', seed=2)} == {'x', 'y'}
    assert [r.spec.seed for r in store.find('toy')] == [2, 2, 10]
    assert store.find('toy', dataset='x', seed=3) == [] == store.find('other')


def test_only_the_tables_of_what_was_asked_for_are_read(root, monkeypatch):
    for name, seed in (('x', 0), ('x', 1), ('y', 0)):
        store.get_or_compute(Toy(name, seed), 'd', counting([]))
    read, opened = store.read, []
    monkeypatch.setattr(store, 'read', lambda folder: (opened.append(folder), read(folder))[1])
    found = store.find('toy', lambda said: said['provenance']['data'] == 'd', dataset='x', seed=1)
    assert [r.folder for r in found] == opened and len(opened) == 1
    file = found[0].folder / 'result.json'
    file.write_text(file.read_text().replace('"seed": 1', '"seed": 7'))
    # a changed file is looked at again
    assert store.find('toy', dataset='x', seed=1) == []
    with pytest.raises(Refused, match='damaged'):
        store.find('toy', dataset='x', seed=7)


# --- provenance ---


def test_commit_names_the_code_and_says_when_the_package_differs(monkeypatch, tmp_path):
    def git(*words):
        subprocess.run(
            ['git', '-c', 'user.name=n', '-c', 'user.email=e', '-C', str(tmp_path), *words],
            check=True,
            capture_output=True,
        )

    package = tmp_path / 'pt4al' / 'experiments'
    package.mkdir(parents=True)
    (package / 'store.py').write_text('')
    monkeypatch.setattr(store, '__file__', str(package / 'store.py'))
    monkeypatch.setenv('GIT_CEILING_DIRECTORIES', str(tmp_path.parent))
    assert store.commit() == 'unknown'
    git('init')
    git('add', '.')
    git('commit', '-m', 'one')
    clean = store.commit()
    assert len(clean) == 12 and int(clean, 16) >= 0
    (tmp_path / 'elsewhere').write_text('notes')
    assert store.commit() == clean
    (package / 'store.py').write_text('changed')
    assert store.commit() == clean + '+'


def test_the_reading_side_does_not_import_torch():
    code = 'import sys, pt4al, pt4al.experiments.store; sys.exit("torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT).returncode == 0


def test_damage_in_a_store_that_is_only_read_leaves_it_alone_and_takes_another_copy(
    root, tmp_path, monkeypatch
):
    """The first store lacks the result, the second holds a damaged copy, the third a whole one."""
    whole = store.get_or_compute(Toy('x'), 'd', counting([]))
    second, third = tmp_path / 'second', tmp_path / 'third'
    for other in (second, third):
        shutil.copytree(root, other)
    shutil.rmtree(whole.folder)
    hurt = second / whole.folder.name / 'result.json'
    hurt.write_text(hurt.read_text()[:-20])
    monkeypatch.setenv('PT4AL_RESULTS', os.pathsep.join(map(str, (root, second, third))))
    assert store.get_or_compute(Toy('x'), 'd', never).folder == third / whole.folder.name
    assert hurt.exists() and not (root / whole.folder.name).exists()


def test_a_copy_without_its_history_is_told_its_commit(monkeypatch):
    monkeypatch.setenv('PT4AL_COMMIT', '0123456789ab')
    assert store.commit() == '0123456789ab'
