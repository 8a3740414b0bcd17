"""Fetching published files into the cache, checked and whole or not at all."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from pt4al import files
from pt4al.errors import Refused

log = logging.getLogger('pt4al')
TIMEOUT = 60  # seconds without an answer before a download counts as failed
FAILURES = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    ImportError,
    subprocess.SubprocessError,
    tarfile.TarError,
    Image.DecompressionBombError,
)


@contextmanager
def patience() -> Iterator[None]:
    """Bound how long a socket may be silent; torchvision sets no limit, and a silent host would
    hang the caller.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def scratch() -> Iterator[Path]:
    """Give an empty folder inside the cache, on the same file system as what will be kept, and
    remove it afterwards.
    """
    files.cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=files.cache(), prefix='.partial-') as folder:
        yield Path(folder)


def folder(name: str, target: Path, get: Callable[[Path], Path]) -> Path:
    """Return the folder `target`, made of what `get(scratch)` fetched and names; `Refused` says
    what to do instead.
    """
    try:
        with scratch() as empty, patience():
            made = get(empty)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(made, target)
    except FAILURES as error:
        raise Refused(
            f'{name} is not on this machine and could not be fetched ({" ".join(str(error).split())}); '
            f'connect to the network, or set PT4AL_DATA to a folder that holds {target.name}'
        ) from error
    return target
