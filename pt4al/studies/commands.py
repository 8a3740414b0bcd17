"""The commands for many experiments: `pt4al study` plans, runs and watches, `pt4al results` keeps
what came of them.
"""

from __future__ import annotations

import errno
import json
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from pt4al.errors import Refused, choose

# how the operating system says that there is no room
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
STATES = ('done', 'running', 'failed', 'begun', 'waiting')
Asked = Annotated[
    str,
    typer.Argument(metavar='STUDY', help='a file, or the name of a study that comes with pt4al'),
]

studies = typer.Typer(
    name='study',
    no_args_is_help=True,
    help='Plan, run and watch the experiments that a file names.',
)
stored = typer.Typer(
    name='results', help='List the stored results, or check, merge and recompute them.'
)


def stop(number: int, _: Any = None) -> NoReturn:
    """On SIGTERM or Ctrl-C leave with status 143 or 130; whole epochs and cycles are saved, and the
    next attempt goes on from them. A second one ends it at once.
    """
    signal.signal(number, signal.SIG_DFL)
    sys.stderr.write('pt4al: stopped; run it again to go on from what is saved\n')
    sys.exit(128 + number)


# --- study ---


@studies.command()
def plan(
    study: Asked,
    as_json: Annotated[
        bool, typer.Option('--json', help='one object with a row for each cell')
    ] = False,
) -> None:
    """Show a study's cells, which are done, and what the others will cost; refuse what cannot run,
    by file and line.
    """
    from pt4al.experiments import store
    from pt4al.studies import plan

    asked = plan.read(plan.find(study))
    rows = plan.rows(asked)
    if as_json:
        typer.echo(
            json.dumps(
                {
                    'study': asked.name,
                    'title': asked.title,
                    'reports': list(asked.reports),
                    'cells': rows,
                    'store': str(store.roots()[0].resolve()),
                    'totals': plan.totals(rows),
                    'assumptions': plan.assumptions(),
                },
                default=str,
            )
        )
        return
    entries = dict.fromkeys(row['entry'] for row in rows)
    names = ('cells', 'done', 'missing', 'passes', 'hours_here', 'hours_gpu')
    typer.echo(asked.title)
    typer.echo(
        f'{"":28s} {"cells":>7s} {"done":>6s} {"missing":>8s} {"M passes":>9s} {"h here":>9s} '
        f'{"h GPU":>8s}'
    )
    for entry in [*entries, None]:
        total = plan.totals([row for row in rows if entry in (None, row['entry'])])
        cells, done, lack, passes, here, gpu = (total[name] for name in names)
        typer.echo(
            f'{entry or "all":28.28s} {cells:7d} {done:6d} {lack:8d} {passes / 1e6:9.1f} '
            f'{"?" if here is None else format(here, ".1f"):>9s} {"?" if gpu is None else format(gpu, ".2f"):>8s}'
        )
    for dataset, count in Counter(row['dataset'] for row in rows if row['key'] is None).items():
        typer.echo(
            f'the images of {dataset} are not at hand, so the keys of {count} cells are not known yet'
        )
    typer.echo('passes are of all cells, hours of the missing ones;')
    for line in plan.assumptions():
        typer.echo(f'  {line}')


@studies.command()
def run(
    study: Asked,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help='cells at once; if not given one a core, or one on an accelerator'
        ),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.01, max=1e6, help='stop after so many minutes')
    ] = None,
) -> None:
    """Compute what a study lacks on this machine; a cell that fails stops no other, and makes the
    exit status 1.

    With --minutes it stops then: the same command goes on from what is saved.
    """
    from pt4al.studies import plan
    from pt4al.studies import study as studies
    from pt4al.training.execution import execution

    asked = plan.read(plan.find(study))
    specs = [cell.spec for cell in asked.cells]
    typer.echo(f'{asked.name}: {len(studies.missing(specs))} of {len(specs)} cells to compute')
    stored = plan.timed() if minutes else []
    device = execution().device.partition(':')[0]
    studies.run(specs, workers, minutes, lambda spec: plan.seconds(spec, device, stored))
    lack = [studies.label(spec) for spec in studies.missing(specs)]
    if not lack:
        typer.echo(f'{asked.name}: all {len(specs)} cells are done')
        return
    typer.echo(f'{asked.name}: {len(specs) - len(lack)} of {len(specs)} cells are whole')
    for name in lack:
        typer.echo(f'left     {name}')


