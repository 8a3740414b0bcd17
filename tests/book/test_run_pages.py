"""The notebooks as pages: whole where their results are stored, a note where not, an error where
one is damaged.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import nbformat
import numpy as np
import pytest
from notebook_form import NAMES, source

from pt4al import data
from pt4al.errors import Refused
from pt4al.experiments import specs, store

pytestmark = pytest.mark.usefixtures('root')

ROOT = Path(__file__).resolve().parents[2]


def load():
    spec = importlib.util.spec_from_file_location(
        'run_pages', ROOT / 'book' / '_ext' / 'run_pages.py'
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


run_pages = load()


@pytest.fixture(autouse=True)
def as_in_a_build(monkeypatch):
    monkeypatch.setenv('PT4AL_COMPUTE', 'never')


def converted(name: str, folder: Path) -> nbformat.NotebookNode:
    run_pages.convert(ROOT / 'notebooks' / f'{name}.py', folder / 'runs' / f'{name}.ipynb')
    assert [path.name for path in (folder / 'runs').iterdir()] == [f'{name}.ipynb']
    page = nbformat.read(folder / 'runs' / f'{name}.ipynb', 4)
    nbformat.validate(page)
    return page


def put_representation() -> Path:
    spec = specs.spec('representation', dataset='cifar10-mini')
    tables = {name: {'accuracy': np.ones(2)} for name in ('blocks', 'fractions')}
    made = store.Computed(tables, {'accuracy': 0.5}, data.CLASSES, {})
    return store.write(store.roots()[0], spec, specs.data_digest(spec), made, {})


def test_without_its_results_a_page_says_so_and_how_to_get_them(tmp_path):
    title, note = converted('representation', tmp_path).cells
    assert title.cell_type == note.cell_type == 'markdown' and title.source.startswith(
        '# What a pretext task teaches'
    )
    assert (
        'Not yet run' in note.source
        and 'papermill notebooks/representation.ipynb out.ipynb' in note.source
    )
    assert note.source.startswith('```{note}\n') and str(tmp_path) not in note.source


def test_with_its_results_a_page_is_the_whole_notebook(tmp_path):
    put_representation()
    page = converted('representation', tmp_path)
    assert [cell.source for cell in page.cells] == [
        cell.source for cell in source('representation').cells
    ]
    # ids too: equal bytes every build
    assert page.cells == converted('representation', tmp_path).cells


def test_a_damaged_result_is_no_lack(tmp_path):
    table = put_representation() / 'blocks.parquet'
    table.write_bytes(table.read_bytes()[::-1])
    with pytest.raises(Refused, match='is damaged'):
        converted('representation', tmp_path)


@pytest.mark.parametrize('name', NAMES)
def test_what_make_report_computes_is_never_replaced_by_a_note(name, tmp_path):
    assert name in run_pages.REPORTED
    assert [cell.source for cell in converted(name, tmp_path).cells] == [
        cell.source for cell in source(name).cells
    ]
