"""Pictures of a task at work: which images stand where on the sheet, told by their pixels."""

from __future__ import annotations

from types import SimpleNamespace

import gallery
import numpy as np
import pytest
import torch
from helpers import put
from toys import toy

from pt4al import data
from pt4al.errors import Refused
from pt4al.figures import losses

pytestmark = pytest.mark.usefixtures('root', 'store_of_toys')

torch.set_num_threads(1)


@pytest.fixture
def sheet(monkeypatch):
    """What is handed to `picture_grid`, which still draws it."""
    seen, draw = SimpleNamespace(), losses.picture_grid

    def note(pixels, captions, columns, title, alt):
        vars(seen).update(pixels=pixels, captions=captions, columns=columns, title=title, alt=alt)
        return draw(pixels, captions, columns, title, alt)

    monkeypatch.setattr(losses, 'picture_grid', note)
    return seen


def stretched(image: np.ndarray) -> np.ndarray:
    image = image.astype(float)
    return np.round(255 * (image - image.min()) / (image.max() - image.min())).astype(np.uint8)


def test_rotation_shows_an_image_of_every_class_and_its_four_turns(sheet):
    figure = gallery.views('toy', 'rotation')
    assert figure.still.startswith(b'\x89PNG') and figure.alt == sheet.alt
    assert sheet.alt == '3 images of toy, each with what rotation shows the network (views: 4).'
    assert (
        sheet.columns == 5
        and sheet.captions == ['image', 'view 1', 'view 2', 'view 3', 'view 4'] * 3
    )
    train = data.arrays('toy')[0]
    for c, row in enumerate(sheet.pixels.reshape(3, 5, 3, 32, 32)):
        first = np.flatnonzero(train.labels == c)[0]
        assert np.array_equal(row[0], train.pixels[first])
        views = row[1:].astype(int)
        assert all(views[k].min() == 0 and views[k].max() == 255 for k in range(4))
        assert all(np.array_equal(views[k], np.rot90(views[0], k, (1, 2))) for k in range(4))
    assert (
        gallery.views('toy', 'rotation', images=2).alt.startswith('2 images')
        and len(sheet.pixels) == 10
    )


@pytest.mark.parametrize(
    'task, views',
    [
        ('colorization', 1),
        ('jigsaw', 4),
        ('jigsaw:grid=3', 9),
        ('relative_position', 9),
        ('context_encoder', 4),
        ('simclr', 2),
        ('pirl', 5),
        ('shuffle_and_learn', 5),
        ('frame_order', 3),
    ],
)
def test_what_each_task_shows_is_on_the_sheet_in_one_size(sheet, task, views):
    gallery.views('toy', task)
    assert sheet.pixels.shape == (3 * (1 + views), 3, 32, 32) and sheet.columns == 1 + views
    assert sheet.title == f'What {task} shows the network'


def test_no_more_views_than_asked_for_though_a_task_shows_images_and_parts(sheet):
    gallery.views('toy', 'pirl', most=3)
    assert sheet.columns == 4
    tiles = sheet.pixels.reshape(3, 4, 3, 32, 32)
    # the whole image comes first, stretched
    assert np.abs(tiles[:, 1].astype(int) - tiles[:, 0]).mean() < 40


def test_a_clip_is_shown_by_its_middle_frame_and_a_sound_beside_its_image(sheet):
    def moving() -> data.Pair:
        stills = toy()[0]
        frames = np.stack([np.roll(stills.pixels, step, 3) for step in range(6)], 1)
        return (data.split(frames, stills.labels, stills.classes),) * 2

    def heard() -> data.Pair:
        stills = toy()[0]
        pixels = np.concatenate([stills.pixels, stills.pixels[:, :1]], 1)
        return (data.split(pixels, stills.labels, stills.classes),) * 2

    data.DATASETS |= {'moving': moving, 'heard': heard}
    first = toy()[0].pixels[np.flatnonzero(toy()[0].labels == 0)[0]]
    gallery.views('moving', 'shuffle_and_learn')
    assert sheet.columns == 6 and np.array_equal(sheet.pixels[0], np.roll(first, 3, 2))
    gallery.views('heard', 'audio_visual', most=1)
    assert np.array_equal(sheet.pixels[0], first) and np.array_equal(
        sheet.pixels[1], first[:1].repeat(3, 0)
    )
    assert sheet.captions == ['image', 'sound', 'view 1'] * 3
    assert (
        sheet.alt
        == '3 images of heard, each with its sound and what audio_visual shows the network (views: 1).'
    )
    result = made('moving', np.arange(72, dtype='float32'))
    gallery.extremes(result, 1)
    assert np.array_equal(sheet.pixels[0], np.roll(toy()[0].pixels[71], 3, 2))


def test_a_view_is_stretched_to_the_full_range_and_a_flat_one_is_black():
    view = np.linspace(-3, 2, 12).reshape(3, 2, 2)
    assert np.array_equal(gallery._stretched(view), stretched(view))
    assert gallery._stretched(np.full((3, 2, 2), 0.7)).max() == 0


def made(dataset: str, loss: np.ndarray):
    return put(
        {'images': {'label': data.arrays(dataset)[0].labels.astype('int16'), 'loss': loss}},
        'pretext',
        dataset=dataset,
    )


def test_extremes_run_from_the_hardest_to_the_easiest(sheet):
    loss = np.random.default_rng(0).lognormal(size=72).astype('float32')
    train, order = data.arrays('toy')[0], np.argsort(-loss)
    figure = gallery.extremes(made('toy', loss), 4)
    rows = [*order[:4], *order[-4:]]
    assert np.array_equal(sheet.pixels, train.pixels[rows]) and sheet.columns == 4
    assert loss[rows[0]] == loss.max() and loss[rows[-1]] == loss.min()
    # the store names classes as CIFAR-10's, whatever these are
    assert sheet.captions == [f'{data.CLASSES[train.labels[i]]}\n{loss[i]:.2g}' for i in rows]
    assert figure.alt.startswith('The 4 hardest and the 4 easiest images of toy for rotation: ')
    assert figure.alt.endswith(sheet.captions[-1].replace('\n', ' ')) and '\n' not in figure.alt


def test_a_painted_image_stands_below_the_one_it_was_made_of(monkeypatch):
    drawn, train = [], data.arrays('toy')[0]
    monkeypatch.setattr(
        gallery, 'batch_strip', lambda batches, names: drawn.append((batches, names))
    )
    painted = np.random.default_rng(0).integers(256, size=(2, 3, 32, 32), dtype='uint8')
    result = SimpleNamespace(
        spec=SimpleNamespace(dataset='toy'),
        summary={'height': 32, 'width': 32},
        tables={'images': {'index': np.array([5, 3])}, 'as_painted': {'value': painted.ravel()}},
    )
    gallery.painted(result)
    (original, below), names = drawn[0]
    assert names == ['image', 'as painted'] and np.array_equal(below, painted)
    assert np.array_equal(original, train.pixels[[5, 3]])
    monkeypatch.setattr(data, 'available', lambda name: False)
    gallery.painted(result)
    assert drawn[1][1] == ['as painted'] and list(result.tables) == ['images', 'as_painted']


def test_without_the_images_there_is_no_picture(monkeypatch):
    result = made('toy', np.ones(72, 'float32'))
    monkeypatch.setattr(data, 'available', lambda name: name != 'toy')
    assert gallery.views('toy', 'rotation') is None and gallery.extremes(result) is None


def test_an_unknown_task_is_refused():
    with pytest.raises(Refused, match="unknown task 'rotatoin': did you mean 'rotation'"):
        gallery.views('toy', 'rotatoin')
