"""The notebooks as a user runs them, `papermill x.ipynb out.ipynb -p ...`, and what each of them is
made of.
"""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from bs4 import BeautifulSoup
from helpers import put
from notebook_form import FORM, NAMES, code, execute, source
from scipy.stats import spearmanr

from pt4al import data
from pt4al.errors import Refused
from pt4al.experiments import store
from pt4al.experiments.specs import spec

pytestmark = pytest.mark.usefixtures('store_of_toys')

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
NAME = 'cifar10-mini'
MINI = {'dataset': NAME, 'width': 1}
TINY = {
    'pretext': {'epochs': 1},
    'main_task': {'epochs': 1},
    'correlation': {'pretext_epochs': 1, 'main_epochs': 1},
    'active_learning': {'epochs': 1, 'cycles': 2, 'budget': 20, 'seeds': 1},
}


# --- what a notebook is made of ---


def test_these_are_all_notebooks():
    assert sorted(path.stem for path in (ROOT / 'notebooks').glob('*.py')) == sorted(
        [*NAMES, 'ablation', 'cold_start', 'own_images', 'representation', 'sensitivity']
    )


@pytest.mark.parametrize('rule', FORM)
@pytest.mark.parametrize('name', NAMES)
def test_they_have_the_form_of_all_notebooks(name, rule):
    rule(name)


@pytest.fixture(scope='module')
def converted(tmp_path_factory) -> Path:
    """A folder with the four .ipynb, made twice by the command of the Makefile."""
    command = (
        re.search(r'@\.venv/bin/(jupytext .*) -o \$@ \$<', (ROOT / 'Makefile').read_text())
        .group(1)
        .split()
    )
    folders = [tmp_path_factory.mktemp(name) for name in ('once', 'twice')]
    for folder, name in ((folder, name) for folder in folders for name in NAMES):
        from jupytext.cli import jupytext as convert

        convert(
            [
                *command[1:],
                '-o',
                str(folder / f'{name}.ipynb'),
                str(ROOT / 'notebooks' / f'{name}.py'),
            ]
        )
    return folders[0]


@pytest.mark.parametrize('name', NAMES)
def test_conversion_keeps_every_cell_and_is_the_same_each_time(converted, name):
    once, twice = (
        nbformat.read(
            converted.with_name(converted.name.replace('once', which)) / f'{name}.ipynb', 4
        )
        for which in ('once', 'twice')
    )
    nbformat.validate(once)
    assert [cell.source for cell in once.cells] == [cell.source for cell in source(name).cells]
    assert [
        cell.get('metadata').get('tags') for cell in once.cells if cell.cell_type == 'code'
    ] == [['parameters']] + [None] * (len(code(name)) - 1)
    assert once.metadata.kernelspec.name == 'python3'
    for cell in (*once.cells, *twice.cells):
        del cell['id']  # random, by the format's design
    assert once == twice


# --- as a user runs them ---


def papermill(
    notebook: Path, output: Path, given: dict[str, object], **environment: str
) -> SimpleNamespace:
    """Type `papermill notebook output -p name value ...`; returns the process and the executed
    notebook.
    """
    typed = [word for name, value in given.items() for word in ('-p', name, str(value))]
    env = {
        'PATH': f'{BIN}{os.pathsep}{os.environ["PATH"]}',
        'PT4AL_THREADS': '1',
        'OMP_NUM_THREADS': '1',
    } | environment
    done = subprocess.run(
        ['papermill', str(notebook), str(output), *typed],
        cwd=ROOT,
        env=os.environ | env,
        capture_output=True,
        text=True,
    )
    return SimpleNamespace(
        code=done.returncode, errors=done.stderr, notebook=nbformat.read(output, 4)
    )