@studies.command()
def status(study: Asked) -> None:
    """Say which cells are done, running, failed or waiting, from the store alone: whichever engine
    runs them.
    """
    from pt4al.studies import plan

    asked = plan.read(plan.find(study))
    cells = plan.states(asked)
    left = plan.minutes_left(cells)
    typer.echo(f'{asked.name}: {_summary(cells, left)}')
    for row in cells:
        if row['state'] not in ('done', 'waiting'):
            typer.echo(f'{row["state"]:8s} {row["key"]:12s} {row["label"]} {row["note"]}'.rstrip())
    for note, count in Counter(
        row['note'] for row in cells if row['state'] == 'waiting' and row['note']
    ).items():
        typer.echo(f'waiting  {count} cells: {note}')


def _summary(cells: list[dict[str, Any]], minutes: float | None) -> str:
    counts = Counter(row['state'] for row in cells)
    told = ', '.join(f'{counts[state]} {state}' for state in STATES if counts[state])
    return f'{len(cells)} cells: {told}' + (
        ''
        if minutes is None
        else f'; {minutes:.1f} minutes left at the speed of those that are done'
    )


# --- results ---


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
    from pt4al import data, find

    if dataset is not None:
        data.check_name(dataset)
    for r in find('*', **({'dataset': dataset} if dataset else {})):
        what = (
            r.spec.get('strategy')
            or r.spec.get('task')
            or (f'{r.spec["folds"]} folds' if 'folds' in r.spec else '')
        )
        what = what or (r.spec.get('pretext') or {}).get('task', '')
        seed = f'seed {r.spec["seed"]}' if 'seed' in r.spec else ''
        summary = ', '.join(f'{name} {value:.3g}' for name, value in r.summary.items())
        typer.echo(
            f'{r.key}  {r.kind:9s} {r.spec["dataset"]:31s} {what:24s} {seed:7s} {summary[:120]}'
        )


@stored.command()
def verify() -> None:
    """Check every digest and key of the stores; what is damaged is listed, and makes the exit
    status 1.
    """
    from pt4al.experiments import exchange, store

    count, damaged = exchange.verify(store.roots())
    for line in damaged:
        typer.echo(line)
    if damaged:
        raise Refused(f'{len(damaged)} of {count} results are damaged')
    typer.echo(f'{count} results are whole')


@stored.command()
def again(
    keys: Annotated[
        list[str], typer.Argument(metavar='KEY...', help='as `pt4al results` lists them')
    ],
) -> None:
    """Compute stored results once more and compare every bit; the outcome is kept for the book."""
    from pt4al import find
    from pt4al.experiments import exchange, records

    stored = {result.key: result for result in find('*')}
    for key in keys:
        result = stored[choose('result', key, stored)]
        new = exchange.again(result)
        told = exchange.difference(result, new)
        typer.echo(
            f'{key}  {"differs: " + told if told else "equal to the last bit"}, '
            f'{new.provenance["seconds"]:.0f} s'
        )
        rows = [row for row in (records.load('again') or {'rows': []})['rows'] if row['key'] != key]
        row = {
            'key': key,
            'kind': result.kind,
            'dataset': result.spec['dataset'],
            'differs': told,
            'stored': result.provenance,
            'again': new.provenance,
        }
        records.save('again', {'what': 'stored results computed once more', 'rows': [*rows, row]})


@stored.command()
def merge(
    stores: Annotated[
        list[Path], typer.Argument(metavar='DIR...', help='stores of other machines')
    ],
) -> None:
    """Bring the results of other stores into this one; two results of one key with different tables
    are refused.
    """
    from pt4al.experiments import exchange, store

    new = exchange.merge(stores, store.roots()[0])
    typer.echo(f'{len(new)} results came to {store.roots()[0]}')
