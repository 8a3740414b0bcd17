"""A study as data: YAML that names cells by product, read with every refusal at its line, and what
the cells will cost.

    title: one line
    cells:
      - entry: two strategies           # its name in tables
        kind: active                    # the fields of `pt4al run`
        dataset: [cifar10, cifar10-mini]          # a list is several values
        strategy: [random, pt4al]
        seed: 0..4                                # five seeds
        exclude:
          - {dataset: cifar10, seed: [3, 4]}
    report:                       # notebooks that Snakemake executes once all cells are there
      - {notebook: active_learning, dataset: cifar10-mini}
"""

import dataclasses
import json
import math
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pt4al import data, files
from pt4al.errors import Refused, choose, one_line
from pt4al.experiments import exchange, protocols, specs, store
from pt4al.experiments.specs import Active, Diagnosis, Main, Pretext, Spec, Trajectory, built_on
from pt4al.query import QUERIES
from pt4al.studies import study
from pt4al.tasks import TASKS, family

NOTEBOOKS = Path(__file__).parents[2] / 'notebooks'
FILES = Path(__file__).parent / 'files'  # the studies that come with the package
MOST = 100_000  # cells; beyond lies a slip of the hand
LARGEST = 10**6  # bytes of a study file
OF_ENTRY = ('entry', 'exclude')  # beside the fields of its cells
OF_SPECS = {field.name for kind in specs.KINDS.values() for field in dataclasses.fields(kind)}
OTHERS = {'kind', 'task', 'pretext_seed', 'encoder_seed', 'protocol', 'arm', 'profile'}
FIELDS = (OTHERS | OF_SPECS) - {'pretext', 'active'}
LEAST_IMAGES = {'pirl': 1024, 'simclr': 2, 'audio_visual': 2}  # unless a variant says otherwise
LEAST_FRAMES = {'shuffle_and_learn': 5, 'frame_order': 3}
RANGE = re.compile(r'(\d+)\.\.(\d+)')


@dataclass(frozen=True)
class Cell:
    """One experiment of a study."""

    spec: Spec
    words: tuple[str, ...]  # of `pt4al run` for it
    entry: str  # that names it
    where: str  # file:line


@dataclass(frozen=True)
class Study:
    """A study file: its cells, after what they build on, and the notebooks that report on them."""

    name: str
    title: str
    cells: tuple[Cell, ...]
    reports: tuple[dict[str, Any], ...]


def find(name: str) -> Path:
    """The file of a study, by its path or by its name among those that come with the package."""
    if (path := Path(name)).is_file():
        return path
    if path.suffix:
        raise Refused(f'there is no file {name}')
    ours = {path.stem: path for path in FILES.glob('*.yaml')}
    return ours[choose('study', name, ours)]


def read(path: Path) -> Study:
    """Read a study; `Refused`, with file and line, for what cannot be read, built or run."""
    top = _parsed(path)
    _known(top, ('title', 'cells', 'report'))
    merged: dict[Spec, Cell] = {}
    for node in _entries(top, 'cells'):
        for cell in _cells(node):
            for needed in study.with_dependencies([cell.spec]):
                if isinstance(needed, Pretext) and needed is not cell.spec:
                    merged.setdefault(needed, Cell(needed, _words(needed), cell.entry, cell.where))
            merged.setdefault(cell.spec, cell)
    reports = _entries(top, 'report') if 'report' in top else []
    title = str(top.get('title', path.stem))
    return Study(path.stem, title, tuple(merged.values()), tuple(map(_report, reports)))


class Named(dict):
    """A mapping of a study file, with its place, file:line:column, and those of its names."""

    where: str
    places: dict[str, str]


