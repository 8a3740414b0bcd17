"""Tables and figures of the chapters on the three claims, from stored results."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cache, partial
from itertools import combinations, product

import arms
import numpy as np
from panels import tone
from summary import DATA, named

from pt4al import claims, figures, stats
from pt4al.claims import Cell, Regime, Row, sensitivity
from pt4al.experiments import runs
from pt4al.experiments.specs import Training
from pt4al.experiments.store import Result
from pt4al.figures import Figure
from pt4al.report import fmt_interval


@cache
def trainings(name: str) -> list[Regime]:
    """`claims.regimes`, remembered: a page reads the store once for each data set."""
    return claims.regimes(name)


def deciding(name: str, claim: str = '3b') -> Regime | None:
    """The training whose runs decide a claim on a data set."""
    return claims.deciding(claim, trainings(name))


# of a claim, the strategy whose runs decide it against random labels
STRATEGIES = dict.fromkeys(('2a', '2b', '3a', '3b', '3c'), 'pt4al')
STRATEGIES |= {'3 colorization': 'pt4al by colorization', 'control': 'least_confidence'}


def decided(name: str, regime: Regime) -> list[str]:
    """The claims on a data set that the runs of a training decide, if they fit their labels."""
    return [
        claim
        for claim, strategy in STRATEGIES.items()
        if regime == deciding(name, claim) and regime.reached(strategy, 'random')
    ]


def behind(name: str) -> list[Result]:
    """The runs behind claims 2 and 3 on a data set, each once."""
    found = {
        curve.result.key: curve.result
        for regime in trainings(name)
        for claim in decided(name, regime)
        for strategy in (STRATEGIES[claim], 'random')
        for curve in regime.curves[strategy]
    }
    return list(found.values())


# --- claim 1 ---


@cache
def losses() -> dict[str, tuple[list[Result], list[Result]]]:
    """Rotation runs and classifiers by data set, where both are stored."""
    stored = {name: claims.loss_runs(name, 'rotation') for name in DATA}
    return {name: sides for name, sides in stored.items() if all(sides)}


def _columns(name: str, main: str = 'loss_out') -> tuple[np.ndarray, np.ndarray]:
    """Rotation losses [S,N] and main-task losses [T,N] of a data set."""
    sides = losses()[name]
    return tuple(
        np.stack([r.tables['images'][column] for r in side])
        for side, column in zip(sides, ('loss', main))
    )


def inside(name: str) -> str:
    """Rho with the loss on the classifier's training images, mean over pairs of runs."""
    pairs = product(*_columns(name, 'loss_in'))
    return f'{np.mean([stats.spearman(*pair) for pair in pairs]):.2f}'


def correlation_table(rows: Sequence[Row]) -> list[dict[str, str]]:
    """Rho of every data set beside what is published, and in-sample."""
    row = named(rows, '1')
    return [
        {
            'data set': title,
            'paper': row.paper.get(name, '–'),
            'reproduction': row.reproduction.get(name, '–'),
            'this report': row.cells[name].text or 'not tested',
            'against the paper': against(row.cells[name], 'paper'),
            'against the reproduction': against(row.cells[name], 'reproduction'),
            'in-sample rho': inside(name) if name in losses() else '–',
            'runs': row.cells[name].n or '–',
        }
        for name, title in DATA.items()
    ]


def against(cell: Cell, source: str) -> str:
    """A correlation beside what a source reports: 'smaller', 'compatible', 'larger'; a dash where
    it reports nothing, the verdict where there is none on a number.
    """
    if cell.verdict in (claims.UNTESTED, 'not trained enough'):
        return cell.verdict
    parts = [cell.verdict, *cell.note.split('; ')]
    found = (re.fullmatch(rf'(\w+) (?:than|with) the {source}', part) for part in parts)
    return next((match[1] for match in found if match), '–')


def correlations(rows: Sequence[Row]) -> str:
    """Rho on every data set beside what is published: '0.38 [...] on CIFAR-10 (smaller than the
    paper's 0.79, ...)'.
    """
    row, parts = named(rows, '1'), []
    for name, title in DATA.items():
        cell = row.cells[name]
        beside = [
            f"{word} {'with' if word == 'compatible' else 'than'} the {source}'s {values[name]}"
            for source, values in (('paper', row.paper), ('reproduction', row.reproduction))
            if name in values and (word := against(cell, source)) != cell.verdict
        ]
        value = f'{cell.text} on {title}' if cell.text else f'not tested on {title}'
        parts.append(f'{value} ({", ".join(beside) or cell.verdict})' if cell.text else value)
    return '; '.join(parts)


