"""Scenes: CamVid and the layout of Pascal VOC as they lie on disk."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import shapes, write_voc
from PIL import Image

from pt4al import data
from pt4al.data import scenes
from pt4al.data.scenes import VOID
from pt4al.errors import Refused


def test_masks_are_read_as_class_numbers_whatever_the_palette_shows(tmp_path):
    pixels, masks = write_voc(tmp_path)
    found = scenes.read(f'voc:{tmp_path}?size=40')[0]
    assert (found.masks == masks).all() and found.pixels.dtype == np.uint8
    assert np.abs(found.pixels.astype(int) - pixels).mean() < 20  # JPEG of noise
    small = scenes.read(f'voc:{tmp_path}?size=20')[0]
    assert small.pixels.shape == (3, 3, 20, 20)
    assert set(np.unique(small.masks).tolist()) <= {0, 1, 2, VOID}


@pytest.mark.parametrize(
    'harm, message',
    [
        (
            lambda root: (root / 'ImageSets/Segmentation/train.txt').unlink(),
            r'train.txt cannot be read \(.*layout of Pascal VOC',
        ),
        (
            lambda root: (root / 'ImageSets/Segmentation/train.txt').write_text('\n'),
            'a split names no image',
        ),
        (
            lambda root: (root / 'ImageSets/Segmentation/train.txt').write_text('../x\n'),
            r"names '../x': write file names",
        ),
        (
            lambda root: (root / 'ImageSets/Segmentation/train.txt').write_text('..\n'),
            r"names '..': write file names",
        ),
        (lambda root: (root / 'JPEGImages/1.jpg').unlink(), '1.jpg cannot be read'),
        (
            lambda root: (root / 'SegmentationClass/1.png').write_bytes(b'\x89PNG'),
            '1.png cannot be read',
        ),
        (
            lambda root: Image.new('RGB', (40, 40)).save(root / 'SegmentationClass/1.png'),
            '1.png is a RGB image: a mask is',
        ),
        (
            lambda root: Image.new('P', (40, 39)).save(root / 'SegmentationClass/1.png'),
            '1.png is 40x39 pixels, its image 40x40',
        ),
        (
            lambda root: Image.new('L', (40, 40), 21).save(root / 'SegmentationClass/1.png'),
            '1.png holds the class 21: known are 0 to 20, 255',
        ),
        (
            lambda root: Image.new('L', (40, 40), 254).save(root / 'SegmentationClass/1.png'),
            '1.png holds the class 254',
        ),
    ],
)
def test_what_is_no_mask_is_refused_by_its_name(tmp_path, harm, message):
    write_voc(tmp_path)
    harm(tmp_path)
    with pytest.raises(Refused, match=message) as refusal:
        scenes.read(f'voc:{tmp_path}')
    assert '\n' not in str(refusal.value)


def write_camvid(root, n: int = 3):
    pixels, masks = shapes(n, 0)
    masks = np.where(masks == VOID, 11, masks).astype('uint8')
    for split in ('train', 'test'):
        for folder in (split, f'{split}annot'):
            (root / folder).mkdir(parents=True)
        for i, (image, mask) in enumerate(zip(pixels, masks)):
            picture = Image.fromarray(image.transpose(1, 2, 0))
            picture.save(root / split / f'{n - i}.jpg')
            Image.fromarray(mask).save(root / f'{split}annot' / f'{n - i}.png')
    return masks


def test_camvid_is_read_by_name_in_the_order_of_its_names(tmp_path, monkeypatch):
    monkeypatch.setenv('PT4AL_DATA', str(tmp_path))
    masks = write_camvid(tmp_path / 'camvid')
    scenes.read.cache_clear()
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
    data.arrays.cache_clear()
    with pytest.raises(Refused, match='is no frame of a drive'):
        data.arrays('camvid-clips:16')


def test_camvid_that_is_not_there_is_refused_with_its_place(tmp_path, monkeypatch):
    monkeypatch.setenv('PT4AL_DATA', str(tmp_path))
    scenes.read.cache_clear()
    with pytest.raises(Refused, match=r'put train, trainannot.*PT4AL_DATA'):
        scenes.read('camvid:16')
