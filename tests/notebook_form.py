"""Notebooks taken apart: their cells, their form, and their run in this process."""

from __future__ import annotations

import ast
import re
from functools import cache

import jupytext
import nbformat
from helpers import ROOT

NAMES = ('active_learning', 'correlation', 'main_task', 'pretext')


@cache
def source(name: str) -> nbformat.NotebookNode:
    return jupytext.read(ROOT / 'notebooks' / f'{name}.py')


def code(name: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in source(name).cells if cell.cell_type == 'code']


def parameters(name: str) -> dict[str, object]:
    """The parameters cell as names and values, after it was checked to hold nothing else."""
    lines = ast.parse(code(name)[0].source).body
    return {line.targets[0].id: ast.literal_eval(line.value) for line in lines}


def execute(name: str, **given: object) -> dict[str, object]:
    """Run the code cells of a notebook, with parameters put in after the first as papermill does."""
    variables: dict[str, object] = {'__name__': '__main__'}
    for number, cell in enumerate(code(name)):
        exec(compile(cell.source, f'{name}, code cell {number}', 'exec'), variables)
        if number == 0:
            variables |= given
    return variables


def a_title_and_a_heading_over_every_step(name: str) -> None:
    cells = source(name).cells
    # a title, then prose
    assert cells[0].cell_type == 'markdown' and re.match(r'# \S.*\n\n?\S', cells[0].source)
    kinds = ''.join(cell.cell_type[0] for cell in cells)
    # parameters and set-up under the title; one or two a step
    assert re.fullmatch(r'mcc(mcc?)+', kinds), kinds
    assert all(
        re.match(r'## \S', cell.source) for cell in cells[1:] if cell.cell_type == 'markdown'
    )
    headings = [cell.source.splitlines()[0] for cell in cells if cell.cell_type == 'markdown']
    assert len(set(headings)) == len(headings) and headings[-2:] == ['## Answer', '## Provenance']


def parameters_come_first_and_all_are_checked(name: str) -> None:
    first, second, *rest = code(name)
    assert first.metadata.get('tags') == ['parameters']
    assert not any(cell.metadata.get('tags') for cell in (second, *rest))
    assert parameters(name)['dataset'] == 'cifar10-mini' and {'width'} < parameters(name).keys()
    call = re.search(r'report\.check_parameters\(.*?\)\s*$', second.source, re.S | re.M).group()
    check = ast.parse(call, mode='eval').body
    assert isinstance(check, ast.Call)
    checked = [arg.value for arg in check.args[1:] if isinstance(arg, ast.Constant)]
    checked += [word.arg for word in check.keywords]
    assert sorted(checked) == sorted(parameters(name))
    before = second.source[: second.source.index('report.check_parameters')]
    # nothing is done before
    assert all(re.match(r'import |from |$', line) for line in before.splitlines())


def the_last_cell_is_the_provenance(name: str) -> None:
    last = source(name).cells[-1]
    assert last.cell_type == 'code' and re.fullmatch(r'report\.provenance\(.*\)', last.source, re.S)


FORM = (
    a_title_and_a_heading_over_every_step,
    parameters_come_first_and_all_are_checked,
    the_last_cell_is_the_provenance,
)
