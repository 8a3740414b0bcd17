"""The explorer: the images behind a rank correlation, as small files that its page loads when a
reader asks for them.

Every column of losses, list of picks and list of labels is a script of its own that calls a
function of explorer.js: so any pretext run can be set against any main run, and a page opened from
disk, where nothing can be fetched, can load it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import on_page
from IPython.display import HTML
from scipy.stats import rankdata
from summary import DATA

from pt4al import claims, data, figures, report, stats
from pt4al.errors import Refused
from pt4al.experiments import specs, store
from pt4al.experiments.store import Result
from pt4al.files import write as write_file
from pt4al.tasks import TASKS, family

VERSION = 1  # of the state in the address; explorer.js reads it from the index
FIRST = 'cifar10'  # what the page opens with
KINDS = ('pretext', 'main', 'trajectory', 'active')
MAIN = {'loss_out': 'out-of-fold', 'loss_in': 'in-sample'}
# How explorer.js shows an image as a task sees it; `tiles` and `holes` are cells along a side.
VIEWS: dict[str, dict[str, Any]] = {
    'rotation': {'turns': True},
    'colorization': {'grey': True},
    'colorization_reproduced': {'grey': True},
    'jigsaw': {'tiles': 2},
    'relative_position': {'tiles': 3},
    'pirl': {'tiles': 2},
    'context_encoder': {'holes': 2},
    'multitask': {'tiles': 3, 'grey': True},
}
CLASSES_LISTED = 20  # in the table of numbers


@dataclass(frozen=True)
class Column:
    """What a reader can choose on one side: a file, its place in two menus (a group, a run in it),
    what it holds.
    """

    file: str
    group: str
    run: str
    values: np.ndarray  # losses [N]; of picks, indices [P]
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Dataset:
    """A data set with at least one column on each side; all columns are of the same N images."""

    name: str
    file: str
    labels: np.ndarray  # [N]
    classes: tuple[str, ...]
    pretext: list[Column]
    main: list[Column]
    # `more`: size of every cycle, first accuracy, the strategy's colour, its pretext run
    picks: list[Column]

    @property
    def pair(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Main loss, pretext loss and index of the images that have both, of the columns shown
        first.
        """
        main, pretext = self.main[0].values, self.pretext[0].values
        index = np.flatnonzero(np.isfinite(main) & np.isfinite(pretext))
        return main[index], pretext[index], index


# --- what can be chosen ---


def catalogue(results: Iterable[Result]) -> list[Dataset]:
    """The data sets of which results hold both a pretext and a main run; CIFAR-10 first, which
    the first claim is about, then those with pictures, then by size.
    """
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.spec.dataset, result.provenance['data']), []).append(result)
    datasets = [_dataset(name, digest, group) for (name, digest), group in groups.items()]
    return sorted(filter(None, datasets), key=_place)


def _place(dataset: Dataset) -> tuple:
    return dataset.name != FIRST, not _at_hand(dataset.name), -len(dataset.labels), dataset.name


def _dataset(name: str, digest: str, results: list[Result]) -> Dataset | None:
    by_kind = {kind: sorted((r for r in results if r.kind == kind), key=_order) for kind in KINDS}
    if not by_kind['pretext'] or not by_kind['main']:
        return None
    first = by_kind['main'][0]
    pretext = [
        Column(
            r.key, r.spec.task, _run(r), r.tables['images']['loss'], {'views': _views(r.spec.task)}
        )
        for r in by_kind['pretext']
    ]
    main = [
        Column(f'{r.key}-{column}', group, _run(r), r.tables['images'][column])
        for column, group in MAIN.items()
        for r in by_kind['main']
    ]
    sides = [
        sorted(side, key=_empty) for side in (pretext, main + _epochs(by_kind['trajectory'][:1]))
    ]
    if any(_empty(side[0]) for side in sides):
        return None
    return Dataset(
        name,
        f'set-{digest[:12]}',
        first.tables['images']['label'],
        first.classes,
        *map(_numbered, sides),
        _numbered(_picks(by_kind['active'])),
    )


def _empty(column: Column) -> bool:
    """Whether no loss is finite, as of a training that has diverged."""
    return not np.isfinite(column.values).any()


def _order(result: Result) -> tuple:
    """By task in the order of the registry, the widest first, as the claims take them; then runs of
    default parameters before others, then by seed.
    """
    task = getattr(result.spec, 'task', '')
    place = list(TASKS).index(task) if task in TASKS else len(TASKS)
    return (
        place,
        task,
        getattr(result.spec, 'strategy', ''),
        -result.spec.width,
        len(_variant(result)),
        _variant(result),
        result.spec.seed,
        result.key,
    )


