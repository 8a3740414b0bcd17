"""The study: its cells, what they cost, in which order worker processes compute them, how two machines compare."""
from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import test_experiments as toys
from scipy.stats import spearmanr
from test_experiments import N, images_trained, store_of_toys  # noqa: F401  the fixture registers 72 noise images

import pt4al
from pt4al import execution, experiments, store, study
from pt4al.errors import Refused
from pt4al.specs import Active, Main, Pretext, spec

get = experiments.get                                        # the real one, while a test has another in its place


def name_of(s: study.Spec) -> str:
    return f'{s.kind} {getattr(s, "strategy", "")}'.strip()


def noted_get(s: study.Spec, policy: str | None = None) -> store.Result:
    """`get` as worker processes run it here: knows the toy data set and notes when it starts and when it ends."""
    toys.register()
    where = 'in parent' if os.environ['PT4AL_TEST_PARENT'] == str(os.getpid()) else 'in worker'

    def note(word: str) -> None:
        with open(os.environ['PT4AL_TEST_NOTES'], 'a') as file:
            file.write(f'{word} {name_of(s)}, threads {os.environ["PT4AL_THREADS"]}, {where}\n')
    note('start')
    result = get(s, policy)
    note('end')
    return result


@pytest.fixture
def notes(tmp_path, monkeypatch):
    for name, value in {'PT4AL_TEST_NOTES': str(tmp_path / 'notes'), 'PT4AL_TEST_PARENT': str(os.getpid()),
                        'OMP_NUM_THREADS': '1'}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(experiments, 'get', noted_get)
    return tmp_path / 'notes'


def cells() -> list[study.Spec]:
    return [spec('active', dataset='toy', strategy='pt4al'), spec('active', dataset='toy', strategy='random'),
            spec('pretext', dataset='toy')]


# -- cells -------------------------------------------------------------------------------------------------------------

def test_the_embedded_study_is_claim_1_once_and_two_arms_paired_by_seed():
    specs = study.embedded()
    pretext, main, *arms = specs
    assert pretext == spec('pretext', dataset='cifar10-mini') and main == spec('main', dataset='cifar10-mini')
    assert sorted((arm.strategy, arm.seed) for arm in arms) == [(s, k) for s in ('pt4al', 'random') for k in range(3)]
    assert {arm.pretext for arm in arms if arm.strategy == 'pt4al'} == {pretext}     # trained once, for all of them
    assert {arm.pretext for arm in arms if arm.strategy == 'random'} == {None}
    assert len({store.key(s, 'd') for s in specs}) == len(specs) == 8
    assert [len(study.embedded('toy', seeds)) for seeds in (1, 2, 5)] == [4, 6, 12]


def test_missing_is_what_no_store_holds(tmp_path, monkeypatch):
    specs = cells()
    assert study.missing(specs) == specs
    get(specs[1])
    assert study.missing(specs) == [specs[0], specs[2]]
    monkeypatch.setenv('PT4AL_RESULTS', os.pathsep.join([str(tmp_path / 'b'), str(tmp_path / 'a')]))
    get(specs[0])                                            # and with it the pretext result it builds on
    assert sorted(path.name.split('-')[0] for path in (tmp_path / 'b').glob('*-*')) == ['active', 'pretext']
    assert study.missing(specs) == []
    monkeypatch.setenv('PT4AL_RESULTS', str(tmp_path / 'a'))
    assert study.missing(specs) == [specs[0], specs[2]]


@pytest.mark.parametrize('s, images', [
    (Pretext('toy', epochs=5), 4 * 72 * 5),                                    # four turns of every image
    (Main('toy', folds=2, epochs=3), (36 + 36) * 3),
    (Main('toy', folds=3, epochs=2), (48 + 48 + 48) * 2),
    (Active('toy', cycles=3, budget=8, epochs=5), (8 + 16 + 24) * 5),
    (Active('toy', cycles=9, until=1, budget=8, epochs=5), 8 * 5),
    (Active('toy', cycles=9, until=2, budget=5, epochs=1), 5 + 10),
    (Pretext('cifar10-mini', epochs=1), 16_000),
])
def test_passes_are_what_one_counts_by_hand(s, images):
    assert study.passes(s) == images


def test_passes_are_what_training_really_counts(monkeypatch):
    counts = images_trained(monkeypatch)
    for views, s in ((4, spec('pretext', dataset='toy')), (1, spec('main', dataset='toy', folds=3)),
                     (1, spec('active', dataset='toy', strategy='random', until=2))):
        counts.clear()
        get(s)
        assert study.passes(s) == views * sum(counts) > 0


# -- running -----------------------------------------------------------------------------------------------------------

