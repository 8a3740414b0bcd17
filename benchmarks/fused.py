"""Batch norm with what follows it, ReLU or a sum and ReLU, in few passes over memory, in Triton.

No part of the package: a kernel moves there once its gain has been measured on a chip, and these
have run on none. Tests run them interpreted on a CPU; they compile for an H100. Not tested: speed,
what the compiler makes of sums and roots, recording, side streams, offsets beyond 2**31 and more
than one GPU (launches go to the current one). A new shape compiles at its first launch, which has
to come before recording, as in `pt4al.training.graphs`.

Maps [n,c,h,w], channels last in memory, are matrices [m,c] of m = n * h * w rows, bf16 or float32;
arithmetic is float32. Forward: a pass for the statistics and one that writes. Backward: a pass for
the sums and one that writes; what ReLU lets through is computed again, so that neither reads the
output. Each program's part of a sum is added in a fixed order, without atomics: equal bits.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pt4al.training import nets

TILE = 4096  # numbers of a map that a program holds at once, 16 a thread
PROGRAMS = 512  # at most, for a sum: some four on each multiprocessor of a large chip
LAST = torch.channels_last


# --- kernels: x, g, y of m rows and c columns; a program has a tile of HIGH rows, WIDE columns ---


@triton.jit
def _place(m, c, rows, WIDE: tl.constexpr):
    """This program's columns and which are real, its first number, in 64 bits, and its rows:
    `rows`, or what is left.
    """
    cols = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    start = tl.program_id(0).to(tl.int64) * rows
    return cols, cols < c, start * c, tl.minimum(m - start, rows).to(tl.int32)


@triton.jit
def _within(step, c, left, cols, real, HIGH: tl.constexpr):
    """Offsets of a program's tile number `step` from its first number, and which are in the map."""
    row = step * HIGH + tl.arange(0, HIGH)
    return row[:, None] * c + cols[None, :], (row < left)[:, None] & real[None, :]


@triton.jit
def _normed(x, stats, weight, bias, c, cols, real, at, inside):
    """A tile of x normed, its part of what ReLU gets, and the slope from it to x; without
    statistics x is taken as it is.
    """
    x = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if stats is None:
        return x, x, 1.0
    else:  # what comes after a return would be compiled all the same
        inverse = tl.load(stats + c + cols, mask=real, other=0.0)[None, :]
        x = (x - tl.load(stats + cols, mask=real, other=0.0)[None, :]) * inverse
        slope = tl.load(weight + cols, mask=real, other=0.0)[None, :]
        y = x * slope + tl.load(bias + cols, mask=real, other=0.0)[None, :]
        return x, y, slope * inverse


@triton.jit
def _both(x, stats, weight, bias, r, stats_r, weight_r, bias_r, c, cols, real, at, inside):
    """What ReLU gets; tiles of x and of r normed and their slopes; r may be None."""
    x, y, slope = _normed(x, stats, weight, bias, c, cols, real, at, inside)
    if r is None:
        return y, x, slope, x, slope
    else:
        r, more, slope_r = _normed(r, stats_r, weight_r, bias_r, c, cols, real, at, inside)
        return y + more, x, slope, r, slope_r


@triton.jit(do_not_specialize=['rows', 'steps'])
def norm_statistics(x, parts, m, c, rows, steps, HIGH: tl.constexpr, WIDE: tl.constexpr):
    """Mean and sum of squared distances from it, of the program's rows: parts [programs,2,c].

    Sums are of distances from the mean of the first tile. The tile is one of the `steps`, so their
    squares are at most some `steps` times as large as those from the mean: no cancellation.
    """
    cols, real, first, left = _place(m, c, rows, WIDE)
    x += first
    at, inside = _within(0, c, left, cols, real, HIGH)
    tile = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    near = tl.sum(tile, 0) / tl.minimum(left, HIGH)
    sums = tl.zeros((HIGH, WIDE), tl.float32)
    squares = tl.zeros((HIGH, WIDE), tl.float32)
    for step in range(steps):
        at, inside = _within(step, c, left, cols, real, HIGH)
        tile = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        tile = tl.where(inside, tile - near[None, :], 0.0)
        sums += tile
        squares += tile * tile
    beyond = tl.sum(sums, 0) / left
    parts += tl.program_id(0) * 2 * c + cols
    tl.store(parts, near + beyond, mask=real)
    tl.store(parts + c, tl.maximum(tl.sum(squares, 0) - beyond * beyond * left, 0.0), mask=real)


