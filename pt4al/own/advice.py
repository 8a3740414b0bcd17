"""Which order of labelling would serve your images, measured on those that are labelled.

Everything is read off frozen features by a linear classifier, which takes seconds where networks
would take hours; the answer is about this classifier. Shapes: m labelled images, d features.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats as scipy_stats
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge

from pt4al import files, stats
from pt4al.errors import Refused
from pt4al.experiments import store
from pt4al.own import features as embeddings
from pt4al.own import folder as folders
from pt4al.own import order, sheet
from pt4al.own.labels import Labels, Row, log_classes, read_labels
from pt4al.query import QUERIES, Pool
from pt4al.query.cycle import unlabelled
from pt4al.rng import stream
from pt4al.stats.correlation import Estimate
from pt4al.tasks import TASKS

FEWEST, MOST = 40, 4_000  # labels to begin with, and to look at
FOLDS, REPEATS = 5, 3  # of every cross-validation
TURNS = 3  # rounds of labelling in a curve, half of the pool in all
DRAWS = 2  # random orders in a resample, averaged
LEVEL = 0.05
MARGIN = 2.0  # points of accuracy that count as equal
DIMENSIONS = 128  # principal components that curves are drawn on
PENALTY = 0.3  # of the ridge classifier, on rows of length 1
# Resamples share their labels, so the spread over images understates that over fresh labels; the
# chapter's calibration shows what this factor makes of it
SAFETY = 1.4
# the registered strategies of the orders that are compared with random; the first round of margin,
# which has no classifier, is random
ORDERS = {'typical': 'typiclust', 'uncertain': 'margin', 'hardest': 'pt4al_random'}
STRATEGIES = {'typical': 'typiclust', 'uncertain': 'margin', 'hardest': 'pt4al'}
DOUBT = (
    'When in doubt label at random: nothing is known to be better here, and random labels alone '
    'measure your classifier without bias. With very few labels a class, TypiClust is the other '
    'sound start.'
)


@dataclass(frozen=True)
class Order:
    """An order of labelling against random on the same features."""

    gap: Estimate  # of mean accuracy over a learning curve, in points
    verdict: str  # better, not better or undecided


@dataclass(frozen=True)
class Source:
    """Features of the labelled images, and the loss of the pretext task that made them, if any."""

    x: np.ndarray  # [m,d]
    loss: np.ndarray | None = None  # [m]


@dataclass(frozen=True)
class Advice:
    """What the labelled images tell, and what to do."""

    labels: int
    picked: int  # labels that a strategy other than random picked here
    orders: Mapping[tuple[str, str], Order]  # by features and order
    random: Mapping[str, Estimate]  # accuracy of random labelling, %, by features
    features: str  # to give to `rank`
    choice: str  # typical, uncertain, hardest, random, or undecided

    @property
    def strategy(self) -> str:
        """To give to `rank`."""
        return STRATEGIES.get(self.choice, 'random')

    @property
    def sentences(self) -> tuple[str, ...]:
        """The advice, a sentence or two on each question."""
        out = [
            f'On {source} features random labelling gives {right.value:.1f} % '
            f'[{right.low:.1f}, {right.high:.1f}] over the curve.'
            for source, right in self.random.items()
        ]
        outcomes = {
            'better': 'would have been better than random',
            'not better': f'would not have been better than random by {MARGIN:g} points',
            'undecided': 'cannot be told apart from random',
        }
        for (source, name), one in self.orders.items():
            gap, outcome = one.gap, outcomes[one.verdict]
            # the interval is of one order alone
            if one.verdict == 'undecided' and not gap.low <= 0 <= gap.high:
                outcome += f', {len(self.orders)} orders having been tried'
            out.append(
                f'Labelling {name} first on {source} features {outcome}: {gap.value:+.1f} '
                f'[{gap.low:+.1f}, {gap.high:+.1f}] points of accuracy over the curve.'
            )
        if self.picked:
            out.append(f'{self.picked:,} of these labels were picked by a strategy.')
        out.append('Labels that were not drawn at random bias the comparison.')
        take = f'(--features {self.features} --strategy {self.strategy})'
        if self.choice == 'undecided':
            out += [f'{self.labels:,} labels are not enough to tell.', DOUBT]
        elif self.choice == 'random':
            out.append(f'No order is better than random here: label at random {take}.')
        else:
            out.append(f'Label {self.choice} first {take}, and ask again with more labels.')
        return tuple(out)


def advise(
    folder: str | Path,
    labels: str | Path,
    features: str = 'auto',
    seed: int = 0,
    epochs: int | None = None,
    keep: str | Path | None = None,
) -> Advice:
    """Compare typical, uncertain and random images, and the order of a pretext task, on the labels
    of a folder.

    labels    as for `rank`, best of images drawn at random, 200 or more
    features  as for `rank`, one or several parted by commas, for example 'auto,rotation': every
              order is compared on each; 'hardest first' needs a pretext task among them
    keep      folder of networks and results, by default NAME.pt4al beside the labels, else here
    """
    # a task's name may have commas of its own: NAME:what=1,other=2
    parts = re.split(r',(?!\w+=)', features)
    names = [embeddings.chosen(one.strip(), False)[0] for one in parts]
    table = files.expand_home(labels)
    read_labels(table)  # what cannot be read is refused before any work
    sources: dict[str, Source] = {}
    picked: set[int] = set()
    place = folders.place_of(folder, keep, table.parent, Path())
    with store.only_in(place):
        for name, side in embeddings.side(names, epochs).items():
            tree = folders.read(folder, side)
            known = sheet.labelled(table, tree)
            if not sources:
                log_classes(known)
            known = _usable(known)
            before = sheet.before(table, tree) if sheet.ours(table) else sheet.NOTHING
            part = np.sort(stream(seed, 'advice', 'some').permutation(len(known.index))[:MOST])
            index, label = known.index[part], known.label[part]
            sources[name] = _source(name, tree, index, seed, epochs)
            picked |= _picked(tree, before.cycles)
    return judge(sources, label, seed, len(picked.intersection(index.tolist())))


def _source(
    name: str, tree: folders.Tree, index: np.ndarray, seed: int, epochs: int | None
) -> Source:
    if name not in TASKS:
        return Source(embeddings.of(name, tree.pixels, tree.names)[index])
    s = order.pretext_spec(tree, name, seed, epochs)
    made = order.order(tree, s, epochs)
    x = order.embedded(s, made, index).cpu().numpy()
    return Source(x, made.loss[index])


def _picked(tree: folders.Tree, cycles: Mapping[Row, int]) -> set[int]:
    """Images that a strategy other than random picked, by the store or by the `cycles` of a table,
    which stay when the folder changes.
    """
    made = [one for one in store.find('round') if one.spec.strategy != 'random']
    drawn = {one.spec.cycle for one in store.find('round', strategy='random')}
    drawn -= {one.spec.cycle for one in made}
    here = [one.tables['picks']['index'] for one in made if one.spec.dataset == tree.dataset]
    listed = {i for i, row in enumerate(tree.rows) if cycles.get(row, 0) not in {0, *drawn}}
    return listed.union(*(index.tolist() for index in here))


def _usable(known: Labels) -> Labels:
    """Images of one label each; `Refused` where these are too few, or no classes."""
    one = known.single
    counts = np.bincount(one.label, minlength=len(known.classes))
    total, most = counts.sum(), known.classes[counts.argmax()]
    several = len(set(known.index.tolist())) - total
    unused = f'; images with several labels are not used: {several}' if several else ''
    if total < FEWEST or total - counts.max() < FOLDS:
        raise Refused(
            f'{total} labels, {counts.max()} of them {most!r}, are not enough to tell: '
            f'label {FEWEST} images drawn at random, better 200, {FOLDS} at least of other '
            f'classes{unused}'
        )
    if 2 * counts[counts > 1].sum() < total:
        raise Refused(
            f'{total} labels name {np.count_nonzero(counts)} classes, most of one image: give '
            'classes that images share, not a name of each'
        )
    return one


def judge(
    sources: Mapping[str, Source], label: np.ndarray, seed: int = 0, picked: int = 0
) -> Advice:
    """The advice from features by name, and labels [m], some of them `picked` by a strategy."""
    label = np.unique(label, return_inverse=True)[1]
    right = curves(sources, label, seed)
    orders = compare(right)
    random = {name: _estimate(100 * right[name, 'random']) for name in sources}
    best = _best_features({name: 100 * right[name, 'random'] for name in sources})
    choice = choose_order(orders, best)
    tasks = [name for name, source in sources.items() if source.loss is not None]
    if choice == 'hardest' and best not in tasks:
        best = tasks[0]  # whose order it is
    return Advice(len(label), picked, orders, random, best, choice)


# --- which order would have served? ---


def curves(
    sources: Mapping[str, Source], label: np.ndarray, seed: int = 0
) -> dict[tuple[str, str], np.ndarray]:
    """How often each labelled image is named rightly [m] when it is in the test of a repeated
    cross-validation, averaged over its curves; by features and order, random among them.
    """
    losses = [source.loss for source in sources.values() if source.loss is not None]
    names = ['random', *(name for name in ORDERS if losses or name != 'hardest')]
    right = {(source, name): np.zeros(len(label)) for source in sources for name in names}
    rows = {name: reduced(source.x) for name, source in sources.items()}
    folds = [
        stream(seed, 'advice', 'folds', repeat).permutation(len(label)) % FOLDS == fold
        for repeat in range(REPEATS)
        for fold in range(FOLDS)
    ]
    for number, test in enumerate(folds):
        pool = ~test
        for (source, name), total in right.items():
            # the loss of the features' task, else that of the first one
            loss = sources[source].loss
            loss = losses[0] if loss is None and losses else loss
            draws = DRAWS if name == 'random' else 1
            for draw in range(draws):
                total[test] += curve(
                    ORDERS.get(name, name),
                    rows[source][pool],
                    None if loss is None else loss[pool],
                    label[pool],
                    rows[source][test],
                    label[test],
                    stream(seed, 'advice', name, number, draw),
                ) / (draws * REPEATS)
    return right


def reduced(x: np.ndarray) -> np.ndarray:
    """Rows [m,d] centred and of length 1, as at most `DIMENSIONS` principal components."""
    x = embeddings.unit(np.asarray(x, np.float64))
    return embeddings.unit(PCA(min(DIMENSIONS, *x.shape), random_state=0).fit_transform(x))


def curve(
    strategy: str,
    x: np.ndarray,
    loss: np.ndarray | None,
    label: np.ndarray,
    test: np.ndarray,
    truth: np.ndarray,
    rng: np.random.Generator,
    budget: int | None = None,
) -> np.ndarray:
    """Share of rounds [t] in which each test image is named rightly, as a registered strategy
    labels `budget` images a round of the pool x [p,d], in all half of it.
    """
    budget = budget or len(x) // (2 * TURNS)
    right: list[np.ndarray] = []
    known: dict[str, Any] = {'ssl_features': torch.from_numpy(x).float()}
    if loss is not None:
        known['pretext_loss'] = torch.from_numpy(loss)
    labelled = torch.empty(0, dtype=torch.int64)
    for turn in range(TURNS):
        # with a batch a round the last round would have taken of every batch, as random does
        pool = Pool(labelled, unlabelled(labelled, len(x)), turn, 2 * TURNS, **known)
        labelled = torch.cat([labelled, QUERIES[strategy](pool, budget, rng)])
        index = labelled.numpy()
        there, code = np.unique(label[index], return_inverse=True)
        model = Ridge(alpha=PENALTY).fit(x[index], np.eye(len(there))[code])
        right.append(there[model.predict(test).reshape(len(test), -1).argmax(1)] == truth)
        # a sharp posterior, so that margins follow those of the scores; a single class has none
        scores = model.predict(x).reshape(len(x), -1)
        logits = 10 * np.pad(scores, ((0, 0), (0, int(len(there) == 1))))
        known['logits'] = torch.from_numpy(logits)
    return np.mean(right, 0)


def compare(right: Mapping[tuple[str, str], np.ndarray]) -> dict[tuple[str, str], Order]:
    """Tests of each order of `curves` against random on the same features, paired over images: the
    gain in points against 0 and against the margin, adjusted over the orders (Holm).
    """
    by_image = {
        (source, name): 100 * (one - right[source, 'random'])
        for (source, name), one in right.items()
        if name != 'random'
    }
    gap = {key: _estimate(gain) for key, gain in by_image.items()}
    error = {key: _error(gain) for key, gain in by_image.items()}
    p = stats.holm([2 * scipy_stats.norm.sf(abs(gap[key].value) / error[key]) for key in gap])
    below = stats.holm([scipy_stats.norm.sf((MARGIN - gap[key].value) / error[key]) for key in gap])
    return {
        key: Order(one, _verdict(one.value, p[row], below[row]))
        for row, (key, one) in enumerate(gap.items())
    }


def _error(values: np.ndarray) -> float:
    return max(SAFETY * float(values.std(ddof=1)) / math.sqrt(len(values)), 1e-9)


def _estimate(values: np.ndarray) -> Estimate:
    mean, half = float(values.mean()), float(scipy_stats.norm.ppf(1 - LEVEL / 2)) * _error(values)
    method = f'paired over images, error times {SAFETY:g}'
    return Estimate(mean, mean - half, mean + half, len(values), f'{len(values)} images', method)


def _verdict(mean: float, p: float, below: float) -> str:
    if p < LEVEL and mean > 0:
        return 'better'
    return 'not better' if below < LEVEL else 'undecided'


def _best_features(accuracy: Mapping[str, np.ndarray]) -> str:
    """The features with the highest random curve, where surely above the first; else the first."""
    first, *others = accuracy
    gaps = {name: _estimate(accuracy[name] - accuracy[first]) for name in others}
    sure = {name: gap.value for name, gap in gaps.items() if gap.low > 0}
    return max(sure, key=lambda name: sure[name]) if sure else first


def choose_order(orders: Mapping[tuple[str, str], Order], features: str) -> str:
    """The best of the orders that are better on these features, else random or undecided."""
    here = {name: one for (source, name), one in orders.items() if source == features}
    if better := {name: one.gap.value for name, one in here.items() if one.verdict == 'better'}:
        return max(better, key=lambda name: better[name])
    undecided = any(one.verdict == 'undecided' for one in here.values())
    return 'undecided' if undecided else 'random'
