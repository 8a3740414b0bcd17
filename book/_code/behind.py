"""Why PT4AL is behind random labels: its labels and the recall, class by class and by difficulty.

Everything here was looked for after the results had been seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import chapters
import numpy as np
from summary import DATA

from pt4al import claims, figures, stats
from pt4al.claims import Regime
from pt4al.claims.curves import Curve
from pt4al.figures import Figure
from pt4al.report import fmt_interval
from pt4al.stats import Estimate

BOTH = ('pt4al', 'random')
LEAST = 5  # labels of a class by random labels, on average, from which its share can be judged
EASY = 0.3  # of the pool, by the classifiers' loss


def labels_of(curve: Curve, budget: int, classes: int) -> np.ndarray:
    """How many of the first `budget` labels each class has: [C]."""
    return np.bincount(curve.result.tables['picks']['label'][:budget], minlength=classes)


def _mean_labels(regime: Regime, strategy: str, budget: int) -> np.ndarray:
    there = [c for c in regime.curves[strategy] if budget in c.labels]
    return np.mean([labels_of(c, budget, len(c.result.classes)) for c in there], axis=0)


def _by_run(
    regime: Regime, strategy: str, budget: int, measure: Callable[[Curve], float]
) -> dict[object, list[float]]:
    """A measure of every run of a strategy that reaches a budget, by independent unit."""
    out: dict[object, list[float]] = {}
    for curve in regime.curves[strategy]:
        if budget in curve.labels:
            out.setdefault(curve.unit, []).append(measure(curve))
    return out


def _gap(regime: Regime, budget: int, measure: Callable[[Curve], float]) -> Estimate:
    """PT4AL minus random labels, a Welch interval over runs."""
    sides = (_by_run(regime, strategy, budget, measure) for strategy in BOTH)
    return stats.difference(*sides).estimate


budgets = claims.compared


@cache
def deciding(name: str) -> Regime | None:
    """The runs of claim 3b: the same at every budget."""
    regime = chapters.deciding(name)
    return regime and regime.reaching(budgets(regime))


@cache
def scarce(name: str) -> np.ndarray:
    """Classes [k] of which PT4AL's first query has less than half as many images as random labels,
    of those with `LEAST` images or more of the latter; chosen by these numbers alone.
    """
    regime = chapters.deciding(name)  # all runs of the first query
    if regime is None or not budgets(regime):
        return np.array([], int)
    ours, theirs = (_mean_labels(regime, strategy, budgets(regime)[0]) for strategy in BOTH)
    return np.flatnonzero((theirs >= LEAST) & (ours < theirs / 2))


def scarce_names(name: str) -> list[str]:
    """Their names."""
    regime = deciding(name)
    return [regime.curves['random'][0].result.classes[k] for k in scarce(name)] if regime else []


def _recall(budget: int, classes: np.ndarray) -> Callable[[Curve], float]:
    """Mean recall of some classes at a budget, in per cent."""
    return lambda curve: claims.recall(curve.result)[curve.labels == budget][0, classes].mean()


def recall_gap(name: str, budget: int, others: bool = False) -> Estimate:
    """PT4AL minus random labels: mean recall of the scarce classes, or of all others."""
    regime = deciding(name)
    assert regime is not None
    every = np.arange(len(regime.curves['random'][0].result.classes))
    classes = np.setdiff1d(every, scarce(name)) if others else scarce(name)
    return _gap(regime, budget, _recall(budget, classes))


def class_table() -> list[dict[str, str]]:
    """Recall of the scarce classes and of all others, at each budget and data set."""
    table = []
    for name, title in DATA.items():
        few, regime = scarce(name), deciding(name)
        for budget in budgets(regime) if regime and len(few) else []:
            gaps = [recall_gap(name, budget, others) for others in (False, True)]
            size = len(regime.curves['random'][0].result.classes)
            loss = [-len(few) * gaps[0].value, -(size - len(few)) * gaps[1].value]
            both_lose = min(loss) > 0 and gaps[0].high < 0
            ours, theirs = (_mean_labels(regime, s, budget)[few].sum() for s in BOTH)
            table.append(
                {
                    'data set': title,
                    'labels': f'{budget:,}',
                    'labels of scarce classes, PT4AL': f'{ours:,.0f}',
                    'labels of scarce classes, random': f'{theirs:,.0f}',
                    'recall of scarce classes, difference': fmt_interval(gaps[0], 1),
                    'recall of other classes, difference': fmt_interval(gaps[1], 1),
                    'share of the deficit': f'{100 * loss[0] / sum(loss):.0f} %'
                    if both_lose
                    else '–',
                    'runs': gaps[0].seeds,
                }
            )
    return table


def class_forest(name: str) -> Figure | None:
    """Recall of each class at the first budget, PT4AL minus random, by their share of labels."""
    regime = deciding(name)
    if regime is None or not budgets(regime):
        return None
    first, names = budgets(regime)[0], regime.curves['random'][0].result.classes
    ours, theirs = (_mean_labels(regime, strategy, first) for strategy in BOTH)
    lines = []
    for k in np.argsort(ours / theirs):
        e = _gap(regime, first, _recall(first, np.array([k])))
        words = f'{names[k]} ({ours[k]:.0f} against {theirs[k]:.0f})'
        lines.append((words, e.value, e.low, e.high))
    title = f'{DATA[name]}, {first:,} labels: recall by class'
    return figures.rank_forest(lines, title, 'PT4AL minus random, points')


def evenness_of_others(name: str) -> Estimate:
    """Class entropy of the labels outside of the scarce classes, PT4AL minus random, mean over
    budgets.
    """
    regime = deciding(name)
    assert regime is not None
    at = budgets(regime)

    def entropy(curve: Curve, budget: int) -> float:
        size = len(curve.result.classes)
        counts = np.delete(labels_of(curve, budget, size), scarce(name))
        return stats.normalised_entropy(np.repeat(np.arange(len(counts)), counts), len(counts))

    return _gap(regime, at[-1], lambda curve: np.mean([entropy(curve, k) for k in at]))


# --- difficulty ---


@cache
def _difficulty(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Of every image of the pool, by classifiers that did not train on it: the mean rank of its
    loss (0 to 1), and whether none of them names its class.
    """
    _, main = chapters.losses()[name]
    images = [r.tables['images'] for r in main]
    rank = np.mean([stats.normalised_ranks(one['loss_out']) for one in images], axis=0)
    return stats.normalised_ranks(rank), ~np.any([one['right_out'] for one in images], axis=0)


