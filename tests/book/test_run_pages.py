"""Executed notebooks as pages: what is listed, what is made again, what of a reader's own."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import yaml
from papermill.exceptions import PapermillExecutionError

from pt4al.errors import Refused

pytestmark = pytest.mark.usefixtures('root')

ROOT = next(p for p in Path(__file__).resolve().parents if (p / 'pyproject.toml').exists())
NOTEBOOK = """# %% [markdown]
# # A question
#
# Its text.

# %% tags=["parameters"]
number = 1

# %%
print(number + 1)
"""


@pytest.fixture
def run_pages(tmp_path, monkeypatch):
    """The extension, of a book that holds one notebook and nothing else."""
    path = ROOT / 'book' / '_ext' / 'run_pages.py'
    monkeypatch.syspath_prepend(path.parent)
    spec = importlib.util.spec_from_file_location('run_pages', path)
    module = importlib.util.module_from_spec(spec)
    import sys

    monkeypatch.setitem(sys.modules, 'run_pages', module)
    spec.loader.exec_module(module)
    for name, place in {'ROOT': '', 'BOOK': 'book', 'RUNS': 'book/runs'}.items():
        monkeypatch.setattr(module, name, tmp_path / place)
    (tmp_path / 'book').mkdir()
    (tmp_path / 'notebooks').mkdir()
    (tmp_path / 'notebooks' / 'question.py').write_text(NOTEBOOK)
    (tmp_path / 'book' / 'pages.yml').write_text(
        yaml.safe_dump([{'name': 'two', 'notebook': 'question', 'parameters': {'number': 2}}])
    )
    monkeypatch.setattr(module, 'state', lambda: 'state')
    return module


def printed(notebook: nbformat.NotebookNode) -> str:
    return ''.join(
        out.get('text', '') for cell in notebook.cells for out in cell.get('outputs', ())
    )


def test_a_page_is_what_papermill_makes_of_a_notebook_and_its_parameters(run_pages):
    [page] = run_pages.listed()
    run_pages.make(page)
    done = nbformat.read(page.target, 4)
    assert printed(done) == '3\n' and done.cells[0].source.startswith('# A question\n')
    wide = run_pages.prepared(run_pages.Page('wide', 'question', {'width': 64, 'number': 2}))
    assert wide.cells[0].source.startswith('# A question (width 64)\n')
    assert done.metadata[run_pages.SIGN] == page.digest and run_pages.yours() == []
    before = page.target.read_bytes()
    run_pages.make(page)
    assert page.target.read_bytes() == before  # no time of day, no id that was drawn


def test_a_page_stands_under_its_notebook_and_is_named_by_what_it_looks_at(run_pages, monkeypatch):
    toc = run_pages.BOOK / '_toc.yml'
    monkeypatch.setattr(run_pages, 'TOC', toc)
    rows = [
        {'name': 'two', 'notebook': 'question', 'parameters': {'dataset': 'caltech101:size=32'}},
        {'name': 'other', 'notebook': 'another'},
    ]
    (run_pages.BOOK / 'pages.yml').write_text(yaml.safe_dump(rows))
    toc.write_text(yaml.safe_dump({'root': 'index', 'chapters': [{'file': 'runs/question'}]}))
    run_pages.table_of_contents(None, SimpleNamespace())
    [question, other] = yaml.safe_load((run_pages.ROOT / '_build' / '_toc.yml').read_text())[
        'chapters'
    ]
    assert question['sections'] == [{'file': 'runs/two', 'title': 'Caltech-101'}]
    assert other == {'file': 'runs/other'}


def test_a_page_is_another_when_its_parameters_or_its_notebook_are(run_pages):
    [page] = run_pages.listed()
    source = run_pages.ROOT / 'notebooks' / 'question.py'
    digests = {page.digest, run_pages.Page('two', 'question', {'number': 3}).digest}
    source.write_text(NOTEBOOK + '\n')
    assert len(digests | {page.digest}) == 3


@pytest.mark.parametrize('needed', [False, True])
def test_a_lack_becomes_a_note_or_fails_the_build_where_the_page_is_needed(run_pages, needed):
    (run_pages.ROOT / 'notebooks' / 'question.py').write_text(
        NOTEBOOK + "\nfrom pt4al.errors import NotStored\nraise NotStored('no result')\n"
    )
    page = run_pages.Page('two', 'question', {'number': 2}, needed)
    if needed:
        with pytest.raises(PapermillExecutionError):
            run_pages.make(page)
        assert not page.target.exists()
        return
    run_pages.make(page)
    title, note = nbformat.read(page.target, 4).cells
    assert note.source.startswith('```{note}\nNot yet run')
    assert "papermill notebooks/question.ipynb out.ipynb -p number '2'" in note.source


def test_a_run_of_ones_own_is_executed_again_and_never_changed(run_pages):
    mine = run_pages.RUNS / 'mine.ipynb'
    mine.parent.mkdir()
    notebook = run_pages.prepared(run_pages.Page('x', 'question'))
    mine.write_text(nbformat.writes(notebook))
    before = mine.read_bytes()
    assert run_pages.yours() == [mine]
    run_pages.again(mine)
    assert mine.read_bytes() == before
    assert printed(nbformat.read(run_pages._again(mine), 4)) == '2\n'


def test_a_run_whose_results_are_gone_is_shown_as_it_was_written(run_pages):
    mine = run_pages.RUNS / 'mine.ipynb'
    mine.parent.mkdir()
    notebook = run_pages.prepared(run_pages.Page('x', 'question'))
    notebook.cells[-1].source = '1 / 0'
    notebook.cells[-1].outputs = [nbformat.v4.new_output('stream', text='as it was')]
    mine.write_text(nbformat.writes(notebook))
    run_pages.again(mine)
    assert printed(nbformat.read(run_pages._again(mine), 4)) == 'as it was'


def test_a_run_under_the_name_of_a_page_is_refused_before_it_is_overwritten(run_pages):
    mine = run_pages.RUNS / 'two.ipynb'
    mine.parent.mkdir()
    mine.write_text(nbformat.writes(run_pages.prepared(run_pages.Page('x', 'question'))))
    with pytest.raises(Refused, match='rename it'):
        run_pages.listed()


def test_every_page_of_the_book_names_a_notebook_and_parameters_that_it_declares():
    import jupytext

    rows = yaml.safe_load((ROOT / 'book' / 'pages.yml').read_text())
    assert len({row['name'] for row in rows}) == len(rows)
    for row in rows:
        notebook = jupytext.read(ROOT / 'notebooks' / f'{row["notebook"]}.py')
        cell = next(c for c in notebook.cells if 'parameters' in c.metadata.get('tags', ()))
        declared: dict = {}
        exec(cell.source, declared)
        assert set(row.get('parameters', {})) <= set(declared), row['name']
