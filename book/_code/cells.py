"""The cells of the reproduction's figures: what it and the paper print, and the stored runs that
stand beside it.

A cell is a data set and a pretext task (or random labels).  Which runs stand for it, `pt4al.claims`
decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import panels
from chapters import deciding, gap, trainings
from summary import DATA, cost_of, named

from pt4al import claims
from pt4al.claims import Regime, Row
from pt4al.report import fmt_interval

MAIN, PRETEXT = 'main-task loss, rank', '{} loss, rank'
# accuracies that the text of the reproduction names, per cent: who, cycle (1 or 10), value
CURVES = {
    'cifar10': (
        ('paper, PT4AL', 10, 93.1),
        ('reproduction, all strategies', 1, 30.0),
        ('reproduction, PT4AL', 10, 90.0),
        ('reproduction, random', 10, 70.0),
    ),
    'imbalanced-cifar10': (('reproduction, PT4AL', 1, 30.0), ('reproduction, PT4AL', 10, 80.0)),
    'caltech101': (
        ('reproduction, PT4AL', 1, 10.0),
        ('reproduction, random', 1, 20.0),
        ('reproduction, PT4AL', 10, 90.0),
    ),
}
# what the reproduction says of the first query, as PT4AL minus random in points
FIRST = {'cifar10': {'reproduction': 0.0}, 'caltech101': {'reproduction': -10.0}}
# labels of a cycle in the sources: a fifth of each tenth of the pool (main.py of the reproduction)
PER_CYCLE = {'cifar10': 1000, 'imbalanced-cifar10': 550, 'caltech101': 160}
# of an order of the pool, its strategy and a claim about it
STRATEGIES = {
    'rotation': ('pt4al', '3b'),
    'colorization': ('pt4al by colorization', '3 colorization'),
    'random': ('random', '3b'),
}


def printed(row: Row) -> dict[str, dict[str, float]]:
    """Published numbers of a claim, by data set and source."""
    sources = {'paper': row.paper, 'reproduction': row.reproduction}
    return {
        name: {who: float(texts[name]) for who, texts in sources.items() if name in texts}
        for name in DATA
    }


def correlation_panels(task: str, rows: Sequence[Row]) -> list[panels.Panel]:
    """Figures 1, 3 and 4: one square a data set; `rows` are those of `claims.overview()`."""
    axes, out = (MAIN, PRETEXT.format(task)), []
    row = named(rows, '1' if task == 'rotation' else '1 colorization')
    for name, title in DATA.items():
        e, (pretext, main) = row.cells[name].estimate, claims.loss_runs(name, task)
        published = printed(row)[name]
        if e is None:
            out.append(panels.empty_scatter(title, published, axes, cost_of(row.claim, name)))
            continue
        losses = [r.tables['images'][k] for r, k in ((main[0], 'loss_out'), (pretext[0], 'loss'))]
        ours = (e.value, e.low, e.high)
        if row.cells[name].verdict == 'not trained enough':
            title = f'{title}: not trained enough'
        out.append(panels.scatter(title, *losses, ours, published, axes))
    return out


def curve_panels() -> list[panels.Panel]:
    """Figures 5 and 6: one panel a data set, with what has not been run named in it; every strategy
    in the training that decides claim 3b, and in those that decide 3 by colorization and 3d.
    """
    out = []
    for name, title in DATA.items():
        main, seen, others = deciding(name), [deciding(name), None], []
        drawn = {label: _runs(main, way) for label, (way, _) in STRATEGIES.items()}
        for regime in (deciding(name, claim) for claim in ('3 colorization', '3d')):
            if regime not in seen:
                curves = {label: _runs(regime, way) for label, (way, _) in STRATEGIES.items()}
                others.append((regime.training, {k: c for k, c in curves.items() if c}))
            seen.append(regime)
        there = next((curve for curve in drawn.values() if curve), None)
        budget = int(there.labels[0]) if there else PER_CYCLE[name]
        printed = [(who, cycle * PER_CYCLE[name], value) for who, cycle, value in CURVES[name]]
        # ten cycles of 200 epochs show the labelled images of each cycle 200 times
        cost = f'{200 * budget * sum(range(1, 11)) / 1e6:.2g} million image passes'
        training, fitted = main.training if main else '', 100 * claims.FITTED
        out.append(panels.curves(title, drawn, printed, cost, fitted, training, others))
    return out


def _curve(name: str, strategy: str, claim: str) -> tuple[panels.Curve | None, Any]:
    """The runs of a strategy in the training that decides a claim, and that training."""
    regime = deciding(name, claim)
    return _runs(regime, strategy), regime


def _runs(regime: Regime | None, strategy: str) -> panels.Curve | None:
    if regime is None or not (stored := regime.curves.get(strategy)):
        return None
    longest = max((one.labels for one in stored), key=len)
    accuracy, labelled = np.full((2, len(stored), len(longest)), np.nan)
    for run, one in enumerate(stored):
        accuracy[run, : len(one.labels)] = one.accuracy
        labelled[run, : len(one.labels)] = 100 * one.labelled
    return panels.Curve(longest, accuracy, labelled, [one.unit for one in stored])


def table_of_cells(rows: Sequence[Row]) -> list[dict[str, object]]:
    """Every cell of figures 3 to 5: how it was run, and what it gives."""
    out = []
    for figure, task, claim in (('3', 'rotation', '1'), ('4', 'colorization', '1 colorization')):
        for name, title in DATA.items():
            cell = named(rows, claim).cells[name]
            rho = f'rho {cell.text}' if cell.text else ''
            lowest = None if cell.labelled is None else f'{100 * cell.labelled:.0f} %'
            fitted = lowest and (lowest if lowest == '100 %' else f'at least {lowest}')
            left = '' if rho else cost_of(claim, name)
            out.append(_line(figure, title, task, cell.n, rho, fitted, left))
    for name, title in DATA.items():
        for label, way in STRATEGIES.items():
            curve, regime = _curve(name, *way)
            how, result, fitted, left = '', '', None, cost_of('3b', name)
            if curve:
                how = f'{panels.runs_of(curve)}, {regime.training}'
                left = _further(name, way[0], curve, regime)
                mean = np.nanmean(curve.accuracy[:, -1])
                result = f'{mean:.1f} % at {int(curve.labels[-1]):,} labels'
                ends = (np.nanmin(curve.labelled), np.nanmax(curve.labelled))
                fitted = ' to '.join(dict.fromkeys(f'{end:.0f}' for end in ends)) + ' %'
            out.append(_line('5', title, label, how, result, fitted, left))
    return out


def a_cycle() -> str:
    """Labels of a cycle in the reproduction where they differ from those here, in words."""
    pairs = {
        title: (PER_CYCLE[name], regime.spec.budget)
        for name, title in DATA.items()
        if (regime := deciding(name))
    }
    differ = [f'{a:,} on {title} (here {b:,})' for title, (a, b) in pairs.items() if a != b]
    if not differ:
        return ''
    return f'Images labelled in a cycle of the reproduction: {", ".join(differ)}.'


def colorization_gap() -> str:
    """PT4AL ordered by colorization minus PT4AL ordered by rotation, in words, by data set."""
    parts, pair = [], ('pt4al by colorization', 'pt4al')
    for name, title in DATA.items():
        for regime in trainings(name):
            at = next(filter(None, (regime.fitted(*pair, units=k) for k in (3, 2))), [])
            if at and (e := gap(regime, *pair, at)):
                labels = f'{at[0]:,}' + (f' to {at[-1]:,}' if len(at) > 1 else '')
                seeds = e.seeds.replace('rotation', 'colorization', 1)  # of the first side
                parts.append(
                    f'{fmt_interval(e, 1)} points on {title} ({labels} labels, '
                    f'{seeds}, {regime.training})'
                )
                break
        else:
            parts.append(f'not tested on {title} with several runs of each')
    return '; '.join(parts)


def _further(name: str, strategy: str, curve: panels.Curve, regime: Any) -> str:
    """What the cycles up to the tenth would take that no run of this training has, and how far
    another training goes.
    """
    budget, last = int(curve.labels[0]), int(curve.labels[-1])
    if not (cycles := range(last // budget + 1, 11)):
        return ''
    passes = regime.spec.epochs * budget * sum(cycles) / 1e6
    ways = [deciding(name, '3d'), *trainings(name)]
    ways = [way for way in ways if way and way.reached(strategy)]
    way = max(ways, key=lambda way: way.reached(strategy)[-1])  # the first of equal ones
    there = way.reached(strategy)[-1]
    more = ''
    if there > last:
        fits = there in way.fitted(strategy)
        ends = fits and way == deciding(name, '3d') and there == way.spec.budget * way.spec.cycles
        words = ': claim 3d' if ends else '' if fits else ', labels not fitted'
        more = f' in this training (to {there:,} with {way.training}{words})'
    return f'beyond {last:,} labels{more}; one run: {passes:.2g} million image passes'


# table of section 4.1.3 as the reproduction prints it; '' where it leaves a cell empty
PRINTED = {
    'epochs': ('128', '128', '100'),
    'minibatch': ('256', '256', ''),
    'optimiser': ('SGD', 'Adam', 'SGD'),
    'learning rate': ('0.1', '0.1', '0.1'),
}


def hyperparameters() -> list[dict[str, str]]:
    """The printed table with the settings of the stored runs beside each cell."""
    tasks = ('rotation', 'colorization')
    pretexts = [next(iter(claims.loss_runs('cifar10', task)[0]), None) for task in tasks]
    mains = claims.loss_runs('cifar10', 'rotation')[1]
    regime = deciding('cifar10')
    used = [vars(r.spec) if r else {} for r in (*pretexts, *mains[:1], regime)]
    names = {
        'epochs': 'epochs',
        'minibatch': 'batch',
        'learning rate': 'lr',
        'optimiser': 'optimiser',
    }
    heads = {'rotation': 0, 'colorization': 1, 'classification, whole pool': 2}
    heads['classification, in cycles'] = 2
    table = []
    for (head, place), fields in zip(heads.items(), used):
        here = {row: fields.get(names[row], 'sgd' if fields else '–') for row in PRINTED}
        theirs = {row: cells[place] for row, cells in PRINTED.items()}
        for source, values in (('printed', theirs), ('here', here)):
            shown = {row: str(value).replace('sgd', 'SGD') for row, value in values.items()}
            table.append({'network': head, 'source': source, **shown})
    return table


def _line(
    figure: str, title: str, task: str, how: str, result: str, fitted: str | None, left: str
) -> dict[str, object]:
    return {
        'figure': figure,
        'data set': title,
        'order of the pool': task,
        'result': result or None,
        'runs': how or 'not tested',
        'accuracy on labelled images': fitted,
        'not tested': left or None,
    }