def difficulty_table(name: str) -> list[dict[str, str]]:
    """How hard the labelled images are, by classifiers that did not train on them."""
    regime = deciding(name)
    if regime is None or name not in chapters.losses():
        return []
    rank, missed = _difficulty(name)
    measures = {
        'mean rank of the loss': (rank, '.2f', ''),
        'from the easiest 30 %': (100 * (rank < EASY), '.0f', ' %'),
        'missed by every classifier': (100 * missed, '.0f', ' %'),
    }
    table = []
    for budget in budgets(regime):
        row = {'labels': f'{budget:,}'}
        for words, (of_image, digits, unit) in measures.items():
            for strategy, who in zip(BOTH, ('PT4AL', 'random')):
                mean = _mean_of_labelled(regime, strategy, budget, of_image)
                row[f'{words}, {who}'] = f'{mean:{digits}}{unit}'
        e = chapters.gap(regime, *BOTH, [budget])
        table.append(row | {'accuracy, PT4AL minus random': fmt_interval(e, 1) if e else '–'})
    return table


def _mean_of_labelled(
    regime: Regime, strategy: str, budget: int, of_image: np.ndarray
) -> np.floating:
    """What an image of the pool has, averaged over labelled images and then over runs."""

    def measure(curve: Curve) -> float:
        return float(of_image[curve.result.tables['picks']['index'][:budget]].mean())

    return np.mean(stats.units(_by_run(regime, strategy, budget, measure)))


# --- the first query: its classes and its difficulty ---

CONTROLS = {
    ('pt4al', 'random'): 'both: the hardest batch against the pool',
    ('class_matched', 'random'): 'classes: the pool, with the class counts of the hardest batch',
    ('pt4al', 'class_matched'): 'difficulty: the hardest batch against the pool, with the class '
    'counts of that batch',
    ('class_even', 'random'): 'classes: the pool, equally many of each class',
    ('pt4al_class_even', 'class_even'): 'difficulty: the hardest batch against the pool, equally '
    'many of each class',
}


