"""Your own images: which ones to label next.

A folder of images becomes features, features become picks, and labels come back as a table, from
which the next round starts. N images, d features, m labels.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from pathlib import Path
from unicodedata import normalize

import numpy as np
import torch
from torch import Tensor

from pt4al import data, files
from pt4al.data import folders
from pt4al.errors import Refused
from pt4al.experiments import store
from pt4al.experiments.specs import query_needs
from pt4al.own import features as embeddings
from pt4al.own import finetune as finetuning
from pt4al.own import order, output, rounds, sheet
from pt4al.own.folder import Tree, check_readable, place_of, read, write_left_out
from pt4al.own.labels import Labels, alike, in_numbers, listed, match, read_labels, unique
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
    answers = read_labels(source) if source else {}
    if out is None:
        out = source if source and sheet.ours(source) else 'picks.csv'
    paths = output.paths(files.expand_home(out))
    table = paths['table']
    sheet.check_files(paths)
    base = sheet.base(table, source)
    before = sheet.before(base)
    if before.answers and not source:
        raise Refused(f'{str(table)!r} holds labels: give it to --labels, too, or another --out')
    name, why = embeddings.chosen(features, sorts)
    _check_numbers(budget, cycle, cycles, name in TASKS)
    if name in TASKS and source and cycle is None:
        raise Refused('there are labels: say which round this is, for example --cycle 2')
    beside = [table.parent, (source or table).parent, table.parent]
    place = place_of(folder, keep, *beside)
    tree = read(folder, embeddings.side([name], epochs)[name])
    check_readable(tree, paths['left out'])
    note = place / f'names-{folders.DECODER}-{tree.size}.json'
    pictures = dict(zip(tree.names, [one.hex() for one in embeddings.contents(tree.pixels)]))
    tree = followed(tree, pictures, order.read_note(note) or {})
    if base == table:
        check_folder(table, before.picked, tree)
    before = sheet.before(base, tree)
    known = match(answers, tree, before.names)
    typed = output.merged(known, source or table, before, base, tree)
    there = set(tree.names)  # what stands in the table is labelled, too
    known = match({one: answer for one, answer in typed.items() if one in there}, tree)
    if known.classes:
        log.info('labels: %s', in_numbers(known))
    if same := alike(known.classes):
        log.warning('classes that look alike: %s; give images of one class one label', listed(same))
    log.info('features: %s (%s)', name, why)
    enough = len(known.classes) > 1 and len(known.index) >= rounds.SWITCH * len(known.classes)
    usual = 'pt4al' if name in TASKS else 'margin' if enough else 'typiclust'
    # a round whose picks are labelled in the table is done
    done = [one for name, one in before.cycles.items() if name in typed]
    if cycle is None:
        cycle = 1 + max(done, default=1) if known.answers else 1
    with store.only_in(place):
        s = order.pretext_spec(tree, name, seed, epochs) if name in TASKS else None
        batches = cycles if s else cycle
        about = tree.dataset, strategy or usual, budget, seed, name, s, cycle, batches
        r = Round(*about, labels=known.digest, finetune=finetune)
        rounds.check(r, known, len(tree.names))
        remember(pictures, typed, note, beside)
        write_left_out(tree, paths['left out'])
        return output.written(_picked(tree, known, r, epochs, why, paths), base)


def check_folder(table: Path, names: Iterable[str], tree: Tree) -> None:
    """Refuse to write to the table of a folder above this one, whose names would be lost."""
    odd = set(names) - set(tree.names)
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


def followed(tree: Tree, now: Mapping[str, str], was: Mapping[str, str]) -> Tree:
    """The folder with the names that its pictures had when they were listed."""
    place = unique((picture, i) for i, picture in enumerate(now.values()))
    gone = {name: place.get(picture) for name, picture in was.items() if name not in now}
    moved = {name: i for name, i in gone.items() if i is not None}
    composed = {normalize('NFC', name) for name in was}  # Macs write é as two characters
    fresh = {k: tree.names[i] for k, i in moved.items()}
    new = [f'{k} is {name}' for k, name in fresh.items() if normalize('NFC', name) not in composed]
    if new:
        log.warning('renamed pictures keep their labels: %s', listed(new))
    return dataclasses.replace(tree, moved=moved)


def remember(now: dict[str, str], labelled: Iterable[str], note: Path, beside: list[Path]) -> None:
    """Note which picture each name means; `Refused` where a labelled name now means another."""
    before = order.read_note(note) or {}
    notes, cure = {note.parent: before}, f'delete {note} if these still fit'
    if not note.parent.is_dir():  # whose table is it, and whose results may be of use?
        stores = {other.absolute() for folder in beside for other in folder.glob('*.pt4al')}
        notes = {other: order.read_note(other / note.name) or {} for other in sorted(stores)}
        cure = 'give --labels the table of this folder, not of another'
        images = set(now.values())
        useful = [one for one in notes if 2 * len(images & {*notes[one].values()}) > len(now)]
        if len(useful) == 1:
            log.warning('results of these pictures are in %s: give that to --keep', useful[0])
    changed = []
    for one in labelled:
        pictures = {known[one] for known in notes.values() if one in known}
        if one in now and pictures and now[one] not in pictures:
            changed.append(one)
    if changed:
        raise Refused(
            f'{len(changed)} labelled files hold another picture than when they were listed: '
            f'remove the labels of {listed(changed)}, or {cure}'
        )
    if before | now != before:
        files.seal(note, json.dumps(before | now).encode())


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
