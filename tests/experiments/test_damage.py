"""What a resumed run trusts is checked when it is read: nothing damaged or forged is sealed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pt4al
from pt4al import data, files
from pt4al.data import folders
from pt4al.errors import Refused
from pt4al.experiments import active, pretext, store
from pt4al.experiments.specs import spec
from pt4al.training import fit

pytestmark = pytest.mark.usefixtures('store_of_toys')


def flip(path: Path, share: float = 0.5) -> None:
    """Turn one bit of a file over, inside of its content."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * share)] ^= 16
    path.write_bytes(content)


def interrupted(monkeypatch, module, name: str, after: int, **asked) -> Path:
    """Run until the `after`-th call of `name` has saved, then stop; returns the scratch."""
    original, calls = getattr(module, name), []

    def stop(*given):
        original(*given)
        calls.append(1)
        if len(calls) == after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, name, stop)
        pt4al.get(spec(**asked))
    return next(path for path in (store.roots()[0] / '.partial').iterdir() if path.is_dir())


PRETEXT = {'kind': 'pretext', 'dataset': 'toy', 'epochs': 3}
ACTIVE = {'kind': 'active', 'dataset': 'toy', 'strategy': 'random', 'cycles': 4, 'epochs': 1}
WARM = {**ACTIVE, 'start': 'warm'}
TRACE = {'kind': 'trajectory', 'dataset': 'toy', 'epochs': 3, 'folds': 2, 'log': (1, 3)}


@pytest.mark.parametrize(
    'asked, module, name, pattern',
    [
        (PRETEXT, fit, '_save', 'fit.pt'),
        (TRACE, fit, '_save', 'fold-0/fit.pt'),
        (TRACE, fit, '_save', 'fold-0/tally-2.pt'),
        (TRACE, fit, '_save', 'fold-0/log-1.pt'),
        (ACTIVE, active, 'save', 'cycle-000.json'),
        (WARM, active, 'save', 'cycle-001.pt'),
    ],
)
@pytest.mark.parametrize('share', [0.3, 0.6, 0.999])
def test_a_flipped_bit_is_refused_and_nothing_is_sealed(
    monkeypatch, asked, module, name, pattern, share
):
    scratch = interrupted(monkeypatch, module, name, 2, **asked)
    flip(scratch / pattern, share)
    with pytest.raises(Refused, match='damaged') as refusal:
        pt4al.get(spec(**asked))
    assert '\n' not in str(refusal.value) and store.find(asked['kind']) == []


def test_a_flipped_bit_in_kept_weights_is_refused():
    s = spec(**PRETEXT)
    pt4al.get(s)
    (weights,) = (store.roots()[0] / '.weights').glob('*.pt')
    flip(weights)
    with pytest.raises(Refused, match='delete the file, they are made again'):
        pretext.trained(s)


FORGED = {
    'negative': lambda row: row['picked'].__setitem__(0, -1),
    'outside': lambda row: row['picked'].__setitem__(0, 72),
    'repeated': lambda row: row['picked'].__setitem__(0, row['picked'][1]),
    'no integer': lambda row: row['picked'].__setitem__(0, 1.5),
    'too few': lambda row: row['picked'].pop(),
    'another cycle': lambda row: row.update(number=1),
    'accuracy': lambda row: row.update(accuracy=2),
    'classes': lambda row: row['per_class'].pop(),
    'no picks': lambda row: row.pop('picked'),
    'no list': lambda row: row.update(picked=3),
}


@pytest.mark.parametrize('forge', FORGED.values(), ids=FORGED)
def test_a_forged_cycle_without_a_digest_is_refused(monkeypatch, forge):
    scratch = interrupted(monkeypatch, active, 'save', 2, **ACTIVE)
    row = json.loads(files.unseal(scratch / 'cycle-000.json'))
    forge(row)
    (scratch / 'cycle-000.json').write_text(json.dumps(row))
    with pytest.raises(Refused, match='cycle-000.json is damaged: delete .* to start this run'):
        pt4al.get(spec(**ACTIVE))


def test_picks_of_two_cycles_are_not_the_same_and_none_is_missing(monkeypatch):
    scratch = interrupted(monkeypatch, active, 'save', 2, **ACTIVE)
    row = json.loads(files.unseal(scratch / 'cycle-000.json'))
    (scratch / 'cycle-001.json').write_text(json.dumps(row | {'number': 1}))
    with pytest.raises(Refused, match='cycle-001.json is damaged'):
        pt4al.get(spec(**ACTIVE))
    (scratch / 'cycle-000.json').unlink()
    with pytest.raises(Refused, match='cycle-00[01].json is damaged'):
        pt4al.get(spec(**ACTIVE))


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(files, 'cache', lambda: tmp_path / 'cache')
    for number in range(24):
        path = tmp_path / 'photos' / 'ab'[number % 2] / f'{number}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (8, 8), (number, 2 * number, 90)).save(path)
    return tmp_path / 'photos'


@pytest.mark.parametrize('pattern', ['*.npy', '*.json'])
def test_a_flipped_bit_in_the_decoded_cache_is_decoded_again(photos, pattern, caplog):
    name = f'imagefolder:{photos}'
    before, key = data.arrays(name)[0].pixels.tobytes(), data.key_digest(name)
    (path,) = (files.cache() / 'decoded').glob(pattern)
    flip(path)
    data.arrays.cache_clear()
    assert data.key_digest(name) == key and data.arrays(name)[0].pixels.tobytes() == before
    assert ('is damaged: the images are decoded again' in caplog.text) == (pattern == '*.npy')


def test_the_decoded_cache_is_bounded_and_the_longest_unused_go(photos, monkeypatch):
    decoded = files.cache() / 'decoded'
    for size in (8, 16, 24):
        data.arrays(f'imagefolder:{photos}?size={size}')
        for path in decoded.glob('*.npy'):
            shutil.os.utime(path, ns=(path.stat().st_mtime_ns - 10**9,) * 2)
    data.arrays.cache_clear()
    data.arrays(f'imagefolder:{photos}?size=8')  # used again
    monkeypatch.setattr(folders, 'CACHE', 24 * 3 * (8 * 8 + 32 * 32) + 1000)
    data.arrays(f'imagefolder:{photos}?size=32')
    sizes = sorted(np.load(path, mmap_mode='r').shape[-1] for path in decoded.glob('*.npy'))
    assert sizes == [8, 32] and len(list(decoded.iterdir())) == 4
    monkeypatch.setattr(folders, 'CACHE', 1)
    data.arrays(f'imagefolder:{photos}?size=48')  # too large, and yet it stays
    assert len(list(decoded.glob('*.npy'))) == 1


def test_a_trajectory_without_its_tally_is_one_line(monkeypatch):
    scratch = interrupted(monkeypatch, fit, '_save', 2, **TRACE)
    (scratch / 'fold-0' / 'tally-2.pt').unlink()
    with pytest.raises(Refused, match='tally-2.pt cannot be read'):
        pt4al.get(spec(**TRACE))
