"""Sphinx extension: the parameterized notebooks, with their default parameters, as pages of the
book.

They are converted anew from notebooks/*.py at every build, into book/runs/, so there is one source
and nothing to commit. A notebook whose results nobody has computed becomes a page that says so, but
for those that `make report` computes.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import jupytext
import nbformat
from sphinx.application import Sphinx

from pt4al.errors import NotStored

ROOT = Path(__file__).resolve().parents[2]
# a lack of their results fails the build
REPORTED = {'active_learning', 'correlation', 'main_task', 'pretext'}
LACK = """```{{note}}
Not yet run: the store lacks results that this page needs. With `.venv/bin` on the path,

    make notebooks
    papermill notebooks/{0}.ipynb out.ipynb

computes them.
```"""


def lacks(notebook: nbformat.NotebookNode) -> bool:
    """Whether the store lacks what the notebook's first two code cells, parameters and set-up,
    read.
    """
    variables: dict[str, object] = {}
    try:
        for cell in [cell for cell in notebook.cells if cell.cell_type == 'code'][:2]:
            exec(cell.source, variables)
    except NotStored:
        return True
    return False


def convert(source: Path, target: Path) -> None:
    """Write the notebook with cell ids made of its text: jupytext draws new ones, which would
    change the page each time.
    """
    notebook = jupytext.read(source)
    if source.stem not in REPORTED and lacks(notebook):
        notebook.cells = [
            notebook.cells[0],
            nbformat.v4.new_markdown_cell(LACK.format(source.stem)),
        ]
    for number, cell in enumerate(notebook.cells):
        cell['id'] = hashlib.sha256(f'{number}:{cell.source}'.encode()).hexdigest()[:8]
    target.parent.mkdir(exist_ok=True)
    part = target.with_suffix('.part')
    part.write_text(nbformat.writes(notebook), encoding='utf-8')
    os.replace(part, target)


def allow_parallel(app: Sphinx) -> None:
    """Vouch for the two extensions that do not say it themselves; neither keeps anything while
    pages are read.
    """
    for name in ('sphinx_multitoc_numbering', 'sphinx_jupyterbook_latex'):
        if name in app.extensions:
            app.extensions[name].parallel_read_safe = True


def setup(app: Sphinx) -> dict[str, object]:
    # a page reads results; a lack of one fails the build
    os.environ['PT4AL_COMPUTE'] = 'never'
    # Pages are executed side by side (jupyter-book has no option for it), so each kernel gets one
    # thread.
    app.parallel = min(4, os.cpu_count() or 1)
    os.environ.update(OMP_NUM_THREADS='1', OPENBLAS_NUM_THREADS='1')
    for source in sorted((ROOT / 'notebooks').glob('*.py')):
        convert(source, ROOT / 'book' / 'runs' / f'{source.stem}.ipynb')
    app.connect('builder-inited', allow_parallel)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
