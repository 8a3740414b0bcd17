"""Small data sets as the explorer shows them."""

from __future__ import annotations

import numpy as np
from explorer import Column, Dataset

EVIL = '</script><img src=x onerror=alert(1)>"\''


def dataset(main, pretext, labels=None, classes=('a', 'b'), name='own', picks=()) -> Dataset:
    labels = np.zeros(len(main), int) if labels is None else labels
    return Dataset(
        name,
        f'set-{name}',
        np.asarray(labels),
        tuple(classes),
        [
            Column(
                f'p-{name}',
                'rotation',
                'seed 0',
                np.asarray(pretext, float),
                {'views': {'turns': True}},
            )
        ],
        [Column(f'm-{name}', 'out-of-fold', 'seed 0', np.asarray(main, float))],
        list(picks),
    )
