"""Sphinx extension: executed notebooks as pages of the book.

    book/pages.yml          notebook and parameters of the book's own pages
    book/runs/NAME.ipynb    what papermill makes of them, written when the book is built
    book/runs/mine.ipynb    a run of a reader's own, by papermill: listed under "Your runs"

A page of the book is executed again when its notebook, its parameters, the library or a result has
changed; where none of them has, Sphinx reads no page at all. A reader's own run is executed again
from its parameters, so that its figures are live; where the store has lost its results, it is
shown as it was written. That file itself is never changed.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import papermill
import yaml
from papermill.exceptions import PapermillExecutionError
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from warm_kernels import serving

from pt4al import data
from pt4al.errors import NotStored, Refused
from pt4al.experiments import store

log = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / 'book'
RUNS = BOOK / 'runs'
TOC = BOOK / '_toc.yml'
PACKAGES = ('numpy', 'scipy', 'pandas', 'plotly', 'matplotlib', 'scikit-learn')
TITLED = ('dataset', 'task', 'width')  # parameters that stand in the title of a page
SETS = {'cifar10': 'CIFAR-10', 'imbalanced-cifar10': 'Imbalanced CIFAR-10'}
SETS |= {'caltech101': 'Caltech-101', 'cifar10-mini': 'CIFAR-10-mini'}
YOURS, OURS = 'Your runs', 'Notebooks'
SIGN = 'pt4al_page'  # in the metadata of a notebook that a build has written: its digest
KERNELS = ExitStack()  # warm ones, from the first page that is executed to the end of the build
LACK = """```{{note}}
Not yet run: the store lacks results that this page needs. With `.venv/bin` on the path,

    make notebooks
    papermill notebooks/{0}.ipynb out.ipynb{1}

computes them.
```"""


@dataclass(frozen=True)
class Page:
    """One executed notebook of the book, as book/pages.yml lists it."""

    name: str
    notebook: str
    parameters: dict[str, Any] = field(default_factory=dict)
    needed: bool = False

    @property
    def target(self) -> Path:
        return RUNS / f'{self.name}.ipynb'

    @property
    def digest(self) -> str:
        """Of all that the page is made of."""
        source = (ROOT / 'notebooks' / f'{self.notebook}.py').read_text('utf-8')
        return _digest([source, json.dumps(self.parameters, sort_keys=True), state()])


def listed() -> list[Page]:
    """The pages of book/pages.yml; refuses a name that a reader's own run has taken."""
    listing = BOOK / 'pages.yml'
    rows = yaml.safe_load(listing.read_text('utf-8')) if listing.exists() else []
    pages = [Page(**row) for row in rows]
    for page in pages:
        if page.target.exists() and not _sign(page.target):
            raise Refused(
                f'{page.target} is a run of yours under the name of a page of the book: rename it'
            )
    return pages


def yours() -> list[Path]:
    """Notebooks in book/runs/ that no build has written."""
    return [path for path in sorted(RUNS.glob('*.ipynb')) if not _sign(path)]


def _sign(path: Path) -> str | None:
    try:
        return json.loads(path.read_text('utf-8'))['metadata'].get(SIGN)
    except (ValueError, KeyError, AttributeError):
        return None


# --- what a page is made of ---


@cache
def state() -> str:
    """A digest of what every page is made of beside its text: library, results, images at hand."""
    files = [*(ROOT / 'pt4al').rglob('*.py'), *(ROOT / 'pt4al').rglob('*.yaml')]
    files += [ROOT / 'pt4al' / 'assets' / 'colours.json', *(BOOK / '_ext').glob('*.py')]
    files += [*(BOOK / '_code').glob('*.py')]
    files += [path for root in store.roots() for path in root.glob('*/result.json')]
    versions = [f'{name} {importlib.metadata.version(name)}' for name in PACKAGES]
    at_hand = [name for name in data.DATASETS if name in data.SOURCES and data.available(name)]
    contents = [f'{path} {_digest([path.read_bytes()])}' for path in sorted(files)]
    return _digest([*contents, *versions, *at_hand])


def _digest(parts: list[str | bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part.encode() if isinstance(part, str) else part).digest())
    return digest.hexdigest()[:16]


# --- papermill ---


