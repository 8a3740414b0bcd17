"""What tasks that paint make of images: stored whole, drawn in rows, and nothing from a task that
paints nothing.
"""

from __future__ import annotations

import gallery
import numpy as np
import pytest
import torch
from toys import toy

import pt4al
from pt4al.data import views
from pt4al.errors import Refused
from pt4al.experiments import specs
from pt4al.rng import initialising, stream
from pt4al.tasks import TASKS
from pt4al.training.nets import Model, resnet18

torch.set_num_threads(1)  # networks this small are slower on more
NAMES = {
    'colorization': ['grey', 'painted'],
    'colorization:l2': ['grey', 'painted'],
    'colorization:diverse': ['grey', 'painted', 'variant 1', 'variant 2', 'variant 3'],
    'colorization_reproduced': ['grey', 'painted'],
    'context_encoder': ['hole', 'painted'],
    'context_encoder:centre': ['hole', 'painted'],
}


@pytest.fixture(autouse=True)
def toys(store_of_toys):
    return store_of_toys


@pytest.mark.parametrize('name', TASKS)
def test_paintings_are_pictures_of_the_images(name):
    pixels = torch.from_numpy(
        stream(0, 'pictures').integers(256, size=(3, 3, 32, 32), dtype=np.uint8)
    )
    task = TASKS[name]()
    if name not in NAMES:
        assert task.paintings(None, pixels) == {}
        return
    with initialising(0, 'pictures'):
        model = Model(resnet18(4), task.head(32))
    made = task.paintings(model, pixels)
    assert list(made) == NAMES[name]
    assert all(p.dtype == torch.uint8 and p.shape == pixels.shape for p in made.values())
    if 'grey' in made:
        assert torch.equal(made['grey'], views.grey(pixels)) and not torch.equal(
            made['painted'], pixels
        )
    else:
        hidden = task.masks(pixels).any(0).expand_as(pixels[0])
        assert torch.equal(made['painted'][:, ~hidden], pixels[:, ~hidden])
        assert not torch.equal(made['painted'][:, hidden], pixels[:, hidden])
        first = task.masks(pixels)[0].expand_as(pixels[0])
        assert torch.equal(made['hole'][:, ~first], pixels[:, ~first])
        assert (made['hole'][:, first].float().std() < pixels[:, first].float().std()).all()


def test_they_are_stored_and_drawn_a_row_a_kind(monkeypatch):
    spec = pt4al.spec('pictures', dataset='toy', task='context_encoder', seed=1)
    assert spec.pretext.seed == 1 and specs.seeded(spec, 2).pretext.seed == 2
    result = pt4al.get(spec)
    pixels = toy()[0].pixels
    images = result.tables['images']
    assert (
        images['label'].tolist() == [0, 1, 2]
        and (toy()[0].labels[images['index']] == [0, 1, 2]).all()
    )
    rows = []
    monkeypatch.setattr(gallery, 'batch_strip', lambda *given: rows.append(given))
    gallery.painted(result)
    ((drawn, names),) = rows
    assert names == ['image', 'hole', 'painted'] and np.array_equal(
        drawn[0], pixels[images['index']]
    )
    assert all(row.shape == drawn[0].shape and row.dtype == np.uint8 for row in drawn)
    assert pt4al.runs('pictures', dataset='toy', task='context_encoder')[0].key == result.key


def test_a_task_that_paints_nothing_is_refused():
    with pytest.raises(
        Refused, match='rotation paints no pictures: take colorization or context_encoder'
    ):
        pt4al.get(pt4al.spec('pictures', dataset='toy'))
