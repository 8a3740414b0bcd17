"""How much of the machine's arithmetic training uses, and what the study of CIFAR-10 would take at
that speed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.training import DATASET, Work, ours
from benchmarks.turns import interleaved
from pt4al.data import views
from pt4al.progress import log
from pt4al.rng import device_stream
from pt4al.tasks import TASKS
from pt4al.training.cohort import Cohort, yield_turn
from pt4al.training.execution import Execution, execution

# Images that the reproduction's study trains on: two pretext tasks for 128 epochs; three strategies
# of three seeds, each
# through ten cycles of 1,000 more labels and 100 epochs.
STUDY = {
    'rotation': 50_000 * 128,
    'colorization': 50_000 * 128,
    'classification': 9 * 100 * sum(range(1000, 10_001, 1000)),
}


def flops(work: Work, backward: bool = True) -> float:
    """Floating-point operations to train on one image, or to score it: convolutions and matrix
    products, 2 a MAC.
    """
    model, part = work.network('cpu', torch.channels_last), work.part('cpu')
    index = torch.arange(work.images)
    inputs = (
        (views.normalise(part.pixels),)
        if work.kind == 'classification'
        else TASKS[work.kind]().make_batch(part.pixels, index, torch.Generator())[0]
    )
    with FlopCounterMode(display=False) as counter:
        told = model(inputs).float().sum()
        if backward:
            told.backward()
    return counter.get_total_flops() / work.images


def product(chosen: Execution, side: int) -> tuple[Any, float]:
    """Products of two square bf16 matrices on the device, and their floating-point operations.

    Of random numbers: a chip that is short of power is quicker at zeros and ones.
    """
    rng = device_stream(0, 'bench', 'product', device=chosen.device)
    a, b = (
        torch.randn(side, side, generator=rng, device=chosen.device).bfloat16() for _ in range(2)
    )
    repeats = 10

    def run() -> None:
        for _ in range(repeats):
            a @ b

    return run, repeats * 2.0 * side**3


def cohorts(
    widths: Sequence[int] = (16, 64),
    members: Sequence[int] = (1, 2, 4, 8, 16),
    images: int = 4000,
    epochs: int = 20,
) -> dict[str, Any]:
    """Classifiers that train side by side as a study's cells do: images a second of all of them by
    the clock.
    """
    chosen, rows = execution(), []
    for width in widths:
        for n in members:
            seconds = _seconds(Work('classification', width, images), chosen, n, epochs)
            rate = n * images * epochs / seconds
            log.info('cohorts: %d of width %d side by side, %.0f images/s', n, width, rate)
            rows.append({'width': width, 'members': n, 'images_per_second': rate})
    return {'what': f'classifier training at {chosen.precision} by the clock', 'rows': rows}


def _seconds(work: Work, chosen: Execution, members: int, epochs: int) -> float:
    """From when all have trained an epoch to when the last has trained `epochs` more."""
    cohort, starts = Cohort(chosen.device), []
    ready = Barrier(members, lambda: starts.append(time.perf_counter()))

    def train() -> None:
        ours(work, chosen)()
        run = ours(work, chosen, epochs)
        with yield_turn():
            ready.wait()
        run()

    with ThreadPoolExecutor(members) as threads:
        for future in [threads.submit(cohort.run, train) for _ in range(members)]:
            future.result()
    return time.perf_counter() - starts[0]


def device(
    rounds: int = 3, width: int = 64, images: int | None = None, side: int | None = None
) -> dict[str, Any]:
    """Images and TFLOP a second of training in the usual precision, beside the machine's own rate
    of bf16 products.

    Of CPU time on a CPU, so of one core; by the clock on an accelerator.
    `projected_seconds` is the study at that speed.
    """
    chosen = execution()
    cuda = chosen.device.startswith('cuda')
    images, epochs = images or (4000 if cuda else 64), 20 if cuda else 1
    works = {kind: Work(kind, width, images) for kind in STUDY}
    multiply, operations = product(chosen, side or (8192 if cuda else 1024))
    turns = interleaved(
        {'product': multiply, **{kind: ours(work, chosen, epochs) for kind, work in works.items()}},
        rounds,
        f'device, width {width} on {chosen.device}',
    )
    peak = operations / turns.pop('product').seconds() / 1e12
    rows = []
    for kind, own in turns.items():
        rate, each = images * epochs / own.seconds(), flops(Work(kind, width, 2))
        rows.append(
            {
                'kind': kind,
                'width': width,
                'images_per_second': rate,
                'gflop_per_image': each / 1e9,
                'tflop_per_second': rate * each / 1e12,
                'share_of_product': rate * each / 1e12 / peak,
                'study_pflop': STUDY[kind] * each / 1e15,
                'projected_seconds': STUDY[kind] / rate,
                'wall': own.wall,
                'cpu': own.cpu,
            }
        )
    return {
        'what': f'training at {chosen.precision}, per second' + ' of CPU time' * (not cuda),
        'dataset': DATASET,
        'rounds': rounds,
        'product_tflop_per_second': peak,
        'rows': rows,
        'study_pflop': sum(row['study_pflop'] for row in rows),
        'projected_seconds': sum(row['projected_seconds'] for row in rows),
    }
