"""Painting what a hole in the image hides."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from pt4al.data import views
from pt4al.errors import Refused
from pt4al.tasks.task import Task
from pt4al.training.nets import Dense, Inputs, Model, at_size

FLOOR = 0.1  # added to the variance in a hole, of which normalised pixels have about 1


@dataclass(frozen=True)
class ContextEncoder(Task):
    """Paint what a hole hides from what lies around it (Pathak et al. 2016, no adversarial loss).

    One hole, in the mean colour, lies in the middle of every cell of a grid, each in a view of its
    own. It is half as high and wide as the image: with a grid of 2 the holes are the quadrants,
    with a grid of 1 it is the paper's central region. The decoder paints the whole image and the
    loss looks into the hole only.

    The per-image loss is the mean over its holes of the mean squared error divided by the variance
    of what is hidden, within colour channels: 1 is a hole painted in its own mean colour, so that
    texture as such is not difficult (compare the normalised pixels of He et al. 2022).
    """

    grid: int = 2

    def masks(self, pixels: Tensor) -> Tensor:
        """Which pixels of images [n,3,h,w] each view hides: bool [grid*grid,1,h,w]."""
        rows, columns = (self._hidden(side, pixels.device) for side in pixels.shape[2:])
        return (rows[:, None, :, None] & columns[None, :, None, :]).flatten(0, 1)[:, None]

    def _hidden(self, side: int, device: torch.device) -> Tensor:
        """Along one side, which pixels the hole of each cell hides: bool [grid,side]."""
        hole, cell = side // 2, side // self.grid
        if not hole:
            raise Refused(f'no hole fits into {side} pixels: give larger images')
        cells = cell * torch.arange(self.grid, device=device)[:, None]
        place = torch.arange(side, device=device) - cells - (cell - hole) // 2
        return (place >= 0) & (place < hole)

    def make_batch(self, pixels: Tensor, index: Tensor, rng: Generator) -> tuple[Inputs, Tensor]:
        images = views.normalise(pixels)
        shown = images[:, None].masked_fill(self.masks(pixels), 0).flatten(0, 1)
        return (shown.contiguous(memory_format=torch.channels_last),), images

    def head(self, dim: int) -> nn.Module:
        return Dense(dim, 3, 3)

    def painted(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What the decoder paints, at the images' size: [n,views,3,h,w] float32."""
        return at_size(outputs, *targets.shape[2:]).float().unflatten(0, (len(targets), -1))

    def _error_and_variance(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mean squared error in each hole, and the variance of what it hides: [n,views] each."""
        masks = self.masks(targets).float()
        area = masks.sum((1, 2, 3))  # [views]
        hidden = targets[:, None]
        mean = (hidden * masks).sum((3, 4), keepdim=True) / area[:, None, None, None]
        error = (self.painted(outputs, targets) - hidden).square() * masks
        deviation = (hidden - mean).square() * masks
        return error.sum((3, 4)).mean(2) / area, deviation.sum((3, 4)).mean(2) / area

    def per_sample_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        error, variance = self._error_and_variance(outputs, targets)
        return (error / (variance + FLOOR)).mean(1)

    def parts(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Means over the holes of the squared error, and of the variance of what they hide."""
        error, variance = self._error_and_variance(outputs, targets)
        return {'squared_error': error.mean(1), 'variance': variance.mean(1)}

    def start(self, model: Model, pixels: Tensor, rng: Generator) -> None:
        self.masks(pixels)

    def paintings(self, model: Model, pixels: Tensor) -> dict[str, Tensor]:
        """What the first view shows, and each hole as its own view paints it, side by side."""
        shown, painted = pictures(model, self, pixels)
        masks = self.masks(pixels)
        holes = torch.where(masks.any(0), (painted * masks[None]).sum(1).to(torch.uint8), pixels)
        return {'hole': shown[:, 0].contiguous(), 'painted': holes}


@torch.no_grad()
def pictures(model: Model, task: ContextEncoder, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """What the network sees of pixels [n,3,h,w], and with holes painted: uint8 [n,views,3,h,w]."""
    index = torch.arange(len(pixels), device=pixels.device)
    inputs, images = task.make_batch(pixels, index, torch.Generator(pixels.device))
    shown = inputs[0].unflatten(0, (len(pixels), -1))
    painted = task.painted(model.eval()(inputs), images)
    return _bytes(shown), _bytes(torch.where(task.masks(pixels), painted, shown))


def _bytes(images: Tensor) -> Tensor:
    """Undo `views.normalise`: float32 [...,3,h,w] -> uint8 of the same shape."""
    constants = (views.constant(of, images.device) for of in (views.MEAN, views.STD))
    mean, std = (of[:, None, None] * 255 for of in constants)
    return (images * std + mean).round().clamp(0, 255).to(torch.uint8)
