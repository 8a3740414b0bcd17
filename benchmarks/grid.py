"""One study by every engine that is at hand, each time from nothing: how long it took, and whether
all made the same bits.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pt4al.errors import Refused
from pt4al.experiments import exchange
from pt4al.progress import log
from pt4al.studies import plan

Engine = Callable[[Path], list[str]]
ROOT = Path(__file__).resolve().parents[1]  # of the checkout, which has workflow/


def grid(study: str = 'smoke') -> dict[str, Any]:
    """Compute a study's cells by `pt4al study run`, by Snakemake and, where one answers, on Slurm,
    into empty stores.

    `seconds` by the clock; `computing`, those that the results themselves recorded, of all cells
    together; `equal`, whether every table is that of the first engine to the last bit.  On Slurm
    once with a job for each cell, once with short cells sharing jobs.  The stores are temporary: on
    a cluster let TMPDIR name a folder that all nodes see.  Raises `Refused` where an engine fails.
    """
    asked = plan.read(plan.find(study))
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            _timed(name, words, Path(folder) / str(number))
            for number, (name, words) in enumerate(
                _engines(str(plan.find(study).resolve())).items()
            )
        ]
        stores = [Path(folder) / str(number) / 'store' for number in range(len(rows))]
        for row, store in zip(rows, stores):
            row |= {
                'cells': len(exchange.folders(store)),
                'equal': _equal(stores[0], store),
                'computing': sum(
                    exchange.read_checked(path).provenance['seconds']
                    for path in exchange.folders(store)
                ),
            }
    return {
        'what': f'seconds of the study {asked.name}, from an empty store',
        'study': asked.name,
        'cells': len(asked.cells),
        'cores': os.cpu_count(),
        'rows': rows,
    }


def _engines(study: str) -> dict[str, Engine]:
    """The command of each engine at hand, for the folder in which it may write."""

    def snakemake(profile: str, *more: str, **config: Any) -> Engine:
        given = (f'{name}={value}' for name, value in ({'study': study} | config).items())
        words = [
            sys.executable,
            '-m',
            'snakemake',
            'cells',
            '--profile',
            f'workflow/profiles/{profile}',
            *more,
            '--config',
            *given,
        ]
        return lambda folder: [*words, f'out={folder}/grid', '--directory', str(folder)]

    engines: dict[str, Engine] = {
        'pt4al study run': lambda folder: [sys.executable, '-m', 'pt4al', 'study', 'run', study]
    }
    if importlib.util.find_spec('snakemake') is None or not (ROOT / 'workflow').is_dir():
        return engines
    engines['Snakemake, local'] = snakemake('local')
    if partition := _partition():
        accounts = (
            [] if _answers('sacct') else ['--slurm-no-account', '--slurm-status-command', 'squeue']
        )
        more = [
            '--default-resources',
            f'slurm_partition={partition}',
            'mem_mb=2000',
            'runtime=60',
            *accounts,
        ]
        engines['Snakemake on Slurm, a job for each cell'] = snakemake(
            'slurm', *more, gpu=1, mem_mb=2000, short=0
        )
        engines['Snakemake on Slurm, short cells in one job'] = snakemake(
            'slurm', *more, gpu=1, mem_mb=2000
        )
    return engines


def _answers(*words: str) -> str:
    """What a command prints; nothing where it is not there or fails."""
    if shutil.which(words[0]) is None:
        return ''
    asked = subprocess.run(words, capture_output=True, text=True)
    return '' if asked.returncode else asked.stdout


def _partition() -> str:
    """The usual partition of the Slurm that answers here, or nothing."""
    names = _answers('sinfo', '-h', '-o', '%P').split()
    return next((name.rstrip('*') for name in names if name.endswith('*')), '')


def _timed(name: str, words: Engine, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    log.info('grid: %s', name)
    start = time.perf_counter()
    ran = subprocess.run(
        words(folder),
        cwd=ROOT,
        env=os.environ | {'PT4AL_RESULTS': str(folder / 'store')},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    seconds = time.perf_counter() - start
    if ran.returncode:
        raise Refused(
            f'{name} ended with status {ran.returncode}: {" ".join(ran.stdout.split())[-300:]}'
        )
    jobs = len(re.findall('has been submitted with SLURM jobid', ran.stdout))
    return {'engine': name, 'seconds': seconds, 'jobs': jobs}


def _equal(one: Path, other: Path) -> bool:
    """Whether two stores hold the same results, to the last bit of every table."""
    mine, theirs = (
        {path.name: exchange.read_checked(path) for path in exchange.folders(store)}
        for store in (one, other)
    )
    return mine.keys() == theirs.keys() and all(
        not exchange.difference(result, theirs[name]) for name, result in mine.items()
    )
