"""The book: how long a build takes, and how heavy its pages are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from pt4al.errors import Refused


def weights(html: Path) -> list[dict[str, Any]]:
    """Kilobytes of every page below a folder, heaviest first; what pages share is not in them."""
    pages = [
        (path.stat().st_size / 1e3, path.relative_to(html).as_posix())
        for path in html.rglob('*.html')
        if '_static' not in path.parts
    ]
    return [{'page': name, 'kilobytes': size} for size, name in sorted(pages, reverse=True)]


def book(
    build: bool = False, source: Path = Path('book'), html: Path = Path('_build/html')
) -> dict[str, Any]:
    """Weights of the pages that are built; with `build`, seconds to build them from nothing into a
    folder of its own.
    """
    if not build:
        if not html.is_dir():
            raise Refused(f'{html} is not there: build the book first, or give --build')
        return _summary(html)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        done = subprocess.run(
            [_builder(), 'build', str(source), '--path-output', folder],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            raise Refused(f'the book does not build: {done.stdout.strip().splitlines()[-1]}')
        return {
            'build_seconds': time.perf_counter() - start,
            **_summary(Path(folder) / '_build' / 'html'),
        }


def _summary(html: Path) -> dict[str, Any]:
    rows = weights(html)
    shared = (
        sum(
            path.stat().st_size
            for path in html.rglob('*')
            if path.is_file() and path.suffix != '.html'
        )
        / 1e3
    )
    return {
        'what': 'kilobytes of each page, uncompressed',
        'pages': len(rows),
        'shared_kilobytes': shared,
        'median_kilobytes': float(np.median([row['kilobytes'] for row in rows])),
        'rows': rows,
    }


def _builder() -> str:
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get('PATH', os.defpath)])
    found = shutil.which('jupyter-book', path=beside)
    if found is None:
        raise Refused('jupyter-book is not installed: run make setup')
    return found
