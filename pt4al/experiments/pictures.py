"""Runs of the pictures that a trained task paints."""

from pathlib import Path

import numpy as np

from pt4al.errors import Refused
from pt4al.experiments import store
from pt4al.experiments.pretext import trained
from pt4al.experiments.running import labels, prepared
from pt4al.experiments.specs import Pictures


def run(s: Pictures, scratch: Path) -> store.Computed:
    """'images', the first of every class, and tables of their pictures, as flat arrays."""
    train = prepared(s)[1]
    task, model = trained(s.pretext)
    label = labels(train)
    firsts = [np.flatnonzero(label == c)[: s.images] for c in range(len(train.classes))]
    index = np.concatenate(firsts)
    painted = task.paintings(model, train.pixels[index.tolist()])
    if not painted:
        raise Refused(f'{s.pretext.task} paints no pictures: take colorization or context_encoder')
    height, width = train.pixels.shape[2:]
    tables = {
        name.replace(' ', '_'): {'value': values.cpu().numpy().ravel()}
        for name, values in painted.items()
    }
    tables['images'] = {'index': index.astype('int32'), 'label': label[index]}
    return store.Computed(tables, {'height': height, 'width': width}, train.classes)
