"""What a trunk has learnt, measured without training it further: probes, neighbours, invariances.

Shapes: N images, C classes, w channels of the first stage, d features. Every reading is taken in
evaluation mode and float32. The test set decides nothing: no layer, no penalty and no epoch is
chosen by it.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import cross_val_predict
from torch import Generator, Tensor, nn

from pt4al.data import Images, views
from pt4al.errors import Refused
from pt4al.experiments.pretext import trained, untrained
from pt4al.experiments.running import prepared, table, title, train_classifier
from pt4al.experiments.specs import Pretext, Representation
from pt4al.experiments.store import Computed, Tables
from pt4al.query.cycle import accuracy
from pt4al.rng import device_stream, stream
from pt4al.tasks.task import recalibrate
from pt4al.training.cohort import on_cpu
from pt4al.training.execution import Execution, float32
from pt4al.training.nets import stages

Encode = Callable[[Tensor], Tensor]  # uint8 pixels [n,3,h,w] -> what the trunk is used to see
BATCH = 500  # images of one forward pass
# scikit-learn's C; 10 does as well on held-out training images
PENALTY = 1.0
GALLERY = 10  # stored neighbours of the first test image of every class
BINS = np.linspace(0, 2, 41)  # distances, in medians of the distance between two images


def _pooled(maps: Tensor, dim: int) -> Tensor:
    side = max(1, round((dim / maps.shape[1]) ** 0.5))
    height, width = (min(side, length) for length in maps.shape[2:])
    return F.adaptive_avg_pool2d(maps, (height, width)).flatten(1)


@torch.no_grad()
@float32()
def features(trunk: nn.Module, pixels: Tensor, encode: Encode = views.normalise) -> list[Tensor]:
    """Pooled maps of every stage of uint8 pixels [N,3,h,w]: [N,d_b] each, d_b about 128 w."""
    trunk.eval()
    dim = 128 * next(trunk.parameters()).shape[0]  # in all stages, so that depth alone differs
    maps = (stages(trunk, encode(part)) for part in pixels.split(BATCH))
    parts = [[_pooled(one, dim) for one in of_stages] for of_stages in maps]
    return [torch.cat(stage) for stage in zip(*parts)]


@torch.no_grad()
@float32()
def embed(trunk: nn.Module, pixels: Tensor, encode: Encode = views.normalise) -> Tensor:
    """The averages of the last maps of uint8 pixels [N,3,h,w], what a classifier reads: [N,8w]."""
    trunk.eval()
    return torch.cat([trunk(encode(part)).mean((2, 3)) for part in pixels.split(BATCH)])


class Probe(NamedTuple):
    """How well a linear classifier reads the test images."""

    accuracy: float
    mean_average_precision: float  # of one class against the rest, averaged over the classes


def linear_probe(train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor) -> Probe:
    """Multinomial logistic regression on frozen features [N,d], [N], [M,d], [M]: standardised by
    the training rows and divided by sqrt(d), so that one penalty serves every width.
    """
    if len(labels.unique()) < 2:
        raise Refused('a linear probe needs labels of at least two classes')
    known, unknown = _scaled(train, test)
    truth = test_labels.cpu().numpy()
    with on_cpu():
        fitted = LogisticRegression(C=PENALTY, max_iter=300).fit(known, labels.cpu().numpy())
        scores = fitted.predict_proba(unknown)
    tested = np.isin(fitted.classes_, truth)
    precision = average_precision_score(
        truth[:, None] == fitted.classes_[tested], scores[:, tested], average='macro'
    )
    return Probe(float((fitted.classes_[scores.argmax(1)] == truth).mean()), float(precision))


def _scaled(train: Tensor, *others: Tensor) -> tuple[np.ndarray, ...]:
    mean, scale = train.mean(0), train.std(0, correction=0).clamp_min(1e-6) * train.shape[1] ** 0.5
    return tuple(((x - mean) / scale).cpu().numpy() for x in (train, *others))


def posterior(features: Tensor, labels: Tensor) -> np.ndarray:
    """Log-posterior [N,C] of every image by a linear probe of the other four folds: [N,d], [N]."""
    probe, rows = LogisticRegression(C=PENALTY, max_iter=300), _scaled(features)[0]
    truth = labels.cpu().numpy()
    with on_cpu():
        # a class that a fold lacks has probability 0 there
        probabilities = cross_val_predict(probe, rows, truth, cv=5, method='predict_proba')
    return np.log(probabilities.clip(1e-12)).astype(np.float32)


@torch.no_grad()
def neighbours(queries: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Cosine similarity and index of the k keys [N,d] nearest each query [Q,d]: [Q,k] each."""
    keys = F.normalize(keys)
    parts = (F.normalize(part) @ keys.T for part in queries.split(BATCH))
    similarity, index = zip(*[part.topk(min(k, len(keys))) for part in parts])
    return torch.cat(similarity), torch.cat(index)


