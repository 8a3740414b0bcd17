"""A Slurm of one node on loopback with pretend GPUs: jobs cancelled and killed in the middle,
resumed to equal bits.
"""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

import pt4al
from pt4al import data
from pt4al.experiments import exchange
from pt4al.studies import plan

ROOT = Path(__file__).resolve().parents[2]


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        'one_node_slurm', ROOT / 'scripts' / 'one_node_slurm.py'
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SLURM = script()
LACKING = [
    *SLURM.lacking(),
    *[
        what
        for module, what in {
            'snakemake': 'snakemake (requirements-grid.txt)',
            'snakemake_executor_plugin_slurm': 'its Slurm executor (requirements-grid.txt)',
        }.items()
        if importlib.util.find_spec(module) is None
    ],
]
needs_snakemake = pytest.mark.skipif(
    importlib.util.find_spec('snakemake') is None,
    reason='there is no snakemake: pip install -r requirements-grid.txt',
)
STUDY = """
cells:
  - kind: active
    dataset: imagefolder:{images}
    strategy: [random, pt4al]
    width: 4
    cycles: 4
    budget: 12
    epochs: 40
    batch: 16
"""
STARTED: list[subprocess.Popen] = []


def wait_for(
    what: Callable[[], object], seconds: float = 300, of: subprocess.Popen | None = None
) -> object:
    """The first true answer of `what`, while the process `of` runs."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline and (of is None or of.poll() is None), 'no sign of it'
        time.sleep(0.01)
    return found


@pytest.fixture
def study(tmp_path, monkeypatch) -> Path:
    """A study of three cells on 300 embedded images in class folders: one pretext run, an arm on
    it, and random.
    """
    train, _ = data.arrays('cifar10-mini')
    for label in range(3):
        folder = tmp_path / 'images' / train.classes[label]
        folder.mkdir(parents=True)
        for index in np.flatnonzero(train.labels == label)[:100]:
            Image.fromarray(train.pixels[index].transpose(1, 2, 0)).save(folder / f'{index}.png')
    for name, value in {
        'PT4AL_DEVICE': 'cpu',
        'PT4AL_PRECISION': 'fp32',
        'PT4AL_THREADS': '1',
        'OMP_NUM_THREADS': '1',
        'XDG_CACHE_HOME': str(tmp_path / 'cache'),
        'PT4AL_RESULTS': str(tmp_path / 'local'),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv('PT4AL_COMPUTE', raising=False)
    (tmp_path / 'tiny.yaml').write_text(STUDY.format(images=tmp_path / 'images'))
    return tmp_path / 'tiny.yaml'


@pytest.fixture
def slurm(tmp_path) -> Iterator[None]:
    """A Slurm of this machine with pretend GPUs."""
    if LACKING:
        pytest.skip('there is no ' + ', no '.join(LACKING))
    with SLURM.running(tmp_path / 'slurm'):
        try:
            yield
        finally:
            for process in STARTED:
                process.kill()


def snakemake(study: Path, *words: str, profile: str = 'slurm') -> subprocess.Popen:
    """The workflow by a profile of ours, with what a cluster without accounting, and haste, ask
    for.
    """
    given = ['--profile', f'workflow/profiles/{profile}', '--directory', str(study.parent / 'grid')]
    if profile == 'slurm':
        given += [
            '--default-resources',
            'slurm_partition=debug',
            'mem_mb=500',
            'runtime=5',
            '--slurm-no-account',
            '--slurm-status-command',
            'squeue',
            '--slurm-init-seconds-before-status-checks',
            '1',
            '--seconds-between-status-checks',
            '1',
            '--latency-wait',
            '5',
            '--retries',
            '0',
        ]
    log = open(study.parent / 'snakemake.log', 'a')
    STARTED.append(
        subprocess.Popen(
            [sys.executable, '-m', 'snakemake', *given, *words],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    )
    return STARTED[-1]


def processes_of(key: str) -> list[int]:
    """The processes that compute a cell: those that hold files of its unfinished work, or its lock."""
    found = []
    for folder in Path('/proc').glob('[0-9]*/fd'):
        try:
            if any(f'.partial/{key}' in os.readlink(fd) for fd in folder.iterdir()):
                found.append(int(folder.parent.name))
        except OSError:  # it has ended
            continue
    return found


def job_of(key: str) -> str | None:
    """The number of the running job whose comment names a cell."""
    rows = (
        line.partition(' ')
        for line in SLURM.output('squeue', '-h', '-t', 'R', '-o', '%i %k').splitlines()
    )
    return next((number for number, _, comment in rows if key in comment), None)


def submitted(study: Path) -> int:
    return (study.parent / 'snakemake.log').read_text().count('has been submitted with SLURM jobid')


@pytest.mark.slurm
@pytest.mark.skipif(bool(LACKING), reason='there is no ' + ', no '.join(LACKING))
def test_a_study_on_slurm_outlives_scancel_and_sigkill_to_the_bits_of_a_local_run(
    slurm, study, tmp_path, monkeypatch
):
    local, grid = tmp_path / 'local', tmp_path / 'store'
    config = [
        'cells',
        '--config',
        f'study={study}',
        f'out={tmp_path / "grid"}',
        'gpu=1',
        'mem_mb=500',
    ]
    specs = [cell.spec for cell in plan.read(study).cells]
    for spec in specs:
        pt4al.get(spec)
    keys = {getattr(spec, 'strategy', 'pretext'): plan.key(spec) for spec in specs}
    monkeypatch.setenv('PT4AL_RESULTS', str(grid))

    first = snakemake(study, *config, 'short=0')  # a job for each cell, two at a time
    stops = {
        'pretext': (
            'fit.pt',
            lambda key: subprocess.run(['scancel', wait_for(lambda: job_of(key))], check=True),
        ),
        'random': (
            'cycle-*.json',
            lambda key: [os.kill(p, signal.SIGKILL) for p in processes_of(key)],
        ),
    }
    # whichever is first in the middle
    while stops:
        name = wait_for(
            lambda: next(
                (
                    name
                    for name, (sign, _) in stops.items()
                    if list((grid / '.partial' / keys[name]).glob(sign))
                ),
                None,
            ),
            of=first,
        )
        stops.pop(name)[1](keys[name])
    assert first.wait(300) == 1
    assert (
        exchange.folders(grid) == [] and (grid / '.partial' / keys['pretext'] / 'fit.pt').exists()
    )
    assert 1 <= len(list((grid / '.partial' / keys['random']).glob('cycle-*.json'))) < 4

    # short cells share a job, which is preempted
    # without a stored result to go by a cell counts as an hour long
    second = snakemake(study, *config, 'short=90')
    wait_for(lambda: list((grid / '.partial' / keys['pt4al']).glob('cycle-*.json')), of=second)
    subprocess.run(
        ['scontrol', 'requeue', SLURM.output('squeue', '-h', '-t', 'R', '-o', '%i').strip()],
        check=True,
    )
    assert second.wait(400) == 0
    assert [path.name for path in exchange.folders(grid)] == [
        path.name for path in exchange.folders(local)
    ]
    assert len(exchange.folders(grid)) == 3 and os.listdir(grid / '.partial') == []
    for path in exchange.folders(grid):
        assert not exchange.difference(
            exchange.read_checked(local / path.name), exchange.read_checked(path)
        )
    # two that were stopped, one for what was left
    assert submitted(study) == 3
    # and then there is nothing left to submit
    assert snakemake(study, *config, 'short=90').wait(300) == 0
    assert submitted(study) == 3


@pytest.mark.slow
@needs_snakemake
def test_neither_code_nor_prose_computes_a_stored_cell_again_but_reports_follow_them(
    tmp_path, monkeypatch
):
    monkeypatch.setenv('PT4AL_RESULTS', str(ROOT / 'results'))
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    words = ('--dry-run', '--config', 'study=smoke', f'out={tmp_path / "grid"}')
    assert snakemake(tmp_path / 'smoke', 'cells', *words, profile='local').wait(120) == 0
    markers = list((tmp_path / 'grid' / 'smoke' / 'cells').iterdir())
    assert len(markers) == 8
    # by the clocks of other nodes: long ago, and in the future
    for marker, clock in zip(markers, [1e9, 4e9] * 4):
        os.utime(marker, (clock, clock))
    log = tmp_path / 'snakemake.log'
    log.write_text('')
    assert snakemake(tmp_path / 'smoke', 'book', *words, profile='local').wait(120) == 0
    counts = dict(re.findall(r'^(\w+) +(\d+)$', log.read_text(), re.M))
    assert counts == {'notebook': '2', 'report': '2', 'book': '1', 'total': '5'}
    # as the store holds it, it is put back and not computed
    markers[0].unlink()
    log.write_text('')
    assert snakemake(tmp_path / 'smoke', 'cells', *words, profile='local').wait(120) == 0
    assert 'Nothing to be done' in log.read_text() and markers[0].exists()


@pytest.mark.slow
@needs_snakemake
def test_the_commands_of_the_chapter_are_ones_that_snakemake_takes(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    prose = (ROOT / 'book' / 'cluster.md').read_text().replace('\\\n', ' ')
    commands = [
        line.partition('#')[0].split()
        for line in prose.splitlines()
        if line.startswith('snakemake ')
    ]
    assert len(commands) >= 4
    for words in commands:
        if 'workflow/profiles/slurm' in words:
            # the executor needs a Slurm
            words = [word.replace('profiles/slurm', 'profiles/local') for word in words]
            assert '--default-resources' in words
        at = words.index('--config') + 1
        ran = subprocess.run(
            [
                sys.executable,
                '-m',
                *words[:at],
                f'out={tmp_path / "grid"}',
                *words[at:],
                '--dry-run',
                '--directory',
                str(tmp_path),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert not ran.returncode or 'cells need images that are not at hand' in ran.stderr, (
            ran.stderr[-500:]
        )
