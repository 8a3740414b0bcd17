"""Whether a pretext order would help on your images, asked of those that are labelled.

Everything is read off the frozen features of the pretext network by a linear classifier, which
takes seconds where networks would take hours; what it says is about this classifier. Shapes: m
labelled images, d features, C classes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats as scipy_stats

from pt4al import data, stats
from pt4al.errors import Refused
from pt4al.experiments import store
from pt4al.own import order, ranking
from pt4al.own.features import probe
from pt4al.own.labels import Labels, read_labels
from pt4al.rng import stream
from pt4al.stats.correlation import Estimate

FEWEST, MOST = 40, 4_000  # labels to begin with, and to look at
FOLDS, REPEATS = 5, 5  # of the cross-validation
SPLITS, TURNS = 15, 3  # resamples of the labelled images; rounds of labelling in each
TEST = 1 / 3  # of the labelled images, in every resample
DRAWS = 3  # random orders in a resample, averaged
LEVEL = 0.05
# the registered strategies that stand for them
ORDERS = {'hardest': 'pt4al_random', 'typical': 'typiclust'}
WORDS = {'hardest': 'hardest first', 'typical': 'typical first', 'random': 'random'}
DOUBT = (
    'When in doubt label at random: nothing is known to be better here, and random labels alone '
    'measure your classifier without bias. With very few labels a class, TypiClust is the other '
    'sound start.'
)


@dataclass(frozen=True)
class Order:
    """An order of labelling against random: the difference of mean accuracy over a learning curve,
    in points.
    """

    gap: Estimate
    p: float  # two-sided, adjusted over the orders
    same: float  # of two one-sided tests within the margin, adjusted alike
    verdict: str  # better, worse, equal or undecided


@dataclass(frozen=True)
class Advice:
    """What the labelled images say, and what to do."""

    labels: int
    classes: int
    rho: Estimate  # of pretext loss and out-of-fold loss of the linear classifier
    # the largest rho that this classifier's own agreement with itself allows
    ceiling: float
    sample: float  # p value of the labelled images' ranks being those of a random sample
    orders: Mapping[str, Order]
    choice: str  # hardest, typical, random, or undecided
    strategy: str  # what to give to `rank`
    says: tuple[str, ...]  # in plain words


def advise(
    folder: str | Path,
    labels: str | Path,
    task: str = 'rotation',
    seed: int = 0,
    margin: float = 2.0,
    epochs: int | None = None,
    size: int | None = None,
    keep: str | Path | None = None,
) -> Advice:
    """Say whether hardest-first, typical-first or random labelling serves a folder of images best,
    and how surely.

    `labels` as for `rank`, best of images drawn at random, 200 or more; `margin` in points of
    accuracy is what counts as equal. Results are kept in `keep`, by default the folder NAME.pt4al
    here. Raises `Refused` on fewer than 40 labels or a single class, and as `rank` does.
    """
    from pt4al.experiments.representation import embed

    if not 0 < margin < 100:
        raise Refused(
            f'margin is {margin:g}: give points of accuracy that count as equal, for example 2'
        )
    answers = read_labels(Path(labels).expanduser())
    tree = ranking.read(folder, ranking.machine()[1] if size is None else size)
    known = ranking.match(answers, tree).single
    _check(known)
    pretext = ranking.pretext_spec(tree, task, seed, epochs)
    with store.using(ranking.place_of(tree, keep, Path())):
        found = order.order(tree, pretext, epochs)
        chosen, model = order.network(pretext, found)
        pixels = data.load(tree.dataset, next(model.parameters()).device)[0].pixels
        x = embed(model.trunk, pixels[known.index.tolist()], chosen.encode).cpu().numpy()
    loss = found.loss
    ranks = scipy_stats.rankdata(loss)[known.index] / len(loss)
    return judge(x, loss[known.index], known.label, ranks, task, seed, margin)


def _check(known: Labels) -> None:
    counts = np.bincount(known.label, minlength=len(known.classes))
    most = known.classes[counts.argmax()]
    others = len(known.label) - counts.max()
    if not others or (len(known.label) >= FEWEST and others < FOLDS):
        raise Refused(
            f'{f"all {counts.max()}" if not others else f"{counts.max()} of {len(known.label)}"} '
            f'labels are of the class {most!r}: label at least {FOLDS} images of other classes'
        )
    if len(known.index) < FEWEST:
        raise Refused(
            f'{len(known.index)} labels are not enough to tell: label at least {FEWEST} images '
            'drawn at random, better 200'
        )


def judge(
    x: np.ndarray,
    loss: np.ndarray,
    label: np.ndarray,
    ranks: np.ndarray,
    task: str = 'rotation',
    seed: int = 0,
    margin: float = 2.0,
) -> Advice:
    """The advice from features [m,d], pretext losses [m], labels [m], and the losses' ranks in the
    pool [m], 0 to 1.
    """
    if len(x) > MOST:
        some = np.sort(stream(seed, 'advice', 'some').permutation(len(x))[:MOST])
        x, loss, label, ranks = x[some], loss[some], label[some], ranks[some]
    rho, ceiling = agreement(x, loss, label, seed)
    orders = compare(gaps(x, loss, label, seed), margin)
    sample = float(scipy_stats.kstest(ranks, 'uniform').pvalue)
    choice = choose_order(orders) if sample > LEVEL / 5 else 'undecided'
    strategy = {'hardest': 'pt4al', 'typical': 'typiclust'}.get(choice, 'random')
    made = Advice(len(x), len(np.unique(label)), rho, ceiling, sample, orders, choice, strategy, ())
    return dataclasses.replace(made, says=words(made, task, margin))


# --- does the rank predict the loss? ---


def out_of_fold(x: np.ndarray, label: np.ndarray, seed: int) -> np.ndarray:
    """Losses [repeats,m] of images that the linear classifier was not fitted to, each repeat with
    folds of its own.
    """
    out, classes = np.empty((REPEATS, len(x))), int(label.max()) + 1
    for repeat in range(REPEATS):
        fold = stream(seed, 'advice', 'folds', repeat).permutation(len(x)) % FOLDS
        for f in range(FOLDS):
            held = np.flatnonzero(fold == f)
            out[repeat, held] = -probe(x[fold != f], label[fold != f], x[held], classes)[
                range(len(held)), label[held]
            ]
    return out


def agreement(
    x: np.ndarray, loss: np.ndarray, label: np.ndarray, seed: int = 0
) -> tuple[Estimate, float]:
    """Spearman of pretext and out-of-fold losses with its interval, and the ceiling that the
    repeats' reliability sets.

    The pretext loss is taken to be without error, and repeats share images, so the ceiling is on
    the high side.
    """
    losses = out_of_fold(x, label, seed)
    reliability = stats.reliability(losses)
    return stats.rank_correlation(loss, losses, seed=seed), math.sqrt(
        reliability
    ) if reliability > 0 else math.nan


# --- which order would have served? ---


def gaps(
    x: np.ndarray, loss: np.ndarray, label: np.ndarray, seed: int = 0, splits: int | None = None
) -> dict[str, np.ndarray]:
    """Points of mean accuracy over a learning curve above random's, by order, one a resample:
    [splits].

    Every resample sets a third aside for the test; of the rest half is labelled in rounds, by each
    order in turn.
    """
    out: dict[str, list[float]] = {name: [] for name in ORDERS}
    for number in range(splits or SPLITS):
        order = stream(seed, 'advice', 'split', number).permutation(len(x))
        cut = round(TEST * len(x))
        pool, test = order[cut:], order[:cut]
        parts = x[pool], loss[pool], label[pool], x[test], label[test], int(label.max()) + 1
        base = np.mean(
            [
                curve('random', *parts, stream(seed, 'advice', 'random', number, draw))
                for draw in range(DRAWS)
            ]
        )
        for name, strategy in ORDERS.items():
            out[name].append(
                100 * (curve(strategy, *parts, stream(seed, 'advice', name, number)) - base)
            )
    return {name: np.array(values) for name, values in out.items()}


def curve(
    strategy: str,
    x: np.ndarray,
    loss: np.ndarray,
    label: np.ndarray,
    test: np.ndarray,
    truth: np.ndarray,
    classes: int,
    rng: np.random.Generator,
) -> float:
    """Mean test accuracy over the rounds, in which a registered strategy labels half of the pool x
    [p,d] in all.
    """
    import torch

    from pt4al.query import QUERIES
    from pt4al.query.strategies import Pool

    budget, right, labelled = len(x) // (2 * TURNS), [], torch.empty(0, dtype=torch.int64)
    given = {'pretext_loss': torch.from_numpy(loss), 'ssl_features': torch.from_numpy(x).float()}
    for turn in range(TURNS):
        free = np.setdiff1d(np.arange(len(x)), labelled.numpy())
        pool = Pool(labelled, torch.from_numpy(free), turn, TURNS, **given)
        labelled = torch.cat([labelled, QUERIES[strategy](pool, budget, rng)])
        index = labelled.numpy()
        right.append(np.mean(probe(x[index], label[index], test, classes).argmax(1) == truth))
    return float(np.mean(right))


def compare(found: Mapping[str, np.ndarray], margin: float) -> dict[str, Order]:
    """Tests of each order's gaps, one a resample, against 0 and against the margin, adjusted over
    the orders (Holm).

    Resamples share images, so the variance of their mean is not that of independent ones: it is
    corrected for the sizes of test and rest (Nadeau and Bengio 2003, 'Inference for the
    generalization error', eq. 6).
    """
    raw = {name: _corrected(gap, margin) for name, gap in found.items()}
    p, same = (stats.holm([tests[column] for tests in raw.values()]) for column in (1, 2))
    return {
        name: Order(
            raw[name][0],
            float(p[row]),
            float(same[row]),
            _verdict(raw[name][0].value, p[row], same[row]),
        )
        for row, name in enumerate(raw)
    }


def _corrected(gap: np.ndarray, margin: float) -> tuple[Estimate, float, float]:
    """Mean gap with its interval, p of no difference, p of a difference beyond the margin."""
    n, mean = len(gap), float(gap.mean())
    error = max(float(gap.std(ddof=1)) * math.sqrt(1 / n + TEST / (1 - TEST)), 1e-9)
    t = scipy_stats.t(n - 1)
    half = float(t.ppf(1 - LEVEL / 2) * error)
    estimate = Estimate(
        mean, mean - half, mean + half, n, f'{n} resamples', '95% corrected resampled t interval'
    )
    return estimate, float(2 * t.sf(abs(mean) / error)), float(t.sf((margin - abs(mean)) / error))


def _verdict(mean: float, p: float, same: float) -> str:
    if same < LEVEL:
        return 'equal'
    return 'undecided' if p >= LEVEL else 'better' if mean > 0 else 'worse'


def choose_order(orders: Mapping[str, Order]) -> str:
    """The order to take: the best of those that are better, random where none can be, else
    undecided.
    """
    better = [name for name, order in orders.items() if order.verdict == 'better']
    if better:
        return max(better, key=lambda name: orders[name].gap.value)
    return (
        'undecided' if any(order.verdict == 'undecided' for order in orders.values()) else 'random'
    )


# --- in plain words ---


def words(found: Advice, task: str, margin: float) -> tuple[str, ...]:
    """The advice, a sentence or two on each question."""
    rho, said = found.rho, []
    link = (
        'predicts'
        if rho.low > 0 and rho.value >= 0.3
        else 'weakly predicts'
        if rho.low > 0
        else 'runs against'
        if rho.high < 0
        else 'does not visibly predict'
    )
    said.append(
        f'The {task} loss {link} the loss of a linear classifier here: rho '
        f'{rho.value:.2f} [{rho.low:.2f}, {rho.high:.2f}] on {found.labels:,} labelled images; '
        f'no more than {found.ceiling:.2f} could be seen.'
    )
    for name, one in found.orders.items():
        gap = one.gap
        verdict = {
            'equal': f'would have been as good as random within {margin:g} points',
            'undecided': 'cannot be told apart from random',
        }
        outcome = verdict.get(one.verdict, f'would have been {one.verdict} than random')
        # the interval is of one order alone
        if one.verdict == 'undecided' and not gap.low <= 0 <= gap.high:
            outcome += f', {len(found.orders)} orders having been tried'
        said.append(
            f'Labelling {WORDS[name]} {outcome}: {gap.value:+.1f} '
            f'[{gap.low:+.1f}, {gap.high:+.1f}] points of accuracy over the curve.'
        )
    return (*said, *_conclusion(found))


def _conclusion(found: Advice) -> tuple[str, ...]:
    if found.sample <= LEVEL / 5:
        return (
            'These labels are not a random sample of the folder: their ranks in the '
            'pretext order are not spread as those of all images are. They cannot say which order '
            'serves the folder: label some 200 images drawn at random.',
            DOUBT,
        )
    if found.choice == 'undecided':
        return (f'{found.labels:,} labels are not enough to tell.', DOUBT)
    if found.choice == 'random':
        return ('No order is better than random here: label at random (--strategy random).',)
    return (
        f'Label {WORDS[found.choice]} (--strategy {found.strategy}), and ask again with '
        'more labels.',
    )


# --- how far the advice can be trusted ---


def simulated(
    n: int, strength: float, rng: np.random.Generator, classes: int = 10, d: int = 32
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features [n,d], losses [n] and labels [n] of classes that some images show clearly and others
    hardly.

    `strength` is the rank correlation, about, of loss and clarity: at 1 the hardest are the
    clearest and labelling them first is better, at -1 they say the least and it is worse, at 0 the
    order is a random one.
    """
    label = rng.integers(classes, size=n)
    centres = stream(0, 'advice', 'centres').standard_normal((classes, d))
    blur = rng.standard_normal(n)
    x = centres[label] + 1.5 * np.exp(blur)[:, None] * rng.standard_normal((n, d))
    return x, -strength * blur + math.sqrt(1 - strength**2) * rng.standard_normal(n), label


def truth(n: int, strength: float, pools: int, seed: int = 0) -> dict[str, float]:
    """The true gap of each order in points: over fresh pools of the size that `gaps` has, on fresh
    large test sets.
    """
    out: dict[str, list[float]] = {name: [] for name in ORDERS}
    held = n - round(TEST * n)
    for number in range(pools):
        x, loss, label = simulated(
            held + 2000, strength, stream(seed, 'advice', 'truth', n, f'{strength:g}', number)
        )
        parts = x[:held], loss[:held], label[:held], x[held:], label[held:], int(label.max()) + 1
        base = curve('random', *parts, stream(seed, 'advice', 'truth', number, 'random'))
        for name, strategy in ORDERS.items():
            out[name].append(
                100
                * (curve(strategy, *parts, stream(seed, 'advice', 'truth', number, name)) - base)
            )
    return {name: float(np.mean(values)) for name, values in out.items()}


def calibration(
    sizes: Sequence[int] = (200, 1000),
    strengths: Sequence[float] = (-0.4, 0, 0.2, 0.4),
    runs: int = 20,
    pools: int = 60,
    margin: float = 2.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Simulated labelled sets whose better order is known: how often the advice names it, errs, or
    abstains.

    One row a size and strength: the true gaps, how often each choice was made, and `wrong`, how
    often an order was named whose true gap is not positive, or random while another order is truly
    better by more than the margin.
    """
    rows = []
    for n in sizes:
        for strength in strengths:
            true = truth(n, strength, pools, seed)
            made = [_simulated_choice(n, strength, margin, seed, run) for run in range(runs)]
            best = max([*true, 'random'], key=lambda name: true.get(name, 0.0))
            rows.append(
                {
                    'labels': n,
                    'strength': strength,
                    'true': true,
                    'best': best,
                    'choices': {
                        name: made.count(name) for name in (*ORDERS, 'random', 'undecided')
                    },
                    'wrong': sum(_wrong(choice, true, margin) for choice in made),
                }
            )
    return {
        'what': 'choices of the advice on simulated labelled sets',
        'runs': runs,
        'pools': pools,
        'margin': margin,
        'seed': seed,
        'rows': rows,
    }


def _simulated_choice(n: int, strength: float, margin: float, seed: int, run: int) -> str:
    x, loss, label = simulated(
        n, strength, stream(seed, 'advice', 'calibration', n, f'{strength:g}', run)
    )
    return choose_order(compare(gaps(x, loss, label, run), margin))


def _wrong(choice: str, true: Mapping[str, float], margin: float) -> bool:
    if choice == 'random':
        return max(true.values()) > margin
    return choice != 'undecided' and true[choice] <= 0
