"""The kernels of batch norm: interpreted on a CPU where TRITON_INTERPRET=1 before Triton is there,
else on a GPU, where nobody has run this yet. test_fused.py runs this file in a process of its own.
"""

from __future__ import annotations

import copy
import time
from contextlib import AbstractContextManager
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import fused, steps, training
from benchmarks.turns import Turns
from pt4al.rng import device_stream, initialising
from pt4al.training import graphs, nets
from pt4al.training.execution import Execution, float32

torch.set_num_threads(1)
LAST = torch.channels_last
DEVICE = 'cpu' if fused.triton.knobs.runtime.interpret else 'cuda'
CHOSEN = Execution(DEVICE, 'fp32', 1)
# one in the last place of bf16, relative: the interpreter cuts digits off, a chip rounds to the
# nearest
ULP = {torch.float32: 2e-6, torch.bfloat16: 2**-7}
# n, c, h, w and numbers in a tile: of a few rows, several to a program, and more than 64 channels
SHAPES = {'many': ((5, 12, 4, 3), 128), 'steps': ((3, 4, 5, 5), 16), 'wide': ((2, 72, 3, 3), 256)}


@pytest.fixture(autouse=True)
def exact_products():
    with float32():
        yield


def plain(
    norm: nn.BatchNorm2d, x: Tensor, r: Tensor | None = None, norm_r: nn.BatchNorm2d | None = None
) -> Tensor:
    y = norm(x)
    if r is not None:
        y = y + (r if norm_r is None else norm_r(r))
    return F.relu(y)


def layers(mode: str, c: int) -> list[nn.BatchNorm2d]:
    with initialising(0, 'fused'):
        norms = [nn.BatchNorm2d(c) for _ in range(1 + (mode == 'normed'))]
        for norm in norms:
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
    return [norm.to(DEVICE) for norm in norms]


def computed(function, norms, maps, g) -> dict[str, Tensor]:
    """Output, gradients, and buffers after it, by name."""
    inputs = [x.detach().clone(memory_format=torch.preserve_format).requires_grad_() for x in maps]
    y = function(norms[0], *inputs, *norms[1:])
    y.backward(g.to(y.dtype))
    results = {'y': y.detach(), **{f'd{i}': x.grad for i, x in enumerate(inputs)}}
    for i, norm in enumerate(norms):
        results |= {f'd{name}{i}': p.grad for name, p in norm.named_parameters()}
        results |= {f'{name}{i}': b.clone() for name, b in norm.named_buffers()}
    return results


def drawn(shape: tuple[int, ...], dtype: torch.dtype, count: int) -> list[Tensor]:
    rng = device_stream(0, 'fused')
    draws = [torch.randn(shape, generator=rng) * (1 + k) + 3 * k for k in range(count)]
    return [x.to(DEVICE, dtype).contiguous(memory_format=LAST) for x in draws]


@pytest.mark.parametrize('dtype', ULP)
@pytest.mark.parametrize('mode', ['relu', 'added', 'normed'])
@pytest.mark.parametrize('case', SHAPES)
def test_output_gradients_and_buffers_are_those_of_float64(case, mode, dtype, monkeypatch):
    shape, tile = SHAPES[case]
    monkeypatch.setattr(fused, 'TILE', tile)
    monkeypatch.setattr(fused, 'PROGRAMS', 8)
    g, *maps = drawn(shape, dtype, 2 + (mode != 'relu'))
    norms = layers(mode, shape[1])
    exact = computed(
        plain, [copy.deepcopy(one).double() for one in norms], [x.double() for x in maps], g
    )
    ours = computed(fused.relu, norms, maps, g)
    assert ours.keys() == exact.keys() and {v.dtype for v in ours.values()} <= {
        dtype,
        torch.float32,
        torch.int64,
    }
    for name, value in ours.items():
        near = ULP[dtype] if value.dtype == dtype else 1e-5
        gap = (value.double() - exact[name]).abs()
        bound = near * exact[name].abs() + 1e-6 * (1 + exact[name].abs().max())
        if name in ('d0', 'd1') and dtype == torch.bfloat16:
            bound = bound + near * exact[name].abs().max() / 16
        assert (gap <= bound).all(), (name, gap.max())
    assert ours['y'].is_contiguous(memory_format=LAST) and ours['d0'].stride() == maps[0].stride()


