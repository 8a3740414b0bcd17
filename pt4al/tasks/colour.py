"""Colorization: from the lightness of an image tell its colours, in four ways.

n images of h x w pixels; Q bins of colour; s: side of the predicted colours, half that of images
of up to 64 pixels and an eighth of that of larger ones.
"""

from dataclasses import dataclass, replace
from functools import cache

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from pt4al.data import views
from pt4al.errors import Refused
from pt4al.rng import device_stream
from pt4al.tasks.task import Task, for_scoring
from pt4al.training.nets import Dense, Inputs, Model, at_size, map_size

LIGHT, SPREAD = 50.9, 24.3  # mean and standard deviation of L over CIFAR-10's training pixels
GRID = 10  # side of a bin of colours, in Lab units
UNIT = 10.0  # of Lab: the standard deviation of the regressions' Gaussian likelihood

HIDDEN = 64  # maps of `Latent`


@cache
def gamut(device: torch.device | str = 'cpu') -> Tensor:
    """Centres (a, b) [Q,2] of the square bins, in Lab units, that any 8-bit sRGB colour falls into.

    Q is 261; Zhang et al. 2016 list 313, some of which no sRGB colour reaches.
    """
    level = torch.arange(256, dtype=torch.uint8)
    face = F.pad(torch.cartesian_prod(level, level), (0, 1))
    # darkened at equal (a, b), a channel ends at 0
    dark = torch.stack([face.roll(axis, 1) for axis in range(3)])
    a, b = (views.lab(dark.transpose(1, 2)[..., None])[:, 1:] / GRID).round().long().unbind(1)
    half = 128 // GRID + 1
    met = torch.zeros(2 * half + 1, 2 * half + 1, dtype=torch.bool)
    met[a + half, b + half] = True
    return ((met.nonzero() - half) * float(GRID)).to(device)


def annealed_mean(logits: Tensor, bins: Tensor, temperature: float = 0.38) -> Tensor:
    """Colours (a, b) [n,2,s,s] of logits [n,Q,s,s] over bins [Q,2] (Zhang et al. 2016, eq. 5)."""
    return torch.einsum('nqhw,qc->nchw', (logits.float() / temperature).softmax(1), bins)


class Painter(Task):
    """What all four share: they need images in colour, and paint them."""

    def start(self, model: Model, pixels: Tensor, rng: Generator) -> None:
        if bool((pixels == pixels[:, :1]).all()):
            raise Refused(
                f'all {len(pixels)} images are grey, so there is no colour to predict: choose a '
                'task other than colorization, or images in colour'
            )

    def pictures(self, model: Model, pixels: Tensor) -> Tensor:
        """Images [n,3,h,w] in the model's colours: uint8."""
        raise NotImplementedError

    def paintings(self, model: Model, pixels: Tensor) -> dict[str, Tensor]:
        return {'grey': views.grey(pixels).contiguous(), 'painted': self.pictures(model, pixels)}


