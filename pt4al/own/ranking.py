"""Your own images: which ones to label next.

A folder of images goes the way of the study, images -> losses -> picks, into a store of its own;
labels come back as a table, and the next round starts from them. N images, m of them labelled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pt4al import data, files
from pt4al.data import folders
from pt4al.errors import Refused, choose
from pt4al.experiments import store
from pt4al.experiments.specs import PRETEXT_FIELDS, Active, Pretext, data_digest, query_needs, spec
from pt4al.own import sheet
from pt4al.tasks import TASKS

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger('pt4al')
UNREADABLE = 0.1  # the share of images that may be unreadable in a folder from anywhere
TURNED = 64_000  # images that rotation sees in all on a CPU: 16 passes over 4,000
# width and side of images, without an accelerator and with one
SLOW, FAST = (16, 32), (64, 64)
STEPS = 250  # of a classifier, where few labels do not make them too many passes
THUMB = 96  # pixels of a picture on the contact sheet
# of the median distance to the nearest neighbour: closer is a near duplicate
NEAR = 0.2
SHOWN = {'picked': 60, 'hardest': 24, 'easiest': 24, 'pairs': 12}


# --- a folder ---


@dataclass(frozen=True)
class Tree:
    """The images of a folder in the order of the arrays, and the files that are not among them."""

    root: Path
    size: int  # side of the images as the network sees them
    names: tuple[str, ...]  # [N] relative to root, / between folders
    pixels: np.ndarray  # [N,3,size,size] uint8
    left_out: dict[str, str]  # name -> why
    odd: dict[str, str]  # name, of one that was read -> what is odd about it

    @property
    def dataset(self) -> str:
        """The name under which specs know it."""
        return f'unlabelled:{self.root}?size={self.size}'


def read(folder: str | Path, size: int) -> Tree:
    """Read all images below a folder at `size` pixels, from the cache where they have been decoded
    before.

    Raises `Refused` where there are none or where none can be read.
    """
    root = Path(folder).expanduser().resolve()
    folders.place(f'{root}?size={size}')
    paths, left_out = folders.walk(root)
    if not paths:
        raise Refused(f'{str(root)!r} holds no images: they end in {", ".join(folders.SUFFIXES)}')
    pixels, unreadable = folders.read_images(paths, size, files.cache() / 'decoded', limit=1)
    names = [path.relative_to(root).as_posix() for path in paths]
    bad = {names[index]: f'cannot be read: {why}' for index, why in unreadable}
    odd = {names[index]: what for index, what in folders.oddities(pixels)}
    data.arrays.cache_clear()  # this process may have read the folder as it was before
    return Tree(
        root, size, tuple(name for name in names if name not in bad), pixels, bad | left_out, odd
    )


def _check_readable(tree: Tree, report: Path) -> None:
    """Write down what was not read, then refuse if it is too much: files can be repaired by the
    list.
    """
    sheet.write_left_out(report, tree.left_out | tree.odd)
    bad = [name for name, why in tree.left_out.items() if why.startswith('cannot be read')]
    if len(bad) > max(1, UNREADABLE * (len(bad) + len(tree.names))):
        raise Refused(
            f'{len(bad)} of {len(bad) + len(tree.names)} images cannot be read, {report.name} lists them: '
            f'repair or remove them ({sheet.listed(bad)})'
        )


@dataclass(frozen=True)
class Labels:
    """What is known so far."""

    index: np.ndarray  # [m] of images, ascending
    label: np.ndarray  # [m] of classes
    classes: tuple[str, ...]  # by name

    @property
    def digest(self) -> str:
        """What identifies them in a result's key."""
        known = [self.classes, self.index.tolist(), self.label.tolist()]
        return (
            hashlib.sha256(json.dumps(known).encode()).hexdigest()[:32] if len(self.index) else ''
        )


NONE = Labels(np.zeros(0, np.int64), np.zeros(0, np.int64), ())


