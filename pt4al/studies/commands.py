"""The commands for many experiments: `pt4al study` plans, runs and watches, `pt4al results` lists,
checks and merges what came of them.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from pt4al import data
from pt4al.errors import Refused, choose
from pt4al.experiments import exchange, records, store
from pt4al.experiments.specs import KINDS, in_words
from pt4al.studies import plan as plans
from pt4al.studies import study

STATES = ('done', 'running', 'failed', 'begun', 'waiting')
HELP = 'a file, or the name of a study that comes with pt4al'
WORKERS = 'cells at once: else one a core, or what suits a GPU'
MINUTES = 'stop after so many minutes'
KEYS = 'as `pt4al results` lists them'
StudyName = Annotated[str, typer.Argument(metavar='STUDY', help=HELP)]
studies = typer.Typer(name='study', no_args_is_help=True, help='Plan, run and watch experiments.')
stored = typer.Typer(name='results', help='List, check, merge and recompute stored results.')


@studies.command()
def plan(
    name: StudyName,
    as_json: Annotated[
        bool, typer.Option('--json', help='one object with a row for each cell')
    ] = False,
) -> None:
    """Show a study's cells, which are done, and what the others cost; refuse what cannot run."""
    chosen = plans.read(plans.find(name))
    rows = plans.rows(chosen)
    if as_json:
        about = {
            'study': chosen.name,
            'title': chosen.title,
            'reports': list(chosen.reports),
            'cells': rows,
            'store': str(store.roots()[0].resolve()),
            'totals': plans.totals(rows),
            'assumptions': plans.assumptions(),
        }
        typer.echo(json.dumps(about, default=str))
        return
    typer.echo(chosen.title)
    _echo('', 'cells', 'done', 'missing', 'M passes', 'h here', 'h GPU')
    for entry in [*dict.fromkeys(row['entry'] for row in rows), 'all']:
        total = plans.totals([row for row in rows if entry in (row['entry'], 'all')])
        counts = (str(total[count]) for count in ('cells', 'done', 'missing'))
        hours = (total['hours_here'], total['hours_gpu'])
        costs = ('?' if value is None else f'{value:.2f}' for value in hours)
        _echo(entry, *counts, f'{total["passes"] / 1e6:.1f}', *costs)
    for dataset, count in Counter(row['dataset'] for row in rows if row['key'] is None).items():
        typer.echo(f'the images of {dataset} are not at hand: {count} cells have no key yet')
    names = {row['dataset'] for row in rows if not row['done']}
    for dataset in sorted(name for name in names if not data.available(name)):
        bring = data.SOURCES[dataset.partition(':')[0]].bring
        typer.echo(f'{dataset} is not here: {bring}')
    typer.echo('passes are of all cells, hours of the missing ones;')
    for line in plans.assumptions():
        typer.echo(f'  {line}')


def _echo(name: str, *columns: str) -> None:
    typer.echo(f'{name:28.28s}' + ''.join(f'{column:>10s}' for column in columns))


@studies.command()
def run(
    name: StudyName,
    workers: Annotated[int | None, typer.Option(min=1, help=WORKERS)] = None,
    minutes: Annotated[float | None, typer.Option(min=0.01, max=1e6, help=MINUTES)] = None,
) -> None:
    """Compute what a study lacks on this machine; it goes on when a cell fails, and then makes the
    exit status 1.

    With --minutes it stops then: the same command goes on from what is saved.
    """
    chosen = plans.read(plans.find(name))
    specs = [cell.spec for cell in chosen.cells]
    typer.echo(f'{chosen.name}: {len(study.missing(specs))} of {len(specs)} cells to compute')
    stored = plans.timed() if minutes else []
    from pt4al.training.execution import execution  # torch takes longer than most commands

    device = execution().device.partition(':')[0]
    study.run(specs, workers, minutes, lambda spec: plans.seconds(spec, device, stored))
    left = study.missing(specs)
    typer.echo(f'{chosen.name}: {len(specs) - len(left)} of {len(specs)} cells are done')
    for spec in left:
        typer.echo(f'left     {in_words(spec)}')
    if chosen.reports:
        names = ', '.join(report['notebook'] for report in chosen.reports)
        command = f'snakemake --profile workflow/profiles/local --config study={name}'
        typer.echo(f'reports  {names}: where pt4al is checked out, {command}')


