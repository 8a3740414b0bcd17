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
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pt4al import data, files
from pt4al.data import folders
from pt4al.errors import Refused, choose
from pt4al.experiments import store
from pt4al.experiments.specs import PRETEXT_FIELDS, Active, Pretext, data_digest, query_needs, spec
from pt4al.own import features, labels, order, sheet
from pt4al.own.labels import NONE, Answer, Labels
from pt4al.own.order import Order, scores, seconds  # noqa: F401  (what scripts take from here)
from pt4al.tasks import TASKS

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger('pt4al')
UNREADABLE = 0.1  # the share of images that may be unreadable in a folder from anywhere
# width and side of images, without an accelerator and with one
SLOW, FAST = (16, 32), (64, 64)
STEPS = 250  # of a classifier, where few labels do not make them too many passes
THUMB = 96  # pixels of a picture on the contact sheet
# a near duplicate is closer than this part of the median distance to the nearest neighbour, or
# closer than rounding, where most images have a copy
NEAR, FLOOR = 0.2, 0.02
# labels a class from which uncertain images serve better than typical ones (book, chapter "Your own
# data")
SWITCH = 10
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
    unreadable: int = 0  # of those left out, images that should have been read
    dataset: str = 'unlabelled:images'  # the name under which specs know it, by content


def read(folder: str | Path, size: int) -> Tree:
    """Read all images below a folder at `size` pixels, from the cache where they have been decoded
    before.

    The folder is listed once, for reading and for naming. Raises `Refused` where there are none,
    where none can be read, or where they change meanwhile.
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
    fine = tuple(name for name in names if name not in bad)
    dataset = f'unlabelled:{folders.opened(pixels)}'
    return Tree(root, size, fine, pixels, bad | left_out, odd, len(bad), dataset)


def _check_readable(tree: Tree, report: Path) -> None:
    """Write down what was not read, say so, and refuse if it is too much."""
    sheet.write_left_out(report, tree.left_out | tree.odd)
    images = tree.unreadable + len(tree.names)
    if tree.unreadable > max(1, UNREADABLE * images):
        bad = list(tree.left_out)[: tree.unreadable]
        raise Refused(
            f'{tree.unreadable} of {images} images cannot be read, {report.name} lists them: '
            f'repair or remove them ({labels.listed(bad)})'
        )
    for what, which in (('left out', tree.left_out), ('read with a remark', tree.odd)):
        if which:
            said = sheet.summary(which)
            log.warning('%d files are %s: %s; see %s', len(which), what, said, report.name)
    if len(tree.names) < 2:
        raise Refused(f'{str(tree.root)!r} holds one image: there is nothing to choose')


def match(answers: Mapping[str, str | Answer], tree: Tree) -> Labels:
    """Labels by file name as labels by index; errors as `labels.match`."""
    several = {name: (one,) if isinstance(one, str) else one for name, one in answers.items()}
    return labels.match(several, tree.root, tree.names, tree.left_out)


# --- what is asked for ---


@dataclass(frozen=True)
class Round:
    """One query on images of one's own, knowing some labels."""

    kind: ClassVar[str] = 'round'
    recipe: ClassVar[int] = 2
    dataset: str
    strategy: str
    budget: int
    seed: int
    features: str  # their name and, of a file, its digest
    # whose losses are listed and whose features tell duplicates; None: features made elsewhere
    pretext: Pretext | None = None
    # batches and the classifier's recipe, where a network is trained on the labels
    active: Active | None = None
    cycle: int = 1  # from 1; its batch is the cycle-th hardest
    labels: str = ''  # digest of what is labelled
    batches: str = ''  # digest of the batches, where an earlier order was kept


@dataclass(frozen=True)
class Neighbours:
    """The nearest neighbour of every image, whatever is labelled."""

    kind: ClassVar[str] = 'neighbours'
    recipe: ClassVar[int] = 1
    dataset: str
    features: str
    pretext: Pretext | None = None


def machine() -> tuple[int, int]:
    """Width of the network and side of the images that this machine can afford."""
    from pt4al.training.execution import execution

    return FAST if execution().device.startswith('cuda') else SLOW