def match(found: dict[str, str], tree: Tree) -> Labels:
    """Labels by file name as labels by index; `Refused` names files that are not among the images."""
    place = {name: index for index, name in enumerate(tree.names)}
    inside = {name: _relative(name, tree.root, place) for name in found}
    if unknown := [name for name, own in inside.items() if own not in place]:
        why = next(
            (f'; {name!r} {tree.left_out[name]}' for name in unknown if name in tree.left_out), ''
        )
        raise Refused(
            f'{len(unknown)} of {len(found)} labels name files that are not among the images of '
            f'{str(tree.root)!r}: {sheet.listed(unknown)}{why}; correct or remove these lines'
        )
    if len(set(inside.values())) < len(found):
        raise Refused('a file is labelled under two names, relative and absolute: keep one')
    classes = tuple(sorted(set(found.values())))
    index = np.array([place[own] for own in inside.values()], np.int64)
    label = np.array([classes.index(label) for label in found.values()], np.int64)
    order = np.argsort(index)
    return Labels(index[order], label[order], classes)


def _relative(name: str, root: Path, place: dict[str, int]) -> str:
    """A label's file name as the tree has it: as it stands, relative to the folder, or guarded by
    hand.
    """
    if name in place:
        return name
    # a file whose own name starts with an apostrophe, written without a guard
    if sheet.guarded(name) in place:
        return sheet.guarded(name)
    return os.path.relpath(name, root) if os.path.isabs(name) else name


# --- what is asked for ---


@dataclass(frozen=True)
class Round:
    """One query on images of one's own, knowing some labels."""

    kind: ClassVar[str] = 'round'
    recipe: ClassVar[int] = 1
    dataset: str
    # whose losses are listed and whose features tell duplicates
    pretext: Pretext
    # strategy, batches, budget, seed and the classifier's recipe
    active: Active
    cycle: int = 1  # from 1; its batch is the cycle-th hardest
    labels: str = ''  # digest of what is labelled


def machine() -> tuple[int, int]:
    """Width of the network and side of the images that this machine can afford."""
    from pt4al.training.execution import execution

    return FAST if execution().device.startswith('cuda') else SLOW


