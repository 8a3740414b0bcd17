"""The commands for a folder of one's own: `pt4al rank` and `pt4al advise`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[Path, typer.Argument(help='images, in any tree of folders')]
Task = Annotated[str, typer.Option(help='pretext task whose loss orders the images')]
Seed = Annotated[int, typer.Option(help='picks are the same for the same seed')]
Epochs = Annotated[
    int | None,
    typer.Option(help='passes of pretext training; by the number of images if not given'),
]
Size = Annotated[
    int | None,
    typer.Option(help='pixels of a side as the network sees them; 32 without an accelerator'),
]
Keep = Annotated[
    Path | None, typer.Option(help='folder of networks and results; NAME.pt4al if not given')
]


def rank(
    folder: Folder,
    task: Task = 'rotation',
    budget: Annotated[int, typer.Option(help='images to pick')] = 500,
    out: Annotated[
        Path, typer.Option(help='table to write; tasks, contact sheet and problems go beside it')
    ] = Path('picks.csv'),
    seed: Seed = 0,
    strategy: Annotated[str, typer.Option(help='query strategy, see the README')] = 'pt4al',
    cycles: Annotated[
        int, typer.Option(help='batches that the order is cut into, one a round')
    ] = 10,
    cycle: Annotated[int | None, typer.Option(help='number of this round, from 1')] = None,
    labels: Annotated[
        Path | None, typer.Option(help="CSV with path and label, or Label Studio's export")
    ] = None,
    epochs: Epochs = None,
    size: Size = None,
    keep: Keep = None,
) -> None:
    """Choose which images of a folder to label next:  pt4al rank photos --budget 100 --out
    picks.csv

    The next round, with the labels so far:  pt4al rank photos --budget 100 --labels labels.csv
    --cycle 2
    """
    from pt4al.own import ranking, sheet

    found = ranking.rank(
        folder, task, budget, out, seed, strategy, cycles, cycle, labels, epochs, size, keep
    )
    typer.echo(
        f'{len(found.tree.names):,} images, {len(found.known.index):,} labelled, {len(found.picked):,} picked, '
        f'{len(found.duplicates):,} near duplicates'
    )
    if found.tree.left_out:
        typer.echo(
            f'{len(found.tree.left_out):,} files left out: {sheet.summary(found.tree.left_out)}'
        )
    for what, path in found.files.items():
        typer.echo(f'  {what:9s} {path}')


def advise(
    folder: Folder,
    labels: Annotated[Path, typer.Option(help="CSV with path and label, or Label Studio's export")],
    task: Task = 'rotation',
    seed: Seed = 0,
    margin: Annotated[float, typer.Option(help='points of accuracy that count as equal')] = 2.0,
    epochs: Epochs = None,
    size: Size = None,
    keep: Keep = None,
) -> None:
    """Ask of the labelled images whether a pretext order helps here:  pt4al advise photos --labels
    labels.csv
    """
    from pt4al.own import advice

    for sentence in advice.advise(folder, labels, task, seed, margin, epochs, size, keep).says:
        typer.echo(sentence)
