"""Sphinx extension: the parameterized notebooks, with their default parameters, as pages of the book.

They are converted anew from notebooks/*.py at every build, into book/runs/, so there is one source and nothing to commit.
"""
from __future__ import annotations

import hashlib
import os
from pathlib import Path

import jupytext
import nbformat
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]


def convert(source: Path, target: Path) -> None:
    """Write the notebook with cell ids made of its text: jupytext draws new ones, which would change the page each time."""
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells):
        cell['id'] = hashlib.sha256(f'{number}:{cell.source}'.encode()).hexdigest()[:8]
    target.parent.mkdir(exist_ok=True)
    part = target.with_suffix('.part')
    part.write_text(nbformat.writes(notebook), encoding='utf-8')
    os.replace(part, target)


def allow_parallel(app: Sphinx) -> None:
    """Vouch for the two extensions that do not say it themselves; neither keeps anything while pages are read."""
    for name in ('sphinx_multitoc_numbering', 'sphinx_jupyterbook_latex'):
        if name in app.extensions:
            app.extensions[name].parallel_read_safe = True


def setup(app: Sphinx) -> dict[str, object]:
    os.environ['PT4AL_COMPUTE'] = 'never'                  # a page reads results; a lack of one fails the build
    # Pages are executed side by side (jupyter-book has no option for it), so each kernel gets one thread.
    app.parallel = min(4, os.cpu_count() or 1)
    os.environ.update(OMP_NUM_THREADS='1', OPENBLAS_NUM_THREADS='1')
    for source in sorted((ROOT / 'notebooks').glob('*.py')):
        convert(source, ROOT / 'book' / 'runs' / f'{source.stem}.ipynb')
    app.connect('builder-inited', allow_parallel)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
