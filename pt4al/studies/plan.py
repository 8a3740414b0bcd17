"""A study as data: YAML that names cells by product, read with every refusal at its line, and what
the cells will cost.

    title: one line
    cells:
      - entry: two arms                      # its name in tables
        kind: active                         # the fields of `pt4al run`; a list is several values,
        0..4 five seeds dataset: [cifar10, cifar10-mini] strategy: [random, pt4al] seed: 0..4
        exclude:
          - {dataset: cifar10, seed: [3, 4]}
    report:                                  # notebooks that are executed once all cells are there
      - {notebook: active_learning, dataset: cifar10-mini}
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import yaml

from pt4al import data
from pt4al.errors import Refused, choose
from pt4al.experiments import protocols, records, specs, store
from pt4al.experiments.specs import Active, Diagnosis, Main, Pretext, Spec, Trajectory, built_on
from pt4al.studies import study
from pt4al.tasks import TASKS, family

FILES = Path(__file__).parent / 'files'  # the studies that come with the package
MOST = 100_000  # cells; beyond lies a slip of the hand
OWN = ('entry', 'exclude')
FIELDS = {
    'kind',
    'task',
    'pretext_seed',
    'encoder_seed',
    'protocol',
    'arm',
    'profile',
    *(field.name for kind in specs.KINDS.values() for field in dataclasses.fields(kind)),
} - {'pretext', 'active'}
RANGE = re.compile(r'(\d+)\.\.(\d+)')


@dataclass(frozen=True)
class Cell:
    """One experiment of a study: its spec, the words of `pt4al run` for it, and which entry and
    line ask for it.
    """

    spec: Spec
    words: tuple[str, ...]
    entry: str
    where: str  # file:line


@dataclass(frozen=True)
class Study:
    """A study file: its cells, each once and after what it builds on, and the notebooks that report
    on them.
    """

    name: str
    title: str
    cells: tuple[Cell, ...]
    reports: tuple[dict[str, Any], ...]


# --- reading ---


def find(name: str) -> Path:
    """The file of a study given by its path, or by its name among those that come with the
    package.
    """
    for path in [Path(name), FILES / f'{name}.yaml']:
        if path.is_file():
            return path
    choose('study', name, {path.stem for path in FILES.glob('*.yaml')})
    raise Refused(f'study {name!r} is not there: give the path of its file')


def read(path: Path) -> Study:
    """Read a study; raises `Refused`, naming file and line, for whatever cannot be read, built or
    run.
    """
    top = _mapping(_parsed(path), path, {'title', 'cells', 'report'})
    merged: dict[Spec, Cell] = {}
    for node in _sequence(top, 'cells', path):
        for cell in _entry(node, path):
            for needed in study.together([cell.spec]):
                if isinstance(needed, Pretext) and needed is not cell.spec:
                    merged.setdefault(needed, Cell(needed, _words(needed), cell.entry, cell.where))
            merged.setdefault(cell.spec, cell)
            if len(merged) > MOST:
                raise Refused(f'{cell.where}: more than {MOST:,} cells')
    reports = (
        tuple(_report(node, path) for node in _sequence(top, 'report', path))
        if 'report' in top
        else ()
    )
    return Study(
        path.stem,
        str(_value(top['title'])) if 'title' in top else path.stem,
        tuple(merged.values()),
        reports,
    )


def _parsed(path: Path) -> yaml.Node:
    try:
        node = yaml.compose(path.read_text(encoding='utf-8'), yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = f':{error.problem_mark.line + 1}' if error.problem_mark else ''
        raise Refused(f'{path}{line}: this is no YAML: {error.problem}') from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Refused(f'{path} cannot be read: {" ".join(str(error).split())}') from None
    if node is None:
        raise Refused(f'{path}:1: the file is empty: name cells')
    return node


@contextmanager
def _at(where: str, fields: Mapping[str, yaml.Node] | None = None) -> Iterator[None]:
    """Put file and line before what is refused: the line of the field that the message names, else
    `where`.
    """
    try:
        yield
    except Refused as refusal:
        file, _, line = where.rpartition(':')
        named = [
            fields[name] for name in re.findall(r'\w+', str(refusal)) if name in (fields or ())
        ]
        raise Refused(
            f'{file}:{named[0].start_mark.line + 1 if named else line}: {refusal}'
        ) from None


def _where(path: Path, node: yaml.Node) -> str:
    return f'{path}:{node.start_mark.line + 1}'


def _mapping(node: yaml.Node, path: Path, known: set[str] | None) -> dict[str, yaml.Node]:
    """The values of a mapping by name; a name that is not known, or comes twice, is refused at its
    line.
    """
    if not isinstance(node, yaml.MappingNode):
        raise Refused(f'{_where(path, node)}: here names and values are expected, as  kind: active')
    out: dict[str, yaml.Node] = {}
    for name, value in node.value:
        with _at(_where(path, name)):
            text = choose('key', str(name.value), known) if known is not None else str(name.value)
            if text in out:
                raise Refused(f'{text} is given twice')
        out[text] = value
    return out


def _sequence(top: Mapping[str, yaml.Node], name: str, path: Path) -> list[yaml.Node]:
    node = top.get(name)
    if not isinstance(node, yaml.SequenceNode) or not node.value:
        raise Refused(
            f'{_where(path, node) if node else f"{path}:1"}: {name} is no list of at least one entry'
        )
    return node.value


def _value(node: yaml.Node) -> Any:
    return yaml.constructor.SafeConstructor().construct_object(node, deep=True)


def _values(node: yaml.Node) -> list[Any]:
    """The values of a field: of a list each, of 0..4 five numbers, else the one."""
    values = (
        [_value(child) for child in node.value]
        if isinstance(node, yaml.SequenceNode)
        else [_value(node)]
    )
    out: list[Any] = []
    for value in values:
        ends = RANGE.fullmatch(value) if isinstance(value, str) else None
        out += range(int(ends[1]), min(int(ends[2]), int(ends[1]) + MOST) + 1) if ends else [value]
    return out


def _entry(node: yaml.Node, path: Path) -> Iterator[Cell]:
    """The cells of one entry: the product of its fields' values, less what it excludes."""
    fields, where = _mapping(node, path, FIELDS | set(OWN)), _where(path, node)
    with _at(where, fields):
        if 'kind' not in fields:
            raise Refused(f'an entry has no kind: give one of {", ".join(specs.KINDS)}')
        entry = (
            str(_value(fields['entry']))
            if 'entry' in fields
            else f'line {node.start_mark.line + 1}'
        )
        values = {name: _values(child) for name, child in fields.items() if name not in OWN}
        if empty := [name for name, of in values.items() if not of]:
            raise Refused(f'{empty[0]} has no value, so the product is empty')
        if math.prod(map(len, values.values())) > MOST:
            raise Refused(f'the product has more than {MOST:,} cells')
    rows = [dict(zip(values, row)) for row in product(*values.values())]
    for row in _left(rows, fields.get('exclude'), values, path):
        with _at(where, fields):
            given = {
                name: json.dumps(value) if isinstance(value, list) else value
                for name, value in row.items()
            }
            spec = (protocols.spec if 'protocol' in given else specs.spec)(**given)
            check(spec)
        kind = str(given.pop('kind'))
        if isinstance(spec, Diagnosis):
            own = [
                f'{name}={value}' for name, value in given.items() if not name.startswith('encoder')
            ]
            yield Cell(spec.active, ('run', 'active', *own), entry, where)
        yield Cell(
            spec, ('run', kind, *(f'{name}={value}' for name, value in given.items())), entry, where
        )


