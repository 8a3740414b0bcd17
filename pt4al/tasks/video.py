"""What order frames were taken in; a camera that moves over stills makes clips of them."""

from dataclasses import dataclass, replace
from itertools import permutations
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from pt4al.data import views
from pt4al.errors import Refused
from pt4al.tasks.task import Task, for_scoring
from pt4al.training.nets import Inputs, Model


def camera_path(clips: int, frames: int, rng: Generator) -> Tensor:
    """Straight paths of constant speed and a slight zoom: x, y and half side of windows
    [clips,frames,3] float32, in units of `grid_sample`, where the still reaches from -1 to 1.

    A window spans about half of the still, never leaves it, and moves by 0.3 to 0.5 of it in all.
    """
    draws = torch.rand((clips, 5), generator=rng, device=rng.device)
    turn, length, across, down, zoom = draws.unbind(1)
    time = torch.linspace(-0.5, 0.5, frames, device=rng.device)
    half = 0.45 * torch.exp(0.2 * (2 * zoom - 1)[:, None] * time)  # .41 to .50
    heading = torch.stack([torch.cos(2 * torch.pi * turn), torch.sin(2 * torch.pi * turn)], 1)
    speed = heading / heading.abs().amax(1, keepdim=True) * (0.6 + 0.4 * length[:, None])
    middle = (2 * torch.stack([across, down], 1) - 1) * (0.5 - speed.abs() / 2)
    return torch.cat([middle[:, None] + speed[:, None] * time[:, None], half[..., None]], 2)


def follow(pixels: Tensor, path: Tensor) -> Tensor:
    """What a camera sees of uint8 stills [n,3,h,w] along paths [n,T,3]: uint8 [n,T,3,h//2,w//2]."""
    height, width = (max(side // 2, 1) for side in pixels.shape[2:])
    x = (torch.arange(width, device=pixels.device) + 0.5) * 2 / width - 1
    y = (torch.arange(height, device=pixels.device) + 0.5) * 2 / height - 1
    centre, half = path[:, :, None, None, :2], path[:, :, None, None, 2:]
    # [n,T,h',w',2]
    grid = centre + half * torch.stack(torch.meshgrid(x, y, indexing='xy'), -1)
    frames = F.grid_sample(
        pixels.float(), grid.flatten(1, 2), padding_mode='border', align_corners=False
    )
    return frames.unflatten(2, (-1, height)).transpose(1, 2).round().to(torch.uint8)


class Ordered(nn.Module):
    """Pool frames, join those that are shown, two layers: [n*T,d,h,w], frames [n,k,v] -> [n,k,out].

    Whether one frame lies between two others takes a hidden layer.
    """

    def __init__(self, dim: int, out: int, views: int):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim * views, 128), nn.ReLU(), nn.Linear(128, out))

    def forward(self, maps: Tensor, shown: Tensor) -> Tensor:
        frames = maps.mean((2, 3)).unflatten(0, (len(shown), -1))  # [n,T,d]
        clip = torch.arange(len(shown), device=maps.device)[:, None, None]
        return self.net(frames[clip, shown].flatten(2))


