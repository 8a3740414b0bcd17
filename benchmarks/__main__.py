"""`python -m benchmarks NAME`, in the top folder of a checkout."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

import benchmarks
from pt4al.errors import Refused
from pt4al.progress import log_lines


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help='benchmarks; `all` are those of make bench')
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(help='turns, where there are turns; more are steadier')
    ] = None,
    build: Annotated[bool, typer.Option('--build', help='book: build it, too')] = False,
) -> None:
    """Measure speed and save it beside the results:  python -m benchmarks training scoring

    Without a name it runs those that take a minute or so each: scoring, profile, device, tasks.
    `all` adds training, strategies and cuts, which is make bench. By name alone: cohorts (2
    minutes) and fused (1) on a GPU, together (5), shards (10), grid (20), precision (30), book.
    """
    if rounds is not None and rounds < 1:
        raise Refused(f'rounds is {rounds}: it must be at least 1')
    for name in benchmarks.chosen(names or []):
        options = {'rounds': rounds} if rounds and name in benchmarks.TURNS else {}
        options |= {'build': True} if build and name == 'book' else {}
        path = benchmarks.measure(name, **options)
        typer.echo(benchmarks.table(json.loads(path.read_text())))
        typer.echo(f'{path}\n')


def command(words: list[str] | None = None) -> None:
    """Run `main` on words, by default those that were typed; what is refused is one line and exit
    status 1.
    """
    log_lines()
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    try:
        app(words, prog_name='python -m benchmarks')
    except Refused as refusal:
        sys.exit(f'benchmarks: {refusal}')


if __name__ == '__main__':
    command()