@dataclass(frozen=True)
class Colour(Painter):
    """What the first three share: L in, standardised, in three channels; ab [n,2,s,s] out.

    Readings beside the loss: `colourfulness`, the mean chroma in Lab units, and
    `loss_colour_corrected`, the loss against that of a guess from the colours of the scored pool.
    """

    marginal: Tensor = for_scoring()

    def encode(self, pixels: Tensor) -> Tensor:
        light = (views.lab(pixels)[:, :1] - LIGHT) / SPREAD
        return light.repeat(1, 3, 1, 1).contiguous(memory_format=torch.channels_last)

    def target(self, pixels: Tensor) -> Tensor:
        """ab of uint8 pixels [n,3,h,w] at the size of `Dense`: [n,2,s,s], in Lab units."""
        height, width = map_size(*pixels.shape[2:])
        return F.adaptive_avg_pool2d(views.lab(pixels)[:, 1:], (4 * height, 4 * width))

    def make_batch(self, pixels: Tensor, index: Tensor, rng: Generator) -> tuple[Inputs, Tensor]:
        return (self.encode(pixels),), self.target(pixels)

    def scoring(self, model: Model, pixels: Tensor, rng: Generator) -> Task:
        parts = [self.statistic(self.target(part)) for part in pixels.split(1000)]
        return replace(self, marginal=torch.stack(parts).sum(0))

    def statistic(self, ab: Tensor) -> Tensor:
        """What summed over the images of a pool gives its `marginal`."""
        raise NotImplementedError

    def corrected(self, loss: Tensor, ab: Tensor) -> Tensor:
        """Loss [n] set against that of the marginal on the same colours."""
        raise NotImplementedError

    def parts(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        out = {'colourfulness': targets.norm(dim=1).mean((1, 2))}
        if self.marginal is not None:
            loss = self.per_sample_loss(outputs, targets)
            out['loss_colour_corrected'] = self.corrected(loss, targets)
        return out

    def colours(self, model: Model, pixels: Tensor) -> Tensor:
        """The ab [n,2,s,s] that a model tells from the lightness of pixels [n,3,h,w]."""
        raise NotImplementedError

    @torch.no_grad()
    def pictures(self, model: Model, pixels: Tensor) -> Tensor:
        return paint(pixels, self.colours(model.eval(), pixels))


def paint(pixels: Tensor, ab: Tensor) -> Tensor:
    """Pixels [n,3,h,w] with their lightness and colours [n,2,s,s], smoothly enlarged: uint8."""
    light = views.lab(pixels)[:, :1]
    return views.rgb(torch.cat([light, F.interpolate(ab, pixels.shape[2:], mode='bilinear')], 1))


@dataclass(frozen=True)
class Colorization(Colour):
    """Classify the colour of every pixel into the bins of `gamut` (Zhang et al. 2016).

    The loss of an image is the mean cross-entropy of the nearest bins over its pixels, without the
    paper's weights for rare colours. `loss_colour_corrected` is the loss less the cross-entropy of
    the pool's marginal distribution over bins, in nats: below 0 where the network beats it.
    """

    def head(self, dim: int) -> nn.Module:
        return Dense(dim, len(gamut()), 2)

    def nearest(self, ab: Tensor) -> Tensor:
        """Number of the bin whose centre is nearest to each colour: [n,2,s,s] -> [n,s,s] int64."""
        bins = gamut(ab.device)
        flat = ab.movedim(1, -1).flatten(0, -2)
        gap = torch.addmm(bins.square().sum(1), flat, bins.T, alpha=-2)
        return gap.argmin(1).view(ab[:, 0].shape)

    def per_sample_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        right = self.nearest(targets)
        # over the last axis the soft-max is twice as fast
        flat = outputs.float().movedim(1, -1).flatten(0, -2)
        losses = F.cross_entropy(flat, right.flatten(), reduction='none')
        return losses.view(right.shape).mean((1, 2))

    def statistic(self, ab: Tensor) -> Tensor:
        return torch.bincount(self.nearest(ab).flatten(), minlength=len(gamut()))

    def corrected(self, loss: Tensor, ab: Tensor) -> Tensor:
        # one more each: no bin is impossible
        log_share = ((self.marginal + 1) / (self.marginal + 1).sum()).log()
        return loss + log_share[self.nearest(ab)].mean((1, 2))

    def colours(self, model: Model, pixels: Tensor) -> Tensor:
        return annealed_mean(model((self.encode(pixels),)), gamut(pixels.device))


@dataclass(frozen=True)
class Regression(Colour):
    """Predict ab by least squares (Zhang et al. 2016, eq. 1).

    The loss of an image is half the squared error of (a, b) in units of 10, averaged over pixels: a
    Gaussian likelihood up to a constant. `loss_colour_corrected` is its ratio to the same of the
    pool's mean colour: 1 for a network that learnt nothing.
    """

    def head(self, dim: int) -> nn.Module:
        return Dense(dim, 2, 2)

    def error(self, predicted: Tensor, ab: Tensor) -> Tensor:
        """Half the squared error of colours [n,2,s,s], or [2,1,1], in units of 10: [n]."""
        return (predicted - ab / UNIT).square().sum(1).mean((1, 2)) / 2

    def per_sample_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.error(outputs.float(), targets)

    def statistic(self, ab: Tensor) -> Tensor:
        return torch.cat([ab.double().mean((2, 3)).sum(0), ab.new_tensor([len(ab)])])

    def corrected(self, loss: Tensor, ab: Tensor) -> Tensor:
        mean = (self.marginal[:2] / self.marginal[2] / UNIT).float()[:, None, None]
        # an error of one Lab unit is invisible
        return loss / self.error(mean, ab).clamp_min(0.5 / UNIT**2)

    def colours(self, model: Model, pixels: Tensor) -> Tensor:
        return UNIT * model((self.encode(pixels),)).float()


class Latent(nn.Module):
    """A conditional variational auto-encoder: maps [n,d,h,w], ab [n,2,16hw] and noise [n,latent] ->
    colours, mean and log-variance of z [n, 2*16hw + 2*latent].
    """

    def __init__(self, dim: int, latent: int):
        super().__init__()
        first, second = nn.Conv2d(2, HIDDEN // 2, 3, 2, 1), nn.Conv2d(HIDDEN // 2, HIDDEN, 3, 2, 1)
        self.seen = nn.Sequential(first, nn.ReLU(), second, nn.ReLU())
        self.joint = nn.Sequential(nn.Conv2d(dim + HIDDEN, HIDDEN, 3, 1, 1), nn.ReLU())
        self.posterior = nn.Linear(HIDDEN, 2 * latent)
        self.decoder = Dense(dim + latent, 2, 2)

    def decode(self, maps: Tensor, z: Tensor) -> Tensor:
        """Colours [n,2,4h,4w] of maps [n,d,h,w] and z [n,latent]."""
        everywhere = z[:, :, None, None].expand(-1, -1, *maps.shape[2:])
        return self.decoder(torch.cat([maps, everywhere], 1))

    def forward(self, maps: Tensor, ab: Tensor, noise: Tensor) -> Tensor:
        colours = self.seen(ab.unflatten(2, [4 * side for side in maps.shape[2:]]))
        joint = self.joint(torch.cat([maps, colours], 1)).mean((2, 3))
        mean, log_variance = self.posterior(joint).float().chunk(2, 1)
        z = mean + noise * (log_variance / 2).exp()
        return torch.cat([self.decode(maps, z).flatten(1), mean, log_variance], 1)


@dataclass(frozen=True)
class Diverse(Regression):
    """Many colourings of one image, by `Latent` (Sohn et al. 2015; Deshpande et al. 2017).

    In training z is one draw of its posterior given colours and lightness; the prior is normal.
    The loss of an image is that of `Regression` plus the Kullback-Leibler divergence of posterior
    and prior, a pixel: the negative evidence lower bound. It is scored at the posterior's mean.
    Parts `reconstruction` and `divergence` sum to the loss.
    """

    latent: int = 16

    def head(self, dim: int) -> nn.Module:
        return Latent(dim, self.latent)

    def make_batch(self, pixels: Tensor, index: Tensor, rng: Generator) -> tuple[Inputs, Tensor]:
        (light,), ab = super().make_batch(pixels, index, rng)
        noise = torch.zeros(len(pixels), self.latent, device=pixels.device)
        if self.marginal is None:  # in training
            noise.normal_(generator=rng)
        return (light, ab.flatten(2) / UNIT, noise), ab

    def terms(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The parts, [n] each, whose sum is the loss."""
        size = targets[0].numel()
        mean, log_variance = outputs[:, size:].float().chunk(2, 1)
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1) / 2
        error = self.error(outputs[:, :size].float().view_as(targets), targets)
        return {'reconstruction': error, 'divergence': divergence / (size / 2)}

    def per_sample_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        terms = self.terms(outputs, targets)
        return terms['reconstruction'] + terms['divergence']

    def parts(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return super().parts(outputs, targets) | self.terms(outputs, targets)

    def colours(self, model: Model, pixels: Tensor) -> Tensor:
        # the most probable colouring
        z = torch.zeros(len(pixels), self.latent, device=pixels.device)
        return UNIT * model.head.decode(model.trunk(self.encode(pixels)), z)

    @torch.no_grad()
    def colourings(self, model: Model, pixels: Tensor, count: int, rng: Generator) -> Tensor:
        """Colourings of each of pixels [n,3,h,w], by draws of z: uint8 [n,count,3,h,w]."""
        maps = model.eval().trunk(self.encode(pixels)).repeat_interleave(count, 0)
        z = torch.randn(len(maps), self.latent, generator=rng, device=pixels.device)
        painted = paint(pixels.repeat_interleave(count, 0), UNIT * model.head.decode(maps, z))
        return painted.unflatten(0, (len(pixels), count))

    def paintings(self, model: Model, pixels: Tensor) -> dict[str, Tensor]:
        rng = device_stream(0, 'colourings', device=pixels.device)
        several = self.colourings(model, pixels, 3, rng).unbind(1)
        variants = {f'variant {k + 1}': each for k, each in enumerate(several)}
        return super().paintings(model, pixels) | variants


@dataclass(frozen=True)
class Reproduced(Painter):
    """As a reproduction ran it: grey in, sigmoids out, squared error to *standardised* RGB.

    A sigmoid stays in 0..1 while standardised channels lie in about -2..2, so no network gets below
    `loss_floor`, the loss of the nearest image in reach: it tells of contrast and brightness.
    """

    def encode(self, pixels: Tensor) -> Tensor:
        return views.normalise(views.grey(pixels))

    def make_batch(self, pixels: Tensor, index: Tensor, rng: Generator) -> tuple[Inputs, Tensor]:
        return (self.encode(pixels),), views.normalise(pixels)

    def head(self, dim: int) -> nn.Module:
        return nn.Sequential(Dense(dim, 3, 3), nn.Sigmoid())

    def per_sample_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        painted = at_size(outputs.float(), *targets.shape[2:])
        return (painted - targets).square().mean((1, 2, 3))

    def parts(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {'loss_floor': self.per_sample_loss(targets.clamp(0, 1), targets)}

    @torch.no_grad()
    def pictures(self, model: Model, pixels: Tensor) -> Tensor:
        """The outputs for images [n,3,h,w] with the standardisation undone: uint8."""
        out = at_size(model.eval()((self.encode(pixels),)).float(), *pixels.shape[2:])
        constants = (views.constant(of, pixels.device) for of in (views.MEAN, views.STD))
        mean, std = (of[:, None, None] for of in constants)
        return ((out * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
