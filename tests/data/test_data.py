from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pt4al import data, files
from pt4al.data import cifar, download, fashion, folders, splits
from pt4al.errors import Refused
from pt4al.rng import stream

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def root() -> Path:
    """The folder that holds the official batches."""
    for place in filter(None, (os.environ.get('PT4AL_DATA'), ROOT.parent / 'shared' / 'data')):
        if (Path(place) / 'cifar-10-batches-py' / 'test_batch').is_file():
            return Path(place)
    pytest.skip(
        'needs the complete CIFAR-10: set PT4AL_DATA to a folder that holds cifar-10-batches-py'
    )


@pytest.fixture(scope='module')
def full(root: Path) -> data.Pair:
    return data.checked('cifar10', cifar.read_batches(root / 'cifar-10-batches-py'), root)


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
    monkeypatch.setattr(files, 'cache', lambda: tmp_path / 'cache')
    monkeypatch.setattr(cifar, '_unpacked', unreachable)
    return tmp_path / 'cache'


def unreachable(*_: object) -> Path:
    raise OSError('no route\nto host')


def noise(count: int, seed: int = 0) -> data.Images:
    rng = np.random.default_rng(seed)
    return data.split(
        rng.integers(0, 256, (count, 3, 32, 32), np.uint8), rng.integers(0, 10, count)
    )


# --- the shipped part ---


def test_mini_is_balanced_and_has_the_stated_shape() -> None:
    train, test = data.arrays('cifar10-mini')
    assert train.pixels.shape == (4000, 3, 32, 32) and test.pixels.shape == (1000, 3, 32, 32)
    assert train.pixels.dtype == np.uint8 and train.labels.dtype == np.int64
    assert (
        np.bincount(train.labels).tolist() == [400] * 10
        and np.bincount(test.labels).tolist() == [100] * 10
    )
    assert (
        train.classes == data.CLASSES
        and len(np.unique(train.pixels.reshape(4000, -1), axis=0)) == 4000
    )


def test_digest_is_pixels_then_little_endian_labels() -> None:
    for one, pinned in zip(data.arrays('cifar10-mini'), data.PINNED['cifar10-mini'], strict=True):
        own = hashlib.sha256(
            one.pixels.tobytes() + b''.join(int(k).to_bytes(8, 'little') for k in one.labels)
        )
        assert own.hexdigest() == one.digest == pinned


def test_mini_starts_as_cifar10_starts() -> None:
    train, test = data.arrays('cifar10-mini')
    names = [train.classes[k] for k in train.labels[:5]]
    assert names == ['frog', 'truck', 'truck', 'deer', 'automobile']
    assert [test.classes[k] for k in test.labels[:5]] == ['cat', 'ship', 'ship', 'airplane', 'frog']
    # red, green, blue of the first image's corner
    assert train.pixels[0, :, 0, 0].tolist() == [59, 62, 63]


def test_mini_indices_ascend() -> None:
    for index, one in zip(cifar.mini_indices(), data.arrays('cifar10-mini'), strict=True):
        assert len(index) == len(one.labels) and index[0] == 0 and (np.diff(index) > 0).all()


def test_sidecar_states_the_pinned_digests() -> None:
    note = json.loads(cifar.MINI.with_suffix('.json').read_text())
    assert (note['train']['digest'], note['test']['digest']) == data.PINNED['cifar10-mini']
    assert tuple(note['classes']) == data.CLASSES


def test_mini_is_the_first_of_each_class(full: data.Pair) -> None:
    mini = data.arrays('cifar10-mini')
    for one, whole, index, count in zip(mini, full, cifar.mini_indices(), (400, 100), strict=True):
        seen, want = dict.fromkeys(range(10), 0), []
        for place, label in enumerate(whole.labels.tolist()):
            seen[label] += 1
            want += [place] * (seen[label] <= count)
        assert index.tolist() == want
        assert (one.pixels == whole.pixels[want]).all() and (one.labels == whole.labels[want]).all()


