"""Tasks that tell an image from all others: SimCLR and PIRL.

In training the others are the batch or a memory; for scoring they are a bank drawn once from the
pool, so that the loss of an image does not depend on its batch.
"""

import copy
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from pt4al.data import views
from pt4al.errors import Refused
from pt4al.tasks.patches import Jigsaw
from pt4al.tasks.task import Readings, Task, for_scoring, recalibrate, training_inputs
from pt4al.training.execution import float32
from pt4al.training.nets import Inputs, Model

BANK = 4096  # rows of other images that a scored image is compared with
VIEWS = 8  # of an image, or so many times fewer images of a batch, in scoring
SIZE = 128  # of an embedding
DRAWS = 11  # uniform numbers that make one of SimCLR's views
# in place of the cosine of an image with its own row: exp(OWN / temperature) is 0
OWN = -100.0


def _density(others: Tensor) -> Tensor:
    """Log-mean-exp over the rows of other images, mean over views: [n,v,M] -> [n]."""
    known = (others > OWN).sum(2)  # a cosine over any temperature in use lies above
    return (others.logsumexp(2) - known.log()).mean(1)


def distort(pixels: Tensor, u: Tensor) -> Tensor:
    """SimCLR's views [n*v,3,h,w] of uint8 pixels [n,3,h,w], by uniform draws u [n,v,DRAWS]."""
    u = u.flatten(0, 1)
    repeated = pixels.repeat_interleave(len(u) // len(pixels), 0)
    return views.normalise(views.colour_jitter(views.resized_crop(repeated, u[:, :5]), u[:, 5:]))


class Projection(nn.Module):
    """Pool, two layers, then length one: maps [m,dim,h,w] -> [m,SIZE] float32."""

    def __init__(self, dim: int):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, SIZE))

    def forward(self, maps: Tensor) -> Tensor:
        return F.normalize(self.net(maps.mean((2, 3))).float(), dim=1)


