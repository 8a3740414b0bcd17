"""What the code set out to reach in speed, what the kept benchmarks found, and what bounds it where
that is less.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

Kept = dict[str, Any] | None


def flops(width: int, side: int = 32) -> float:
    """Floating-point operations of one image forward and backward; 2 for a multiplication and
    addition.

    Convolutions alone, backward twice forward but for the images' own gradient; 3.329e9 at width 64
    and 32 pixels.
    """
    large = side > 64
    stem = 2 * 3 * width * (49 * math.ceil(side / 2) ** 2 if large else 9 * side**2)
    side, channels, total = math.ceil(side / 4) if large else side, width, 0
    for stage in range(4):
        out = width * 2**stage
        side = side if stage == 0 else math.ceil(side / 2)
        first = 9 * channels * out + 9 * out * out + (channels * out if channels != out else 0)
        total, channels = total + 2 * side**2 * (first + 18 * out * out), out
    return 3.0 * total + 2 * stem


def goals(kept: Callable[..., Kept]) -> list[dict[str, Any]]:
    """A row a goal: `what`, `goal` and `reached` as numbers or None, `met`, and `bound` in words
    where it is not met.

    `kept` is `records.load`.  Times the plain reference are of CPU time on a CPU.
    """
    return [
        *_training(kept),
        *_scoring(kept('scoring')),
        *_split(kept('cuts')),
        *_gpu(kept('device', 'cuda')),
    ]


def _row(
    what: str, goal: float, reached: float | None, bound: str = '', most: bool = False
) -> dict[str, Any]:
    met = reached is not None and (reached <= goal if most else reached >= goal)
    return {
        'what': what,
        'goal': goal,
        'reached': reached,
        'met': met,
        'bound': '' if met or reached is None else bound,
        'at': 'most' if most else 'least',
    }


def _found(kept: Kept, name: str, **asked: Any) -> float | None:
    """A number of the first row that has all these fields."""
    rows = kept['rows'] if kept else []
    return next(
        (
            row.get(name)
            for row in rows
            if all(row.get(field) == value for field, value in asked.items())
        ),
        None,
    )


def _training(kept: Callable[..., Kept]) -> list[dict[str, Any]]:
    found, rows = kept('training'), []
    for width, precision, goal in (
        (64, 'bf16', 2.5),
        (16, 'bf16', 5),
        (64, 'fp32', 1.3),
        (16, 'fp32', 1.3),
    ):
        for kind in ('classification', 'rotation'):
            asked = {'kind': kind, 'width': width, 'run': f'ours {precision}'}
            rows.append(
                _row(
                    f'training, {kind}, width {width}, {precision}: times the plain loop',
                    goal,
                    _found(found, 'cpu_ratio', **asked),
                    _products(
                        kept,
                        kind,
                        width,
                        precision,
                        _found(found, 'images_per_cpu_second', **asked),
                    ),
                )
            )
    return rows


def _products(
    kept: Callable[..., Kept], kind: str, width: int, precision: str, rate: float | None
) -> str:
    """The time's share that goes to products, and their share of the core's rate of large ones."""
    profile, device = kept('profile'), kept('device')
    if not (profile and device and rate) or precision != 'bf16':
        return 'not known: the benchmarks profile and device are not kept'
    share = sum(
        row['share']
        for row in profile['rows']
        if 'convolution' in row['operation']
        and (row['kind'], row['width'], row['precision']) == (kind, width, precision)
    )
    speed = rate * flops(width) * (4 if kind == 'rotation' else 1) / 1e12
    rate = speed / share / device['product_tflop_per_second']
    return (
        f'{1 - share:.0%} of the time is no product but batch norm, ReLU and sums; the '
        f'products run at {rate:.0%} of the '
        "rate of large ones, for a narrow layer's are small"
    )


def _scoring(found: Kept) -> list[dict[str, Any]]:
    rows = []
    for width, goal in ((64, 4), (16, 20)):
        base = _found(found, 'images_per_cpu_second', width=width, run='reference')
        most = _found(found, 'most', width=width, run='ours fp32')
        bound = (
            'the arithmetic: at the rate of the fastest float32 convolutions, and nothing '
            'else to do, it would be '
            f'{most / base:.1f} times'
            if base and most
            else 'not known'
        )
        rows.append(
            _row(
                f'scoring, width {width}, fp32: times one image at a time',
                goal,
                _found(found, 'cpu_ratio', width=width, run='ours fp32'),
                bound,
            )
        )
    return rows


def _split(found: Kept) -> list[dict[str, Any]]:
    asked = {'rows': 10**8, 'way': 'split_by_chunk'}
    return [
        _row(
            'split of 100,000,000 losses: times argsort',
            10,
            _found(found, 'ratio_to_argsort', **asked),
        ),
        _row(
            'split of 100,000,000 losses: MB beyond them',
            100,
            _found(found, 'extra_mb', **asked),
            most=True,
        ),
    ]


def _gpu(found: Kept) -> list[dict[str, Any]]:
    bounds = {
        'rotation': 'by estimate, not profiled, the passes of batch norm over memory',
        'classification': 'by estimate, not profiled, kernels too small to fill the chip',
    }
    rows = [
        _row(
            f'GPU, {kind}, width 64: share of its rate of large bf16 products',
            0.35,
            _found(found, 'share_of_product', kind=kind),
            bound,
        )
        for kind, bound in bounds.items()
    ]
    return [
        *rows,
        _row(
            "GPU, the reproduction's study of CIFAR-10, three seeds: minutes, projected",
            40,
            found['projected_seconds'] / 60 if found else None,
            most=True,
        ),
    ]
