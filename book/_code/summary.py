"""The first page: what was found for each claim, as one table and one figure."""

from __future__ import annotations

import math
import re
import subprocess
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import panels
from IPython.display import HTML

import pt4al
from pt4al import claims, report, spec, stats
from pt4al.studies import study

DATA = {
    'cifar10': 'CIFAR-10',
    'imbalanced-cifar10': 'Imbalanced CIFAR-10',
    'caltech101': 'Caltech-101',
}

BLANK = ' class="report-blank"'  # left out of a card


def named(rows: Sequence[Any], claim: str) -> Any:
    """The row of a claim among those of `claims.overview()`."""
    return next(row for row in rows if row.claim == claim)


def chip(verdict: str, page: str = '') -> str:
    """A verdict as a coloured word, which leads to `page`."""
    words = f'<span class="report-chip report-{panels.tone(verdict)}">{escape(verdict)}</span>'
    return f'<a href="{escape(page)}">{words}</a>' if page else words


def claims_table(rows: Sequence[Any], caption: str) -> HTML:
    """Rows of `claims.overview()` as a table that becomes a card a claim on a narrow screen."""
    published = {'Paper': [row.paper for row in rows]}
    published['Reproduction'] = [row.reproduction for row in rows]
    published = {source: texts for source, texts in published.items() if any(texts)}
    body = []
    for k, row in enumerate(rows):
        unit = f' <small>({escape(row.unit)})</small>' if row.unit else ''
        body.append(
            f'<tr><th scope="row"><span class="report-claim">{_named(row.claim)}</span> '
            f'{escape(row.title)}{unit}</th>'
            + ''.join(
                f'<td data-head="{source}"{"" if texts[k] else BLANK}>{_printed(texts[k])}</td>'
                for source, texts in published.items()
            )
            + ''.join(f'<td data-head="{DATA[name]}">{_cell(row, name)}</td>' for name in DATA)
            + '</tr>'
        )
    return HTML(
        f'<table class="report-table report-claims"><caption>{escape(caption)}</caption><thead><tr>'
        + ''.join(f'<th scope="col">{head}</th>' for head in ('Claim', *published, *DATA.values()))
        + '</tr></thead><tbody>'
        + '\n'.join(body)
        + '</tbody></table>'
    )


def _named(claim: str) -> str:
    number, _, more = claim.partition(' ')
    words = f'Claim {number}' if number[0].isdigit() else number.capitalize()
    return escape(f'{words}, {more}' if more else words)


def _printed(texts: Mapping[str, str]) -> str:
    """What a source reports, a line a data set."""
    lines = (
        f'{DATA[name].removesuffix(" CIFAR-10")}: {report.typeset(escape(text))}'
        for name, text in texts.items()
    )
    return f'<small>{"<br>".join(lines)}</small>' if texts else '–'


def _cell(row: Any, name: str) -> str:
    """Verdict and value, and what was run to get them."""
    cell = row.cells.get(name)
    if cell is None:
        return chip('not tested')
    page = cell.page and (cell.page if '.html' in cell.page else f'{cell.page}.html')
    parts = [chip(cell.verdict, page)]
    if cell.text:
        parts.append(f'<span class="report-value">{report.typeset(escape(cell.text))}</span>')
    fitted = '' if cell.labelled is None else f'labels fitted to {100 * cell.labelled:.0f}\u00a0%'
    cost = cost_of(row.claim, name) if cell.verdict == claims.UNTESTED else ''
    if rest := '; '.join(filter(None, (fitted, cell.n, _p_values(cell), cell.note, cost))):
        parts.append(
            f'<details><summary>what {"it would take" if cost else "was run"}</summary>'
            f'<small>{report.typeset(escape(rest))}</small></details>'
        )
    return ' '.join(parts)


def _p_values(cell: claims.Cell) -> str:
    """'adjusted p 0.02', or one for each metric where they differ."""
    values = [f'{p:.2g}' for p in cell.p]
    if len(values) == 2:
        return f'adjusted p {values[0]} over images, {values[1]} mean over classes'
    return f'adjusted p {values[0]}' if values else ''