@studies.command()
def status(name: StudyName) -> None:
    """Show which cells are done, running, failed or waiting, from the store alone."""
    chosen = plans.read(plans.find(name))
    cells = plans.rows(chosen)
    counts = Counter(row['state'] for row in cells)
    summary = ', '.join(f'{counts[state]} {state}' for state in STATES if counts[state])
    if (hours := plans.totals(cells)['hours_here']) is not None:
        summary += f'; {60 * hours:.1f} minutes left, by stored results like them on a CPU'
    typer.echo(f'{chosen.name}: {len(cells)} cells: {summary}')
    for row in cells:
        if row['state'] not in ('done', 'waiting'):
            typer.echo(f'{row["state"]:8s} {row["key"]:12s} {row["label"]} {row["note"]}'.rstrip())
    waiting = Counter(row['note'] for row in cells if row['state'] == 'waiting' and row['note'])
    for note, count in waiting.items():
        typer.echo(f'waiting  {count} cells: {note}')


@stored.callback(invoke_without_command=True)
def results(
    context: typer.Context,
    dataset: Annotated[str | None, typer.Option(help='only this data set')] = None,
) -> None:
    """List the stored results; every file is checked against its digest."""
    if context.invoked_subcommand:
        if dataset is not None:
            raise Refused('--dataset before a command chooses nothing: write it after the command')
        return
    if dataset is not None:
        data.check_name(dataset)
    listed = store.find('*', lambda about: dataset in (None, about['spec']['dataset']))
    if not listed:
        typer.echo(f'no results in {", ".join(map(str, store.roots()))}')
    for r in listed:
        summary = ', '.join(f'{name} {value:g}' for name, value in r.summary.items())
        known = r.kind in KINDS
        what = in_words(r.spec) if known else f'{r.kind} {r.fields["dataset"]}'
        typer.echo(f'{r.key}  {what}: {summary}')


@stored.command()
def verify() -> None:
    """Check every digest and key of the stores; damaged results make the exit status 1."""
    count, damaged = exchange.verify(store.roots())
    for line in damaged:
        typer.echo(line)
    if damaged:
        raise Refused(f'{len(damaged)} of {count} results are damaged')
    typer.echo(f'{count} results are whole')


@stored.command()
def again(keys: Annotated[list[str], typer.Argument(metavar='KEY...', help=KEYS)]) -> None:
    """Compute stored results once more and compare every bit; the outcome is kept for the book."""
    stored = {result.key: result for result in store.find('*')}
    for key in keys:
        result = stored[choose('result', key, stored)]
        new = exchange.again(result)
        differs = exchange.difference(result, new)
        outcome = f'differs: {differs}' if differs else 'equal to the last bit'
        typer.echo(f'{key}  {outcome}, {new.provenance["seconds"]:.0f} s')
        rows = [row for row in (records.load('again') or {'rows': []})['rows'] if row['key'] != key]
        about = {'key': key, 'kind': result.kind, 'dataset': result.spec.dataset}
        row = about | {'differs': differs, 'stored': result.provenance, 'again': new.provenance}
        records.save('again', {'what': 'stored results computed once more', 'rows': [*rows, row]})


@stored.command()
def merge(
    stores: Annotated[
        list[Path], typer.Argument(metavar='DIR...', help='stores of other machines')
    ],
) -> None:
    """Bring results of other stores here; one key with two different tables is refused."""
    new = exchange.merge(stores, store.roots()[0])
    typer.echo(f'{len(new)} results came to {store.roots()[0]}')
