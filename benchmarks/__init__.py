"""Speed, measured: every benchmark compares alternatives in one process, in turns, and keeps
medians and ratios.

Absolute numbers are those of one machine on one day; ratios travel better.  Nothing here is a test.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.pretexts import tasks
from pt4al.errors import choose
from pt4al.experiments import records, store
from pt4al.progress import log

__all__ = ['BENCHES', 'chosen', 'measure', 'table', 'tasks']


@dataclass(frozen=True)
class Bench:
    """Where a benchmark is defined, what it measures, and its minutes on two cores, about."""

    place: str
    summary: str
    minutes: float

    def __call__(self, **options: Any) -> dict[str, Any]:
        module, name = self.place.split(':')
        return getattr(import_module(module, __name__), name)(**options)


BENCHES: dict[str, Bench] = {
    'training': Bench('.training:training', 'our training loop against the plain reference', 4),
    'scoring': Bench('.scoring:scoring', 'rotation scoring against one image at a time', 1),
    'profile': Bench('.training:profile', 'where the time of training goes', 1),
    'device': Bench('.chip:device', "share of the chip's arithmetic, and the study projected", 1),
    'cohorts': Bench('.chip:cohorts', 'networks side by side, as a study trains them on a GPU', 2),
    'fused': Bench('.steps:fused', 'a step by kernels that fuse batch norm, on a GPU', 1),
    'tasks': Bench('.pretexts:tasks', "training speed of every pretext task beside rotation's", 1),
    'strategies': Bench(
        '.selection:strategies', 'CPU seconds and memory of each query strategy', 2
    ),
    'cuts': Bench('.split:cuts', 'the split of losses against a sort', 2),
    'shards': Bench('.split:shards', 'the split of losses on disk', 10),
    'together': Bench(
        '.together:together', 'several trainings at once, by their number and threads', 5
    ),
    'grid': Bench(
        '.grid:grid',
        'the smoke study by every engine at hand, a Slurm among them if one answers',
        20,
    ),
    'precision': Bench('.agreement:precision', 'bf16 and fp32 training paired by seed', 30),
    'book': Bench(
        '.pages:book', "weights of the book's pages; with --build, seconds of a build", 0
    ),
}
QUICK = ('scoring', 'profile', 'device', 'tasks')  # without a name
ALL = (*QUICK, 'training', 'strategies', 'cuts')  # `make bench`
# those that take `rounds`
TURNS = ('training', 'scoring', 'device', 'tasks', 'cuts', 'together', 'fused')


def chosen(names: Sequence[str]) -> tuple[str, ...]:
    """Benchmarks by name, each once; none are the quick ones, 'all' those of `make bench`."""
    for name in names:
        choose('benchmark', name, [*BENCHES, 'all'])
    return tuple(
        dict.fromkeys(
            one
            for name in names or ['quick']
            for one in {'quick': QUICK, 'all': ALL}.get(name, (name,))
        )
    )


def measure(name: str, **options: Any) -> Path:
    """Run a benchmark, and keep its result with the machine, the versions and the commit; returns
    where it is.
    """
    from pt4al.training.execution import execution, machine

    bench = BENCHES[name]
    log.info('%s: %s, some %g minutes on two cores', name, bench.summary, bench.minutes)
    start, code = time.perf_counter(), store.commit()
    measured = bench(**options)
    return records.save(
        name,
        {
            'what': measured['what'],
            'commit': code,
            'seconds': round(time.perf_counter() - start, 1),
            **machine(execution()),
            **measured,
        },
    )


def table(content: dict[str, Any]) -> str:
    """A benchmark's rows as text, a column for every number or word, after what they are and of
    which machine.
    """

    def cell(value: Any) -> str:
        return f'{value:.4g}' if isinstance(value, float) else str(value)

    rows = content.get('rows', [])
    names = [
        name
        for name, value in (rows[0] if rows else {}).items()
        if not isinstance(value, (list, dict))
    ]
    lines = [names, *([cell(row.get(name, '')) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    text = [
        '  '.join(word.ljust(width) for word, width in zip(line, widths)).rstrip() for line in lines
    ]
    left_out = [
        f'{name} left out: {reason}' for name, reason in content.get('left_out', {}).items()
    ]
    return '\n'.join(
        [
            f'{content["what"]}; {content["chip"]}, {content["device"]}, threads '
            f'{content["threads"]}',
            *text,
            *left_out,
        ]
    )