def pretext_spec(tree: Tree, task: str, seed: int, epochs: int | None) -> Pretext:
    """The pretext task with passes by the number of images: many views in all for few images, five
    passes for many.
    """
    cost = TASKS[choose('task', task, TASKS)].cost
    n, width = len(tree.names), machine()[0]
    work = TURNED * (4 if width == FAST[0] else 1) * min(4.0, 4 / cost)
    if epochs is None:
        epochs = int(np.clip(round(work / n), 5, 200 if cost < 4 else 50))
    return spec(
        'pretext',
        dataset=tree.dataset,
        task=task,
        seed=seed,
        width=width,
        epochs=epochs,
        batch=256 if n > 20_000 else 64,
        milestones=(max(1, 3 * epochs // 4),),
    )


def active_spec(
    tree: Tree, pretext: Pretext, strategy: str, budget: int, cycles: int, seed: int, labels: int
) -> Active:
    """The query and the classifier's recipe, with 20 to 100 passes by the number of labels."""
    batch = 32 if labels < 2000 else 128
    epochs = int(np.clip(round(STEPS * batch / max(1, labels)), 20, 100))
    return spec(
        'active',
        dataset=tree.dataset,
        strategy=strategy,
        seed=seed,
        cycles=cycles,
        budget=budget,
        width=pretext.width,
        epochs=epochs,
        batch=batch,
        milestones=(4 * epochs // 5,),
        pretext=pretext if PRETEXT_FIELDS & query_needs(strategy) else None,
    )


def _check(s: Active, known: Labels, cycle: int, n: int) -> None:
    """Refuse, before any training, what cannot be picked."""
    from pt4al.query.strategies import FROM_CLASSIFIER

    asks = query_needs(s.strategy)
    if not 1 <= cycle <= s.cycles:
        raise Refused(f'cycle is {cycle}: it must lie between 1 and cycles = {s.cycles}')
    if 'oracle_labels' in asks:
        raise Refused(
            f'the strategy {s.strategy} looks at labels that nobody has given: choose another'
        )
    if 'classes' in asks and len(known.classes) < 2:
        raise Refused(
            f'the strategy {s.strategy} needs to know how many classes there are: give labels'
        )
    if cycle > 1 and asks & FROM_CLASSIFIER and len(known.classes) < 2:
        only = (
            f'all {len(known.index)} labels are of the class {known.classes[0]!r}'
            if known.classes
            else ''
        )
        raise Refused(
            f'cycle {cycle} of {s.strategy} trains a classifier and {only or "no labels are given"}: '
            'give labels of two classes or more'
        )
    if s.cycles > n:
        raise Refused(f'{s.cycles} batches of {n} images: give at most one batch an image')
    if s.budget > n - len(known.index):
        raise Refused(
            f'budget {s.budget} is above the {n - len(known.index)} images without a label: lower it'
        )
    if 'pretext_loss' in asks and s.budget > n // s.cycles:
        raise Refused(
            f'budget {s.budget} is above the {n // s.cycles} images of a batch ({n} images in {s.cycles} '
            'batches): lower the budget or the number of cycles'
        )


# --- running it ---


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Read and write results in a folder, and nowhere else."""
    before = os.environ.get('PT4AL_RESULTS')
    os.environ['PT4AL_RESULTS'] = str(folder)
    try:
        yield
    finally:
        os.environ.pop('PT4AL_RESULTS')
        if before is not None:
            os.environ['PT4AL_RESULTS'] = before


def seconds(s: Pretext, steps: int = 3, clock: Callable[[], float] = time.perf_counter) -> float:
    """How long pretext training will take here, by a clock, from a few steps that are thrown away."""
    import torch

    from pt4al import experiments
    from pt4al.rng import device_stream
    from pt4al.training.fit import Schedule, fit

    chosen, train, _ = experiments.prepared(s)
    task, model = experiments.untrained(s, chosen, train)
    rng = device_stream(s.seed, 'own', 'estimate', device=chosen.device)
    index = torch.arange(min(s.batch, len(train.labels)), device=chosen.device)

    def timed(count: int) -> float:
        start = clock()
        fit(
            model,
            lambda epoch: (task.make_batch(train.pixels[index], index, rng) for _ in range(count)),
            task.per_sample_loss,
            Schedule(1, 1e-4, optimiser=s.optimiser),
            chosen,
            count * len(index),
            'timing',
        )
        return clock() - start

    timed(1)  # the first step sets up what the others use
    # and scoring
    return timed(steps) / (steps * len(index)) * len(train.labels) * (s.epochs + 1 / 3)


def scores(s: Pretext) -> store.Result:
    """The result of a pretext task, read or computed; how long that will take is told before it
    starts.
    """
    from pt4al import experiments

    if not store.folders_of(s, data_digest(s)):
        log.info(
            '%s on %d images, %d passes, width %d: about %s on this machine; interrupted, it goes on from there',
            s.task,
            len(data.arrays(s.dataset)[0].labels),
            s.epochs,
            s.width,
            _duration(seconds(s)),
        )
    return experiments.get(s, 'missing')


def _duration(seconds: float) -> str:
    return (
        f'{seconds:.0f} seconds'
        if seconds < 90
        else f'{seconds / 60:.0f} minutes'
        if seconds < 5400
        else f'{seconds / 3600:.1f} hours'
    )


def classifier(s: Active, known: Labels, number: int, checkpoint: Path | None = None):
    """The labelled images as a data set, and a classifier trained on those that are: (train, index,
    model).
    """
    import torch

    from pt4al import experiments
    from pt4al.training.execution import execution

    chosen = execution()
    train = data.load(s.dataset, chosen.device)[0]
    labels = torch.zeros_like(train.labels)
    index = torch.from_numpy(known.index).to(labels.device)
    labels[index] = torch.from_numpy(known.label).to(labels.device)
    train = dataclasses.replace(train, labels=labels, classes=known.classes)
    model, _ = experiments.train_classifier(
        s, chosen, train, index, f'classifier on {len(index)} labels', checkpoint, 'active', number
    )
    return train, index, model


def _picks(s: Active, known: Labels, cycle: int, scratch: Path) -> Tensor:
    """The picks of a cycle, drawn as `pt4al.query.cycle.run` draws them."""
    import torch

    from pt4al import experiments
    from pt4al.query import QUERIES, Pool
    from pt4al.query import cycle as loop
    from pt4al.rng import device_stream, stream
    from pt4al.training.execution import execution

    device, asks = execution().device, query_needs(s.strategy)
    train, index, seen = (
        data.load(s.dataset, device)[0],
        torch.from_numpy(known.index).to(device),
        {},
    )
    given = {} if s.pretext is None else experiments.pretext_fields(s.pretext, train, asks)
    if 'classes' in asks:
        given['classes'] = len(known.classes)
    if cycle > 1 and asks & loop.FROM_CLASSIFIER:
        train, index, model = classifier(s, known, cycle - 2, scratch / 'classifier.pt')
        rng = device_stream(s.seed, 'cycle', cycle - 1, 'dropout', device=device)
        seen = loop.predictions(model, train, asks & loop.FROM_CLASSIFIER, rng)
    pool = Pool(
        index, loop.unlabelled(index, len(train.labels)), cycle - 1, s.cycles, **given, **seen
    )
    rng = stream(s.seed, 'cycle', cycle - 1, 'query')
    return loop.verified(QUERIES[s.strategy](pool, s.budget, rng), pool, s.budget)


def features(s: Pretext) -> Tensor:
    """What the trained pretext network says of every image: [N,d], on the execution's device."""
    from pt4al import experiments
    from pt4al.experiments.representation import embed
    from pt4al.training.execution import execution

    task, model = experiments.trained(s)
    return embed(model.trunk, data.load(s.dataset, execution().device)[0].pixels, task.encode)


def nearest(x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Index and distance [N] of each image's nearest neighbour in features [N,d], standardised, of
    unit length.

    Exact, in chunks: time O(N^2 d), memory O(N d).
    """
    import torch
    import torch.nn.functional as F

    from pt4al.experiments.representation import neighbours

    x = F.normalize((x - x.mean(0)) / x.std(0).clamp_min(1e-6))
    similarity, index = neighbours(x, x, 2)
    # a copy may come before the image itself
    own = index[:, 0] == torch.arange(len(x), device=x.device)
    column = own.long()[:, None]
    gap = (2 - 2 * similarity.gather(1, column)).clamp_min(0).sqrt()[:, 0]
    return index.gather(1, column)[:, 0].cpu().numpy(), gap.cpu().numpy()


def _round(r: Round, scratch: Path, known: Labels) -> store.Computed:
    from pt4al.training.execution import execution, machine

    picked = _picks(r.active, known, r.cycle, scratch).cpu().numpy()
    index, gap = nearest(features(r.pretext))
    return store.Computed(
        {'picks': {'index': picked}, 'images': {'neighbour': index, 'distance': gap}},
        {'picked': len(picked), 'labels': len(known.index)},
        known.classes,
        machine(execution()),
    )


@dataclass(frozen=True)
class Ranking:
    """What a round found and where it was written."""

    tree: Tree
    known: Labels
    round: Round
    loss: np.ndarray  # [N]
    rank: np.ndarray  # [N] from 1, the hardest
    batch: np.ndarray  # [N] from 1, the hardest
    picked: np.ndarray  # [budget] indices, in the order of picking
    duplicates: np.ndarray  # [k,2] indices of near duplicates, nearest first
    results: tuple[store.Result, ...]
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """File names of the picks."""
        return [self.tree.names[index] for index in self.picked]


def rank(
    folder: str | Path,
    task: str = 'rotation',
    budget: int = 500,
    out: str | Path = 'picks.csv',
    seed: int = 0,
    strategy: str = 'pt4al',
    cycles: int = 10,
    cycle: int | None = None,
    labels: str | Path | None = None,
    epochs: int | None = None,
    size: int | None = None,
    keep: str | Path | None = None,
) -> Ranking:
    """Choose `budget` images of a folder to label next, and write table, labelling tasks and
    contact sheet.

    `out` is the table; beside it come out.json (Label Studio), out.html (contact sheet) and
    out.left-out.csv. With `labels`, as `sheet.read_labels` reads them, `cycle` says which round it
    is; no labelled image is proposed. Networks and results are kept in `keep`, by default the
    folder NAME.pt4al beside `out`: another round, or the same again after an interruption, goes on
    from there, and gives the same picks. Raises `Refused` in one line on what cannot be.
    """
    out = Path(out).expanduser()
    _check_out(out)
    known = {} if labels is None else sheet.read_labels(Path(labels).expanduser())
    if labels is not None and cycle is None:
        raise Refused('labels are given: say which round this is, for example cycle 2')
    tree = read(folder, machine()[1] if size is None else size)
    _check_readable(tree, out.with_suffix('.left-out.csv'))
    known = match(known, tree) if known else NONE
    pretext = pretext_spec(tree, task, seed, epochs)
    active = active_spec(tree, pretext, strategy, budget, cycles, seed, len(known.index))
    r = Round(tree.dataset, pretext, active, cycle or 1, known.digest)
    _check(active, known, r.cycle, len(tree.names))
    with inside(place_of(tree, keep, out.parent)):
        results = scores(pretext), store.result(r, data_digest(r), partial(_round, known=known))
    return _written(_ranking(tree, known, r, results), out)


def place_of(tree: Tree, keep: str | Path | None, beside: Path) -> Path:
    """The store of a folder's results."""
    return Path(keep).expanduser() if keep else beside / f'{tree.root.name or "images"}.pt4al'


def _check_out(out: Path) -> None:
    if out.suffix.lower() != '.csv' or out.is_dir():
        raise Refused(f'out is {str(out)!r}: name the table to write, for example picks.csv')
    if not out.parent.is_dir():
        raise Refused(f'{str(out.parent)!r} is not a folder: make it first')


def _ranking(tree: Tree, known: Labels, r: Round, results: tuple[store.Result, ...]) -> Ranking:
    import torch

    from pt4al.query import split

    loss = results[0].tables['images']['loss']
    parts = [part.numpy() for part in split(torch.tensor(loss), r.active.cycles)]
    order, rank, batch = np.concatenate(parts), np.empty(len(loss), int), np.empty(len(loss), int)
    rank[order] = np.arange(1, len(loss) + 1)
    batch[order] = np.repeat(np.arange(1, len(parts) + 1), [len(part) for part in parts])
    near = results[-1].tables['images']
    return Ranking(
        tree,
        known,
        r,
        loss,
        rank,
        batch,
        results[-1].tables['picks']['index'],
        near_duplicates(near['neighbour'], near['distance']),
        results,
    )


def near_duplicates(neighbour: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Pairs [k,2], nearest first, that are closer than `NEAR` of the median distance to a nearest
    neighbour.
    """
    close = np.flatnonzero(distance <= NEAR * np.median(distance))
    close = close[np.argsort(distance[close], kind='stable')]
    pairs = np.sort(np.stack([close, neighbour[close]], 1), 1)
    first = np.sort(np.unique(pairs, axis=0, return_index=True)[1])
    return pairs[first]


# --- files ---


def _written(found: Ranking, out: Path) -> Ranking:
    """Write the table last: once it is there, everything is."""
    files = {
        'table': out,
        'tasks': out.with_suffix('.json'),
        'sheet': out.with_suffix('.html'),
        'left out': out.with_suffix('.left-out.csv'),
    }
    facts = {
        'loss': [round(float(value), 6) for value in found.loss[found.picked]],
        'rank': found.rank[found.picked].tolist(),
        'batch': found.batch[found.picked].tolist(),
    }
    sheet.write_tasks(files['tasks'], found.names, facts)
    sheet.write_page(files['sheet'], contact_sheet(found))
    sheet.write_csv(files['table'], table(found))
    return dataclasses.replace(found, files=files)


def table(found: Ranking) -> dict[str, list[Any]]:
    """One row an image, the picks first as they were picked, then all others from the hardest on."""
    rest = np.argsort(found.rank)
    order = np.concatenate([found.picked, rest[~np.isin(rest, found.picked)]]).tolist()
    labels = dict(
        zip(found.known.index.tolist(), (found.known.classes[code] for code in found.known.label))
    )
    chosen = set(found.picked.tolist())
    return {
        'path': [found.tree.names[i] for i in order],
        'loss': [round(float(found.loss[i]), 6) for i in order],
        'rank': found.rank[order].tolist(),
        'batch': found.batch[order].tolist(),
        'picked': [found.round.cycle if i in chosen else '' for i in order],
        'label': [labels.get(i, '') for i in order],
    }


def contact_sheet(found: Ranking) -> str:
    """The page that shows what was picked, the extremes of the order, near duplicates and what was
    left out.
    """
    tree, r = found.tree, found.round
    order, chosen = np.argsort(found.rank), set(found.picked.tolist())

    def tile(i: int) -> sheet.Tile:
        said = f'loss {found.loss[i]:.3g}, rank {found.rank[i]:,}'
        return sheet.Tile(_thumbnail(tree, i), (tree.names[i], said, *['picked'] * (i in chosen)))

    def section(heading: str, says: str, which: np.ndarray, most: int) -> str:
        return sheet.tiles(
            heading,
            f'{says} The first {most} of {len(which):,}.' if len(which) > most else says,
            [tile(i) for i in which[:most].tolist()],
        )

    doubles = [tuple(map(tile, pair)) for pair in found.duplicates[: SHOWN['pairs']].tolist()]
    facts = [
        f'{len(found.picked):,} of {len(tree.names):,} images picked by {r.active.strategy} in cycle {r.cycle} of '
        f'{r.active.cycles}, seed {r.active.seed}; {len(found.known.index):,} are labelled. The order is that of '
        f'the {r.pretext.task} loss, rank 1 is the hardest.'
    ]
    if tree.left_out or tree.odd:
        facts.append(
            f'{len(tree.left_out):,} files were left out, {len(tree.odd):,} read with a remark: see below.'
        )
    return sheet.page(
        f'To label: {tree.root.name}',
        facts,
        [
            section('Picked', 'In the order of picking.', found.picked, SHOWN['picked']),
            section(
                'Hardest',
                'The highest loss. Look for what went wrong: blank, cropped or upside-down pictures.',
                order,
                SHOWN['hardest'],
            ),
            section('Easiest', 'The lowest loss.', order[::-1], SHOWN['easiest']),
            sheet.pairs(
                'Near duplicates',
                f'{len(found.duplicates):,} pairs whose features all but coincide; a label of '
                f'one may do for both. Pairs are flagged by distance, judge them by eye.',
                doubles,
            ),
            sheet.rows('Left out', 'Files that were not read.', tree.left_out),
            sheet.rows(
                'Read with a remark', 'Files that are not quite what their name says.', tree.odd
            ),
        ],
    )


def _thumbnail(tree: Tree, index: int) -> np.ndarray:
    try:
        return folders.decode(tree.root / tree.names[index], THUMB)
    # the file is gone or changed since it was decoded: show what was learnt from
    except Exception:
        return tree.pixels[index]
