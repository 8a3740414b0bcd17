"""`--finetune`: the network that makes the features, trained on the labels so far."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pt4al.data import views
from pt4al.own import features
from pt4al.own.folder import Tree
from pt4al.own.labels import Labels
from pt4al.own.rounds import Round
from pt4al.rng import device_stream
from pt4al.training import fit
from pt4al.training.execution import execution
from pt4al.training.nets import Inputs, Model

# part of a round's key by its recipe
BATCH, SCHEDULE = 32, fit.Schedule(epochs=5, lr=0.001, milestones=(4,))
# a new copy of a network, inputs -> features [n,d], and what makes its inputs
Load = Callable[[], tuple[nn.Module, features.Encode]]


class Trunk(nn.Module):
    """A network to features [n,d] of length 1, never in training mode: for the spreads that batch
    norms use, a few labels are too few.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(self.net(images))

    def train(self, mode: bool = True) -> Trunk:
        """Stay in it."""
        return super().train(False)


def embedded(tree: Tree, known: Labels, r: Round, x: Tensor, load: Load, scratch: Path) -> Tensor:
    """Features [N,d] of all images by the network of a round, trained together with a linear head
    that starts as the classifier on the features x [N,d] as they were (Kumar et al. 2022).

    Each pass and the features are saved in `scratch`, from where an interrupted round goes on.
    """
    chosen = execution()
    device = chosen.device
    net, encode = load()

    def pixels(part: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(part)).to(device)

    fitted = features.classifier(features.unit(x.cpu().numpy()[known.index]), known.label)
    linear = np.c_[fitted.coef_, fitted.intercept_]
    if len(linear) == 1:  # two classes have one row
        linear = np.concatenate([0 * linear, linear])
    head = nn.Linear(x.shape[1], len(linear))
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(linear[:, :-1]))
        head.bias.copy_(torch.from_numpy(linear[:, -1]))
    model = Model(Trunk(net), head).to(device)
    label, rows = torch.from_numpy(known.label).to(device), torch.arange(len(known.label))

    def batches(epoch: int) -> Iterator[tuple[Inputs, Tensor]]:
        rng = device_stream(r.seed, 'finetune', r.cycle, epoch, device=device)
        for part in fit.minibatches(rows.to(device), BATCH, rng):
            images = pixels(tree.pixels[known.index[part.cpu().numpy()]])
            yield (encode(views.crop_flip(images, rng, tree.size // 8)),), label[part]

    loss, checkpoint = fit.classification_loss, scratch / 'fit.pt'
    fit.fit(model, batches, loss, SCHEDULE, chosen, len(rows), 'fine-tuning', checkpoint)

    @torch.inference_mode()
    def embed(part: np.ndarray) -> np.ndarray:
        return model.trunk(encode(pixels(part))).half().cpu().numpy()

    made = features.embedded(tree.pixels, scratch / 'features.npz', embed)
    return torch.from_numpy(made).float().to(device)
