"""Your own images: which ones to label next.

A folder of images becomes features, features become picks, and labels come back as a table, from
which the next round starts. N images, d features, m labels.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import os
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pt4al import data, files
from pt4al.errors import Refused
from pt4al.experiments import store
from pt4al.experiments.specs import query_needs
from pt4al.own import features as embeddings
from pt4al.own import finetune as finetuning
from pt4al.own import order, output, rounds, sheet
from pt4al.own.folder import Tree, check_readable, place_of, read, write_left_out
from pt4al.own.labels import Labels, Row, coded, log_classes, read_labels
from pt4al.own.output import Ranking
from pt4al.own.rounds import Neighbours, Round
from pt4al.progress import log
from pt4al.query import QUERIES, split
from pt4al.tasks import TASKS
from pt4al.training.execution import execution, machine


def rank(
    folder: str | Path,
    *,
    budget: int = 500,
    features: str = 'auto',
    strategy: str | None = None,
    labels: str | Path | None = None,
    cycle: int | None = None,
    cycles: int = 10,
    out: str | Path | None = None,
    keep: str | Path | None = None,
    seed: int = 0,
    epochs: int | None = None,
    finetune: bool = False,
) -> Ranking:
    """Choose `budget` images of a folder to label next, and write table, labelling tasks and
    contact sheet.

    budget    images to pick
    features  what tells images apart: 'efficientnet_lite0', pretrained; a pretext task, trained
              here; file:PATH, made elsewhere; 'auto' takes what is here without a download
    strategy  by default typical images first, then uncertain ones; on a pretext task PT4AL
    labels    what is labelled so far, as `labels.read_labels` reads it; never proposed again
    cycle     number of this round, from 1; by default the one after those labelled in the table
    cycles    batches that the order of a pretext task is cut into, one a round
    out       the table, by default that of the labels or picks.csv; tasks and contact sheet come
              beside it; what people added to it stays
    keep      folder of networks and results, from which the next round goes on, and this one after
              an interruption; by default NAME.pt4al beside `out` or the labels
    epochs    passes of a pretext task; by default by the number of images
    finetune  train the network that makes the features on the labels, too
    """
    sorts = strategy is not None and 'pretext_loss' in query_needs(strategy)
    source = None if labels is None else files.expand_home(labels)
    if source:
        read_labels(source)  # what cannot be read is refused before any work
    if out is None:
        out = source if source and sheet.ours(source) else 'picks.csv'
    paths = output.paths(files.expand_home(out))
    table = paths['table']
    sheet.check_files(paths)
    base = sheet.base(table, source)
    before = sheet.before(base)
    if before.answers and not source:
        raise Refused(f'{str(table)!r} holds labels: give it to --labels, too, or another --out')
    with suppress(Refused):  # it may be anything
        if not source and sheet.before(beside := table.with_name('picks.csv')).answers:
            log.warning('%s holds labels: give it to --labels, or they are not used', beside)
    name, why = embeddings.chosen(features, sorts)
    _check_numbers(budget, cycle, cycles, name in TASKS)
    if name in TASKS and source and cycle is None:
        raise Refused('there are labels: say which round this is, for example --cycle 2')
    place = place_of(folder, keep, table.parent, (source or table).parent, table.parent)
    tree = read(folder, embeddings.side([name], epochs)[name])
    for path in paths.values():  # what an earlier round wrote there
        tree.left_out.pop(os.path.relpath(os.path.realpath(path), tree.root), None)
    check_readable(tree, paths['left out'])
    known = sheet.labelled(source, tree) if source else coded({})
    if base == table:
        check_folder(table, before.picked, tree)
    before = sheet.before(base, tree)
    known = output.merged(known, source or table, before, base, tree)
    log_classes(known)
    log.info('features: %s (%s)', name, why)
    enough = len(known.classes) > 1 and len(known.index) >= rounds.SWITCH * len(known.classes)
    usual = 'pt4al' if name in TASKS else 'margin' if enough else 'typiclust'
    # a round whose picks are labelled in the table is done
    labelled = {*before.answers, *(tree.rows[i] for i in known.answers)}
    done = [one for row, one in before.cycles.items() if row in labelled]
    if cycle is None:
        cycle = 1 + max(done, default=1) if known.answers else 1
    with store.only_in(place):
        s = order.pretext_spec(tree, name, seed, epochs) if name in TASKS else None
        batches = cycles if s else cycle
        about = tree.dataset, strategy or usual, budget, seed, name, s, cycle, batches
        r = Round(*about, labels=known.digest, finetune=finetune)
        rounds.check(r, known, len(tree.names))
        fresh = before.picked and not keep and not place.is_dir()
        others = place.parent.glob('*.pt4al') if fresh else []
        if results := sorted(map(str, others)):
            log.warning('earlier results are in %s: give that to --keep', ' or '.join(results))
        write_left_out(tree, paths['left out'])
        return output.written(_picked(tree, known, r, epochs, why, paths), base, before)


def check_folder(table: Path, rows: Collection[Row], tree: Tree) -> None:
    """Refuse to write to the table of other pictures, or of a folder above this one, whose rows
    would be lost.
    """
    pictures = {row.picture for row in rows if row.picture}
    if pictures and not pictures & {*tree.pictures}:
        raise Refused(f'{str(table)!r} is a table of other pictures: give another --out')
    odd = {row.name for row in rows} - set(tree.names)
    for above in tree.root.parents:
        inside = [name.startswith(f'{tree.root.relative_to(above)}/') for name in odd]
        if any(inside) and not all(inside):
            raise Refused(f'{str(table)!r} is a table of {str(above)!r}: give another --out')


def _check_numbers(budget: int, cycle: int | None, cycles: int, sorts: bool) -> None:
    """Refuse what needs no look at the images; `sorts`: a pretext task sorts them."""
    for what, value in {'budget': budget, 'cycle': cycle, 'cycles': cycles}.items():
        if value is not None and value < 1:
            raise Refused(f'{what} is {value}: it must be at least 1')
    if sorts and (cycle or 1) > cycles:
        raise Refused(f'cycle is {cycle}: it must lie between 1 and cycles = {cycles}')


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def _picked(
    tree: Tree, known: Labels, r: Round, epochs: int | None, why: str, files: dict[str, Path]
) -> Ranking:
    """The picks, and the images that are near each other, which are computed once for a folder."""
    ordered = batch = None
    embedded: Callable[[], Tensor]
    load: finetuning.Load
    if s := r.pretext:
        ordered = order.order(tree, s, epochs)
        batch = ordered.batches(QUERIES[r.strategy].split or split, r.cycles)
        rounds.check_batch(r, known, batch)
        again = '' if ordered.row is None else _digest(batch)
        r = dataclasses.replace(r, pretext=ordered.result.spec, batches=again)
        embedded, load = partial(order.embedded, s, ordered), partial(order.backbone, s, ordered)
    else:
        x, name = embeddings.of(r.features, tree.pixels, tree.names), r.features
        if name.startswith('file:'):
            r = dataclasses.replace(r, features=f'file:{_digest(x)}')
        embedded = partial(torch.tensor, x, dtype=torch.float32, device=execution().device)
        load = lambda: copy.deepcopy(embeddings.network(name))
    embedded = cache(embedded)

    def near(s: Neighbours, scratch: Path) -> store.Computed:
        x = embedded()
        index, gap = rounds.nearest(x)
        east, north = rounds.plane(x).T
        images = {'neighbour': index, 'distance': gap, 'east': east, 'north': north}
        return store.Computed({'images': images}, {}, (), machine(execution()))

    def compute(r: Round, scratch: Path) -> store.Computed:
        @cache
        def classified() -> tuple[Tensor, Tensor]:
            x = embedded()
            if r.finetune:
                x = finetuning.embedded(tree, known, r, x, load, scratch)
            return x, rounds.linear(x, known)

        n = len(tree.names)
        index = rounds.picks(r, known, n, embedded, classified, ordered, batch).cpu().numpy()
        reasons = rounds.reasons(r, known, embedded, classified, index, ordered and ordered.loss)
        numbers: dict[str, float] = {'picked': len(index), 'labels': len(known.answers)}
        tables = {'picks': {'index': index, 'reason': np.array(reasons)}}
        return store.Computed(tables, numbers, known.classes, machine(execution()))

    digest = data.key_digest(r.dataset)
    space = store.get_or_compute(Neighbours(r.dataset, r.features, r.pretext), digest, near)
    result = store.get_or_compute(r, digest, compute)
    images = space.tables['images']
    pairs = rounds.near_duplicates(images['neighbour'], images['distance'])
    picked, twin = result.tables['picks']['index'], dict(pairs[::-1, ::-1].tolist())
    twin |= dict(pairs[::-1].tolist())
    words = tuple(
        one + (f'{sheet.TWIN}{tree.names[twin[i]]}' if i in twin else '')
        for i, one in zip(picked.tolist(), result.tables['picks']['reason'].tolist())
    )
    place = np.stack([images['east'], images['north']], 1)
    results: tuple[store.Result, ...] = (space, result)
    by_loss: dict[str, np.ndarray] = {}
    if ordered is not None and batch is not None:
        results = (ordered.result, *results)
        rank = np.argsort(np.lexsort((batch, -ordered.loss))) + 1
        by_loss = {'loss': ordered.loss, 'rank': rank, 'batch': batch + 1}
    return Ranking(tree, known, r, picked, words, pairs, place, results, why, files, **by_loss)