def control(name: str, one: str, other: str) -> tuple[Regime, list[int], Estimate] | None:
    """A difference of first queries in the widest training that holds both sides, of the rotation
    runs that they share, if they have any in common.
    """
    for regime in chapters.trainings(name):
        if at := regime.fitted(one, other, units=2)[:1]:
            sides = [regime.groups(strategy, at) for strategy in (one, other)]
            shared = sides[0].keys() & sides[1].keys()
            sides = [
                {unit: side[unit] for unit in side if unit in shared or not shared}
                for side in sides
            ]
            return regime, at, stats.difference(*sides).estimate
    return None


def control_table(name: str) -> list[dict[str, str]]:
    """What the classes and the difficulty of the first query cost, each with the other held
    equal, and how hard the images of both sides are.
    """
    table = []
    for pair, words in CONTROLS.items():
        if made := control(name, *pair):
            regime, at, e = made
            rank, _ = _difficulty(name)
            ranks = (_mean_of_labelled(regime, side, at[0], rank) for side in pair)
            table.append(
                {
                    'what differs': words,
                    'points': fmt_interval(e, 1),
                    'mean rank of the loss': ' against '.join(f'{rank:.2f}' for rank in ranks),
                    'labels': f'{at[0]:,}',
                    'runs': f'{e.seeds}; {regime.training}',
                }
            )
    return table


def cost(name: str, one: str, other: str) -> str:
    """What the first strategy loses in its first query against the other, in points."""
    made = control(name, one, other)
    if made is None:
        return 'not tested'
    e = made[2]
    return fmt_interval(replace(e, value=-e.value, low=-e.high, high=-e.low), 1)


def released(name: str) -> str:
    """The first query of the released order beside PT4AL's, in one training."""
    for regime in chapters.trainings(name):
        both = 'pt4al_released', 'pt4al'
        at = regime.fitted(*both, 'random', units=2)[:1]
        if not at:
            continue
        few, (rank, _) = scarce(name), _difficulty(name)
        words = []
        for strategy in both:
            first = regime.reaching(at)
            entropy = stats.units(first.groups(strategy, at, 'entropy')).mean()
            hard = _mean_of_labelled(regime, strategy, at[0], rank)
            labels = _mean_labels(regime, strategy, at[0])[few].sum()
            e = chapters.gap(regime, strategy, 'random', at)
            words.append(
                f'class entropy {entropy:.2f}, {labels:,.0f} labels of these classes, mean rank of '
                f'the loss {hard:.2f}, {fmt_interval(e, 1) if e else "–"} points to random labels'
            )
        return f'{words[0]}; PT4AL in the same training: {words[1]}'
    return 'not tested'


def training_gaps(name: str) -> list[dict[str, str]]:
    """PT4AL minus random labels and the labels fitted at each budget, in every training that
    reaches four budgets or more and fits one.
    """
    ways = [way for way in chapters.trainings(name) if len(way.reached(*BOTH)) > 3]
    ways = [way for way in ways if way.fitted(*BOTH)]
    table = []
    for budget in sorted({k for way in ways for k in way.reached(*BOTH)}):
        row = {'labels': f'{budget:,}'}
        for way in ways:
            there = budget in way.reached(*BOTH)
            e = chapters.gap(way, *BOTH, [budget]) if there else None
            fitted = way.least_labelled(BOTH, [budget])
            share = '' if fitted is None or np.isnan(fitted) else f' ({100 * fitted:.0f} %)'
            row[f'{way.training}, minibatches of {way.spec.batch}'] = (
                f'{fmt_interval(e, 1)}{share}' if e else '–'
            )
        table.append(row)
    runs = {'labels': 'rotation runs'}
    for way in ways:
        runs[f'{way.training}, minibatches of {way.spec.batch}'] = str(way.rotation_runs)
    return [*table, runs] if table else []


def fitting(regime: Regime, budget: int) -> dict[str, str]:
    """Epochs until the training loss falls below 1, least and most over runs, by strategy."""
    return {
        strategy: chapters.span(
            [_first_below(c, budget) for c in regime.curves[strategy] if budget in c.labels], 0
        )
        for strategy in BOTH
    }