def test_worker_processes_compute_every_cell_once_and_what_it_builds_on_before(notes, tmp_path, monkeypatch, caplog):
    caplog.set_level('INFO', 'pt4al')
    study.run(cells(), workers=2)
    lines = notes.read_text().splitlines()
    assert {line.split(', ', 1)[1] for line in lines} == {'threads 1, in worker'}
    order = [line.split(',')[0] for line in lines]
    assert sorted(order) == sorted(f'{word} {name_of(s)}' for s in cells() for word in ('start', 'end'))
    assert order.index('end pretext') < order.index('start active pt4al')
    assert [len(store.find(kind)) for kind in ('pretext', 'active')] == [1, 2] and study.missing(cells()) == []
    assert sorted(m.split(' (')[0] for m in caplog.messages) == [
        'done: active toy seed 0, pt4al', 'done: active toy seed 0, random', 'done: pretext toy seed 0, rotation']
    notes.unlink()
    study.run(cells(), workers=2)
    assert not notes.exists()                                # nothing is computed, nor read, twice
    made = {result.key: toys.parquet(result) for kind in ('pretext', 'active') for result in store.find(kind)}
    monkeypatch.setenv('PT4AL_RESULTS', str(tmp_path / 'b'))
    assert {result.key: toys.parquet(result) for result in map(get, cells())} == made   # as one process computes them


def test_what_a_worker_refuses_is_refused_here(monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', '1')               # the study sets it for its workers
    monkeypatch.setattr(study, 'ProcessPoolExecutor', lambda workers, _: ThreadPoolExecutor(workers))
    with pytest.raises(Refused, match=r'toy rotation seed 0: the loss is .* at learning rate 1e\+20') as refusal:
        study.run([spec('pretext', dataset='toy', lr=1e20)], workers=1)
    assert store.find('pretext') == []
    assert str(pickle.loads(pickle.dumps(refusal.value))) == str(refusal.value)      # so it gets out of a process


def test_on_an_accelerator_cells_run_one_after_the_other_in_this_process(monkeypatch):
    ran = []
    monkeypatch.setattr(execution, 'execution', lambda: execution.Execution('cuda', 'fp32', 1))
    monkeypatch.setattr(experiments, 'get', ran.append)
    monkeypatch.setattr(study, 'ProcessPoolExecutor', None)
    *arms, pretext = cells()
    study.run([pretext, *arms])
    assert ran == [pretext, *arms]


# -- comparing ---------------------------------------------------------------------------------------------------------

def result(tables: store.Tables, folder: str, accuracy: float = 0) -> store.Result:
    return store.Result('0' * 12, 'kind', {}, tables, {'accuracy': accuracy}, (), {}, Path(folder))


def test_a_result_and_itself_are_the_same_file_and_a_copy_is_identical(tmp_path, monkeypatch):
    own = pt4al.get(spec('pretext', dataset='toy', epochs=1))
    monkeypatch.setenv('PT4AL_RESULTS', str(tmp_path / 'b'))
    again = pt4al.get(spec('pretext', dataset='toy', epochs=1))
    assert study.compare(own, own) == 'the same file'
    assert study.compare(own, again) == 'identical to the last bit'


@pytest.mark.parametrize('columns', [('loss',), ('loss_out', 'loss_in')])
def test_losses_that_differ_are_compared_by_rank(columns):
    rng = np.random.default_rng(0)
    own, other = ({'label': np.arange(N), **{c: rng.random(N, 'float32') for c in columns}} for _ in range(2))
    other[columns[0]] += 2 * own[columns[0]]
    rho = spearmanr(own[columns[0]], other[columns[0]]).statistic
    assert .5 < rho < .95
    words = study.compare(result({'images': own}, 'a'), result({'images': other}, 'b'))
    assert words == f'rank correlation of losses {rho:.3f}'


def test_one_bit_is_a_difference():
    own = {'images': {'loss': np.arange(N, dtype='float32')}}
    other = {'images': {'loss': np.nextafter(own['images']['loss'], np.float32(99))}}
    assert study.compare(result(own, 'a'), result(other, 'b')) == 'rank correlation of losses 1.000'


@pytest.mark.parametrize('own, other, points', [(.50, .45, '+5.0'), (.30, .323, '-2.3')])
def test_curves_that_differ_are_compared_by_their_end(own, other, points):
    a, b = (result({'cycles': {'accuracy': np.array([.1, end])}}, str(end), end) for end in (own, other))
    assert study.compare(a, b) == f'final accuracy differs by {points} points'
    shorter = result({'cycles': {'accuracy': np.array([other])}}, 'c', other)
    assert study.compare(a, shorter) == f'final accuracy differs by {points} points'