class Loader(yaml.BaseLoader):
    """Every value is text, as on a command line: no dates, no 1:30 that is 90, no 010 that is 8."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if getattr(event, 'anchor', None) or getattr(event, 'tag', None):
            taken = 'anchors, aliases and tags are not taken: write plain values'
            raise Refused(f'{_place(event.start_mark)}: {taken}')
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Named:
        made = Named(super().construct_mapping(node, deep))
        made.where, made.places = _place(node.start_mark), {}
        for name, _ in node.value:
            place = _place(name.start_mark)
            if name.value in made.places:
                raise Refused(f'{place}: {name.value!r} is given twice')
            made.places[name.value] = place
        return made


def _parsed(path: Path) -> Named:
    try:
        loader = Loader(files.check_regular_file(path, LARGEST).read_text(encoding='utf-8'))
        loader.name = str(path)  # what its marks say
        top = loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        raise Refused(f'{_place(error.problem_mark)}: this is no YAML: {error.problem}') from None
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        raise Refused(f'{path} cannot be read: {one_line(error)}') from None
    if not isinstance(top, Named):
        raise Refused(f'{path}:1:1: names and values are expected: give a list of cells')
    return top


def _place(mark: Any) -> str:
    return f'{mark.name}:{mark.line + 1}:{mark.column + 1}'


@contextmanager
def _at(node: Named, name: str = '') -> Iterator[None]:
    """Put the place of a mapping, or of a name in it, before what is refused."""
    try:
        yield
    except Refused as refusal:
        raise Refused(f'{node.places.get(name, node.where)}: {refusal}') from None


def _known(node: Named, known: Collection[str], what: str = 'key') -> None:
    for name in node:
        with _at(node, name):
            choose(what, name, known)


def _entries(top: Named, name: str) -> list[Named]:
    """The list of mappings of this name; refused if it is none or empty."""
    entries = top.get(name)
    if not isinstance(entries, list) or {type(one) for one in entries} != {Named}:
        with _at(top, name):
            raise Refused(f'{name} is no list of at least one entry, as  - kind: active')
    return entries


def _values(node: Named, names: Iterable[str]) -> dict[str, list[Any]]:
    """The values of these fields: of a list each, of 0..4 five numbers, else the one."""
    out: dict[str, list[Any]] = {}
    for name in names:
        value, out[name] = node[name], []
        with _at(node, name):
            for one in value if isinstance(value, list) else [value]:
                if ends := isinstance(one, str) and RANGE.fullmatch(one):
                    first, last = int(ends[1]), int(ends[2])
                    out[name] += map(str, range(first, min(last, first + MOST) + 1))
                else:
                    out[name].append(one)
            if not out[name]:
                raise Refused(f'{name} has no value: write a range as 0..4')
    return out


def _cells(node: Named) -> Iterator[Cell]:
    """The cells of one entry: the product of its fields' values, less what it excludes."""
    _known(node, {*FIELDS, *OF_ENTRY})
    line = node.where.rpartition(':')[0]
    entry = str(node.get('entry', f'line {line.rpartition(":")[2]}'))
    values = _values(node, [name for name in node if name not in OF_ENTRY])
    with _at(node):
        if 'kind' not in node:
            raise Refused(f'an entry has no kind: give one of {", ".join(specs.KINDS)}')
        if (count := math.prod(map(len, values.values()))) > MOST:
            raise Refused(f'{count:,} cells: give {MOST:,} at most')
    rows = [dict(zip(values, row)) for row in product(*values.values())]
    for part in _entries(node, 'exclude') if 'exclude' in node else ():
        _known(part, values)
        excluded = _values(part, part)
        left = [row for row in rows if any(row[n] not in v for n, v in excluded.items())]
        with _at(part):
            if not 0 < len(left) < len(rows):
                raise Refused('this excludes no cell, or all of them')
        rows = left
    for fields in rows:
        fields |= {n: json.dumps(value) for n, value in fields.items() if isinstance(value, list)}
        with _at(node):
            spec = (protocols.spec if 'protocol' in fields else specs.spec)(**fields)
            check(spec)
        kind = str(fields.pop('kind'))
        words = [f'{name}={value}' for name, value in fields.items()]
        if isinstance(spec, Diagnosis):
            of_run = [word for word in words if not word.startswith('encoder')]
            yield Cell(spec.active, ('run', 'active', *of_run), entry, line)
        yield Cell(spec, ('run', kind, *words), entry, line)


def _report(node: Named) -> dict[str, Any]:
    name = str(node.get('notebook', ''))
    with _at(node):
        if not re.fullmatch(r'\w+', name):
            raise Refused('a report has no notebook: name one of notebooks/, without its ending')
        there = {path.stem for path in NOTEBOOKS.glob('*.py')}  # none where pt4al is installed
        if there:
            choose('notebook', name, there)
    if there:
        after = (NOTEBOOKS / f'{name}.py').read_text('utf-8').partition('tags=["parameters"]')[2]
        parameters = re.findall(r'^(\w+) = ', after.partition('\n# %%')[0], re.MULTILINE)
        _known(node, ['notebook', *parameters], f'parameter of notebook {name}')
    return {name: _plain(value) for name, value in node.items()}