def pretext_spec(tree: Tree, task: str, seed: int, epochs: int | None) -> Pretext:
    """The pretext task at the width that this machine can afford, as `order.pretext_spec`."""
    return order.pretext_spec(tree, choose('task', task, TASKS), seed, epochs, machine()[0])


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
        minibatches='even',
        milestones=(4 * epochs // 5,),
        pretext=pretext if PRETEXT_FIELDS & query_needs(strategy) else None,
    )


def usual_strategy(task: bool, known: Labels) -> str:
    """The strategy where none is named: PT4AL on a pretext task; on other features typical images
    until there are `SWITCH` labels a class, then uncertain ones.
    """
    if task:
        return 'pt4al'
    enough = len(known.classes) > 1 and len(known.index) >= SWITCH * len(known.classes)
    return 'margin' if enough else 'typiclust'


def _check(r: Round, known: Labels, cycles: int, n: int) -> None:
    """Refuse, before any training, what cannot be picked."""
    from pt4al.query.strategies import FROM_CLASSIFIER

    needs = query_needs(r.strategy)
    if r.budget < 1:
        raise Refused(f'budget is {r.budget}: it must be at least 1')
    if r.cycle < 1 or (r.pretext and r.cycle > cycles):
        raise Refused(f'cycle is {r.cycle}: it must lie between 1 and cycles = {cycles}')
    if 'oracle_labels' in needs:
        raise Refused(
            f'the strategy {r.strategy} looks at labels that nobody has given: choose another'
        )
    if not r.pretext and (lack := needs & {'dropout_logits', 'predicted_loss'}):
        raise Refused(
            f'the strategy {r.strategy} needs {", ".join(sorted(lack))}, which a linear classifier '
            'has not: give --features rotation, or another strategy'
        )
    if 'classes' in needs and len(known.classes) < 2:
        raise Refused(
            f'the strategy {r.strategy} needs to know how many classes there are: give labels'
        )
    if r.cycle > 1 and needs & FROM_CLASSIFIER and len(known.classes) < 2:
        only = (
            f'all {len(known.index)} labels are of the class {known.classes[0]!r}'
            if known.classes
            else 'no labels are given'
        )
        raise Refused(
            f'cycle {r.cycle} of {r.strategy} trains a classifier and {only}: give labels of two '
            'classes or more'
        )
    if r.pretext and cycles > n:
        raise Refused(f'{cycles} batches of {n} images: give at most one batch an image')
    if r.budget > n - len(known.answers):
        raise Refused(
            f'budget {r.budget} is above the {n - len(known.answers)} images without a label: '
            'lower it'
        )
    if 'pretext_loss' in needs and r.budget > n // cycles:
        raise Refused(
            f'budget {r.budget} is above the {n // cycles} images of a batch ({n} images in '
            f'{cycles} batches): lower the budget or the number of cycles'
        )


def _check_batch(r: Round, known: Labels, batch: np.ndarray) -> None:
    """Refuse a batch that has too few images left, naming those that have enough."""
    from pt4al.query import QUERIES

    if QUERIES[r.strategy].split is None:
        return
    free = np.ones(len(batch), bool)
    free[list(known.answers)] = False
    left = np.bincount(batch[free], minlength=int(batch.max()) + 1)
    if left[r.cycle - 1] < r.budget:
        enough = [str(number + 1) for number in np.flatnonzero(left >= r.budget)]
        raise Refused(
            f'batch {r.cycle} has {left[r.cycle - 1]} images without a label, fewer than the '
            f'budget of {r.budget}: '
            + (f'give --cycle {" or ".join(enough)}' if enough else f'give {left.max()} at most')
        )


# --- picking ---


def classifier(s: Active, known: Labels, number: int, checkpoint: Path | None = None):
    """The labelled images as a data set, and a network trained on those of one class: (train,
    index, model).
    """
    import torch

    from pt4al import experiments
    from pt4al.training.execution import execution

    known = known.single
    chosen = execution()
    train = data.load(s.dataset, chosen.device)[0]
    label = torch.zeros_like(train.labels)
    index = torch.from_numpy(known.index).to(label.device)
    label[index] = torch.from_numpy(known.label).to(label.device)
    train = dataclasses.replace(train, labels=label, classes=known.classes)
    model, _ = experiments.train_classifier(
        s, chosen, train, index, f'classifier on {len(index)} labels', checkpoint, 'active', number
    )
    return train, index, model


