"""Kernels of batch norm, interpreted and, where there is one, on a GPU: each in a process of its
own; and compiled.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from helpers import ROOT

from benchmarks import steps
from pt4al.errors import Refused

pytestmark = pytest.mark.long
needs_triton = pytest.mark.skipif(find_spec('triton') is None, reason='no Triton on this machine')
KERNELS = Path(__file__).parent / 'fused_kernels.py'


@needs_triton
@pytest.mark.parametrize('interpreted', ['1', '0'])
def test_the_kernels(interpreted):
    if interpreted == '0' and not torch.cuda.is_available():
        pytest.skip('no GPU on this machine')
    done = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', KERNELS],
        cwd=ROOT,
        env=os.environ | {'TRITON_INTERPRET': interpreted},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]


PROGRAM = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from benchmarks import fused

TYPES = dict.fromkeys(('x', 'y', 'g', 'r', 'dx', 'dr'), '*bf16') | {'batches': '*i64'}
TYPES |= dict.fromkeys(('m', 'c', 'rows', 'steps', 'programs'), 'i32')
TYPES |= dict.fromkeys(('momentum', 'eps'), 'fp32')
TILE = {'HIGH': 64, 'WIDE': 64}
ADDED = dict.fromkeys(('stats_r', 'weight_r', 'bias_r'))
jobs = [(fused.norm_statistics, TILE), (fused.norm_merge, {'MOST': fused.PROGRAMS, 'WIDE': 8})]
for absent in ({}, ADDED, ADDED | {'r': None, 'dr': None}):
    for kernel in (fused.norm_apply, fused.norm_sums, fused.norm_slopes):
        jobs.append((kernel, TILE | {name: None for name in absent if name in kernel.arg_names}))
for kernel, constants in jobs:
    names = {i: name for i, name in enumerate(kernel.arg_names) if name not in constants}
    types = {name: TYPES.get(name, '*fp32') for name in names.values()}
    even = [i for i, name in names.items() if types[name][0] == '*' or name in ('m', 'c')]
    made = triton.compile(
        ASTSource(
            kernel,
            {name: types.get(name, 'constexpr') for name in kernel.arg_names},
            constexprs=constants,
            attrs={(i,): [['tt.divisibility', 16]] for i in even},
        ),
        target=GPUTarget('cuda', 90, 32),
        options={'num_warps': 8},
    )
    # sixteen bytes at a time, and no number in local memory
    wide = 'ld.global.v4' in made.asm['ptx'] or kernel is fused.norm_merge
    print(kernel.__name__, wide and '.local' not in made.asm['ptx'] and len(made.asm['cubin']) > 0)
"""


@needs_triton
def test_the_kernels_compile_for_a_gpu(tmp_path):
    """What the interpreter lets pass, such as a return amid a function, a compiler may not."""
    pytest.importorskip('triton.backends.nvidia')
    environment = {name: value for name, value in os.environ.items() if name != 'TRITON_INTERPRET'}
    (tmp_path / 'program.py').write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, tmp_path / 'program.py'],
        cwd=ROOT,
        env=environment | {'TRITON_CACHE_DIR': str(tmp_path), 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert [line.split()[1] for line in done.stdout.splitlines()] == ['True'] * 11


def test_without_a_gpu_nothing_is_measured(monkeypatch):
    monkeypatch.setenv('PT4AL_DEVICE', 'cpu')
    with pytest.raises(
        Refused, match='^fused compares kernels on an NVIDIA GPU; the device is cpu$'
    ):
        steps.fused()