def _plain(value: Any) -> Any:
    """The number, truth value or text that a parameter of a notebook is written as."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    with suppress(ValueError, TypeError, RecursionError):
        return json.loads(value)
    return value


def _words(spec: Pretext) -> tuple[str, ...]:
    """The words of `pt4al run` that compute a pretext spec, every field by name."""
    fields = dataclasses.asdict(spec)
    fields |= {n: json.dumps(value) for n, value in fields.items() if isinstance(value, tuple)}
    return ('run', spec.kind, *(f'{name}={value}' for name, value in fields.items()))


def check(spec: Spec) -> None:
    """Refuse what would be refused once the images are read, by the facts of the data set alone."""
    for needed in study.with_dependencies([spec]):
        if isinstance(needed, Pretext):
            _check_task(needed)
    n = study.facts(spec.dataset).train
    if isinstance(spec, Main | Trajectory) and spec.folds > n:
        raise Refused(f'{spec.folds} folds of {n} images: give at most one fold per image')
    if isinstance(spec, Active):
        from pt4al.query import cycle  # needs torch

        budgets = [spec.budget] * (spec.until or spec.cycles)
        fields = specs.PRETEXT_FIELDS if spec.pretext else frozenset()
        pool = max(n - spec.held_out, 0)
        cycle.check(pool, QUERIES[spec.strategy], budgets, spec.cycles, fields)


def _check_task(pretext: Pretext) -> None:
    known, name = study.facts(pretext.dataset), family(pretext.task)
    images = TASKS[pretext.task].options.get('negatives', LEAST_IMAGES.get(name, 1))
    frames = LEAST_FRAMES.get(name, 1)
    where = f'task {pretext.task} on {pretext.dataset}'
    if known.grey and name in ('colorization', 'colorization_reproduced', 'multitask'):
        raise Refused(f'{where}: its images are grey, there is no colour to predict')
    if name == 'audio_visual' and known.channels != 4:
        raise Refused(f'{where}: images of {known.channels} channels have no sound')
    if known.train < images:
        raise Refused(f'{where}: it needs {images} images of {known.train}')
    if 1 < known.frames < frames:
        raise Refused(f'{where}: clips of {known.frames} frames are too short')


def work(spec: Spec) -> float:
    """Estimated work of a cell: image passes (at least one per image) times (width x side)^2."""
    images = study.facts(getattr(spec, 'transfer', '') or spec.dataset)
    return max(study.passes(spec), images.train) * (spec.width * images.side) ** 2


class Timed(NamedTuple):
    """A stored result's spec, where it ran (cpu or cuda), how long, and the `work` of its spec."""

    spec: Spec
    device: str
    seconds: float
    work: float


def timed() -> list[Timed]:
    """The stored results of this code's experiments, from what their result.json says alone."""
    out = []
    for about in store.all_result_json():
        made = about['provenance']
        spec = exchange.spec_of(about['kind'], about['spec'], made['recipe'])
        # of other arguments only the images say how much work they are
        known = spec and (':' not in spec.dataset or spec.dataset.startswith('camvid'))
        if spec and known and made['seconds']:
            device = str(made.get('device')).partition(':')[0]
            with suppress(KeyError, Refused):  # of a task or data set that is registered no more
                out.append(Timed(spec, device, made['seconds'], work(spec)))
    return out


def seconds(spec: Spec, device: str, stored: Sequence[Timed]) -> float | None:
    """Seconds of the nearest stored result of the kind times the ratio of work, else None."""
    here = work(spec)

    def distance(other: Timed) -> tuple:
        same = ('width', 'task', 'strategy', 'dataset')
        unlike = [getattr(spec, name, '') != getattr(other.spec, name, '') for name in same]
        return (*unlike, abs(math.log(here / other.work)))

    alike = [other for other in stored if (other.spec.kind, other.device) == (spec.kind, device)]
    if not alike:
        return None
    nearest = min(alike, key=distance)
    return nearest.seconds * here / nearest.work


def key(spec: Spec) -> str | None:
    """The key of a spec, or None where it is made of images that are not at hand."""
    names = filter(None, (spec.dataset, getattr(spec, 'transfer', '')))
    at_hand = all(map(data.known, names))
    return store.key(spec, specs.data_digest(spec)) if at_hand else None


def rows(requested: Study) -> list[dict[str, Any]]:
    """One row a cell: what it is, builds on and costs, its `state` (done, running, failed, begun or
    waiting), and in `note` why or how far.
    """
    stored, out = timed(), []
    for cell in requested.cells:
        spec, name = cell.spec, key(cell.spec)
        state, note = _state(spec, name)
        out.append(
            {
                'key': name,
                'label': specs.in_words(spec),
                'kind': spec.kind,
                'dataset': spec.dataset,
                'entry': cell.entry,
                'where': cell.where,
                'command': ['pt4al', *cell.words],
                'folder': name and store.folder_name(spec, name),
                'needs': [key(other) for other in built_on(spec)],
                'done': state == 'done',
                'state': state,
                'note': note,
                'passes': study.passes(spec),
                'seconds_here': seconds(spec, 'cpu', stored),
                'seconds_gpu': seconds(spec, 'cuda', stored),
            }
        )
    return out


def _state(spec: Spec, name: str | None) -> tuple[str, str]:
    """State and note of a cell."""
    if name is None:
        return 'waiting', f'the images of {spec.dataset} are not at hand'
    if not study.missing([spec]):
        return 'done', ''
    digest = specs.data_digest(spec)
    scratch, failed = store.scratch_of(spec, digest), store.failure_note(spec, digest)
    note = ''
    if isinstance(spec, Active) and (cycles := len(list(scratch.glob('cycle-*.json')))):
        note = f'{cycles} of {spec.until or spec.cycles} cycles'
    if store.running(scratch):
        return 'running', note
    if failed.is_file():
        return 'failed', one_line(failed.read_text(errors='replace'))[:500]
    return 'begun' if scratch.is_dir() else 'waiting', note


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
