"""Named random streams: `stream(seed, 'cycle', 4, 'query')` is the same generator wherever and
whenever it is asked for.

No code here touches a global generator, so no draw depends on how many numbers were drawn before
it, and a run that is picked up in the middle goes on exactly as if it had never stopped.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def _entropy(seed: int, path: tuple[str | int, ...]) -> int:
    return int.from_bytes(hashlib.sha256(json.dumps([seed, *path]).encode()).digest()[:16], 'big')


def stream(seed: int, *path: str | int) -> np.random.Generator:
    """Return the NumPy generator named by `path` under `seed`."""
    return np.random.default_rng(_entropy(seed, path))


def device_stream(
    seed: int, *path: str | int, device: str | torch.device = 'cpu'
) -> torch.Generator:
    """Return the torch generator named by `path` under `seed`, living on `device`."""
    import torch

    return torch.Generator(device).manual_seed(_entropy(seed, path) % 2**63)


@contextmanager
def initialising(seed: int, *path: str | int):
    """Make torch's layer initialisation draw from a named stream, on the CPU so that every device
    starts equal.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_entropy(seed, path) % 2**63)
        yield
