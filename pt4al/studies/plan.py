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
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import yaml

from pt4al import data, files
from pt4al.errors import Refused, choose
from pt4al.experiments import exchange, protocols, specs, store
from pt4al.experiments.specs import Active, Diagnosis, Main, Pretext, Spec, Trajectory, built_on
from pt4al.studies import study
from pt4al.tasks import TASKS, family

FILES = Path(__file__).parent / 'files'  # the studies that come with the package
MOST = 100_000  # cells; beyond lies a slip of the hand
LARGEST, DEEPEST = 10**6, 16  # bytes of a study file, and levels of lists in lists
OF_ENTRY = ('entry', 'exclude')  # beside the fields of its cells
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
# of tasks, unless their variant says otherwise
LEAST_IMAGES = {'pirl': 1024, 'simclr': 2, 'audio_visual': 2}
LEAST_FRAMES = {'shuffle_and_learn': 5, 'frame_order': 3}
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


class Loader(yaml.SafeLoader):
    """Text with the numbers and truth values of YAML 1.2: no dates, no 1:30 that is 90, no 010 that
    is 8.
    """

    yaml_implicit_resolvers: dict[str, list] = {}


for _tag, _form, _first in (
    ('null', r'~|null|', ['~', 'n', '']),
    ('bool', r'true|false', 'tf'),
    ('int', r'[-+]?(0|[1-9][0-9]{0,17})', '-+0123456789'),
    ('float', r'[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,3})?', '-+.0123456789'),
):
    Loader.add_implicit_resolver(f'tag:yaml.org,2002:{_tag}', re.compile(f'(?:{_form})$'), _first)


