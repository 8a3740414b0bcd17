"""What a query strategy may look at, and the strategies: functions of that, a budget, a generator.

Every tensor is [N, ...] in data-set order and a strategy returns data-set indices. To add one: a
function of about 10 lines under `@needs`, a line in `pt4al.query.QUERIES`;
`pt4al.testing.check_query` tests it. Pages read the names without importing torch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pt4al.errors import Refused
from pt4al.rng import stream

if TYPE_CHECKING:
    from torch import Tensor


# what a field of `Pool` is to a strategy that does not name it; those of a classifier in cycle 0
ABSENT: Any = None


@dataclass(frozen=True)
class Pool:
    """Everything a strategy may look at; the fields that a strategy `needs` are not None."""

    labelled: Tensor  # [m] data-set indices
    unlabelled: Tensor  # [u] data-set indices a strategy may choose from
    cycle: int  # number of this query, from 0
    cycles: int  # queries in the whole run
    logits: Tensor = ABSENT  # [N,C] of the classifier trained in the cycle before
    features: Tensor = ABSENT  # [N,d] of the same
    pretext_loss: Tensor = ABSENT  # [N]
    predicted_loss: Tensor = ABSENT  # [N] of its loss-prediction head
    ssl_features: Tensor = ABSENT  # [N,d] of the network trained on the pretext task
    classes: int = ABSENT  # C, how many the data set has
    batch: Tensor | None = None  # [N] the batch of each image, where the pool is not cut anew
    pixels: Tensor = ABSENT  # [N,...] uint8, the images themselves
    oracle_labels: Tensor = ABSENT  # [N] the truth: no method may look at it, controls alone

    def restrict(self, indices: Tensor) -> Pool:
        """The same pool, choosing only among those of `indices` without a label, in their order."""
        free = indices.new_zeros(1 + int(max(indices.max(), self.unlabelled.max())))
        free[self.unlabelled] = 1
        return dataclasses.replace(self, unlabelled=indices[free[indices].bool()])


FROM_CLASSIFIER = frozenset({'logits', 'features', 'predicted_loss'})  # not there in cycle 0
FROM_DATA = frozenset({'classes', 'pixels', 'oracle_labels'})  # there in every run
CHUNK = 2**22  # distances held at once: 16 MiB in float32
CLUSTERS, NEIGHBOURS = 500, 20  # of `typiclust`
NOISE = 1e-5  # squared distances below this part of an image's own square are rounding
# (pool, budget, rng) -> data-set indices [budget]
Pick = Callable[[Pool, int, np.random.Generator], 'Tensor']


@dataclass(frozen=True)
class Query:
    """A strategy: what picks, and which optional fields of `Pool` it reads. Calling it picks."""

    pick: Pick
    needs: frozenset[str] = frozenset()
    split: Callable | None = None  # cuts the ordered pool into batches, where the strategy does

    def __call__(self, pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
        """Data-set indices [budget] of unlabelled images."""
        return self.pick(pool, budget, rng)


def needs(*fields: str) -> Callable[[Pick], Query]:
    """Make a function a strategy that reads these optional fields of `Pool`."""
    return lambda pick: Query(pick, frozenset(fields))


def as_query(strategy: Query | Pick) -> Query:
    """The strategy itself, or a plain function as one that needs no optional field."""
    if not callable(strategy):
        raise Refused(f'{strategy!r} is no strategy: give a function (pool, budget, rng)')
    return strategy if isinstance(strategy, Query) else Query(strategy)


def finite(
    values: Tensor, what: str, cure: str = 'the classifier has diverged, lower its learning rate'
) -> Tensor:
    """Return `values` [n], or refuse: NaN sorts as the largest number and would be picked."""
    bad = int((~values.isfinite()).sum())
    if bad:
        raise Refused(f'{bad} {what} are not finite: {cure}')
    return values


def highest(pool: Pool, value: Tensor, budget: int, rng: np.random.Generator) -> Tensor:
    """The `budget` unlabelled indices of largest value [N]; ties fall as `rng` decides."""
    mixed = random(pool, len(pool.unlabelled), rng)
    order = finite(value[mixed], 'values of images').sort(descending=True, stable=True).indices
    return mixed[order[:budget]]


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Indices one after another."""
    import torch

    return torch.cat([*parts])


