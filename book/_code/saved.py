"""What a labelling budget buys on real photos: the curves of `scripts/labels_saved.py`."""

from __future__ import annotations

from typing import Any

import numpy as np

from pt4al import report, stats
from pt4al.experiments import records
from pt4al.figures import drawing

# arms in the order of the figures, whose last one may lack, so each has one marker in all of them;
# those that begin as `typical` does are left to the tables
DRAWN = ('random', 'typical', 'margin', 'BADGE', 'ProbCover', 'PT4AL')
FIRST_RANDOM = ('margin', 'BADGE')  # their first round has no labels to go by
COLOURED_AS = {'typical': 'typiclust', 'PT4AL': 'pt4al'}
# what a page calls an arm of the record
NAMES = {'PT4AL': 'rotation order', 'as rank does': "rank's default"}
RECORD: dict[str, Any] = records.load('labels_saved') or {'sets': {}, 'rows': []}
SETS: dict[str, dict[str, Any]] = RECORD['sets']


def curves(name: str, features: str = 'pretrained') -> dict[str, np.ndarray]:
    """Test accuracy in % by arm: [S, rounds], of the seeds that every arm has."""
    rows = [row for row in RECORD['rows'] if (row['set'], row['features']) == (name, features)]
    arms = list(dict.fromkeys(row['arm'] for row in rows))
    at = {(row['arm'], row['seed']): row['accuracy'] for row in rows}
    seeds = [
        seed for seed in sorted({seed for _, seed in at}) if all((arm, seed) in at for arm in arms)
    ]
    return {arm: 100 * np.array([at[arm, seed] for seed in seeds]) for arm in arms}


def draw(name: str) -> None:
    """The learning curves of one set of photos."""
    about, lines = SETS[name], curves(name)
    shown = {arm: lines[arm] for arm in DRAWN if arm in lines}
    report.show(
        drawing.run_lines(
            about['labels'],
            {NAMES.get(arm, arm): runs for arm, runs in shown.items()},
            f'{name}, labels revealed round by round',
            ('labelled images', 'test accuracy, %'),
            drawing.colours(COLOURED_AS.get(arm, arm) for arm in shown),
            tickformat=',d',
        ),
        f'{about["images"]:,} photos of {about["classes"]} classes, {100 * RECORD["test"]:.0f} % '
        f'of them the test set; a linear classifier on frozen features of {RECORD["features"]}. '
        f'Lines: means of {len(lines["random"])} seeds; small dots: each seed. '
        + 'The rotation order is that of a network trained on the same data set without ImageNet, '
        'so its curve compares resources as well as strategies. '
        * ('PT4AL' in shown)
        + f'Overlap with ImageNet: {about["note"]}.',
        f'labels-saved-{name.lower()}',
    )


def saved(name: str) -> list[dict[str, Any]]:
    """Labels that random labelling needs more for the same accuracy, arm by arm and round by round;
    where it never gets there, or is there at once, a bound.
    """
    labels, lines = np.array(SETS[name]['labels']), curves(name)
    random = np.maximum.accumulate(lines['random'], axis=1)
    out = []
    for arm, runs in lines.items():
        cells = {'strategy': NAMES.get(arm, arm)}
        for place, bought in enumerate(labels.tolist()):
            reached = runs[:, place]
            needed = [np.interp(one, line, labels) for one, line in zip(reached, random)]
            bound = '≥\u00a0' * bool((reached > random[:, -1]).any())
            bound = bound or '≤\u00a0' * bool((reached < random[:, 0]).any())
            gain = stats.mean_interval(np.array(needed) - bought)
            cells[f'{bought:,} labels'] = bound + report.fmt_interval(gain, 0)
        if arm != 'random':
            out.append(cells)
    return out


def beside(name: str) -> list[dict[str, Any]]:
    """Accuracy of each arm on pretrained features and on those of a rotation network, after every
    round.
    """
    out = []
    both = {features: curves(name, features) for features in ('pretrained', 'rotation')}
    for arm in {arm: 0 for lines in both.values() for arm in lines}:
        for features, lines in both.items():
            if arm not in lines:
                continue
            out.append(
                {'strategy': NAMES.get(arm, arm), 'features': features}
                | {
                    f'{bought:,} labels': report.fmt_interval(
                        stats.mean_interval(lines[arm][:, place]), 1
                    )
                    for place, bought in enumerate(SETS[name]['labels'])
                }
            )
    return out


def _tuned(table: str) -> dict[tuple[str, str, int], list[dict[str, Any]]]:
    """Rows of the record on fine-tuning, seed by seed, by photos, network and labels."""
    runs: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for row in (records.load('finetune') or {}).get(table, []):
        runs.setdefault((row['set'], row['features'], row['labels']), []).append(row)
    return runs


def _gain(rows: list[dict[str, Any]]) -> str:
    """Points of accuracy of `finetuned` above `frozen`, over seeds."""
    gaps = [100 * (row['finetuned'] - row['frozen']) for row in rows]
    return report.fmt_interval(stats.mean_interval(np.array(gaps)), 1)


def finetuned() -> list[dict[str, Any]]:
    """What `rank --finetune` adds to a linear classifier on frozen features, and what it takes."""
    return [
        {
            'photos': name,
            'network': features,
            'labels': f'{labels:,}',
            'frozen, %': f'{100 * np.mean([row["frozen"] for row in rows]):.1f}',
            'gain, points': _gain(rows),
            'CPU seconds': f'{np.mean([row["cpu_seconds"] for row in rows]):.0f}',
            'seeds': len(rows),
        }
        for (name, features, labels), rows in _tuned('rows').items()
    ]


def picked() -> list[dict[str, Any]]:
    """Accuracy after a round of picks by what picked them, for each classifier that learnt them."""
    return [
        {
            'photos': name,
            'labels': f'{labels} + {labels}',
            'classifier on': f'{classifier} features'.replace('finetuned', 'fine-tuned'),
            **{
                f'{what}, %': f'{100 * np.mean([row[by][classifier] for row in rows]):.1f}'
                for what, by in (('random', 'random'), ('margin, frozen', 'frozen'))
            },
            'fine-tuned above frozen, points': _gain(
                [{by: row[by][classifier] for by in ('frozen', 'finetuned')} for row in rows]
            ),
            'seeds': len(rows),
        }
        for (name, _, labels), rows in _tuned('picks').items()
        for classifier in rows[0]['random']
    ]


def instead() -> list[dict[str, Any]]:
    """Accuracy of random labels and what other arms add to it, after the first round and the last
    of every set; 'random' where an arm has picked at random so far.
    """
    out = []
    for name, about in SETS.items():
        lines = curves(name)
        for place in (0, -1):
            gaps = {
                arm: stats.paired_difference(lines[arm][:, place], lines['random'][:, place])
                if arm in lines
                else None
                for arm in ('PT4AL', 'typical', 'margin', 'BADGE')
            }
            out.append(
                {
                    'photos': name,
                    'labels': about['labels'][place],
                    'random, %': f'{lines["random"][:, place].mean():.1f}',
                    **{
                        NAMES.get(arm, arm): 'random'
                        if place == 0 and arm in FIRST_RANDOM
                        else '–'
                        if gap is None
                        else report.fmt_interval(gap, 1)
                        for arm, gap in gaps.items()
                    },
                }
            )
    return out


def seeds() -> int:
    """The fewest seeds of any set."""
    return min((len(curves(name)['random']) for name in SETS), default=0)