def linear(x: Tensor, known: Labels) -> Tensor:
    """Log-posteriors [N,C] of all images by a linear classifier on the features [N,d] of those that
    are labelled; an image of several classes is an example of each.
    """
    import torch

    rows = x.cpu().numpy()
    found = features.head(rows[known.index], known.label, rows, len(known.classes))
    return torch.from_numpy(found).float().to(x.device)


def picks(
    r: Round,
    known: Labels,
    n: int,
    x: Tensor | None,
    scratch: Path,
    found: Order | None = None,
    batch: np.ndarray | None = None,
) -> Tensor:
    """The picks [budget] of a round, drawn as `pt4al.query.cycle.run` draws them; `x` [N,d] are
    features that are taken as they are.
    """
    import torch

    from pt4al.query import QUERIES, Pool
    from pt4al.query import cycle as loop
    from pt4al.rng import device_stream, stream
    from pt4al.training.execution import execution

    device, needs = execution().device, query_needs(r.strategy)
    index = torch.tensor(sorted(known.answers), dtype=torch.int64, device=device)
    given: dict[str, Any] = {'classes': len(known.classes)} if 'classes' in needs else {}
    if 'ssl_features' in needs:
        given['ssl_features'] = x
    if 'pretext_loss' in needs:
        given['pretext_loss'] = torch.tensor(found.loss, device=device)
        if found.row is not None:
            given['batch'] = torch.from_numpy(batch).to(device)
    if r.cycle > 1 and (wanted := needs & loop.FROM_CLASSIFIER):
        if r.active is None:
            read = {'logits': linear(x, known), 'features': x}
            given |= {name: read[name] for name in wanted}
        else:
            train, _, model = classifier(r.active, known, r.cycle - 2, scratch / 'classifier.pt')
            rng = device_stream(r.seed, 'cycle', r.cycle - 1, 'dropout', device=device)
            given |= loop.predictions(model, train, wanted, rng)
    cycles = r.active.cycles if r.active else r.cycle
    pool = Pool(index, loop.unlabelled(index, n), r.cycle - 1, cycles, **given)
    rng = stream(r.seed, 'cycle', r.cycle - 1, 'query')
    return loop.verified(QUERIES[r.strategy](pool, r.budget, rng), pool, r.budget)


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


def copies(pixels: np.ndarray) -> np.ndarray:
    """Pairs [k,2] of images whose pixels are equal: each with the copy before it."""
    last: dict[bytes, int] = {}
    pairs = []
    for i, name in enumerate(features.contents(pixels).tolist()):
        if name in last:
            pairs.append((last[name], i))
        last[name] = i
    return np.array(pairs, np.int64).reshape(-1, 2)


def near_duplicates(
    neighbour: np.ndarray, distance: np.ndarray, equal: np.ndarray | None = None
) -> np.ndarray:
    """Pairs [k,2]: those of `equal`, then, nearest first, those closer than `FLOOR`, or than `NEAR`
    of the median distance of images that have no such copy.
    """
    equal = np.zeros((0, 2), np.int64) if equal is None else equal
    apart = (distance > FLOOR) & ~np.isin(np.arange(len(distance)), equal)
    bar = max(FLOOR, NEAR * np.median(distance[apart])) if apart.any() else FLOOR
    close = np.flatnonzero(distance <= bar)
    close = close[np.argsort(distance[close], kind='stable')]
    pairs = np.concatenate([equal, np.sort(np.stack([close, neighbour[close]], 1), 1)])
    first = np.sort(np.unique(pairs, axis=0, return_index=True)[1])
    return pairs[first]


# --- a round ---