def _left(
    rows: list[dict], node: yaml.Node | None, values: dict[str, list], path: Path
) -> list[dict]:
    """The rows that no exclusion names; one that names none is refused, and so is excluding all."""
    for part in [] if node is None else _sequence({'exclude': node}, 'exclude', path):
        out = {name: _values(child) for name, child in _mapping(part, path, set(values)).items()}
        rows, before = (
            [row for row in rows if not all(row[name] in some for name, some in out.items())],
            len(rows),
        )
        if len(rows) == before:
            raise Refused(f'{_where(path, part)}: this excludes no cell')
    if not rows:
        raise Refused(f'{_where(path, node)}: this excludes all cells, so the product is empty')
    return rows


def _report(node: yaml.Node, path: Path) -> dict[str, Any]:
    fields = _mapping(node, path, None)
    with _at(_where(path, node)):
        if 'notebook' not in fields or not re.fullmatch(r'\w+', str(fields['notebook'].value)):
            raise Refused(
                'a report has no notebook: give the name of one in notebooks/, without its ending'
            )
        if bad := [name for name in fields if not name.isidentifier()]:
            raise Refused(f'{bad[0]!r} is no name of a parameter')
    return {name: _value(child) for name, child in fields.items()}


def _words(spec: Pretext) -> tuple[str, ...]:
    """The words of `pt4al run` that compute a pretext spec, every field by name."""
    return (
        'run',
        spec.kind,
        *(
            f'{name}={json.dumps(value) if isinstance(value, tuple) else value}'
            for name, value in dataclasses.asdict(spec).items()
        ),
    )


