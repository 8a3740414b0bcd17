"""The same training and scoring as PyTorch's tutorials write them: what our speed is measured
against, and nothing else.

The method's release is in this style: a loader with two worker processes, transforms of one PIL
image at a time, float32 in NCHW, and a wait for the device in every step.  Its rotation runs the
four views one after another, its scoring one image at a time.  It decodes image files with cv2;
here the images are in memory, which is in the reference's favour.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from pt4al.data.views import MEAN, STD

WORKERS = 2  # of the release's loaders


def plain() -> transforms.Compose:
    """A PIL image as the network takes it: float32 [3,h,w]."""
    return transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])


def augmented(side: int = 32) -> transforms.Compose:
    """`plain` after a random crop of the padded image and a random flip."""
    return transforms.Compose(
        [
            transforms.RandomCrop(side, padding=4),
            transforms.RandomHorizontalFlip(),
            *plain().transforms,
        ]
    )


class Pictures(Dataset):
    """PIL images of uint8 pixels [N,3,h,w] and labels [N]; item i is (transformed image, label)."""

    def __init__(
        self, pixels: np.ndarray, labels: np.ndarray, transform: Callable[[Image.Image], Tensor]
    ):
        self.images = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
        self.labels, self.transform = labels, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[i])), int(self.labels[i])


class Turned(Pictures):
    """Item i is the four turns of image i, each transformed by itself, and which they are:
    ([3,h,h],) * 4, [4].
    """

    def __getitem__(self, i: int) -> tuple[list[Tensor], Tensor]:
        turned = [
            Image.fromarray(np.ascontiguousarray(np.rot90(self.images[i], k))) for k in range(4)
        ]
        return [self.transform(image) for image in turned], torch.arange(4)


def loader(
    pictures: Pictures,
    batch: int,
    rng: torch.Generator,
    shuffle: bool = True,
    workers: int = WORKERS,
) -> DataLoader:
    """Batches by worker processes, which start with every pass, as in the release."""
    return DataLoader(pictures, batch, shuffle=shuffle, num_workers=workers, generator=rng)


def optimiser(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """SGD with the momentum and weight decay of the release."""
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)


def classify(
    model: nn.Module, batches: DataLoader, optimiser: torch.optim.Optimizer, device: str
) -> float:
    """Train a classifier for one epoch; the mean of its batches' losses."""
    criterion, total = nn.CrossEntropyLoss(), 0.0
    model.train()
    for images, labels in batches:
        images, labels = images.to(device), labels.to(device)
        optimiser.zero_grad()
        loss = criterion(model((images,)), labels)
        loss.backward()
        optimiser.step()
        total += loss.item()
    return total / len(batches)


def rotate(
    model: nn.Module, batches: DataLoader, optimiser: torch.optim.Optimizer, device: str
) -> float:
    """Train on rotations for one epoch, four forward passes a step; the mean of its batches'
    losses.
    """
    criterion, total = nn.CrossEntropyLoss(), 0.0
    model.train()
    for views, turns in batches:
        turns = turns.to(device)
        optimiser.zero_grad()
        loss = (
            sum(criterion(model((view.to(device),)), turns[:, k]) for k, view in enumerate(views))
            / 4
        )
        loss.backward()
        optimiser.step()
        total += loss.item()
    return total / len(batches)


@torch.no_grad()
def rotation_losses(model: nn.Module, batches: DataLoader, device: str) -> Iterator[float]:
    """The rotation loss of each image, from batches of one: the mean over its four views, each a
    pass of its own.
    """
    criterion = nn.CrossEntropyLoss()
    model.eval()
    for views, turns in batches:
        turns = turns.to(device)
        yield (
            sum(criterion(model((view.to(device),)), turns[:, k]) for k, view in enumerate(views))
            / 4
        ).item()
