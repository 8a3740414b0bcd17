"""Fetching published files into the cache, checked and whole or not at all."""

import logging
import subprocess
import tarfile
import textwrap
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from pt4al import files
from pt4al.errors import Refused

TIMEOUT = 60  # seconds without an answer before a download counts as failed
FAILURES: tuple[type[Exception], ...] = (OSError, EOFError, RuntimeError, ValueError, ImportError)
FAILURES += (subprocess.SubprocessError, tarfile.TarError, Image.DecompressionBombError)


def find(*places: str) -> Path | None:
    """The first place that is there below a folder to look for data sets in, else None."""
    paths = (root / place for root in files.roots() for place in places)
    return next((path for path in paths if path.exists()), None)


def fetch(url: str, sha256: str, folder: Path, name: str = '') -> Path:
    """Bring one published file into a folder; a ValueError where its SHA-256 is another."""
    import pooch  # here: it warns in notebooks

    pooch.get_logger().setLevel(logging.WARNING)
    get = pooch.HTTPDownloader(timeout=TIMEOUT)
    name = name or url.rpartition('/')[2]
    return Path(pooch.retrieve(url, f'sha256:{sha256}', name, folder, downloader=get))


def unpacked(url: str, sha256: str, folder: Path) -> Path:
    """Bring one published archive and unpack it: plain files alone, none outside of the folder."""
    with tarfile.open(fetch(url, sha256, folder)) as archive:
        archive.extractall(folder, filter='data')
    return folder


def folder(name: str, target: Path, get: Callable[[Path], Path]) -> Path:
    """The folder `target`, made of what `get(scratch)` fetched; `Refused` where it could not."""
    try:
        with files.scratch_folder(files.cache()) as empty:
            made = get(empty)
            target.parent.mkdir(parents=True, exist_ok=True)
            files.move_into_place(made, target)
    except FAILURES as error:
        why = textwrap.shorten(str(error), 160, placeholder=' ...')
        raise Refused(
            f'{name} is not on this machine and could not be fetched ({why}); connect to '
            f'the network, or set PT4AL_DATA to a folder that holds {target.name}'
        ) from error
    return target