def _run(result: Result) -> str:
    return ', '.join(filter(None, [f'seed {result.spec.seed}', _variant(result)]))


# How a parameter is named to a reader; of others he learns that some differ.
PLAIN = {
    'width': 'width {}',
    'epochs': '{} epochs',
    'lr': 'learning rate {}',
    'batch': 'minibatches of {}',
    'budget': '{} labels a cycle',
    'cycles': '{} cycles',
}


def _variant(result: Result) -> str:
    """The width of a run and in what it departs from the defaults of its data set: 'width 64, 100
    epochs'.
    """
    fields = vars(result.spec)
    named = {name: fields[name] for name in ('task', 'strategy') if name in fields}
    try:
        usual = specs.spec(result.kind, dataset=result.spec.dataset, **named)
    # of a package that is not installed here
    except Refused:
        return f'width {result.spec.width}'
    other = {
        name: value
        for name, value in sorted(fields.items())
        if name not in ('seed', 'pretext') and value != getattr(usual, name)
    }
    words = [
        re.sub('^1 (epoch|cycle)s', r'1 \1', PLAIN[name].format(fields[name]))
        for name in PLAIN
        if name == 'width' or name in other
    ]
    if until := other.get('until'):
        words.append('first cycle only' if until == 1 else f'first {until} cycles')
    # the rate falls where it does because of the epochs
    rest = (
        other.keys() - PLAIN.keys() - {'until'} - ({'milestones'} if 'epochs' in other else set())
    )
    return ', '.join([*words, *(['other settings'] if rest else [])])


def _numbered(columns: list[Column]) -> list[Column]:
    """Runs of one group and one wording get a number from the second on."""
    count: dict[tuple[str, str], int] = {}
    out = []
    for column in columns:
        place = count[column.group, column.run] = count.get((column.group, column.run), 0) + 1
        run = column.run if place == 1 else f'{column.run} ({place})'
        out.append(dataclasses.replace(column, run=run))
    return out


def _epochs(trajectories: list[Result]) -> list[Column]:
    """The out-of-fold losses of a trajectory, one column a logged epoch."""
    return [
        Column(
            f'{r.key}-{name}',
            f'out-of-fold after epoch {name.rpartition("_")[2]}',
            _run(r),
            values,
            {'epoch': int(name.rpartition('_')[2])},
        )
        for r in trajectories
        for name, values in r.tables['images'].items()
        if re.fullmatch(r'loss_out_\d+', name)
    ]


def _picks(runs: list[Result]) -> list[Column]:
    """Of every strategy its first run of each variant: the picked images in the order of cycles."""
    firsts = {(r.spec.strategy, _variant(r)): r for r in reversed(runs)}
    columns = []
    for (strategy, _), r in sorted(
        firsts.items(), key=lambda item: (item[0][0], item[1].spec.until > 0, item[0][1])
    ):
        table, order = r.tables['picks'], r.spec.pretext
        by_cycle = np.argsort(table['cycle'], kind='stable')
        more = {
            'sizes': np.unique(table['cycle'], return_counts=True)[1].tolist(),
            'batches': r.spec.cycles,
            # what the network that was trained on the first query reached, per cent
            'accuracy': round(100 * float(r.tables['cycles']['accuracy'][0]), 1),
            'colour': figures.METHOD_COLOURS.get(strategy, figures.OTHER_COLOURS[0]),
            'sorted': f'{order.task}, seed {order.seed}' if order else '',
        }
        columns.append(Column(r.key, strategy, _run(r), table['index'][by_cycle], more))
    return columns


def _views(task: str) -> dict[str, Any]:
    views = VIEWS.get(family(task), {})
    grid = TASKS[task].options.get('grid') if task in TASKS else None
    return {
        name: grid if grid and name in ('tiles', 'holes') else value
        for name, value in views.items()
    }


def title(name: str) -> str:
    """A data set as the report names it: 'CIFAR-10', 'Caltech-101, 32 pixels'."""
    family = name.partition(':')[0]
    return {'cifar10-mini': 'CIFAR-10-mini', **DATA}.get(family, family) + claims.pixels(name)


def _at_hand(name: str) -> bool:
    try:
        return data.available(name)
    # a data set of a package that is not installed here
    except Refused:
        return False


# --- files ---


def ranks(losses: np.ndarray) -> dict[str, str]:
    """How many losses [N] are smaller than each: exact ranks, ties and all; the largest number
    stands for no loss.
    """
    finite = np.isfinite(losses)
    kind = 'u2' if len(losses) < 2**16 else 'u4'
    below = np.full(len(losses), np.iinfo(kind).max, np.int64)
    below[finite] = rankdata(losses[finite], 'min') - 1
    return on_page.typed(below, kind)