# --- what can run ---


def check(spec: Spec) -> None:
    """Refuse a spec that would be refused once its images are read, by the facts of its data set
    alone.
    """
    for needed in study.together([spec]):
        if isinstance(needed, Pretext):
            _check_task(needed)
    known = study.facts(spec.dataset)
    if isinstance(spec, Main | Trajectory) and spec.folds > known.train:
        raise Refused(f'{spec.folds} folds of {known.train} images: give at most one fold an image')
    if isinstance(spec, Active):
        _check_active(spec, known)


def _check_task(pretext: Pretext) -> None:
    known, name, options = (
        study.facts(pretext.dataset),
        family(pretext.task),
        TASKS[pretext.task].options,
    )
    if known.grey and name in ('colorization', 'colorization_reproduced', 'multitask'):
        raise Refused(
            f'task {pretext.task} on {pretext.dataset}: its images are grey, there is no colour to predict'
        )
    if name == 'audio_visual' and known.channels != 4:
        raise Refused(
            f'task {pretext.task} on {pretext.dataset}: images of {known.channels} channels have no sound'
        )
    least = options.get(
        'negatives', 1024 if name == 'pirl' else 2 if name in ('simclr', 'audio_visual') else 1
    )
    if known.train < least:
        raise Refused(
            f'task {pretext.task} on {pretext.dataset}: it needs {least} images of {known.train}'
        )
    frames = options.get('frames', {'shuffle_and_learn': 5, 'frame_order': 3}.get(name, 1))
    if 1 < known.frames < frames:
        raise Refused(
            f'task {pretext.task} on {pretext.dataset}: clips of {known.frames} frames are too short'
        )


def _check_active(spec: Active, known: study.Facts) -> None:
    from pt4al.query import QUERIES, cycle

    pool = SimpleNamespace(labels=range(max(known.train - spec.held_out, 0)))
    # whose images no budget depends on
    test = SimpleNamespace(classes=(), labels=np.empty(0))
    cycle.check(
        pool,
        test,
        QUERIES[spec.strategy],
        [spec.budget] * (spec.until or spec.cycles),
        spec.cycles,
        set(specs.PRETEXT_FIELDS) if spec.pretext else set(),
    )


# --- cost ---


def flops(width: int, side: int = 32) -> float:
    """Floating-point operations of one image forward and backward; 2 for a multiplication and
    addition.

    Convolutions alone, backward twice forward but for the images' own gradient; 3.329e9 at width 64
    and 32 pixels.
    """
    large = side > 64
    stem = 2 * 3 * width * (49 * math.ceil(side / 2) ** 2 if large else 9 * side**2)
    side, channels, total = math.ceil(side / 4) if large else side, width, 0
    for stage in range(4):
        out = width * 2**stage
        side = side if stage == 0 else math.ceil(side / 2)
        first = 9 * channels * out + 9 * out * out + (channels * out if channels != out else 0)
        total, channels = total + 2 * side**2 * (first + 18 * out * out), out
    return 3.0 * total + 2 * stem


