"""Fixtures that several test files share; what is no fixture stands in helpers.py and toys.py."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

pytest.register_assert_rewrite('helpers', 'notebook_form', 'toys')

import toys  # noqa: E402

from pt4al import cli, data  # noqa: E402
from pt4al.experiments import specs, store  # noqa: E402

MARKED = {'browser': 'browser', 'executed': 'notebook', 'book': 'notebook'}  # by their fixtures
LONGEST = ('slurm', 'wheel', 'notebook', 'browser')


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what uses a browser, executes notebooks in kernels or builds a book; files with tests
    that take long come first, so that no worker is left waiting for one at the end.
    """
    place: dict[Path, int] = {}
    for item in items:
        for fixture, marker in MARKED.items():
            if fixture in getattr(item, 'fixturenames', ()):
                item.add_marker(marker)
        marks = {mark.name for mark in item.iter_markers()}
        rank = next((k for k, name in enumerate(LONGEST) if name in marks), len(LONGEST))
        place[item.path] = min(rank, place.get(item.path, rank))
    items.sort(key=lambda item: place[item.path])


@pytest.fixture(autouse=True)
def committed_results_are_read_only(monkeypatch):
    """No test may add to the results that the book is made of."""
    write, committed = store.write, Path(__file__).resolve().parents[1] / 'results'

    def guarded(root: Path, *arguments, **named):
        assert Path(root).resolve() != committed, 'a test writes into results/: give it a store'
        return write(root, *arguments, **named)

    monkeypatch.setattr(store, 'write', guarded)


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv('PT4AL_RESULTS', str(tmp_path / 'a'))
    return tmp_path / 'a'


@pytest.fixture
def store_of_toys(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(data, 'DATASETS', dict(data.DATASETS))
    monkeypatch.setattr(specs, 'DEFAULTS', dict(specs.DEFAULTS))
    monkeypatch.setattr(store, 'commit', lambda: 'c0ffee')
    for name, value in {
        'PT4AL_RESULTS': str(tmp_path / 'a'),
        'PT4AL_THREADS': '1',
        'PT4AL_DEVICE': 'cpu',
        'PT4AL_PRECISION': 'fp32',
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv('PT4AL_COMPUTE', raising=False)
    toys.register()
    yield tmp_path / 'a'
    data.arrays.cache_clear()


@pytest.fixture
def command(monkeypatch, capsys):
    """Run `pt4al words...` in this process; returns what it hands to sys.exit, its output and its
    messages.
    """
    monkeypatch.setattr(sys, 'excepthook', sys.excepthook)  # typer puts its own there

    def run(*words: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, 'argv', ['pt4al', *words])
        with pytest.raises(SystemExit) as ended:
            cli.app()
        return ended.value.code, *capsys.readouterr()

    return run


@pytest.fixture(scope='module')
def browser():
    playwright = pytest.importorskip('playwright.sync_api')
    chromium = shutil.which('chromium') or pytest.skip('no chromium on this machine')
    flags = [
        '--no-sandbox',
        '--disable-gpu',
        '--enable-unsafe-swiftshader',
        '--disable-background-networking',
    ]
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=chromium, args=flags)
        yield running
        running.close()
