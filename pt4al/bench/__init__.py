"""Speed, measured: every benchmark compares alternatives in one process, in turns, and keeps
medians and ratios.

Absolute numbers are those of one machine on one day; ratios travel better.  Nothing here is a test.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from pt4al.bench.pretexts import tasks
from pt4al.errors import Refused, choose
from pt4al.experiments import store

__all__ = ['BENCHES', 'chosen', 'keep', 'kept', 'measure', 'table', 'tasks']
log = logging.getLogger('pt4al')


@dataclass(frozen=True)
class Bench:
    """Where a benchmark is defined, what it says, and about how many minutes it takes on two cores."""

    place: str
    says: str
    minutes: float

    def __call__(self, **given: Any) -> dict[str, Any]:
        module, name = self.place.split(':')
        return getattr(import_module(module, __name__), name)(**given)


BENCHES: dict[str, Bench] = {
    'training': Bench('.training:training', 'our training loop against the plain reference', 4),
    'scoring': Bench('.scoring:scoring', 'rotation scoring against one image at a time', 1),
    'profile': Bench('.training:profile', 'where the time of training goes', 1),
    'device': Bench('.chip:device', "share of the chip's arithmetic, and the study projected", 1),
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
TURNS = ('training', 'scoring', 'device', 'tasks', 'cuts', 'together')


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


def measure(name: str, **given: Any) -> Path:
    """Run a benchmark, and keep its result with the machine, the versions and the commit; returns
    where it is.
    """
    from pt4al.training.execution import execution, machine

    bench = BENCHES[name]
    log.info('%s: %s, some %g minutes on two cores', name, bench.says, bench.minutes)
    start, code = time.perf_counter(), store.commit()
    found = bench(**given)
    return keep(
        name,
        {
            'what': found['what'],
            'commit': code,
            'seconds': round(time.perf_counter() - start, 1),
            **machine(execution()),
            **found,
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
            f'{content["what"]}; {content["chip"]}, {content["device"]}, threads {content["threads"]}',
            *text,
            *left_out,
        ]
    )


def keep(name: str, content: dict[str, Any]) -> Path:
    """Write a benchmark's result beside the other results, whole or not at all; `Refused` where
    that cannot be.
    """
    path = store.roots()[0] / 'bench' / _file(name, content.get('device', 'cpu'))
    part = path.with_suffix(f'.{os.getpid()}.part')
    text = json.dumps(content, indent=1) + '\n'
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text)
        os.replace(part, path)
    except OSError as error:
        raise Refused(
            f'cannot write {path} ({error.strerror}): set PT4AL_RESULTS to a folder you can write to'
        ) from None
    return path


def kept(
    name: str, device: str = 'cpu', roots: Sequence[Path] | None = None
) -> dict[str, Any] | None:
    """A stored benchmark by name and the kind of its device, cpu or cuda, or None where it has not
    been run.
    """
    for root in roots or store.roots():
        if (path := root / 'bench' / _file(name, device)).exists():
            return json.loads(path.read_text())
    return None


def _file(name: str, device: str) -> str:
    """Each kind of device has a file of its own, so that one does not replace what another was
    measured at.
    """
    kind = device.partition(':')[0]
    return f'{name}.json' if kind == 'cpu' else f'{name}-{kind}.json'
