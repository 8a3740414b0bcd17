"""Kills at any moment: what is run again ends as if nothing had happened, and nothing lies about.

`python tests/test_kills.py` does 60 kills of all kinds and counts them; the test does a few of the quick kinds.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch._dynamo  # noqa: F401  (what a first step imports, once before all forks)
import toys
from helpers import picture, plant

import pt4al
from pt4al import data, files
from pt4al.data import folders
from pt4al.experiments import active, exchange, pretext, store  # noqa: F401
from pt4al.experiments.specs import spec
from pt4al.own import folder as own_folder
from pt4al.own import ranking
from pt4al.studies import study as cells
from pt4al.training import execution

ROOT = Path(__file__).resolve().parents[1]
STUDY = """cells:
  - kind: pretext
    dataset: imagefolder:{}/photos?size=16
    epochs: 2
    width: 4
    seed: 0..1
"""


# --- what is killed: each works in a folder, over `made`, which lies beside it ---


def train(folder: Path, made: Path) -> None:
    pt4al.get(spec('pretext', dataset='toy', epochs=4))


def query(folder: Path, made: Path) -> None:
    pt4al.get(spec('active', dataset='toy', strategy='pt4al', cycles=3, epochs=1))


def decode(folder: Path, made: Path) -> None:
    files.cache = lambda: folder
    folders.read_images(sorted((made / 'large').iterdir()), 128)


def merge(folder: Path, made: Path) -> None:
    exchange.merge([made / 'foreign'], folder / 'store')


def rank(folder: Path, made: Path) -> None:
    ranking.rank(
        made / 'photos', budget=4, cycles=5, epochs=2, features='rotation',
        out=folder / 'picks.csv', keep=folder / 'kept',
    )  # fmt: skip


def study(folder: Path, made: Path) -> None:
    """The command itself, with its workers."""
    sys.argv = ['pt4al', 'study', 'run', str(made / 'study.yaml'), '--workers', '2']
    os.execv(sys.executable, [sys.executable, '-m', *sys.argv])


def beside(folder: Path, made: Path) -> None:
    """Cells that take turns, as on an accelerator."""
    execution.execution = lambda: execution.Execution('mps', 'fp32', 1)
    fields = {'dataset': 'toy', 'epochs': 3}
    arms = [spec('active', strategy='random', cycles=3, seed=seed, **fields) for seed in (0, 1)]
    cells.run([*arms, *(spec('main', seed=seed, **fields) for seed in (0, 1))], workers=4)


KINDS: dict[str, Callable[[Path, Path], None]] = {
    one.__name__: one for one in (train, query, decode, merge, rank, study, beside)
}


def prepare(made: Path) -> None:
    """What the kinds work on."""
    plant(made / 'photos')
    (made / 'large').mkdir()
    for number in range(24):
        picture(number).resize((900, 900)).save(made / 'large' / f'{number}.png')
    (made / 'study.yaml').write_text(STUDY.format(made))
    noise = np.random.default_rng(0).random(200_000).astype('float32')
    for seed in range(8):
        computed = store.Computed({'images': {'loss': noise + seed}}, {'mean_loss': 1.0}, (), {})
        wanted = spec('pretext', dataset='cifar10-mini', epochs=1, seed=seed)
        run = {'commit': 'c0ffee', 'seconds': 1}
        store.write(made / 'foreign', wanted, data.key_digest('cifar10-mini'), computed, run)


# --- killing ---


def start(kind: str, folder: Path, made: Path) -> int:
    """Begin one kind in a process of its own; its number."""
    folder.mkdir(exist_ok=True)
    if number := os.fork():
        return number
    with contextlib.suppress(BaseException):
        with open(os.devnull, 'w') as nothing:
            os.dup2(nothing.fileno(), 1)
            os.dup2(nothing.fileno(), 2)
        os.chdir(folder)
        os.environ.update(
            PT4AL_RESULTS=str(folder / 'store'), XDG_CACHE_HOME=str(folder / 'cache'),
            PT4AL_THREADS='1', PT4AL_DEVICE='cpu', PT4AL_PRECISION='fp32', PT4AL_COMMIT='c0ffee',
            PYTHONPATH=str(ROOT),
        )  # fmt: skip
        files._swept.clear()
        toys.register()
        own_folder.SLOW = (4, 16)
        KINDS[kind](folder, made)
        os._exit(0)
    os._exit(1)


def ended(number: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def left(folder: Path) -> set[str]:
    """Every file and folder, but for what a page says of the time it took."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob('*')}


def outcome(folder: Path) -> dict[str, bytes]:
    """What a run is for, to the last bit."""
    kinds = ('*.parquet', '*.npy', 'picks*')
    paths = [path for kind in kinds for path in folder.rglob(kind)]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def workers(folder: Path) -> list[int]:
    """Processes that still work in a folder."""
    alive = []
    for one in Path('/proc').iterdir():
        with contextlib.suppress(OSError):
            if one.name.isdigit() and (one / 'cwd').readlink() == folder:
                alive.append(int(one.name))
    return alive


def kills(kind: str, count: int, root: Path, made: Path, rng: random.Random) -> list[str]:
    """Kill a kind at random moments, run it again; a line for whatever is not as without."""
    begin = time.monotonic()
    assert ended(start(kind, root / 'whole', made)) == 0, f'{kind} does not run'
    took, wrong, late = time.monotonic() - begin, [], 0
    want, files_of = outcome(root / 'whole'), left(root / 'whole')
    assert want
    for number in range(count):
        folder = root / f'{kind}-{number}'
        child = start(kind, folder, made)
        time.sleep(rng.uniform(0, took))
        os.kill(child, signal.SIGKILL)
        late += ended(child) == 0
        deadline = time.monotonic() + 60
        while alive := workers(folder):
            if time.monotonic() > deadline:
                wrong.append(f'{kind} {number}: {len(alive)} processes live on')
                break
            time.sleep(0.05)
        if (code := ended(start(kind, folder, made))) != 0:
            wrong.append(f'{kind} {number}: exit {code} when it is run again')
        elif outcome(folder) != want:
            wrong.append(f'{kind} {number}: another result')
        wrong += [f'{kind} {number}: leaves {name}' for name in sorted(left(folder) - files_of)]
        shutil.rmtree(folder)
    shutil.rmtree(root / 'whole')
    became = '; '.join(wrong) or 'all as without'
    print(f'{kind}: {count} kills in {took:.1f} s, {late} after the end: {became}', flush=True)
    return wrong


def main(counts: dict[str, int], seed: int = 0) -> list[str]:
    root = Path(tempfile.mkdtemp(prefix='kills-')).resolve()
    try:
        (root / 'made').mkdir()
        prepare(root / 'made')
        rng = random.Random(seed)
        return [
            line
            for kind, count in counts.items()
            for line in kills(kind, count, root, root / 'made', rng)
        ]
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.mark.slow
def test_kills_change_nothing_and_leave_nothing():
    """In a process of its own: it forks, and pytest's has threads."""
    done = subprocess.run(
        [sys.executable, __file__, '2', 'merge', 'decode', 'rank', 'beside'],
        env={**os.environ, 'PYTHONPATH': f'{ROOT}{os.pathsep}{ROOT / "tests"}'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


if __name__ == '__main__':
    each = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    usual = {
        'merge': 12,
        'decode': 12,
        'train': 12,
        'rank': 10,
        'query': 10,
        'study': 4,
        'beside': 10,
    }
    bad = main({kind: each or usual[kind] for kind in sys.argv[2:] or usual})
    sys.exit('\n'.join(bad) or 0)
