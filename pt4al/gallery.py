"""Pictures of a pretext task at work: what the network is shown, and which images it finds hard and easy."""
from __future__ import annotations

import numpy as np

from . import data, figures
from .figures import Figure
from .store import Result
from .tasks import TASKS


def seen(dataset: str, task: str, images: int = 3, most: int = 9) -> Figure | None:
    """The first images of `images` classes, then what the trunk is shown of each when it trains; at most `most` views.

    Every view is stretched to the full range of brightness.  None where the images are not at hand.
    """
    if not data.available(dataset):
        return None
    import torch

    from .rng import device_stream
    split = data.arrays(dataset)[0]
    some = np.unique(split.labels, return_index=True)[1][:images]
    inputs, _ = TASKS[task]().make_batch(torch.from_numpy(split.pixels[some]), torch.from_numpy(some),
                                         device_stream(0, 'gallery', task))
    rows: list[list[np.ndarray]] = [[image[:3]] for image in split.pixels[some]]
    for views in (x for x in inputs if x.ndim == 4):
        for k, group in enumerate(views.unflatten(0, (len(some), -1)).float().numpy()):
            rows[k] += [_stretched(view) for view in group[:most]]
    width = max(map(len, rows))
    side = max(image.shape[-1] for row in rows for image in row)
    sheet = np.stack([_enlarged(image, side) for row in rows for image in row])
    captions = [('image' if k == 0 else f'view {k}') for _ in rows for k in range(width)]
    return figures.picture_grid(sheet, captions, width, f'What {task} shows the network',
                                f'{images} images of {dataset}, each with the {width - 1} views that {task} shows the network.')


def _stretched(view: np.ndarray) -> np.ndarray:
    low, high = view.min(), view.max()
    return np.round(255 * (view - low) / max(high - low, 1e-6)).astype(np.uint8)


def _enlarged(image: np.ndarray, side: int) -> np.ndarray:
    from PIL import Image
    resized = Image.fromarray(image.transpose(1, 2, 0)).resize((side, side), Image.Resampling.NEAREST)
    return np.asarray(resized).transpose(2, 0, 1)


def extremes(result: Result, count: int = 10) -> Figure | None:
    """The hardest and the easiest images of a pretext result, hardest first; None where the images are not at hand."""
    dataset, images = result.spec['dataset'], result.tables['images']
    if not data.available(dataset):
        return None
    order = np.argsort(-images['loss'], kind='stable')
    rows = np.concatenate([order[:count], order[-count:]])
    captions = [f'{result.classes[images["label"][i]]}\n{images["loss"][i]:.2g}' for i in rows]
    task = result.spec['task']
    return figures.picture_grid(data.arrays(dataset)[0].pixels[rows][:, :3], captions, count,
                                f'{task}: hardest above, easiest below',
                                f'The {count} hardest and the {count} easiest images of {dataset} for {task}: '
                                + ', '.join(caption.replace('\n', ' ') for caption in captions))
