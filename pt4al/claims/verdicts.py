"""The first page's table: every claim on every data set, with its number, its runs and a verdict.

A verdict needs networks that fit their labelled images (`curves.FITTED`, `LEAST`), rotation
networks that do better than guessing, two pretext runs, both metrics (accuracy over images, its
mean over classes) and, over all comparisons of the table, Holm's adjustment.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
import scipy
import yaml

from pt4al import data, stats
from pt4al.claims.curves import ORDERS, Regime, pixels, regimes
from pt4al.claims.sensitivity import losses
from pt4al.experiments import runs, store
from pt4al.experiments.store import Result
from pt4al.files import ASSETS
from pt4al.stats import Difference, Estimate, remembered
from pt4al.stats.comparisons import Groups

DATASETS = ('cifar10', 'imbalanced-cifar10', 'caltech101')
TOLERANCE = 0.05  # of a correlation, around a published value
MARGIN = 1.0  # points of accuracy within which two strategies count as equal
RUNS = 3  # pretext runs from which a training comes before a wider one with fewer
DIGITS = {'uncertainty': 3, 'entropy': 3}  # of a printed difference; one of points of accuracy
LEVEL = 0.05
# accuracy on their images from which classifiers of the pool decide about a correlation; set when
# one of 0.82 was seen
LEAST = 0.9
GUESSING = math.log(4)  # mean rotation loss of a network that guesses (a run on Caltech-101 does)
# looks at the results after which runs were added, where not three
LOOKS = {'imbalanced-cifar10': 4, 'caltech101': 4}
EVEN = 0.99  # class entropy above which labels can hardly be more even
ONE_RUN = 'one run on a side: the interval does not cover other runs of that side'
UNTESTED, UNTRAINED = 'not tested', 'not trained enough'
# its seeds tell nothing about other pretext runs, which differ more
ONE_ORDER, ONE_CLASSIFIER = 'one pretext run', 'one classifier run'
SUPPORT = ('supported', 'contradicted')


@dataclass(frozen=True)
class Cell:
    """One claim on one data set; texts are empty and numbers None where nothing was run."""

    text: str = ''
    n: str = ''
    labelled: float | None = None
    verdict: str = UNTESTED
    page: str = ''
    note: str = ''
    estimate: Estimate | None = None
    # Holm-adjusted, of the metrics: accuracy over images and, where it differs, mean over classes
    p: tuple[float, ...] = ()


@dataclass(frozen=True)
class Row:
    """One claim: what the sources report and what was found on each data set."""

    claim: str
    title: str
    unit: str
    paper: Mapping[str, str] = field(default_factory=dict)  # by data set, as printed
    reproduction: Mapping[str, str] = field(default_factory=dict)
    cells: Mapping[str, Cell] = field(default_factory=dict)


@dataclass(frozen=True)
class Pending:
    """A cell whose verdict waits for the p values of all comparisons; its differences by metric."""

    metrics: Mapping[str, Difference]
    cell: Cell
    words: tuple[str, str]


PUBLISHED = ASSETS / 'claims.yaml'
ROWS = tuple(Row(**row) for row in yaml.safe_load(PUBLISHED.read_text('utf-8')))


def overview(datasets: tuple[str, ...] = DATASETS) -> list[Row]:
    """Every claim with its cells on these data sets, Holm-adjusted over all their comparisons;
    remembered beside the bootstraps by the digests of all results, of the data and of the code.
    """
    name = _digest(datasets)
    stored = remembered.load(name)
    if stored is None:
        ways = {dataset: regimes(dataset) for dataset in datasets}
        measured = {
            (claim, dataset): MEASURES[claim](dataset, deciding(claim, ways[dataset]))
            for claim, dataset in product(MEASURES, datasets)
        }
        cells = _adjusted(measured)
        stored = {f'{claim} {dataset}': asdict(c) for (claim, dataset), c in cells.items()}
        remembered.save(name, stored)
    return [
        replace(
            row, cells={dataset: _cell(stored[f'{row.claim} {dataset}']) for dataset in datasets}
        )
        for row in ROWS
    ]


def _cell(fields: Mapping[str, Any]) -> Cell:
    """A cell from its fields as JSON holds them."""
    estimate = fields['estimate'] and Estimate(**fields['estimate'])
    return Cell(**{**fields, 'p': tuple(fields['p']), 'estimate': estimate})


def _digest(datasets: tuple[str, ...]) -> str:
    """What the cells depend on: every result, which data are here, and the code of these rooms."""
    digest = hashlib.sha256(f'{datasets} {np.__version__} {scipy.__version__}'.encode())
    stored = store.all_result_json()
    for about in stored:
        digest.update(about['digest'].encode())
    for name in sorted({about['spec']['dataset'] for about in stored}):
        digest.update(f' {name} {data.known(name)}'.encode())
    rooms = [PUBLISHED.parents[1] / room for room in ('claims', 'data', 'experiments', 'stats')]
    for path in [PUBLISHED, *(path for room in rooms for path in sorted(room.glob('*.py')))]:
        digest.update(path.read_bytes())
    return f'claims-{digest.hexdigest()[:32]}'


def published(claim: str, dataset: str) -> tuple[str, str]:
    """What the paper and the reproduction print for a claim on a data set; '–' where nothing."""
    row = next(row for row in ROWS if row.claim == claim)
    return row.paper.get(dataset, '–'), row.reproduction.get(dataset, '–')


def agreement(dataset: str, value: float, low: float, high: float, row: Row) -> tuple[str, str]:
    """Verdict against the paper's value, else the reproduction's, and a note on the other: smaller
    or larger only where the whole interval lies beyond the tolerance.
    """
    texts = []
    for source, printed in (('the paper', row.paper), ('the reproduction', row.reproduction)):
        if dataset in printed:
            number = float(printed[dataset])
            smaller, larger = high + 1e-6 < number - TOLERANCE, low - 1e-6 > number + TOLERANCE
            word = 'smaller than' if smaller else 'larger than' if larger else 'compatible with'
            texts.append(f'{word} {source}')
    if not texts:
        return 'nothing published to compare with', ''
    return texts[0], '; '.join(texts[1:])


def loss_runs(dataset: str, task: str) -> tuple[list[Result], list[Result]]:
    """Pretext runs and classifiers of one training that decide about a correlation: with `RUNS`
    pretext runs and two classifiers or more, if there are such, then the widest network; ([], [])
    without any.
    """
    pairs = loss_pairs(dataset, task)
    several = [(pretext, main) for pretext, main in pairs if len(pretext) >= RUNS and len(main) > 1]
    return [*several, *pairs, ([], [])][0]


def loss_pairs(dataset: str, task: str) -> list[tuple[list[Result], list[Result]]]:
    """All pairs of pretext runs and classifiers of one width and image size, the widest first."""
    pairs = []
    names = {r.spec.dataset for r in store.find('main')}
    for width in (64, 16):
        alike = (n for n in names if dataset in (n, n.split(':')[0]))
        for name in sorted(alike, reverse=True):
            pretext = runs('pretext', dataset=name, width=width, task=task)
            pairs.append((pretext, runs('main', dataset=name, width=width)))
    if task == 'rotation':
        pairs.append(smaller_batches(dataset))
    return [pair for pair in pairs if all(pair)]


def smaller_batches(dataset: str) -> tuple[list[Result], list[Result]]:
    """Rotation networks trained as `ORDERS` has it, and classifiers in batches of that size."""
    for name, way in ORDERS.items():
        if name.split(':')[0] == dataset:
            alike = {field: way[field] for field in ('batch', 'minibatches')}
            pretext = runs('pretext', dataset=name, width=16, task='rotation', **way)
            return pretext, runs('main', dataset=name, width=16, **alike)
    return [], []


def _beside(row: Row, dataset: str, task: str) -> str:
    """Rho by the widest networks, in words, where too few runs of them decide nothing."""
    pretext, main = loss_pairs(dataset, task)[0]
    if pretext[0].key == loss_runs(dataset, task)[0][0].key:
        return ''
    e = loss_correlation(pretext, main)
    verdict, _ = agreement(dataset, e.value, e.low, e.high, row)
    means = f' ({_rotation(pretext)[0]})' if task == 'rotation' else ''
    return (
        f'wider networks, {_counted(pretext, f"{task} run")}{means} x '
        f'{_counted(main, "classifier")}, width {main[0].spec.width}'
        f'{pixels(main[0].spec.dataset)}: {_interval(e, 2)}, {verdict}'
    )


def loss_correlation(pretext: list[Result], main: list[Result]) -> Estimate:
    """Rho of pretext losses and losses of classifiers that did not train on the image; where few
    classes hold most images, classes are resampled.
    """
    label = main[0].tables['images']['label']
    labels = label if stats.few_classes(label) else None
    return stats.rank_correlation(losses(pretext, 'loss'), losses(main, 'loss_out'), labels=labels)


def _noted(cell: Cell, *notes: str) -> Cell:
    return replace(cell, note='; '.join(filter(None, (cell.note, *notes))))


def _correlation(row: Row, task: str, dataset: str) -> Cell:
    pretext, main = loss_runs(dataset, task)
    if not pretext:
        return Cell()
    x, y = losses(pretext, 'loss'), losses(main, 'loss_out')
    label = main[0].tables['images']['label']
    few = stats.few_classes(label)
    e = loss_correlation(pretext, main)
    n = f'{_counted(pretext, f"{task} run")} x {_counted(main, "classifier")}'
    cell = _measured(row, dataset, e, n, main)
    notes = []
    if few:
        pairs = (stats.between_within(a, b, label) for a, b in product(x, y))
        inside = np.mean([pair.within_class_rho for pair in pairs])
        words = 'classes differ much in size, so classes are resampled, not images'
        notes.append(f'{words}; within a class rho is {inside:.2f} on average')
    if min(len(x), len(y)) < 2:
        notes.append(ONE_RUN)
    guesses = False
    if task == 'rotation':
        words, guesses = _rotation(pretext)
        notes.append(words)
    notes.append(_beside(row, dataset, task))
    verdict = UNTRAINED if guesses else cell.verdict
    return replace(_noted(cell, *notes), page='correlation', verdict=verdict)


def _counted(results: Sequence[Result], noun: str) -> str:
    """'1 classifier', '2 classifiers'."""
    return f'{len(results)} {noun}{"s" if len(results) > 1 else ""}'


def _as_reproduced(dataset: str, regime: Regime | None) -> Cell:
    if dataset != 'cifar10':
        return Cell()
    trained = runs('trajectory', dataset=dataset, width=64, augment='flip', epochs=100)
    pretext = runs('pretext', dataset=dataset, width=64)
    if not trained or not pretext:
        return Cell()
    e = stats.rank_correlation(losses(pretext, 'loss'), losses(trained, 'loss_in_100'))
    n = f'{_counted(pretext, "rotation run")} x {_counted(trained, "classifier")}'
    cell = replace(_measured(ROWS[1], dataset, e, n, trained), page='reconciliation')
    if len(trained) > 1:
        return cell
    note = f'one classifier run: no verdict; {_over_epochs(pretext, trained[0])}'
    return _noted(replace(cell, verdict=ONE_CLASSIFIER, note=note), cell.note)


def _over_epochs(pretext: list[Result], trained: Result) -> str:
    """The range of the rho of a trajectory once a tenth of the epochs is over."""
    epochs = [e for e in trained.tables['log']['epoch'].tolist() if 10 * e >= trained.spec.epochs]
    x, y = losses(pretext, 'loss'), trained.tables['images']
    rho = [np.mean([stats.spearman(one, y[f'loss_in_{e}']) for one in x]) for e in epochs]
    span = f'between epochs {epochs[0]} and {epochs[-1]}'
    return f'its rho varies from {min(rho):.2f} to {max(rho):.2f} {span}'


def _measured(row: Row, dataset: str, e: Estimate, n: str, main: list[Result]) -> Cell:
    """A correlation against what was published, of `n` runs, these classifiers among them."""
    verdict, note = agreement(dataset, e.value, e.low, e.high, row)
    fitted = float(np.min([r.summary.get('accuracy_in', math.nan) for r in main]))
    if not fitted >= LEAST:
        needed = f'a verdict needs classifiers that fit {100 * LEAST:.0f} % of the images'
        verdict, note = UNTRAINED, needed
    s = main[0].spec
    n = f'{e.n:,} images, {n}, width {s.width}{pixels(s.dataset)}'
    return Cell(_interval(e, 2), n, fitted, verdict, note=note, estimate=e)


def _rotation(pretext: Sequence[Result]) -> tuple[str, bool]:
    """The mean losses of the rotation networks that give an order, in words, and whether one of
    them does no better than guessing.
    """
    means = [float(r.tables['images']['loss'].mean()) for r in pretext]
    if not means:
        return '', False
    low, high = f'{min(means):.2f}', f'{max(means):.2f}'
    span = low if low == high else f'{low} to {high}'
    return f'mean rotation loss {span} (guessing: {GUESSING:.2f})', max(means) >= GUESSING


def _with_random(
    regime: Regime | None,
    strategy: str,
    budgets: Callable[[Regime, str], list[int]],
    metrics: tuple[str, ...] = ('accuracy', 'balanced'),
    words: tuple[str, str] = ('better than random', 'worse than random'),
    page: str = 'classification',
) -> Cell | Pending:
    """PT4AL, or another strategy, minus random over budgets, by each metric of a curve."""
    both = strategy, 'random'
    if regime is None:
        return Cell()
    at, reached = budgets(regime, strategy), regime.reached(*both)
    if not reached or (budgets is _end and not at):
        return Cell()
    # 3a is about the first budget alone
    cell = _rests_on(regime, strategy, at or reached[: 1 if budgets is _first else None])
    if not at:
        return replace(cell, page=page, verdict=UNTRAINED)
    earlier = [k for k in reached if k < at[0]]
    if weak := set(earlier) - set(regime.fitted(*both)):
        note = f'at {len(weak)} of {len(earlier)} earlier budgets labels are not fitted'
        cell = replace(cell, note=note)
    sides = {metric: tuple(regime.groups(s, at, metric) for s in both) for metric in metrics}
    orders = regime.orders(at) if strategy == 'pt4al' else []
    cell, paired = replace(cell, page=page), regime.share_first(*both, at)
    return _tested(cell, sides, MARGIN, words, orders, paired)


def _rests_on(
    regime: Regime, strategy: str, budgets: list[int], sides: Sequence[Groups] = ()
) -> Cell:
    """What a comparison with random labels at some budgets rests on, runs (all, or those of these
    sides), budgets and training.
    """
    fitted = regime.least_labelled((strategy, 'random'), budgets)
    one, other = sides or [regime.groups(s, budgets) for s in (strategy, 'random')]
    paired = regime.share_first(strategy, 'random', budgets)
    seeds, against = (sum(map(len, groups.values())) for groups in (one, other))
    orders = len([order for order in one if isinstance(order, int)])
    task = strategy.partition(' by ')[2] or 'rotation'
    pretext = f'{orders} {task} run{"s" * (orders > 1)}, ' if orders else ''
    span = f'{budgets[0]:,} labels'
    if len(budgets) > 1:
        between = [k for k in regime.reached(strategy, 'random') if budgets[0] <= k <= budgets[-1]]
        of = f'{len(budgets)} of {len(between)}' if len(budgets) < len(between) else len(budgets)
        span = f'{budgets[0]:,} to {budgets[-1]:,} labels ({of} budgets)'
    runs_of = f'{pretext}{seeds} seed{"s" * (seeds > 1)} against {against} of random labels'
    if paired:
        runs_of = f'{seeds} pairs of seeds'
    return Cell(n=f'{runs_of}, {span}, {regime.training}', labelled=fitted)


def _tested(
    cell: Cell,
    sides: Mapping[str, tuple[Groups, ...]],
    margin: float,
    words: tuple[str, str],
    pretext: Sequence[Result],
    paired: bool = False,
) -> Cell | Pending:
    """The comparison of two sides by each metric; no test of one run, of one order, or of orders by
    a network that guesses.
    """
    order, guesses = _rotation(pretext)
    first = next(iter(sides.values()))
    if _fewest(first) < 2:
        return _noted(replace(cell, note='one run on a side: no verdict'), order)
    metrics = {m: stats.difference(a, b, margin, paired) for m, (a, b) in sides.items()}
    shown = _noted(_with_number(cell, metrics), order)
    if guesses:
        return replace(shown, verdict=UNTRAINED)
    if any(len(side) == 1 and isinstance(next(iter(side)), int) for side in first):
        return replace(shown, verdict=ONE_ORDER)
    return Pending(metrics, shown, words)


def _with_number(cell: Cell, metrics: Mapping[str, Difference]) -> Cell:
    """The number of a comparison, before any verdict."""
    metric, difference = next(iter(metrics.items()))
    e = difference.estimate
    text = _interval(e, DIGITS.get(metric, 1))
    notes = [cell.note, e.method.partition('; ')[2]]
    if 'balanced' in metrics:
        other = _interval(metrics['balanced'].estimate, 1)
        notes.insert(0, f'mean over classes {"the same" if other == text else other}')
    return _noted(replace(cell, text=text, note='', estimate=e), *notes)


def _fewest(sides: Sequence[Groups]) -> int:
    """The number of runs of the side that has fewest."""
    return min(sum(map(len, groups.values())) for groups in sides)


def _first(regime: Regime, strategy: str) -> list[int]:
    first = regime.reached(strategy, 'random')[:1]
    return first if first and first[0] in regime.fitted(strategy, 'random') else []


def compared(regime: Regime, strategy: str = 'pt4al') -> list[int]:
    """The budgets of claim 3b: fitted, with three independent runs of the strategy and of random
    labels; where there are none, with two or one.
    """
    return next(filter(None, (regime.fitted(strategy, 'random', units=k) for k in (3, 2, 1))), [])


def _last(regime: Regime, strategy: str = 'pt4al') -> list[int]:
    return compared(regime, strategy)[-1:]


def _largest(dataset: str, regime: Regime | None) -> Cell | Pending:
    """The largest budget, and beside it that of a training which fits more labels."""
    made, beyond = _with_random(regime, 'pt4al', _last), more_labels(dataset)
    if not isinstance(made, Pending) or beyond is None:
        return made
    way, budget, gap = beyond
    words = f'with {budget:,} labels, {way.training}: {_interval(gap.estimate, 1)}'
    return replace(made, cell=_noted(made.cell, f'{words} ({gap.estimate.seeds}), not adjusted'))


def more_labels(dataset: str) -> tuple[Regime, int, Difference] | None:
    """The training, of those with several rotation runs, whose last budget of claim 3b is largest,
    this budget, and PT4AL minus random labels there; None where claim 3c has it.
    """
    ways = [way for way in regimes(dataset) if way.rotation_runs > 1]
    decides = deciding('3c', ways)
    if decides is None:
        return None
    way = max(ways, key=_last)
    at = _last(way)
    if at <= _last(decides):
        return None
    one, other = (way.groups(strategy, at) for strategy in ('pt4al', 'random'))
    return way, at[0], stats.difference(one, other)


def _end(regime: Regime, strategy: str) -> list[int]:
    """The budget after the last of all cycles, if it is fitted."""
    end = regime.spec.budget * regime.spec.cycles
    return [end] if end in regime.fitted(strategy, 'random') else []


def _later(regime: Regime, strategy: str) -> list[int]:
    """The same without the first query, which strategies share with random labels."""
    first = regime.reached(strategy, 'random')[:1]
    return [k for k in compared(regime, strategy) if k not in first]


def _balance(regime: Regime | None) -> Cell | Pending:
    """Class entropy of the labelled sets."""
    made = _with_random(regime, 'pt4al', compared, ('entropy',), SUPPORT, 'selection')
    if not isinstance(made, Pending) or regime is None:
        return made
    random = regime.groups('random', compared(regime), 'entropy')
    if stats.units(random).mean() < EVEN:
        return made
    note = 'random labels are almost even here: "supported" is out of reach'
    return replace(made, cell=replace(made.cell, note=note))


def _uncertainty(_: str, regime: Regime | None) -> Cell | Pending:
    """Uncertainty of the picks by a network that had no part in choosing them."""
    at = compared(regime) if regime is not None else []
    if regime is None or not at:
        return Cell()
    measured = regime.independent('uncertainty', at)
    sides = measured['pt4al'], measured['random']
    if _fewest(sides) < 2:
        return Cell(note='the picks of runs that fit their labels were not measured')
    cell = replace(_rests_on(regime, 'pt4al', at, sides), page='selection')
    later = later_queries(regime)
    if gap := uncertainty_gap(regime, 'pt4al', 'least_confidence', later):
        budgets = ', '.join(f'{k:,}' for k in later)
        words = f'PT4AL minus least confidence {_interval(gap.estimate, 3)}'
        note = f'after the first query ({budgets} labels), {words} ({gap.estimate.seeds})'
        cell = replace(cell, note=note)
    return _tested(cell, {'uncertainty': sides}, 0.01, SUPPORT, regime.orders(at))


def uncertainty_gap(regime: Regime, one: str, other: str, budgets: list[int]) -> Difference | None:
    """Uncertainty of the picks of one strategy minus those of another, by an independent network;
    None without budgets or with fewer than two runs a side.
    """
    measured = regime.independent('uncertainty', budgets) if budgets else {}
    sides = measured.get(one, {}), measured.get(other, {})
    return stats.difference(*sides, 0.01) if _fewest(sides) > 1 else None


def later_queries(regime: Regime) -> list[int]:
    """The budgets after the first query at which PT4AL's picks and those of least confidence, which
    is PT4AL without an order, were both measured.
    """
    later = regime.reached('pt4al', 'least_confidence')[1:]
    while later and not uncertainty_gap(regime, 'pt4al', 'least_confidence', later):
        later.pop()
    return later


def deciding(claim: str, ways: Sequence[Regime]) -> Regime | None:
    """The training that decides a claim: the first of `regimes` that serves it, else the first."""
    serves = SERVES.get(claim, lambda _: True)
    return next(filter(serves, ways), ways[0] if ways else None)


def _adjusted(cells: Mapping[tuple[str, str], Cell | Pending]) -> dict[tuple[str, str], Cell]:
    """Verdicts by tests that are Holm-adjusted in two families, one a metric: what has no mean over
    classes counts in both as it is, a comparison that several claims share counts once in each.
    """
    compared = {where: cell for where, cell in cells.items() if isinstance(cell, Pending)}
    adjusted: dict[tuple[str, str], list[tuple[float, float]]] = {where: [] for where in compared}
    for balanced in (False, True):
        tests = {}
        for where, cell in compared.items():
            test = _test(cell, balanced)
            tests[where] = where[1], test.p, test.equal_p, cell.words == SUPPORT
        shared = list(dict.fromkeys(tests.values()))
        differ = stats.holm([p for _, p, *_ in shared])
        # "equal" is no verdict on claim 2
        equal = stats.holm([math.nan if support else p for _, _, p, support in shared])
        for where, about in tests.items():
            k = shared.index(about)
            adjusted[where].append((float(differ[k]), float(equal[k])))
    return {
        where: _with_verdict(cell, adjusted[where]) if isinstance(cell, Pending) else cell
        for where, cell in cells.items()
    }


def _test(cell: Pending, balanced: bool) -> Difference:
    """The comparison by accuracy over images or, where there is one, by its mean over classes."""
    first = next(iter(cell.metrics.values()))
    return cell.metrics.get('balanced', first) if balanced else first


def _verdict(value: float, p: float, same: float, words: tuple[str, str]) -> str:
    if p < LEVEL:
        return words[0] if value > 0 else words[1]
    return f'equal within {MARGIN:g} point' if same < LEVEL else 'no difference shown'


def _with_verdict(cell: Pending, adjusted: list[tuple[float, float]]) -> Cell:
    """The cell with its verdict, by two p values, of difference and equality, for each metric."""
    values = [_test(cell, balanced).estimate.value for balanced in (False, True)]
    # on a test set with as many images of each class the metrics are the same number, but for the
    # rounding of float32
    if math.isclose(*values, abs_tol=1e-3):
        values = values[:1]
        adjusted = [(max(p for p, _ in adjusted), max(same for _, same in adjusted))]
    verdicts = [_verdict(value, *p, cell.words) for value, p in zip(values, adjusted)]
    shown = cell.cell
    if _test(cell, False).p < LEVEL and verdicts[0] == 'no difference shown':
        alone = 'the interval is of this comparison alone'
        shown = _noted(shown, alone, 'the verdict is adjusted for all tests (Holm)')
    verdict = verdicts[0] if len(set(verdicts)) == 1 else 'depends on the metric'
    return replace(shown, verdict=verdict, p=tuple(p for p, _ in adjusted))


def after_looks(row: Row, dataset: str) -> tuple[str, float] | None:
    """The verdict of a cell if its p values are multiplied by the number of looks at the results,
    and the p value that changes it; None if the verdict stays.
    """
    looks = LOOKS.get(dataset, 3)
    now = row.cells[dataset].p
    then = [min(looks * p, 1.0) for p in now]
    lost = [after for before, after in zip(now, then) if before < LEVEL <= after]
    if not lost:
        return None
    verdict = 'no difference shown' if min(then) >= LEVEL else 'depends on the metric'
    return verdict, max(lost)


def _interval(e: Estimate, digits: int) -> str:
    if math.isnan(e.low):
        return f'{e.value:.{digits}f}'
    return f'{e.value:.{digits}f} [{e.low:.{digits}f}, {e.high:.{digits}f}]'


COLORIZATION = 'pt4al by colorization'
# what a training must have for a claim that the first one may not serve
SERVES: dict[str, Callable[[Regime], Any]] = {
    '3a': lambda regime: _first(regime, 'pt4al'),
    '3d': lambda regime: _end(regime, 'pt4al'),
    '3 colorization': lambda regime: regime.reached(COLORIZATION, 'random'),
}
MEASURES: dict[str, Callable[[str, Regime | None], Cell | Pending]] = {
    '1': lambda dataset, _: _correlation(ROWS[0], 'rotation', dataset),
    '1 as reproduced': _as_reproduced,
    '1 colorization': lambda dataset, _: _correlation(ROWS[2], 'colorization', dataset),
    '2a': lambda _, regime: _balance(regime),
    '2b': _uncertainty,
    '3a': lambda _, regime: _with_random(regime, 'pt4al', _first),
    '3b': lambda _, regime: _with_random(regime, 'pt4al', compared),
    '3c': _largest,
    '3d': lambda _, regime: _with_random(regime, 'pt4al', _end),
    '3 colorization': lambda _, regime: _with_random(regime, COLORIZATION, compared),
    'control': lambda _, regime: _with_random(regime, 'least_confidence', _later),
}
