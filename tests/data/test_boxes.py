"""Boxes: connected regions of masks, and VOC's annotations as they lie on disk."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import write_voc_boxes
from PIL import Image

from pt4al import data
from pt4al.data import boxes
from pt4al.data.scenes import CAMVID, Scenes
from pt4al.errors import Refused


def test_a_region_is_a_box_and_corners_join_two():
    masks = np.zeros((2, 40, 40), 'uint8')
    car, person = (CAMVID.split().index(name) for name in ('car', 'pedestrian'))
    masks[0, 2:12, 3:20] = car
    # a corner joins them; the class beside it does not
    masks[0, 12:14, 20:25] = car
    masks[0, 12:20, 10:20] = person
    masks[1, 5, 7] = person
    got = boxes._regions(Scenes(np.zeros((2, 3, 40, 40), 'uint8'), masks, tuple(CAMVID.split())))
    assert got.box.tolist() == [[3, 2, 25, 14], [10, 12, 20, 20], [7, 5, 8, 6]]
    assert got.image.tolist() == [0, 0, 1] and got.label.tolist() == [0, 1, 1]
    assert got.difficult.tolist() == [False, False, True]  # one of 1,600 pixels


def test_boxes_are_read_from_annotations_and_scaled_with_the_images(tmp_path):
    write_voc_boxes(tmp_path / 'VOC2007')
    train, test = boxes.read(f'voc-boxes:{tmp_path / "VOC2007"}?size=40')
    assert train.pixels.shape == (3, 3, 40, 40) and test.pixels.shape == (2, 3, 40, 40)
    # 80 x 40 pixels, counted from 1
    assert train.box[0].tolist() == [5, 4, 15, 20] and train.classes[train.label[0]] == 'car'
    assert train.difficult.tolist() == [False, True] * 3 and train.image.tolist() == [
        0,
        0,
        1,
        1,
        2,
        2,
    ]
    assert data.arrays(f'voc-boxes:{tmp_path / "VOC2007"}?size=40')[0].classes == ()
    # a year without a test list adds to training
    write_voc_boxes(tmp_path / 'VOC2012')
    (tmp_path / 'VOC2012/ImageSets/Main/test.txt').unlink()
    train, test = boxes.read(f'voc-boxes:{tmp_path}?size=40')
    assert (len(train.pixels), len(test.pixels)) == (6, 2) and train.image.max() == 5


def test_the_digest_covers_the_boxes(tmp_path):
    digests = []
    for left in (11, 12):
        write_voc_boxes(tmp_path / str(left), left)
        digests.append(data.key_digest(f'voc-boxes:{tmp_path / str(left)}'))
    assert digests[0] != digests[1]


BOMB = '<!DOCTYPE a [<!ENTITY b "c"><!ENTITY d "&b;&b;">]><annotation>&d;</annotation>'
THING = '<annotation><object><name>{}</name><bndbox>{}</bndbox></object></annotation>'


def thing(name: str, *sides: str) -> str:
    names = ('xmin', 'ymin', 'xmax', 'ymax')
    return THING.format(name, ''.join(f'<{n}>{s}</{n}>' for n, s in zip(names, sides)))


@pytest.mark.parametrize(
    'content, message',
    [
        ('', r'1.xml cannot be read \(no element found'),
        ('<annotation>', r'1.xml cannot be read \(no element found'),
        (BOMB, r'1.xml cannot be read \(it declares a document type'),
        (BOMB.encode('utf-16'), r'1.xml cannot be read \(it declares a document type'),
        ('<?xml version="1.0" encoding="no"?><a/>', '1.xml cannot be read'),
        (b'\xff\x00', '1.xml cannot be read'),
        (b'<a>' * 2**19, '1.xml is too large'),
        (b'<a>' * 2**18, '1.xml cannot be read'),
        (thing('unicorn', '1', '1', '9', '9'), "names the class 'unicorn': known are aeroplane, "),
        (thing('car', '1', '1', '9'), r'a box is .* give four numbers'),
        (thing('car', '1', '1', '9', 'many'), 'give four numbers'),
        (thing('car', '1', '1', '9', '9' * 400), 'is not inside the 80x40 image'),
        (thing('car', '1', '1', '1e999', '9'), 'is not inside'),
        (thing('car', '1', 'nan', '9', '9'), 'is not inside'),
        (thing('car', '1', '1', '9', '41'), 'is not inside'),
        (thing('car', '9', '1', '8', '9'), 'is not inside'),
        (thing('car', '-3', '1', '8', '9'), 'is not inside'),
        (None, r'1.xml cannot be read \(No such file'),
    ],
)
def test_what_is_no_annotation_is_refused_by_its_name(tmp_path, content, message):
    write_voc_boxes(tmp_path)
    path = tmp_path / 'Annotations/1.xml'
    path.unlink()
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(Refused, match=message) as refusal:
        boxes.read(f'voc-boxes:{tmp_path}')
    assert '\n' not in str(refusal.value) and len(str(refusal.value)) < 1000


@pytest.mark.parametrize(
    'harm, message',
    [
        (lambda root: (root / 'JPEGImages/1.jpg').unlink(), '1.jpg cannot be read'),
        (
            lambda root: (root / 'ImageSets/Main/trainval.txt').unlink(),
            'trainval.txt cannot be read',
        ),
        (lambda root: (root / 'ImageSets/Main/trainval.txt').write_text(''), 'names no image'),
        (lambda root: (root / 'ImageSets/Main/trainval.txt').write_text('../1'), "names '../1'"),
        (lambda root: (root / 'JPEGImages/1.jpg').write_bytes(b'\xff\xd8'), '1.jpg cannot be read'),
    ],
)
def test_what_is_missing_is_refused_by_its_name(tmp_path, harm, message):
    write_voc_boxes(tmp_path)
    harm(tmp_path)
    with pytest.raises(Refused, match=message):
        boxes.read(f'voc-boxes:{tmp_path}')


def test_one_pixel_of_grace_for_tools_that_count_from_0(tmp_path):
    write_voc_boxes(tmp_path)
    (tmp_path / 'Annotations/1.xml').write_text(thing('car', '0', '0', '80', '40'))
    train, _ = boxes.read(f'voc-boxes:{tmp_path}?size=40')
    assert train.box[train.image == 1].tolist() == [[0, 0, 40, 40]]


def test_a_data_set_without_boxes_is_refused():
    with pytest.raises(Refused, match='has no boxes: detection reads camvid'):
        boxes.read('cifar10-mini')


def test_an_image_without_objects_has_none(tmp_path):
    write_voc_boxes(tmp_path)
    (tmp_path / 'Annotations/0.xml').write_text('<annotation/>')
    assert boxes.read(f'voc-boxes:{tmp_path}')[0].image.min() == 1
    assert Image.open(tmp_path / 'JPEGImages/0.jpg').size == (80, 40)