def _first_below(curve: Curve, budget: int) -> int:
    epochs = curve.result.tables['epochs']
    of = epochs['cycle'] == 1 + int((curve.labels == budget).argmax())
    return int(epochs['epoch'][of][epochs['loss'][of] < 1].min())


def rate_table(name: str) -> list[dict[str, str]]:
    """PT4AL minus random labels in trainings that differ in the learning rate alone, at the budgets
    that two runs of both reach in two of them.
    """
    table = []
    ways = chapters.trainings(name)
    for base in ways:
        alike = [way for way in ways if replace(way.spec, lr=base.spec.lr) == base.spec]
        alike = [way for way in alike if budgets(way)]
        if len(alike) < 2 or base is not alike[0]:
            continue
        reached = Counter(budget for way in alike for budget in budgets(way))
        for way in sorted(alike, key=lambda way: way.spec.lr):
            for budget in (budget for budget in budgets(way) if reached[budget] > 1):
                e = chapters.gap(way, *BOTH, [budget])
                fitted = way.least_labelled(BOTH, [budget])
                table.append(
                    {
                        'learning rate': f'{way.spec.lr:g}',
                        'labels': f'{budget:,}',
                        'PT4AL minus random, points': fmt_interval(e, 1) if e else '–',
                        'labels fitted at least': f'{100 * fitted:.0f} %' if fitted else '–',
                        'runs': f'{e.seeds}; {way.training}' if e else '–',
                    }
                )
    return table


def sampler_gap(name: str) -> str:
    """PT4AL minus least confidence, its sampler without the order, after the first query."""
    regime = chapters.deciding(name)  # least confidence reaches fewer budgets than claim 3b has
    at = regime.fitted('pt4al', 'least_confidence', units=2)[1:] if regime else []
    e = chapters.gap(regime, 'pt4al', 'least_confidence', at) if regime and at else None
    if e is None:
        return 'PT4AL and least confidence were not compared.'
    return (
        f'Over {at[0]:,} to {at[-1]:,} labels PT4AL minus least confidence, its sampler on the '
        f'whole pool, is {fmt_interval(e, 1)} points ({e.seeds}).'
    )


def in_words() -> dict[str, str]:
    """What the page says in numbers, by place; 'not tested' where runs lack."""
    out = dict.fromkeys(PLACES, 'not tested')
    out |= {f'names {name}': ', '.join(scarce_names(name)) or 'none' for name in DATA}
    if (way := deciding('cifar10')) and (at := budgets(way)):
        gaps = [(chapters.gap(way, *BOTH, [k]), k) for k in at]
        out['gaps'] = '; '.join(f'{fmt_interval(e, 1)} with {k:,}' for e, k in gaps if e)
        for strategy in BOTH:
            means = (stats.units(way.groups(strategy, [k])).mean() for k in at)
            out[f'accuracy {strategy}'] = ', '.join(f'{mean:.1f}' for mean in means)
        out['budgets'] = f'{at[0]:,} to {at[-1]:,}'
        out['classes'] = cost('cifar10', 'class_matched', 'random')
        out['difficulty'] = cost('cifar10', 'pt4al', 'class_matched')
        out['even difficulty'] = cost('cifar10', 'pt4al_class_even', 'class_even')
        out['released'] = released('cifar10')
        for place, k in (('first', at[0]), ('last', at[-1])):
            slow = fitting(way, k)
            out[f'epochs {place}'] = f'{slow["pt4al"]} with {k:,} labels'
            out[f'epochs of random {place}'] = slow['random']
    if (way := deciding('caltech101')) and (at := budgets(way)):
        gaps = [recall_gap('caltech101', at[0], others) for others in (False, True)]
        out['scarce'], out['others'] = (fmt_interval(e, 1) for e in gaps)
        out['even'] = fmt_interval(evenness_of_others('caltech101'), 3)
        out['fewest'] = f'{at[0]:,}'
    return out


PLACES = ('gaps', 'classes', 'difficulty', 'even difficulty', 'released', 'scarce', 'others')
PLACES += ('even', 'fewest', 'epochs first', 'epochs last')
PLACES += ('budgets', 'accuracy pt4al', 'accuracy random')
PLACES += ('epochs of random first', 'epochs of random last')
