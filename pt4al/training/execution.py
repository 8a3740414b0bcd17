"""Where and how arithmetic runs: device, precision, threads; no part of a result's key."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch

from pt4al.errors import Refused, choose

PRECISIONS = ('bf16', 'tf32', 'fp32')


@contextmanager
def float32(products: str = 'ieee') -> Iterator[None]:
    """Multiply float32 numbers on CUDA exactly ('ieee') or as 'tf32', with ten bits of each factor
    and torch's own choice in convolutions, inside the block.
    """
    before = set_fp32_precision(products, products)
    try:
        yield
    finally:
        set_fp32_precision(*before)


def set_fp32_precision(*products: str) -> tuple[str, ...]:
    """Set what `float32` sets, of matrices and convolutions, if anything; returns what was set."""
    places = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = tuple(place.fp32_precision for place in places)
    for place, value in zip(places, products):
        place.fp32_precision = value
    return before


TORCH_DEFAULT = set_fp32_precision()  # as torch sets it


@dataclass(frozen=True)
class Execution:
    """How one run computes."""

    device: str  # as torch names it
    precision: str  # of products in training: bf16, tf32 or fp32
    threads: int  # of the CPU

    def products(self) -> AbstractContextManager[None]:
        """Context of a whole training: what float32 products are, forward and backward."""
        return float32('tf32' if self.precision == 'tf32' else 'ieee')

    def autocast(self) -> AbstractContextManager:
        """Context in which convolutions and matrix products run in `precision`."""
        kind = self.device.partition(':')[0]
        return torch.autocast(kind, torch.bfloat16, enabled=self.precision == 'bf16')


def _fast_bf16(device: str) -> bool:
    if device.startswith('cuda'):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # a CPU that emulates bf16 is slower than in float32, so ask for the instructions by name
    return device == 'cpu' and bool(re.search('avx512_bf16|amx_bf16', _cpu()))


def _cpu() -> str:
    """What Linux says of its processors."""
    about = Path('/proc/cpuinfo')
    return about.read_text() if about.exists() else ''


def execution() -> Execution:
    """The fastest sound setting of this machine, unless PT4AL_DEVICE, PT4AL_PRECISION and
    PT4AL_THREADS or OMP_NUM_THREADS name another.

    The number of threads, on which bits depend, never follows the machine's load.
    """
    device = os.environ.get('PT4AL_DEVICE') or ('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise Refused(
            f'PT4AL_DEVICE is {device!r}, which torch cannot use here: name cpu, or leave it unset'
        ) from None
    precision = os.environ.get('PT4AL_PRECISION') or ('bf16' if _fast_bf16(device) else 'fp32')
    choose('precision in PT4AL_PRECISION', precision, PRECISIONS)
    if precision == 'tf32' and not device.startswith('cuda'):
        raise Refused(f'PT4AL_PRECISION is tf32, which {device} does not have: give bf16 or fp32')
    names = ('PT4AL_THREADS', 'OMP_NUM_THREADS')
    name = next((name for name in names if os.environ.get(name)), '')
    # OpenMP allows a list, a number a level of nested threads
    threads = os.environ[name].partition(',')[0] if name else str(min(8, cores()))
    if not re.fullmatch('[1-9][0-9]{,3}', threads):
        raise Refused(f'{name} is {threads!r}: give a whole number of threads from 1 to 9999')
    torch.set_num_threads(int(threads))
    return Execution(device, precision, int(threads))


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def machine(chosen: Execution) -> dict[str, str | int]:
    """Machine and versions for a result's provenance, without host and user."""
    cuda = chosen.device.startswith('cuda')
    return {
        'device': chosen.device,
        'chip': torch.cuda.get_device_name(chosen.device) if cuda else _cpu_name(),
        'threads': chosen.threads,
        'precision': chosen.precision,
        'python': platform.python_version(),
        'torch': torch.__version__,
        'numpy': numpy.__version__,
    }


def _cpu_name() -> str:
    named = re.search('^model name.*?: *(.*)', _cpu(), re.MULTILINE)
    name = named[1].strip() if named else platform.processor() or platform.machine()
    return f'{name}, {os.cpu_count()} cores'