def cost_of(claim: str, name: str) -> str:
    """What one run of a claim that is not tested would take, with its pretext network."""
    task = {'1 colorization': 'colorization', '3 colorization': 'colorization', '2b': 'simclr'}
    specs = [spec('pretext', dataset=name, task=task.get(claim, 'rotation'))]
    if claim == '1 as reproduced':
        specs.append(spec('trajectory', dataset=name, augment='flip', epochs=100))
    elif claim.startswith('1'):
        specs.append(spec('main', dataset=name))
    elif claim == 'control':
        specs = [spec('active', dataset=name, strategy='least_confidence')]
    elif claim != '2b':  # there a second network looks at picks that are stored
        specs.append(spec('active', dataset=name))
    return f'one run: {sum(map(study.passes, specs)) / 1e6:.2g} million image passes'


def in_words(rows: Sequence[Any], claim: str) -> str:
    """One claim on every data set: 'worse than random on CIFAR-10 (-1.0 [...], 1,000 labels)'."""
    where: dict[str, list[str]] = {}
    for name, cell in named(rows, claim).cells.items():
        value = f' ({", ".join(filter(None, (cell.text, _budgets(cell))))})' if cell.text else ''
        where.setdefault(cell.verdict, []).append(f'{DATA[name]}{value}')
    return '; '.join(f'{verdict} on {_listed(sets)}' for verdict, sets in where.items())


def after_looks(rows: Sequence[Any]) -> str:
    """Verdicts that the looks at the results would change, and to what."""
    found = [
        f'{row.claim} on {DATA[name]} ({change[0]}, p {change[1]:.2g})'
        for row in rows
        for name in row.cells
        if (change := claims.after_looks(row, name)) is not None
    ]
    return _listed(found) if found else 'none'


def alone(rows: Sequence[Any]) -> str:
    """Verdicts that differ where p values are adjusted for the tests of one data set alone."""
    found = []
    for name, title in DATA.items():
        by_claim = {row.claim: row.cells[name] for row in claims.overview((name,))}
        for row in rows:
            there = by_claim[row.claim]
            if there.p and there.verdict != row.cells[name].verdict:
                p = ' and '.join(f'{p:.2g}' for p in there.p)
                found.append(f'{row.claim} on {title} ({there.verdict}, p {p})')
    return _listed(found) if found else 'none'


def noted(cell: Any, words: str) -> str:
    """The part of a cell's note that has these words; all of it where none has."""
    return next((part for part in cell.note.split('; ') if words in part), cell.note)


def headline_panels(rows: Sequence[Any], published: dict[str, dict[str, dict[str, float]]]) -> list:
    """Rho and the first query, one value a data set; then every budget of claim 3b.

    `published[claim][data set]` holds the values of 'paper' and 'reproduction'.
    """
    points = 'PT4AL minus random labels, points'
    wanted = {
        '1': ('Claim 1: do the losses agree?', 'Spearman rho', (0, 1)),
        '3a': ('Claim 3a: the first query', points, (-30, 10)),
    }
    by_claim = {row.claim: row for row in rows}
    drawn = []
    for claim, (title, unit, span) in wanted.items():
        if claim not in by_claim:
            continue
        cells, lines = by_claim[claim].cells, []
        for name, words in DATA.items():
            cell = cells.get(name)
            verdict = cell.verdict if cell else 'not tested'
            e = cell.estimate if cell else None
            value = e and (e.value, e.low, e.high)
            lines.append((words, value, verdict, published.get(claim, {}).get(name, {})))
        drawn.append(panels.dots(title, unit, lines, span))
    course = {}
    for name, words in DATA.items():
        regime, at = _of_all_budgets(name)
        gaps = [_difference(regime, 'pt4al', [budget]) for budget in at]
        short = words.removesuffix(' CIFAR-10')
        course[short] = [(gap.value, gap.low, gap.high) for gap in gaps]
    below = 'cycles of 1,000 labels (Caltech-101: 150)'
    title = 'Claims 3b, 3c: cycle by cycle'
    return [*drawn, panels.by_cycle(title, points, course, (-30, 10), below)]


