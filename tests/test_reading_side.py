"""Reading results, statistics, figures and claims never import torch: it takes seconds, and a
reader does not train.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import put_arm, put_losses

ROOT = Path(__file__).resolve().parents[1]

# Each step is checked by itself, so that a failure names it.
READ = """
import os
import sys

def step(name):
    assert not {'torch', 'torchvision'} & set(sys.modules), f'{name} imports torch'

import pt4al
assert set(pt4al.__all__) <= set(dir(pt4al))
step('pt4al')
for strategy in ('pt4al', 'random'):
    spec = pt4al.spec('active', dataset='cifar10-mini', strategy=strategy, task='rotation')
pretext = pt4al.spec('pretext', dataset='cifar10-mini', task='rotation')
main = pt4al.spec('main', dataset='cifar10-mini')
step('spec')
results = [pt4al.get(pretext, 'never'), pt4al.get(main, 'never'), *pt4al.runs('active', dataset='cifar10-mini'),
           *pt4al.find('active')]
assert len(results) == 8
step('reading results')
from pt4al import cli, claims, data, figures, query, report, rng, stats
from pt4al.experiments import exchange
from pt4al.studies import study
step('the reading modules')
loss, out = results[0].tables['images']['loss'], results[1].tables['images']['loss_out']
rho = stats.rank_correlation(loss, out, 50)
stats.holm([.01, .2])
report.glue('rho', report.fmt_interval(rho))
label, classes = results[1].tables['images']['label'], results[1].classes
figure = figures.loss_rank_scatter(out, loss, label, classes, range(len(out)), 'A')
for book in '01':                                            # as in a notebook, and as in the book
    os.environ['PT4AL_BOOK'] = book
    report.show(figure, 'caption', 'scatter')
report.provenance(results)
step('statistics and figures')
mini = 'cifar10-mini'
assert 'not tested' != claims.overview((mini,))[0].cells[mini].verdict
step('claims')
assert study.missing([pretext, main]) == [] and exchange.difference(results[0], results[0]) == ''
study.passes(pretext), data.arrays('cifar10-mini'), rng.stream(0, 'x').random(), sorted(query.QUERIES)
step('study and images')
"""


def test_a_reader_does_not_wait_for_torch(tmp_path, monkeypatch):
    monkeypatch.setenv('PT4AL_RESULTS', str(tmp_path))
    for kind in ('pretext', 'main'):
        put_losses(kind, dataset='cifar10-mini')
    for strategy in ('pt4al', 'random'):
        for seed in (0, 1):
            put_arm(strategy, seed, [0.3, 0.4 + 0.01 * seed], dataset='cifar10-mini')
    done = subprocess.run(
        [sys.executable, '-c', READ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        # as a page of the book, whose own code is on its path
        env=os.environ | {'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT / 'book' / '_code')},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_the_check_sees_torch_where_it_is_imported():
    code = (
        READ.split('import pt4al\n')[0] + "import pt4al.training.nets\nstep('pt4al.training.nets')"
    )
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert (
        done.returncode == 1 and 'AssertionError: pt4al.training.nets imports torch' in done.stderr
    )