@dataclass(frozen=True)
class Ranking:
    """What a round found and where it was written."""

    tree: Tree
    known: Labels
    round: Round
    picked: np.ndarray  # [budget] indices, in the order of picking
    reasons: tuple[str, ...]  # [budget] why each was picked
    duplicates: np.ndarray  # [k,2] indices of near duplicates, nearest first
    results: tuple[store.Result, ...]
    why: str  # these features
    # of a pretext task, else None
    loss: np.ndarray | None = None  # [N]
    rank: np.ndarray | None = None  # [N] from 1, the hardest
    batch: np.ndarray | None = None  # [N] from 1, the hardest
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """File names of the picks."""
        return [self.tree.names[index] for index in self.picked]


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
    files = _files(Path(out).expanduser())
    given = None if labels is None else Path(labels).expanduser()
    answers = _read_answers(given)
    _check_files(files, given)
    task, why = want.source()
    if labels is not None and cycle is None and task in TASKS:
        raise Refused('labels are given: say which round this is, for example cycle 2')
    tree = read(folder, want.side(task))
    _check_readable(tree, files['left out'])
    known = match(answers, tree) if answers else NONE
    merged = _merged(tree, known, sheet.before(files['table']))
    if answers:  # what stands in the table is labelled, too
        names = set(tree.names)
        known = match({name: one for name, one in merged.items() if name in names}, tree)
    log.info('features: %s (%s)', task, why)
    place = place_of(tree, keep, files['table'].parent)
    _check_keep(place)
    with store.using(place):
        found = (_by_task if task in TASKS else _by_features)(tree, known, want, task)
    return _written(dataclasses.replace(found, why=why), files)


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
        usual = machine()[1] if task in TASKS else features.SIDE
        return usual if self.size is None else self.size


def _read_answers(path: Path | None) -> Mapping[str, Answer]:
    return {} if path is None else labels.read_labels(path)


def _by_task(tree: Tree, known: Labels, want: _Wanted, task: str) -> Ranking:
    """A round by the order of a pretext task, whose classifier is a network trained on labels."""
    from pt4al.experiments.representation import embed
    from pt4al.query import QUERIES, split

    strategy = want.strategy or usual_strategy(True, known)
    s = pretext_spec(tree, task, want.seed, want.epochs)
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
    _check(r, known, want.cycles, len(tree.names))
    found = order.order(tree, s, want.epochs)
    batch = found.batches(QUERIES[strategy].split or split, want.cycles)
    _check_batch(r, known, batch)
    r = dataclasses.replace(
        r, pretext=found.pretext, batches='' if found.row is None else _digest(batch)
    )

    def compute(r: Round, scratch: Path) -> store.Computed:
        x = embedded() if 'ssl_features' in query_needs(strategy) else None
        return _picked(picks(r, known, len(tree.names), x, scratch, found, batch), known)

    def embedded() -> Tensor:
        chosen, model = order.network(s, found)
        pixels = data.load(tree.dataset, next(model.parameters()).device)[0].pixels
        return embed(model.trunk, pixels, chosen.encode)

    near = _neighbours(tree, Neighbours(tree.dataset, task, found.pretext), embedded)
    results = found.result, near, store.result(r, data_digest(r), compute)
    hardest = np.lexsort((batch, -found.loss))
    position = np.empty(len(batch), int)
    position[hardest] = np.arange(1, len(batch) + 1)
    words = [f'loss {found.loss[i]:.3g}' for i in results[-1].tables['picks']['index']]
    made = _ranking(tree, known, r, results, words)
    return dataclasses.replace(made, loss=found.loss, rank=position, batch=batch + 1)


def _by_features(tree: Tree, known: Labels, want: _Wanted, name: str) -> Ranking:
    """A round on features as they are, whose classifier is linear: seconds."""
    cycle = want.cycle or (2 if known.answers else 1)
    strategy = want.strategy or usual_strategy(False, known)
    r = Round(
        tree.dataset, strategy, want.budget, want.seed, name, cycle=cycle, labels=known.digest
    )
    _check(r, known, want.cycles, len(tree.names))
    if name == features.PRETRAINED:
        held = store.roots()[0] / 'features' / f'{name}-{features.SIDE}.npz'
        x = features.embedded(tree.pixels, held)
    else:
        x = features.from_file(Path(name[5:]).expanduser(), tree.names)
        r = dataclasses.replace(r, features=f'file:{_digest(x)}')
    rows = features.tensor(x)

    def compute(r: Round, scratch: Path) -> store.Computed:
        return _picked(picks(r, known, len(tree.names), rows, scratch), known)

    near = _neighbours(tree, Neighbours(tree.dataset, r.features), lambda: rows)
    found = store.result(r, data_digest(r), compute)
    words = _reasons(r, known, rows, found.tables['picks']['index'])
    return _ranking(tree, known, r, (near, found), words)


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
        index, gap = nearest(embedded())
        equal = copies(tree.pixels)
        return store.Computed(
            {
                'images': {'neighbour': index, 'distance': gap},
                'copies': {'one': equal[:, 0], 'other': equal[:, 1]},
            },
            {'copies': len(equal)},
            (),
            machine(execution()),
        )

    return store.result(s, data_digest(s), compute)