def _parsed(path: Path) -> yaml.Node:
    try:
        if files.plain(path).stat().st_size > LARGEST:
            raise Refused(f'{path} has more than {LARGEST:,} bytes: it is no study')
        text = path.read_text(encoding='utf-8')
        _check_events(text, path)
        node = yaml.compose(text, Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f':{mark.line + 1}:{mark.column + 1}' if mark else ''
        raise Refused(f'{path}{place}: this is no YAML: {error.problem}') from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Refused(f'{path} cannot be read: {" ".join(str(error).split())}') from None
    if node is None:
        raise Refused(f'{path}:1:1: the file is empty: name cells')
    return node


def _check_events(text: str, path: Path) -> None:
    """Refuse what could make a small file large or deep, before anything is built of it."""
    depth = 0
    for event in yaml.parse(text, Loader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        with _at(_where(path, event)):
            if getattr(event, 'anchor', None):
                raise Refused('aliases and anchors are not taken: write the values out')
            if getattr(event, 'tag', None):
                raise Refused('tags are not taken: write plain values')
            if depth > DEEPEST:
                raise Refused(f'this is nested more than {DEEPEST} deep')


@contextmanager
def _at(where: str) -> Iterator[None]:
    """Put file, line and column before what is refused."""
    try:
        yield
    except Refused as refusal:
        raise Refused(f'{where}: {refusal}') from None


def _where(path: Path, node: yaml.Node | yaml.Event) -> str:
    return f'{path}:{node.start_mark.line + 1}:{node.start_mark.column + 1}'


def _mapping(node: yaml.Node, path: Path, known: set[str] | None) -> dict[str, yaml.Node]:
    """The values of a mapping by name; a name that is not known, or comes twice, is refused at its
    line.
    """
    if not isinstance(node, yaml.MappingNode):
        raise Refused(f'{_where(path, node)}: here names and values are expected, as  kind: active')
    out: dict[str, yaml.Node] = {}
    for name, value in node.value:
        with _at(_where(path, name)):
            if not isinstance(name, yaml.ScalarNode):
                raise Refused('a name is expected here, as  kind: active')
            if known is not None:
                choose('key', name.value, known)
            if name.value in out:
                raise Refused(f'{name.value} is given twice')
        out[name.value] = value
    return out


def _sequence(top: Mapping[str, yaml.Node], name: str, path: Path) -> list[yaml.Node]:
    node = top.get(name)
    if not isinstance(node, yaml.SequenceNode) or not node.value:
        where = _where(path, node) if node else f'{path}:1:1'
        raise Refused(f'{where}: {name} is no list of at least one entry')
    return node.value


def _value(node: yaml.Node) -> Any:
    return yaml.constructor.SafeConstructor().construct_document(node)


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
    nodes, where = _mapping(node, path, FIELDS | set(OF_ENTRY)), _where(path, node)
    line = where.rpartition(':')[0]
    entry = f'line {node.start_mark.line + 1}'
    if 'entry' in nodes:
        entry = str(_value(nodes['entry']))
    values = {name: _values(child) for name, child in nodes.items() if name not in OF_ENTRY}
    with _at(where):
        if 'kind' not in nodes:
            raise Refused(f'an entry has no kind: give one of {", ".join(specs.KINDS)}')
        if math.prod(map(len, values.values())) > MOST:
            raise Refused(f'the product has more than {MOST:,} cells')
    for name, of_field in values.items():
        with _at(_where(path, nodes[name])):
            if not of_field:
                raise Refused(f'{name} has no value, so the product is empty')
            for dataset in of_field if name == 'dataset' else ():
                data.check_name(dataset)
    rows = [dict(zip(values, row)) for row in product(*values.values())]
    for row in _left(rows, nodes.get('exclude'), values, path):
        fields = {
            name: json.dumps(value) if isinstance(value, list) else value
            for name, value in row.items()
        }
        spec = _built(fields, nodes, path, where)
        kind = str(fields.pop('kind'))
        words = [f'{name}={value}' for name, value in fields.items()]
        if isinstance(spec, Diagnosis):
            of_run = [word for word in words if not word.startswith('encoder')]
            yield Cell(spec.active, ('run', 'active', *of_run), entry, line)
        yield Cell(spec, ('run', kind, *words), entry, line)


def _built(fields: dict[str, Any], nodes: Mapping[str, yaml.Node], path: Path, where: str) -> Spec:
    """The spec of a row; what is refused is reported at the last field without which it would run,
    else at `where`.
    """
    try:
        return _spec(fields)
    except Refused as refusal:
        for name in reversed([name for name in fields if name != 'kind']):
            without = {other: value for other, value in fields.items() if other != name}
            with suppress(Refused):
                _spec(without)
                where = _where(path, nodes[name])
                break
        raise Refused(f'{where}: {refusal}') from None


def _spec(fields: dict[str, Any]) -> Spec:
    spec = (protocols.spec if 'protocol' in fields else specs.spec)(**fields)
    check(spec)
    return spec


def _left(
    rows: list[dict], node: yaml.Node | None, values: dict[str, list], path: Path
) -> list[dict]:
    """The rows that no exclusion names; one that names none is refused, and so is excluding all."""
    if node is None:
        return rows
    for part in _sequence({'exclude': node}, 'exclude', path):
        excluded = {n: _values(child) for n, child in _mapping(part, path, set(values)).items()}
        left = [row for row in rows if any(row[n] not in v for n, v in excluded.items())]
        if len(left) == len(rows):
            raise Refused(f'{_where(path, part)}: this excludes no cell')
        rows = left
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
    known, name = study.facts(pretext.dataset), family(pretext.task)
    options = TASKS[pretext.task].options
    images = options.get('negatives', LEAST_IMAGES.get(name, 1))
    frames = options.get('frames', LEAST_FRAMES.get(name, 1))
    with _at(f'task {pretext.task} on {pretext.dataset}'):
        if known.grey and name in ('colorization', 'colorization_reproduced', 'multitask'):
            raise Refused('its images are grey, there is no colour to predict')
        if name == 'audio_visual' and known.channels != 4:
            raise Refused(f'images of {known.channels} channels have no sound')
        if known.train < images:
            raise Refused(f'it needs {images} images of {known.train}')
        if 1 < known.frames < frames:
            raise Refused(f'clips of {known.frames} frames are too short')


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


def work(spec: Spec) -> float:
    """What the time of a cell is proportional to: image passes, those that are forward only counted
    as a third, by the arithmetic of one.
    """
    side = study.facts(getattr(spec, 'transfer', '') or spec.dataset).side
    return (study.passes(spec) + study.forward_only(spec) / 3) * (spec.width * side) ** 2


@dataclass(frozen=True)
class Timed:
    """A stored result's spec, where it ran (cpu or cuda), and how long."""

    spec: Spec
    device: str
    seconds: float


def timed() -> list[Timed]:
    """The stored results of this code's experiments, from what their result.json says alone."""
    out = []
    for about in store.stated():
        made, cls = about['provenance'], specs.KINDS.get(about['kind'])
        if cls is None or made['recipe'] != cls.recipe or not made['seconds']:
            continue
        try:
            spec = exchange.rebuilt(cls, about['spec'])
            if not spec.dataset.partition(':')[2] and work(spec):
                device = str(made.get('device')).partition(':')[0]
                out.append(Timed(spec, device, made['seconds']))
        except (Refused, TypeError, AttributeError):
            continue  # of other code, or of images that are not at hand
    return out


def seconds(spec: Spec, device: str, stored: Sequence[Timed]) -> float | None:
    """Seconds of a cell: those of the nearest stored result times the ratio of their work; None
    without one of its kind.
    """

    def distance(other: Timed) -> tuple:
        same = ('width', 'task', 'strategy', 'dataset')
        unlike = [getattr(spec, name, '') != getattr(other.spec, name, '') for name in same]
        return (*unlike, abs(math.log(max(work(spec), 1) / work(other.spec))))

    alike = [other for other in stored if (other.spec.kind, other.device) == (spec.kind, device)]
    nearest = min(alike, key=distance, default=None)
    return nearest and nearest.seconds * work(spec) / work(nearest.spec)


def key(spec: Spec) -> str | None:
    """The key of a spec, or None where it is made of images that are not at hand."""
    names = filter(None, (spec.dataset, getattr(spec, 'transfer', '')))
    at_hand = all(name in data.PINNED or data.available(name) for name in names)
    return store.key(spec, specs.data_digest(spec)) if at_hand else None


def rows(requested: Study) -> list[dict[str, Any]]:
    """One row a cell: what it is, whether a store holds it, what it builds on and what it costs."""
    stored, out = timed(), []
    keys = {cell.spec: key(cell.spec) for cell in requested.cells}
    lacking = set(study.missing([spec for spec, name in keys.items() if name]))
    for cell in requested.cells:
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
                'passes': study.passes(spec),
                'seconds_here': seconds(spec, 'cpu', stored),
                'seconds_gpu': seconds(spec, 'cuda', stored),
            }
        )
    return out


