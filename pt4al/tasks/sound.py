"""Does this sound belong to this picture?"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from pt4al.data import views
from pt4al.data.clips import still
from pt4al.errors import Refused
from pt4al.tasks.task import Task, for_scoring
from pt4al.training.nets import Inputs, Model, Pooled

SIZE = 128  # numbers that a picture or a sound becomes


class Correspondence(nn.Module):
    """Picture and sound as unit vectors of `SIZE` numbers, their distance as the only evidence.

    Maps [n,d,h,w] of the pictures, spectrograms [s,h',w'], and for every picture the numbers
    [n,1+m] of the sounds it is compared with -> logits [n,1+m].
    """

    def __init__(self, dim: int):
        super().__init__()
        layers: list[nn.Module] = []
        for a, b in ((1, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
        self.sounds = nn.Sequential(*layers, Pooled(64, SIZE))
        self.images = Pooled(dim, SIZE)
        self.fuse = nn.Linear(1, 1)
        # near is a match, and distances start near 1
        nn.init.constant_(self.fuse.weight, -4.0)
        nn.init.constant_(self.fuse.bias, 4.0)

    def forward(self, maps: Tensor, spectrograms: Tensor, pairs: Tensor) -> Tensor:
        pictures = F.normalize(self.images(maps).float(), dim=1)
        sounds = F.normalize(self.sounds(spectrograms[:, None]).float(), dim=1)
        distance = (2 - 2 * (pictures[:, None] * sounds[pairs]).sum(2)).clamp_min(1e-6).sqrt()
        return self.fuse(distance[..., None])[..., 0]


def spectrograms(pixels: Tensor) -> Tensor:
    """Those of images [n,4,h,w] or clips [n,T,4,h,w]: uint8 [n,h,w]."""
    return pixels[:, 3] if pixels.ndim == 4 else pixels[:, 0, 3]


@dataclass(frozen=True)
class AudioVisual(Task):
    """Tell an image's sound from another's (Arandjelovic & Zisserman 2017, fused as in 2018).

    Pixels have a fourth channel, the spectrogram. Training compares each image with its own sound
    and that of one other of the batch, scoring with its own and those of `others` drawn from the
    pool. The per-image loss is the binary cross-entropy, own sound and others weighing half each
    whatever their number, so chance is ln 2 in both.
    """

    others: int = 8
    pool: Tensor = for_scoring()  # [N,h,w] sounds
    drawn: Tensor = for_scoring()  # [N,others] whose sounds each image is compared with
    clips = True

    def start(self, model: Model, pixels: Tensor, rng: Generator) -> None:
        if pixels.shape[-3] != 4:
            raise Refused(f'images of {pixels.shape[-3]} channels have no sound: use digits-sound')
        if len(pixels) < 2:
            raise Refused('a single image has no other to be compared with: give at least two')

    def scoring(self, model: Model, pixels: Tensor, rng: Generator) -> Task:
        drawn = _others(len(pixels), self.others, rng)
        return replace(self, pool=spectrograms(pixels), drawn=drawn)

    def make_batch(self, pixels: Tensor, index: Tensor, rng: Generator) -> tuple[Inputs, Tensor]:
        n, row = len(pixels), torch.arange(len(pixels), device=pixels.device)[:, None]
        sounds = spectrograms(pixels)
        if self.pool is None:
            pairs = torch.cat([row, _others(n, 1, rng)], 1)
        else:
            number = torch.arange(self.others, device=pixels.device)
            sounds = torch.cat([sounds, self.pool[self.drawn[index]].flatten(0, 1)])
            pairs = torch.cat([row, n + row * self.others + number], 1)
        inputs = views.normalise(still(pixels)), sounds.float() / 127.5 - 1, pairs
        return inputs, (pairs == row).float()

    def head(self, dim: int) -> nn.Module:
        return Correspondence(dim)

    def per_sample_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        loss = F.binary_cross_entropy_with_logits(outputs.float(), targets, reduction='none')
        return (loss[:, 0] + loss[:, 1:].mean(1)) / 2


def _others(n: int, each: int, rng: Generator) -> Tensor:
    """For each of n images, `each` draws among all but itself: [n,each]."""
    row = torch.arange(n, device=rng.device)[:, None]
    return (row + torch.randint(1, max(n, 2), (n, each), generator=rng, device=rng.device)) % n
