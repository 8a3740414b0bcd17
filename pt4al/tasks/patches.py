"""Tasks about the arrangement of an image's tiles: jigsaw puzzles and relative position."""

import math
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import permutations
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from pt4al.data import views
from pt4al.errors import Refused
from pt4al.rng import stream
from pt4al.tasks.task import Task
from pt4al.training.nets import Inputs, Model

MOST = 9  # tiles of a jigsaw: 9! = 362,880 orders
VALUES = 2**24  # floats that a head holds at once while it scores


def max_hamming(tiles: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Choose orders of `tiles` tiles that differ in many places: uint8 [size,tiles].

    Each is the order with the largest mean Hamming distance to those before it (Noroozi & Favaro
    2016, algorithm 1); of the many with that mean, one whose nearest is farthest; of those, a
    random one. So a small set begins a larger one.
    """
    orders = rng.permutation(np.array(list(permutations(range(tiles))), np.uint8))
    columns = np.ascontiguousarray(orders.T)
    total, nearest = np.zeros(len(orders), np.int32), np.full(len(orders), tiles, np.uint8)
    chosen = [0]
    while len(chosen) < size:
        distance = (columns != columns[:, chosen[-1], None]).sum(0, dtype=np.uint8)
        total += distance
        total[chosen[-1]] = -1 << 24  # never again
        np.minimum(nearest, distance, out=nearest)
        farthest = np.flatnonzero(total == total.max())
        chosen.append(int(farthest[nearest[farthest].argmax()]))
    return orders[chosen]


@lru_cache
def permutation_set(tiles: int, size: int) -> np.ndarray:
    """The orders of a jigsaw of this size, the same in every run: uint8 [size,tiles], read-only."""
    chosen = max_hamming(tiles, size, stream(0, 'permutations', tiles))
    chosen.setflags(write=False)
    return chosen


class Arranged(nn.Module):
    """Which of the arrangements [A,k], k tile numbers each, is shown?

    Maps of the tiles [n*t,dim,h,w] and numbers of arrangements [n,p] -> minus the log posterior of
    each of these when it is shown: [n,p] float32, taken here so that the logits [n,p,A] never stand
    in memory at once.
    """

    arrangements: Tensor

    def __init__(self, dim: int, tiles: int, arrangements: np.ndarray):
        super().__init__()
        self.tiles = tiles
        numbers = torch.from_numpy(arrangements.astype(np.int64))
        self.register_buffer('arrangements', numbers, persistent=False)
        first = nn.Linear(arrangements.shape[1] * dim, 2 * dim)
        self.classify = nn.Sequential(first, nn.ReLU(), nn.Linear(2 * dim, len(arrangements)))

    def logits(self, embedded: Tensor, shown: Tensor) -> Tensor:
        """Embeddings of the tiles [n,t,dim], arrangements shown [n,p] -> [n,p,A]."""
        image = torch.arange(len(embedded), device=embedded.device)[:, None, None]
        return self.classify(embedded[image, self.arrangements[shown]].flatten(2))

    def forward(self, maps: Tensor, shown: Tensor) -> Tensor:
        embedded = maps.mean((2, 3)).unflatten(0, (-1, self.tiles))
        widest = max(self.arrangements.shape[1] * maps.shape[1], len(self.arrangements))
        losses = []
        for part in shown.split(max(1, VALUES // (len(shown) * widest)), 1):
            logits = self.logits(embedded, part).flatten(0, 1).float()
            loss = F.cross_entropy(logits, part.flatten(), reduction='none')
            losses.append(loss.view(part.shape))
        return torch.cat(losses, 1)


@dataclass(frozen=True)
class Tiles(Task):
    """Tell how the tiles of an image are arranged.

    One tile is cut from each cell of a grid, three quarters as long as the cell, so that edges do
    not run on from tile to tile; anywhere in the cell in training, in its middle when scored.
    Every tile is standardised by its own statistics, so that brightness and contrast do not tell
    neighbours either. Training shows up to eight arrangements of an image, scoring all: the
    per-image loss is the exact mean cross-entropy over the set.
    """

    scored: bool = field(default=False, kw_only=True)
    grid: ClassVar[int]  # cells along each side; a task may make it a field
    draws: ClassVar[int] = 8  # arrangements of an image that a training batch shows
    least: ClassVar[int] = 4  # pixels of the smallest tile that shows anything

    def arrangements(self) -> np.ndarray:
        """The set of arrangements [A,k], each k numbers of tiles, which count row by row."""
        raise NotImplementedError

    def cut(self, pixels: Tensor, rng: Generator | None) -> Tensor:
        """uint8 pixels [n,3,h,w] -> standardised tiles [n,grid*grid,3,s,s]."""
        size = max(self.least, math.ceil(min(pixels.shape[2:]) // self.grid * 3 / 4))
        return views.standardise(views.tiles(pixels, self.grid, size, rng))

    def make_batch(self, pixels: Tensor, index: Tensor, rng: Generator) -> tuple[Inputs, Tensor]:
        tiles = self.cut(pixels, None if self.scored else rng).flatten(0, 1)
        n, among, on = len(pixels), len(self.arrangements()), pixels.device
        if self.scored or among <= self.draws:
            shown = torch.arange(among, device=on).expand(n, -1)
        else:
            shown = torch.randint(among, (n, self.draws), generator=rng, device=on)
        return (tiles.contiguous(memory_format=torch.channels_last), shown), shown

    def head(self, dim: int) -> nn.Module:
        return Arranged(dim, self.grid**2, self.arrangements())

    def per_sample_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.float().mean(1)  # the head took the cross-entropy of each target

    def start(self, model: Model, pixels: Tensor, rng: Generator) -> None:
        self.cut(pixels[:1], None)

    def scoring(self, model: Model, pixels: Tensor, rng: Generator) -> Task:
        return replace(self, scored=True)

    def encode(self, pixels: Tensor) -> Tensor:
        return views.standardise(pixels).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Jigsaw(Tiles):
    """Predict in which order of a set the tiles are shown (Noroozi & Favaro 2016).

    A grid of 2 with all 24 orders is usual for images of 32 pixels; the paper has a grid of 3 and
    up to 1,000 orders.
    """

    grid: int = 2  # type: ignore[misc]
    permutations: int = 24

    def __post_init__(self) -> None:
        tiles, size = self.grid**2, self.permutations
        if tiles > MOST:
            raise Refused(f'{tiles} tiles: a jigsaw has {MOST} at most')
        most = math.factorial(tiles)
        if not 2 <= size <= most:
            raise Refused(f'{size} permutations of {tiles} tiles: give from 2 to {most}')

    def arrangements(self) -> np.ndarray:
        return permutation_set(self.grid**2, self.permutations)


@dataclass(frozen=True)
class RelativePosition(Tiles):
    """Predict which neighbour stands beside the middle tile of a grid of 3 (Doersch et al. 2015).

    In training two images of three lose their colours, by each image's own draw, lest fringes of
    colour tell a place in the lens; all are scored in grey.
    """

    grid: ClassVar[int] = 3
    dropped: ClassVar[float] = 2 / 3

    def arrangements(self) -> np.ndarray:
        return np.array([(neighbour, 4) for neighbour in range(9) if neighbour != 4], np.uint8)

    def cut(self, pixels: Tensor, rng: Generator | None) -> Tensor:
        shown = views.grey(pixels)
        if rng is not None:
            draw = torch.rand((len(pixels), 1, 1, 1), generator=rng, device=pixels.device)
            shown = torch.where(draw >= self.dropped, pixels, shown)
        return super().cut(shown, rng)
