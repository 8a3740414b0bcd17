"""A recorded step of training by kernels of this project, as torch runs it, and compiled by torch;
beside them a plain loop that launches every kernel.

Written without a GPU: on a CPU alone its parts have run, so no figure of it is known.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import profile

from benchmarks import reference
from benchmarks.chip import flops, product
from benchmarks.training import DATASET, RATE, Work
from benchmarks.turns import compared, interleaved
from pt4al.data import views
from pt4al.errors import Refused
from pt4al.progress import log
from pt4al.training import graphs
from pt4al.training.execution import Execution, execution
from pt4al.training.fit import Schedule, _step, classification_loss

LATE = 30  # seconds after which torch compiles no network, so that all ends within a minute, about
IMAGES = 10_240  # of a turn
# passes of the kernels over a map of a norm, forward and backward: 1 + 2 + 2 + 3 with ReLU alone, 1
# + 3 + 3 + 5 with a map added, and one more for the statistics of that
ALONE, ADDED = 8, 12
WAYS: dict[str, Callable[[nn.Module], Any]] = {
    'fused': lambda model: import_module('benchmarks.fused').fuse(model),  # needs Triton
    'plain': lambda model: model,
    'compiled': torch.compile,
}


def fused(
    rounds: int = 3, widths: Sequence[int] = (64, 16), batches: Sequence[int] = (128, 1024)
) -> dict[str, Any]:
    """Images a second of a step on a batch that stays on the GPU, their share of the rate of matrix
    products, and what the kernels of the norms move a second. `ratio` is to the plain step.
    """
    chosen, end = execution(), time.monotonic() + LATE
    if not chosen.device.startswith('cuda'):
        raise Refused(f'fused compares kernels on an NVIDIA GPU; the device is {chosen.device}')
    multiply, operations = product(chosen, 8192)
    peak = operations / interleaved({'product': multiply}, rounds)['product'].seconds()
    rows, left_out = [], {}
    for work in (Work('classification', width, n) for n in batches for width in widths):
        with chosen.products(), graphs.stream(chosen.device):
            measured, missing = compare(work, chosen, rounds, IMAGES // work.images, end)
        share = flops(Work(work.kind, work.width, 2)) / peak
        rows += [row | {'share_of_product': row['images_per_second'] * share} for row in measured]
        left_out |= missing
    for row in rows:
        if row['run'] == 'fused':  # last: a profiler may slow what comes after it
            work = Work('classification', row['width'], row['batch'])
            row |= (figures := moved(work, chosen))
            if not figures:
                left_out[_label(work)] = 'the profiler shows no kernel of norms: fused may be plain'
    return {
        'what': f'images per second of steps of a classifier at {chosen.precision}',
        'dataset': DATASET,
        'rounds': rounds,
        'product_tflop_per_second': peak / 1e12,
        'rows': rows,
        'left_out': left_out,
    }


def _label(work: Work) -> str:
    return f'width {work.width}, batch {work.images}'


def made(change: Callable[[nn.Module], Any], work: Work, chosen: Execution) -> tuple[Any, ...]:
    """A network that `change` has changed, the step that trains it, and its only batch."""
    part, model = work.part(chosen.device), work.network(chosen.device, torch.channels_last)
    model, total = change(model), torch.zeros((), device=chosen.device)
    step = _step(model, classification_loss, Schedule(1, RATE).start(model), chosen, total)
    return model, step, ((views.normalise(part.pixels),), part.labels)


def compare(
    work: Work, chosen: Execution, rounds: int, steps: int, end: float
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """A row for every way that works, of turns of `steps` steps on all images of the work at once,
    and for the plain loop, `eager`; why other ways do not work.

    end: of `time.monotonic`, when torch compiles no more
    """
    label, runs, missing = _label(work), {}, {}
    recorded = {'eager': False}
    for way, change in WAYS.items():
        try:
            if way == 'compiled' and time.monotonic() > end:
                raise Refused(f'torch compiles nothing after {LATE} seconds')
            _, step, batch = made(change, work, chosen)
            run = lambda step=step, batch=batch: [step(*batch) for _ in range(steps)]
            run()  # kernels are compiled and the step is recorded
            runs[way], recorded[way] = run, bool(step.graphs)
        # torch, Triton and a C compiler fail in ways of their own; the other ways go on
        except Exception as error:
            reason = missing[f'{way}, {label}'] = str(error).strip().partition('\n')[0] or repr(
                error
            )
            log.info('fused: %s, %s left out: %s', way, label, reason)
    model, _, (inputs, labels) = made(WAYS['plain'], work, chosen)
    optimiser = reference.optimiser(model, RATE)

    def eager() -> None:
        with chosen.autocast():
            reference.classify(model, [(*inputs, labels)] * steps, optimiser, chosen.device)

    turns = interleaved(runs | {'eager': eager}, rounds, f'fused, {label}')
    rows = compared(turns, steps * work.images, 'plain' if 'plain' in runs else 'eager')
    head = {'width': work.width, 'batch': work.images}
    return [head | row | {'recorded': recorded[row['run']]} for row in rows], missing


def moved(work: Work, chosen: Execution) -> dict[str, float]:
    """Milliseconds of the norms' kernels in a step that is launched, and the terabytes a second
    that they have to move in that time; nothing if none ran, as when maps have another layout.
    """
    kernels, sizes = import_module('benchmarks.fused'), []
    model, step, batch = made(WAYS['fused'], work, chosen)
    step.step(*batch)

    def note(layer: nn.Module, _: object, y: Tensor) -> None:
        joined = isinstance(layer, kernels.Block)
        more = ADDED + isinstance(layer.shortcut, nn.Sequential) if joined else 0
        sizes.append(y.nbytes * (ALONE + more))

    for layer in model.modules():
        if isinstance(layer, (kernels.Block, kernels.NormRelu)):
            layer.register_forward_hook(note)
    with profile(acc_events=True) as done:
        step.step(*batch)
    spent = (e.self_device_time_total for e in done.key_averages() if e.key.startswith('norm_'))
    if not (seconds := sum(spent) / 1e6):
        return {}
    rate = sum(sizes) / seconds
    return {'norm_milliseconds': seconds * 1e3, 'norm_terabytes_per_second': rate / 1e12}
