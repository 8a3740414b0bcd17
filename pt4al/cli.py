"""The `pt4al` command."""
from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from .errors import Refused

cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help='Does a self-supervised pretext loss tell you which images to label?')


@cli.command()
def run(kind: Annotated[str, typer.Argument(help='pretext, main, active or representation')],
        parameters: Annotated[list[str], typer.Argument(help='name=value, e.g. dataset=cifar10 seed=1')]) -> None:
    """Compute one experiment into the store, or read it if it is there:  pt4al run pretext dataset=cifar10 seed=1

    With protocol=NAME it is built by a published protocol:  pt4al run active protocol=as-released arm=pt4al profile=smoke
    dataset=cifar10-mini
    """
    from . import get, protocols, spec
    given = {'kind': kind}
    for name, equals, value in (parameter.partition('=') for parameter in parameters):
        if not equals:
            raise Refused(f'{name!r} is not name=value: write for example dataset=cifar10')
        if name in given:
            raise Refused(f'{name!r} is given twice: {given[name]!r} and {value!r}')
        given[name] = value
    result = get((protocols.spec if 'protocol' in given else spec)(**given))
    typer.echo(f'{result.folder}')
    for name, value in result.summary.items():
        typer.echo(f'  {name:18s} {value:.4g}')


@cli.command()
def results(dataset: Annotated[str | None, typer.Option(help='only this data set')] = None) -> None:
    """List the stored results; every file is checked against its digest."""
    from . import data, find
    if dataset is not None:
        data.check_name(dataset)
    for r in find('*', **({'dataset': dataset} if dataset else {})):
        what = r.spec.get('strategy') or r.spec.get('task') or (f'{r.spec["folds"]} folds' if 'folds' in r.spec else '')
        what = what or (r.spec.get('pretext') or {}).get('task', '')
        seed = f'seed {r.spec["seed"]}' if 'seed' in r.spec else ''
        summary = ', '.join(f'{name} {value:.3g}' for name, value in r.summary.items())
        typer.echo(f'{r.key}  {r.kind:9s} {r.spec["dataset"]:31s} {what:24s} {seed:7s} {summary[:120]}')


@cli.command()
def bench(dataset: Annotated[str, typer.Option(help='images that are trained on')] = 'cifar10-mini',
          width: Annotated[int, typer.Option(help='channels of the first stage')] = 16,
          rounds: Annotated[int, typer.Option(help='turns; more are steadier')] = 5) -> None:
    """Measure the training speed of every pretext task beside rotation's, and keep it beside the results."""
    from . import bench, data
    data.check_name(dataset)
    if width < 1 or rounds < 1:
        raise Refused(f'width is {width}, rounds is {rounds}: both must be at least 1')
    found = bench.tasks(dataset=dataset, width=width, rounds=rounds)
    typer.echo(f'{found["what"]}, {found["chip"]}')
    typer.echo(f'{"task":26s} {"images/s":>9s} {"to rotation":>12s} {"lines":>6s}  on')
    for row in found['rows']:
        typer.echo(f'{row["task"]:26s} {row["images_per_second"]:9.1f} {row["ratio_to_rotation"]:12.2f} '
                   f'{row["lines"]:6d}  {row["dataset"]}')
    for task, reason in found['left_out'].items():
        typer.echo(f'{task:26s} left out: {reason}')
    typer.echo(f'{bench.keep("tasks", found)}')


@cli.command()
def published() -> None:
    """Statistics of the losses the authors published, and their correlation with the stored runs on CIFAR-10."""
    from . import published, runs
    ours = [found for kind in ('main', 'pretext') if (found := runs(kind, dataset='cifar10'))]
    for result in (published.get(), *map(published.against, ours)):
        typer.echo(f'{result.folder}')


@cli.command()
def protocols() -> None:
    """List the published protocols, their arms, and the profiles that shrink them."""
    from . import protocols
    for name, protocol in protocols.PROTOCOLS.items():
        typer.echo(f'{name:20s} {protocol.says}\n{"":20s} arms: {", ".join(protocol.arms)}')
    for name, profile in protocols.PROFILES.items():
        typer.echo(f'profile={name:12s} width {profile.width}, epochs x {profile.epochs:g}, of pretext tasks x '
                   f'{profile.pretext:g}, {profile.until or "all"} cycles')


@cli.command()
def datasets() -> None:
    """List the data sets and whether their images are at hand."""
    from . import data
    for name in data.DATASETS:
        state = 'at hand' if data.available(name) else data.BRING.get(name, 'will be downloaded when first used')
        typer.echo(f'{name:31s} {state}')


@cli.command()
def report(fresh: Annotated[Path, typer.Option(help='store for the results of this machine')] = Path('build/results'),
           book: Annotated[Path, typer.Option(help='the source of the book')] = Path('book')) -> None:
    """Run the embedded study on this machine, then build the book from it and from the committed results."""
    from . import store, study
    if not (book / '_toc.yml').exists():
        raise Refused(f'{book}/_toc.yml is not there: run this in the top folder of a checkout')
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get('PATH', os.defpath)])
    builder = shutil.which('jupyter-book', path=beside)
    if builder is None:
        raise Refused('jupyter-book is not installed: run make setup')
    fresh, committed, start = fresh.resolve(), store.roots(), time.monotonic()
    os.environ['PT4AL_RESULTS'] = str(fresh)                 # look nowhere else, so that this machine really computes
    specs = study.embedded()
    typer.echo(f'embedded study: {len(study.missing(specs))} of {len(specs)} experiments to run, on real images')
    study.run(specs)
    typer.echo(f'embedded study: {time.monotonic() - start:.0f} s')
    os.environ['PT4AL_RESULTS'] = os.pathsep.join(map(str, [fresh, *(root.resolve() for root in committed)]))
    start = time.monotonic()
    # its hundred lines, most from kernels starting, would hide the one that matters here
    built = subprocess.run([builder, 'build', str(book)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if built.returncode:
        sys.stderr.write(built.stdout)
        raise Refused('the book does not build: the messages above say where')
    typer.echo(f'book: {time.monotonic() - start:.0f} s')
    typer.echo(f'open {Path("_build/html/index.html").resolve()}')


def app() -> None:
    """Entry point: what is refused is one line on stderr and exit status 1, never a traceback."""
    logging.basicConfig(level=logging.INFO, format='%(asctime)s %(message)s', datefmt='%H:%M:%S')
    try:
        cli()
    except Refused as refusal:
        sys.exit(f'pt4al: {refusal}')
