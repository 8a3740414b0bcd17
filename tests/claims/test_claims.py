"""The claims: rules at their boundaries, numbers of a synthetic store against scipy, no number
without a run.
"""

from __future__ import annotations

import re
from pathlib import Path

import arms
import numpy as np
import pytest
from helpers import put_arm, put_losses

from pt4al import claims
from pt4al.errors import Refused
from pt4al.experiments import specs

pytestmark = pytest.mark.usefixtures('root')

ROOT = Path(__file__).resolve().parents[2]


# --- runs by setting ---


def test_shorter_training_serves_where_there_is_no_other():
    short = arms.SETTINGS['cifar10'].ways[-1]
    for strategy, first in (('pt4al', 0.3), ('random', 0.4)):
        put_arm(strategy, 0, [first, 0.5], **short)
        assert arms.arm('cifar10', strategy, complete=True)[0].spec.epochs == short['epochs']


def test_the_short_last_batch_is_told_by_runs_paired_by_seed():
    assert arms.short_last_batch() == ([], None)
    for seed, (small, none) in enumerate([(0.3, 0.4), (0.32, 0.38)]):
        for budget, accuracy in ((776, small), (768, none)):
            put_arm(
                'random',
                seed,
                [accuracy],
                dataset='cifar10-mini',
                budget=budget,
                until=1,
                batch=128,
                epochs=60,
                milestones=(48,),
            )
    found, e = arms.short_last_batch()
    assert len(found) == 4 and e.value == pytest.approx(-8, abs=1e-4) and e.n == 2


@pytest.mark.parametrize('name', arms.SETTINGS)
def test_settings_are_specs_that_can_be_built(name):
    at = arms.setting(name)
    for way in at.ways:
        made = specs.spec('active', dataset=at.dataset, **at.every, **way)
        assert made.cycles == 10 and not made.until and made.milestones[0] < made.epochs


def test_accuracy_is_the_mean_over_classes_of_what_is_recognised():
    put_arm('pt4al', 0, [0.5, 0.6])
    run = arms.arm('cifar10', 'pt4al')[0]
    run.tables['classes']['accuracy'] = np.repeat([0.2, 0.4], 10) + np.tile(
        np.linspace(-0.1, 0.1, 10), 2
    )
    assert arms.balanced(run)[0] == pytest.approx(20)
    assert arms.area(run) == pytest.approx(30)
    np.testing.assert_allclose(claims.recall(run)[0], 20 + np.linspace(-10, 10, 10))


# --- what others published ---


def code_of_pages() -> dict[str, str]:
    """The code cells of notebooks and chapters: prose may cite a number, code may not know it."""
    notebooks = {
        path: '\n'.join(line for line in path.read_text().splitlines() if not line.startswith('#'))
        for path in (ROOT / 'notebooks').glob('*.py')
    }
    chapters = {
        path: '\n'.join(re.findall(r'```{code-cell}.*?```', path.read_text(), re.S))
        for path in (ROOT / 'book').glob('*.md')
    }
    return {path.name: code for path, code in (notebooks | chapters).items() if code}


@pytest.mark.parametrize('value', ['0.79', '0.44', '.79', '93.1'])
def test_no_page_has_a_published_number_in_its_code(value):
    pages = code_of_pages()
    assert {'correlation.py', 'correlation.md', 'index.md'} <= pages.keys()
    assert [
        name
        for name, code in pages.items()
        if re.search(rf'(?<![\d.]){re.escape(value)}(?!\d)', code)
    ] == []


def test_no_line_of_a_chapter_is_lost_as_a_comment():
    for path in sorted((ROOT / 'book').rglob('*.md')):
        prose = re.sub(r'```.*?```', '', path.read_text(), flags=re.S)
        assert not re.findall(r'^%.*', prose, flags=re.M), (
            f'{path.name}: MyST leaves out a line that begins with %'
        )


def test_what_was_published_is_quoted_as_printed():
    assert claims.published('1', 'cifar10') == ('0.79', '0.44')
    assert claims.published('1', 'imbalanced-cifar10') == ('–', '0.42')
    assert claims.published('1', 'caltech101') == ('0.78', '0.17')
    assert claims.published('1 colorization', 'caltech101') == ('–', '-0.00')


def test_a_damaged_result_is_refused_and_not_left_out(root):
    put_losses('main')
    next(root.glob('main-*/images.parquet')).write_bytes(b'cut short')
    with pytest.raises(Refused, match='damaged'):
        claims.overview()


def test_the_command_prints_every_claim_with_its_verdict(command):
    put_losses('pretext')
    put_losses('main')
    code, out, _ = command('claims', 'cifar10')
    assert code == 0 and out.count('the paper') >= len(claims.ROWS)
    assert 'does not cover other runs of that side' in out and 'not tested' in out
    code, out, _ = command('claims', 'caltech101')
    assert code == 0 and out.count(': not tested') == len(claims.ROWS)


def test_every_page_that_a_cell_names_exists():
    pages = {'correlation', 'reconciliation', 'selection', 'classification'}
    assert all((ROOT / 'book' / f'{page}.md').exists() for page in pages)
