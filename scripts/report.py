"""Run a small study on CIFAR-10-mini, then build the book from it and the committed results.

python -m scripts.report        what `make report` runs
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from pt4al import cli
from pt4al.errors import Refused
from pt4al.experiments import store
from pt4al.studies import plan, study

Fresh = Annotated[Path, typer.Option(help='store for the results of this machine')]
Book = Annotated[Path, typer.Option(help='the source of the book')]


def report(fresh: Fresh = Path('build/results'), book: Book = Path('book')) -> None:
    """Run a small study on CIFAR-10-mini, then build the book from it and the committed results."""
    if not (book / '_toc.yml').exists():
        raise Refused(f'{book}/_toc.yml is not there: run this in the top folder of a checkout')
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get('PATH', os.defpath)])
    builder = shutil.which('jupyter-book', path=beside)
    if builder is None:
        raise Refused('jupyter-book is not installed: run make setup')
    fresh, committed, start = fresh.resolve(), store.roots(), time.monotonic()
    # look nowhere else, so that this machine really computes; its workers inherit it
    os.environ['PT4AL_RESULTS'] = str(fresh)
    cells = [cell.spec for cell in plan.read(plan.find('smoke')).cells]
    left = len(study.missing(cells))
    typer.echo(f'small study: {left} of {len(cells)} experiments to run, on real images')
    study.run(cells)
    typer.echo(f'small study: {time.monotonic() - start:.0f} s')
    both = [fresh, *(root.resolve() for root in committed)]
    os.environ['PT4AL_RESULTS'] = os.pathsep.join(map(str, both))
    start = time.monotonic()
    # its hundred lines, most from kernels starting, would hide the one that matters here
    built = subprocess.run(
        [builder, 'build', str(book)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if built.returncode:
        sys.stderr.write(built.stdout)
        raise Refused('the book does not build: the messages above say where')
    typer.echo(f'book: {time.monotonic() - start:.0f} s')
    typer.echo(f'open {Path("_build/html/index.html").resolve()}')


if __name__ == '__main__':
    cli.app(lambda: typer.run(report))