def totals(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sums over rows; hours are of what is missing, None where no stored result is like a cell."""
    left = [row for row in cells if not row['done']]
    here, gpu = ([row[name] for row in left] for name in ('seconds_here', 'seconds_gpu'))
    return {
        'cells': len(cells),
        'done': len(cells) - len(left),
        'missing': len(left),
        'passes': sum(row['passes'] for row in cells),
        'hours_here': None if None in here else sum(here) / 3600 / (os.cpu_count() or 1),
        'hours_gpu': None if None in gpu else sum(gpu) / 3600,
    }


def assumptions() -> list[str]:
    """What the hours stand on, a sentence each."""
    return [
        'the seconds of a cell are those of the nearest stored result of its kind, times the ratio '
        'of their image passes, widths and image sizes squared',
        f'here: results made on a CPU, {os.cpu_count() or 1} cells at once; GPU: results made on '
        'an accelerator, one cell at a time',
    ]


def states(requested: Study) -> list[dict[str, Any]]:
    """One row a cell with its `state`: done, running, failed, begun or waiting; `note` says why or
    how far.
    """
    return [
        {
            'key': key(cell.spec) or '',
            'label': study.label(cell.spec),
            'work': work(cell.spec),
            'seconds': None,
            'note': '',
            **_state(cell.spec),
        }
        for cell in requested.cells
    ]


def _state(spec: Spec) -> dict[str, Any]:
    name, partial = key(spec), store.roots()[0] / '.partial'
    if name is None:
        return {'state': 'waiting', 'note': f'the images of {spec.dataset} are not at hand'}
    if not study.missing([spec]):
        folder = store.folders_of(spec, specs.data_digest(spec))[0]
        made = json.loads((folder / 'result.json').read_text())['provenance']
        return {'state': 'done', 'seconds': made['seconds']}
    cycles, failed = len(list((partial / name).glob('cycle-*.json'))), partial / f'{name}-failed'
    note = f'{cycles} of {spec.until or spec.cycles} cycles' if cycles else ''
    if store.running(name):
        return {'state': 'running', 'note': note}
    if failed.is_file():
        why = ' '.join(failed.read_text(errors='replace').split())
        return {'state': 'failed', 'note': why[:500]}
    return {'state': 'begun' if (partial / name).is_dir() else 'waiting', 'note': note}


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
