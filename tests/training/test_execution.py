"""Precision: what products are rounded to inside of training and scoring, and that it is as before
afterwards.
"""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn

from pt4al.errors import Refused
from pt4al.rng import device_stream
from pt4al.tasks import TASKS
from pt4al.tasks import task as score
from pt4al.training import fit
from pt4al.training.execution import Execution, cores, execution, float32
from pt4al.training.fit import Schedule, classification_loss, predict
from pt4al.training.nets import Model, Pooled

pytestmark = pytest.mark.usefixtures('store_of_toys')

torch.set_num_threads(1)
PIXELS = torch.randint(256, (8, 3, 8, 8), generator=device_stream(0, 'x')).byte()


def products() -> tuple[str, str]:
    return torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision


@pytest.fixture(autouse=True)
def as_before():
    before = products()
    yield
    assert products() == before


class Noting(nn.Module):
    """A trunk that notes what products are, forward and backward."""

    def __init__(self):
        super().__init__()
        self.scale, self.seen = nn.Parameter(torch.ones(())), []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(products())
        out = x * self.scale
        if out.requires_grad:
            out.register_hook(lambda gradient: self.seen.append(products()))
        return out


@pytest.mark.parametrize(
    'precision, inside', [('fp32', 'ieee'), ('bf16', 'ieee'), ('tf32', 'tf32')]
)
def test_training_multiplies_as_its_precision_says_forward_and_backward(precision, inside):
    trunk = Noting()
    with float32('tf32' if inside == 'ieee' else 'ieee'):  # whatever was set before
        fit.fit(
            Model(trunk, Pooled(3, 2)),
            lambda epoch: [((PIXELS.float(),), torch.arange(8) % 2)],
            classification_loss,
            Schedule(1, 0.1),
            Execution('cpu', precision, 1),
            8,
            'toy',
        )
    assert trunk.seen == [(inside, inside)] * 2


def test_predictions_and_scores_are_exact_float32_whatever_training_was():
    task = TASKS['rotation']()
    model = Model(Noting(), task.head(3))
    with float32('tf32'):
        predict(model, PIXELS)
        score.pretext_losses(model, task, PIXELS, lambda r: device_stream(r, 'x'))
        assert products() == ('tf32', 'tf32')
    assert model.trunk.seen == [('ieee', 'ieee')] * 2


def test_what_was_set_comes_back_after_a_failure_too():
    with pytest.raises(ZeroDivisionError), float32('tf32'):
        raise ZeroDivisionError


def test_tf32_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setenv('PT4AL_PRECISION', 'tf32')
    with pytest.raises(
        Refused, match='PT4AL_PRECISION is tf32, which cpu does not have: give bf16 or fp32'
    ):
        execution()


def test_threads_are_those_that_the_process_may_use_and_eight_at_most(monkeypatch):
    assert (
        cores() == len(os.sched_getaffinity(0))
        if hasattr(os, 'sched_getaffinity')
        else os.cpu_count()
    )
    monkeypatch.delenv('PT4AL_THREADS')
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    for allowed, threads in ((3, 3), (64, 8)):
        monkeypatch.setattr('pt4al.training.execution.cores', lambda allowed=allowed: allowed)
        monkeypatch.setattr(torch, 'set_num_threads', lambda n: None)
        assert execution().threads == threads


def test_omp_num_threads_is_respected_where_ours_is_not_set(monkeypatch):
    monkeypatch.setattr(torch, 'set_num_threads', lambda n: None)
    monkeypatch.setenv('OMP_NUM_THREADS', '3,1')
    assert execution().threads == int(os.environ['PT4AL_THREADS'])
    monkeypatch.delenv('PT4AL_THREADS')
    assert execution().threads == 3
    monkeypatch.setenv('OMP_NUM_THREADS', 'many')
    with pytest.raises(Refused, match="OMP_NUM_THREADS is 'many'"):
        execution()