def build() -> str:
    """Version, commit and its date, of the package that made the page."""
    command = ['git', 'log', '-1', '--format=commit %h of %cs']
    root = Path(pt4al.__file__).parent
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        commit = done.stdout.strip() if done.returncode == 0 else ''
    except OSError:  # no git on this machine
        commit = ''
    return f'Version {pt4al.__version__}{f", {commit}" if commit else ""}.'


# --- the answer in words ---


def headline(rows: Sequence[Any]) -> dict[str, str]:
    """The answer in plain words by place on the page, with its numbers, from CIFAR-10's cells."""
    cell = {row.claim: row.cells['cifar10'] for row in rows}
    paper, reproduction = claims.published('1', 'cifar10')
    one, first, mean, last, end = (cell[name] for name in ('1', '3a', '3b', '3c', '3d'))
    return {
        'answer': _answer(first),
        'after': _after(mean, last),
        'short': _score({name: cell[name].verdict for name in PARTS}),
        'losses': f'Their Spearman correlation is {one.text}{_basis(one)}: {one.verdict} '
        f'({paper}), {noted(one, "the reproduction")} by others ({reproduction}).'
        if one.text
        else 'Not tested.',
        'labelled': f'2a, balance (class entropy, 1 = even): {_gap(cell["2a"])}. 2b, uncertainty '
        f"(entropy of an independent network's predictions, 0 to 1): {_gap(cell['2b'])}. "
        f'{_sampler()}'.strip(),
        'first': f'With {_budgets(first)}: {_points(first, "3a")}{_basis(first)}. '
        f'{_released()}'.strip(),
        'later': f'3b, mean over {_budgets(mean)}: {_points(mean)}. '
        f'3c, with {_budgets(last)}: {_points(last, "3c")}{_basis(last)}. '
        f'{_more_labels()}'.strip(),
        'budgets': by_budget()[0],
        'budget-runs': by_budget()[1],
        'end': f'With {_budgets(end)}: {_points(end, "3d")}{_basis(end)}. The paper '
        f'reports {claims.published("3d", "cifar10")[0]}.{_before_the_end()}'
        if end.text
        else 'Not tested.',
        'fitted': _fitted([one, cell['2b'], cell['2a'], first, mean, last, end]),
    }


# of the claims on accuracy, balance, uncertainty and correlation, those with a row of their own
PARTS = ('1', '2a', '2b', '3a', '3b', '3c', '3d')


def _answer(first: claims.Cell) -> str:
    """The title's question, answered by the verdict on claim 3a."""
    e, labels = first.estimate, _budgets(first)
    size = f'{abs(e.value):.0f} points' if e is not None else ''
    gives = f"on CIFAR-10 PT4AL's first {labels} give {size} {{}} accuracy than random ones"
    openings = {
        'good': f'Yes for the first labels: {gives.format("more")}',
        'bad': f'No for the first labels: {gives.format("less")}',
    }
    opening = openings.get(panels.tone(first.verdict))
    if opening is None:
        return 'For the first labels no difference to random ones is shown on CIFAR-10'
    return opening + _levels('3a', first, 0)


def _after(mean: claims.Cell, last: claims.Cell) -> str:
    """How PT4AL compares after the first query, and whether any test decides that."""
    words = _after_the_first()
    if {panels.tone(mean.verdict), panels.tone(last.verdict)}.isdisjoint(('good', 'bad')):
        words += (
            '. Only the first difference is a verdict: the later ones are not adjusted for the '
        )
        words += 'number of tests'
    return words


def _after_the_first() -> str:
    """How PT4AL compares after the first query, by the runs of claim 3b: up to which budget its
    intervals lie below 0, and how close it is from there on.
    """
    runs, at = _of_all_budgets('cifar10')
    gaps = [_difference(runs, 'pt4al', [budget]) for budget in at]
    behind = next((k for k, gap in enumerate(gaps) if gap.high >= 0), len(at))
    parts = []
    if behind > 1:
        mean = np.mean([gap.value for gap in gaps[1:behind]])
        parts.append(f'With {_span(at[1:behind])} labels it is about {-mean:.0f} points behind')
    if rest := gaps[max(behind, 1) :]:
        apart = math.ceil(max(abs(gap.value) for gap in rest))
        words = f'with {_span(at[-len(rest) :])} the two are within {apart} points of each other'
        parts.append(words if parts else words.capitalize())
    return '; '.join(parts)


