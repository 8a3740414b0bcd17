"""Where and how arithmetic runs: device, precision, threads.  It is recorded with a result, and is not part of its key."""
from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass

from .errors import Refused, choose


@dataclass(frozen=True)
class Execution:
    """`device` as torch names it; `precision` of convolutions in training, bf16 or fp32; CPU `threads` of one run."""

    device: str
    precision: str
    threads: int

    def autocast(self):
        """Context in which convolutions and matrix products run in `precision`; losses and statistics stay float32."""
        import torch
        return torch.autocast(self.device.partition(':')[0], torch.bfloat16, enabled=self.precision == 'bf16')


def _fast_bf16(device: str) -> bool:
    import torch
    if device.startswith('cuda'):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device == 'cpu' and sys.platform == 'linux':
        # a CPU that emulates bf16 is slower than in float32, so ask for the instructions by name
        with open('/proc/cpuinfo') as file:
            flags = file.read()
        return 'avx512_bf16' in flags or 'amx_bf16' in flags
    return False


def execution() -> Execution:
    """Choose the fastest sound setting of this machine; PT4AL_DEVICE, PT4AL_PRECISION and PT4AL_THREADS override it.

    The number of threads never depends on the machine's load, since float sums, and so bits, depend on it.
    """
    import torch
    device = os.environ.get('PT4AL_DEVICE') or ('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise Refused(f'PT4AL_DEVICE is {device!r}, which torch cannot use here: name cpu, or leave it unset') from None
    precision = os.environ.get('PT4AL_PRECISION') or ('bf16' if _fast_bf16(device) else 'fp32')
    choose('precision in PT4AL_PRECISION', precision, ('bf16', 'fp32'))
    threads = os.environ.get('PT4AL_THREADS') or str(min(8, os.cpu_count() or 1))
    if not threads.isdigit() or int(threads) < 1:
        raise Refused(f'PT4AL_THREADS is {threads!r}: give a whole number of threads from 1 up')
    torch.set_num_threads(int(threads))
    return Execution(device, precision, int(threads))


def machine(chosen: Execution) -> dict[str, str | int]:
    """Describe machine and versions for a result's provenance; names no host and no user."""
    import numpy
    import torch
    chip = torch.cuda.get_device_name(chosen.device) if chosen.device.startswith('cuda') else _cpu_name()
    return {'device': chosen.device, 'chip': chip, 'threads': chosen.threads, 'precision': chosen.precision,
            'python': platform.python_version(), 'torch': torch.__version__, 'numpy': numpy.__version__}


def _cpu_name() -> str:
    try:
        with open('/proc/cpuinfo') as file:
            name = next(line.split(':', 1)[1].strip() for line in file if line.startswith('model name'))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f'{name}, {os.cpu_count()} cores'