def _reasons(r: Round, known: Labels, x: Tensor, picked: np.ndarray) -> list[str]:
    """A few words on each pick."""
    if r.strategy == 'typiclust':
        return ['typical of its cluster'] * len(picked)
    if r.cycle == 1 or r.strategy not in ('margin', 'least_confidence', 'entropy'):
        return [r.strategy] * len(picked)
    log_posterior = linear(x, known).cpu().numpy()[picked]
    best = np.argsort(-log_posterior, 1)[:, :2]
    return [
        f'{known.classes[one]} or {known.classes[other]}, margin '
        f'{np.exp(row[one]) - np.exp(row[other]):.2f}'
        for row, (one, other) in zip(log_posterior, best)
    ]


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
    return Ranking(tree, known, r, picked, words, pairs, results, '')


# --- files ---


def place_of(tree: Tree, keep: str | Path | None, beside: Path) -> Path:
    """The store of a folder's results."""
    return Path(keep).expanduser() if keep else beside / f'{tree.root.name or "images"}.pt4al'


def _check_keep(place: Path) -> None:
    try:
        place.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise Refused(
            f'cannot keep results in {str(place)!r} ({error.strerror}): give --keep a folder that '
            'you can write to'
        ) from None


def _files(out: Path) -> dict[str, Path]:
    """What is written for a table `out`, after a look at whether it can be."""
    if out.suffix.lower() != '.csv' or out.is_dir():
        raise Refused(f'out is {str(out)!r}: name the table to write, for example picks.csv')
    if not out.parent.is_dir():
        raise Refused(f'{str(out.parent)!r} is not a folder: make it first')
    return {
        'table': out,
        'tasks': out.with_suffix('.json'),
        'sheet': out.with_suffix('.html'),
        'left out': out.with_suffix('.left-out.csv'),
    }


def _check_files(files: dict[str, Path], given: Path | None) -> None:
    """Refuse to replace what `rank` did not write, an input, or what people added."""
    inputs = [] if given is None else [given]
    sheet.before(files['table'])
    sheet.check_replaceable(files['tasks'], files['sheet'], files['left out'], inputs)


def _merged(tree: Tree, known: Labels, before: sheet.Before) -> dict[str, Answer]:
    """Every answer by file name, those given and those that stand in the table; `Refused` where
    they differ.
    """
    given = {tree.names[i]: answer for i, answer in known.answers.items()}
    torn = [
        name
        for name, answer in before.answers.items()
        if set(given.get(name, answer)) != set(answer)
    ]
    if torn:
        raise Refused(
            f'the table to write has other labels than those given, of {labels.listed(torn)}: '
            'correct one of them, or give another --out'
        )
    return {**before.answers, **given}


def _written(found: Ranking, files: dict[str, Path]) -> Ranking:
    """Write the table last: once it is there, everything is.

    What people typed since the round began is read again and stays.
    """
    _check_files(files, None)
    facts: dict[str, list[Any]] = {'reason': list(found.reasons)}
    if found.loss is not None:
        facts |= {
            'loss': [round(float(value), 6) for value in found.loss[found.picked]],
            'rank': found.rank[found.picked].tolist(),
            'batch': found.batch[found.picked].tolist(),
        }
    sheet.write_page(files['sheet'], contact_sheet(found))
    sheet.write_tasks(files['tasks'], found.tree.root.name, found.names, facts)
    sheet.write_csv(files['table'], table(found, sheet.before(files['table'])))
    return dataclasses.replace(found, files=files)