@dataclass(frozen=True)
class SimCLR(Task):
    """Find an image's other view among those of its batch (Chen et al. 2020): NT-Xent for CIFAR-10.

    Crop, mirror, colour jitter of strength 0.5, grey, no blur. Per image, the loss is the mean over
    its two views, each against the 2(n - 1) views of the other images. It is scored on eight seeded
    views against one view each of up to 4,096 seeded images: see `ScoredSimCLR`.
    """

    temperature: ClassVar[float] = 0.5

    def make_batch(self, pixels: Tensor, index: Tensor, rng: Generator) -> tuple[Inputs, Tensor]:
        u = torch.rand((len(pixels), 2, DRAWS), generator=rng, device=pixels.device)
        return (distort(pixels, u),), index

    def head(self, dim: int) -> nn.Module:
        return Projection(dim)

    def per_sample_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        z = outputs.float()
        view = torch.arange(len(z), device=z.device)
        similar = z @ z.T / self.temperature
        similar = similar.masked_fill(view == view[:, None], OWN / self.temperature)
        return F.cross_entropy(similar, view ^ 1, reduction='none').view(-1, 2).mean(1)

    def start(self, model: Model, pixels: Tensor, rng: Generator) -> None:
        if len(pixels) < 2:
            raise Refused('a contrastive task tells an image from others: give at least two images')

    @torch.no_grad()
    @float32()
    def scoring(self, model: Model, pixels: Tensor, rng: Generator) -> Task:
        u = torch.rand((len(pixels), VIEWS + 1, DRAWS), generator=rng, device=pixels.device)
        rows = torch.randperm(len(pixels), generator=rng, device=pixels.device)[:BANK]
        bank = [model((distort(pixels[part], u[part, VIEWS:]),)) for part in rows.split(500)]
        return ScoredSimCLR(u[:, :VIEWS], rows, torch.cat(bank))

    def score(self, model: Model, pixels: Tensor, rng: Generator, batch: int = 500) -> Readings:
        return super().score(model, pixels, rng, max(1, batch // VIEWS))


@dataclass(frozen=True)
class ScoredSimCLR(SimCLR):
    """SimCLR as it is scored: InfoNCE of ordered pairs (a, b) of an image's views against a bank.

        -s(a, b) / t + log(exp(s(a, b) / t) + sum over rows m of other images of exp(s(a, m) / t))

    with s the cosine and t the temperature; the loss is the mean over pairs. 'alignment' is one
    minus the mean cosine of the pairs; 'density' is the logarithm of the mean of exp(s / t) over
    the bank, high where the pool is crowded.
    """

    u: Tensor = for_scoring()  # [N,VIEWS,DRAWS] by data-set index
    rows: Tensor = for_scoring()  # [M] data-set indices of the bank's rows
    bank: Tensor = for_scoring()  # [M,SIZE]

    def make_batch(self, pixels: Tensor, index: Tensor, rng: Generator) -> tuple[Inputs, Tensor]:
        return (distort(pixels, self.u[index]),), index

    def per_sample_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        pairs, others = self._compare(outputs, targets)
        return (torch.logaddexp(pairs, others.logsumexp(2)[:, :, None]) - pairs).flatten(1).mean(1)

    def parts(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        pairs, others = self._compare(outputs, targets)
        alignment = 1 - pairs.flatten(1).mean(1) * self.temperature
        return {'alignment': alignment, 'density': _density(others)}

    def _compare(self, outputs: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines over temperature with the other views [n,v,v-1] and the bank's rows [n,v,M]."""
        z = outputs.float().unflatten(0, (len(index), -1))
        among = z @ z.mT / self.temperature
        apart = ~torch.eye(z.shape[1], dtype=torch.bool, device=z.device)
        same = self.rows.eq(index[:, None])[:, None]
        others = (z @ self.bank.T / self.temperature).masked_fill(same, OWN / self.temperature)
        return among[:, apart].view(len(z), z.shape[1], -1), others


class Pirl(nn.Module):
    """f of the image, g of its transforms, and a memory of f for every image of the pool.

    Maps of images [n,dim,h,w] and of their parts [n*p,dim,h',w'], the parts that make each
    transform [n,t,q], data-set indices [n], places [K] from [0,1) in the memory and another memory
    [N,SIZE], if any -> cosines with the image's own row and with those at the places: [n,t+1,1+K]
    float32, of g of each transform, then of f. A place that is the own row reads OWN. In training
    the rows of the batch then move half-way to f.
    """

    memory: Tensor
    momentum = 0.5

    def __init__(self, dim: int, parts: int):
        super().__init__()
        self.image, self.part = nn.Linear(dim, SIZE), nn.Linear(dim, SIZE)
        self.joined = nn.Linear(parts * SIZE, SIZE)
        self.register_buffer('memory', torch.empty(0, SIZE))

    def f(self, maps: Tensor) -> Tensor:
        """Embeddings of length one: [n,dim,h,w] -> [n,SIZE] float32."""
        return F.normalize(self.image(maps.mean((2, 3))).float(), dim=1)

    def g(self, maps: Tensor, orders: Tensor) -> Tensor:
        """... of transforms: [n*p,dim,h',w'], [n,t,q] -> [n,t,SIZE]."""
        parts = self.part(maps.mean((2, 3))).unflatten(0, (len(orders), -1))
        which = torch.arange(len(orders), device=orders.device)[:, None, None]
        return F.normalize(self.joined(parts[which, orders].flatten(2)).float(), dim=2)

    def forward(self, images: Tensor, parts: Tensor, *rest: Tensor) -> Tensor:
        orders, index, places, memory = (*rest, self.memory)[:4]
        f, rows = self.f(images), (places * len(memory)).long()
        v = torch.cat([self.g(parts, orders), f[:, None]], 1)
        # over a temperature of .07 all digits are needed
        with torch.autocast(v.device.type, enabled=False):
            same = v @ memory[index][:, :, None]
            others = (v @ memory[rows].T).masked_fill((rows == index[:, None])[:, None], OWN)
        if self.training:
            moved = torch.lerp(f.detach(), self.memory[index], self.momentum)
            self.memory[index] = F.normalize(moved, dim=1)
        return torch.cat([same, others], 2)


class Apart(Model):
    """A model with one trunk for images and one for parts, of equal weights."""

    def __init__(self, model: Model):
        super().__init__(model.trunk, model.head)
        self.of_parts = copy.deepcopy(model.trunk)

    def forward(self, inputs: Inputs) -> Tensor:
        images, parts, *rest = inputs
        return self.head(self.trunk(images), self.of_parts(parts), *rest)


@torch.no_grad()
@float32()
def _memory(model: Model, pixels: Tensor) -> Tensor:
    """f of every whole image, as the network is now: uint8 pixels [N,3,h,w] -> [N,SIZE]."""
    model.eval()
    rows = [model.head.f(model.trunk(views.normalise(part))) for part in pixels.split(500)]
    return torch.cat(rows)


@dataclass(frozen=True)
class PIRL(Task):
    """Know an image by a transform of it, among other images (Misra & van der Maaten 2020).

    With s the cosine, t the temperature, N others drawn from the memory m, v an embedding f(I) or
    g(I^t), eq. 4 to 6:

        h(m_I, v) = exp(s(m_I, v) / t) / (exp(s(m_I, v) / t) + sum over I' of exp(s(m_I', v) / t))
        NCE(v)    = -log h(m_I, v) - sum over I' of log(1 - h(m_I', v))
        loss      = weight * NCE(g(I^t)) + (1 - weight) * NCE(f(I))

    The second term of NCE lies between log 2 and 1 whatever N. The transform is a jigsaw (four
    tiles in a permuted order). The others are drawn one from each of N equal stretches of the
    memory.

    Scored are all transforms of the set, against f of the final network in place of the memory, at
    up to 4,096 seeded rows; 'alignment' and 'density' as for SimCLR, over transforms. For scoring,
    images and parts get batch-norm statistics of their own, which training mixes.
    """

    permutations: int = 24
    weight: float = 0.5  # lambda in the paper
    negatives: int = 1024
    temperature: ClassVar[float] = 0.07
    orders: Tensor = for_scoring()  # [t,q] parts of every transform that is scored
    places: Tensor = for_scoring()  # [K]
    memory: Tensor = for_scoring()  # [N,SIZE]

    def make_batch(self, pixels: Tensor, index: Tensor, rng: Generator) -> tuple[Inputs, Tensor]:
        images = views.normalise(pixels)
        if self.memory is not None:
            parts, orders = self._parts(pixels, None), self.orders.expand(len(pixels), -1, -1)
            return (images, parts, orders, index, self.places, self.memory), index
        every = self._orders(pixels.device)
        which = torch.randint(len(every), (len(pixels), 1), generator=rng, device=pixels.device)
        places = _places(self.negatives, rng)
        return (images, self._parts(pixels, rng), every[which], index, places), index

    def head(self, dim: int) -> nn.Module:
        return Pirl(dim, self._orders('cpu').shape[1])

    def per_sample_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        same, others = self._split(outputs)
        total = others.logsumexp(2)
        losses = torch.logaddexp(same, total) - same
        losses = losses + F.softplus(others - total[:, :, None]).sum(2)
        return self.weight * losses[:, :-1].mean(1) + (1 - self.weight) * losses[:, -1]

    def parts(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        same, others = (x[:, :-1] for x in self._split(outputs))
        return {'alignment': 1 - same.mean(1) * self.temperature, 'density': _density(others)}

    def start(self, model: Model, pixels: Tensor, rng: Generator) -> None:
        if self.negatives > len(pixels):
            raise Refused(
                f'pirl draws {self.negatives} negatives, but there are {len(pixels)} images: '
                'pirl:negatives=64 does with the fewest, 64; for fewer give another task'
            )
        self._parts(pixels[:1], None)
        model.head.memory = _memory(model, pixels)

    def scoring(self, model: Model, pixels: Tensor, rng: Generator) -> Task:
        orders, places = self._orders(pixels.device), _places(min(BANK, len(pixels)), rng)
        return replace(self, orders=orders, places=places, memory=_memory(model, pixels))

    def score(self, model: Model, pixels: Tensor, rng: Generator, batch: int = 500) -> Readings:
        apart = recalibrate(Apart(model), training_inputs(self, pixels, rng))
        return super().score(apart, pixels, rng, max(1, batch // VIEWS))

    def _split(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines over temperature with the own row [n,t+1] and with the others [n,t+1,K]."""
        x = outputs.float() / self.temperature
        return x[:, :, 0], x[:, :, 1:]

    def _orders(self, device: str | torch.device) -> Tensor:
        """The parts that make each transform of the set: [T,q]."""
        orders = Jigsaw(permutations=self.permutations).arrangements()
        return torch.from_numpy(orders.astype('int64')).to(device)

    def _parts(self, pixels: Tensor, rng: Generator | None) -> Tensor:
        """Tiles of each image in their own order: [n*p,3,h',w']."""
        tiles = Jigsaw().cut(pixels, rng).flatten(0, 1)
        return tiles.contiguous(memory_format=torch.channels_last)


def _places(count: int, rng: Generator) -> Tensor:
    """One draw from each of `count` equal stretches of [0,1): [count] float64."""
    u = torch.rand(count, generator=rng, device=rng.device, dtype=torch.float64)
    return (torch.arange(count, device=rng.device) + u) / count
