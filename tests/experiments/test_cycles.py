"""A run goes on from the cycles of one that differs only in `until`, to the bits it has alone."""

from __future__ import annotations

import json
import shutil

import pytest
from toys import parquet

import pt4al
from pt4al import files, report
from pt4al.experiments import active, exchange, running, store
from pt4al.experiments.specs import spec

STRATEGIES = ('random', 'pt4al')

pytestmark = [pytest.mark.usefixtures('store_of_toys'), pytest.mark.long]


@pytest.fixture
def trained(monkeypatch) -> list[int]:
    """The number of labelled images of every classifier that is trained, in turn."""
    counts, train = [], running.train_classifier

    def counting(s, chosen, images, index, *rest, **options):
        counts.append(len(index))
        return train(s, chosen, images, index, *rest, **options)

    monkeypatch.setattr(running, 'train_classifier', counting)
    return counts


def run(until: int, **fields):
    return spec('active', **{'dataset': 'toy', 'cycles': 4, 'until': until} | fields)


def alone(asked, tmp_path, monkeypatch) -> store.Result:
    with monkeypatch.context() as patch:
        patch.setenv('PT4AL_RESULTS', str(tmp_path / 'alone'))
        return pt4al.get(asked)


def same(a: store.Result, b: store.Result) -> bool:
    return parquet(a) == parquet(b) and a.summary == b.summary


def interrupted(asked, monkeypatch, after: int):
    save = active.save

    def stopping(scratch, record, machine):
        save(scratch, record, machine)
        if record.number == after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(active, 'save', stopping)
        pt4al.get(asked)


@pytest.mark.parametrize('strategy', STRATEGIES)
@pytest.mark.parametrize(
    'more', [{}, {'held_out': 9}, {'watch': 'train', 'keep': 'best'}, {'start': 'warm'}]
)
def test_a_longer_run_goes_on_from_a_shorter_one(strategy, more, tmp_path, monkeypatch, trained):
    asked = run(0, strategy=strategy, **more)
    expected = alone(asked, tmp_path, monkeypatch)
    pt4al.get(run(2, strategy=strategy, **more))
    trained.clear()
    assert same(pt4al.get(asked), expected)
    # a strategy that asks the classifier has the last one trained again
    again = strategy == 'pt4al' and 'start' not in more
    assert trained == ([16] if again else []) + [24, 32]
    assert not list(store.roots()[0].glob('.partial/*'))


@pytest.mark.parametrize('strategy', STRATEGIES)
@pytest.mark.parametrize('more', [{}, {'held_out': 9}, {'watch': 'train', 'keep': 'best'}])
def test_a_longer_run_goes_on_from_a_stored_result_alone(
    strategy, more, tmp_path, monkeypatch, trained
):
    asked = run(0, strategy=strategy, **more)
    expected = alone(asked, tmp_path, monkeypatch)
    pt4al.get(run(1, strategy=strategy, **more))
    pt4al.get(run(3, strategy=strategy, **more))
    shutil.rmtree(store.roots()[0] / '.partial')
    trained.clear()
    assert same(pt4al.get(asked), expected)
    assert trained == [24] * (strategy == 'pt4al') + [32]


@pytest.mark.parametrize('more', [{}, {'start': 'warm'}])
@pytest.mark.parametrize('until', [1, 2])
def test_an_unfinished_run_makes_a_shorter_one(until, more, tmp_path, monkeypatch, trained):
    asked = run(until, strategy='pt4al', **more)
    expected = alone(asked, tmp_path, monkeypatch)
    interrupted(run(0, strategy='pt4al', **more), monkeypatch, 1)
    trained.clear()
    assert same(pt4al.get(asked), expected) and trained == []


def test_a_longer_run_goes_on_from_an_unfinished_shorter_one(tmp_path, monkeypatch, trained):
    expected = alone(run(4, strategy='random'), tmp_path, monkeypatch)
    interrupted(run(3, strategy='random'), monkeypatch, 1)
    trained.clear()
    assert same(pt4al.get(run(4, strategy='random')), expected) and trained == [24, 32]


def test_what_differs_in_more_than_until_starts_over(trained):
    pt4al.get(run(3, strategy='random', seed=1))
    trained.clear()
    pt4al.get(run(2, strategy='random'))
    assert trained == [8, 16]


def test_a_result_is_computed_again_from_its_first_cycle(trained):
    pt4al.get(run(0, strategy='random'))
    short = pt4al.get(run(2, strategy='random'))
    trained.clear()
    assert exchange.difference(short, exchange.again(short)) == '' and trained == [8, 16]


def test_saved_cycles_say_where_they_were_computed(monkeypatch):
    interrupted(run(0, strategy='random'), monkeypatch, 0)
    row = json.loads(files.unseal(next(store.roots()[0].glob('.partial/*/cycle-000.json'))))
    assert row['machine']['commit'] == 'c0ffee' and row['machine']['device'] == 'cpu'


def test_a_result_names_what_computed_its_earlier_cycles(monkeypatch):
    for until, commit in ((2, 'first'), (3, 'second'), (0, 'third')):
        monkeypatch.setattr(store, 'commit', lambda commit=commit: commit)
        made = pt4al.get(run(until, strategy='random')).provenance
        shutil.rmtree(store.roots()[0] / '.partial', ignore_errors=True)
    assert made['commit'] == 'third'
    first, second = made['earlier'].split('; ')
    assert first.startswith('to cycle 2: ') and first.endswith(', fp32, code first')
    assert second.startswith('to cycle 3: ') and second.endswith(', code second')
    runs = [pt4al.get(run(until, strategy='random')) for until in (2, 0)]
    page = report.provenance(runs).data
    assert first in page and page.count('earlier cycles') == 1
