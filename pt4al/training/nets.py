"""The method's CIFAR ResNet-18, with a width, and the heads that tasks put on it."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

# images [n * views, c, h, w], one tensor per image size; then what only a head reads
Inputs = tuple[Tensor, ...]
SMALL = 64  # images of at most so many pixels a side pass through the form for CIFAR-10


class Narrow(nn.Conv2d):
    """A strided 1x1 convolution of few channels, as one of stride 1 on the pixels it reads.

    On a CPU without AVX-512 the gradient of the strided one overwrites foreign memory: wrong
    weights or a crash (github.com/uxlfoundation/oneDNN/issues/6035).
    """

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.stride
        return F.conv2d(x[..., ::rows, ::columns], self.weight)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016): [n,out,h/stride,w/stride]."""

    def __init__(self, channels: int, out: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            layer = Narrow if channels < 16 else nn.Conv2d
            conv = layer(channels, out, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        # in place: fewer maps, so that those of a pass stay in caches
        y = F.relu_(self.bn1(self.conv1(x)))
        return F.relu_(self.bn2(self.conv2(y)).add_(self.shortcut(x)))


def resnet18(width: int = 64, side: int = 32) -> nn.Sequential:
    """ResNet-18 (He et al. 2016) with stages of width, 2, 4 and 8 width, for images of this side.

    Up to 64 pixels a 3x3 stem without pooling, as the method has it for CIFAR-10: [n,3,32,32] ->
    [n,8w,4,4]. Above, torchvision's form for ImageNet: a 7x7 stem of stride 2 and a max-pool:
    [n,3,224,224] -> [n,8w,7,7]. Width 64 is the paper's.
    """
    large = side > SMALL
    kernel = (7, 2, 3) if large else (3, 1, 1)
    stem: list[nn.Module] = [nn.Conv2d(3, width, *kernel, bias=False)]
    stem += [nn.BatchNorm2d(width), nn.ReLU(True)]
    if large:
        stem.append(nn.MaxPool2d(3, 2, 1))
    sizes, blocks = [width, width, 2 * width, 4 * width, 8 * width], []
    for stage, (a, b) in enumerate(zip(sizes, sizes[1:])):
        blocks += [BasicBlock(a, b, 1 if stage == 0 else 2), BasicBlock(b, b, 1)]
    return nn.Sequential(*stem, *blocks)


def stages(trunk: nn.Module, x: Tensor) -> list[Tensor]:
    """The maps [n,c,h,w] after the stem and after each of the eight blocks of `resnet18`."""
    out = []
    for layer in trunk.children():
        x = layer(x)
        if isinstance(layer, nn.ReLU | BasicBlock):
            out.append(x)
    return out


def stage_maps(trunk: nn.Module, x: Tensor) -> list[Tensor]:
    """The maps after the last block of each of the four stages of `resnet18`."""
    return stages(trunk, x)[2::2]


def map_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of the maps that `resnet18(side=width)` makes of images of this size."""
    step = 32 if width > SMALL else 8
    return -(-height // step), -(-width // step)


class Pooled(nn.Module):
    """Average-pool, then a linear layer: [n,d,h,w] -> [n,out]."""

    def __init__(self, dim: int, out: int):
        super().__init__()
        self.linear = nn.Linear(dim, out)

    def pool(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))

    def forward(self, maps: Tensor) -> Tensor:
        return self.linear(self.pool(maps))


class Dense(nn.Module):
    """Upsample maps by `doublings`, each halving their number: [n,dim,h,w] -> [n,out,h',w']."""

    def __init__(self, dim: int, out: int, doublings: int):
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(doublings):
            layers += [nn.Upsample(scale_factor=2)]
            layers += [nn.Conv2d(dim, dim // 2, 3, 1, 1, bias=False)]
            layers += [nn.BatchNorm2d(dim // 2), nn.ReLU(True)]
            dim //= 2
        self.net = nn.Sequential(*layers, nn.Conv2d(dim, out, 1))

    def forward(self, maps: Tensor) -> Tensor:
        return self.net(maps)


def at_size(painted: Tensor, height: int, width: int) -> Tensor:
    """Maps [...,h',w'] that a decoder paints, at the size of images: [...,height,width].

    Larger ones are cut; smaller ones are enlarged first, every pixel a square.
    """
    factor = -(-height // painted.shape[-2])
    if factor > 1:
        painted = painted.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
    return painted[..., :height, :width]


class Model(nn.Module):
    """A trunk, through which inputs of four dimensions pass, and a head that gets all inputs."""

    head: Any  # a module with whatever its task calls

    def __init__(self, trunk: nn.Module, head: nn.Module):
        super().__init__()
        self.trunk, self.head = trunk, head

    def forward(self, inputs: Inputs) -> Tensor:
        return self.head(*[self.trunk(x) if x.ndim == 4 else x for x in inputs])