@pytest.mark.parametrize('tile', [16, 4096])
def test_a_mean_far_above_the_spread_costs_no_digits(tile, monkeypatch):
    """1,000 of deviation 0.01, of which float32 keeps some seven bits; and a first row far from all
    others.
    """
    monkeypatch.setattr(fused, 'TILE', tile)
    monkeypatch.setattr(fused, 'PROGRAMS', 4)
    x = (drawn((6, 4, 6, 6), torch.float32, 1)[0] * 0.01 + 1000).contiguous(memory_format=LAST)
    for first in (1000.0, -1000.0):
        x[0, :, 0, 0] = first
        norm = nn.BatchNorm2d(4, momentum=1.0, device=DEVICE)
        fused.relu(norm, x)
        exact = x.double().transpose(0, 1).flatten(1)
        assert torch.allclose(norm.running_mean.double(), exact.mean(1), rtol=1e-7)
        assert torch.allclose(norm.running_var.double(), exact.var(1), rtol=1e-3)


def test_two_passes_give_equal_bits_and_no_number_stays_one():
    g, x = drawn((6, 12, 7, 3), torch.bfloat16, 2)
    one, other = (computed(fused.relu, layers('relu', 12), [x], g) for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    x[0, 0, 0, 0] = torch.nan
    y = fused.relu(nn.BatchNorm2d(12, device=DEVICE), x)
    assert y[:, 0].isnan().all() and not y[:, 1:].isnan().any()


@pytest.mark.parametrize('why', ['evaluation', 'layout', 'type', 'no momentum', 'layout of r'])
def test_what_the_kernels_do_not_do_torch_does(why, monkeypatch):
    monkeypatch.setattr(fused._Norm, 'apply', lambda *_: pytest.fail('by the kernels'))
    x, r = drawn((4, 6, 5, 5), torch.float32, 2)
    norm = nn.BatchNorm2d(6, momentum=None if why == 'no momentum' else 0.1).to(DEVICE)
    if why == 'evaluation':
        norm.eval()
    if why == 'layout':
        x = x.contiguous()
    if why == 'layout of r':
        r = r.contiguous()
    if why == 'type':
        x, r, norm = x.double(), r.double(), norm.double()
    other = copy.deepcopy(norm)
    assert torch.equal(fused.relu(norm, x, r), plain(other, x, r))
    assert all(torch.equal(a, b) for a, b in zip(norm.buffers(), other.buffers()))


def test_one_number_a_channel_is_an_error_as_in_torch():
    with pytest.raises(ValueError, match='more than 1 value per channel'):
        fused.relu(nn.BatchNorm2d(4), torch.zeros(1, 4, 1, 1))


# --- the network ---


def network() -> nets.Model:
    with initialising(0, 'fused'):
        return nets.Model(nets.resnet18(8), nets.Pooled(64, 3)).to(DEVICE, memory_format=LAST)


def trained(model: nn.Module) -> list[float]:
    rng = device_stream(0, 'batch')
    optimiser, losses = torch.optim.SGD(model.parameters(), 0.05, 0.9), []
    for _ in range(3):
        images = torch.randn(4, 3, 16, 16, generator=rng).to(DEVICE, memory_format=LAST)
        optimiser.zero_grad()
        loss = F.cross_entropy(model((images,)), torch.tensor([0, 1, 2, 0], device=DEVICE))
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def test_three_steps_of_a_network_are_those_of_torch(monkeypatch):
    calls, apply = [], fused._Norm.apply
    monkeypatch.setattr(fused._Norm, 'apply', lambda *inputs: calls.append(1) or apply(*inputs))
    model, other = network(), network()
    names = [*model.state_dict()]
    weights = [*model.parameters()]
    assert fused.fuse(model) is model and [*model.state_dict()] == names
    assert all(a is b for a, b in zip(weights, model.parameters(), strict=True))
    near = 1e-5 if DEVICE == 'cpu' else 1e-3  # a GPU adds up in another order every time
    assert trained(model) == pytest.approx(trained(other), abs=near)
    assert len(calls) == 3 * 17  # the stem and two a block: all 20 norms, three by their shortcuts
    for (name, one), two in zip(model.state_dict().items(), other.state_dict().values()):
        assert torch.allclose(one, two, rtol=10 * near, atol=near), name
    twin = copy.deepcopy(model).eval()
    other.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 16, 16, generator=device_stream(0, 'x')).to(DEVICE)
    with torch.no_grad():
        assert torch.allclose(twin((images,)), other.eval()((images,)), atol=near)


