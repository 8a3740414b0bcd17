"""Bad inputs by category, each given as a user would: `python tests/bad_inputs.py` counts what
became of them.

Right is one line and nothing written.  Wrong is a traceback, a hang, silent acceptance, or a file
outside of store and cache.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pt4al import cli, data, report
from pt4al.data import download, scenes
from pt4al.errors import Refused
from pt4al.experiments import store
from pt4al.experiments.specs import spec
from pt4al.own import features, labels
from pt4al.own import folder as own

SECONDS = 20  # after which an input hangs


class Accepted(Exception):
    """Work would have begun."""


@dataclass(frozen=True)
class Case:
    """One bad input."""

    category: str
    name: str
    give: Callable[[], object]


def command(*words: str) -> Callable[[], None]:
    """A call of `pt4al` with these words."""

    def give() -> None:
        sys.argv = ['pt4al', *words]
        cli.app()

    return give


# --- what is given ---

NUMBERS = ('', ' ', '-1', '1.5', 'x', 'nan', 'inf', '-inf', '1:30', '0x10', '1e999', '9' * 5000)
NUMBERS += ('true', 'None', '[1]', '{}', '1,2', '\x00', 'é', '--seed')
FIELDS = {
    'pretext': ('seed', 'epochs', 'batch', 'width', 'repeats', 'lr'),
    'main': ('folds',),
    'active': ('budget', 'cycles', 'until', 'held_out'),
}
WORDS = {
    'dataset': ('', 'cifar', 'CIFAR10', '../cifar10', 'imagefolder', 'imagefolder:', 'unlabelled:')
    + ('imagefolder:/nowhere', 'imagefolder:/dev/null', 'imagefolder:/etc/passwd', 'clips:/nowhere')
    + ('imagefolder:/tmp?size=0', f'imagefolder:/tmp?size={"9" * 5000}')
    + (
        f'caltech101:size={"9" * 5000}',
        f'camvid:{"9" * 5000}',
        'camvid:²',
        'imagefolder:/tmp?size=²',
    )
    + ('caltech101:size=1', 'caltech101:size=x')
    + ('caltech101:colour=no', 'imbalanced-cifar10:1,2')
    + ('cifar10-mini:x', 'cifar10-mini ', 'a' * 3000, 'imagefolder:' + 'a/' * 3000, '\x00'),
    'task': (
        '',
        'rotate',
        'rotation:',
        'jigsaw:grid=0',
        'jigsaw:grid',
        'pirl:loss=x',
        '../x',
        '\n',
    ),
    'strategy': ('', 'randm', 'pt4al:', 'pt4al,random', '[random]', '🎲'),
    'noise': (
        'x',
        'symmetric',
        'symmetric:0',
        'symmetric:91',
        'pairs:²',
        'pairs:' + '9' * 5000,
        'human:me',
    ),
    'optimiser': ('', 'sdg', 'SGD '),
    'milestones': ('[', '[1.5]', '{}', '[-1]', '["a"]', '[[1]]', '1e9999'),
}


def arguments() -> Iterator[tuple[str, Callable]]:
    for kind, names in FIELDS.items():
        for name, value in product(names, NUMBERS):
            if (kind, name, value) not in FINE and not (name == 'lr' and value == '1.5'):
                words = ('run', kind, 'dataset=cifar10-mini', f'{name}={value}')
                yield f'{kind} {name}={value[:20]!r}', command(*words)
    for name, values in WORDS.items():
        kind = 'active' if name == 'strategy' else 'pretext'
        for value in values:
            words = () if name == 'dataset' else ('dataset=cifar10-mini',)
            yield f'{name}={value[:20]!r}', command('run', kind, *words, f'{name}={value}')
    for text in (
        'run',
        'run pretxt dataset=cifar10-mini',
        'run pretext cifar10-mini',
        'run pretext dataset=cifar10-mini dataset=cifar10',
        'run pretext dataset=cifar10-mini strategy=random',
        'run active protocol=x dataset=cifar10-mini',
        'study run nowhere',
        'study run smoke --workers 0',
        'study run smoke --minutes 0',
        'study run smoke --minutes nan',
        'study plan',
        'results again c0ffee',
        'results merge',
        'results merge /nowhere',
        'results merge /dev/zero',
        'results --dataset cifr10',
        'results verify now',
        'claims cifr10',
        'claims cifar10:width=x',
        'bench nothing',
        'bench scoring --rounds 0',
        'split',
        'pick x --budget 1',
        'no-such-command',
    ):
        yield text, command(*text.split(' '))


# what reads as a value and is one
FINE = {('active', 'until', ''), ('pretext', 'seed', 'None')}
FINE |= {(kind, name, 'None') for kind, names in FIELDS.items() for name in names}


def specs() -> Iterator[tuple[str, Callable]]:
    odd = (-1, 1.5, [], {}, object(), float('nan'), 10**400, (1,), 'x')
    for name, value in product(('seed', 'epochs', 'batch', 'width', 'repeats'), odd):
        yield f'{name}={value!r:.20}', lambda n=name, v=value: built(n, v)
    for name, value in product(('dataset', 'task'), (1, [], {}, b'x', object(), ('a',), 1.5)):
        yield f'{name}={value!r:.20}', lambda n=name, v=value: built(n, v)


def built(name: str, value: object) -> None:
    spec('pretext', **{'dataset': 'cifar10-mini', name: value})
    raise Accepted


STUDIES = [
    '',
    '#',
    '---\n---\n',
    'cells',
    'cells: 3',
    'cells: {}',
    'cells: []',
    'cells: [3]',
    'cells: [[]]',
    'cells: [{}]',
    'cells: [{kind: }]',
    'cells: [{kind: pretext}]',
    'cells: [{kind: [], dataset: cifar10-mini}]',
    'cells: [{kind: pretext, dataset: []}]',
    'cells: [{kind: pretext, dataset: {a: b}}]',
    'cells: [{kind: {a: b}, dataset: cifar10-mini}]',
    'cels: [{kind: pretext, dataset: cifar10-mini}]',
    'a: &a [*a]',
    'cells: &c [*c]',
    'cells: *c',
    'cells: !!python/object/apply:os.system ["touch evil"]',
    'cells: !!binary aaaa',
    'cells: !x [1]',
    '%TAG ! tag:x,2000:\n---\ncells: !y []',
    '[' * 3000,
    '{a: ' * 3000,
    '- ' * 3000,
    '? ' * 3000,
    '\t- x',
    '"',
    "'",
    '{',
    'a: b: c',
    '\x00',
    '\ufffe',
    'cells: |\n  x',
    '<<: {cells: []}',
    '? [a]\n: b',
    '? {a: b}\n: c',
    'a: ' + 'x' * 2_000_000,
    'l0: &l0 [x, x]\n' + ''.join(f'l{n}: &l{n} [*l{n - 1}, *l{n - 1}]\n' for n in range(1, 40)),
]
ENTRY = 'cells:\n  - kind: pretext\n    dataset: cifar10-mini\n    {}\n'
VALUES = ('1:30', '2020-13-45', '2020-01-01', '.inf', '.nan', '-3', '1.5', '[]', '[[]]', '{a: 1}')
VALUES += ('"', '0..999999999', '3..1', '0...3', '9' * 5000, '1e400', '!!int 3', '&a 3', '*a', 'x')
STUDIES += [ENTRY.format(f'{name}: {value}') for name in ('seed', 'epochs') for value in VALUES]
STUDIES += [
    ENTRY.format(text)
    for text in (
        'seed: 0\n    seed: 1',
        'exclude: 3',
        'exclude: []',
        'exclude: [{}]',
        'exclude: [{seed: 9}]',
        'exclude: [{sed: 0}]',
        'exclude: [{seed: 0}]',
        'entry: x\nreport: 3',
        'entry: x\nreport: [{}]',
        'entry: x\nreport: [{notebook: ../../x}]',
        'entry: x\nreport: [{notebook: x, a-b: 1}]',
        'task: [rotation, rotatoin]',
        'lr: [0.1, -0.1]',
        'protocol: nothing',
        'arm: pt4al',
    )
]


def studies(root: Path) -> Iterator[tuple[str, Callable]]:
    folder = root / 'studies'
    folder.mkdir()
    for number, text in enumerate(STUDIES):
        path = folder / f'{number}.yaml'
        path.write_text(text, encoding='utf-8', errors='surrogatepass')
        yield repr(text[:50]), command('study', 'plan', str(path))
    for name, content in {
        'latin.yaml': b'\xff\xfe\x00',
        'utf16.yaml': 'a: b'.encode('utf-16'),
    }.items():
        (folder / name).write_bytes(content)
        yield name, command('study', 'plan', str(folder / name))
    os.mkfifo(folder / 'pipe.yaml')
    for path in (
        folder,
        folder / 'pipe.yaml',
        Path('/dev/zero'),
        Path('/dev/stdin'),
        root / 'none',
    ):
        yield f'study {path.name}', command('study', 'plan', str(path))


# --- results ---


def sound(root: Path, seed: int = 0) -> Path:
    wanted = spec('pretext', dataset='cifar10-mini', epochs=1, seed=seed)
    tables = {'images': {'label': np.arange(40) % 2, 'loss': np.arange(40, dtype='float32')}}
    computed = store.Computed(tables, {'mean_loss': 1.0}, ('a', 'b'), {'chip': 'one'})
    return store.write(root, wanted, 'd' * 32, computed, {'commit': 'c0ffee', 'seconds': 1.5})


def set_to(path: str, value: object) -> Callable[[dict], None]:
    """Replace one part of what a result says, and seal it again."""

    def edit(stated: dict) -> None:
        *parents, last = path.split('.')
        for parent in parents:
            stated = stated[parent]
        stated[last] = value

    return edit


ODD = (None, 3, 'x', [], ['a'], {'a': {'b': 1}}, True)
PARTS = ('key', 'kind', 'spec', 'summary', 'classes', 'tables', 'provenance')
EDITS = {
    **{f'{part}={value!r}': set_to(part, value) for part in PARTS for value in ODD},
    **{
        f'{part}={value!r}': set_to(part, value)
        for part in ('spec.dataset', 'spec.seed', 'summary.mean_loss', 'provenance.seconds')
        for value in (None, 'x', [], {})
        if (part, value) != ('spec.dataset', 'x')
    },
}
# an object without entries says nothing wrong of summary and classes; a kind or key is a word
FINE_EDITS = {'classes=[]', "classes=['a']"}


def damage(folder: Path) -> dict[str, Callable[[], object]]:
    table, stated = folder / 'images.parquet', folder / 'result.json'

    def flip() -> None:
        content = bytearray(table.read_bytes())
        content[len(content) // 2] ^= 1
        table.write_bytes(content)

    def replaced(path: Path, make: Callable[[], object]) -> Callable[[], object]:
        return lambda: (path.unlink(), make())

    return {
        'flip': flip,
        'no table': table.unlink,
        'no json': stated.unlink,
        'empty table': lambda: table.write_bytes(b''),
        'short table': lambda: table.write_bytes(table.read_bytes()[:-9]),
        'nested json': lambda: stated.write_text('[' * 100_000),
        'large json': lambda: stated.write_text('[' + '1,' * 10**6 + '1]'),
        'no text': lambda: stated.write_bytes(b'\xff' * 99),
        'json list': lambda: stated.write_text('[]'),
        'table folder': replaced(table, table.mkdir),
        'json folder': replaced(stated, stated.mkdir),
        'table pipe': replaced(table, lambda: os.mkfifo(table)),
        'json pipe': replaced(stated, lambda: os.mkfifo(stated)),
        'table device': replaced(table, lambda: table.symlink_to('/dev/zero')),
        'json device': replaced(stated, lambda: stated.symlink_to('/dev/zero')),
        'table link': replaced(table, lambda: table.symlink_to('/etc/passwd')),
        'dangling': replaced(table, lambda: table.symlink_to('nowhere')),
        'loop': replaced(table, lambda: table.symlink_to(table.name)),
        'other name': lambda: folder.rename(folder.with_name(f'pretext-x-{"0" * 12}')),
    }


def spoilt(root: Path) -> Iterator[tuple[str, Path]]:
    """Stores that hold one bad result each."""
    for number, (name, edit) in enumerate(EDITS.items()):
        if name in FINE_EDITS:
            continue
        path = sound(root / f'edit-{number}') / 'result.json'
        stated = json.loads(path.read_text())
        edit(stated)
        path.write_text(store._text(store._sealed(stated)))
        yield name, root / f'edit-{number}'
    for name in damage(Path()):
        folder = sound(root / name.replace(' ', '-'))
        damage(folder)[name]()
        yield name, root / name.replace(' ', '-')
    for name, content in {
        'columns of lists': {'a': [[1]]},
        'times': {'a': [np.datetime64('now')]},
    }.items():
        folder = sound(root / name.replace(' ', '-'))
        pq.write_table(pa.table(content), folder / 'images.parquet')
        stated = json.loads((folder / 'result.json').read_text())
        stated['tables']['images'] = store._digest((folder / 'images.parquet').read_bytes())
        (folder / 'result.json').write_text(store._text(store._sealed(stated)))
        yield name, root / name.replace(' ', '-')


def results(root: Path, verb: str) -> Iterator[tuple[str, Callable]]:
    for name, folder in spoilt(root / verb):

        def give(folder: Path = folder) -> None:
            os.environ['PT4AL_RESULTS'] = str(folder if verb == 'verify' else root / 'store')
            words = ('results', verb) if verb == 'verify' else ('results', verb, str(folder))
            command(*words)()

        yield name, give


# --- shards ---


def shards(root: Path) -> Iterator[tuple[str, Callable]]:
    folder = root / 'shards'
    folder.mkdir()
    good = np.arange(50, dtype='float32')
    tables = {
        'no column': {'lss': good},
        'double': {'loss': good.astype(float)},
        'words': {'loss': ['a'] * 50},
        'lists': {'loss': [[1.0]] * 50},
        'nan': {'loss': np.full(50, np.nan, 'float32')},
        'infinite': {'loss': np.full(50, np.inf, 'float32')},
        'null': {'loss': pa.array([None] * 50, pa.float32())},
        'no rows': {'loss': good[:0]},
        'few': {'loss': good[:3]},
        'ids of words': {'loss': good, 'id': list('ab' * 25)},
        'ids missing': {'loss': good, 'id': pa.array([None] * 50, pa.int64())},
        'one id': {'loss': np.zeros(50, 'float32'), 'id': np.zeros(50, 'int64')},
    }
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), folder / f'{name}.parquet')
    pq.write_table(pa.table({'loss': good, 'confidence': good}), folder / 'good.parquet')
    content = (folder / 'good.parquet').read_bytes()
    foot = 8 + int.from_bytes(content[-8:-4], 'little')  # where the metadata begin, from the end
    for name, spoiled in {
        'empty': b'',
        'text': b'loss\n1\n',
        'short': content[:-30],
        'magic': b'PAR1' + bytes(90) + b'PAR1',
        'torn': content[:4] + b'\xff' * (len(content) - foot - 4) + content[-foot:],
    }.items():
        (folder / f'{name}.parquet').write_bytes(spoiled)
    os.mkfifo(folder / 'pipe.parquet')
    paths = [folder / f'{name}.parquet' for name in (*tables, 'empty', 'text', 'short', 'magic')]
    paths += [folder / 'torn.parquet', folder / 'pipe.parquet', folder, Path('/dev/zero')]
    paths += [Path('/dev/stdin'), folder / 'none.parquet']
    for path in paths:
        out = str(root / 'out' / 'batches')
        yield f'split {path.name}', command('split', str(path), '--out', out)
        out = str(root / 'out' / 'picks.csv')
        yield f'pick {path.name}', command('pick', str(path), '--budget', '3', '--out', out)
    file = str(folder / 'good.parquet')
    for words in (
        ('split', file, '--out', str(folder)),
        ('split', file, '--out', '/dev/null'),
        ('split', file, '--out', '/proc/x'),
        ('split', file, file, '--out', str(root / 'out' / 'b')),
        *(('split', file, '--batches', n, '--out', str(root / 'out' / 'c')) for n in NUMBERS[:9]),
        ('pick', file, '--budget', '51', '--out', str(root / 'out' / 'd')),
        ('pick', file, '--budget', '1', '--out', str(folder)),
        ('pick', file, '--budget', '1', '--out', '/proc/x'),
        *(('pick', file, '--budget', n, '--out', str(root / 'out' / 'e')) for n in NUMBERS[:9]),
    ):
        yield ' '.join(words)[:60], command(*words)


# --- parameters of notebooks ---


def parameters() -> Iterator[tuple[str, Callable]]:
    for name in ('datset', 'sed', 'Seed', 'strategy', 'x', 'epoch', 'width_'):
        for value in (1, 'a', None, [1], {'a': 1}):
            yield f'{name}={value!r}', lambda n=name, v=value: checked(n, v)
    for value in (
        None,
        True,
        {'a': 1},
        [['a']],
        [None],
        b'a,b',
        1.5j,
        {'a'},
        object(),
        '',
        [],
        ',',
    ):
        yield f'listed {value!r:.20}', lambda v=value: listed(v)


def checked(name: str, value: object) -> None:
    report.check_parameters({name: value, 'dataset': 'cifar10'}, 'dataset', 'seed', 'strategies')
    raise Accepted


def listed(value: object) -> None:
    report.listed(value, 1)
    raise Accepted


# --- one's own images: labels, features, folders ---


def exported(result: object) -> str:
    return json.dumps([{'data': {'image': 'a.png'}, 'annotations': result}])


LABELS = [
    '', '\n', ',', 'path', 'path,label', 'path,label\n', 'a,b\n1,2\n', 'a.png,cat\n', 'label\ncat\n',
    'path,label\na.png\n', 'path,label\n,cat\n', 'path,label\na.png,"cat\n', 'path,label\na.png, \n',
    'path,label\na.png,cat,dog\n', 'path,label\na.png,cat\na.png,dog\n', 'path,label\na.png,?\n',
    'path,label,label\na.png,cat,dog\n', 'path,label,Label\na.png,cat,dog\n',
    'path,Path,label\na.png,b.png,cat\n', 'path,label\r\na.png,\rcat\r\n', 'path,label\na.png,c\0\n',
    'path,label\nc.png,cat\n', 'path,label\n../a.png,cat\n', 'path,label\n/a.png,cat\n',
    'path,label\n.,cat\n', 'path,label\na.png/,cat\nb.png,dog\na.png,dog\n', 'path,label\na.png,"{""x"": 1}"\n',
    f'path,label\na.png,{"x" * 200_000}\n', f'path,label\n{"x/" * 5000},cat\n',
    'path,label\na.png,cat\n./a.png,cat\nb.png,dog\nA.png,dog\n', '{"path": "a.png", "label": "cat"}\n',
    '[', '[]', '{}', '[1]', '[{}]', '[[]]', '[null]', 'null', '[' * 100_000, '{"images": [], "annotations": []}',
    '[{"data": {}}]', '[{"data": 3}]', '[{"data": {"image": 3}, "annotations": []}]', exported(3),
    exported([]), exported([3]), exported([{}]), exported([{'result': 3}]), exported([{'result': [3]}]),
    exported([{'result': [{'type': 'choices'}]}]), exported([{'result': [{'type': 'choices', 'value': {}}]}]),
    exported([{'result': [{'type': 'choices', 'value': {'choices': 'cat'}}], 'was_cancelled': True}]),
    exported([{'result': [{'type': 'choices', 'value': {'choices': [3]}}]}]),
    exported([{'result': [{'type': 'polygonlabels', 'value': {'points': []}}]}]),
    '[{"path": "a.png", "label": {"a": {}}}]', '[{"path": "a.png", "label": NaN}]',
    '[{"path": "a.png", "label": "\\ud800"}]', '<annotation/>', 'a.png: cat\n', b'\x89PNG\r\n\x1a\n',
    b'PK\x03\x04' + bytes(99), b'\x1f\x8b' + bytes(99), 'path,label\na.png,cat\n'.encode('utf-16-be'),
    b'\xff\xfe\x00', b'path,label\na.png,caf\xe9\n',
]  # fmt: skip


def labelled(root: Path) -> Iterator[tuple[str, Callable]]:
    folder = root / 'labels'
    folder.mkdir()

    def give(path: Path) -> None:
        tree = own.Tree(folder, 8, ('a.png', 'b.png'), np.zeros(0), {}, {})
        labels.match(labels.read_labels(path), tree)
        raise Accepted

    for number, text in enumerate(LABELS):
        path = folder / f'{number}.csv'
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        yield repr(text[:50]), lambda path=path: give(path)
    os.mkfifo(folder / 'pipe.csv')
    (folder / 'loop').symlink_to('loop')
    for path in (folder, folder / 'pipe.csv', folder / 'loop', Path('/dev/zero'), folder / 'none'):
        yield f'labels {path.name}', lambda path=path: give(path)
    yield 'a long name', lambda: give(folder / ('x' * 300))


def folders_of_images(root: Path) -> Iterator[tuple[str, Callable]]:
    """Folders that cannot be ranked."""
    pixels = np.random.default_rng(0).integers(255, size=(9, 9, 3), dtype='uint8')
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, 'png')
    png = stream.getvalue()
    bomb = io.BytesIO()
    Image.new('1', (40_000, 40_000)).save(bomb, 'png')
    contents = {
        'nothing': {},
        'no image': {'a.txt': png},
        'one': {'a.png': png},
        'empty': {'a.png': b'', 'b.png': b''},
        'text': {'a.png': b'text', 'b.jpg': b'<html>'},
        'short': {'a.png': png[:60], 'b.png': png[: len(png) // 2]},
        'hidden': {'.a.png': png, '.b.png': png},
        'bombs': {'a.png': bomb.getvalue(), 'b.png': bomb.getvalue()},
        'scripts': {'a.png': b'%!PS\n', 'b.jpg': b'%!PS-Adobe-3.0 EPSF-3.0\n'},
        'mostly bad': {'a.png': png, 'b.png': b'x', 'c.png': b'x', 'd.png': b'x'},
    }

    def give(folder: Path, size: int = 16) -> None:
        own.check_readable(own.read(folder, size), root / 'cache' / 'left-out.csv')
        raise Accepted

    for name, held in contents.items():
        folder = root / 'images' / name
        folder.mkdir(parents=True)
        for file, content in held.items():
            (folder / file).write_bytes(content)
        yield name, lambda folder=folder: give(folder)
    odd = root / 'images' / 'odd'
    odd.mkdir()
    os.mkfifo(odd / 'a.png')
    for name, target in {'b.png': '/dev/zero', 'c.png': 'c.png', 'd.png': '/etc/passwd'}.items():
        (odd / name).symlink_to(target)
    (odd / 'e.png').mkdir()
    for path in (
        odd,
        odd / 'a.png',
        odd / 'none',
        odd / 'c.png',
        Path('/dev/null'),
        Path('/proc/1'),
        Path('~nobody-here/x'),
    ):
        yield f'folder {path.name}', lambda path=path: give(path)
    for size in (0, -1, 7, 1025, 10**9):
        yield f'size {size}', lambda size=size: give(root / 'images' / 'mostly bad', size)


FEATURES: dict[str, object] = {
    'rows': np.zeros((3, 2)),
    'nan': np.array([[1, np.nan], [1, 2]]),
    'infinite': np.array([[1, 1e300], [1, 2]]),
    'one axis': np.zeros(2),
    'no column': np.zeros((2, 0)),
    'words': np.array([['a'], ['b']]),
    'complex': np.zeros((2, 2), complex),
    'objects': np.array([[{}], [{}]]),
    'times': np.zeros((2, 2), 'datetime64[s]'),
    'bytes': b'no numpy',
    'huge': b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (2, 99999999999), }"
    + b' ' * 43
    + b'\n',
}


def features_made(root: Path) -> Iterator[tuple[str, Callable]]:
    folder = root / 'features'
    folder.mkdir()

    def give(path: Path) -> None:
        features.from_file(path, ['a.png', 'b.png'])
        raise Accepted

    for name, made in FEATURES.items():
        for suffix in ('npz', 'parquet'):
            path = folder / f'{name}.{suffix}'
            if isinstance(made, bytes):
                path.write_bytes(made)
            elif suffix == 'npz':
                np.savez(path, path=['a.png', 'c.png'], features=made)
            else:
                pq.write_table(pa.table({'path': ['a.png', 'a.png']}), path)
            yield path.name, lambda path=path: give(path)
    os.mkfifo(folder / 'pipe.npz')
    for path in (folder, folder / 'pipe.npz', folder / 'none.npz', Path('/dev/zero')):
        yield f'features {path.name}', lambda path=path: give(path)


# --- commands for one's own images, places, data sets on disk ---


def plain_folder(root: Path) -> Path:
    """Twelve images of noise, of two classes, and a table of their labels."""
    folder, rng = root / 'photos', np.random.default_rng(0)
    for number in range(12):
        path = folder / 'ab'[number % 2] / f'{number}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(255, size=(16, 16, 3), dtype='uint8')).save(path)
    lines = [f'{"ab"[number % 2]}/{number}.png,{"ab"[number % 2]}' for number in range(12)]
    (root / 'labels.csv').write_text('path,label\n' + '\n'.join(lines[:8]))
    return folder


def own_commands(root: Path) -> Iterator[tuple[str, Callable]]:
    photos, table = str(plain_folder(root)), str(root / 'labels.csv')
    out = ('--out', str(root / 'out.csv'), '--keep', str(root / 'cache' / 'kept'))
    small = ('--budget', '2')
    for option in ('budget', 'cycle', 'cycles', 'seed', 'epochs', 'size'):
        for value in NUMBERS:
            if (option, value) not in {('seed', '-1'), ('epochs', '--seed')}:
                given = () if option == 'budget' else small
                words = ('rank', photos, '--features', 'rotation', *given, *out)
                yield f'rank {option}={value[:20]!r}', command(*words, f'--{option}={value}')
    for option, values in {
        'features': ('', ' ', 'rotate', 'file:', 'file:/nowhere.npz', 'file:/dev/zero', 'timm:')
        + ('timm:no', 'torchvision:', 'torchvision:no', 'auto,rotation', 'file:~nobody-here/x.npz'),
        'strategy': ('', 'randm', 'pt4al:', 'coreset,random', 'margin ', 'entropy:2'),
        'out': (
            '',
            '.',
            '/',
            'picks',
            'picks.txt',
            '/nowhere/picks.csv',
            '/dev/null',
            '/proc/x.csv',
        )
        + ('x' * 300 + '.csv', photos, table, '~nobody-here/x.csv', '\0.csv'),
        'keep': ('/dev/null', '/proc/x', table, '~nobody-here/x', '\0'),
        'labels': ('', '.', '/', '/nowhere', '/dev/zero', photos, '~nobody-here/x', '\0'),
    }.items():
        for value in values:
            made = ('rank', photos, *small, '--features', 'rotation', '--epochs', '1', *out)
            made += ('--cycle', '2') if option == 'labels' else ()
            yield f'rank {option}={value[:30]!r}', command(*made, f'--{option}={value}')
    for option, values in {
        'margin': NUMBERS,
        'seed': tuple(value for value in NUMBERS if value != '-1'),
        'features': ('', ',', 'rotate', 'file:/nowhere.npz', 'rotation,', 'auto,,auto'),
        'labels': ('', '.', '/nowhere', '/dev/zero', photos, table, '~nobody-here/x'),
        'keep': ('~nobody-here/x',),
    }.items():
        for value in values:
            words = ('advise', photos, '--labels', table, *out[2:])
            yield f'advise {option}={value[:20]!r}', command(*words, f'--{option}={value}')


def places(root: Path) -> Iterator[tuple[str, Callable]]:
    """What the environment names, one at a time."""
    file = root / 'plain'
    file.write_text('x')
    odd = ('/dev/null/x', '/proc/x', str(file), str(file / 'x'), '\udcff', 'x' * 5000)

    def give(name: str, value: str, words: tuple[str, ...]) -> None:
        before = os.environ.get(name)
        os.environ[name] = value
        try:
            command(*words)()
        finally:
            os.environ.pop(name) if before is None else os.environ.update({name: before})

    numbers = ('0', '-1', '1.5', 'x', ' ', '9' * 30, '²')
    train = ('rank', str(root / 'photos'), '--budget', '2', '--features', 'rotation')
    train += ('--out', str(root / 'o.csv'), '--keep', str(root / 'cache' / 'kept'))
    for name, values, words in (
        ('PT4AL_THREADS', numbers, train),
        ('OMP_NUM_THREADS', numbers, train),
        ('PT4AL_DEVICE', ('gpu', 'cuda:99', 'cpu:', '0', ' ', 'meta:x', 'cuda,cpu'), train),
        ('PT4AL_PRECISION', ('fp16', 'FP32', ' ', 'tf32', '32'), train),
        ('XDG_CACHE_HOME', odd[:4], train),
        ('PT4AL_COMPUTE', ('x', 'Never', ' '), ('run', 'pretext', 'dataset=cifar10-mini')),
        ('PT4AL_RESULTS', odd[:4], ('results', 'verify')),
    ):
        for value in values:
            yield f'{name}={value[:20]!r}', lambda n=name, v=value, w=words: give(n, v, w)


def data_sets(root: Path) -> Iterator[tuple[str, Callable]]:
    """Folders that are found as a published data set and are none, scenes and clips."""
    image = io.BytesIO()
    Image.new('RGB', (8, 8)).save(image, 'png')
    bomb = io.BytesIO()
    with gzip.GzipFile(fileobj=bomb, mode='wb') as file:
        file.write(bytes(2**29))
    zipped = io.BytesIO()
    np.savez_compressed(zipped, train_pixels=np.zeros(2**29, 'uint8'))
    names = {
        'cifar10': ('cifar-10-batches-py/data_batch_1',),
        'cifar100': ('cifar-100-python/train',),
        'fashion-mnist': ('fashion-mnist/train-images-idx3-ubyte.gz',),
        'camvid': ('camvid/trainannot/a.png', 'camvid/train/a.png'),
        'caltech101': ('caltech101/101_ObjectCategories/cat/a.jpg',),
    }  # fmt: skip
    contents = {
        'empty': b'', 'text': b'text', 'pickle': b'\x80\x04N.', 'png': image.getvalue(),
        'gzip': bomb.getvalue(), 'npz': zipped.getvalue(), 'idx': b'\0\0\x08\x03' + b'\xff' * 12,
    }  # fmt: skip

    def give(folder: Path, dataset: str) -> None:
        os.environ['PT4AL_DATA'] = str(folder)
        # whole data sets that were read before would serve
        scenes.read.cache_clear()
        data.arrays.cache_clear()
        data.load(dataset, 'cpu')
        raise Accepted

    number = 0
    for dataset, files in names.items():
        for name, kind in product(files, (*contents, 'pipe', 'device', 'loop', 'folder')):
            path = root / 'sets' / str(number := number + 1) / name
            path.parent.mkdir(parents=True)
            if kind in contents:
                path.write_bytes(contents[kind])
            elif kind == 'pipe':
                os.mkfifo(path)
            elif kind == 'folder':
                path.mkdir()
            else:
                path.symlink_to('/dev/zero' if kind == 'device' else path.name)
            top = root / 'sets' / str(number)
            yield f'{name} {kind}', lambda top=top, dataset=dataset: give(top, dataset)
    for kind in (*sorted(contents.keys() - {'png'}), 'pipe', 'device', 'folder'):
        top = root / 'clips' / kind
        for clip in ('one', 'two'):
            (top / clip).mkdir(parents=True)
            for frame in range(8):
                (top / clip / f'{frame}.png').write_bytes(image.getvalue())
        frame = top / 'two' / '0.png'
        frame.unlink()
        if kind in contents:
            frame.write_bytes(contents[kind])
        elif kind == 'pipe':
            os.mkfifo(frame)
        elif kind == 'folder':
            frame.mkdir()
        else:
            frame.symlink_to('/dev/zero')
        yield f'clips {kind}', lambda top=top: give(root, f'clips:{top}')


# --- what becomes of it ---


def cases(root: Path) -> Iterator[Case]:
    """All bad inputs; what they need is made in `root`."""
    for category, made in {
        'arguments': arguments(),
        'specs': specs(),
        'study files': studies(root),
        'results': results(root, 'verify'),
        'merged stores': results(root, 'merge'),
        'shards': shards(root),
        'parameters': parameters(),
        'labels': labelled(root),
        'folders': folders_of_images(root),
        'features': features_made(root),
        'rank and advise': own_commands(root),
        'environment': places(root),
        'data sets': data_sets(root),
    }.items():
        yield from (Case(category, name, give) for name, give in made)


def outcome(case: Case) -> str:
    """'refused', or what is wrong with how an input was taken."""

    def late(*_: object) -> None:
        raise TimeoutError('it hangs')

    printed = io.StringIO()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            case.give()
        return 'accepted'
    except Accepted:
        return 'accepted'
    except Refused as refusal:
        return line(str(refusal))
    except SystemExit as end:
        return {0: 'accepted', None: 'accepted', 2: 'refused'}.get(end.code, line(str(end.code)))
    except BaseException as error:
        return f'{"hang" if "it hangs" in str(error) else "traceback"}: {error!r:.200}'
    finally:
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)


def line(text: str) -> str:
    if 'it hangs' in text:
        return 'hang'
    return 'refused' if text and '\n' not in text else f'not one line: {text[:200]!r}'


def tree(root: Path) -> set[str]:
    """What lies in `root`, but for what the store and the cache are for, and the list of a folder's
    unreadable files, which is written although the images are refused.
    """
    return {
        str(path)
        for path in root.rglob('*')
        if not {'.partial', 'cache', 'bench', 'out.left-out.csv'} & {*path.relative_to(root).parts}
    }


def main(every: int = 1) -> tuple[Counter, list[str]]:
    """Give every n-th input; counts by category and outcome, and a line for each wrong one."""
    counts, wrong = Counter(), []
    here, argv, environment = Path.cwd(), sys.argv, dict(os.environ)
    result, fetch = store.get_or_compute, download.fetch
    root = Path(tempfile.mkdtemp(prefix='bad-'))

    def begun(*positional: object, **named: object) -> None:
        raise Accepted

    def offline(*positional: object) -> None:
        raise OSError('there is no network')

    try:
        os.chdir(root)
        os.environ.update(PT4AL_RESULTS=str(root / 'store'), XDG_CACHE_HOME=str(root / 'cache'))
        os.environ.update(PT4AL_DATA=str(root / 'data'))
        sound(root / 'store', 9)
        store.get_or_compute, download.fetch = begun, offline
        for case in list(cases(root))[::every]:
            os.environ['PT4AL_RESULTS'] = str(root / 'store')
            before = tree(root)
            became = outcome(case)
            if new := tree(root) - before:
                became = f'writes {sorted(new)[0]}'
            counts[case.category, became.partition(':')[0].split()[0]] += 1
            if became != 'refused':
                wrong.append(f'{case.category}: {case.name}: {became}')
    finally:
        store.get_or_compute, download.fetch = result, fetch
        os.chdir(here)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = argv
        shutil.rmtree(root, ignore_errors=True)
    return counts, wrong


if __name__ == '__main__':
    became, bad = main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    for (category, what), count in sorted(became.items()):
        print(f'{category:16s} {what:12s} {count:5d}')
    print(f'{sum(became.values())} bad inputs, {len(bad)} taken wrongly', *bad, sep='\n')
    sys.exit(bool(bad))
