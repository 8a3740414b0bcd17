"""Steps that are recorded and replayed do what launched ones do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pt4al.rng import initialising
from pt4al.training import graphs
from pt4al.training.cohort import Cohort
from pt4al.training.execution import Execution
from pt4al.training.fit import Schedule, classification_loss, fit
from pt4al.training.nets import Model, Pooled, resnet18

on_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason='records CUDA kernels: needs an NVIDIA GPU'
)


def trained(
    device: str, launched: bool, monkeypatch, epochs: int = 4
) -> tuple[Model, list[float], list[torch.Tensor]]:
    """A small network after epochs in which the rate falls; its losses by epoch and by step."""
    if launched:
        monkeypatch.setattr(graphs, 'FIRST', 10**9)
    with initialising(0, 'test'):
        model = Model(resnet18(4), Pooled(32, 3)).to(device, memory_format=torch.channels_last)
    rng = torch.Generator().manual_seed(0)
    images, labels = (
        torch.randn(70, 3, 8, 8, generator=rng).to(device),
        (torch.arange(70) % 3).to(device),
    )
    told = []

    def batches(epoch):
        # four of 16, one of 6
        for part in torch.arange(70, device=device).roll(epoch).split(16):
            yield (images[part],), labels[part]

    history = fit(
        model,
        batches,
        classification_loss,
        Schedule(epochs, 0.05, (2,)),
        Execution(device, 'fp32', 1),
        70,
        'test',
        on_step=lambda outputs, losses: told.append(losses.clone()),
    )
    return model, history.loss, told


def test_on_a_cpu_every_step_is_launched():
    made = []

    def step(inputs, targets):
        made.append(len(targets))
        return targets, targets

    recorded = graphs.Recorded(step)
    for _ in range(graphs.FIRST + 3):
        recorded((torch.zeros(2),), torch.zeros(2))
    assert made == [2] * (graphs.FIRST + 3)
    assert not recorded.graphs


def test_on_step_is_called_for_every_step(monkeypatch):
    _, loss, told = trained('cpu', False, monkeypatch, epochs=1)
    assert [len(losses) for losses in told] == [16, 16, 16, 16, 6]
    assert torch.cat(told).mean().item() == pytest.approx(loss[0], rel=1e-5)


@on_gpu
def test_replayed_steps_train_as_launched_ones_do(monkeypatch):
    model, loss, told = trained('cuda', False, monkeypatch)
    other, expected, heard = trained('cuda', True, monkeypatch)
    assert loss == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(torch.cat(told), torch.cat(heard), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(model.state_dict(), other.state_dict(), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize('device', ['cpu', pytest.param('cuda', marks=on_gpu)])
def test_networks_side_by_side_train_as_one_alone(device, monkeypatch):
    threads = torch.get_num_threads()
    expected, loss, told = trained(device, False, monkeypatch)
    cohort = Cohort(device)

    def member() -> tuple[Model, list[float], list[torch.Tensor]]:
        torch.set_num_threads(threads)
        return trained(device, False, monkeypatch)

    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(cohort.run, member) for _ in range(3)]
    loose = {'rtol': 1e-2, 'atol': 1e-3} if device == 'cuda' else {'rtol': 0, 'atol': 0}
    for model, losses, heard in (future.result() for future in futures):
        torch.testing.assert_close(model.state_dict(), expected.state_dict(), **loose)
        torch.testing.assert_close(torch.cat(heard), torch.cat(told), **loose)
        assert losses == pytest.approx(loss, rel=1e-4 if device == 'cuda' else 0)


@on_gpu
def test_each_thread_has_a_stream_which_it_keeps():
    def streams() -> list[int]:
        noted = []
        for _ in range(2):
            with graphs.stream('cuda'):
                noted.append(torch.cuda.current_stream().cuda_stream)
                with graphs.stream('cuda'):
                    noted.append(torch.cuda.current_stream().cuda_stream)
        return noted

    with ThreadPoolExecutor(1) as pool:
        here, there = set(streams()), set(pool.submit(streams).result())
    assert len(here) == len(there) == 1 and not here & there


@on_gpu
def test_both_shapes_of_batch_are_recorded():
    weight = nn.Parameter(torch.ones((), device='cuda'))

    def step(inputs, targets):
        loss = (inputs[0] * weight - targets).square()
        return loss.detach(), loss.detach()

    recorded = graphs.Recorded(step)
    with graphs.stream('cuda'):
        for turn in range(graphs.FIRST + 2):
            for n in (4, 2):
                x = torch.full((n,), float(turn), device='cuda')
                assert recorded((x,), x + 3)[0].tolist() == [9.0] * n
    assert len(recorded.graphs) == 2


@on_gpu
def test_a_step_that_waits_for_the_device_is_launched():
    def step(inputs, targets):
        return inputs[0] * float(targets.sum().item()), targets

    recorded, x = graphs.Recorded(step), torch.ones(3, device='cuda')
    with graphs.stream('cuda'):
        for turn in range(graphs.FIRST + 3):
            assert recorded((x,), x * turn)[0].tolist() == [3.0 * turn] * 3
    assert not recorded.graphs


@on_gpu
def test_a_new_rate_is_seen():
    """A recorded step reads the rate of the present epoch, not of the one it was recorded in."""

    def at(rate):
        torch.manual_seed(0)
        model = Model(nn.Sequential(nn.Conv2d(3, 4, 1)), Pooled(4, 2)).cuda()
        x, y = (
            torch.ones(8, 3, 4, 4, device='cuda'),
            torch.zeros(8, dtype=torch.int64, device='cuda'),
        )
        history = fit(
            model,
            lambda epoch: (((x,), y) for _ in range(8)),
            lambda o, t: F.cross_entropy(o, t, reduction='none'),
            Schedule(2, rate, (1,)),
            Execution('cuda', 'fp32', 1),
            64,
            'test',
        )
        return history.lr, sum(w.abs().sum().item() for w in model.parameters())

    assert at(0.1)[0] == pytest.approx([0.1, 0.01])
    assert at(0.1)[1] != at(0.01)[1]
