"""Our scoring against one image at a time, as the release does it, and what the chip's arithmetic
would allow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from benchmarks import reference
from benchmarks.chip import flops
from benchmarks.training import DATASET, WIDTHS, Work
from benchmarks.turns import compared, interleaved
from pt4al.rng import device_stream
from pt4al.tasks import TASKS
from pt4al.training.execution import Execution, execution

ON_GPU = 200  # images scored in one turn on a GPU
KINDS = {'fp32': torch.float32, 'bf16': torch.bfloat16}


def scoring(rounds: int = 3, widths: Mapping[int, int] = WIDTHS) -> dict[str, Any]:
    """Images a second of rotation scoring in batches, as results are made (fp32) and in bf16,
    against one at a time.

    `most` is how many images a second the arithmetic alone would allow: at the rate of the
    network's fastest convolutions in the same precision and the same turns, of CPU time as
    `images_per_cpu_second` or, on an accelerator, by the clock.
    """
    chosen, rows = execution(), []
    cuda = chosen.device.startswith('cuda')
    for width, seen in widths.items():
        work = Work('rotation', width, ON_GPU if cuda else max(1, seen // 4))
        products = {precision: _wide(chosen, kind) for precision, kind in KINDS.items()}
        turns = interleaved(
            {**_ways(work, chosen), **{name: run for name, (run, _) in products.items()}},
            rounds,
            f'scoring at width {width}',
        )
        rate = {
            name: operations / turns.pop(name).seconds()
            for name, (_, operations) in products.items()
        }
        each = flops(replace(work, images=2), backward=False)
        for row in compared(turns, work.images, 'reference'):
            precision = row['run'].removeprefix('ours ')
            rows.append(
                {
                    'kind': work.kind,
                    'width': width,
                    **row,
                    'gflop_per_image': each / 1e9,
                    'most': rate.get(precision, rate['fp32']) / each,
                }
            )
    return {
        'what': 'images scored per second, and of CPU time, four views each',
        'dataset': DATASET,
        'rounds': rounds,
        'workers': reference.WORKERS,
        'rows': rows,
    }


def _wide(chosen: Execution, kind: torch.dtype) -> tuple[Callable[[], object], float]:
    """Convolutions as in the third stage at width 64, which are fast on any chip, and their
    floating-point operations.
    """
    channels, side, images = 256, 8, 4096 if chosen.device.startswith('cuda') else 64
    rng = device_stream(0, 'bench', 'wide', device=chosen.device)
    x, weight = (
        torch.randn(n, channels, k, k, generator=rng, device=chosen.device).to(
            kind, memory_format=torch.channels_last
        )
        for n, k in ((images, side), (channels, 3))
    )

    def run() -> None:
        for _ in range(10):
            torch.conv2d(x, weight, padding=1)

    return run, 10 * 2.0 * 9 * channels**2 * side**2 * images


def _ways(work: Work, chosen: Execution) -> dict[str, Callable[[], object]]:
    part, task = work.part(chosen.device), TASKS[work.kind]()
    model = work.network(chosen.device, torch.channels_last)
    single = work.network(chosen.device, torch.contiguous_format)
    pictures = reference.Turned(
        part.pixels.cpu().numpy(), part.labels.cpu().numpy(), reference.plain()
    )
    one_by_one = reference.loader(pictures, 1, device_stream(0, 'bench'), shuffle=False)

    def batched(precision: str) -> None:
        with replace(chosen, precision=precision).autocast():
            task.score(model, part.pixels, device_stream(0, 'bench', device=chosen.device))[
                'loss'
            ].cpu()

    return {
        'reference': lambda: [*reference.rotation_losses(single, one_by_one, chosen.device)],
        'ours fp32': lambda: batched('fp32'),
        'ours bf16': lambda: batched('bf16'),
    }
