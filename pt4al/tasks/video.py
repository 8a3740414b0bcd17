"""What order frames were taken in; stills become constructed clips by a camera that moves over
them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from pt4al.data import views
from pt4al.data.clips import camera_path, follow, still
from pt4al.errors import Refused
from pt4al.tasks.task import Task
from pt4al.training.nets import Inputs, Model


class Ordered(nn.Module):
    """Pool frames, join those that are shown, then two layers: [n*T,d,h,w], frame numbers [n,k,v]
    -> [n,k,out].

    The trunk sees each frame once, however often it is shown.  A single linear layer would add up
    what each frame says alone; whether one frame lies between two others takes a hidden one.
    """

    def __init__(self, dim: int, out: int, views: int, hidden: int = 128):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim * views, hidden), nn.ReLU(), nn.Linear(hidden, out))

    def forward(self, maps: Tensor, shown: Tensor) -> Tensor:
        frames = maps.mean((2, 3)).unflatten(0, (len(shown), -1))  # [n,T,d]
        clip = torch.arange(len(shown), device=maps.device)[:, None, None]
        return self.net(frames[clip, shown].flatten(2))


@dataclass(frozen=True)
class Frames(Task):
    """What the tasks of this module share: `frames` frames of each clip, in order of time.

    Pixels [n,3,h,w] are stills, and a clip is a camera's straight path over one, drawn anew in
    every batch; pixels [n,T,3,h,w] are clips, of which frames are drawn in training and spread
    evenly in scoring.  `moments` are the paths [N,frames,3] or the frame numbers [N,frames] of a
    scoring, one row an image of the data set.
    """

    frames: int
    moments: Tensor | None = field(default=None, compare=False, repr=False)
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
        even = (
            torch.linspace(0, pixels.shape[1] - 1, self.frames, device=pixels.device).round().long()
        )
        return replace(self, moments=even.expand(len(pixels), -1))

    def encode(self, pixels: Tensor) -> Tensor:
        return views.normalise(still(pixels))

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


# Of frames 0 to 4: three in order, then the same with one from outside in the middle; forwards and
# backwards.
PAIRS = (
    ((1, 2, 3), (1, 0, 3)),
    ((1, 2, 3), (1, 4, 3)),
    ((3, 2, 1), (3, 0, 1)),
    ((3, 2, 1), (3, 4, 1)),
)


@dataclass(frozen=True)
class ShuffleAndLearn(Frames):
    """Tell three frames in order, either way round, from three with a wrong middle one (Misra et
    al. 2016).

    Both tuples of a pair begin and end with the same frames, so only the middle one decides.
    Training shows one pair of each clip, scoring all four; the per-image loss is the mean binary
    cross-entropy, and chance is ln 2.
    """

    frames: int = 5

    def make_batch(self, pixels: Tensor, index: Tensor, rng: Generator) -> tuple[Inputs, Tensor]:
        pairs = torch.tensor(PAIRS, device=pixels.device)  # [4,2,3]
        frames = self._shown(pixels, index, rng)
        if self.moments is None:
            shown = pairs[
                torch.randint(len(pairs), (len(pixels),), generator=rng, device=pixels.device)
            ]
        else:
            shown = pairs.flatten(0, 1).expand(len(pixels), -1, -1)
        in_order = torch.tensor([1.0, 0.0], device=pixels.device).repeat(shown.shape[1] // 2)
        return (frames, shown), in_order.expand(len(pixels), -1)

    def head(self, dim: int) -> nn.Module:
        return Ordered(dim, 1, 3)

    def per_sample_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(
            outputs[..., 0].float(), targets, reduction='none'
        ).mean(1)


@dataclass(frozen=True)
class FrameOrder(Frames):
    """Predict in which order the frames of a clip are shown, up to reversal (Lee et al. 2017).

    Three frames have three such orders, four have twelve (the paper's number).  Every order is
    shown; the per-image loss is the mean cross-entropy, and chance is ln 3 or ln 12.  The paper
    compares frames pair by pair before it joins them; here they are joined at once.
    """

    frames: int = 3

    def make_batch(self, pixels: Tensor, index: Tensor, rng: Generator) -> tuple[Inputs, Tensor]:
        orders = list(permutations(range(self.frames)))
        kinds = sorted({min(order, order[::-1]) for order in orders})
        kind = torch.tensor(
            [kinds.index(min(order, order[::-1])) for order in orders], device=pixels.device
        )
        shown = torch.tensor(orders, device=pixels.device).expand(len(pixels), -1, -1)
        return (self._shown(pixels, index, rng), shown), kind.expand(len(pixels), -1)

    def head(self, dim: int) -> nn.Module:
        orders = len(list(permutations(range(self.frames))))
        return Ordered(dim, orders // 2, self.frames)

    def per_sample_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs.float().transpose(1, 2), targets, reduction='none').mean(1)