def table(found: Ranking, before: sheet.Before = sheet.NOTHING) -> dict[str, list[Any]]:
    """One row an image, the picks first as they were picked, then all others, from the hardest on
    where there is an order; then what people typed of images that are gone.
    """
    tree, names = found.tree, found.tree.names
    rest = np.arange(len(names)) if found.rank is None else np.argsort(found.rank)
    rows = np.concatenate([found.picked, rest[~np.isin(rest, found.picked)]]).tolist()
    chosen = dict(zip(found.picked.tolist(), found.reasons))
    now = str(found.round.cycle)
    earlier = {name: cell for name, cell in before.picked.items() if cell != now}
    answers = _merged(tree, found.known, before)
    gone = [name for name in before.names if name not in set(names)]
    out: dict[str, list[Any]] = {'path': [names[i] for i in rows]}
    if found.loss is not None:
        out |= {
            'loss': [round(float(found.loss[i]), 6) for i in rows],
            'rank': found.rank[rows].tolist(),
            'batch': found.batch[rows].tolist(),
        }
    out['picked'] = [found.round.cycle if i in chosen else earlier.get(names[i], '') for i in rows]
    out['reason'] = [chosen.get(i, '') for i in rows]
    for head in out:
        out[head] += gone if head == 'path' else [''] * len(gone)
    paths = out['path']
    out['label'] = [labels.cell(answers[name]) if name in answers else '' for name in paths]
    return out | {
        head: [cells.get(name, '') for name in paths] for head, cells in before.columns.items()
    }


def contact_sheet(found: Ranking) -> str:
    """The page that shows what was picked and why, the extremes of an order, near duplicates and
    what was left out.
    """
    tree, r = found.tree, found.round
    chosen = dict(zip(found.picked.tolist(), found.reasons))

    def tile(i: int) -> sheet.Tile:
        place = [] if found.loss is None else [f'loss {found.loss[i]:.3g}, rank {found.rank[i]:,}']
        why = ['picked', chosen[i]] if i in chosen else []
        return sheet.Tile(_thumbnail(tree, i), (tree.names[i], *place, *why))

    def section(heading: str, text: str, which: np.ndarray, most: int) -> str:
        return sheet.tiles(
            heading,
            f'{text} The first {most} of {len(which):,}.' if len(which) > most else text,
            [tile(i) for i in which[:most].tolist()],
        )

    doubles = [tuple(map(tile, pair)) for pair in found.duplicates[: SHOWN['pairs']].tolist()]
    facts = [
        f'{len(found.picked):,} of {len(tree.names):,} images picked by {r.strategy} in cycle '
        f'{r.cycle}, seed {r.seed}; {len(found.known.answers):,} are labelled. Features: '
        f'{r.features} ({found.why}).'
    ]
    if tree.left_out or tree.odd:
        facts.append(
            f'{len(tree.left_out):,} files were left out, {len(tree.odd):,} read with a remark: '
            'see below.'
        )
    sections = [section('Picked', 'In the order of picking.', found.picked, SHOWN['picked'])]
    if found.loss is not None:
        by_rank = np.argsort(found.rank)
        look = 'Look for what went wrong: blank, cropped or upside-down pictures.'
        sections += [
            section('Hardest', f'The highest loss. {look}', by_rank, SHOWN['hardest']),
            section('Easiest', 'The lowest loss.', by_rank[::-1], SHOWN['easiest']),
        ]
    return sheet.page(
        f'To label: {tree.root.name}',
        facts,
        [
            *sections,
            _balance(found.known),
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


def _balance(known: Labels) -> str:
    counts = np.bincount(known.label, minlength=len(known.classes))
    rows = {name: f'{count:,} images' for name, count in zip(known.classes, counts.tolist())}
    return sheet.rows('Labels so far', 'Images of each class.', rows)


def _thumbnail(tree: Tree, index: int) -> np.ndarray:
    try:
        return folders.decode(tree.root / tree.names[index], THUMB)
    # the file is gone or changed since it was decoded: show what was learnt from
    except Exception:
        return tree.pixels[index]