def files(dataset: Dataset) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and content of every file that the explorer may ask for, but pictures."""
    kind = 'u2' if len(dataset.labels) < 2**16 else 'u4'
    yield dataset.file, {'labels': on_page.typed(dataset.labels, 'u2'), 'classes': dataset.classes}
    for column in dataset.pretext + dataset.main:
        losses = np.asarray(column.values, np.float64)
        yield (
            column.file,
            {'below': ranks(losses), **on_page.coded(np.where(np.isfinite(losses), losses, 0))},
        )
    for column in dataset.picks:
        yield column.file, {'index': on_page.typed(column.values, kind)}


def index(datasets: list[Dataset], sprites: dict[str, str | None]) -> dict[str, Any]:
    """What the page itself holds: the menus, and where pictures are."""

    def menu(columns: list[Column]) -> list[dict[str, Any]]:
        return [{'file': c.file, 'group': c.group, 'run': c.run, **c.more} for c in columns]

    return {
        'version': VERSION,
        'colours': figures.CLASS_COLOURS,
        'perSheet': on_page.TILES,
        'across': on_page.SHEET_COLUMNS,
        'datasets': [
            {
                'name': d.name,
                'title': title(d.name),
                'file': d.file,
                'images': len(d.labels),
                'sprites': sprites.get(d.name),
                'pretext': menu(d.pretext),
                'main': menu(d.main),
                'picks': menu(d.picks),
            }
            for d in datasets
        ],
    }


def write(folder: Path, datasets: list[Dataset]) -> None:
    """Write the files of all data sets to `folder`, each a script that hands its content over by
    name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for dataset in datasets:
        for name, content in files(dataset):
            write_file(
                folder / f'{name}.js', f'pt4alExplorer({_json(name)},{_json(content)});\n'.encode()
            )


def _json(content: Any) -> str:
    """JSON that can stand in a page."""
    return json.dumps(content, separators=(',', ':')).replace('<', '\\u003c')


# --- the page ---


def stored() -> list[Dataset]:
    """All that the stores hold, but for classifiers trained on wrong labels."""
    found = (r for kind in KINDS for r in store.find(kind))
    return catalogue(r for r in found if not getattr(r.spec, 'noise', ''))


def show() -> HTML:
    """The explorer of all stored results; its files are written beside the book's pages."""
    datasets = stored()
    if not datasets:
        raise Refused(
            'no data set has both a pretext and a main result: '
            'pt4al run pretext and pt4al run main make them'
        )
    if not (static := os.environ.get('PT4AL_STATIC')):
        raise Refused('the explorer is a page of the book: jupyter-book build book/')
    write(Path(static) / 'explorer', datasets)
    return HTML(
        element(
            index(datasets, {d.name: on_page.sprites(d.name) for d in datasets if _at_hand(d.name)})
        )
    )


def element(content: dict[str, Any]) -> str:
    """The place in a page that explorer.js fills; without scripts it stays hidden."""
    return (
        '<div class="explorer" hidden>\n<script class="explorer-index" type="application/json">'
        f'{_json(content)}</script>\n</div>'
    )


def still(dataset: Dataset) -> figures.Figure:
    """The columns shown first as a picture for print, and in words."""
    main, pretext, index = dataset.pair
    picture = figures.loss_rank_scatter(
        main,
        pretext,
        dataset.labels[index],
        dataset.classes,
        index,
        f'{title(dataset.name)}: {dataset.pretext[0].group} loss against main-task loss',
    )
    return dataclasses.replace(picture, live=None)


def numbers(dataset: Dataset, draws: int = 200) -> list[dict[str, Any]]:
    """Rows for a table: images and rho with its interval, of all images and of each class (of the
    largest, if many).
    """
    main, pretext, index = dataset.pair
    labels = dataset.labels[index]
    counts = np.bincount(labels, minlength=len(dataset.classes))
    listed = sorted(np.argsort(-counts, kind='stable')[:CLASSES_LISTED])
    parts = [
        ('all images', slice(None)),
        *((dataset.classes[c], labels == c) for c in listed if counts[c] > 2),
    ]
    rows = []
    for name, part in parts:
        x, y = main[part], pretext[part]
        defined = len(x) > 2 and min(np.ptp(x), np.ptp(y)) > 0
        rho = report.fmt_interval(stats.rank_correlation(y, x, draws)) if defined else None
        rows.append({'images of': name, 'images': len(x), 'rho [95 % interval]': rho})
    return rows