def _span(budgets: Sequence[int]) -> str:
    """'2,000 and 3,000', '4,000 to 6,000'."""
    between = ' and ' if len(budgets) == 2 else ' to '
    return between.join(dict.fromkeys(f'{k:,}' for k in (budgets[0], budgets[-1])))


def _levels(claim: str, cell: claims.Cell, digits: int = 1) -> str:
    """The accuracies behind a difference at one budget: ' (33 against 48 %)'."""
    regime = claims.deciding(claim, claims.regimes('cifar10'))
    if regime is None or cell.estimate is None:
        return ''
    at = [int(re.sub(r'\D', '', _budgets(cell)))]
    pt4al, random = (stats.units(regime.groups(s, at)).mean() for s in ('pt4al', 'random'))
    return f' ({pt4al:.{digits}f} against {random:.{digits}f} %)'


def _basis(cell: claims.Cell) -> str:
    """The runs of a number: ' (3 rotation runs, 3 seeds against 3)'."""
    found = re.search(r'\d+ (rotation|colorization) runs?.*?(?= of random labels|, width)', cell.n)
    return f' ({found[0]})' if cell.text and found else ''


def _fitted(cells: Sequence[claims.Cell]) -> str:
    """Width of the networks behind these numbers, and the least share of labels that one fits."""
    labelled = [100 * cell.labelled for cell in cells if cell.labelled is not None]
    widths = sorted({int(w) for cell in cells for w in re.findall(r'width (\d+)', cell.n)})
    width = f'of width {_listed([*map(str, widths)])}, ' if widths else ''
    if not labelled:
        return 'not run'
    return f'{width}fit at least {min(labelled):.0f} % of their labelled images'


def _before_the_end() -> str:
    """PT4AL minus random at the earlier budgets that the runs of the last one fit, on CIFAR-10."""
    regime = claims.deciding('3d', claims.regimes('cifar10'))
    gaps = [
        f'{_minus_random(regime, "pt4al", [budget])} with {budget:,}'
        for budget in (regime.fitted('pt4al', 'random')[:-1] if regime else [])
    ]
    if not gaps:
        return ''
    return f' At the earlier budgets that these runs fit it is {_listed(gaps)} labels.'


def _minus_random(regime: claims.Regime, strategy: str, budgets: list[int]) -> str:
    return report.fmt_interval(_difference(regime, strategy, budgets), 1)


def _difference(regime: claims.Regime, strategy: str, budgets: list[int]) -> stats.Estimate:
    """A strategy minus random labels, mean over budgets, in points."""
    sides = [regime.groups(one, budgets) for one in (strategy, 'random')]
    return stats.difference(*sides).estimate


def _more_labels() -> str:
    """The largest budget that several runs fit in any training, on CIFAR-10."""
    beyond = claims.more_labels('cifar10')
    if beyond is None:
        return ''
    way, budget, gap = beyond
    value = report.fmt_interval(gap.estimate, 1)
    return (
        f'In another training ({way.training}), with {budget:,} labels: {value} points, not '
        f'adjusted ({gap.estimate.seeds}).'
    )


def by_budget(name: str = 'cifar10') -> tuple[str, str]:
    """PT4AL minus random labels at every budget of claim 3b, of the runs of that claim alone, and
    what runs these are.
    """
    runs, at = _of_all_budgets(name)
    if not at:
        return 'not tested', ''
    values = [_minus_random(runs, 'pt4al', [budget]).partition(' ')[0] for budget in at]
    words = f'{_listed(values)} points with {_listed([f"{budget:,}" for budget in at])} labels'
    return words, _difference(runs, 'pt4al', at).seeds


