"""What `fit` and `score` need of a pretext task; n images a batch, any number of views of each, d
maps of the trunk.
"""

from __future__ import annotations

from torch import Generator, Tensor, nn

from pt4al.data import views
from pt4al.tasks import score
from pt4al.training.nets import Inputs, Model


class Task:
    """A question about images that needs no label, and one loss per image; the first three methods
    make a task.

    `fit` minimises the mean of the very `per_sample_loss` that `score` records.
    """

    def make_batch(self, pixels: Tensor, index: Tensor, rng: Generator) -> tuple[Inputs, Tensor]:
        """uint8 pixels [n,3,h,w] and their data-set indices [n] -> (inputs, targets).

        Inputs of four dimensions are images [n * views, 3, h, w] and pass through the trunk; the
        head sees the maps that come out, and all other inputs (say, which permutation, or indices)
        as they are.
        """
        raise NotImplementedError

    def head(self, dim: int) -> nn.Module:
        """The layers on top of a trunk with `dim` output maps."""
        raise NotImplementedError

    def per_sample_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """One finite float32 loss per image: [n]."""
        raise NotImplementedError

    def start(self, model: Model, pixels: Tensor, rng: Generator) -> None:
        """Called once before training with all pixels [N,3,h,w]: refuse what the task cannot use,
        fill memories.
        """

    def scoring(self, model: Model, pixels: Tensor, rng: Generator) -> Task:
        """The task as it is scored: all views of its set, without draws where the loss can be had
        exactly.
        """
        return self

    def score(
        self, model: Model, pixels: Tensor, rng: Generator, batch: int = 500
    ) -> dict[str, Tensor]:
        """One reading of all pixels [N,3,h,w]: 'loss' [N], and what else the task tells of each
        image, [N] each.
        """
        return score.readings(model, self.scoring(model.eval(), pixels, rng), pixels, rng, batch)

    def parts(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Further readings per image, [n] each: what the loss is made of, or the loss corrected for
        a confound.
        """
        return {}

    def encode(self, pixels: Tensor) -> Tensor:
        """Whole images [n,3,h,w] as the trunk is used to them, for an evaluation of what it has
        learnt.
        """
        return views.normalise(pixels)

    def paintings(self, model: Model, pixels: Tensor) -> dict[str, Tensor]:
        """What a task that paints makes of pixels [n,3,h,w]: named pictures, uint8 of the same
        shape; else none.
        """
        return {}
