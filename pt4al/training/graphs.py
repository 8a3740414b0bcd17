"""A training step recorded as a CUDA graph and replayed: the same kernels on the same numbers,
whose launching would take longer than they do. On a CPU nothing is recorded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from threading import get_ident
from typing import Any

import torch
from torch import Tensor

from pt4al.progress import log
from pt4al.training.nets import Inputs

# one step of training; its outputs and losses
Step = Callable[[Inputs, Tensor], tuple[Tensor, Tensor]]
# steps that are launched before one is recorded: libraries choose their kernels in these
FIRST = 3


@contextmanager
def stream(device: str) -> Iterator[None]:
    """On CUDA, this thread's stream beside the default one, which cannot be recorded."""
    if not device.startswith('cuda'):
        yield
        return
    side = _side(device, get_ident())
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        yield
    torch.cuda.current_stream(device).wait_stream(side)


@cache
def _side(device: str, thread: int) -> torch.cuda.Stream:
    # one for all epochs: torch keeps the memory of each stream for itself
    return torch.cuda.Stream(device)


@dataclass
class Recorded:
    """A step that is replayed for every shape of batch on the GPU that it has met `FIRST` times.

    What the step reads besides its arguments is read anew by every replay if it is a tensor, and
    stays as it was recorded if it is a number. A step that waits for the device cannot be recorded.
    """

    step: Step
    met: Counter[tuple] = field(default_factory=Counter)
    graphs: dict[tuple, tuple[torch.cuda.CUDAGraph, Inputs, Any]] = field(default_factory=dict)

    def __call__(self, inputs: Inputs, targets: Tensor) -> tuple[Tensor, Tensor]:
        batch = (*inputs, targets)
        if not all(isinstance(x, Tensor) and x.is_cuda for x in batch):
            return self.step(inputs, targets)
        shape = tuple((x.shape, x.stride(), x.dtype) for x in batch)
        self.met[shape] += 1
        if shape not in self.graphs and (
            self.met[shape] <= FIRST or not self._record(shape, batch)
        ):
            return self.step(inputs, targets)
        graph, places, results = self.graphs[shape]
        for place, x in zip(places, batch):
            place.copy_(x)
        graph.replay()
        return results

    def _record(self, shape: tuple, batch: Inputs) -> bool:
        """Whether a graph of the step could be made; nothing is trained by making it."""
        places, graph = tuple(torch.empty_like(x) for x in batch), torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        if free < total / 4:
            torch.cuda.empty_cache()  # of graphs that are gone: none can be freed while recording
        try:
            graph.capture_begin(capture_error_mode='thread_local')
            try:
                results = self.step(places[:-1], places[-1])
            finally:
                graph.capture_end()
        except RuntimeError as error:
            reason = str(error).partition('\n')[0]
            log.info('steps are launched one by one, since one cannot be recorded: %s', reason)
            self.met[shape] = -1 << 62  # never again
            return False
        self.graphs[shape] = graph, places, results
        return True