@pytest.fixture(scope='module')
def results(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp('papermill') / 'results'


@pytest.fixture(scope='module')
def executed(converted, results) -> Callable[[str], SimpleNamespace]:
    """Run each notebook once, all in one store."""

    def untrained_pretext() -> None:
        """Random losses in the place of ten epochs of pretext training, for the arm that sorts by
        them.
        """
        label = data.arrays(NAME)[0].labels.astype('int16')
        loss = np.random.default_rng(0).lognormal(size=len(label)).astype('float32')
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv('PT4AL_RESULTS', str(results))
            put({'images': {'label': label, 'loss': loss}}, 'pretext', **MINI)

    @cache
    def run(name: str) -> SimpleNamespace:
        if name == 'active_learning':
            untrained_pretext()
        # may compute nothing: it reads what these two computed
        if name == 'correlation':
            run('pretext'), run('main_task')
        return papermill(
            converted / f'{name}.ipynb',
            results.parent / f'{name}.ipynb',
            MINI | TINY[name],
            PT4AL_RESULTS=str(results),
            PT4AL_COMPUTE='never' if name == 'correlation' else 'missing',
        )

    return run


def asked(name: str) -> list:
    """The specs that a notebook's tiny parameters stand for."""
    pretext, main = spec('pretext', epochs=1, **MINI), spec('main', epochs=1, **MINI)
    arms = [
        spec('active', strategy=name, epochs=1, cycles=2, budget=20, minibatches='even', **MINI)
        for name in ('random', 'pt4al')
    ]
    return {
        'pretext': [pretext],
        'main_task': [main],
        'correlation': [pretext, main],
        'active_learning': arms,
    }[name]


def stored(name: str, results: Path) -> list[store.Result]:
    keys = [store.key(s, data.key_digest(s.dataset)) for s in asked(name)]
    return [store.read(folder) for key in keys for folder in results.glob(f'*-{key}')]


def outputs(run: SimpleNamespace, mime: str) -> list[str]:
    return [
        output.data[mime]
        for cell in run.notebook.cells
        if cell.cell_type == 'code'
        for output in cell.outputs
        if mime in output.get('data', {})
    ]


def printed(run: SimpleNamespace) -> str:
    return ''.join(
        output.text
        for cell in run.notebook.cells
        if cell.cell_type == 'code'
        for output in cell.outputs
        if output.get('name') == 'stdout'
    )


def tables(run: SimpleNamespace) -> dict[str, list[list[str]]]:
    """Every table by its caption: rows of cell texts as typed, heads left out."""

    def typed(text: str) -> str:
        return text.replace('\u00a0', ' ').replace('−', '-')

    pages = [BeautifulSoup(html, 'html.parser') for html in outputs(run, 'text/html')]
    return {
        page.caption.text: [[typed(cell.text) for cell in row('td')] for row in page.tbody('tr')]
        for page in pages
        if page.table
    }


@pytest.mark.parametrize(
    'name, figures, live',
    [('main_task', 4, 2), ('pretext', 4, 1), ('correlation', 2, 2), ('active_learning', 2, 2)],
)
def test_papermill_runs_it_to_the_end_with_figures_and_provenance(
    executed, results, name, figures, live
):
    run = executed(name)
    assert run.code == 0, run.errors
    cells = [cell for cell in run.notebook.cells if cell.cell_type == 'code']
    assert [
        output.evalue for cell in cells for output in cell.outputs if output.output_type == 'error'
    ] == []
    assert all(cell.execution_count for cell in cells) and cells[1].metadata.tags == [
        'injected-parameters'
    ]
    stills = [base64.b64decode(png) for png in outputs(run, 'image/png')]
    assert len(stills) == len(set(stills)) == figures and all(
        png.startswith(b'\x89PNG') for png in stills
    )
    assert len(outputs(run, 'application/vnd.plotly.v1+json')) == live
    rows = tables(SimpleNamespace(notebook=SimpleNamespace(cells=cells[-1:])))[
        'Where these results come from'
    ]
    found = stored(name, results)
    assert [row[0] for row in rows] == [r.key for r in found] and len(found) == len(asked(name))
    assert [(row[1], row[2]) for row in rows] == [(r.kind, NAME) for r in found]


def test_the_store_holds_what_was_asked_for_and_nothing_else(executed, results):
    for name in NAMES:
        executed(name)
    wanted = {store.key(s, data.key_digest(s.dataset)) for name in NAMES for s in asked(name)}
    # the one that was put there
    wanted.add(store.key(spec('pretext', **MINI), data.key_digest(NAME)))
    assert {path.name.split('-')[-1] for path in results.glob('*-*')} == wanted


def test_main_task_shows_the_accuracies_of_its_result(executed, results):
    shown = tables(executed('main_task'))[f'Accuracy on {NAME}, 2 folds, 1 epochs, seed 0.']
    summary = stored('main_task', results)[0].summary
    assert [row[1] for row in shown] == [
        f'{100 * summary[f"accuracy_{part}"]:.4g}' for part in ('in', 'out', 'test')
    ]


@pytest.mark.first
def test_pretext_answers_with_the_losses_of_its_result(executed, results):
    run = executed('pretext')
    loss = stored('pretext', results)[0].tables['images']['loss']
    assert (
        f'mean loss {loss.mean():.3f}, median {np.median(loss):.3f} over 4,000 images'
        in printed(run)
    )
    by_class = tables(run)['Mean normalised rank of the pretext loss by class (1 = hardest).']
    ranks = [float(row[2]) for row in by_class]
    assert (
        len(ranks) == 10
        and ranks == sorted(ranks, reverse=True)
        and np.mean(ranks) == pytest.approx(0.5, abs=0.001)
    )


def test_correlation_answers_with_scipys_rho(executed, results):
    run = executed('correlation')
    pretext, main = (r.tables['images'] for r in stored('correlation', results))
    out, inside = (
        spearmanr(pretext['loss'], main[column]).statistic for column in ('loss_out', 'loss_in')
    )
    assert any(
        f'on {NAME} correlate at {out:.2f}\u00a0[' in text for text in outputs(run, 'text/html')
    )
    shown = tables(run)
    rows = shown[f'Rank correlation of rotation loss and main-task loss on {NAME}.']
    assert [row[1].split(' [')[0] for row in rows] == [f'{out:.2f}', f'{inside:.2f}']
    parts = {
        name: float(value)
        for name, value in shown[
            f'Rho on {NAME} between and within classes (10 classes, 4,000 images).'
        ]
    }
    assert parts['pooled rho'] == pytest.approx(out, rel=1e-3)
    assert parts['of which between classes'] + parts['of which within classes'] == pytest.approx(
        out, abs=2e-4
    )


def test_active_learning_answers_with_the_gap_of_its_arms(executed, results):
    answer = printed(executed('active_learning'))
    base, arm = (100 * r.tables['cycles']['accuracy'] for r in stored('active_learning', results))
    # 20, then 40, in batches of 32
    assert 'optimiser steps in cycles 1 to 2, for every strategy: [1, 2]' in answer
    for name, gap in (
        ('first cycle', arm[0] - base[0]),
        ('last cycle', arm[1] - base[1]),
        ('area under the curve', (arm - base).mean()),
    ):
        assert (
            f'pt4al minus random, {name}: {gap:.1f} (one run: no interval) points (1 seed): no verdict'
            in answer
        )


@pytest.mark.notebook
def test_papermill_ends_with_what_was_typed_wrong(converted, tmp_path):
    message = "unknown dataset 'cifar-mini': did you mean 'cifar10-mini'? "
    run = papermill(
        converted / 'pretext.ipynb',
        tmp_path / 'out.ipynb',
        {'dataset': 'cifar-mini'},
        PT4AL_RESULTS=str(tmp_path / 'none'),
    )
    *_, last = run.errors.strip().splitlines()
    (told,) = [
        output.evalue
        for cell in run.notebook.cells
        if cell.cell_type == 'code'
        for output in cell.outputs
        if output.output_type == 'error'
    ]
    # one line, and the last
    assert run.code == 1 and told.startswith(message) and last == f'Refused: {told}'
    assert not (tmp_path / 'none').exists()


# --- in this process, on 72 noise images ---


@pytest.mark.parametrize('name', NAMES)
def test_a_parameter_nobody_declared_is_refused(name, store_of_toys):
    for typed, meant in (('dataste', 'dataset'), ('widht', 'width')):
        with pytest.raises(Refused, match=f"unknown parameter '{typed}': did you mean '{meant}'"):
            execute(name, dataset='toy', **{typed: 4})
    assert not store_of_toys.exists()


@pytest.mark.parametrize('name', NAMES)
def test_where_nothing_may_be_computed_a_lack_is_an_error(name, store_of_toys, monkeypatch):
    monkeypatch.setenv('PT4AL_COMPUTE', 'never')
    with pytest.raises(Refused, match="no result .*'dataset': 'toy'.* run it first"):
        execute(name, dataset='toy')
    assert not store_of_toys.exists()


@pytest.mark.parametrize(
    'name, given, message',
    [
        (
            'active_learning',
            {'strategies': 'random,pt4a'},
            "unknown strategy 'pt4a': did you mean 'pt4al'",
        ),
        ('active_learning', {'strategies': 'random'}, "'random' lists 1 values: give at least 2"),
        ('active_learning', {'seeds': 0}, 'seeds is 0: give a whole number of at least 1'),
        (
            'correlation',
            {'main_epochs': 'many'},
            "parameter main_epochs is 'many': give a whole number",
        ),
        ('pretext', {'task': 'rotatoin'}, "unknown task 'rotatoin': did you mean 'rotation'"),
        ('main_task', {'folds': 1}, 'parameter folds is 1: an out-of-fold loss needs at least 2'),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_trained(
    name, given, message, store_of_toys
):
    with pytest.raises(Refused, match=message):
        execute(name, dataset='toy', **given)
    assert not store_of_toys.exists()


@pytest.mark.long
@pytest.mark.parametrize(
    'name, given',
    [
        ('pretext', {}),
        ('main_task', {'folds': 3}),
        ('correlation', {'seed': 1}),
        ('active_learning', {'cycles': 1, 'seeds': 2}),
    ],
)
def test_a_data_set_of_three_classes_runs_through_and_a_single_cycle_too(name, given, capsys):
    variables = execute(name, dataset='toy', **given)
    classes = variables['runs'][0][1].classes if name == 'correlation' else variables['classes']
    assert len(classes) == 3
    assert name == 'correlation' or 'toy' in capsys.readouterr().out
    if name == 'active_learning':
        assert list(variables['gaps']) == [('pt4al', 'first cycle'), ('pt4al', 'last cycle')]
        assert [gap.n for gap in variables['gaps'].values()] == [2, 2]
