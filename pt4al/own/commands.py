"""The commands for a folder of one's own: `pt4al rank` and `pt4al advise`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from pt4al.errors import Refused

# text: a path could not tell '' from the folder one is in
Folder = Annotated[str, typer.Argument(help='images, in any tree of folders')]
LABELLED = typer.Option(
    metavar='<path>', help="CSV with path and label, or Label Studio's JSON, JSON-MIN or CSV"
)
Seed = Annotated[int, typer.Option(help='picks are the same for the same seed')]
Epochs = Annotated[
    int | None,
    typer.Option(help='passes of pretext training; by the number of images if not given'),
]
Keep = Annotated[
    Path | None, typer.Option(help='folder of networks and results; NAME.pt4al if not given')
]


def rank(
    folder: Folder,
    budget: Annotated[int, typer.Option(help='images to pick')] = 500,
    features: Annotated[
        str,
        typer.Option(
            help='efficientnet_lite0 (pretrained), torchvision:NAME or timm:NAME (downloaded '
            'once), rotation or another task (trained here), file:PATH, or auto: what is here'
        ),
    ] = 'auto',
    strategy: Annotated[
        str | None,
        typer.Option(
            help='how to choose, such as random, typiclust (typical images) or margin (uncertain '
            'ones); if not given, typical images first and uncertain ones from 10 labels a class '
            'on, or pt4al (the hardest first) with a pretext task'
        ),
    ] = None,
    labels: Annotated[list[Path] | None, LABELLED] = None,
    cycle: Annotated[
        int | None,
        typer.Option(
            help='number of this round, from 1; needed from the second on with a pretext task '
            '(--features rotation), else counted'
        ),
    ] = None,
    cycles: Annotated[
        int, typer.Option(help='batches that the order of a task is cut into, one a round')
    ] = 10,
    out: Annotated[
        Path | None,
        typer.Option(help='table to write; if not given that of --labels, else picks.csv'),
    ] = None,
    keep: Keep = None,
    seed: Seed = 0,
    epochs: Epochs = None,
    finetune: Annotated[
        bool, typer.Option('--finetune', help='train the network on the labels, too: minutes')
    ] = False,
) -> None:
    """Choose which images of a folder to label next:  pt4al rank photos --budget 100 --out
    picks.csv

    The next round, with the labels so far:  pt4al rank photos --budget 100 --labels picks.csv

    In the order of PT4AL:  pt4al rank photos --budget 100 --features rotation
    """
    wanted = dict(locals())  # before there is any other
    from pt4al.own import ranking

    made = ranking.rank(**wanted | {'labels': _one(labels) if labels else None})
    table = made.files['table']
    typer.echo(
        f'{len(made.tree.names):,} images, {len(made.known.answers):,} labelled, '
        f'{len(made.picked):,} picked by {made.round.strategy}, {len(made.duplicates):,} near '
        'duplicates'
    )
    for what, path in made.files.items():
        typer.echo(f'  {what:9s} {path}')
    following = f' --cycle {made.round.cycle + 1}' if made.round.pretext else ''
    if not following or made.round.cycle < cycles:
        typer.echo(
            f'Fill the column label of {table} (all picks at best, two classes at least), then run '
            f'the same again with --labels {shlex.quote(str(table))}{following}'
        )


def advise(
    folder: Folder,
    labels: Annotated[list[Path], LABELLED],
    features: Annotated[
        str,
        typer.Option(
            help='as in rank, or several after commas; with rotation the order of that task '
            'is compared, too: auto,rotation'
        ),
    ] = 'auto',
    seed: Seed = 0,
    epochs: Epochs = None,
    keep: Keep = None,
) -> None:
    """Compare typical, uncertain and random images on those that are labelled:  pt4al advise photos
    --labels labels.csv
    """
    from pt4al.own import advice

    made = advice.advise(folder, _one(labels), features, seed, epochs, keep)
    for sentence in made.sentences:
        typer.echo(sentence)


def _one(labels: list[Path]) -> Path:
    """The file of --labels; of several the last would be taken in silence."""
    if len(labels) > 1:
        raise Refused('--labels is there more than once: put all labels into one table')
    return labels[0]