def verdicts(rows: Sequence[Row], claim: str) -> str:
    """The verdicts on a claim without their numbers: 'worse than random on CIFAR-10; ...'."""
    where: dict[str, list[str]] = {}
    for name, cell in named(rows, claim).cells.items():
        where.setdefault(cell.verdict, []).append(DATA[name])
    return '; '.join(f'{verdict} on {listed(sets)}' for verdict, sets in where.items())


def listed(words: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return ' and '.join(filter(None, (', '.join(words[:-1]), words[-1])))


def widths() -> str:
    """The widths behind claim 1: '64 on CIFAR-10, 16 on Caltech-101 (64 pixels)'."""
    where: dict[int, list[str]] = {}
    for name, (pretext, _) in losses().items():
        s = pretext[0].spec
        size = claims.pixels(s.dataset).removeprefix(', ')
        where.setdefault(s.width, []).append(DATA[name] + (f' ({size})' if size else ''))
    return ', '.join(f'{width} on {listed(sets)}' for width, sets in where.items())


def rotation_trainings(name: str) -> list[tuple[list[Result], list[Result]]]:
    """Rotation runs and classifiers of a data set by how its rotation networks were trained."""
    small, main = claims.smaller_batches(name)
    if not small or not main:
        return []
    s = small[0].spec
    usual = runs('pretext', dataset=s.dataset, width=s.width, task='rotation')
    pairs = ((small, main), (usual, main), claims.loss_pairs(name, 'rotation')[0])
    return [pair for pair in pairs if pair[0]]


def training_effect(name: str) -> str:
    """Whether the intervals of rho by these trainings overlap, in words."""
    found = [claims.loss_correlation(*pair) for pair in rotation_trainings(name)]
    if len(found) < 2:
        return ''
    if max(e.low for e in found) <= min(e.high for e in found):
        return f'No effect is shown: the {number(len(found))} intervals overlap.'
    return 'Not all intervals overlap.'


def number(count: int) -> str:
    """A small number in words."""
    words = ('none', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
    return words[count] if count < len(words) else f'{count:,}'


def training_table(name: str) -> list[dict[str, str]]:
    """Rho of a data set by how its rotation networks were trained."""
    table = []
    for pretext, classifiers in rotation_trainings(name):
        s, label = pretext[0].spec, classifiers[0].tables['images']['label']
        each = [r.tables['images']['loss'] for r in pretext]
        pairs = product(each, (r.tables['images']['loss_out'] for r in classifiers))
        inside = np.mean([stats.between_within(*pair, label).within_class_rho for pair in pairs])
        fitted = min(r.summary['accuracy_in'] for r in classifiers)
        table.append(
            {
                'training': f'width {s.width}{claims.pixels(s.dataset)}, minibatches of {s.batch}',
                'mean rotation loss': ', '.join(f'{loss.mean():.2f}' for loss in each),
                'rho': fmt_interval(claims.loss_correlation(pretext, classifiers)),
                'within a class': f'{inside:.2f}',
                'labels fitted at least': f'{100 * fitted:.0f} %',
                'runs': f'{len(pretext)} x {len(classifiers)}',
            }
        )
    return table


def reliability_table(rows: Sequence[Row]) -> list[dict[str, object]]:
    """Reliability of both losses and the ceiling of rho, by data set."""
    cells, table = named(rows, '1').cells, []
    for name in losses():
        sides = [stats.reliability(s) if len(s) > 1 else None for s in _columns(name)]
        top = sensitivity.ceiling(*sides)
        table.append(
            {
                'data set': DATA[name],
                'rotation': _two(sides[0]),
                'classifier': _two(sides[1]),
                'ceiling for rho': _two(top),
                'rho over ceiling': _two(top and cells[name].estimate.value / top),
            }
        )
    return table


def _two(value: float | None) -> str:
    return '–' if value is None else f'{value:.2f}'


@cache
def _splits(name: str) -> list[stats.BetweenWithin]:
    label = losses()[name][1][0].tables['images']['label']
    return [stats.between_within(*pair, label) for pair in product(*_columns(name))]


def between(name: str) -> str:
    """Share of the covariance between classes, over all pairs of runs: '30 to 41 %'."""
    return span([100 * split.between_share for split in _splits(name)], 0, ' %')


def within(name: str) -> str:
    """Mean rho within a class, over all pairs of runs."""
    return span([split.within_class_rho for split in _splits(name)], 2)


def span(values: Sequence[float], digits: int, unit: str = '') -> str:
    low, high = (f'{end(values):.{digits}f}' for end in (min, max))
    return f'{low}{unit}' if low == high else f'{low} to {high}{unit}'


def split_table() -> list[dict[str, str]]:
    """Between- and within-class parts of rho, by data set."""
    return [
        {
            'data set': DATA[name],
            'share between classes': between(name),
            'rho within a class': within(name),
            'correlation of class means': span(
                [split.class_mean_correlation for split in _splits(name)], 2
            ),
        }
        for name in losses()
    ]


def class_forest(name: str, rows: Sequence[Row]) -> Figure:
    """Rho pooled and within each class with its interval."""
    pooled = named(rows, '1').cells[name].estimate
    main = losses()[name][1][0]
    each = stats.by_class(*_columns(name), main.tables['images']['label'], main.classes)
    lines = [('all images', pooled.value, pooled.low, pooled.high)]
    lines += [(label, e.value, e.low, e.high) for label, _, e in each]
    return figures.rank_forest(lines, f'{DATA[name]}, rho within each class')


def by_epoch(dataset: str, task: str = 'rotation') -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The logged epochs [E] and what changes over them: rho of each classifier run (mean over
    pretext runs) and the reliability of each pair of them, [runs or pairs, E]; empty without runs.
    """
    pretext, main = runs('pretext', dataset=dataset, task=task), runs('trajectory', dataset=dataset)
    if not pretext or not main:
        return np.array([], int), {}
    epochs, x, out = main[0].tables['log']['epoch'], sensitivity.losses(pretext, 'loss'), {}
    for side, words in sensitivity.SIDES.items():
        losses = [sensitivity.losses(main, f'loss_{side}_{epoch}') for epoch in epochs]
        rho = [[np.mean([stats.spearman(a, b) for a in x]) for b in y] for y in losses]
        out[f'rho, {words}'] = np.array(rho).T
        if len(main) > 1:
            pairs = [[stats.spearman(*pair) for pair in combinations(y, 2)] for y in losses]
            out[f'reliability, {words}'] = np.array(pairs).T
    return epochs, out


def over_seeds(values: Sequence[float], digits: int) -> str:
    """Mean and 95 % t interval of the runs of several seeds; of one run its value alone."""
    if len(values) < 2:
        return f'{values[0]:.{digits}f}'
    return fmt_interval(stats.mean_interval(np.array(values)), digits)


# --- claim 2 ---


def batch_balance() -> list[dict[str, str]]:
    """Class entropy of ten batches of the rotation order, hardest first, by data set."""
    columns: dict[str, list[str]] = {}
    for name, (pretext, _) in losses().items():
        images, size = pretext[0].tables['images'], len(pretext[0].classes)
        parts = np.array_split(np.argsort(-images['loss'], kind='stable'), 10)
        values = [stats.normalised_entropy(images['label'][part], size) for part in parts]
        low, high = stats.random_entropy_interval(images['label'], len(parts[0]))
        columns[DATA[name]] = [*(f'{v:.3f}' for v in values), f'{low:.3f} to {high:.3f}']
    names = [*map(str, range(1, 11)), 'a random batch']
    return [
        {'batch': name, **{title: column[k] for title, column in columns.items()}}
        for k, name in enumerate(names)
    ]


def batch_classes(name: str) -> Figure:
    """Images of each class in the hardest, the fifth and the easiest batch."""
    result = losses()[name][0][0]
    images = result.tables['images']
    parts = np.array_split(np.argsort(-images['loss'], kind='stable'), 10)
    counts = {
        f'batch {k + 1}': np.bincount(images['label'][parts[k]], minlength=len(result.classes))
        for k in (0, 4, 9)
    }
    return figures.class_balance(counts, result.classes, f'{DATA[name]}: classes in three batches')


def first_classes(name: str) -> Figure | None:
    """Images of each class among the labels of the first query, mean over the runs of claim 2a."""
    regime = compared_runs(name)
    shown, classes = {}, ()
    for strategy in ('random', 'pt4al') if regime else ():
        stored = [curve.result for curve in regime.curves.get(strategy, ())]
        if stored:
            classes = stored[0].classes
            counts = [np.bincount(arms.first_labels(r), minlength=len(classes)) for r in stored]
            shown[in_words(strategy)] = np.mean(counts, axis=0).round(1)
    if len(shown) < 2:
        return None
    return figures.class_balance(shown, classes, f'{DATA[name]}: first query by class')


def compared_runs(name: str) -> Regime | None:
    """The runs of claims 2a and 3b: the same at every budget."""
    regime = deciding(name)
    return regime and regime.reaching(claims.compared(regime))


def runs_counted(name: str) -> str:
    """'3 runs of PT4AL and 3 of random labels', those of claim 2a."""
    regime = compared_runs(name)
    ours, theirs = (len(regime.curves[s]) if regime else 0 for s in ('pt4al', 'random'))
    return f'{ours} runs of PT4AL and {theirs} of random labels'


def why_seeds_differ() -> str:
    """How many runs of PT4AL have a first query, of how many its picks were measured by another
    network, and how many reach all budgets compared, by data set.
    """
    parts = []
    for name, title in DATA.items():
        regime = deciding(name)
        if not regime or not (at := claims.compared(regime)):
            continue
        first = len(regime.reaching(at[:1]).curves['pt4al'])
        seen = sum(map(len, regime.independent('uncertainty', at[:1])['pt4al'].values()))
        last = len(regime.reaching(at).curves['pt4al'])
        parts.append(f'{title} {first}, {seen} and {last}')
    return '; '.join(parts) or 'not tested'


def labelled_balance() -> list[dict[str, str]]:
    """Class entropy of all labels so far, mean over runs, at each budget of claims 2a and 3b:
    random and PT4AL.
    """
    table = []
    for name, title in DATA.items():
        regime = deciding(name)
        at = claims.compared(regime) if regime else []
        for budget in at:
            row = {'data set': title, 'labels': f'{budget:,}'}
            for strategy, words in (('random', 'random'), ('pt4al', 'PT4AL')):
                runs = regime.reaching(at).groups(strategy, [budget], 'entropy')
                row[words] = f'{stats.units(runs).mean():.3f}'
            table.append(row)
    return table or [{'data set': 'not tested'}]


NAMES = {'pt4al': 'PT4AL', 'badge': 'BADGE', 'vaal': 'VAAL', 'coregcn': 'CoreGCN'}
NAMES |= {'pt4al_shuffled': 'shuffled batches'}
NAMES |= {'coreset': 'CoreSet', 'typiclust': 'TypiClust', 'pt4al_released': 'PT4AL as released'}


def in_words(strategy: str) -> str:
    """A strategy by the name that people write: 'least confidence', 'CoreSet'."""
    return NAMES.get(strategy, strategy.replace('_', ' '))


MEASURES = {
    'entropy': 'class entropy of a query',
    'mean_distance': 'mean distance to the nearest label',
    'radius': 'largest such distance',
    'uncertainty': 'uncertainty of a query',
}


def diagnosed() -> list[tuple[str, Regime, list[str], list[int]]]:
    """The strategies that an independent network measured beside random labels: data set, training,
    strategies and the budgets that all of them fit.
    """
    out = []
    for name in DATA:
        for regime in trainings(name):
            there = {}
            for strategy in ('pt4al', 'pt4al_released', 'least_confidence', 'typiclust'):
                at = claims.compared(regime, strategy)
                measured = regime.independent('uncertainty', at) if at else {}
                sides = [measured.get(side, {}) for side in (strategy, 'random')]
                if min(sum(map(len, side.values())) for side in sides) > 1:
                    there[strategy] = at
            if there:
                out.append(
                    (name, regime, [*there], sorted(set.intersection(*map(set, there.values()))))
                )
    return [found for found in out if found[-1]]


def diagnosis_table() -> list[dict[str, str]]:
    """Coverage and uncertainty by an independent network, strategies minus random labels, over the
    budgets at which the networks of all strategies shown fit their labels.
    """
    table = []
    for name, regime, strategies, at in diagnosed():
        measured = {m: regime.independent(m, at) for m in MEASURES}
        for strategy in strategies:
            both = (strategy, 'random')
            gaps = {m: stats.difference(*map(by.get, both)) for m, by in measured.items()}
            table.append(
                {
                    'data set': DATA[name],
                    'strategy': in_words(strategy),
                    'labels': budgets_in_words(at),
                    **{MEASURES[m]: fmt_interval(gap.estimate, 3) for m, gap in gaps.items()},
                    'runs': f'{gaps["uncertainty"].estimate.seeds}; {regime.training}',
                }
            )
    return table


def budgets_in_words(at: Sequence[int]) -> str:
    """'1,000', '1,000 to 3,000'."""
    return f'{at[0]:,}' + (f' to {at[-1]:,}' if len(at) > 1 else '')


def coverage() -> str:
    """Whether PT4AL covers the pool worse than random labels do, with the numbers, by data set."""
    parts, worse = [], []
    for name, title in DATA.items():
        regime = deciding(name)
        at = claims.compared(regime) if regime else []
        measured = regime.independent('mean_distance', at) if at else {}
        sides = [measured.get(strategy, {}) for strategy in ('pt4al', 'random')]
        if min(sum(map(len, side.values())) for side in sides) < 2:
            parts.append(f'not tested on {title}')
            continue
        e, level = stats.difference(*sides).estimate, stats.units(sides[1]).mean()
        worse += [title] * (e.low > 0)
        parts.append(f'{fmt_interval(e, 3)} (random: {level:.3f}) on {title}')
    where = 'all three data sets' if len(worse) == len(DATA) else worse and listed(worse)
    lead = f'worse than by random labels on {where}' if where else 'not shown to be worse'
    return (
        f'{lead}. Mean distance from an image of the pool to the nearest label, PT4AL minus random '
        f'labels: {", ".join(parts)}'
    )


def sampler_table() -> list[dict[str, str]]:
    """Uncertainty of the first query and of later ones, and what the sampler alone gives there."""
    table = []
    for name, title in DATA.items():
        if (regime := deciding(name, '2b')) is None:
            continue
        first, later = regime.reached('pt4al', 'random')[:1], claims.later_queries(regime)
        pairs = [('pt4al', 'random', first)]
        others = (('pt4al', 'random'), ('least_confidence', 'random'))
        pairs += [(*pair, later) for pair in (*others, ('pt4al', 'least_confidence'))]
        for one, other, at in pairs:
            if found := claims.uncertainty_gap(regime, one, other, at):
                table.append(
                    {
                        'data set': title,
                        'labels': budgets_in_words(at),
                        'difference': f'{in_words(one)} minus {in_words(other)}',
                        'uncertainty': fmt_interval(found.estimate, 3),
                        'runs': f'{found.estimate.seeds}; {regime.training}',
                    }
                )
    return table


# --- claim 3 ---

FIRST_QUERIES = {
    'pt4al': 'at random in the hardest batch (the paper)',
    'pt4al_every_kth': 'every 5th of the hardest batch',
    'pt4al_first_k': 'the 1,000 hardest (the reproduction)',
    'pt4al_released': 'every 5th of the first batch, sorted as text (released code)',
    'pt4al_batch5_every_kth': 'every 5th of the sixth batch, sorted as numbers',
    'pt4al_released_cold': 'every 5th of the sixth batch, sorted as text '
    '(the released cold-start script)',
    'class_matched': 'random images, as many of each class as PT4AL picks (control)',
    'class_even': 'random images, equally many of each class (control)',
    'pt4al_class_even': 'of the hardest batch, equally many of each class (control)',
    'typiclust': "typical images of clusters of the rotation network's features",
}


def gap(regime: Regime, one: str, other: str, budgets: list[int]) -> stats.Estimate | None:
    """One strategy minus another over budgets, in points; None with fewer than two runs a side."""
    sides = [regime.groups(strategy, budgets) for strategy in (one, other)]
    if min(sum(map(len, side.values())) for side in sides) < 2:
        return None
    return stats.difference(*sides).estimate


def first_query_table(name: str) -> list[dict[str, str]]:
    """Every first query in the widest trainings that fit their labels: accuracy and difference."""
    table = []
    for regime in trainings(name):
        reached = regime.reached('random')
        if not reached or reached[0] not in regime.fitted('random'):
            continue
        at = reached[:1]
        for strategy, words in FIRST_QUERIES.items():
            e, fitted = gap(regime, strategy, 'random', at), regime.least_labelled((strategy,), at)
            if e is None or fitted < claims.FITTED:  # nan, not recorded, is no less
                continue
            picked = [arms.first_labels(c.result) for c in regime.curves[strategy]]
            size = len(regime.curves[strategy][0].result.classes)
            balance = np.mean([stats.normalised_entropy(labels, size) for labels in picked])
            table.append(
                {
                    'first query': words,
                    'minus random, points': fmt_interval(e, 1),
                    'class entropy': f'{balance:.3f}',
                    'labels fitted': 'not recorded'
                    if math.isnan(fitted)
                    else f'{100 * fitted:.0f} %',
                    'runs': f'{e.seeds}; {regime.training}, minibatches of {regime.spec.batch}',
                }
            )
    return table


def budget_table(regime: Regime) -> list[dict[str, str]]:
    """Accuracy of both strategies at each budget of a training, their difference and the labels
    fitted.
    """
    table = []
    for labels in regime.reached('pt4al', 'random'):
        row = {'labels': f'{labels:,}'}
        for strategy, words in (('random', 'random'), ('pt4al', 'PT4AL')):
            # a rotation run counts once, as in the difference
            mean = stats.units(regime.groups(strategy, [labels])).mean()
            row[f'{words}, %'] = f'{mean:.1f}'
        e = gap(regime, 'pt4al', 'random', [labels])
        row['PT4AL minus random, points'] = '–' if e is None else fmt_interval(e, 1)
        row['runs'] = '–' if e is None else e.seeds
        fitted = regime.least_labelled(('random', 'pt4al'), [labels])
        row['labels fitted at least'] = '–' if fitted is None else f'{100 * fitted:.0f} %'
        table.append(row)
    return table


def order_table(name: str) -> list[dict[str, str]]:
    """PT4AL's order against batches in a random order, with the same sampler, at each budget that
    both fit, in the first training that holds several runs of each.
    """
    table = []
    for regime in trainings(name):
        for labels in regime.fitted('pt4al', 'pt4al_shuffled', 'random', units=2):
            pairs = (('pt4al', 'pt4al_shuffled'), ('pt4al_shuffled', 'random'), ('pt4al', 'random'))
            gaps = {pair: gap(regime, *pair, [labels]) for pair in pairs}
            row = {'labels': f'{labels:,}'}
            for (one, other), e in gaps.items():
                words = f'{in_words(one)} minus {in_words(other)}'
                row[words] = '–' if e is None else f'{fmt_interval(e, 1)} ({_seeds(e, one, other)})'
            fitted = regime.least_labelled(('pt4al', 'pt4al_shuffled', 'random'), [labels])
            row['labels fitted at least'] = f'{100 * fitted:.0f} %'
            table.append(row | {'training': regime.training})
        if table:
            break
    return table


def _seeds(e: stats.Estimate, *strategies: str) -> str:
    """The runs of a difference; shuffled batches have a random split where others have an order."""
    sides = zip(e.seeds.split(' against '), strategies)
    return ' against '.join(
        side.replace('rotation run', 'random split') if strategy == 'pt4al_shuffled' else side
        for side, strategy in sides
    )


def rotation_guessing(dataset: str) -> tuple[int, int]:
    """Rotation networks with the usual settings that score their own training images no better
    than guessing, and of how many.
    """
    found = runs('pretext', dataset=dataset, task='rotation')
    bad = sum(r.tables['images']['loss'].mean() >= claims.GUESSING for r in found)
    return int(bad), len(found)


def used_settings() -> list[dict[str, object]]:
    """How every network behind a claim was trained, and the other classifiers in active learning;
    the claims that it decides.
    """
    rows, cells = [], {row.claim: row.cells for row in claims.overview()}
    for name in DATA:
        regime = deciding(name)
        pretext, main = losses().get(name, ([], []))
        orders = regime.orders(regime.reached('pt4al', 'random')[:1]) if regime else []
        same = {r.key for r in pretext} == {r.key for r in orders}
        found = [('rotation', pretext, '1' + ', order of 2 and 3' * same)]
        found += [('rotation', orders, 'order of 2 and 3')] * (not same)
        found.append(('classifier of the pool, two folds', main, '1'))
        rows += [_setting(what, side[0].spec, claim) for what, side, claim in found if side]
        for way in trainings(name):
            decides = decided(name, way)
            end = way.reached('pt4al', 'random')[-1:]
            if way == deciding(name, '3d') and end == [way.spec.budget * way.spec.cycles]:
                decides.append('3d')
            words = [
                claim + ' (no verdict)' * (tone(cells[claim][name].verdict) == 'none')
                for claim in decides
            ]
            rows.append(_setting('classifier in cycles', way.spec, ', '.join(words) or '–'))
    return rows


def _setting(what: str, s: Training, decides: str) -> dict[str, object]:
    return {
        'data set': s.dataset,
        'network': what,
        'width': s.width,
        'epochs': s.epochs,
        'minibatch': s.batch,
        'learning rate': s.lr,
        'divided by 10 at epoch': ', '.join(map(str, (m for m in s.milestones if m < s.epochs)))
        or 'never',
        'claims': decides,
    }


def order_networks() -> list[dict[str, str]]:
    """How well the rotation networks behind the claims do on the images that they order."""
    table = []
    for name, title in DATA.items():
        regime = deciding(name)
        of_claims = {'1': losses()[name][0] if name in losses() else []}
        at = regime.reached('pt4al', 'random')[:1] if regime else []
        of_claims['2 and 3'] = regime.orders(at) if regime else []
        for claim, found in of_claims.items():
            if not found:
                continue
            each = np.stack([r.tables['images']['loss'] for r in found])
            s, last = found[0].spec, [float(r.tables['epochs']['loss'][-1]) for r in found]
            steps = s.epochs * math.ceil(each.shape[1] / s.batch)
            table.append(
                {
                    'data set': title + claims.pixels(s.dataset),
                    'claim': claim,
                    'width': str(s.width),
                    'steps': f'{steps:,}',
                    'loss in the last epoch': ', '.join(f'{value:.2f}' for value in last),
                    'mean loss when scored': ', '.join(f'{row.mean():.2f}' for row in each),
                    'images above guessing': ', '.join(
                        f'{100 * (row > claims.GUESSING).mean():.0f} %' for row in each
                    ),
                    'reliability': _two(stats.reliability(each) if len(each) > 1 else None),
                }
            )
    return table


def strategies_table(dataset: str) -> list[dict[str, str]]:
    """PT4AL and the strategies that choose in the whole pool against random, and labels fitted."""
    regime = max(
        (r for r in trainings(dataset) if 'random' in r.curves),
        key=lambda r: sum(len(c[0].labels) > 1 for c in r.curves.values()),
        default=None,
    )
    table = []
    for strategy in regime.curves if regime else ():
        at = regime.reached(strategy, 'random')
        if strategy == 'random' or strategy.startswith('pt4al_') or len(at) < 2:
            continue
        e = gap(regime, strategy, 'random', at)
        if e is None:
            continue
        fitted = regime.least_labelled((strategy, 'random'), at)
        recorded = fitted is not None and not np.isnan(fitted)
        table.append(
            {
                'strategy': in_words(strategy),
                'mean over budgets minus random, points': fmt_interval(e, 1),
                'labels fitted at least': f'{100 * fitted:.0f} %' if recorded else 'not recorded',
                'runs': e.seeds,
            }
        )
    return table


def sources(*names: str) -> list[Result]:
    """Every run of the deciding trainings of these data sets."""
    return [
        curve.result
        for name in names
        for regime in trainings(name)
        if regime == deciding(name) or decided(name, regime)
        for runs in regime.curves.values()
        for curve in runs
    ]


def seeds_needed(sd: float, delta: float) -> int:
    """Fewest seeds with which a two-sided paired t-test shows a true mean difference delta, and its
    sign, four times of five; sd is that of the paired differences, in delta's unit.
    """
    from statsmodels.stats.power import TTestPower  # here, since most pages do without it

    test = partial(TTestPower().solve_power, delta / sd, alpha=0.025, alternative='larger')
    # the solver has no answer below two
    return 2 if test(2) >= 0.8 else math.ceil(test(power=0.8))
