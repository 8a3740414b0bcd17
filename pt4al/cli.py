"""The `pt4al` command."""

import getpass
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pt4al import __version__, data, experiments
from pt4al.errors import Refused, one_line, stop_in_one_line
from pt4al.experiments import protocols as published
from pt4al.experiments import specs, store
from pt4al.own import commands as images
from pt4al.progress import log_lines
from pt4al.shards import pick_shards, split_shards
from pt4al.studies import commands as studies


class Commands(TyperGroup):
    """The commands, in which whatever the machine lacks is one line as well."""

    def invoke(self, context: Any) -> Any:
        try:
            return super().invoke(context)
        except BrokenPipeError:
            raise  # whoever read this has gone
        except (OSError, EOFError, ImportError, MemoryError, RecursionError) as error:
            raise Refused(lacking(error)) from error


def lacking(error: Exception) -> str:
    """What the machine lacks, in one line that says what to do."""
    text = one_line(error) or type(error).__name__
    if isinstance(error, OSError | EOFError):
        file = getattr(error, 'filename', None) or 'a file'
        reason = getattr(error, 'strerror', None) or text
        what = f'cannot read or write {file} ({reason}): see to its room, limits and rights'
    elif isinstance(error, ImportError):  # as where memory ends while one is loaded
        what = f'a library cannot be loaded ({text}): close other programs, or install it again'
    else:
        what = f'too little memory ({text}): ask for less, or use a larger machine'
    return f'{what}, then run it again; what was saved stays'


cli = typer.Typer(
    cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)


@cli.callback(invoke_without_command=True)
def main(
    version: Annotated[bool, typer.Option('--version', help='show it and exit')] = False,
) -> None:
    """Does a self-supervised pretext loss tell you which images to label?"""
    if version:
        typer.echo(f'pt4al {__version__}')
        raise typer.Exit


cli.add_typer(studies.studies)
cli.add_typer(studies.stored)


@cli.command()
def run(
    kind: Annotated[str, typer.Argument(help='pretext, main, active or representation')],
    parameters: Annotated[
        list[str], typer.Argument(help='name=value, e.g. dataset=cifar10 seed=1')
    ],
) -> None:
    """Compute one experiment into the store, or read it if it is there:  pt4al run pretext
    dataset=cifar10 seed=1

    With protocol=NAME it is built by a published protocol:  pt4al run active protocol=as-released
    arm=pt4al profile=smoke dataset=cifar10-mini
    """
    fields: dict[str, Any] = {'kind': kind}
    for name, equals, value in (parameter.partition('=') for parameter in parameters):
        if not equals:
            raise Refused(f'{name!r} is not name=value: write for example dataset=cifar10')
        if name in fields:
            raise Refused(f'{name!r} is given twice: {fields[name]!r} and {value!r}')
        fields[name] = value
    build = published.spec if 'protocol' in fields else specs.spec
    result = experiments.get(build(**fields))
    typer.echo(result.folder)
    for name, number in result.summary.items():
        typer.echo(f'  {name:18s} {number:.4g}')


Shards = Annotated[
    list[Path], typer.Argument(metavar='SHARD...', help='Parquet files, with a column id if any')
]
Ties = Annotated[int, typer.Option(help='decides among equal values')]


@cli.command()
def split(
    paths: Shards,
    out: Annotated[Path, typer.Option(help='folder to write, one Parquet file a shard')],
    batches: Annotated[int, typer.Option(help='as many as labelling cycles')] = 10,
    seed: Ties = 0,
) -> None:
    """Give each image its batch, from the column loss of Parquet files larger than memory:  pt4al
    split *.parquet --out batches
    """
    done = split_shards(paths, batches, out, seed)
    cuts = ', '.join(f'{cut:.4g}' for cut in done.losses) or 'none'
    typer.echo(f'{done.rows} images in {batches} batches, hardest first')
    typer.echo(f'the others start at losses of {cuts}')
    typer.echo(f'{done.tied} images of equal losses at a cut, divided by hash of their ids\n{out}')


@cli.command()
def pick(
    paths: Shards,
    budget: Annotated[int, typer.Option(help='how many images')],
    out: Annotated[Path, typer.Option(help='CSV file to write, least confident first')],
    seed: Ties = 0,
) -> None:
    """Choose the images of a batch larger than memory whose column confidence is least:  pt4al pick
    *.parquet --budget 1000 --out picks.csv
    """
    picked = pick_shards(paths, budget, out, seed)
    typer.echo(f'{len(picked)} images, the least confident first\n{out}')


@cli.command()
def claims(
    dataset: Annotated[str, typer.Argument(help='a data set with stored results')] = 'cifar10',
) -> None:
    """Test every claim on the stored results of a data set:  pt4al claims cifar10"""
    # imported here: scipy takes longer than all other commands need to begin
    from pt4al.claims import DATASETS, overview, published
    from pt4al.stats.remembered import keep_in

    data.check_name(dataset)
    keep_in(store.roots()[0] / '.bootstraps')
    for row in overview(DATASETS if dataset in DATASETS else (dataset,)):
        cell, (paper, reproduction) = row.cells[dataset], published(row.claim, dataset)
        rests_on = cell.n or '–'
        if cell.labelled is not None:
            rests_on += f'; labelled accuracy at least {cell.labelled:.2f}'
        typer.echo(f'{row.claim}. {row.title} ({row.unit})')
        typer.echo(f'    the paper {paper}; the reproduction {reproduction}')
        typer.echo(f'    here {cell.text or "–"} ({rests_on}): {cell.verdict}')
        if cell.note:
            typer.echo(f'    {cell.note}')


@cli.command()
def protocols() -> None:
    """List the published protocols, their strategies, and the profiles that shrink them."""
    for name, protocol in published.PROTOCOLS.items():
        typer.echo(f'{name:20s} {protocol.summary}\n{"":20s} arms: {", ".join(protocol.arms)}')
    for name, profile in published.PROFILES.items():
        typer.echo(
            f'profile={name:12s} width {profile.width}, epochs x {profile.epochs:g}, of pretext '
            f'tasks x {profile.pretext:g}, {profile.until or "all"} cycles'
        )


@cli.command()
def datasets() -> None:
    """List the data sets and whether their images are at hand."""
    for name in data.DATASETS:
        state = 'at hand' if data.available(name) else data.SOURCES[name].bring
        typer.echo(f'{name:31s} {state}')


cli.command()(images.rank)
cli.command()(images.advise)


def app(command: Callable[[], object] = cli) -> None:
    """Entry point: what is refused is one line on stderr and exit status 1, never a traceback."""
    log_lines()
    try:
        getpass.getuser()
    except (KeyError, OSError):  # as in a container with --user: torch asks for a name
        os.environ['LOGNAME'] = f'user-{os.getuid()}'
    stop_in_one_line()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a file too large is an error, not the end
    try:
        command()
    except Refused as refusal:
        sys.exit(f'pt4al: {refusal}')