def test_assets_are_what_the_script_makes(
    full: data.Pair, make_mini, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(make_mini, 'sheet', lambda pixels: drawn.append(pixels) or b'')
    assert make_mini.build(full)[1] == cifar.MINI.with_suffix('.json').read_bytes()
    assert (drawn[0] == np.concatenate([one.pixels for one in data.arrays('cifar10-mini')])).all()


@pytest.mark.slow
def test_sheet_is_lossless_and_reproducible(
    make_mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = noise(100), noise(100, seed=1)
    drawn = make_mini.sheet(np.concatenate([train.pixels, test.pixels]))
    assert drawn == make_mini.sheet(np.concatenate([train.pixels, test.pixels]))
    (tmp_path / 'small.webp').write_bytes(drawn)
    (tmp_path / 'small.json').write_text(
        json.dumps(
            {'train': {'labels': train.labels.tolist()}, 'test': {'labels': test.labels.tolist()}}
        )
    )
    monkeypatch.setattr(cifar, 'MINI', tmp_path / 'small.webp')
    monkeypatch.setitem(data.PINNED, 'cifar10-mini', (train.digest, test.digest))
    assert (data.DATASETS['cifar10-mini']()[1].pixels == test.pixels).all()


@pytest.mark.parametrize('harm', ['truncate', 'other pixels', 'other label', 'no sidecar'])
def test_damaged_mini_is_refused(
    harm: str, make_mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheet, note = cifar.MINI.read_bytes(), json.loads(cifar.MINI.with_suffix('.json').read_text())
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
    monkeypatch.setattr(cifar, 'MINI', path)
    with pytest.raises(Refused, match='damaged') as refusal:
        data.DATASETS['cifar10-mini']()
    if harm.startswith('other'):
        assert data.PINNED['cifar10-mini'][0] in str(refusal.value)


# --- the complete data set ---


def test_cifar10_in_official_order(
    root: Path, full: data.Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('PT4AL_DATA', str(root))
    data.arrays.cache_clear()
    train, test = data.arrays('cifar10')
    assert (
        (train.digest, test.digest) == data.PINNED['cifar10'] == tuple(one.digest for one in full)
    )
    assert (
        train.pixels.shape == (50000, 3, 32, 32)
        and np.bincount(train.labels).tolist() == [5000] * 10
    )
    raw = np.frombuffer((root / 'cifar-10-batches-py' / 'data_batch_2').read_bytes(), np.uint8)
    # image 10,000 opens the second batch
    assert raw.tobytes().find(train.pixels[10000].tobytes()) > 0


def test_classes_are_the_official_names(root: Path) -> None:
    assert (
        tuple(cifar._read_batch(root / 'cifar-10-batches-py' / 'batches.meta')['label_names'])
        == data.CLASSES
    )


@pytest.mark.parametrize('name', ['data_batch_3', 'test_batch'])
def test_damaged_batch_is_refused_by_name(
    name: str, root: Path, tmp_path: Path, alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / 'cifar-10-batches-py'
    folder.mkdir()
    for other in cifar.MD5:
        (folder / other).symlink_to(root / 'cifar-10-batches-py' / other)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).unlink()
    (folder / name).write_bytes(content)
    monkeypatch.setenv('PT4AL_DATA', str(tmp_path))
    with pytest.raises(Refused, match=name) as refusal:
        data.DATASETS['cifar10']()
    assert hashlib.md5(content).hexdigest() in str(refusal.value) and cifar.MD5[name] in str(
        refusal.value
    )


def test_missing_batch_is_refused_by_name(alone: Path) -> None:
    (alone / 'cifar-10-batches-py').mkdir(parents=True)
    (alone / 'cifar-10-batches-py' / 'batches.meta').touch()
    with pytest.raises(Refused, match='data_batch_1 cannot be read'):
        data.DATASETS['cifar10']()


def test_checksum_stands_before_unpickling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle, 'loads', lambda *_, **__: pytest.fail('unpickled unchecked'))
    (tmp_path / 'test_batch').write_bytes(pickle.dumps({}))
    with pytest.raises(Refused, match='test_batch is damaged'):
        cifar._read_batch(tmp_path / 'test_batch')


def test_cifar10_is_fetched_once_into_the_cache(
    root: Path, full: data.Pair, alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(archive: str, empty: Path) -> Path:
        assert archive == 'cifar-10-python' and empty.parent == alone
        shutil.copytree(root / 'cifar-10-batches-py', empty / 'cifar-10-batches-py')
        return empty

    monkeypatch.setattr(cifar, '_unpacked', fetch)
    for _ in range(2):
        pair = data.DATASETS['cifar10']()
        assert [one.digest for one in pair] == [one.digest for one in full]
        assert [path.name for path in alone.iterdir()] == ['cifar-10-batches-py']
        monkeypatch.setattr(cifar, '_unpacked', None)


# --- the interface ---


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
        assert (one.labels.numpy() == same.labels).all() and (one.digest, one.classes) == (
            same.digest,
            same.classes,
        )


def test_reading_arrays_does_not_import_torch() -> None:
    code = "import sys; from pt4al import data; data.arrays('cifar10-mini'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    'pixel, label, message',
    [
        (0.5, 0, 'pixels are float64: give whole numbers from 0 to 255'),
        (300, 0, 'pixels are int64'),
        (7, 0.5, 'labels must be whole numbers from 0 to 1'),
        (7, -1, 'labels must be'),
        (7, 2, 'labels must be'),
    ],
)
def test_split_refuses_what_it_would_round_or_wrap(pixel, label, message) -> None:
    with pytest.raises(Refused, match=message):
        data.split(np.full((2, 3, 8, 8), pixel), [0, label], ('a', 'b'))
    assert data.split(np.full((2, 3, 8, 8), 7.0), [0, 1.0], ('a', 'b')).labels[1] == 1


def test_split_refuses_shapes_that_do_not_belong_together() -> None:
    with pytest.raises(Refused, match='do not make a data set'):
        data.split(np.zeros((4, 3, 32, 32), np.uint8), np.zeros(5))


@pytest.mark.parametrize(
    ('keep', 'message'),
    [(lambda y: y < 0, 'the pool holds 0 images'), (lambda y: y == 6, '400 images of 1 classes')],
)
def test_check_trainable_refuses(keep, message: str) -> None:
    train, _ = data.arrays('cifar10-mini')
    mask = keep(train.labels)
    with pytest.raises(Refused, match=message):
        data.check_trainable(data.split(train.pixels[mask], train.labels[mask]), 'the pool')


def test_check_trainable_accepts_two_classes_on_either_side() -> None:
    data.check_trainable(data.arrays('cifar10-mini')[0], 'the pool')
    data.check_trainable(data.load('cifar10-mini')[0], 'the pool')


# --- CIFAR-100, from made files: the real ones are checked by their published MD5 ---


def pickled(content: dict) -> bytes:
    """Pickle as the published files are, which name numpy's modules as they were then."""
    return pickle.dumps(content, protocol=3).replace(
        b'numpy._core.multiarray', b'numpy.core.multiarray'
    )


@pytest.fixture
def cifar100_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of CIFAR-100's layout with 20 train and 10 test images, whose checksums count as the
    published ones.
    """
    folder, rng = tmp_path / 'given' / 'cifar-100-python', np.random.default_rng(0)
    folder.mkdir(parents=True)
    contents = {
        name: {
            'data': rng.integers(0, 256, (count, 3072), np.uint8),
            'coarse_labels': [0] * count,
            'fine_labels': list(range(70, 70 + count)),
        }
        for name, count in (('train', 20), ('test', 10))
    }
    contents['meta'] = {
        'fine_label_names': [f'fine {i}' for i in range(100)],
        'coarse_label_names': ['coarse'] * 20,
    }
    for name, content in contents.items():
        (folder / name).write_bytes(pickled(content))
        monkeypatch.setitem(
            cifar.MD5_100, name, hashlib.md5((folder / name).read_bytes()).hexdigest()
        )
    return folder


def test_cifar100_has_fine_labels(
    cifar100_files: Path, alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not data.available('cifar100')
    monkeypatch.setenv('PT4AL_DATA', str(cifar100_files.parent))
    train, test = data.DATASETS['cifar100']()
    assert (
        data.available('cifar100')
        and train.pixels.shape == (20, 3, 32, 32)
        and len(train.classes) == 100
    )
    assert [train.classes[label] for label in train.labels[:2]] == ['fine 70', 'fine 71']
    raw = cifar._read_batch(cifar100_files / 'test', cifar.MD5_100)
    assert (test.pixels[3].reshape(-1) == raw['data'][3]).all() and test.labels.tolist() == raw[
        'fine_labels'
    ]


@pytest.mark.parametrize('name', ['train', 'test', 'meta'])
def test_damaged_cifar100_is_refused_by_name(
    name: str, cifar100_files: Path, alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('PT4AL_DATA', str(cifar100_files.parent))
    (cifar100_files / name).write_bytes(pickled({'data': 0}))
    with pytest.raises(Refused, match=f'{name} is damaged'):
        data.DATASETS['cifar100']()


def test_cifar100_is_fetched_once_into_the_cache(
    cifar100_files: Path, alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(kind: str, empty: Path) -> Path:
        assert kind == 'cifar-100-python' and empty.parent == alone
        return shutil.copytree(cifar100_files, empty / kind).parent

    monkeypatch.setattr(cifar, '_unpacked', fetch)
    digest = data.DATASETS['cifar100']()[0].digest
    assert [path.name for path in alone.iterdir()] == ['cifar-100-python']
    monkeypatch.setattr(cifar, '_unpacked', None)
    assert data.DATASETS['cifar100']()[0].digest == digest


def test_a_failed_download_says_what_to_do(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion, '_get', unreachable)
    for name, folder in (
        ('cifar10', 'cifar-10-batches-py'),
        ('cifar100', 'cifar-100-python'),
        ('fashion-mnist', 'fashion-mnist'),
    ):
        assert not data.available(name)
        with pytest.raises(
            Refused, match=f'{name}.*no route to host.*PT4AL_DATA.*{folder}'
        ) as refusal:
            data.DATASETS[name]()
        assert '\n' not in str(refusal.value) and list(alone.iterdir()) == []


def test_published_checksums_are_torchvisions() -> None:
    from torchvision.datasets import CIFAR10, CIFAR100

    for md5, official in ((cifar.MD5, CIFAR10), (cifar.MD5_100, CIFAR100)):
        known = (
            dict(official.train_list)
            | dict(official.test_list)
            | {official.meta['filename']: official.meta['md5']}
        )
        assert md5 == known


# --- Fashion-MNIST ---


def idx(array: np.ndarray) -> bytes:
    return (
        bytes([0, 0, 8, array.ndim])
        + np.array(array.shape, '>u4').tobytes()
        + array.astype(np.uint8).tobytes()
    )


@pytest.fixture
def fashion_files(tmp_path: Path, alone: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of Fashion-MNIST's layout, 30 train and 10 test images; their digests are pinned."""
    folder, rng = tmp_path / 'given' / 'fashion-mnist', np.random.default_rng(0)
    folder.mkdir(parents=True)
    for part, count in (('train', 30), ('t10k', 10)):
        images = rng.integers(0, 256, (count, 28, 28))
        for kind, array in (('images-idx3', images), ('labels-idx1', np.arange(count) % 10)):
            content, name = idx(array), f'{part}-{kind}-ubyte'
            (folder / f'{name}.gz').write_bytes(gzip.compress(content))
    monkeypatch.setitem(
        data.PINNED, 'fashion-mnist', tuple(one.digest for one in fashion.read(folder))
    )
    return folder


@pytest.mark.parametrize('place', ['fashion-mnist', 'FashionMNIST/raw', 'cache'])
def test_fashion_mnist_is_found_and_framed(
    place: str, fashion_files: Path, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = (alone if place == 'cache' else tmp_path / 'there') / (
        'fashion-mnist' if place == 'cache' else place
    )
    shutil.copytree(fashion_files, where)
    assert data.available('fashion-mnist') == (place == 'cache')
    monkeypatch.setenv('PT4AL_DATA', str(tmp_path / 'there'))
    assert data.available('fashion-mnist')
    train, test = data.DATASETS['fashion-mnist']()
    assert (
        train.pixels.shape == (30, 3, 32, 32)
        and len(test.labels) == 10
        and train.classes[9] == 'ankle boot'
    )
    content = gzip.decompress((where / 't10k-images-idx3-ubyte.gz').read_bytes())
    grey = np.frombuffer(content[16:], np.uint8).reshape(-1, 28, 28)
    for channel in range(3):
        assert (test.pixels[:, channel, 2:30, 2:30] == grey).all()
    frame = test.pixels.copy()
    frame[..., 2:30, 2:30] = 0
    assert not frame.any() and train.labels[:11].tolist() == [*range(10), 0]


@pytest.mark.parametrize(
    'content',
    [
        b'',
        b'\0\0\x08',
        idx(np.zeros((2, 3, 4)))[:-1],
        idx(np.zeros((2, 3, 4))) + b'\0',
        idx(np.zeros((2, 12))),
        b'\0\0\x0d' + idx(np.zeros((2, 3, 4)))[3:],
        b'\0\0\x08\x03' + b'\xff' * 12,
        b'\0\0\x08\x03' + b'\x80\0\0\0' * 3,
    ],
)
def test_a_damaged_idx_file_is_refused(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'a.gz').write_bytes(gzip.compress(content))
    for name in ('a.gz', 'missing.gz'):
        with pytest.raises(Refused, match=f'{name} (is no whole|cannot be read)'):
            fashion.read_idx(tmp_path / name, 3)


def test_an_idx_file_is_not_unpacked_without_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = idx(np.arange(24).reshape(2, 3, 4))
    (tmp_path / 'a.gz').write_bytes(gzip.compress(content))
    assert (
        fashion.read_idx(tmp_path / 'a.gz', 3).tolist() == np.arange(24).reshape(2, 3, 4).tolist()
    )
    monkeypatch.setattr(fashion, 'LIMIT', len(content) - 2)
    with pytest.raises(Refused, match='no whole IDX'):
        fashion.read_idx(tmp_path / 'a.gz', 3)
    monkeypatch.undo()
    (tmp_path / 'a.gz').write_bytes(gzip.compress(content)[:-9])
    with pytest.raises(Refused, match='cannot be read'):
        fashion.read_idx(tmp_path / 'a.gz', 3)


def test_other_clothes_are_refused(fashion_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('PT4AL_DATA', str(fashion_files.parent))
    labels = fashion_files / 't10k-labels-idx1-ubyte.gz'
    content = gzip.decompress(labels.read_bytes())
    labels.write_bytes(gzip.compress(content[:-1] + b'\0'))
    with pytest.raises(Refused, match='is not fashion-mnist: test has'):
        data.DATASETS['fashion-mnist']()


def test_fashion_mnist_is_fetched_once_into_the_cache(
    fashion_files: Path, alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(url: str, sha256: str, folder: Path) -> None:
        asked.append((url, sha256))
        folder.mkdir(exist_ok=True)
        shutil.copy(fashion_files / url.rpartition('/')[2], folder)

    monkeypatch.setattr(download, 'fetch', fetch)
    for _ in range(2):
        assert (
            tuple(one.digest for one in data.DATASETS['fashion-mnist']())
            == data.PINNED['fashion-mnist']
        )
    assert len(asked) == 4 and all(url.startswith('https://') for url, _ in asked)
    assert [path.name for path in alone.iterdir()] == ['fashion-mnist']


def test_every_download_is_over_https_with_a_sha256() -> None:
    pinned = {**cifar.ARCHIVES, **fashion.ARCHIVES}
    assert all(re.fullmatch('[0-9a-f]{64}', sha256) for sha256 in pinned.values())
    assert cifar.AUTHORS.startswith('https://') and fashion.AUTHORS.startswith('https://')


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A server of the files in a folder, on loopback."""
    import http.server
    import threading

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    (tmp_path / 'web').mkdir()
    handler = partial(Quiet, directory=str(tmp_path / 'web'))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}', tmp_path / 'web'
        server.shutdown()


def test_a_file_of_another_digest_is_not_kept(web, tmp_path: Path) -> None:
    address, folder = web
    (folder / 'a.gz').write_bytes(b'content')
    right = hashlib.sha256(b'content').hexdigest()
    assert download.fetch(f'{address}/a.gz', right, tmp_path / 'b').read_bytes() == b'content'
    with pytest.raises(ValueError, match='hash'):
        download.fetch(f'{address}/a.gz', '0' * 64, tmp_path / 'c')
    assert not [path for path in (tmp_path / 'c').rglob('*') if path.is_file()]


def test_an_archive_that_would_write_outside_is_refused_whole(web, alone: Path) -> None:
    address, folder = web
    with tarfile.open(folder / 'a.tar.gz', 'w:gz') as archive:
        (folder / 'evil').write_text('x')
        archive.add(folder / 'evil', '../../evil')
    sha256 = hashlib.sha256((folder / 'a.tar.gz').read_bytes()).hexdigest()
    with pytest.raises(Refused, match='could not be fetched'):
        download.folder(
            'a', alone / 'a', lambda empty: download.unpacked(f'{address}/a.tar.gz', sha256, empty)
        )
    assert list(alone.iterdir()) == [] and not (alone.parent / 'evil').exists()


# --- imbalanced ---


def test_imbalance_keeps_the_asked_for_images_in_order() -> None:
    pair = noise(400), noise(20, seed=1)
    counts = [3, 0, 5, 1, 1, 1, 1, 1, 1, 20]
    train, test = data.imbalance(pair, counts)
    assert np.bincount(train.labels, minlength=10).tolist() == counts and test is pair[1]
    where = [
        int(np.flatnonzero((pair[0].pixels == image).all((1, 2, 3)))[0]) for image in train.pixels
    ]
    assert where == sorted(set(where)) and (pair[0].labels[where] == train.labels).all()
    nines = np.flatnonzero(pair[0].labels == 9)
    # drawn, not the first of the class
    assert sorted(set(where) & set(nines)) != nines[:20].tolist()
    more = data.imbalance(pair, [4, 1, *counts[2:]])[0].pixels
    assert len(more) == len(train.pixels) + 2 and all(
        (more == image).all((1, 2, 3)).any() for image in train.pixels
    )


@pytest.fixture
def cifar10_in_memory(full: data.Pair, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(data.DATASETS, 'cifar10', lambda: full)
    data.arrays.cache_clear()
    yield
    data.arrays.cache_clear()


def test_imbalanced_cifar10_is_linear_and_its_test_set_is_balanced(
    full: data.Pair, cifar10_in_memory: None
) -> None:
    train, test = data.arrays('imbalanced-cifar10')
    assert np.bincount(train.labels).tolist() == list(range(500, 5001, 500)) and test is full[1]
    assert (train.digest, test.digest) == data.PINNED['imbalanced-cifar10']


def test_a_changed_draw_is_refused(
    cifar10_in_memory: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splits, 'stream', lambda *_: np.random.default_rng(1))
    with pytest.raises(Refused, match='is not imbalanced-cifar10'):
        data.DATASETS['imbalanced-cifar10']()


def test_stratified_takes_each_class_in_proportion() -> None:
    labels = np.repeat(np.arange(5), [1, 2, 30, 100, 267])
    chosen = splits.test_mask_by_class(labels, 40, 'here')
    assert np.bincount(labels[chosen], minlength=5).tolist() == [0, 1, 3, 10, 26]
    assert (chosen == splits.test_mask_by_class(labels, 40, 'here')).all()
    assert (chosen != splits.test_mask_by_class(labels, 40, 'there')).any()
    for test, counts in (
        (1, [0, 1, 1, 1, 1]),
        (399, [0, 1, 29, 99, 266]),
        (200, [0, 1, 15, 50, 134]),
    ):
        assert (
            np.bincount(
                labels[splits.test_mask_by_class(labels, test, 'here')], minlength=5
            ).tolist()
            == counts
        )
    # an image a class is more than was asked for
    many = np.repeat(np.arange(20), [2] * 10 + [30] * 10)
    assert np.bincount(many[splits.test_mask_by_class(many, 12, 'here')]).tolist() == [1] * 20
    labels = stream(0, 'shuffle').permutation(labels)
    assert np.bincount(
        labels[splits.test_mask_by_class(labels, 40, 'here')], minlength=5
    ).tolist() == [0, 1, 3, 10, 26]


# --- names ---


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('imagefoldr:/x', "unknown dataset 'imagefoldr': did you mean 'imagefolder'"),
        ('cifar10:5', 'cifar10 takes no argument'),
        ('imbalanced-cifar10:1', 'takes no argument'),
        ('imagefolder', 'needs an argument: .*imagefolder:PATH'),
        ('imagefolder:', 'nothing stands after the colon'),
        ('caltech101:', 'nothing stands after the colon'),
        (None, "unknown dataset 'None'"),
        ('', 'unknown dataset'),
        (':x', 'unknown dataset'),
    ],
)
def test_a_name_that_cannot_be_read_is_refused(name: str, message: str) -> None:
    for ask in (data.check_name, data.arrays, data.key_digest):
        with pytest.raises(Refused, match=message):
            ask(name)


@pytest.mark.parametrize(
    'name', ['cifar10', 'caltech101:size=32', 'imagefolder:C:/a:b c', 'imagefolder:~/x?size=224']
)
def test_a_name_is_checked_without_its_images(name: str, alone: Path) -> None:
    data.check_name(name)


def test_every_name_says_whether_its_images_are_at_hand(
    alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_hand = {name for name in data.DATASETS if data.available(name)}
    assert {'cifar10-mini', 'digits-sound'} <= at_hand
    assert 'cifar10' not in at_hand
    assert set(data.SOURCES) < set(data.DATASETS)
    (alone / 'cifar-10-batches-py').mkdir(parents=True)
    (alone / 'cifar-10-batches-py' / 'test_batch').touch()
    more = {name for name in data.DATASETS if data.available(name)} - at_hand
    assert more == {'cifar10', 'imbalanced-cifar10'}


def test_keys_of_pinned_data_need_no_images(alone: Path) -> None:
    for name, (train, test) in data.PINNED.items():
        assert data.key_digest(name) == train[:16] + test[:16]


def test_a_path_may_hold_colons_and_question_marks() -> None:
    assert folders.parse_folder('C:/a?size=9/b?size=16') == (Path('C:/a?size=9/b'), 16)
    assert folders.parse_folder('~/x?') == (Path('~/x?').expanduser(), 32)


# --- shapes ---


@pytest.mark.parametrize('shape', [(4, 3, 32, 32), (4, 4, 8, 16), (4, 5, 3, 8, 8), (4, 2, 4, 8, 8)])
def test_images_sounds_and_clips_make_a_split(shape: tuple[int, ...]) -> None:
    pixels = np.arange(np.prod(shape)).astype(np.uint8).reshape(shape)
    made = data.split(pixels, np.arange(4), ('a', 'b', 'c', 'd'))
    assert (
        (made.pixels == pixels).all()
        and not made.pixels.flags.writeable
        and not made.labels.flags.writeable
    )
    assert (
        made.digest
        == hashlib.sha256(pixels.tobytes() + np.arange(4).astype('<i8').tobytes()).hexdigest()
    )


@pytest.mark.parametrize(
    'shape', [(4, 1, 8, 8), (4, 8, 8, 3), (4, 3, 8), (3, 8, 8), (4, 3, 5, 8, 8), (1, 4, 5, 3, 8, 8)]
)
def test_other_shapes_are_no_data_set(shape: tuple[int, ...]) -> None:
    with pytest.raises(Refused, match='do not make a data set'):
        data.split(np.zeros(shape, np.uint8), np.zeros(shape[0]))


def test_pixels_in_use_are_resident_once() -> None:
    one, other = data.load('cifar10-mini')[0], data.load('cifar10-mini')[0]
    assert one.pixels is other.pixels and one.labels is not other.labels
    del one, other
    assert not data._PIXELS


def test_a_plug_in_is_found_by_its_entry_point_and_takes_no_name_of_ours(tmp_path: Path) -> None:
    about = tmp_path / 'plug-1.0.dist-info'
    about.mkdir()
    (about / 'METADATA').write_text('Metadata-Version: 2.1\nName: plug\nVersion: 1.0\n')
    names = 'grey = plug:grey\ncifar10 = plug:grey\ntorn = plug:no_such\n'
    (about / 'entry_points.txt').write_text(f'[pt4al.datasets]\n{names}')
    (tmp_path / 'plug.py').write_text(
        'import numpy as np\n'
        'from pt4al import data\n'
        'def grey(sides="8"):\n'
        '    count, side = 40, int(sides)\n'
        '    pixels = np.arange(count * 3 * side**2).reshape(count, 3, side, side) % 251\n'
        '    parts = pixels[:30], pixels[30:]\n'
        '    return tuple(data.split(part, np.arange(len(part)) % 10) for part in parts)\n'
    )
    code = (
        'import pt4al; from pt4al import data, testing; '
        'assert data.arrays("grey")[0].pixels.shape == (30, 3, 8, 8); '
        'assert data.arrays("grey:4")[1].pixels.shape == (10, 3, 4, 4); '
        'assert data.DATASETS["cifar10"].__module__ == "pt4al.data.cifar"; '
        'assert "torn" not in data.DATASETS and data.available("grey:4"); '
        'assert pt4al.spec("pretext", dataset="grey").dataset == "grey"; '
        'testing.check_dataset(data.DATASETS["grey"])'
    )
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        env=os.environ | {'PYTHONPATH': paths},
    )
    assert done.returncode == 0, done.stderr
    assert 'data set torn of plug:no_such cannot be loaded' in done.stderr