@dataclass(frozen=True)
class Frames(Task):
    """What the tasks of this module share: `frames` frames of each clip, in order of time.

    Pixels [n,3,h,w] are stills, and a clip is a camera's path over one, drawn anew in every batch;
    pixels [n,T,3,h,w] are clips, frames of which are drawn in training, spread evenly in scoring.
    """

    frames: ClassVar[int]
    moments: Tensor = for_scoring()  # paths [N,frames,3] or frame numbers [N,frames]
    clips = True

    def start(self, model: Model, pixels: Tensor, rng: Generator) -> None:
        if pixels.ndim == 5 and pixels.shape[1] < self.frames:
            raise Refused(
                f'clips of {pixels.shape[1]} frames are too short: this task shows {self.frames} '
                'of each'
            )

    def scoring(self, model: Model, pixels: Tensor, rng: Generator) -> Task:
        if pixels.ndim == 4:
            return replace(self, moments=camera_path(len(pixels), self.frames, rng))
        even = torch.linspace(0, pixels.shape[1] - 1, self.frames, device=pixels.device)
        return replace(self, moments=even.round().long().expand(len(pixels), -1))

    def _shown(self, pixels: Tensor, index: Tensor, rng: Generator) -> Tensor:
        """The frames of each clip as the trunk sees them: [n*frames,3,h',w']."""
        if self.moments is not None:
            moments = self.moments[index]
        elif pixels.ndim == 4:
            moments = camera_path(len(pixels), self.frames, rng)
        else:
            draw = torch.rand(pixels.shape[:2], generator=rng, device=pixels.device)
            moments = draw.argsort(1)[:, : self.frames].sort(1).values
        if pixels.ndim == 4:
            return views.normalise(follow(pixels[:, :3], moments).flatten(0, 1))
        clip = torch.arange(len(pixels), device=pixels.device)[:, None]
        return views.normalise(pixels[clip, moments, :3].flatten(0, 1))


# Of frames 0 to 4: three in order, then the same with one from outside in the middle.
PAIRS = (
    ((1, 2, 3), (1, 0, 3)),
    ((1, 2, 3), (1, 4, 3)),
    ((3, 2, 1), (3, 0, 1)),
    ((3, 2, 1), (3, 4, 1)),
)


@dataclass(frozen=True)
class ShuffleAndLearn(Frames):
    """Tell three frames in order from three with a wrong middle one (Misra et al. 2016).

    Both tuples of a pair begin and end with the same frames. Training shows one pair of each clip,
    scoring all four; the per-image loss is the mean binary cross-entropy, and chance is ln 2.
    """

    frames: ClassVar[int] = 5

    def make_batch(self, pixels: Tensor, index: Tensor, rng: Generator) -> tuple[Inputs, Tensor]:
        pairs = torch.tensor(PAIRS, device=pixels.device)  # [4,2,3]
        frames = self._shown(pixels, index, rng)
        if self.moments is None:
            drawn = torch.randint(4, (len(pixels),), generator=rng, device=pixels.device)
            shown = pairs[drawn]
        else:
            shown = pairs.flatten(0, 1).expand(len(pixels), -1, -1)
        in_order = torch.tensor([1.0, 0.0], device=pixels.device).repeat(shown.shape[1] // 2)
        return (frames, shown), in_order.expand(len(pixels), -1)

    def head(self, dim: int) -> nn.Module:
        return Ordered(dim, 1, 3)

    def per_sample_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        logits = outputs[..., 0].float()
        return F.binary_cross_entropy_with_logits(logits, targets, reduction='none').mean(1)


KINDS = (0, 1, 2, 1, 2, 0)  # of the orders of three frames: one and its reverse are a kind


@dataclass(frozen=True)
class FrameOrder(Frames):
    """Predict in which order the frames of a clip are shown, up to reversal (Lee et al. 2017).

    Three frames have three such orders. Every order is shown; the per-image loss is the mean
    cross-entropy, and chance is ln 3. The paper has four frames, and compares them pair by pair
    before it joins them.
    """

    frames: ClassVar[int] = 3

    def make_batch(self, pixels: Tensor, index: Tensor, rng: Generator) -> tuple[Inputs, Tensor]:
        orders = torch.tensor(list(permutations(range(3))), device=pixels.device)
        kind = torch.tensor(KINDS, device=pixels.device)
        shown = orders.expand(len(pixels), -1, -1)
        return (self._shown(pixels, index, rng), shown), kind.expand(len(pixels), -1)

    def head(self, dim: int) -> nn.Module:
        return Ordered(dim, 3, 3)

    def per_sample_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs.float().transpose(1, 2), targets, reduction='none').mean(1)
