"""Pictures of a pretext task at work: what the network is shown, and which images it finds hard and
easy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from pt4al import data
from pt4al.data import clips
from pt4al.errors import choose
from pt4al.experiments.store import Result
from pt4al.figures import Figure, drawing, losses
from pt4al.rng import device_stream
from pt4al.tasks import TASKS


def views(dataset: str, task: str, images: int = 3, most: int = 9) -> Figure | None:
    """The first images of `images` classes, then what the trunk is shown of each when it trains; at
    most `most` views.

    Every view is stretched to the full range of brightness; of a clip, the image is its middle
    frame, and a sound stands beside its image.  None where the images are not at hand.
    """
    choose('task', task, TASKS)
    if not data.available(dataset):
        return None
    split = data.arrays(dataset)[0]
    rows_shown = np.unique(split.labels, return_index=True)[1][:images]
    inputs, _ = TASKS[task]().make_batch(
        torch.from_numpy(split.pixels[rows_shown]),
        torch.from_numpy(rows_shown),
        device_stream(0, 'gallery', task),
    )
    rows: list[list[np.ndarray]] = [[image] for image in clips.still(split.pixels[rows_shown])]
    if heard := split.pixels.ndim == 4 and split.pixels.shape[1] == 4:
        rows = [
            row + [image[3:].repeat(3, 0)] for row, image in zip(rows, split.pixels[rows_shown])
        ]
    for batch in (x for x in inputs if x.ndim == 4):
        for row, group in zip(rows, batch.unflatten(0, (len(rows_shown), -1)).float().numpy()):
            row += [_stretched(view) for view in group[: most + 1 + heard - len(row)]]
    width = max(map(len, rows))
    side = max(image.shape[-1] for row in rows for image in row)
    sheet = np.stack([_enlarged(image, side) for row in rows for image in row])
    names = ['image', *['sound'] * heard, *(f'view {k + 1}' for k in range(width))]
    captions = [names[k] for _ in rows for k in range(width)]
    alt = (
        f'{len(rows_shown)} images of {dataset}, each with {"its sound and " * heard}what {task} '
        f'shows the network (views: {width - 1 - heard}).'
    )
    return losses.picture_grid(sheet, captions, width, f'What {task} shows the network', alt)


def _stretched(view: np.ndarray) -> np.ndarray:
    low, high = view.min(), view.max()
    return np.round(255 * (view - low) / max(high - low, 1e-6)).astype(np.uint8)


def _enlarged(image: np.ndarray, side: int) -> np.ndarray:
    resized = Image.fromarray(image.transpose(1, 2, 0)).resize(
        (side, side), Image.Resampling.NEAREST
    )
    return np.asarray(resized).transpose(2, 0, 1)


def extremes(result: Result, count: int = 10) -> Figure | None:
    """The hardest and the easiest images of a pretext result, hardest first; None where the images
    are not at hand.
    """
    dataset, images = result.spec.dataset, result.tables['images']
    if not data.available(dataset):
        return None
    order = np.argsort(-images['loss'], kind='stable')
    rows = np.concatenate([order[:count], order[-count:]])
    captions = [f'{result.classes[images["label"][i]]}\n{images["loss"][i]:.2g}' for i in rows]
    # readable on a phone
    task, columns = result.spec.task, max(n for n in range(1, 6) if count % n == 0)
    return losses.picture_grid(
        clips.still(data.arrays(dataset)[0].pixels[rows]),
        captions,
        columns,
        f'{task}: hardest above, easiest below',
        f'The {count} hardest and the {count} easiest images of {dataset} for {task}: '
        + ', '.join(caption.replace('\n', ' ') for caption in captions),
    )


def painted(result: Result) -> Figure:
    """The images of a `pictures` result, one a column, above what the task made of them; originals
    where at hand.
    """
    dataset, tables = result.spec.dataset, dict(result.tables)
    images = tables.pop('images')
    shape = (len(images['index']), 3, result.summary['height'], result.summary['width'])
    rows = {name.replace('_', ' '): table['value'].reshape(shape) for name, table in tables.items()}
    if data.available(dataset):
        rows = {'image': data.arrays(dataset)[0].pixels[images['index']][:, :3]} | rows
    return batch_strip(list(rows.values()), list(rows))


def batch_strip(batches: Sequence[np.ndarray], names: Sequence[str]) -> Figure:
    """One row of images [n,3,h,w] uint8 a batch, its name in front; hardest batch first."""
    alt = f'Images in {len(batches)} rows, from {names[0]} to {names[-1]}.'
    blank = [[''] * len(batch) for batch in batches]
    return Figure(None, drawing.contact_sheet(batches, blank, row_names=names), alt)
