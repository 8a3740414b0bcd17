"""The study: its cells, what they cost, in which order worker processes compute them, how two
machines compare.
"""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

import pytest
import toys
from toys import images_trained

import pt4al
from pt4al import cli, data, experiments
from pt4al.errors import Refused
from pt4al.experiments import active as _active  # noqa: F401  (before its `get` is another)
from pt4al.experiments import protocols, store
from pt4al.experiments.specs import Active, Main, Pretext, spec
from pt4al.studies import plan, study
from pt4al.training import execution, fit
from pt4al.training.cohort import yield_turn

HERE = Path(__file__).resolve().parent
pytestmark = pytest.mark.usefixtures('store_of_toys')

# the real one, while a test has another in its place
get = experiments.get


def name_of(s: study.Spec) -> str:
    return f'{s.kind} {getattr(s, "strategy", "")}'.strip()


def noted_get(s: study.Spec, policy: str | None = None) -> store.Result:
    """`get` as worker processes run it here: knows the toy data set and notes when it starts and
    when it ends.
    """
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
    for name, value in {
        'PT4AL_TEST_NOTES': str(tmp_path / 'notes'),
        'PT4AL_TEST_PARENT': str(os.getpid()),
        'OMP_NUM_THREADS': '1',
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(experiments, 'get', noted_get)
    return tmp_path / 'notes'


def cells() -> list[study.Spec]:
    return [
        spec('active', dataset='toy', strategy='pt4al'),
        spec('active', dataset='toy', strategy='random'),
        spec('pretext', dataset='toy'),
    ]


# --- cells ---


def test_the_embedded_study_is_claim_1_once_and_two_arms_paired_by_seed():
    specs = [cell.spec for cell in plan.read(plan.find('smoke')).cells]
    pretext, main, *arms = specs
    assert pretext == spec('pretext', dataset='cifar10-mini') and main == spec(
        'main', dataset='cifar10-mini'
    )
    assert sorted((arm.strategy, arm.seed) for arm in arms) == [
        (s, k) for s in ('pt4al', 'random') for k in range(3)
    ]
    # trained once, for all of them
    assert {arm.pretext for arm in arms if arm.strategy == 'pt4al'} == {pretext}
    assert {arm.pretext for arm in arms if arm.strategy == 'random'} == {None}
    assert len({store.key(s, 'd') for s in specs}) == len(specs) == 8


def test_missing_is_what_no_store_holds(tmp_path, monkeypatch):
    specs = cells()
    assert study.missing(specs) == specs
    get(specs[1])
    assert study.missing(specs) == [specs[0], specs[2]]
    monkeypatch.setenv('PT4AL_RESULTS', os.pathsep.join([str(tmp_path / 'b'), str(tmp_path / 'a')]))
    # and with it the pretext result it builds on
    get(specs[0])
    assert sorted(path.name.split('-')[0] for path in (tmp_path / 'b').glob('*-*')) == [
        'active',
        'pretext',
    ]
    assert study.missing(specs) == []
    monkeypatch.setenv('PT4AL_RESULTS', str(tmp_path / 'a'))
    assert study.missing(specs) == [specs[0], specs[2]]


@pytest.mark.parametrize(
    's, images',
    [
        # four turns of every image
        (Pretext('toy', epochs=5), 4 * 72 * 5),
        (Main('toy', folds=2, epochs=3), (36 + 36) * 3),
        (Main('toy', folds=3, epochs=2), (48 + 48 + 48) * 2),
        (Active('toy', cycles=3, budget=8, epochs=5), (8 + 16 + 24) * 5),
        (Active('toy', cycles=9, until=1, budget=8, epochs=5), 8 * 5),
        (Active('toy', cycles=9, until=2, budget=5, epochs=1), 5 + 10),
        (Pretext('cifar10-mini', epochs=1), 16_000),
    ],
)
def test_passes_are_what_one_counts_by_hand(s, images):
    assert study.passes(s) == images


def test_passes_are_what_training_really_counts(monkeypatch):
    counts = images_trained(monkeypatch)
    for views, s in (
        (4, spec('pretext', dataset='toy')),
        (1, spec('main', dataset='toy', folds=3)),
        (1, spec('active', dataset='toy', strategy='random', until=2)),
    ):
        counts.clear()
        get(s)
        assert study.passes(s) == views * sum(counts) > 0


# --- running ---


@pytest.mark.slow
def test_worker_processes_compute_every_cell_once_and_what_it_builds_on_before(
    notes, tmp_path, monkeypatch, caplog
):
    caplog.set_level('INFO', 'pt4al')
    study.run(cells(), workers=2)
    lines = notes.read_text().splitlines()
    assert {line.split(', ', 1)[1] for line in lines} == {'threads 1, in worker'}
    order = [line.split(',')[0] for line in lines]
    assert sorted(order) == sorted(
        f'{word} {name_of(s)}' for s in cells() for word in ('start', 'end')
    )
    assert order.index('end pretext') < order.index('start active pt4al')
    assert [len(store.find(kind)) for kind in ('pretext', 'active')] == [1, 2] and study.missing(
        cells()
    ) == []
    assert sorted(m.split(' (')[0] for m in caplog.messages) == [
        'done: active toy seed 0, pt4al, pretext',
        'done: active toy seed 0, random',
        'done: pretext toy seed 0, rotation',
    ]
    notes.unlink()
    study.run(cells(), workers=2)
    assert not notes.exists()  # nothing is computed, nor read, twice
    made = {
        result.key: toys.parquet(result)
        for kind in ('pretext', 'active')
        for result in store.find(kind)
    }
    monkeypatch.setenv('PT4AL_RESULTS', str(tmp_path / 'b'))
    # as one process computes them
    assert {result.key: toys.parquet(result) for result in map(get, cells())} == made


def test_what_a_worker_refuses_is_refused_here(monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', '1')  # the study sets it for its workers
    monkeypatch.setattr(
        study, 'ProcessPoolExecutor', lambda workers, *_: ThreadPoolExecutor(workers)
    )
    with pytest.raises(
        Refused, match=r'toy rotation seed 0: the loss is .* at learning rate 1e\+20'
    ) as refusal:
        study.run([spec('pretext', dataset='toy', lr=1e20)], workers=1)
    assert store.find('pretext') == []
    # so it gets out of a process
    assert str(pickle.loads(pickle.dumps(refusal.value))) == str(refusal.value)


# --- side by side ---


@pytest.fixture
def accelerator(monkeypatch):
    """What a study takes for one; its cells train on the CPU."""
    monkeypatch.setattr(execution, 'execution', lambda: execution.Execution('mps', 'fp32', 1))
    monkeypatch.setattr(study, 'ProcessPoolExecutor', None)


def members() -> list[study.Spec]:
    """Cells that differ in seed, fold, strategy or order."""
    arms = [
        spec('active', dataset='toy', strategy=strategy, seed=seed, pretext_seed=seed, cycles=2)
        for strategy, seed in (('pt4al', 0), ('pt4al', 1), ('typiclust', 1), ('entropy', 0))
    ]
    return [*arms, *(spec('main', dataset='toy', epochs=1, seed=seed) for seed in (0, 1))]


def everything() -> dict[str, dict[str, bytes]]:
    return {result.key: toys.parquet(result) for result in store.find('*')}


@pytest.fixture(scope='module')
def by_itself(tmp_path_factory) -> dict[str, dict[str, bytes]]:
    """What each of `members` gives when it runs alone."""
    return {}


@pytest.fixture
def expected(by_itself, monkeypatch, tmp_path):
    if not by_itself:
        with store.only_in(tmp_path / 'alone'):
            for s in study.with_dependencies(members()):
                get(s)
            by_itself.update(everything())
    return by_itself


def test_cells_side_by_side_are_those_alone_to_the_last_bit(accelerator, expected, monkeypatch):
    order, add = [], fit.Progress.add

    def noted(self, images: int) -> None:
        order.append(threading.get_ident())
        add(self, images)

    monkeypatch.setattr(fit.Progress, 'add', noted)
    study.run(members(), workers=4)
    assert everything() == expected and len(expected) == 8
    changes = sum(a != b for a, b in zip(order, order[1:]))
    assert len(set(order)) == 4 and changes > len(order) / 2


@pytest.mark.parametrize('steps', [12, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 25))])
def test_an_interruption_stops_all_and_they_go_on_from_what_is_saved(
    accelerator, expected, monkeypatch, steps
):
    left, add = [steps], fit.Progress.add

    def counted(self, images: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            over.set()
            time.sleep(0.3)  # has the turn until all are stopped
        add(self, images)

    def waited(futures, left, *when):
        """Nothing is done any more once it is over."""
        while not over.is_set():
            if (states := wait(futures, 0.02, 'FIRST_COMPLETED')).done:
                return states
        return wait(futures, left, *when) if not when else wait(set(), 0)

    over = threading.Event()
    monkeypatch.setattr(study, 'wait', waited)
    monkeypatch.setattr(fit.Progress, 'add', counted)
    before = threading.active_count()
    study.run(members(), workers=3, minutes=100)
    assert threading.active_count() == before and study.missing(members())
    assert everything().items() <= expected.items()
    monkeypatch.setattr(study, 'wait', wait)
    study.run(members(), workers=3)
    assert everything() == expected
    assert not list(store.roots()[0].glob('.partial/*'))


def test_a_cell_that_fails_side_by_side_leaves_the_others_whole(accelerator, expected):
    bad = spec('pretext', dataset='toy', lr=1e20)
    with pytest.raises(Refused, match='1 of 3 cells failed; pretext toy seed 0, rotation, lr 1e'):
        study.run([bad, *members()[-2:]], workers=3)
    assert len(everything()) == 2 and everything().items() <= expected.items()
    assert 'the loss is' in store.failure_note(bad, data.key_digest('toy')).read_text()


def test_weights_that_several_cells_need_are_made_once(accelerator, monkeypatch):
    cell = members()[2]
    arms = [replace(cell, seed=seed) for seed in (0, 1)]
    get(cell.pretext)
    shutil.rmtree(store.roots()[0] / '.weights')
    counts = images_trained(monkeypatch)
    study.run(arms, workers=2)
    assert counts.count(2 * toys.N) == 1


def test_an_accelerator_holds_eight_or_fewer(monkeypatch):
    cells = [spec('active', dataset='cifar10', width=64, strategy='random')]
    large = spec('pretext', dataset='cifar10', width=64)
    assert study.at_once('mps', cells) == 1
    for gib, most in ((80, 8), (8, 4), (1, 1)):
        monkeypatch.setattr('torch.cuda.mem_get_info', lambda device, gib=gib: (gib * 2**30, 0))
        assert study.at_once('cuda', cells) == most
    assert 7 < study.memory(large) / 2**30 < 8
    assert study.memory(spec('pictures', dataset='cifar10', task='rotation')) == 2**30


# --- studies as data ---


def written(tmp_path: Path, text: str) -> Path:
    (tmp_path / 's.yaml').write_text(text)
    return tmp_path / 's.yaml'


def test_an_entry_is_the_product_of_its_lists_in_order_less_what_is_excluded_and_duplicates_are_one(
    tmp_path,
):
    asked = plan.read(
        written(
            tmp_path,
            """
title: Toys
cells:
  - kind: active
    dataset: toy
    strategy: [random, pt4al]
    seed: 0..2
    exclude:
      - {strategy: random, seed: [1, 2]}
  - {kind: [pretext, main], dataset: toy, milestones: [[1, 2]], seed: [0, 0]}
  - {kind: active, dataset: toy, seed: 1, strategy: pt4al}
""",
        )
    )
    arms = [spec('active', dataset='toy', strategy='pt4al', seed=seed) for seed in range(3)]
    assert [cell.spec for cell in asked.cells] == [
        spec('active', dataset='toy', strategy='random'),
        spec('pretext', dataset='toy'),
        *arms,
        spec('pretext', dataset='toy', milestones=(1, 2)),
        spec('main', dataset='toy', milestones=(1, 2)),
    ]
    assert (asked.name, asked.title, asked.cells[1].where.rpartition(':')[2]) == ('s', 'Toys', '4')


@pytest.mark.parametrize('name', ['smoke', 'cpu', 'gpu', 'paper'])
def test_the_command_of_each_cell_of_a_study_of_ours_asks_for_that_cell(name):
    cells = plan.read(plan.find(name)).cells
    for cell in cells:
        fields = dict(word.split('=', 1) for word in cell.words[2:])
        assert (protocols.spec if 'protocol' in fields else spec)(
            kind=cell.words[1], **fields
        ) == cell.spec
    position = {cell.spec: number for number, cell in enumerate(cells)}
    assert len(position) == len(cells)
    assert all(
        position[s.pretext] < place for s, place in position.items() if getattr(s, 'pretext', None)
    )


def test_much_of_the_study_of_a_cpu_is_in_the_committed_results(monkeypatch):
    monkeypatch.setenv('PT4AL_RESULTS', str(Path(__file__).resolve().parents[2] / 'results'))
    specs = [
        cell.spec
        for cell in plan.read(plan.find('cpu')).cells
        if data.available(cell.spec.dataset) or cell.spec.dataset in data.PINNED
    ]
    done = [s for s in specs if store.folders_of(s, pt4al.experiments.data_digest(s))]
    assert len(done) > 0.4 * len(specs)


GOOD = 'cells:\n  - kind: pretext\n    dataset: toy\n    seed: 0..1\n'


@pytest.mark.parametrize(
    'text, line, message',
    [
        (GOOD.replace('seed', 'seeed'), 4, "unknown key 'seeed': did you mean 'seed'"),
        (GOOD.replace('toy', 'tyo'), 2, "unknown dataset 'tyo'"),
        (GOOD.replace('0..1', '[]'), 4, 'seed has no value'),
        (
            GOOD.replace('pretext', 'pretxt'),
            2,
            "unknown kind of experiment 'pretxt': did you mean 'pretext'",
        ),
        (GOOD + '    strategy: pt4al\n', 2, "unknown parameter of pretext 'strategy'"),
        (GOOD + '    epochs: 0\n', 2, 'parameter epochs is 0: it must be at least 1'),
        (GOOD + '    seed: 3\n', 5, "'seed' is given twice"),
        (GOOD + '    exclude: [{seed: [0, 1]}]\n', 5, 'this excludes no cell, or all'),
        (GOOD + '    exclude:\n      - {seed: 7}\n', 6, 'this excludes no cell'),
        (GOOD + '    exclude: [{sed: 7}]\n', 5, "unknown key 'sed': did you mean 'seed'"),
        (GOOD.replace('0..1', '0..999999999'), 2, 'give 100,000 at most'),
        (GOOD + '    task: colorization\n    lr: [0.1\n', 7, 'this is no YAML'),
        (
            GOOD.replace('toy', 'fashion-mnist') + '    task: [rotation, colorization]\n',
            2,
            'its images are grey',
        ),
        (GOOD + '    task: audio_visual\n', 2, 'images of 3 channels have no sound'),
        (GOOD + '    task: pirl\n', 2, 'it needs 1024 images of 72'),
        ('cells:\n  - {kind: main, dataset: toy, folds: 73}\n', 2, '73 folds of 72 images'),
        (
            GOOD.replace('pretext', 'active') + '    budget: 25\n    strategy: random\n',
            2,
            'is above the pool of 72',
        ),
        (
            GOOD.replace('pretext', 'active') + '    cycles: 7\n    until: 2\n    budget: 11\n',
            2,
            'above the 10 images of a',
        ),
        ('cells: []\n', 1, 'cells is no list of at least one entry'),
        ('title: no cells\n', 1, 'cells is no list of at least one entry'),
        ('cells:\n  - pretext\n', 1, 'cells is no list of at least one entry'),
        ('cells:\n  - dataset: toy\n', 2, 'an entry has no kind'),
        (GOOD + 'report:\n  - {notebok: x}\n', 6, 'a report has no notebook'),
        (GOOD + 'report:\n  - {notebook: ../x}\n', 6, 'a report has no notebook'),
        (GOOD + 'report:\n  - {notebook: correlaton}\n', 6, "did you mean 'correlation'"),
        (
            GOOD + 'report:\n  - {notebook: correlation, dataset: toy, sed: 1}\n',
            6,
            "did you mean 'seed'",
        ),
        (
            GOOD + '    milestones: [30, 60]\n',
            2,
            r"milestones is '30': .* in brackets, '\[30, 60]'",
        ),
        ('- 1', 1, 'names and values are expected'),
        ('a: &x [1]\nb: *x\n', 1, 'anchors, aliases and tags are not taken'),
        ('cells: &x\n  - *x\n', 1, 'anchors, aliases and tags are not taken'),
        (
            'cells:\n  - !!python/object:os.system {}\n',
            2,
            'anchors, aliases and tags are not taken',
        ),
        (
            'cells:\n  - kind: !!timestamp 2020-13-45\n',
            2,
            'anchors, aliases and tags are not taken',
        ),
        ('cells: ' + '[' * 5000, 1, 'cannot be read'),
        (GOOD.replace('0..1', '1:30'), 2, 'seed'),
        (GOOD.replace('0..1', '2020-13-45'), 2, 'seed'),
        (GOOD.replace('0..1', '9' * 5000), 2, 'seed'),
        (GOOD.replace('0..1', '.inf'), 2, 'seed'),
        (GOOD + '    <<: {epochs: 3}\n', 5, "unknown key '<<'"),
        (GOOD + '    ? [epochs]\n    : 3\n', 5, 'this is no YAML'),
        (GOOD + '    \x00: 3\n', 1, 'cannot be read'),
    ],
)
def test_what_cannot_be_read_or_run_is_refused_at_its_line(tmp_path, text, line, message):
    path = written(tmp_path, text)
    with pytest.raises(Refused, match=message) as refusal:
        plan.read(path)
    assert '\n' not in str(refusal.value)
    place = f'{path} ' if message == 'cannot be read' else f'{path}:{line}:'
    assert str(refusal.value).startswith(place)


def test_dates_times_and_old_numbers_are_text_and_what_is_refused_has_a_column(tmp_path):
    path = written(tmp_path, f'title: 2020-01-01\n{GOOD}    epochs: 010\n    lr: 1e-3\n')
    asked = plan.read(path)
    assert (asked.title, asked.cells[0].spec.lr) == ('2020-01-01', 0.001)
    path = written(tmp_path, GOOD + '    batch: 32\n    epochs: 0\n')
    with pytest.raises(Refused, match=r's\.yaml:2:5: parameter epochs is 0'):
        plan.read(path)


def test_the_facts_of_data_sets_are_those_of_their_images():
    for name, facts in study.FACTS.items():
        # which take seconds to read
        if data.available(name) and name not in ('fashion-mnist', 'caltech101'):
            train, test = data.arrays(name)
            assert (len(train.labels), train.pixels.shape[-1]) == (facts.train, facts.side)
            assert data.ABOUT[name]['images'] == [len(train.labels), len(test.labels)]
    assert study.facts('caltech101:size=224') == study.Facts(8046, 224)
    assert study.facts('toy') == study.Facts(72)


def test_a_plan_counts_what_is_done_and_costs_what_is_missing(tmp_path):
    asked = plan.read(
        written(tmp_path, GOOD + '  - {kind: active, dataset: toy, strategy: pt4al}\n')
    )
    get(asked.cells[0].spec)
    rows = plan.rows(asked)
    assert [row['done'] for row in rows] == [True, False, False] and rows[2]['needs'] == [
        rows[0]['key']
    ]
    total = plan.totals(rows)
    assert (total['cells'], total['done'], total['missing']) == (3, 1, 2)
    assert total['passes'] == sum(map(study.passes, (cell.spec for cell in asked.cells)))
    # of the active run's kind nothing is stored
    assert rows[1]['seconds_here'] > 0 and rows[2]['seconds_here'] is total['hours_here'] is None
    assert (store.roots()[0] / rows[0]['folder'] / 'result.json').exists()


def test_seconds_are_those_of_the_nearest_stored_result_by_the_ratio_of_work():
    made = spec('pretext', dataset='cifar10', epochs=10, width=16)
    runs = [
        (made, 'cpu', 100.0),
        (spec('pretext', dataset='cifar10', epochs=10, width=64), 'cuda', 100.0),
        (spec('pretext', dataset='cifar10', task='jigsaw', width=16), 'cpu', 7.0),
        (spec('main', dataset='cifar10', width=16), 'cpu', 1.0),
    ]
    stored = [plan.Timed(*run, plan.work(run[0])) for run in runs]
    twice = spec('pretext', dataset='cifar10', epochs=20, width=16)
    ratio = plan.work(twice) / plan.work(made)
    assert ratio == 2 and plan.seconds(made, 'cpu', stored) == 100
    assert plan.seconds(twice, 'cpu', stored) == pytest.approx(100 * ratio)
    wide = spec('pretext', dataset='cifar10', epochs=10, width=32)
    assert plan.seconds(wide, 'cpu', stored) == pytest.approx(400)  # four times the arithmetic
    assert plan.seconds(wide, 'cuda', stored) == pytest.approx(25)
    assert plan.seconds(spec('main', dataset='cifar10'), 'cuda', stored) is None


def test_the_committed_results_say_how_long_ours_take(monkeypatch):
    monkeypatch.setenv('PT4AL_RESULTS', str(Path(__file__).resolve().parents[2] / 'results'))
    stored = plan.timed()
    assert len(stored) > 200
    assert {one.device for one in stored} == {'cpu', 'cuda'}
    for name in ('cpu', 'gpu', 'paper'):
        cells = [c.spec for c in plan.read(plan.find(name)).cells if not c.spec.dataset.count(':')]
        for cell in cells[:40]:
            assert plan.seconds(cell, 'cuda' if name == 'gpu' else 'cpu', stored) > 0


# --- failures and progress ---


def dying_get(s: study.Spec, policy: str | None = None) -> store.Result:
    toys.register()
    if s.kind == 'active':
        os.kill(os.getpid(), 9)
    return get(s, policy)


@pytest.mark.slow
def test_a_cell_that_fails_and_one_that_is_killed_stop_no_other_and_are_named_at_the_end(
    notes, monkeypatch, tmp_path
):
    monkeypatch.setattr(experiments, 'get', dying_get)
    bad, good = spec('pretext', dataset='toy', lr=1e20), spec('pretext', dataset='toy', epochs=1)
    on_bad = Active('toy', pretext=bad, **toys.TINY['active'])
    with pytest.raises(Refused) as refusal:
        study.run([on_bad, spec('active', dataset='toy', strategy='random'), good], workers=2)
    text = str(refusal.value)
    assert text.startswith('3 of 4 cells failed; ') and '\n' not in text
    assert 'the loss is' in text and 'it builds on pretext toy seed 0, rotation' in text
    assert 'its process was killed' in text
    assert study.missing([good]) == []
    text = ''.join(
        f'  - {{kind: {s.kind}, dataset: toy, lr: {s.lr}{", strategy: random" * (s.kind == "active")}}}\n'
        for s in (bad, spec('active', dataset='toy', strategy='random'))
    )
    text = f'cells:\n{text}  - {{kind: pretext, dataset: toy, epochs: 1}}\n'
    states = plan.rows(plan.read(written(tmp_path, text)))
    assert [row['state'] for row in states] == [
        'failed',
        'failed',
        'done',
    ] and 'the loss is' in states[0]['note']


def sleeping_get(s: study.Spec, policy: str | None = None) -> None:
    Path(os.environ['PT4AL_TEST_PIDS'], str(os.getpid())).touch()
    time.sleep(100)


STUDY = (
    'import test_study as t; t.toys.register(); t.study.experiments.get = t.sleeping_get;'
    "t.study.run([t.spec('pretext', dataset='toy', seed=s) for s in (0, 1)], 2)"
)


@pytest.mark.long
def test_a_killed_study_leaves_no_workers(tmp_path):
    (tmp_path / 'pids').mkdir()
    here = os.pathsep.join(map(str, (HERE, HERE.parent, HERE.parents[1])))
    settings = {'PYTHONPATH': here, 'PT4AL_TEST_PIDS': str(tmp_path / 'pids')}
    parent = subprocess.Popen(
        [sys.executable, '-c', STUDY],
        env={**os.environ, **settings, 'PT4AL_RESULTS': str(tmp_path / 'a')},
        cwd=tmp_path,
    )
    deadline = time.monotonic() + 300
    while len(workers := os.listdir(tmp_path / 'pids')) < 2:
        assert parent.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    while alive := [pid for pid in workers if running(int(pid))]:
        assert time.monotonic() < deadline, f'{alive} live on'
        time.sleep(0.05)


def running(pid: int) -> bool:
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False


def test_a_run_of_minutes_starts_what_can_go_on_or_ends_before_and_stops(monkeypatch, caplog):
    caplog.set_level('INFO', 'pt4al')
    ran = []
    monkeypatch.setattr(execution, 'execution', lambda: execution.Execution('mps', 'fp32', 1))

    def get(s: study.Spec) -> None:
        ran.append((s.kind, s.seed))
        while s.seed == 3:
            with yield_turn():
                time.sleep(0.01)

    monkeypatch.setattr(experiments, 'get', get)
    pretext = spec('pretext', dataset='toy', width=16)
    short, long, unknown = (
        spec('representation', dataset='toy', task='rotation', seed=seed) for seed in (0, 1, 2)
    )
    last = [spec('main', dataset='toy', seed=seed) for seed in (3, 4)]
    guess = {short: 0.1, long: 1000.0}
    start = time.monotonic()
    study.run([pretext, short, long, unknown, *last], minutes=0.02, seconds=guess.get)
    assert time.monotonic() - start < 30 and 'the 0.02 minutes are over' in caplog.text
    assert [kind for kind, _ in ran] == ['pretext', 'representation', 'pretext', 'pretext', 'main']
    assert ran[1] == ('representation', 0) and ran[-1] == ('main', 3)


def test_the_terminal_says_once_which_images_cells_wait_for(tmp_path, monkeypatch, capsys):
    for name in ('PT4AL_DATA', 'XDG_CACHE_HOME'):
        monkeypatch.setenv(name, str(tmp_path / 'none'))
    path = written(tmp_path, 'cells:\n  - {kind: pretext, dataset: cifar100, seed: 0..3}\n')
    monkeypatch.setattr('sys.argv', ['pt4al', 'study', 'status', str(path)])
    with pytest.raises(SystemExit):
        cli.app()
    first, second = capsys.readouterr().out.splitlines()
    assert (
        first.endswith('4 cells: 4 waiting')
        and second == 'waiting  4 cells: the images of cifar100 are not at hand'
    )


def test_the_end_of_a_run_says_how_its_reports_are_made(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, 'run', lambda *settings: None)
    path = written(tmp_path, GOOD + 'report:\n  - {notebook: correlation, dataset: toy}\n')
    monkeypatch.setattr('sys.argv', ['pt4al', 'study', 'run', str(path)])
    with pytest.raises(SystemExit):
        cli.app()
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith('reports  correlation: ') and last.endswith(f'--config study={path}')


def test_a_diagnosis_comes_after_its_run_and_after_its_encoder(tmp_path):
    path = tmp_path / 'diagnoses.yaml'
    path.write_text(
        'cells:\n  - kind: diagnosis\n    dataset: cifar10-mini\n    strategy: [pt4al, random]\n    encoder: jigsaw\n'
    )
    asked = plan.read(path)
    kinds = [
        (cell.spec.kind, getattr(cell.spec, 'task', getattr(cell.spec, 'strategy', '')))
        for cell in asked.cells
    ]
    assert kinds == [
        ('pretext', 'rotation'),
        ('active', 'pt4al'),
        ('pretext', 'jigsaw'),
        ('diagnosis', ''),
        ('active', 'random'),
        ('diagnosis', ''),
    ]
    rows = plan.rows(asked)
    assert rows[3]['needs'] == [rows[1]['key'], rows[2]['key']] and rows[5]['needs'] == [
        rows[4]['key'],
        rows[2]['key'],
    ]
    assert rows[1]['command'] == [
        'pt4al',
        'run',
        'active',
        'dataset=cifar10-mini',
        'strategy=pt4al',
    ]
    assert rows[3]['command'][-1] == 'encoder=jigsaw' and rows[3]['passes'] == 0


@pytest.mark.parametrize('name', ['smoke', 'cpu'])
def test_reports_read_what_their_study_computes(name):
    study = plan.read(plan.find(name))
    active = {cell.spec for cell in study.cells if cell.spec.kind == 'active'}
    reports = [one for one in study.reports if one['notebook'] in ('active_learning', 'cold_start')]
    for report in reports:
        fields = {key: report[key] for key in ('dataset', 'minibatches')}
        pretext = {'pretext_seed': 0, 'until': 1} if report['notebook'] == 'cold_start' else {}
        for seed in range(report.get('seeds', 3)):
            pretext |= {'pretext_seed': 0} if report.get('pretext_runs') == 1 else {}
            assert spec('active', strategy='pt4al', seed=seed, **fields, **pretext) in active
    assert reports