def prepared(page: Page) -> nbformat.NotebookNode:
    """The notebook of a page, not yet executed; its title says on what it looks."""
    notebook = jupytext.read(ROOT / 'notebooks' / f'{page.notebook}.py')
    if page.parameters:
        title, _, text = notebook.cells[0].source.partition('\n')
        what = of(page)
        notebook.cells[0].source = f'{title} ({what})\n{text}' if what else f'{title}\n{text}'
    for number, cell in enumerate(notebook.cells):  # jupytext draws other ids each time
        cell['id'] = _digest([f'{number}:{cell.source}'])[:8]
    notebook.metadata['kernelspec'] = {
        'name': 'python3',
        'display_name': 'Python 3',
        'language': 'python',
    }
    return notebook


def of(page: Page) -> str:
    """On what a page looks: 'CIFAR-10, width 64'."""
    return ', '.join(_shown(*item) for item in page.parameters.items() if item[0] in TITLED)


def _shown(name: str, value: Any) -> str:
    text = ', '.join(map(str, value)) if isinstance(value, list) else str(value)
    if name == 'dataset':
        return SETS.get(text.partition(':')[0], text)
    return text if name == 'task' else f'{name} {text}'


def make(page: Page) -> None:
    """Execute a page's notebook with its parameters and write it to book/runs/, whole or not."""
    notebook = prepared(page)
    try:
        done = executed(notebook, page.parameters)
    except PapermillExecutionError as error:
        if error.ename != NotStored.__name__ or page.needed:
            raise
        words = ''.join(f" -p {name} '{value}'" for name, value in page.parameters.items())
        note = nbformat.v4.new_markdown_cell(LACK.format(page.notebook, words))
        note['id'] = 'lack'
        done = notebook
        done.cells = [notebook.cells[0], note]
    done.metadata[SIGN] = page.digest
    _write(page.target, done)


def again(path: Path) -> None:
    """Execute a reader's own run once more, as it was given, for the book; the file stays."""
    notebook = nbformat.read(path, 4)
    for cell in notebook.cells:
        if cell.cell_type == 'code':
            cell.outputs, cell.execution_count = [], None
    try:
        done = executed(notebook, {})
    except PapermillExecutionError as error:
        log.warning(
            'run_pages: %s is shown as it was written, with still figures: %s',
            path.relative_to(ROOT),
            error.evalue,
            type='run_pages',
        )
        done = nbformat.read(path, 4)
    _write(_again(path), done)


def executed(notebook: nbformat.NotebookNode, parameters: dict[str, Any]) -> Any:
    """The notebook with its outputs; papermill adds the parameters after their defaults."""
    folder = ROOT / '_build' / 'pages'
    folder.mkdir(parents=True, exist_ok=True)
    source, out = (folder / f'{os.getpid()}-{what}.ipynb' for what in ('in', 'out'))
    try:
        source.write_text(nbformat.writes(notebook), encoding='utf-8')
        papermill.execute_notebook(
            source, out, parameters, kernel_name='python3', progress_bar=False, cwd=ROOT
        )
        done = nbformat.read(out, 4)
    finally:
        source.unlink(missing_ok=True)
        out.unlink(missing_ok=True)
    # times of a run would change a page that says the same
    done.metadata.pop('papermill', None)
    for number, cell in enumerate(done.cells):
        cell.metadata.pop('papermill', None)
        cell.metadata.pop('execution', None)
        cell['id'] = _digest([f'{number}:{cell.source}'])[:8]
        if cell.cell_type == 'code':
            cell.metadata['tags'] = [*cell.metadata.get('tags', ()), 'hide-input']
    return done


def _write(path: Path, notebook: nbformat.NotebookNode) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix('.part')
    part.write_text(nbformat.writes(notebook), encoding='utf-8')
    os.replace(part, path)


def _again(path: Path) -> Path:
    """Where a build puts what it made of a reader's run."""
    return ROOT / '_build' / 'pages' / f'{path.stem}-{_digest([path.read_bytes(), state()])}.ipynb'


# --- Sphinx ---


