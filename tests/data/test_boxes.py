"""Boxes: connected regions of masks."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import write_camvid

from pt4al.data import boxes
from pt4al.data.scenes import CLASSES, Scenes
from pt4al.errors import Refused


def test_a_region_is_a_box_and_corners_join_two():
    masks = np.zeros((2, 40, 40), 'uint8')
    car, person = (CLASSES.index(name) for name in ('car', 'pedestrian'))
    masks[0, 2:12, 3:20] = car
    # a corner joins them; the class beside it does not
    masks[0, 12:14, 20:25] = car
    masks[0, 12:20, 10:20] = person
    masks[1, 5, 7] = person
    got = boxes._regions(Scenes(np.zeros((2, 3, 40, 40), 'uint8'), masks, CLASSES))
    assert got.box.tolist() == [[3, 2, 25, 14], [10, 12, 20, 20], [7, 5, 8, 6]]
    assert got.image.tolist() == [0, 0, 1] and got.label.tolist() == [0, 1, 1]
    assert got.difficult.tolist() == [False, False, True]  # one of 1,600 pixels


def test_boxes_are_read_from_the_masks_of_both_splits(tmp_path, monkeypatch):
    monkeypatch.setenv('PT4AL_DATA', str(tmp_path))
    write_camvid(tmp_path / 'camvid', classes=(0, 8, 9))
    for part in boxes.read('camvid:32'):
        assert part.pixels.shape == (3, 3, 32, 32) and part.classes == boxes.THINGS
        assert part.image.tolist() == [0, 1, 2] and set(part.label.tolist()) <= {0, 1}
        for image, box in zip(part.pixels, part.box.astype(int)):
            left, top, right, bottom = box
            assert abs(int(image[:, top:bottom, left:right].mean()) - 125) > 60


def test_a_frame_without_things_has_no_box(tmp_path, monkeypatch):
    monkeypatch.setenv('PT4AL_DATA', str(tmp_path))
    write_camvid(tmp_path / 'camvid')
    assert boxes.read('camvid:32')[0].box.shape == (0, 4)


def test_a_data_set_without_boxes_is_refused():
    with pytest.raises(Refused, match='has no masks or boxes: give camvid'):
        boxes.read('cifar10-mini')