def knn_accuracy(
    train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor, k: int = 20
) -> float:
    """Accuracy on test rows [M,d] of a vote of k nearest rows [N,d], weighted by similarity."""
    similarity, index = neighbours(test, train, k)
    votes = similarity.new_zeros(len(test), int(labels.max()) + 1)
    votes.scatter_add_(1, labels[index], similarity)
    return (votes.argmax(1) == test_labels).float().mean().item()


def share_of_each_class(labels: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """Ascending indices of a share of every class, at least one image each; with the same `rng`
    state, a larger share contains a smaller one.
    """
    order = rng.permutation(len(labels))
    drawn = labels.cpu().numpy()[order]
    place = pd.Series(drawn).groupby(drawn).cumcount().to_numpy()
    chosen = place < np.maximum(1, np.round(share * np.bincount(drawn)))[drawn]
    return torch.from_numpy(np.sort(order[chosen])).to(labels.device)


def shuffle_tiles(pixels: Tensor, rng: Generator) -> Tensor:
    """Permute the quarters of every image by a random one of the 23 orders that change it:
    [n,c,h,w] -> same; an odd last row or column is cut off.
    """
    h, w = pixels.shape[2] // 2, pixels.shape[3] // 2
    cut = pixels[..., : 2 * h, : 2 * w].unflatten(3, (2, w)).unflatten(2, (2, h))
    # [n,4,c,h,w]
    quarters = cut.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    orders = torch.tensor(list(permutations(range(4)))[1:], device=pixels.device)
    drawn = orders[torch.randint(len(orders), (len(pixels),), generator=rng, device=pixels.device)]
    moved = quarters[torch.arange(len(pixels), device=pixels.device)[:, None], drawn]
    return moved.unflatten(1, (2, 2)).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


TRANSFORMS: dict[str, Callable[[Tensor, Generator], Tensor]] = {
    'quarter turn': lambda pixels, rng: pixels.rot90(1, (2, 3)),
    'shuffled tiles': shuffle_tiles,
    'grey': lambda pixels, rng: views.grey(pixels),
    'crop and mirror': views.crop_flip,
}


def invariance(
    trunk: nn.Module, pixels: Tensor, encode: Encode, rng: Generator
) -> dict[str, Tensor]:
    """Distances [N] of unit features between every image and its transforms, and another image, in
    medians of the last: so trunks can be compared (after Misra & van der Maaten 2020, figure 7).
    """
    unit = F.normalize(embed(trunk, pixels, encode))
    order = torch.randperm(len(pixels), generator=rng, device=pixels.device)
    another = torch.empty_like(order)
    another[order] = order.roll(1)
    moved = {name: embed(trunk, change(pixels, rng), encode) for name, change in TRANSFORMS.items()}
    out = {name: (unit - F.normalize(x)).norm(dim=1) for name, x in moved.items()}
    out['another image'] = (unit - unit[another]).norm(dim=1)
    scale = out['another image'].median().clamp_min(1e-12)
    return {name: gap / scale for name, gap in out.items()}


def evaluate(
    s: Representation, trunk: nn.Module, encode: Encode, train: Images, test: Images
) -> tuple[Tables, dict[str, float]]:
    """Tables and summary of a frozen trunk on images that it need not have been trained on.

    'blocks': a probe of every stage, 0 is the stem, on at most `s.images` training images;
    'fractions': a probe of the averaged last maps with `s.fractions` per cent of all labels;
    'neighbours' of the first test image of every class, in the order of classes; 'invariance':
    histograms of relative distance, larger ones counted in the last bin. First, batch norms get
    the statistics of these images in every trunk: those of tiles or grey images would not fit.
    """
    share, rng = min(1, s.images / len(train.labels)), stream(s.seed, 'representation', 'images')
    probed = share_of_each_class(train.labels, share, rng)
    trunk = recalibrate(trunk, (encode(part) for part in train.pixels[probed].split(BATCH)))
    ours, theirs = embed(trunk, train.pixels, encode), embed(trunk, test.pixels, encode)
    stages_of = (features(trunk, pixels, encode) for pixels in (train.pixels[probed], test.pixels))
    blocks, fractions = [], []
    for number, (a, b) in enumerate(zip(*stages_of)):
        probe = linear_probe(a, train.labels[probed], b, test.labels)
        blocks.append((number, a.shape[1], *probe))
    for percent in s.fractions:
        part = labelled(train.labels, percent, s.seed)
        probe = linear_probe(ours[part], train.labels[part], theirs, test.labels)
        fractions.append((percent, len(part), *probe))
    draws = device_stream(s.seed, 'representation', 'invariance', device=test.pixels.device)
    distances = invariance(trunk, test.pixels, encode, draws)
    kinds = dict.fromkeys(Probe._fields, 'float32')
    tables = {
        'blocks': table(blocks, block='int16', dim='int32', **kinds),
        'fractions': table(fractions, percent='int16', labels='int32', **kinds),
        'neighbours': _gallery(ours, theirs, test.labels),
        'invariance': _histograms(distances),
    }
    most = int(tables['fractions']['percent'].argmax())
    summary = {name: float(tables['fractions'][name][most]) for name in kinds}
    summary['knn_accuracy'] = knn_accuracy(ours, train.labels, theirs, test.labels)
    for name in TRANSFORMS:
        summary[f'distance_{name.replace(" ", "_")}'] = distances[name].median().item()
    return tables, summary


def labelled(labels: Tensor, percent: int, seed: int) -> Tensor:
    """The images whose labels a probe or a fine-tuning may see; the same ones for every trunk."""
    return share_of_each_class(labels, percent / 100, stream(seed, 'representation', 'labels'))


def _gallery(ours: Tensor, theirs: Tensor, test_labels: Tensor) -> dict[str, np.ndarray]:
    queries = np.unique(test_labels.cpu().numpy(), return_index=True)[1]
    similarity, index = neighbours(theirs[queries.tolist()], ours, GALLERY)
    k = index.shape[1]
    return {
        'query': np.repeat(queries.astype('int32'), k),
        'rank': np.tile(np.arange(1, k + 1, dtype='int16'), len(queries)),
        'index': index.flatten().cpu().numpy().astype('int32'),
        'similarity': similarity.flatten().cpu().numpy(),
    }


def _histograms(distances: dict[str, Tensor]) -> dict[str, np.ndarray]:
    clipped = (gap.cpu().numpy().clip(max=BINS[-1]) for gap in distances.values())
    counts = [np.histogram(gap, BINS)[0] for gap in clipped]
    return {
        'transform': np.repeat(list(distances), len(BINS) - 1),
        'low': np.tile(BINS[:-1], len(distances)).astype('float32'),
        'images': np.concatenate(counts).astype('int32'),
    }


def retrieve(
    trunk: nn.Module, encode: Encode, train: Images, test: Images, grids: Sequence[int], k: int = 20
) -> tuple[Tables, dict[str, float]]:
    """Nearest patches under a frozen trunk (after Doersch et al. 2015, figure 4), and the shares of
    the last grid.

    A patch is a tile as the tasks on tiles cut it when they score. 'patches': of the k patches of
    train images nearest each patch of the test images, the share from images of its class, and from
    its own place in the grid; 'neighbours': those nearest the middle patch of the first test image
    of every class, patch = image * grid^2 + place.
    """
    rows, near = [], []
    for grid in grids:
        size, cells = math.ceil(min(train.pixels.shape[2:]) // grid * 3 / 4), grid * grid
        tiles = (views.tiles(part.pixels, grid, size) for part in (train, test))
        ours, theirs = (part.flatten(0, 1).contiguous() for part in tiles)
        fitted = recalibrate(trunk, (encode(part) for part in ours.split(BATCH)))
        keys, queries = embed(fitted, ours, encode), embed(fitted, theirs, encode)
        index = neighbours(queries, keys, k)[1]
        label = test.labels.repeat_interleave(cells)[:, None]
        place = torch.arange(cells, device=label.device).repeat(len(test.labels))[:, None]
        same_class = (train.labels[index // cells] == label).float().mean().item()
        same_place = (index % cells == place).float().mean().item()
        rows.append((grid, size, same_class, same_place))
        near.append(_gallery(keys, queries[cells // 2 :: cells], test.labels))
        near[-1]['grid'] = np.full(len(near[-1]['index']), grid, 'int16')
    kinds = {'grid': 'int16', 'size': 'int16', 'same_class': 'float32', 'same_place': 'float32'}
    tables = {
        'patches': table(rows, **kinds),
        'neighbours': {name: np.concatenate([part[name] for part in near]) for name in near[0]},
    }
    return tables, {'same_class': rows[-1][2], 'same_place': rows[-1][3]}


def finetune(
    s: Representation, chosen: Execution, trunk: nn.Module, train: Images, test: Images
) -> dict[str, np.ndarray]:
    """Test accuracy of classifiers that start from a trunk, and from scratch, on `s.finetune` per
    cent of the labels.
    """
    rows = []
    for percent in s.finetune:
        index, path = labelled(train.labels, percent, s.seed), ('representation', 'finetune')
        accuracies = []
        for start, name in ((trunk, 'fine-tuning'), (None, 'scratch')):
            where = (title(s, name, f'{percent} %'), None, *path, percent)
            model, _ = train_classifier(s, chosen, train, index, *where, start=start)
            accuracies.append(accuracy(model, test))
        rows.append((percent, len(index), *accuracies))
    return table(rows, percent='int16', labels='int32', finetuned='float32', scratch='float32')


def run(s: Representation, scratch: Path) -> Computed:
    """The tables of `evaluate`, with 'finetune' where the spec has it; or those of `retrieve`."""
    # refused if it is not at hand, before the backbone is trained
    chosen, train, test = prepared(dataclasses.replace(s, dataset=s.transfer or s.dataset))
    frozen, encode = trunk(s)
    if s.patches:
        return Computed(*retrieve(frozen, encode, train, test, s.patches), train.classes)
    tables, summary = evaluate(s, frozen, encode, train, test)
    if s.finetune:
        tables['finetune'] = finetune(s, chosen, frozen, train, test)
        summary |= {name: float(tables['finetune'][name][-1]) for name in ('finetuned', 'scratch')}
    return Computed(tables, summary, train.classes)


def trunk(s: Representation) -> tuple[nn.Module, Encode]:
    """The trunk that a spec names, and how images enter it."""
    if s.pretext is not None:
        task, model = trained(s.pretext)
        return model.trunk, task.encode
    if not s.supervised:
        rotation = Pretext(s.dataset, seed=s.seed, width=s.width)
        return untrained(rotation, *prepared(rotation)[:2])[1].trunk, views.normalise
    chosen, train, _ = prepared(s)
    everything = torch.arange(len(train.labels), device=chosen.device)
    path = ('representation', 'supervised')
    model, _ = train_classifier(s, chosen, train, everything, title(s, 'supervised'), None, *path)
    return model.trunk, views.normalise
