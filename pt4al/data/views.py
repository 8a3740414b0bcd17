"""Batched augmentation, geometry and colour of images [n,c,h,w] on the device."""

from collections.abc import Callable
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from pt4al.errors import Refused

# CIFAR-10 channel statistics as the method's release states them (RGB, of pixels scaled to 0..1)
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2023, 0.1994, 0.2010)


@cache
def constant(values: tuple, device: torch.device) -> Tensor:
    """A tensor of fixed numbers, made once: a copy to a device waits for all its work."""
    return torch.tensor(values, device=device)


def normalise(pixels: Tensor) -> Tensor:
    """uint8 pixels [n,3 or 4,h,w] to float32 [n,3,h,w] of zero mean and unit variance per channel,
    channels last in memory.
    """
    mean, std = (constant(of, pixels.device)[:, None, None] * 255 for of in (MEAN, STD))
    return ((pixels[:, :3].float() - mean) / std).contiguous(memory_format=torch.channels_last)


def turns(images: Tensor) -> Tensor:
    """Every image turned by 0, 90, 180, 270 degrees counter-clockwise: [n,c,h,h] -> [n,4,c,h,h]."""
    return torch.stack([images.rot90(k, (2, 3)) for k in range(4)], 1)


def crop_flip(images: Tensor, rng: Generator, pad: int = 4) -> Tensor:
    """Pad with zeros, crop back at random and mirror half, each image by its own draw."""
    n, _, height, width = images.shape
    top, left = torch.randint(2 * pad + 1, (2, n), generator=rng, device=images.device)
    mirror = torch.randint(2, (n, 1, 1, 1), generator=rng, device=images.device).bool()
    # a view: [n,c,2p+1,2p+1,h,w]
    windows = F.pad(images, (pad,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    cropped = windows[torch.arange(n, device=images.device), :, top, left]
    return torch.where(mirror, cropped.flip(3), cropped)


AUGMENTATIONS: dict[str, Callable[[Tensor, Generator], Tensor]] = {
    'crop_flip': crop_flip,
    'flip': partial(crop_flip, pad=0),
    'none': lambda x, _: x,
}


def grey(pixels: Tensor) -> Tensor:
    """The luma (Rec. 601) of pixels [n,3,h,w] in all three channels, of their type."""
    weight = constant((0.299, 0.587, 0.114), pixels.device)[:, None, None]
    luma = (pixels[:, :3].float() * weight).sum(1, keepdim=True).round()
    return luma.to(pixels.dtype).expand(-1, 3, -1, -1)


def tiles(images: Tensor, grid: int, size: int, rng: Generator | None = None) -> Tensor:
    """Cut a square of `size` pixels from every cell of a grid, row by row: [n,g*g,c,size,size].

    It lies in the middle of its cell or, with `rng`, anywhere in it, by each tile's own draw.
    """
    n, _, *sides = images.shape
    cells = [side // grid for side in sides]
    if size > min(cells):
        raise Refused(
            f'images of {sides[0]}x{sides[1]} pixels are too small for {grid}x{grid} tiles of '
            f'{size} pixels: each side needs {grid * size}'
        )
    corners = []
    for axis, (side, cell) in enumerate(zip(sides, cells)):
        number = torch.arange(grid * grid, device=images.device)
        start = (side - grid * cell) // 2 + cell * (number % grid if axis else number // grid)
        if rng is None:
            start = start + (cell - size) // 2
        else:
            draws = (cell - size + 1, (n, grid * grid))
            start = start + torch.randint(*draws, generator=rng, device=images.device)
        corners.append(start.expand(n, -1))
    # a view: [n,c,h',w',size,size]
    windows = images.unfold(2, size, 1).unfold(3, size, 1)
    return windows[torch.arange(n, device=images.device)[:, None], :, corners[0], corners[1]]


def standardise(images: Tensor) -> Tensor:
    """Each image of [...,c,h,w] to zero mean and unit variance of its own; a flat one becomes 0."""
    x, axes = images.float(), (-3, -2, -1)
    deviation = x.std(axes, correction=0, keepdim=True).clamp_min(1)
    return (x - x.mean(axes, keepdim=True)) / deviation


# Linear sRGB to XYZ and the white point of daylight D65, two-degree observer (ITU-R BT.709, CIE 15)
XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
WHITE = (0.95047, 1.0, 1.08883)


def _mix(channels: Tensor, matrix: Tensor) -> Tensor:
    return (channels[:, None] * matrix.to(channels.device)[:, :, None, None]).sum(2)


def lab(pixels: Tensor) -> Tensor:
    """CIE 1976 L*a*b* under D65 of uint8 sRGB pixels [n,3,h,w]: float32, L in 0..100."""
    c = pixels.float() / 255
    linear = torch.where(c > 0.04045, ((c + 0.055) / 1.055) ** 2.4, c / 12.92)
    t = _mix(linear, torch.tensor(XYZ) / torch.tensor(WHITE)[:, None])
    x, y, z = torch.where(t > 0.008856, t ** (1 / 3), 7.787 * t + 16 / 116).unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def rgb(colours: Tensor) -> Tensor:
    """uint8 sRGB pixels of L*a*b* colours [n,3,h,w], clipped to the gamut: the inverse of `lab`."""
    light, a, b = colours.unbind(1)
    y = (light + 16) / 116
    f = torch.stack([y + a / 500, y, y - b / 200], 1)
    t = torch.where(f > 0.008856 ** (1 / 3), f**3, (f - 16 / 116) / 7.787)
    linear = _mix(t, torch.linalg.inv(torch.tensor(XYZ)) * torch.tensor(WHITE)).clamp(0, 1)
    c = torch.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    return (c * 255).round().to(torch.uint8)


def resized_crop(images: Tensor, u: Tensor) -> Tensor:
    """Cut a box of random area and shape from each image, mirror half, scale back: float32.

    Area 8 to 100 % of the image's, width to height 3:4 to 4:3, no side longer than the image's
    (SimCLR's crop, from Szegedy et al. 2015), read bilinearly. `u` [n,5] are uniform draws: area,
    shape, left, top, mirror.
    """
    _, _, height, width = images.shape
    area, shape, left, top, mirror = u.unbind(1)
    area, shape = 0.08 + 0.92 * area, (4 / 3) ** (2 * shape - 1) * height / width
    wide, tall = (area * shape).sqrt().clamp(max=1), (area / shape).sqrt().clamp(max=1)
    zero, sign = torch.zeros_like(wide), torch.where(mirror < 0.5, 1.0, -1.0)
    across = torch.stack([sign * wide, zero, (1 - wide) * (2 * left - 1)], 1)
    down = torch.stack([zero, tall, (1 - tall) * (2 * top - 1)], 1)
    grid = F.affine_grid(torch.stack([across, down], 1), list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, padding_mode='border', align_corners=False)


def _turn_hue(images: Tensor, angle: Tensor) -> Tensor:
    """Turn the colours of images [n,3,h,w] about the grey axis by angles [n] in radians."""
    across = constant(((0.0, -1, 1), (1, 0, -1), (-1, 1, 0)), images.device) / 3**0.5
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    turn = cos * torch.eye(3, device=images.device) + (1 - cos) / 3 + sin * across
    return (turn @ images.flatten(2)).view_as(images)


def colour_jitter(images: Tensor, u: Tensor) -> Tensor:
    """Change brightness, contrast, saturation and hue of four images in five, then take the colour
    of one in five: pixels 0..255 -> float32.

    Factors lie within 1 +- 0.4, the hue within a tenth of a full turn: strength 0.5 of Chen et al.
    2020, appendix A (there the four come in random order and hue is that of HSV). `u` [n,6] are
    uniform draws: whether, brightness, contrast, saturation, hue, grey.
    """
    change, brightness, contrast, saturation, hue, drop = u[:, :, None, None, None].unbind(1)
    x = images.float()

    def mean(images: Tensor) -> Tensor:
        return grey(images).mean((1, 2, 3), keepdim=True).expand_as(images)

    anchors: tuple[Callable[[Tensor], Tensor], ...] = (torch.zeros_like, mean, grey)
    for anchor, draw in zip(anchors, (brightness, contrast, saturation)):
        x = torch.lerp(anchor(x), x, 1 + 0.4 * (2 * draw - 1)).clamp(0, 255)
    x = _turn_hue(x, (0.2 * torch.pi * (2 * hue - 1)).flatten()).clamp(0, 255)
    x = torch.where(change < 0.8, x, images.float())
    return torch.where(drop < 0.2, grey(x), x)