def steps(spec: Spec) -> int:
    """Optimiser steps of a spec."""
    known = study.facts(spec.dataset)
    if isinstance(spec, Active):
        return spec.epochs * sum(
            math.ceil(spec.budget * turn / spec.batch)
            for turn in range(1, (spec.until or spec.cycles) + 1)
        )
    if isinstance(spec, Pretext):
        return spec.epochs * math.ceil(known.train / spec.batch)
    if isinstance(spec, Main | Trajectory):
        return (
            spec.folds
            * spec.epochs
            * math.ceil(known.train * (spec.folds - 1) / spec.folds / spec.batch)
        )
    return math.ceil(study.passes(spec) / getattr(spec, 'batch', 128))


def work(spec: Spec) -> float:
    """Image passes with those that are forward only, which have a third of the arithmetic."""
    return study.passes(spec) + study.seen(spec) / 3


def _side(spec: Spec) -> int:
    return study.facts(getattr(spec, 'transfer', '') or spec.dataset).side


@dataclass(frozen=True)
class Chip:
    """An accelerator as its kept benchmarks found it, training one network at a time."""

    name: str
    # FLOP/s in rotation training, whose batches are large
    pretext: float
    classifier: float
    # seconds of an optimiser step of a narrow network
    step: float


def chip() -> Chip | None:
    """The accelerator of the kept benchmarks `device` and `training`; None where either is lacking."""
    device, training = (_kept(name, 'cuda') for name in ('device', 'training'))
    if not device or not training:
        return None
    rate = {row['kind']: row['tflop_per_second'] * 1e12 for row in device['rows']}
    narrow = next(
        row
        for row in training['rows']
        if (row['kind'], row['width'], row['run']) == ('classification', 16, 'ours bf16')
    )
    return Chip(
        device['chip'], rate['rotation'], rate['classification'], 128 / narrow['images_per_second']
    )


def seconds_gpu(spec: Spec, on: Chip | None) -> float | None:
    """Seconds of a cell at the measured rate of its kind, or of its steps where these take longer;
    None without a chip.
    """
    if on is None:
        return None
    rate = on.pretext if isinstance(spec, Pretext) else on.classifier
    return max(work(spec) * flops(spec.width, _side(spec)) / rate, steps(spec) * on.step)


def seconds_here(spec: Spec, measured: Mapping[str, Any] | None) -> float | None:
    """Seconds of a cell by the kept benchmark of tasks, scaled to its width and side; None without
    one.
    """
    if measured is None:
        return None
    rates = {
        row['task']: row['images_per_second'] * TASKS[row['task']].cost
        for row in measured['rows']
        if row['task'] in TASKS
    }
    rate = rates.get(family(getattr(spec, 'task', 'rotation')), rates['rotation'])
    return work(spec) * flops(spec.width, _side(spec)) / flops(measured['width']) / rate


def _kept(name: str, device: str = 'cpu') -> dict[str, Any] | None:
    """A benchmark kept in a store, else the one that came with this checkout."""
    beside = Path(__file__).resolve().parents[2] / 'results'
    return records.load(name, device) or records.load(name, device, [beside])


def key(spec: Spec) -> str | None:
    """The key of a spec, or None where it is made of images that are not at hand."""
    names = filter(None, (spec.dataset, getattr(spec, 'transfer', '')))
    at_hand = all(name in data.PINNED or data.available(name) for name in names)
    return store.key(spec, specs.data_digest(spec)) if at_hand else None


def rows(asked: Study) -> list[dict[str, Any]]:
    """One row a cell: what it is, whether a store holds it, what it builds on and what it costs."""
    measured, on, out = _kept('tasks'), chip(), []
    keys = {cell.spec: key(cell.spec) for cell in asked.cells}
    lacking = set(study.missing([spec for spec, name in keys.items() if name]))
    for cell in asked.cells:
        spec, name = cell.spec, keys[cell.spec]
        out.append(
            {
                'key': name,
                'label': study.label(spec),
                'kind': spec.kind,
                'dataset': spec.dataset,
                'entry': cell.entry,
                'where': cell.where,
                'command': ['pt4al', *cell.words],
                'folder': name and store.folder_name(spec, name),
                'needs': [keys[other] for other in built_on(spec)],
                'done': bool(name) and spec not in lacking,
                'width': spec.width,
                'passes': study.passes(spec),
                'seen': study.seen(spec),
                'steps': steps(spec),
                'flops': work(spec) * flops(spec.width, _side(spec)),
                'seconds_here': seconds_here(spec, measured),
                'seconds_gpu': seconds_gpu(spec, on),
            }
        )
    return out


