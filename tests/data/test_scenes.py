"""Scenes: CamVid as it lies on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import write_camvid
from PIL import Image

from pt4al import data
from pt4al.data import scenes
from pt4al.data.scenes import VOID
from pt4al.errors import Refused


def test_masks_are_read_as_class_numbers_whatever_the_palette_shows(tmp_path, monkeypatch):
    monkeypatch.setenv('PT4AL_DATA', str(tmp_path))
    masks = write_camvid(tmp_path / 'camvid')
    for path in (tmp_path / 'camvid/trainannot').iterdir():
        palette = Image.open(path)
        palette.putpalette([c for k in range(256) for c in (k, 255 - k, 7 * k % 256)])
        palette.save(path)
    found = scenes.read('camvid:32')[0]
    assert (found.masks == np.where(masks == 11, VOID, masks)[::-1]).all()
    assert found.pixels.dtype == np.uint8
    small = scenes.read('camvid:16')[0]
    assert small.pixels.shape == (3, 3, 16, 16)
    assert set(np.unique(small.masks).tolist()) <= {0, 1, 2, VOID}


def no_frames(root: Path) -> None:
    for path in (root / 'train').iterdir():
        path.unlink()


@pytest.mark.parametrize(
    'harm, message',
    [
        (no_frames, 'holds no frames to train on'),
        (lambda root: (root / 'trainannot/1.png').unlink(), '1.png cannot be read'),
        (lambda root: (root / 'train/1.jpg').write_bytes(b'\xff\xd8'), '1.jpg cannot be read'),
        (lambda root: (root / 'trainannot/1.png').write_bytes(b'\x89PNG'), '1.png cannot be read'),
        (
            lambda root: Image.new('RGB', (32, 32)).save(root / 'trainannot/1.png'),
            '1.png is no mask: it must be a grey',
        ),
        (lambda root: Image.new('P', (32, 31)).save(root / 'trainannot/1.png'), '1.png is no mask'),
        (
            lambda root: Image.new('L', (32, 32), 12).save(root / 'trainannot/1.png'),
            '1.png is no mask: .* class numbers from 0 to 11',
        ),
        (
            lambda root: Image.new('L', (32, 32), 255).save(root / 'trainannot/1.png'),
            '1.png is no mask',
        ),
    ],
)
def test_what_is_no_mask_is_refused_by_its_name(tmp_path, monkeypatch, harm, message):
    monkeypatch.setenv('PT4AL_DATA', str(tmp_path))
    write_camvid(tmp_path / 'camvid')
    harm(tmp_path / 'camvid')
    with pytest.raises(Refused, match=message) as refusal:
        scenes.read('camvid:32')
    assert '\n' not in str(refusal.value)


def test_camvid_is_read_by_name_in_the_order_of_its_names(tmp_path, monkeypatch):
    monkeypatch.setenv('PT4AL_DATA', str(tmp_path))
    masks = write_camvid(tmp_path / 'camvid')
    train, test = scenes.read('camvid:32')
    assert (train.masks == np.where(masks == 11, VOID, masks)[::-1]).all()
    assert train.classes[3] == 'road' and len(train.classes) == 11 and len(test.pixels) == 3
    assert data.available('camvid') and data.arrays('camvid:32')[0].classes == ()
    scenes.read.cache_clear()
    data.arrays.cache_clear()
    before = data.arrays('camvid:32')[0].digest
    Image.new('L', (32, 32), 4).save(tmp_path / 'camvid/trainannot/1.png')
    scenes.read.cache_clear()
    data.arrays.cache_clear()
    assert data.arrays('camvid:32')[0].digest != before


def test_clips_end_at_gaps_and_one_drive_is_held_out(tmp_path, monkeypatch):
    monkeypatch.setenv('PT4AL_DATA', str(tmp_path))
    root, grey = tmp_path / 'camvid', 0
    for split, drive, seconds in (
        ('train', '0001TP_', [*range(9), *range(20, 29)]),
        ('test', 'Seq05VD_f', range(8)),
    ):
        (root / split).mkdir(parents=True)
        (root / f'{split}annot').mkdir()
        for second in seconds:
            Image.new('RGB', (20, 20), (grey,) * 3).save(
                root / split / f'{drive}{30 * second:05}.png'
            )
            grey += 1
    train, test = data.arrays('camvid-clips:16')
    assert train.pixels.shape == (4, 8, 3, 16, 16) and train.classes == ()
    assert train.pixels[:, :, 0, 0, 0].tolist() == [[*range(k, k + 8)] for k in (0, 1, 9, 10)]
    assert test.pixels[:, :, 0, 0, 0].tolist() == [[*range(18, 26)]]


def test_camvid_without_the_held_out_drive_has_no_clips(tmp_path, monkeypatch):
    monkeypatch.setenv('PT4AL_DATA', str(tmp_path))
    write_camvid(tmp_path / 'camvid')
    with pytest.raises(Refused, match='is no frame of a drive'):
        data.arrays('camvid-clips:16')


def test_camvid_that_is_not_there_is_refused_with_its_place(tmp_path, monkeypatch):
    monkeypatch.setenv('PT4AL_DATA', str(tmp_path))
    scenes.read.cache_clear()
    with pytest.raises(Refused, match=r'put camvid with train, trainannot.*PT4AL_DATA'):
        scenes.read('camvid:16')