def _of_all_budgets(name: str) -> tuple[Any, list[int]]:
    """The runs that reach every budget of claim 3b, and these budgets."""
    regime = claims.deciding('3b', claims.regimes(name))
    at = claims.compared(regime) if regime else []
    return regime and regime.reaching(at), at


def _released() -> str:
    """The first query in the order of the released code, which sorts losses as text."""
    for regime in claims.regimes('cifar10'):
        at = regime.fitted('pt4al_released', 'random', units=2)[:1]
        if at and regime.fitted('pt4al', 'random', units=2)[:1] == at:
            released, paper = (
                _minus_random(regime, strategy, at) for strategy in ('pt4al_released', 'pt4al')
            )
            seeds = [len(regime.curves[side]) for side in ('pt4al_released', 'pt4al', 'random')]
            return (
                f'In the order of the released code, which sorts losses as text, it is {released} '
                f'points (minibatches of {regime.spec.batch}; PT4AL there: {paper}; one rotation '
                f'run, {seeds[0]} and {seeds[1]} seeds against {seeds[2]}).'
            )
    return ''


def _sampler() -> str:
    """Whether the order adds to the uncertainty that the sampler alone gives, on CIFAR-10."""
    regime = claims.deciding('2b', claims.regimes('cifar10'))
    later = claims.later_queries(regime) if regime else []
    gap = regime and claims.uncertainty_gap(regime, 'pt4al', 'least_confidence', later)
    if not gap:
        return ''
    value = report.fmt_interval(gap.estimate, 3)
    return (
        f'After the first query ({_span(later)} labels), PT4AL minus least confidence on the whole '
        f'pool is {value}.'
    )


def _score(verdicts: Mapping[str, str]) -> str:
    """'of 6 parts of the claims, 1 holds (2b), 2 do not (1 and 3a), 3 are open (2a, ...)'."""
    words = {'good': ('holds', 'hold'), 'bad': ('does not', 'do not'), '': ('is open', 'are open')}
    parts = []
    for tone, (one, several) in words.items():
        there = [
            claim
            for claim, verdict in verdicts.items()
            if panels.tone(verdict) == tone
            or (not tone and panels.tone(verdict) not in ('good', 'bad'))
        ]
        which = f' ({_listed(there)})' if there else ''
        count = f'{len(there) or "none"} {one if len(there) == 1 else several}'
        parts.append(count + which)
    return f'of {len(verdicts)} parts of the claims, {", ".join(parts)}'


def _listed(names: Sequence[str]) -> str:
    """'3a', '3a and 3b', '3a, 3b and 3c'."""
    return ' and '.join(filter(None, (', '.join(names[:-1]), names[-1])))


def _gap(cell: claims.Cell) -> str:
    """Value, verdict and runs: '0.07 [0.06, 0.08], supported (2 rotation runs, ...)'."""
    if not cell.text:
        return cell.verdict
    return f'{cell.text}, {cell.verdict}{_adjusted(cell)}{_basis(cell)}'


def _adjusted(cell: claims.Cell) -> str:
    """Why no difference is shown where the interval leaves out 0."""
    e = cell.estimate
    alone = e is not None and cell.verdict == 'no difference shown' and not e.low <= 0 <= e.high
    return ' after adjustment for the number of tests' if alone else ''


def _points(cell: claims.Cell, claim: str = '') -> str:
    """'1.7 [-0.7, 4.1] points (83.1 against 81.4 %), no difference shown'; the accuracies where a
    claim is named.
    """
    if cell.estimate is None:
        return f'the comparison is {cell.verdict}'
    no_verdict = panels.tone(cell.verdict) == 'none'
    words = f'{cell.verdict}{", so no verdict" if no_verdict else _adjusted(cell)}'
    return f'{cell.text} points{_levels(claim, cell) if claim else ""}, {words}'


def _budgets(cell: claims.Cell) -> str:
    """The budgets of a comparison, '1,000 to 4,000 labels'."""
    return ''.join(re.findall(r'[\d,]+(?: to [\d,]+)? labels', cell.n)[:1])