@pytest.mark.skipif(DEVICE == 'cpu', reason='nothing is recorded on a CPU')
def test_a_recorded_step_trains_as_one_that_is_launched(store_of_toys, monkeypatch):
    monkeypatch.setattr(training, 'DATASET', 'toy')
    work, losses = training.Work('classification', 16, 64), []
    with graphs.stream(DEVICE):
        for recorded in (True, False):
            _, step, batch = steps.made(fused.fuse, work, CHOSEN)
            take = step if recorded else step.step
            losses.append([take(*batch)[1].mean().item() for _ in range(8)])
            assert bool(step.graphs) == recorded
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)


def test_decoders_are_fused_too():
    head = fused.fuse(nets.Dense(8, 3, 2))
    kinds = [type(layer).__name__ for layer in head.net]
    assert kinds == [*['Upsample', 'Conv2d', 'NormRelu', 'Identity'] * 2, 'Conv2d']


# --- the benchmark, where nothing is recorded ---


class Profile(AbstractContextManager):
    """In which each kind of kernel took half a second, and others longer."""

    def __init__(self, **_):
        pass

    def __exit__(self, *_):
        pass

    def key_averages(self):
        spent = {'norm_apply': 0.5e6, 'norm_sums': 0.5e6, 'convolution': 7e6}
        return [SimpleNamespace(key=key, self_device_time_total=n) for key, n in spent.items()]


def test_every_way_that_works_has_a_row(store_of_toys, monkeypatch):
    monkeypatch.setattr(training, 'DATASET', 'toy')

    def turns(runs, rounds, label):
        runs['eager']()
        return {name: Turns([2.0], [2.0]) for name in runs}

    monkeypatch.setattr(steps, 'interleaved', turns)

    def fails(model):
        raise RuntimeError('no compiler\nat all')

    monkeypatch.setitem(steps.WAYS, 'compiled', fails)
    work = training.Work('classification', 4, 2)
    rows, missing = steps.compare(work, CHOSEN, 1, 1, time.monotonic() + 60)
    assert {row['images_per_second'] for row in rows} == {1}
    assert [(row['run'], row['width'], row['batch']) for row in rows] == [
        (name, 4, 2) for name in ('fused', 'plain', 'eager')
    ]
    assert missing == {'compiled, width 4, batch 2': 'no compiler'}
    monkeypatch.delitem(steps.WAYS, 'fused')
    late = steps.compare(work, CHOSEN, 1, 1, 0)[1]
    assert 'compiles nothing after' in late['compiled, width 4, batch 2']


def test_bytes_are_those_of_all_passes(store_of_toys, monkeypatch):
    monkeypatch.setattr(training, 'DATASET', 'toy')
    monkeypatch.setattr(steps, 'profile', Profile)
    work = training.Work('classification', 2, 2)
    # stem and two blocks; then three times two blocks, of which one norms its shortcut, on maps of
    # half the size
    first = 4 * 2 * 2 * work.part('cpu').pixels[0, 0].numel()
    moved = first * (8 + 2 * 20) + (first // 2 + first // 4 + first // 8) * (20 + 21)
    assert steps.moved(work, CHOSEN) == pytest.approx(
        {'norm_milliseconds': 1000, 'norm_terabytes_per_second': moved / 1e12}
    )
    monkeypatch.setattr(Profile, 'key_averages', lambda _: [])
    monkeypatch.setitem(steps.WAYS, 'fused', steps.WAYS['plain'])
    assert steps.moved(work, CHOSEN) == {}
