"""The command as it is typed: what it prints, and that whatever is refused is one line and exit
status 1.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import plant, refused

import pt4al
from pt4al.errors import Refused, stop
from pt4al.experiments import specs, store
from pt4al.studies import plan, study
from scripts import report

pytestmark = pytest.mark.usefixtures('store_of_toys')

ROOT = Path(__file__).resolve().parents[1]


def test_the_version_is_printed(command):
    assert command('--version')[1] == f'pt4al {pt4al.__version__}\n'


# --- refusals ---


def kept(store: Path) -> list[Path]:
    """Files in a store: results, or checkpoints of unfinished ones."""
    return [path for path in store.rglob('*') if path.is_file()]


@pytest.mark.parametrize(
    'words, message',
    [
        (
            'run pretxt dataset=toy',
            r"unknown kind of experiment 'pretxt': did you mean 'pretext'\?",
        ),
        ('run pretext dataset=cifar1', "unknown dataset 'cifar1': did you mean 'cifar10'"),
        ('run pretext seed=1', 'name a data set, for example dataset='),
        (
            'run pretext dataset=toy epoch=3',
            "unknown parameter of pretext 'epoch': did you mean 'epochs'",
        ),
        (
            'run pretext dataset=toy task=rotatoin',
            "unknown task 'rotatoin': did you mean 'rotation'",
        ),
        ('run active dataset=toy strategy=pt4a', "unknown strategy 'pt4a': did you mean 'pt4al'"),
        (
            'run pretext dataset=toy seed',
            "'seed' is not name=value: write for example dataset=cifar10",
        ),
        ('run pretext dataset=toy seed=1 seed=2', "'seed' is given twice: '1' and '2'"),
        ('run pretext dataset=toy kind=main', "'kind' is given twice: 'pretext' and 'main'"),
        ('run pretext dataset=toy =3', "unknown parameter of pretext ''"),
        ('run pretext dataset=toy\nepochs=3', r"unknown dataset 'toy\\nepochs=3'"),
        (
            'run pretext dataset=toy epochs=three',
            "parameter epochs is 'three': it must be of type int",
        ),
        ('run pretext dataset=toy epochs=1.5', "parameter epochs is '1.5': it must be of type int"),
        ('run pretext dataset=toy epochs=', "parameter epochs is '': it must be of type int"),
        ('run pretext dataset=toy epochs=0', 'parameter epochs is 0: it must be at least 1'),
        ('run pretext dataset=toy lr=inf', 'parameter lr is inf: it must be a positive number'),
        (
            'run pretext dataset=toy milestones=[1,',
            r"parameter milestones is '\[1,': it must be whole numbers",
        ),
        (
            'run active dataset=toy pretext=toy',
            "parameter pretext is 'toy': it must be of type Pretext",
        ),
        ('run main dataset=toy folds=73', '73 folds of 72 images: give at most one fold per image'),
        (
            'run active dataset=toy strategy=random budget=25',
            'budget of 75 images in 3 cycles is above the pool of 72',
        ),
        (
            'run active dataset=toy budget=25',
            'budget of 75 images in 3 cycles is above the pool of 72',
        ),
        (
            'run active dataset=toy cycles=7 until=2 budget=11',
            'budget 11 is above the 10 images of a batch',
        ),
        ('results --dataset cifar1', "unknown dataset 'cifar1': did you mean 'cifar10'"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line_before_anything_is_trained(
    command, store_of_toys, words, message
):
    refused(command(*words.split(' ')), message)
    assert not kept(store_of_toys)


@pytest.mark.parametrize(
    'name, value, message',
    [
        (
            'PT4AL_THREADS',
            '0',
            "PT4AL_THREADS is '0': give a whole number of threads from 1 to 9999",
        ),
        ('PT4AL_THREADS', 'two', "PT4AL_THREADS is 'two'"),
        (
            'PT4AL_PRECISION',
            'fp23',
            "unknown precision in PT4AL_PRECISION 'fp23': did you mean 'fp32'",
        ),
        ('PT4AL_COMPUTE', 'newer', "unknown policy 'newer': did you mean 'never'"),
        ('PT4AL_COMPUTE', 'never', "no result pretext .*'dataset': 'toy'.*: run it first"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(
    command, store_of_toys, monkeypatch, name, value, message
):
    monkeypatch.setenv(name, value)
    refused(command('run', 'pretext', 'dataset=toy'), message)
    assert not kept(store_of_toys)


@pytest.mark.parametrize(
    'words, setting, message',
    [
        ('run pretext dataset=cifar10-mini epoch=3', {}, 'did you mean .epochs.'),
        ('run pretext dataset=cifar10-mini', {'PT4AL_THREADS': '0'}, 'from 1 to 9999'),
    ],
)
def test_the_real_command_exits_with_1_and_no_traceback(tmp_path, words, setting, message):
    done = subprocess.run(
        [sys.executable, '-c', 'from pt4al.cli import app; app()', *words.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {'PT4AL_RESULTS': str(tmp_path / 'none')} | setting,
    )
    assert done.returncode == 1 and done.stdout == ''
    assert (
        done.stderr.startswith('pt4al: ')
        and done.stderr.count('\n') == 1
        and re.search(message, done.stderr)
    )
    assert not kept(tmp_path / 'none')


def test_an_unknown_command_is_told_with_the_way_to_the_help(command):
    code, printed, errors = command('rnu', 'pretext')
    assert (
        code == 2
        and not printed
        and "'rnu'" in errors
        and '--help' in errors
        and 'Traceback' not in errors
    )


# --- what it does ---


def test_run_computes_once_and_then_reads(command, monkeypatch):
    words = ('run', 'pretext', 'dataset=toy', 'epochs=1', 'seed=3')
    code, printed, _ = command(*words)
    (result,) = store.find('pretext')
    assert not code and (result.spec.epochs, result.spec.seed) == (1, 3)
    folder, *summary = printed.splitlines()
    assert folder == str(result.folder)
    assert [line.split() for line in summary] == [
        [name, f'{value:.4g}'] for name, value in result.summary.items()
    ]
    assert summary[0].split()[0] in ('mean_loss', 'last_epoch_loss') and len(summary) == 2
    before = (result.folder / 'result.json').stat()
    monkeypatch.setenv('PT4AL_COMPUTE', 'never')
    assert (
        command(*words)[:2] == (code, printed) and (result.folder / 'result.json').stat() == before
    )


def test_results_are_listed_and_checked(command):
    assert command('results')[1].startswith('no results in ')
    for kind, fields in (
        ('pretext', {}),
        ('main', {}),
        ('active', {'strategy': 'random', 'seed': 4, 'lr': 0.05}),
    ):
        pt4al.get(specs.spec(kind, dataset='toy', epochs=1, **fields))
    printed = command('results')[1]
    lines = [line.split() for line in printed.splitlines()]
    assert [(line[0], line[1], line[2]) for line in lines] == [
        (store.find(kind)[0].key, kind, 'toy') for kind in ('active', 'main', 'pretext')
    ]
    active = store.find('active')[0]
    accuracy = active.summary['accuracy']
    # every setting that is not the default
    line = f'{active.key}  active toy seed 4, random, lr 0.05: accuracy {accuracy:g}, labels 24'
    assert line in printed.splitlines()
    assert 'pretext toy seed 0, rotation, epochs 1: ' in printed
    assert command('results', '--dataset', 'toy')[1] == printed
    assert command('results', '--dataset', 'cifar10')[1].startswith('no results in ')
    table = active.folder / 'picks.parquet'
    table.write_bytes(table.read_bytes()[::-1])
    code, _, errors = command('results')
    assert not errors and re.fullmatch(
        rf'pt4al: result {active.folder} is damaged .*: delete the folder and .*', code
    )


def test_data_sets_are_listed_with_whether_they_are_at_hand(command, monkeypatch, tmp_path):
    monkeypatch.delenv('PT4AL_DATA', raising=False)
    monkeypatch.setattr('pt4al.files.cache', lambda: tmp_path)
    rows = dict(line.split(maxsplit=1) for line in command('datasets')[1].splitlines())
    assert (
        rows['cifar10'] == 'will be downloaded when first used'
        and rows['cifar10-mini'] == rows['toy'] == 'at hand'
    )
    (tmp_path / 'cifar-10-batches-py').mkdir()
    (tmp_path / 'cifar-10-batches-py' / 'test_batch').touch()
    assert re.search('^cifar10 +at hand$', command('datasets')[1], re.M)


@pytest.fixture
def small_report(tmp_path, monkeypatch, store_of_toys):
    """`report` on two toy cells, one of them committed, with a book builder that notes what it was
    given.
    """
    cells = [specs.spec('pretext', dataset='toy', seed=seed, epochs=1) for seed in (0, 1)]
    pt4al.get(cells[0])
    builds, trained = [], []

    def build(words, **_):
        builds.append((words, os.environ['PT4AL_RESULTS']))
        return SimpleNamespace(
            stdout='what went wrong', returncode=0 if (tmp_path / 'book' / 'good').exists() else 2
        )

    small = SimpleNamespace(cells=[SimpleNamespace(spec=cell) for cell in cells])
    monkeypatch.setattr(plan, 'read', lambda path: small)
    monkeypatch.setattr(
        study,
        'run',
        lambda specs: trained.append([pt4al.get(s).folder.parent for s in study.missing(specs)]),
    )
    monkeypatch.setattr(report, 'subprocess', SimpleNamespace(run=build, PIPE=None, STDOUT=None))
    (tmp_path / 'book').mkdir()
    (tmp_path / 'book' / '_toc.yml').touch()
    return SimpleNamespace(
        builds=builds,
        trained=trained,
        committed=store_of_toys,
        fresh=tmp_path / 'fresh',
        book=tmp_path / 'book',
    )


def test_report_computes_on_this_machine_and_builds_from_both_stores(small_report, capsys):
    (small_report.book / 'good').touch()
    report.report(small_report.fresh, small_report.book)
    printed = capsys.readouterr().out
    assert 'small study: 2 of 2 experiments to run' in printed
    assert re.search(r'^open /.*/_build/html/index\.html$', printed, re.M)
    # though the committed store holds one of them
    assert small_report.trained == [[small_report.fresh] * 2]
    (builder, *rest), roots = small_report.builds[0]
    assert Path(builder).name.startswith('jupyter-book')
    assert rest == ['build', str(small_report.book)]
    assert roots.split(os.pathsep) == [str(small_report.fresh), str(small_report.committed)]


def test_report_says_so_when_the_book_does_not_build(small_report, capsys):
    with pytest.raises(Refused, match='the book does not build: the messages above say where'):
        report.report(small_report.fresh, small_report.book)
    assert 'open ' not in capsys.readouterr().out


def test_report_misses_the_book_and_the_builder_before_the_study(small_report, monkeypatch):
    with pytest.raises(Refused, match='run this in the top folder of a checkout'):
        report.report(book=Path('nowhere'))
    monkeypatch.setattr(report.shutil, 'which', lambda *_, **__: None)
    with pytest.raises(Refused, match='jupyter-book is not installed: run make setup'):
        report.report(book=small_report.book)
    assert small_report.trained == []


@pytest.mark.parametrize(
    'error, message',
    [
        (OSError(errno.ENOSPC, 'No space left on device', 'x'), 'x .No space.*: see to its room'),
        (PermissionError(errno.EACCES, 'Permission denied'), 'Permission denied.*rights'),
        (OSError('no number'), 'no number'),
        (EOFError('Compressed file ended'), 'cannot read .*Compressed file ended.*: see to'),
        (MemoryError(), 'too little memory'),
        (ImportError('lib.so: failed to map'), 'cannot be loaded .lib.so: failed to map.: close'),
    ],
)
def test_whatever_the_machine_lacks_is_one_line(command, monkeypatch, error, message):
    def fails() -> None:
        raise error

    monkeypatch.setattr('pt4al.experiments.store.roots', fails)
    refused(command('results', 'verify'), message)


@pytest.mark.parametrize('number, status', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_who_stops_a_run_is_told_that_it_goes_on(number, status, monkeypatch, capsys):
    before = signal.getsignal(number)
    try:
        with pytest.raises(SystemExit) as end:
            stop(number)
        assert signal.getsignal(number) is signal.SIG_DFL  # a second one ends it at once
    finally:
        signal.signal(number, before)
    assert end.value.code == status and 'run it again to go on' in capsys.readouterr().err


@pytest.mark.parametrize('library', ['numpy', 'sklearn'])  # of every command, of rank alone
def test_ctrl_c_while_a_library_is_loaded_is_one_line(tmp_path, library):
    plant(tmp_path / 'photos', 2)
    slow = "import time\nprint('loading', flush=True)\ntry: time.sleep(60)\nexcept: raise OSError"
    (tmp_path / f'{library}.py').write_text(slow)
    with subprocess.Popen(
        [sys.executable, '-m', 'pt4al', 'rank', 'photos', '--budget', '1'],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {'PYTHONPATH': os.pathsep.join([str(tmp_path), str(ROOT)])},
    ) as process:
        assert process.stdout.readline() == 'loading\n'
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=50)[1]
    assert process.returncode == 130
    assert errors == 'pt4al: stopped; run it again to go on from what is saved\n'