@triton.jit(do_not_specialize=['rows', 'programs'])
def norm_merge(
    parts, stats, running_mean, running_var, batches, m, c, rows, programs, momentum, eps,
    MOST: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """All parts as one (Chan et al. 1979): stats [2,c], mean and 1 / deviation; running ones."""
    cols = tl.program_id(0) * WIDE + tl.arange(0, WIDE)
    part = tl.arange(0, MOST)
    real, inside = cols < c, (part < programs)[:, None] & (cols < c)[None, :]
    at = part[:, None] * (2 * c) + cols[None, :]
    count = tl.where(part < programs, tl.minimum(rows, m - part * rows), 0)[:, None].to(tl.float32)
    means = tl.load(parts + at, mask=inside, other=0.0)
    squares = tl.load(parts + at + c, mask=inside, other=0.0)
    near = tl.load(parts + cols, mask=real, other=0.0)
    mean = near + tl.sum(count * (means - near[None, :]), 0) / m
    apart = means - mean[None, :]
    square = tl.sum(squares + count * apart * apart, 0)
    tl.store(stats + cols, mean, mask=real)
    tl.store(stats + c + cols, tl.rsqrt(square / m + eps), mask=real)
    old = tl.load(running_mean + cols, mask=real, other=0.0)
    tl.store(running_mean + cols, old + momentum * (mean - old), mask=real)
    old = tl.load(running_var + cols, mask=real, other=0.0)
    tl.store(running_var + cols, old + momentum * (square / (m - 1) - old), mask=real)
    if tl.program_id(0) == 0:
        tl.store(batches, tl.load(batches) + 1)


@triton.jit
def norm_apply(
    y, x, stats, weight, bias, r, stats_r, weight_r, bias_r, m, c,
    HIGH: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """y = ReLU of x normed and, if there is one, r, itself normed if it has statistics."""
    cols, real, first, left = _place(m, c, HIGH, WIDE)
    at, inside = _within(0, c, left, cols, real, HIGH)
    at = first + at
    out, _, _, _, _ = _both(
        x, stats, weight, bias, r, stats_r, weight_r, bias_r, c, cols, real, at, inside
    )
    # not a maximum, which would hide what is not a number
    tl.store(y + at, tl.where(out < 0, 0.0, out).to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=['rows', 'steps'])
def norm_sums(
    parts, g, x, stats, weight, bias, r, stats_r, weight_r, bias_r, m, c, rows, steps,
    HIGH: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Gradients of bias and weight, and of those of r if it is normed, of the program's rows:
    parts [programs, 2 or 4, c].
    """
    cols, real, first, left = _place(m, c, rows, WIDE)
    ones = tl.zeros((HIGH, WIDE), tl.float32)
    of_x = tl.zeros((HIGH, WIDE), tl.float32)
    of_r = tl.zeros((HIGH, WIDE), tl.float32)
    for step in range(steps):
        at, inside = _within(step, c, left, cols, real, HIGH)
        at = first + at
        y, far, _, far_r, _ = _both(
            x, stats, weight, bias, r, stats_r, weight_r, bias_r, c, cols, real, at, inside
        )
        up = tl.where(y > 0, tl.load(g + at, mask=inside, other=0.0).to(tl.float32), 0.0)
        ones += up
        of_x += up * far
        of_r += up * far_r
    normed: tl.constexpr = stats_r is not None
    parts += tl.program_id(0) * (4 if normed else 2) * c + cols
    one = tl.sum(ones, 0)
    tl.store(parts, one, mask=real)
    tl.store(parts + c, tl.sum(of_x, 0), mask=real)
    if normed:
        tl.store(parts + 2 * c, one, mask=real)
        tl.store(parts + 3 * c, tl.sum(of_r, 0), mask=real)


@triton.jit
def norm_slopes(
    dx, dr, g, sums, x, stats, weight, bias, r, stats_r, weight_r, bias_r, m, c,
    HIGH: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Gradients of x and, if there is one, r, from the sums [2 or 4, c] over all rows."""
    cols, real, first, left = _place(m, c, HIGH, WIDE)
    at, inside = _within(0, c, left, cols, real, HIGH)
    at = first + at
    y, far, slope, far_r, slope_r = _both(
        x, stats, weight, bias, r, stats_r, weight_r, bias_r, c, cols, real, at, inside
    )
    up = tl.where(y > 0, tl.load(g + at, mask=inside, other=0.0).to(tl.float32), 0.0)
    middle = tl.load(sums + cols, mask=real, other=0.0)[None, :] / m
    along = tl.load(sums + c + cols, mask=real, other=0.0)[None, :] / m
    out = slope * (up - middle - far * along)
    tl.store(dx + at, out.to(dx.dtype.element_ty), mask=inside)
    if r is not None:
        if stats_r is not None:
            along = tl.load(sums + 3 * c + cols, mask=real, other=0.0)[None, :] / m
            up = slope_r * (up - middle - far_r * along)
        tl.store(dr + at, up.to(dr.dtype.element_ty), mask=inside)


# --- in torch ---


def _cut(x: Tensor) -> tuple[int, int, tuple[int, int], dict[str, int]]:
    """Rows and columns of a map, its tiles (down, across), and the form of a tile."""
    m, c = x.numel() // x.shape[1], x.shape[1]
    wide = min(64, triton.next_power_of_2(c))
    form = {'HIGH': TILE // wide, 'WIDE': wide, 'num_warps': max(1, TILE // 512)}
    return m, c, (triton.cdiv(m, TILE // wide), triton.cdiv(c, wide)), form


def _parts(tiles: tuple[int, int], form: dict[str, int]) -> tuple[int, int, int]:
    """Of a sum: programs down, each with at least a row, rows of each, and tiles of each."""
    steps = triton.cdiv(tiles[0], max(1, PROGRAMS // tiles[1]))
    return triton.cdiv(tiles[0], steps), steps * form['HIGH'], steps


def _statistics(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Mean and 1 / deviation of each channel, float32 [2,c]; the norm's buffers take them in."""
    m, c, tiles, form = _cut(x)
    programs, rows, steps = _parts(tiles, form)
    parts, stats = (norm.weight.new_empty(size) for size in ((programs, 2, c), (2, c)))
    norm_statistics[programs, tiles[1]](x, parts, m, c, rows, steps, **form)
    norm_merge[triton.cdiv(c, 8),](
        parts, stats, norm.running_mean, norm.running_var, norm.num_batches_tracked, m, c, rows,
        programs, norm.momentum, norm.eps, MOST=PROGRAMS, WIDE=8,
    )  # fmt: skip
    return stats


class _Norm(torch.autograd.Function):
    """y of `norm_apply`, from statistics that have been made, and all gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *others: Tensor | None) -> Tensor:
        m, c, tiles, form = _cut(x)
        y = torch.empty_like(x)
        norm_apply[tiles](y, x, *others, m, c, **form)
        ctx.save_for_backward(x, *others)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, *_, r, stats_r, _, _ = inputs = ctx.saved_tensors
        m, c, tiles, form = _cut(x)
        programs, rows, steps = _parts(tiles, form)
        g = g.contiguous(memory_format=LAST)  # that of a mean over maps is a number expanded
        parts = inputs[1].new_empty(programs, 2 if stats_r is None else 4, c)
        norm_sums[programs, tiles[1]](parts, g, *inputs, m, c, rows, steps, **form)
        sums = parts.sum(0)
        dx, dr = torch.empty_like(x), None if r is None else torch.empty_like(r)
        norm_slopes[tiles](dx, dr, g, sums, *inputs, m, c, **form)
        of_r = (None, None) if stats_r is None else (sums[3], sums[2])
        return dx, None, sums[1], sums[0], dr, None, *of_r


def _fits(norm: nn.BatchNorm2d, x: Tensor, like: Tensor) -> bool:
    """Whether the kernels norm x as `norm` does, a map of the form of `like`."""
    there = x.is_cuda or (triton.knobs.runtime.interpret and x.device.type == 'cpu')
    plain = norm.training and norm.affine and norm.track_running_stats and norm.momentum is not None
    same = x.shape == like.shape and x.dtype == like.dtype and x.is_contiguous(memory_format=LAST)
    types = x.dtype in (torch.bfloat16, torch.float32) and norm.weight.dtype == torch.float32
    return there and plain and same and types and x.numel() > x.shape[1]


def relu(
    norm: nn.BatchNorm2d, x: Tensor, r: Tensor | None = None, norm_r: nn.BatchNorm2d | None = None
) -> Tensor:
    """ReLU of a normed map [n,c,h,w], plus a map r, plus `norm_r` of it; by torch in evaluation and
    where the kernels do not fit: other layouts, types, devices, norms, or one row.
    """
    if _fits(norm, x, x) and (r is None or _fits(norm_r or norm, r, x)):
        others: list[Tensor | None] = [_statistics(norm, x), norm.weight, norm.bias, r]
        others += [None] * 3 if norm_r is None else [_statistics(norm_r, r), *norm_r.parameters()]
        return _Norm.apply(x, *others)
    y = nn.BatchNorm2d.forward(norm, x)
    if r is not None:
        y = y + (r if norm_r is None else nn.BatchNorm2d.forward(norm_r, r))
    return F.relu_(y)


class NormRelu(nn.BatchNorm2d):
    """A batch norm and the ReLU behind it."""

    def forward(self, x: Tensor) -> Tensor:
        return relu(self, x)


class Block(nets.BasicBlock):
    """The block, by the kernels."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(relu(self.bn1, self.conv1(x)))
        if isinstance(self.shortcut, nn.Identity):
            return relu(self.bn2, y, x)
        return relu(self.bn2, y, self.shortcut[0](x), self.shortcut[1])


def fuse(model: nn.Module) -> nn.Module:
    """The same model, parameters and buffers, whose blocks, and norms before a ReLU in a sequence,
    use the kernels.
    """
    for layer in [*model.modules()]:
        if type(layer) is nets.BasicBlock:
            layer.__class__ = Block
        elif isinstance(layer, nn.Sequential):
            for i, pair in enumerate(zip(layer, layer[1:])):
                if [type(one) for one in pair] == [nn.BatchNorm2d, nn.ReLU]:
                    pair[0].__class__, layer[i + 1] = NormRelu, nn.Identity()
    return model