@needs()
def random(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
    """Uniformly, without replacement."""
    places = rng.permutation(len(pool.unlabelled))[:budget]
    return pool.unlabelled[pool.unlabelled.new_tensor(places)]


@needs('logits')
def least_confidence(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
    """The images with the lowest top-1 posterior (Lewis & Gale 1994; PT4AL, eq. 2)."""
    return highest(pool, -pool.logits.softmax(1).amax(1), budget, rng)


@needs('logits')
def unit_norm_confidence(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
    """Least confidence after scaling each image's logits to unit length, as PT4AL's release has it
    (johnsk95/PT4AL, `get_plabels2` in main.py); not eq. 2 of the paper.
    """
    length = pool.logits.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return least_confidence(dataclasses.replace(pool, logits=pool.logits / length), budget, rng)


@needs('logits')
def margin(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
    """The images whose two highest posteriors differ least (Scheffer, Decomain & Wrobel 2001)."""
    top, second = pool.logits.softmax(1).topk(2).values.unbind(1)
    return highest(pool, second - top, budget, rng)


@needs('logits')
def entropy(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
    """The images whose posterior has the highest entropy (Settles 2009, sec. 2.1)."""
    log = pool.logits.log_softmax(1)
    return highest(pool, -(log.exp() * log).sum(1), budget, rng)


@needs('features')
def coreset(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
    """Greedy k-centre: one by one, the image farthest from its nearest centre (Sener & Savarese
    2018, algorithm 1).

    Centres are the labelled images and the ones picked so far; distances are Euclidean between
    features. Time O(N d (labelled + budget)); memory O(N d).
    """
    free = random(pool, len(pool.unlabelled), rng)
    x, step = pool.features[free], max(1, CHUNK // len(free))
    square = finite(x.norm(dim=1).square(), 'rows of features')

    def nearest(centres: Tensor) -> Tensor:
        gap = ((x @ centres.T).mul_(-2) + centres.norm(dim=1).square()).amin(1) + square
        return gap.where(gap > NOISE * square, 0)

    near, picked = x.new_full((len(x),), math.inf), []
    for start in range(0, len(pool.labelled), step):
        near = near.minimum(nearest(pool.features[pool.labelled[start : start + step]]))
    for _ in range(budget):
        last = int(near.argmax())
        near = near.minimum(nearest(x[last : last + 1]))
        near[last] = -math.inf
        picked.append(last)
    return free[picked]


@needs('features')
def coregcn(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
    """Core-set among the features of a graph network that learns to tell labelled images
    (Caramalau, Bhattarai & Kim 2021).

    Nodes are all images, edges the cosines of their features; two graph convolutions, 128 hidden
    units, Adam at 0.001, as in the authors' code, which looks at 10,000 unlabelled images only.
    """
    import torch

    m = len(pool.labelled)
    rows = joined([pool.labelled, random(pool, len(pool.unlabelled), rng)])
    finite(pool.features[rows].sum(1), 'rows of features')
    x = _unit(pool.features[rows])
    along, hidden = neighbourly(x), 128
    shapes = [(x.shape[1], hidden), (1, hidden), (hidden, 1), (1, 1)]
    bound = [hidden**-0.5, hidden**-0.5, 1, 1]
    drawn = [rng.uniform(-b, b, shape) for b, shape in zip(bound, shapes)]
    weights = [x.new_tensor(draw).requires_grad_() for draw in drawn]
    adam = torch.optim.Adam(weights, 0.001, weight_decay=0.0005)
    masks = torch.Generator(x.device).manual_seed(int(rng.integers(2**62)))

    def layers(keep: float) -> tuple[Tensor, Tensor]:
        out = (along(x @ weights[0]) + weights[1]).relu()
        if keep < 1:
            out = out * (torch.rand(out.shape, generator=masks, device=x.device) < keep) / keep
        return out, along(out @ weights[2]) + weights[3]

    with torch.enable_grad():
        for _ in range(200):
            score = layers(0.7)[1]
            right = torch.nn.functional.logsigmoid(score[:m]).mean()
            wrong = torch.nn.functional.logsigmoid(-score[m:]).mean()
            loss = -right - 1.2 * wrong
            adam.zero_grad()
            loss.backward()
            adam.step()
    learnt = torch.cat(layers(1), 1).detach()
    features = learnt.new_zeros(len(pool.features), hidden + 1)
    features[rows] = learnt
    return coreset(dataclasses.replace(pool, features=features), budget, rng)


def neighbourly(x: Tensor) -> Callable[[Tensor], Tensor]:
    """Multiplies [n,k] by CoreGCN's graph of unit rows x [n,d]: cosines of others over their sum,
    plus the identity.
    """
    degree = (x @ x.sum(0) - 1).clamp_min(1)[:, None]
    return lambda rows: x @ (x.T @ (rows / degree)) - rows / degree + rows


@needs('features', 'logits')
def badge(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
    """k-means++ seeding among gradients of the last layer (Ash et al. 2020, algorithm 1).

    Image i has the gradient g_i = q_i x_i^T, q_i its posterior less its predicted one-hot label,
    x_i its features, and <g_i, g_j> = <q_i, q_j> <x_i, x_j>: memory is O(N(C + d)). As in the
    authors' code the first pick is the longest gradient; each other is drawn by squared distance to
    its nearest pick.
    """
    free = random(pool, len(pool.unlabelled), rng)
    x, q = pool.features[free], pool.logits[free].softmax(1)
    top = q.argmax(1, keepdim=True)
    q.scatter_(1, top, q.gather(1, top) - 1)
    square = finite(q.norm(dim=1).square() * x.norm(dim=1).square(), 'gradients')
    picked, near = [int(square.argmax())], square.new_full((len(x),), math.inf)
    while len(picked) < min(budget, len(x)):
        last = picked[-1]
        gap = square + square[last] - 2 * (q @ q[last]) * (x @ x[last])
        near = near.minimum(gap.where(gap > NOISE * square, 0))
        near[last] = 0
        picked.append(_draw(near.double().cpu().numpy(), picked, rng))
    return free[picked]


def _draw(weight: np.ndarray, picked: list[int], rng: np.random.Generator) -> int:
    """A place drawn by its weight [u], or among all not `picked` if no weight is left."""
    if not weight.any():
        weight = np.ones(len(weight))
        weight[picked] = 0
    total = weight.cumsum()
    draw = 1 - rng.random()  # in (0, 1]: never a weight of zero
    return int(np.searchsorted(total, draw * total[-1]))


@needs('predicted_loss')
def learning_loss(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
    """The images whose loss is predicted to be highest (Yoo & Kweon 2019), of the whole pool."""
    return highest(pool, pool.predicted_loss, budget, rng)


# --- strategies on features of the pretext network ---


def _unit(features: Tensor) -> Tensor:
    """Rows [n,d] scaled to length 1, in float32."""
    length = features.float().norm(dim=1, keepdim=True)
    finite(length, 'rows of features', 'train the pretext task again')
    return features.float() / length.clamp_min(1e-12)


def _clusters(x: Tensor, k: int, rng: np.random.Generator) -> Tensor:
    """Cluster [n] of each row of x [n,d]: mini-batch k-means, on the CPU."""
    import torch
    from sklearn.cluster import MiniBatchKMeans

    from pt4al.training.cohort import on_cpu

    means = MiniBatchKMeans(min(k, len(x)), n_init=1, random_state=int(rng.integers(2**31)))
    rows = x.cpu().numpy()
    with on_cpu():
        cluster = means.fit_predict(rows)
    return torch.from_numpy(cluster).long().to(x.device)


@needs('ssl_features')
def typiclust(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
    """The most typical image of each of the largest clusters without a label (Hacohen, Dekel &
    Weinshall 2022, TPC_RP).

    As many clusters as there will be labels, `CLUSTERS` at most; those with the fewest labels give
    first, of these the largest. Typical is an image near, on average, to the `NEIGHBOURS` nearest
    of its cluster. When every cluster has given one, each gives its next.
    """
    import torch

    m = len(pool.labelled)
    rows = joined([pool.labelled, random(pool, len(pool.unlabelled), rng)])
    x = _unit(pool.ssl_features[rows])
    cluster = _clusters(x, min(m + budget, CLUSTERS), rng)
    size = cluster.bincount().cpu().numpy()
    labels = cluster[:m].bincount(minlength=len(size)).cpu().numpy()
    members = cluster.sort(stable=True).indices.split(size.tolist())
    turns = np.lexsort((rng.permutation(len(size)), -size, labels))
    turns = turns[size[turns] > labels[turns]]
    queues = []
    for rest in (members[c] for c in turns[:budget]):
        typical = rest[_spread(x[rest], NEIGHBOURS).sort(stable=True).indices]
        queues.append(typical[typical >= m])
    rounds = torch.cat([torch.arange(len(queue), device=x.device) for queue in queues])
    first = rounds.sort(stable=True).indices[:budget]
    return rows[torch.cat(queues)[first]]


def _spread(x: Tensor, k: int) -> Tensor:
    """Sum of the distances [n] of each unit row of x [n,d] to its k nearest others."""
    out, nearest = [], min(k + 1, len(x))  # itself is among them, at 0
    for part in x.split(max(1, CHUNK // len(x))):
        gap = (part @ x.T).mul_(-2).add_(2)
        out.append(gap.where(gap > NOISE, 0).topk(nearest, largest=False).values.sqrt().sum(1))
    return joined(out)


@needs('ssl_features', 'classes')
def probcover(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
    """One by one, the image whose ball holds most images that no ball holds yet (Yehuda et al.
    2022, algorithm 1).

    Balls of labelled images count from the start; all have the radius of `_pure`. An image leaves
    the count of all balls around it once: time O(N^2 d), memory O(N d).
    """
    import torch

    rows = torch.cat([pool.labelled, pool.unlabelled]).sort().values
    x = _unit(pool.ssl_features[rows])
    bar, step = _pure(x, pool.classes), max(1, CHUNK // len(x))

    def covered_by(index: Tensor) -> Tensor:
        """How many of the images of `index` each ball holds, [n]."""
        counts = ((x[part] @ x.T > bar).sum(0) for part in index.split(step))
        return sum(counts, index.new_zeros(len(x)))

    free = torch.searchsorted(rows, random(pool, len(pool.unlabelled), rng))
    uncovered, picked = covered_by(torch.searchsorted(rows, pool.labelled)) == 0, []
    gain = covered_by(uncovered.nonzero()[:, 0])[free]
    for _ in range(budget):
        last = int(gain.argmax())
        new = uncovered & (x @ x[free[last]] > bar)
        uncovered ^= new
        gain -= covered_by(new.nonzero()[:, 0])[free]
        gain[last] = -len(x) - 1
        picked.append(last)
    return rows[free[picked]]


def _pure(x: Tensor, classes: int) -> Tensor:
    """Cosine at the rim of the largest balls of which 95 % hold images of one cluster only.

    Of unit rows x [n,d]; as many k-means clusters as classes stand for these; estimated from 5,000
    balls, the same in every run.
    """
    rng = stream(0, 'probcover', 'radius')
    cluster = _clusters(x, classes, rng)
    balls = cluster.new_tensor(rng.permutation(len(x))[:5000])
    strange = []
    for part in balls.split(max(1, CHUNK // len(x))):
        alike = cluster[part][:, None] == cluster
        strange.append((x[part] @ x.T).masked_fill_(alike, -1).amax(1))
    return joined(strange).kthvalue(math.ceil(0.95 * len(balls))).values


# --- strategies made of others ---


def cold(query: Query | Pick) -> Query:
    """Let a strategy that needs a classifier start at random in cycle 0."""
    query = as_query(query)

    @needs(*query.needs)
    def started(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
        if pool.cycle == 0:
            return random(pool, budget, rng)
        return query(pool, budget, rng)

    return started


@needs('oracle_labels')
def class_even(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
    """A control, not a method: at random, an equal share of each true class, or all it has.

    What a small class lacks the others share; which of them get one more is drawn.
    """
    label = pool.oracle_labels[pool.unlabelled]
    available = label.bincount().cpu().numpy()
    share = np.zeros_like(available)
    left = min(budget, available.sum())
    while left > 0:
        one_more = rng.permutation(np.flatnonzero(share < available))[:left]
        share[one_more] += 1
        left -= len(one_more)
    parts = {c: pool.restrict(pool.unlabelled[label == c]) for c in np.flatnonzero(share).tolist()}
    return joined([random(part, int(share[c]), rng) for c, part in parts.items()])


def class_matched(inner: Query | Pick) -> Query:
    """A control, not a method: in cycle 0 a random draw of the true classes that `inner` would
    pick, which tells the effect of classes from that of difficulty; then at random.
    """
    inner = as_query(inner)

    @needs('oracle_labels', *inner.needs)
    def query(pool: Pool, budget: int, rng: np.random.Generator) -> Tensor:
        if pool.cycle:
            return random(pool, budget, rng)
        picked = inner(pool, budget, rng)
        wanted = pool.oracle_labels[picked].bincount().tolist()
        mixed = random(pool, len(pool.unlabelled), rng)
        labels = pool.oracle_labels[mixed]
        return joined([mixed[labels == c][:count] for c, count in enumerate(wanted)])

    return dataclasses.replace(query, split=inner.split)
