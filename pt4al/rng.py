"""Named random streams: `stream(seed, 'cycle', 4, 'query')` is the same generator everywhere.

No code touches a global generator, so no draw depends on how many numbers were drawn before it, and
a run that is picked up in the middle goes on exactly as if it had never stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def _entropy(seed: int, path: tuple[str | int, ...]) -> int:
    return int.from_bytes(hashlib.sha256(json.dumps([seed, *path]).encode()).digest()[:16], 'big')


def stream(seed: int, *path: str | int) -> np.random.Generator:
    """The NumPy generator named by `path` under `seed`."""
    return np.random.default_rng(_entropy(seed, path))


def device_stream(
    seed: int, *path: str | int, device: str | torch.device = 'cpu'
) -> torch.Generator:
    """The torch generator named by `path` under `seed`, on `device`."""
    import torch

    return torch.Generator(device).manual_seed(_entropy(seed, path) % 2**63)


@contextmanager
def initialising(seed: int, *path: str | int) -> Iterator[None]:
    """Make torch's layers draw their weights from a named stream, on the CPU for every device."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_entropy(seed, path) % 2**63)
        yield