def table_of_contents(app: Sphinx, config: Any) -> None:
    """Add pages that _toc.yml does not name: under the page of their notebook, else at the end, as
    the reader's own runs.
    """
    content = yaml.safe_load(TOC.read_text('utf-8'))
    entries = {entry['file']: entry for entry in _entries(content)}
    ours = []
    for page in listed():
        file, notebook = f'runs/{page.name}', entries.get(f'runs/{page.notebook}')
        if file not in entries and notebook:
            notebook.setdefault('sections', []).append(
                {'file': file, 'title': of(page) or page.name}
            )
        elif file not in entries:
            ours.append(file)
    more = {OURS: ours, YOURS: [f'runs/{path.stem}' for path in yours()]}
    for caption, files in more.items():
        parts = content.get('parts', [content])  # a short book has chapters and no parts
        appendix = [c for part in parts for c in part['chapters'] if c['file'] == 'appendix']
        if appendix and caption == OURS:  # folded away: the story is what a reader sees
            appendix[0].setdefault('sections', []).extend({'file': file} for file in files)
            continue
        part = next((part for part in parts if part.get('caption') == caption), parts[-1])
        if files and 'parts' in content and part.get('caption') != caption:
            parts.append(part := {'caption': caption, 'chapters': []})
        # several runs of one notebook have one heading: the menu names them by their files
        named_so = caption == YOURS
        part['chapters'] += [
            {'file': file} | ({'title': Path(file).name} if named_so else {}) for file in files
        ]
    written = ROOT / '_build' / '_toc.yml'
    written.parent.mkdir(exist_ok=True)
    written.write_text(yaml.safe_dump(content, sort_keys=False), encoding='utf-8')
    config.external_toc_path = str(written)


def _entries(content: Any) -> Iterator[dict[str, Any]]:
    """Every entry of a table of contents that names a file."""
    if isinstance(content, dict) and 'file' in content:
        yield content
    for part in content.values() if isinstance(content, dict) else content:
        if isinstance(part, dict | list):
            yield from _entries(part)


def execute(app: Sphinx) -> None:
    """Have papermill make every page that is not what its parts say, side by side."""
    fresh = unchanged(app)
    pages = [p for p in listed() if not fresh or _sign(p.target) != p.digest]
    mine = [path for path in yours() if not fresh or not _again(path).exists()]
    for stale in RUNS.glob('*.ipynb'):
        if _sign(stale) and stale.stem not in {page.name for page in listed()}:
            stale.unlink()
    if not fresh:  # what kernels of an earlier build have written beside the pages
        for folder in ('data', 'explorer'):
            shutil.rmtree(_marker(app).parent / folder, ignore_errors=True)
    if pages or mine or not fresh:  # a single chapter that was edited does with a kernel of its own
        KERNELS.enter_context(serving())
    if pages or mine:
        log.info('papermill: %d pages, %d runs of yours', len(pages), len(mine))
        with ProcessPoolExecutor(app.parallel, multiprocessing.get_context('fork')) as pool:
            waiting = [pool.submit(make, page) for page in pages]
            waiting += [pool.submit(again, path) for path in mine]
            for one in waiting:
                one.result()


def outdated(app: Sphinx, env: BuildEnvironment, *changes: set[str]) -> list[str]:
    """Every page, where the library, a result or what is at hand has changed; else none."""
    return [] if unchanged(app) else sorted(env.found_docs)


def unchanged(app: Sphinx) -> bool:
    """Whether the last build began with the library, the results and what is at hand as now."""
    now = state()  # first, so that it is what the build begins with
    return _marker(app).exists() and _marker(app).read_text() == now


def shown(app: Sphinx, page: str, source: list[str]) -> None:
    """A reader's own run as it was executed for the book."""
    path = BOOK / f'{page}.ipynb'
    if path.parent == RUNS and path.exists() and not _sign(path):
        source[0] = _again(path).read_text('utf-8')


def finished(app: Sphinx, error: Exception | None) -> None:
    """The next build may rest on this one."""
    if error is None and app.builder.format == 'html':
        _marker(app).write_text(state())


def _marker(app: Sphinx) -> Path:
    return Path(app.outdir) / '_static' / '.state'


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
    # thread. Four even on two cores: pages are dealt out in batches, the fewer the less even, and
    # each waits for its kernel to start and to end.
    app.parallel = 4
    os.environ.update(OMP_NUM_THREADS='1', OPENBLAS_NUM_THREADS='1')
    app.connect('config-inited', table_of_contents, priority=100)  # before it is read, at 900
    app.connect('builder-inited', allow_parallel)
    app.connect('builder-inited', execute, priority=900)  # after the kernels' environment is set
    app.connect('env-get-outdated', outdated)
    app.connect('source-read', shown)
    app.connect('build-finished', finished)
    app.connect('build-finished', lambda *_: KERNELS.close())
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
