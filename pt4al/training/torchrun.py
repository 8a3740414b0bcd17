"""One pretext training by the processes that torchrun starts, on a GPU each or on shares of the
CPU's cores:

    torchrun --nproc-per-node=2 -m pt4al run pretext dataset=cifar10 width=64

What they do together is in `distributed`.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist

from pt4al.errors import Refused
from pt4al.experiments import store
from pt4al.tasks import family
from pt4al.training.distributed import rank
from pt4al.training.execution import cores

# tasks whose loss, memory or turn belongs to the whole minibatch
WHOLE = ('simclr', 'pirl', 'multitask')


def check(words: Sequence[str]) -> None:
    """Refuse the words of a command that several processes cannot carry out together."""
    if list(words[:2]) != ['run', 'pretext']:
        raise Refused(
            f'several processes train a pretext task only, not {" ".join(words[:2])!r}: leave torchrun out'
        )
    task = next((word.partition('=')[2] for word in words if word.startswith('task=')), 'rotation')
    if family(task) in WHOLE:
        raise Refused(f'{task} needs its minibatch whole: leave torchrun out')


@contextmanager
def together(words: Sequence[str]) -> Iterator[None]:
    """Join the processes that torchrun started; all but the first are mute.

    The first one writes results; the others' go into a folder that is deleted at the end.
    """
    check(words)
    place = os.environ.get('PT4AL_DEVICE') or ('cuda' if torch.cuda.is_available() else 'cpu')
    local, here = int(os.environ['LOCAL_RANK']), int(os.environ['LOCAL_WORLD_SIZE'])
    if cuda := place.startswith('cuda'):
        if local >= torch.cuda.device_count():
            raise Refused(
                f'{here} processes, but {torch.cuda.device_count()} GPUs: start one for each'
            )
        torch.cuda.set_device(local)
        place = f'cuda:{local}'
    os.environ['PT4AL_DEVICE'] = place
    os.environ.setdefault('PT4AL_THREADS', str(max(1, min(8, cores() // here))))
    dist.init_process_group('nccl' if cuda else 'gloo')
    try:
        with tempfile.TemporaryDirectory() as own:
            if rank():
                os.environ['PT4AL_RESULTS'] = os.pathsep.join([own, *map(str, store.roots())])
                sys.stdout = open(os.devnull, 'w')
                logging.getLogger('pt4al').setLevel(logging.ERROR)
            yield
    finally:
        dist.destroy_process_group()