def totals(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sums over rows; hours are of what is missing, None where no benchmark is kept."""
    left = [row for row in cells if not row['done']]
    here, gpu = ([row[name] for row in left] for name in ('seconds_here', 'seconds_gpu'))
    return {
        'cells': len(cells),
        'done': len(cells) - len(left),
        'missing': len(left),
        'passes': sum(row['passes'] for row in cells),
        'petaflop': sum(row['flops'] for row in cells) / 1e15,
        'hours_here': None if None in here else sum(here) / 3600 / cores(),
        'hours_gpu': None if None in gpu else sum(gpu) / 3600,
    }


def cores() -> int:
    """How many cells this machine computes at once: one a core, or one on the accelerator that the
    benchmark ran on.
    """
    measured = _kept('tasks')
    return 1 if measured and not measured['device'].startswith('cpu') else os.cpu_count() or 1


def assumptions() -> list[str]:
    """What the hours stand on, a sentence each."""
    measured = _kept('tasks')
    here = (
        'no benchmark is kept: run python -m benchmarks'
        if measured is None
        else f'here: estimated from the kept benchmark of tasks ({measured["chip"]}, width {measured["width"]}, '
        f'{measured["precision"]}), scaled by arithmetic to each width and image size, {cores()} cells at once'
    )
    on = chip()
    gpu = (
        'no benchmark of an accelerator is kept: run python -m benchmarks device training there'
        if on is None
        else f'GPU: an {on.name} by its kept benchmarks, one cell at a time: {on.pretext / 1e12:.3g} TFLOP/s in pretext training, '
        f'{on.classifier / 1e12:.3g} in that of classifiers, or {1000 * on.step:.2g} ms an optimiser step if that is longer'
    )
    return [here, gpu]


def states(asked: Study) -> list[dict[str, Any]]:
    """One row a cell with its `state`: done, running, failed, begun or waiting; `note` says why or
    how far.
    """
    lacking = {cell.spec for cell in asked.cells if key(cell.spec) is None}
    lacking |= set(study.missing([cell.spec for cell in asked.cells if cell.spec not in lacking]))
    return [
        {
            'key': key(cell.spec) or '',
            'label': study.label(cell.spec),
            'entry': cell.entry,
            'work': work(cell.spec),
            **(_state(cell.spec) if cell.spec in lacking else _done(cell.spec)),
        }
        for cell in asked.cells
    ]


def _done(spec: Spec) -> dict[str, Any]:
    folder = store.folders_of(spec, specs.data_digest(spec))[0]
    made = json.loads((folder / 'result.json').read_text())['provenance']
    return {'state': 'done', 'note': '', 'seconds': made['seconds']}


def _state(spec: Spec) -> dict[str, Any]:
    name, partial = key(spec), store.roots()[0] / '.partial'
    if name is None:
        return {
            'state': 'waiting',
            'note': f'the images of {spec.dataset} are not at hand',
            'seconds': None,
        }
    cycles = len(list((partial / name).glob('cycle-*.json')))
    note = (
        f'{cycles} of {spec.until or spec.cycles} cycles'
        if isinstance(spec, Active) and cycles
        else ''
    )
    failed = partial / f'{name}-failed'
    if store.running(name):
        return {'state': 'running', 'note': note, 'seconds': None}
    if failed.is_file():
        return {
            'state': 'failed',
            'note': ' '.join(failed.read_text(errors='replace').split())[:500],
            'seconds': None,
        }
    return {
        'state': 'begun' if (partial / name).is_dir() else 'waiting',
        'note': note,
        'seconds': None,
    }


def minutes_left(cells: Sequence[Mapping[str, Any]]) -> float | None:
    """Minutes of what is not done, at the speed of the cells that are and with as many side by side
    as run now.

    None before one is done.
    """
    done = [row for row in cells if row['state'] == 'done' and row['seconds']]
    speed = sum(row['work'] for row in done) / sum(row['seconds'] for row in done) if done else 0
    left = sum(row['work'] for row in cells if row['state'] != 'done')
    at_once = max(1, sum(row['state'] == 'running' for row in cells))
    return left / speed / 60 / at_once if speed else None
