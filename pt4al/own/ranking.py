"""Your own images: which ones to label next.

A folder of images becomes features, features become picks, and labels come back as a table, from
which the next round starts. N images, d features, m labels.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pt4al import data, files
from pt4al.errors import Refused
from pt4al.experiments import store
from pt4al.experiments.specs import data_digest, query_needs
from pt4al.own import features, labels, order, output, sheet
from pt4al.own.folder import Tree, check_readable, machine, match, place_of, read
from pt4al.own.labels import NONE, Answer, Labels
from pt4al.own.output import Ranking
from pt4al.own.rounds import (
    Neighbours,
    Round,
    active_spec,
    check,
    check_batch,
    copies,
    near_duplicates,
    nearest,
    picks,
    plane,
    reasons,
    usual_strategy,
)
from pt4al.tasks import TASKS

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger('pt4al')


def rank(
    folder: str | Path,
    *,
    budget: int = 500,
    features: str = 'auto',
    strategy: str | None = None,
    labels: str | Path | None = None,
    cycle: int | None = None,
    cycles: int = 10,
    out: str | Path = 'picks.csv',
    keep: str | Path | None = None,
    seed: int = 0,
    epochs: int | None = None,
    size: int | None = None,
) -> Ranking:
    """Choose `budget` images of a folder to label next, and write table, labelling tasks and
    contact sheet.

    budget    images to pick
    features  what tells images apart: 'efficientnet_lite0', pretrained; a pretext task, trained
              here; file:PATH, made elsewhere; 'auto' takes what is here without a download
    strategy  by default typical images first, then uncertain ones; on a pretext task PT4AL
    labels    what is labelled so far, as `labels.read_labels` reads it; never proposed again
    cycle     number of this round, from 1
    cycles    batches that the order of a pretext task is cut into, one a round
    out       the table; beside it come out.json (Label Studio), out.html (contact sheet) and
              out.left-out.csv; labels and columns that people added to the table stay
    keep      folder of networks and results, by default NAME.pt4al beside `out`: another round, or
              the same again after an interruption, goes on from there, with the same picks
    epochs    passes of a pretext task; by default by the number of images
    size      pixels of a side as a network trained here sees them

    Raises `Refused` in one line on what cannot be.
    """
    want = _Wanted(budget, features, strategy, cycle, cycles, seed, epochs, size)
    paths = output.paths(files.typed(out))
    source = None if labels is None else files.typed(labels)
    answers = _read_answers(source)
    output.check_files(paths, source)
    task, why = want.source()
    if labels is not None and cycle is None and task in TASKS:
        raise Refused('labels are given: say which round this is, for example cycle 2')
    tree = read(folder, want.side(task))
    check_readable(tree, paths['left out'])
    known = match(answers, tree) if answers else NONE
    typed = output.merged(tree, known, sheet.before(paths['table']))
    if answers:  # what stands in the table is labelled, too
        names = set(tree.names)
        known = match({name: one for name, one in typed.items() if name in names}, tree)
    elif typed:
        log.info(
            '%d labels in %s stay; this round takes no notice of them without --labels %s',
            len(typed),
            *[paths['table']] * 2,
        )
    log.info('features: %s (%s)', task, why)
    place = place_of(tree, keep, paths['table'].parent)
    _check_keep(place)
    with store.using(place):
        made = (_by_task if task in TASKS else _by_features)(tree, known, want, task)
    return output.written(dataclasses.replace(made, why=why), paths)


@dataclass(frozen=True)
class _Wanted:
    """What was asked of `rank`, as it was asked."""

    budget: int
    features: str
    strategy: str | None
    cycle: int | None
    cycles: int
    seed: int
    epochs: int | None
    size: int | None

    def source(self) -> tuple[str, str]:
        """The features to take, and why."""
        sorts = self.strategy is not None and 'pretext_loss' in query_needs(self.strategy)
        task, why = features.chosen(self.features, sorts)
        if task not in TASKS:
            for name in ('epochs', 'size'):
                if getattr(self, name) is not None:
                    raise Refused(
                        f'{name} is for a task that is trained here: leave it out, or give '
                        '--features rotation'
                    )
        return task, why

    def side(self, task: str) -> int:
        """Pixels of a side."""
        usual = machine()[1] if task in TASKS else features.side(task)
        return usual if self.size is None else self.size


def _read_answers(path: Path | None) -> Mapping[str, Answer]:
    return {} if path is None else labels.read_labels(path)


def _by_task(tree: Tree, known: Labels, want: _Wanted, task: str) -> Ranking:
    """A round by the order of a pretext task, whose classifier is a network trained on labels."""
    from pt4al.experiments.representation import embed
    from pt4al.query import QUERIES, split

    strategy = want.strategy or usual_strategy(True, known)
    s = order.pretext_spec(tree, task, want.seed, want.epochs)
    active = active_spec(
        tree, s, strategy, want.budget, want.cycles, want.seed, len(known.single.index)
    )
    r = Round(
        tree.dataset,
        strategy,
        want.budget,
        want.seed,
        task,
        s,
        active,
        want.cycle or 1,
        known.digest,
    )
    check(r, known, want.cycles, len(tree.names))
    ordered = order.order(tree, s, want.epochs)
    batch = ordered.batches(QUERIES[strategy].split or split, want.cycles)
    check_batch(r, known, batch)
    r = dataclasses.replace(
        r, pretext=ordered.pretext, batches='' if ordered.row is None else _digest(batch)
    )

    def compute(r: Round, scratch: Path) -> store.Computed:
        x = embedded() if 'ssl_features' in query_needs(strategy) else None
        return _picked(picks(r, known, len(tree.names), x, scratch, ordered, batch), known)

    def embedded() -> Tensor:
        chosen, model = order.network(s, ordered)
        pixels = data.load(tree.dataset, next(model.parameters()).device)[0].pixels
        return embed(model.trunk, pixels, chosen.encode)

    near = _neighbours(tree, Neighbours(tree.dataset, task, ordered.pretext), embedded)
    results = ordered.result, near, store.result(r, data_digest(r), compute)
    hardest = np.lexsort((batch, -ordered.loss))
    position = np.empty(len(batch), int)
    position[hardest] = np.arange(1, len(batch) + 1)
    words = [f'loss {ordered.loss[i]:.3g}' for i in results[-1].tables['picks']['index']]
    made = _ranking(tree, known, r, results, words)
    return dataclasses.replace(made, loss=ordered.loss, rank=position, batch=batch + 1)


def _by_features(tree: Tree, known: Labels, want: _Wanted, name: str) -> Ranking:
    """A round on features as they are, whose classifier is linear: seconds."""
    cycle = want.cycle or (2 if known.answers else 1)
    strategy = want.strategy or usual_strategy(False, known)
    r = Round(
        tree.dataset, strategy, want.budget, want.seed, name, cycle=cycle, labels=known.digest
    )
    check(r, known, want.cycles, len(tree.names))
    x = features.of(name, tree.pixels, tree.names)
    if name.startswith('file:'):
        r = dataclasses.replace(r, features=f'file:{_digest(x)}')
    rows = features.tensor(x)

    def compute(r: Round, scratch: Path) -> store.Computed:
        return _picked(picks(r, known, len(tree.names), rows, scratch), known)

    near = _neighbours(tree, Neighbours(tree.dataset, r.features), lambda: rows)
    result = store.result(r, data_digest(r), compute)
    words = reasons(r, known, rows, result.tables['picks']['index'])
    return _ranking(tree, known, r, (near, result), words)


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def _picked(picked: Tensor, known: Labels) -> store.Computed:
    from pt4al.training.execution import execution, machine

    return store.Computed(
        {'picks': {'index': picked.cpu().numpy()}},
        {'picked': len(picked), 'labels': len(known.answers)},
        known.classes,
        machine(execution()),
    )


def _neighbours(tree: Tree, s: Neighbours, embedded: Callable[[], Tensor]) -> store.Result:
    """Each image's nearest neighbour in features [N,d], and copies, found once for a folder."""
    from pt4al.training.execution import execution, machine

    def compute(s: Neighbours, scratch: Path) -> store.Computed:
        x = embedded()
        index, gap = nearest(x)
        equal = copies(tree.pixels)
        place = plane(x)
        return store.Computed(
            {
                'images': {
                    'neighbour': index,
                    'distance': gap,
                    'east': place[:, 0],
                    'north': place[:, 1],
                },
                'copies': {'one': equal[:, 0], 'other': equal[:, 1]},
            },
            {'copies': len(equal)},
            (),
            machine(execution()),
        )

    return store.result(s, data_digest(s), compute)


def _ranking(
    tree: Tree, known: Labels, r: Round, results: tuple[store.Result, ...], reasons: list[str]
) -> Ranking:
    tables = results[-2].tables
    equal = np.stack([tables['copies']['one'], tables['copies']['other']], 1)
    near = tables['images']
    pairs = near_duplicates(near['neighbour'], near['distance'], equal)
    picked, twin = results[-1].tables['picks']['index'], {}
    for one, other in pairs.tolist():
        twin.setdefault(one, other)
        twin.setdefault(other, one)
    words = tuple(
        why + (f'; near duplicate of {tree.names[twin[i]]}' if i in twin else '')
        for i, why in zip(picked.tolist(), reasons)
    )
    place = np.stack([near['east'], near['north']], 1)
    return Ranking(tree, known, r, picked, words, pairs, place, results, '')


def _check_keep(place: Path) -> None:
    try:
        place.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise Refused(
            f'cannot keep results in {str(place)!r} ({error.strerror}): give --keep a folder that '
            'you can write to'
        ) from None
