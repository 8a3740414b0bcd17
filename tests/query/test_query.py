"""Strategies and the split of the pool against slow loops."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pt4al import query
from pt4al.errors import Refused
from pt4al.figures import METHOD_COLOURS
from pt4al.query import QUERIES, strategies
from pt4al.query.pt4al import (
    as_text,
    batch_split,
    easiest_first,
    every_kth,
    first_k,
    hardest_first,
    shuffled,
    split,
)
from pt4al.query.strategies import (
    Pool,
    badge,
    class_even,
    class_matched,
    cold,
    coregcn,
    coreset,
    entropy,
    highest,
    learning_loss,
    least_confidence,
    margin,
    needs,
    probcover,
    random,
    typiclust,
    unit_norm_confidence,
)
from pt4al.query.vaal import vaal
from pt4al.rng import stream

TWO_CHANGES = {
    name
    for (order, sampler), name in query.FACTORIAL.items()
    if order != 'hardest' and sampler != 'confidence'
}

torch.set_num_threads(1)  # tensors this small are slower on more
ROOT = Path(__file__).resolve().parents[2]


def pool(
    n: int = 60, cycle: int = 1, cycles: int = 3, labelled: int = 6, **fields: torch.Tensor
) -> Pool:
    order = torch.from_numpy(np.random.default_rng(1).permutation(n))
    return Pool(order[:labelled], order[labelled:].sort().values, cycle, cycles, **fields)


def draws(n: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(2).normal(size=(n, *shape)))


# --- what stored results depend on ---

GOLDEN = {
    ('random', 0): [468, 173, 225, 268, 332, 395, 194, 181, 188, 345, 392, 370],
    ('random', 3): [497, 300, 297, 168, 144, 48, 244, 91, 66, 243, 128, 464],
    ('least_confidence', 0): [468, 173, 225, 268, 332, 395, 194, 181, 188, 345, 392, 370],
    ('least_confidence', 3): [464, 18, 367, 208, 309, 149, 19, 278, 181, 37, 212, 17],
    ('pt4al', 0): [263, 178, 129, 479, 261, 236, 23, 2, 299, 241, 448, 118],
    ('pt4al', 3): [130, 405, 365, 435, 100, 75, 290, 200, 320, 55, 460, 395],
}


@pytest.mark.parametrize('name, cycle', GOLDEN)
def test_picks_are_those_of_the_first_recipe(name, cycle):
    """With ties in logits and losses.  Other picks need a higher recipe number, or old results
    would pass for new.
    """
    rng = np.random.default_rng(7)
    order, logits, loss = (
        rng.permutation(500),
        rng.normal(size=(500, 10)).round(1),
        10 ** rng.uniform(-7, 1, size=500),
    )
    logits[::7], loss[::5] = logits[0], loss[0]
    p = Pool(
        torch.from_numpy(order[: 10 * cycle]),
        torch.from_numpy(order[10 * cycle :]).sort().values,
        cycle,
        10,
        torch.from_numpy(logits).float() if cycle else None,
        None,
        torch.from_numpy(loss).float(),
    )
    assert QUERIES[name](p, 12, stream(5, 'cycle', cycle, 'query')).tolist() == GOLDEN[name, cycle]


# --- split ---


@pytest.mark.parametrize('n, batches', [(1000, 10), (1003, 10), (7, 7), (5, 1), (50, 3)])
def test_split_partitions_and_is_monotone_over_eight_decades(n, batches):
    loss = 10.0 ** torch.from_numpy(np.random.default_rng(n).permutation(np.linspace(-7, 1, n)))
    for dtype in (torch.float32, torch.float64):
        parts = split(loss.to(dtype), batches)
        assert len(parts) == batches and max(map(len, parts)) - min(map(len, parts)) <= 1
        assert sorted(torch.cat(parts).tolist()) == list(range(n))
        assert all(loss[a].min() > loss[b].max() for a, b in zip(parts, parts[1:]))


def test_split_compares_numbers_not_text():
    loss = torch.tensor([9.99e-05, 0.97, 1.2, 10.5, 2e-7, 3.0])
    assert torch.cat(split(loss, 6)).tolist() == [3, 5, 2, 1, 0, 4]
    as_text = sorted(range(6), key=lambda i: str(loss[i].item()), reverse=True)
    assert as_text != [3, 5, 2, 1, 0, 4]


def test_ties_do_not_follow_the_files_and_are_the_same_in_every_call():
    parts = split(torch.zeros(1000), 10)
    assert all(torch.equal(a, b) for a, b in zip(parts, split(torch.zeros(1000), 10)))
    # were batches stretches of the files, their mean places would be 50, 150, ...; at random they
    # are 500 +- 29
    assert all(abs(part.double().mean() - 499.5) < 4 * 1000 / math.sqrt(12 * 100) for part in parts)
    half = torch.cat([torch.ones(500), torch.zeros(500)])
    assert set(torch.cat(split(half, 10)[:5]).tolist()) == set(range(500))


def test_more_batches_than_images_is_refused():
    with pytest.raises(Refused, match='5 batches of 4 images: give at most one batch an image'):
        split(torch.ones(4), 5)


@pytest.mark.parametrize('bad', [float('nan'), float('inf'), -float('inf')])
def test_losses_that_are_not_finite_are_refused(bad):
    with pytest.raises(Refused, match='2 pretext losses are not finite: score again'):
        split(torch.tensor([1.0, bad, 2.0, bad]), 2)


def test_easiest_first_ascends():
    loss = 10.0 ** torch.from_numpy(np.random.default_rng(5).permutation(np.linspace(-7, 1, 103)))
    assert torch.cat(easiest_first(loss, 10)).tolist() == sorted(range(103), key=lambda i: loss[i])
    assert [len(part) for part in easiest_first(loss, 10)] == [11] * 3 + [10] * 7


def test_as_text_puts_the_easiest_before_nine_tenths():
    loss = torch.tensor([0.9, 9.7e-05, 0.5, 1.2, 10.5, 0.00011, 3e-07], dtype=torch.float64)
    assert torch.cat(as_text(loss, 7)).tolist() == [1, 6, 4, 3, 0, 2, 5]
    assert torch.cat(as_text(loss.float(), 7)).tolist() == [1, 6, 4, 3, 0, 2, 5]
    assert torch.cat(hardest_first(loss, 7)).tolist() == [4, 3, 0, 2, 5, 1, 6]


def test_as_text_is_a_sort_of_what_python_writes():
    loss = 10.0 ** torch.from_numpy(np.random.default_rng(5).uniform(-7, 1, size=1000)).float()
    order = torch.cat(as_text(loss, 10)).tolist()
    assert order == sorted(range(1000), key=lambda i: str(loss[i].item()), reverse=True)
    assert (loss[order[:500]] < 1e-4).sum() > 300  # three decades of eight go to the front


def test_shuffled_is_one_permutation_of_the_images_a_pretext_run():
    loss = 10.0 ** torch.from_numpy(np.random.default_rng(5).uniform(-7, 1, size=1000)).float()
    parts = shuffled(loss, 10)
    assert sorted(torch.cat(parts).tolist()) == list(range(1000)) and {
        len(part) for part in parts
    } == {100}
    assert all(torch.equal(a, b) for a, b in zip(parts, shuffled(loss.clone().double(), 10)))
    # image i is stored in place new[i]
    new = torch.from_numpy(np.random.default_rng(6).permutation(1000))
    for part, renamed in zip(parts, shuffled(loss[new.argsort()], 10)):
        assert torch.equal(new[part], renamed)
    # a random batch has a mean rank of 500 +- 29; other losses of the same ranks give another
    # permutation
    ranks = loss.argsort().argsort().double()
    assert all(abs(ranks[part].mean() - 499.5) < 4 * 1000 / math.sqrt(12 * 100) for part in parts)
    assert (
        50
        < sum(len(set(a.tolist()) & set(b.tolist())) for a, b in zip(parts, shuffled(2 * loss, 10)))
        < 150
    )


@pytest.mark.parametrize('order', [easiest_first, as_text, shuffled])
def test_every_order_refuses_what_split_refuses(order):
    with pytest.raises(Refused, match='1 pretext losses are not finite: score again'):
        order(torch.tensor([1.0, float('nan'), 2.0]), 2)
    with pytest.raises(Refused, match='5 batches of 4 images'):
        order(torch.ones(4), 5)


# --- strategies ---


def test_least_confidence_is_a_loop_over_the_pool():
    p = pool(logits=3 * draws(60, 4))

    def confidence(i: int) -> float:
        powers = [math.exp(v) for v in p.logits[i].tolist()]
        return max(powers) / sum(powers)

    by_hand = sorted(p.unlabelled.tolist(), key=confidence)[:10]
    assert least_confidence(p, 10, stream(0)).tolist() == by_hand
    assert QUERIES['least_confidence'](p, 10, stream(0)).tolist() == by_hand


def test_least_confidence_soft_maxes_logits_itself():
    """Row 0 has the larger logit and the smaller posterior."""
    p = Pool(torch.arange(0), torch.arange(2), 1, 2, logits=torch.tensor([[9.0, 8.9], [2.0, 0.0]]))
    assert least_confidence(p, 1, stream(0)).tolist() == [0]


def by_value(p: Pool, value, budget: int) -> list[int]:
    return sorted(p.unlabelled.tolist(), key=value)[:budget]


def posterior(row: list[float]) -> list[float]:
    powers = [math.exp(v) for v in row]
    return [v / sum(powers) for v in powers]


def test_margin_is_a_loop_over_the_pool():
    p = pool(logits=3 * draws(60, 4))

    def gap(i: int) -> float:
        *_, second, top = sorted(posterior(p.logits[i].tolist()))
        return top - second

    assert (
        margin(p, 10, stream(0)).tolist()
        == by_value(p, gap, 10)
        == QUERIES['margin'](p, 10, stream(0)).tolist()
    )


def test_entropy_is_a_loop_over_the_pool():
    p = pool(logits=3 * draws(60, 4))

    def negative(i: int) -> float:
        return sum(v * math.log(v) for v in posterior(p.logits[i].tolist()))

    by_hand = by_value(p, negative, 10)
    assert (
        entropy(p, 10, stream(0)).tolist()
        == by_hand
        == QUERIES['entropy'](p, 10, stream(0)).tolist()
    )
    # posteriors that underflow
    sure = pool(logits=torch.tensor([[500.0, 0.0, 0.0]]).repeat(60, 1))
    sure.logits[7] = 0
    p = dataclasses.replace(sure, labelled=torch.arange(0), unlabelled=torch.arange(60))
    assert entropy(p, 5, stream(0))[0] == 7


def test_unit_norm_confidence_is_a_loop_and_not_least_confidence():
    p = pool(logits=3 * draws(60, 4))

    def confidence(i: int) -> float:
        row = p.logits[i].tolist()
        length = math.sqrt(sum(v * v for v in row))
        return max(posterior([v / length for v in row]))

    by_hand = by_value(p, confidence, 10)
    assert (
        unit_norm_confidence(p, 10, stream(0)).tolist()
        == by_hand
        != least_confidence(p, 10, stream(0)).tolist()
    )
    assert QUERIES['unit_norm_confidence'](p, 10, stream(0)).tolist() == by_hand
    grown = dataclasses.replace(p, logits=p.logits * draws(60).exp()[:, None])
    assert unit_norm_confidence(grown, 10, stream(0)).tolist() == by_hand
    zero = dataclasses.replace(p, logits=torch.zeros(60, 4))
    assert len(unit_norm_confidence(zero, 10, stream(0)).unique()) == 10


def far_apart(p: Pool, budget: int, picked: list[int]) -> list[int]:
    """Greedy k-centre as the paper's algorithm 1 says it, every distance anew."""
    for _ in range(budget - len(picked)):
        centres = p.labelled.tolist() + picked
        open_ = [i for i in p.unlabelled.tolist() if i not in picked]
        picked.append(
            max(open_, key=lambda i: min(math.dist(p.features[i], p.features[c]) for c in centres))
        )
    return picked


@pytest.mark.parametrize('chunk', [strategies.CHUNK, 200, 1])
def test_coreset_is_a_loop_over_all_pairs(chunk, monkeypatch):
    monkeypatch.setattr(strategies, 'CHUNK', chunk)
    p = pool(labelled=7, features=draws(60, 5))
    assert (
        coreset(p, 12, stream(0)).tolist()
        == far_apart(p, 12, [])
        == QUERIES['coreset'](p, 12, stream(0)).tolist()
    )


def test_the_graph_of_coregcn_is_the_matrix_of_its_source():
    x = torch.nn.functional.normalize(draws(40, 5).abs())
    cosines = x @ x.T - torch.eye(40)
    graph = cosines @ torch.diag(1 / cosines.sum(0)) + torch.eye(40)
    rows = draws(40, 3)
    assert torch.allclose(strategies.neighbourly(x)(rows), graph @ rows)


def test_coregcn_is_coreset_on_what_the_graph_learns_and_looks_where_no_label_is():
    near, far = torch.tensor([1.0, 0.05]), torch.tensor([0.05, 1.0])
    features = torch.stack([near] * 60 + [far] * 20) + 0.02 * draws(80, 2).float()
    p = Pool(torch.arange(30), torch.arange(30, 80), 1, 10, features=features)
    picked = coregcn(p, 3, stream(0))
    assert int(picked[0]) >= 60
    assert picked.tolist() == coregcn.pick(p, 3, stream(0)).tolist()
    scaled = dataclasses.replace(p, features=1000 * features)
    assert coregcn(scaled, 3, stream(0)).tolist()[0] >= 60
    broken = dataclasses.replace(p, features=features / 0)
    with pytest.raises(Refused, match='80 rows of features are not finite'):
        coregcn(broken, 3, stream(0))


def test_vaal_looks_where_no_label_is():
    kinds = torch.tensor([40, 200])[torch.arange(80) // 60][:, None, None, None]
    pixels = (
        kinds + torch.randint(30, (80, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    ).byte()
    p = Pool(torch.arange(30), torch.arange(30, 80), 1, 10, pixels=pixels)
    picked = vaal.pick(p, 10, stream(0), steps=60)
    assert int((picked >= 60).sum()) >= 9
    assert picked.tolist() == vaal.pick(p, 10, stream(0), steps=60).tolist()
    clips = dataclasses.replace(p, pixels=pixels[:, None].expand(-1, 3, -1, -1, -1))
    assert vaal.pick(clips, 10, stream(0), steps=60).tolist() == picked.tolist()


def test_coreset_without_labels_starts_anywhere():
    p = pool(labelled=0, features=draws(60, 5))
    picks = [coreset(p, 8, stream(s)).tolist() for s in range(20)]
    assert (
        all(pick == far_apart(p, 8, pick[:1]) for pick in picks)
        and len({pick[0] for pick in picks}) > 10
    )


@pytest.mark.parametrize('name', ['coreset', 'badge'])
def test_copies_are_picked_once_each_and_at_random(name):
    """Two distinct rows in 60: after one of each, nothing tells the others apart."""
    x = draws(2, 5).float()[torch.arange(60) % 2]
    p = pool(labelled=0, features=x, logits=x)
    picks = [QUERIES[name](p, 12, stream(s)).tolist() for s in range(200)]
    assert all(len(set(pick)) == 12 and pick[0] % 2 != pick[1] % 2 for pick in picks)
    counts = np.bincount(np.ravel(picks), minlength=60)
    assert np.abs(counts - 40).max() < 4.5 * math.sqrt(200 / 5 * 4 / 5)


@pytest.mark.parametrize('noise', [strategies.NOISE, 0])
@pytest.mark.parametrize('name', ['coreset', 'badge'])
def test_nothing_is_picked_twice_to_the_end_of_the_pool(name, noise, monkeypatch):
    # 0: as where products are too coarse to be told from copies
    monkeypatch.setattr(strategies, 'NOISE', noise)
    x = draws(7, 40).float()[torch.arange(60) % 7]
    p = pool(features=x, logits=x)
    for s in range(20):
        assert sorted(QUERIES[name](p, 54, stream(s)).tolist()) == p.unlabelled.tolist()


def gradients(p: Pool) -> torch.Tensor:
    """[N, C * d]: gradient of the cross-entropy under the predicted label in the last layer's
    weights, by autograd.
    """
    out = []
    for x, logits in zip(p.features, p.logits):
        weight = torch.zeros(len(logits), len(x), dtype=x.dtype, requires_grad=True)
        loss = torch.nn.functional.cross_entropy((logits + weight @ x)[None], logits.argmax()[None])
        out.append(torch.autograd.grad(loss, weight)[0].flatten())
    return torch.stack(out)


def test_badge_draws_as_k_means_plus_plus_among_gradients():
    p = pool(n=9, labelled=3, features=draws(9, 5), logits=draws(9, 4))
    g, free = gradients(p), p.unlabelled.tolist()
    first = max(free, key=lambda i: g[i].norm())
    expected: dict[tuple[int, int, int], float] = {}
    for second, third in itertools.permutations([i for i in free if i != first], 2):
        chance, picked = 1.0, [first]
        for pick in (second, third):
            weight = {i: min((g[i] - g[j]).square().sum().item() for j in picked) for i in free}
            chance *= weight[pick] / sum(weight.values())
            picked.append(pick)
        expected[first, second, third] = chance
    assert sum(expected.values()) == pytest.approx(1)
    seen = collections.Counter(tuple(badge(p, 3, stream(s)).tolist()) for s in range(3000))
    assert seen.keys() <= expected.keys()
    for picks, chance in expected.items():
        assert abs(seen[picks] - 3000 * chance) < 4.5 * math.sqrt(3000 * chance * (1 - chance)) + 1


def test_badge_measures_to_the_nearest_pick():
    """Eight copies far out and three images near the origin: no second copy is drawn, however long
    its gradient.
    """
    x = torch.cat([torch.full((8, 3), 100.0), torch.eye(3)])
    p = Pool(torch.arange(0), torch.arange(11), 1, 2, torch.tensor([[1.0, 0.0]]).repeat(11, 1), x)
    for s in range(20):
        picked = badge(p, 4, stream(s)).tolist()
        assert picked[0] < 8 and sorted(picked[1:]) == [8, 9, 10]


def test_equal_classes_deal_on_what_a_small_class_lacks():
    label = torch.tensor([0] * 60 + [1] * 3 + [2] * 37)  # none of class 3
    p = Pool(torch.arange(0), torch.arange(100), 0, 2, oracle_labels=label)
    counts = [
        np.bincount(label[class_even(p, 24, stream(s))].numpy(), minlength=4).tolist()
        for s in range(100)
    ]
    assert {tuple(count) for count in counts} == {(11, 3, 10, 0), (10, 3, 11, 0)}
    assert 30 < sum(count[0] == 11 for count in counts) < 70
    assert sorted(class_even(p, 100, stream(0)).tolist()) == list(range(100))


def everything() -> dict[str, torch.Tensor]:
    """All fields that any strategy asks for."""
    return {
        'logits': draws(60, 4),
        'features': draws(60, 5),
        'pretext_loss': draws(60).exp(),
        'classes': 4,
        'predicted_loss': draws(60),
        'ssl_features': draws(60, 5),
        'oracle_labels': torch.arange(60) % 4,
    }


@pytest.mark.parametrize(
    'name',
    [
        name
        for name in QUERIES
        if not name.endswith('random') and name not in ('class_matched', 'class_even', 'vaal')
    ],
)
def test_a_diverged_network_is_refused(name):
    row = QUERIES[name](pool(**everything()), 1, stream(0))[0]
    cold_start = QUERIES[name] in (typiclust, probcover)
    for bad in (float('nan'), float('inf')):
        p = pool(**everything())
        for field in ('logits', 'features', 'predicted_loss', 'ssl_features'):
            getattr(p, field)[row] = bad
        cure = 'train the pretext task again' if cold_start else 'the classifier has diverged'
        with pytest.raises(Refused, match=f'^1 .* are not finite: {cure}'):
            QUERIES[name](p, 5, stream(0))


def test_learning_loss_takes_the_highest_predictions():
    p = pool(predicted_loss=draws(60))
    by_hand = by_value(p, lambda i: -p.predicted_loss[i], 10)
    assert (
        learning_loss(p, 10, stream(0)).tolist()
        == by_hand
        == QUERIES['learning_loss'](p, 10, stream(0)).tolist()
    )


# --- features of the pretext network ---


def blobs(sizes: list[int], seed: int = 3) -> tuple[torch.Tensor, list[int]]:
    """Unit rows near orthogonal axes, and the axis of each; lengths vary, which is to be ignored."""
    rng = np.random.default_rng(seed)
    axis = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    x = np.eye(len(sizes))[axis] + rng.normal(size=(len(axis), len(sizes))) * 0.05
    return torch.from_numpy(x * rng.uniform(1, 5, size=(len(axis), 1))), axis.tolist()


def most_typical(x: torch.Tensor, members: list[int], k: int) -> list[int]:
    """Of the members of a cluster, by the mean distance to the k nearest others."""
    unit = [row / row.norm() for row in x]

    def spread(i: int) -> float:
        return sum(sorted(math.dist(unit[i], unit[j]) for j in members if j != i)[:k])

    return sorted(members, key=spread)


@pytest.mark.parametrize('chunk', [strategies.CHUNK, 40])
def test_typiclust_takes_the_most_typical_of_the_largest_clusters_without_a_label(
    chunk, monkeypatch
):
    monkeypatch.setattr(strategies, 'CHUNK', chunk)
    x, axis = blobs([30, 25, 20, 15, 10])
    members = [[i for i in range(100) if axis[i] == c] for c in range(5)]
    labelled = torch.tensor([most_typical(x, members[c], 4)[0] for c in (1, 3)])
    free = torch.tensor([i for i in range(100) if i not in labelled.tolist()])
    p = Pool(labelled, free, 1, 10, ssl_features=x)
    ordered = [[i for i in most_typical(x, group, 4) if i in free.tolist()] for group in members]
    monkeypatch.setattr(strategies, 'NEIGHBOURS', 4)
    for seed in range(3):
        assert typiclust(p, 3, stream(seed)).tolist() == [ordered[c][0] for c in (0, 2, 4)]
    # five clusters at most: those with a label come after those without, then all give their next
    expected = [ordered[c][turn] for turn in (0, 1) for c in (0, 2, 4, 1, 3)]
    monkeypatch.setattr(strategies, 'CLUSTERS', 5)
    assert typiclust(p, 9, stream(0)).tolist() == expected[:9]


def test_typiclust_starts_without_labels_and_gives_all_there_is(monkeypatch):
    x, axis = blobs([12, 9, 6, 3])
    p = Pool(torch.arange(0), torch.arange(30), 0, 10, ssl_features=x)
    assert [axis[i] for i in typiclust(p, 4, stream(0)).tolist()] == [0, 1, 2, 3]
    assert sorted(typiclust(p, 30, stream(0)).tolist()) == list(range(30))
    monkeypatch.setattr(strategies, 'CLUSTERS', 4)
    assert sorted(typiclust(p, 30, stream(0)).tolist()) == list(range(30))


def ranks_among_balls(p: Pool, picked: list[int], bar: float) -> list[int]:
    """How many images each pick gained less than the best one would have, every ball anew."""
    x = p.ssl_features / p.ssl_features.norm(dim=1, keepdim=True)
    inside = (x @ x.T > bar).tolist()
    ball = [{j for j, near in enumerate(row) if near} for row in inside]
    covered, lost = set().union(*[ball[i] for i in p.labelled.tolist()]), []
    for place, pick in enumerate(picked):
        best = max(len(ball[i] - covered) for i in p.unlabelled.tolist() if i not in picked[:place])
        lost.append(best - len(ball[pick] - covered))
        covered |= ball[pick]
    return lost


@pytest.mark.parametrize('chunk', [strategies.CHUNK, 200, 1])
def test_probcover_is_a_loop_over_all_balls(chunk, monkeypatch):
    monkeypatch.setattr(strategies, 'CHUNK', chunk)
    monkeypatch.setattr(strategies, '_pure', lambda x, classes: torch.tensor(0.7))
    p = pool(n=100, labelled=3, ssl_features=draws(100, 4), classes=4)
    for seed in range(3):
        picked = probcover(p, 97, stream(seed)).tolist()
        assert (
            sorted(picked) == p.unlabelled.tolist()
            and ranks_among_balls(p, picked, 0.7) == [0] * 97
        )
    assert any(ranks_among_balls(p, picked[::-1], 0.7))


def test_balls_that_gain_equally_are_taken_at_random():
    p = Pool(torch.arange(0), torch.arange(12), 0, 2, ssl_features=torch.eye(12), classes=3)
    firsts = {probcover(p, 1, stream(s)).item() for s in range(60)}
    assert firsts == set(range(12)) and sorted(probcover(p, 12, stream(0)).tolist()) == list(
        range(12)
    )


def test_copies_are_in_each_others_balls():
    x = draws(6, 5).float()[torch.arange(60) % 6]
    p = Pool(torch.tensor([0]), torch.arange(1, 60), 1, 2, ssl_features=x, classes=6)
    for s in range(5):
        assert sorted(i % 6 for i in probcover(p, 5, stream(s)).tolist()) == [1, 2, 3, 4, 5]


def test_a_ball_is_as_large_as_95_in_100_can_be_without_a_second_cluster():
    x, axis = blobs([40, 30, 30])
    unit = (x / x.norm(dim=1, keepdim=True)).float()
    bar = strategies._pure(unit, 3).item()
    strange = [
        max(float(unit[i] @ unit[j]) for j in range(100) if axis[i] != axis[j]) for i in range(100)
    ]
    assert sum(value <= bar for value in strange) == 95
    assert bar == pytest.approx(sorted(strange)[94], abs=1e-6)
    state = torch.get_rng_state()
    assert strategies._pure(unit, 3).item() == bar and torch.equal(torch.get_rng_state(), state)


def test_the_radius_is_the_same_whatever_is_labelled(monkeypatch):
    seen, x = [], draws(60, 5)
    original = strategies._pure

    def spy(*given):
        seen.append(original(*given).item())
        return torch.tensor(seen[-1])

    monkeypatch.setattr(strategies, '_pure', spy)
    for labelled, seed in ((0, 0), (6, 1), (20, 2)):
        probcover(pool(labelled=labelled, ssl_features=x, classes=4), 5, stream(seed))
    assert len(set(seen)) == 1


# --- a control ---


def test_class_matched_draws_the_classes_of_the_first_picks_from_the_whole_pool():
    label, loss = torch.arange(60) % 4, draws(60).exp()
    p = pool(cycle=0, labelled=0, pretext_loss=loss, oracle_labels=label)
    seen, hardest = set(), set(loss.argsort(descending=True)[:20].tolist())
    for seed in range(200):
        ours = label[QUERIES['pt4al'](p, 9, stream(seed))].bincount(minlength=4)
        picked = QUERIES['class_matched'](p, 9, stream(seed))
        assert (
            label[picked].bincount(minlength=4).tolist() == ours.tolist()
            and len(picked.unique()) == 9
        )
        seen |= set(picked.tolist())
    assert seen == set(range(60)) and not seen <= hardest
    later = dataclasses.replace(p, cycle=1)
    assert torch.equal(QUERIES['class_matched'](later, 9, stream(0)), random(later, 9, stream(0)))
    assert class_matched(coreset).needs == {'oracle_labels', 'features'}


def test_class_even_draws_equally_many_of_each_class_at_random():
    label, loss = torch.arange(60) % 4, draws(60).exp()
    p = pool(cycle=0, labelled=0, pretext_loss=loss, oracle_labels=label)
    hardest = set(loss.argsort(descending=True)[:20].tolist())
    drawn = {name: set() for name in ('class_even', 'pt4al_class_even')}
    for seed in range(200):
        for name, images in drawn.items():
            picked = QUERIES[name](p, 9, stream(seed))
            counts = label[picked].bincount(minlength=4)
            assert len(picked.unique()) == 9 and sorted(counts.tolist()) == [2, 2, 2, 3]
            images.update(picked.tolist())
    assert drawn['class_even'] == set(range(60)) and drawn['pt4al_class_even'] == hardest


def test_highest_breaks_ties_by_the_generator():
    value = torch.zeros(60)
    value[7] = 1
    p = pool(labelled=0)
    one, again, other = (highest(p, value, 10, stream(s)).tolist() for s in (0, 0, 1))
    assert one == again != other and one[0] == other[0] == 7
    picks = torch.cat([highest(p, value, 30, stream(s))[1:] for s in range(300)])
    counts = np.bincount(picks.numpy(), minlength=60)
    expected, spread = 300 * 29 / 59, math.sqrt(300 * (29 / 59) * (30 / 59))
    assert counts[7] == 0 and np.abs(np.delete(counts, 7) - expected).max() < 4.5 * spread


def test_random_takes_each_image_equally_often():
    p = pool()
    counts = np.bincount(
        np.concatenate([random(p, 9, stream(s)).numpy() for s in range(600)]), minlength=60
    )
    assert (counts[p.labelled] == 0).all()
    assert np.abs(counts[p.unlabelled] - 100).max() < 4.5 * math.sqrt(600 / 6 * 5 / 6)


# --- PT4AL ---


def test_pt4al_is_its_definition_as_a_loop():
    loss, logits = draws(60).exp(), draws(60, 4)
    order = sorted(range(60), key=lambda i: -loss[i])
    for cycle in (1, 2):
        p = pool(cycle=cycle, pretext_loss=loss, logits=logits)
        batch = [i for i in order[20 * cycle : 20 * cycle + 20] if i in p.unlabelled.tolist()]
        confidence = logits.softmax(1).amax(1)
        by_hand = sorted(batch, key=lambda i: confidence[i])[:5]
        assert QUERIES['pt4al'](p, 5, stream(0)).tolist() == by_hand


def test_pt4al_starts_at_random_in_the_hardest_batch():
    loss = draws(60).exp()
    p = pool(cycle=0, labelled=0, pretext_loss=loss)
    hardest = set(loss.argsort(descending=True)[:20].tolist())
    picks = [set(QUERIES['pt4al'](p, 5, stream(s)).tolist()) for s in range(30)]
    assert all(pick <= hardest for pick in picks) and set.union(*picks) == hardest


def test_first_and_inner_are_asked_in_their_cycles():
    def says(name):
        return lambda pool, budget, rng: (name, sorted(pool.unlabelled.tolist()))

    made = batch_split(says('inner'), first=says('first'))
    loss = torch.arange(60.0)
    asked = [made(pool(cycle=k, labelled=0, pretext_loss=loss), 5, None) for k in range(3)]
    assert asked == [
        ('first', list(range(40, 60))),
        ('inner', list(range(20, 40))),
        ('inner', list(range(20))),
    ]


def test_first_picks_are_places_in_the_sorted_batch():
    p = Pool(torch.arange(0), torch.from_numpy(np.random.default_rng(3).permutation(5000)), 0, 10)
    assert (
        every_kth(p, 1000, stream(0)).tolist()
        == p.unlabelled[[5 * j for j in range(1000)]].tolist()
    )
    assert first_k(p, 1000, stream(0)).tolist() == p.unlabelled[:1000].tolist()
    assert every_kth(
        dataclasses.replace(p, unlabelled=torch.arange(13)), 5, stream(0)
    ).tolist() == [0, 2, 5, 7, 10]
    assert every_kth(
        dataclasses.replace(p, unlabelled=torch.arange(13)), 13, stream(0)
    ).tolist() == list(range(13))


def test_the_release_is_its_definition_as_a_loop():
    loss, logits = 10 ** (2 * draws(60) - 3), draws(60, 4)
    order = sorted(range(60), key=lambda i: str(loss[i].item()), reverse=True)
    first = QUERIES['pt4al_released'](pool(cycle=0, labelled=0, pretext_loss=loss), 5, stream(0))
    assert first.tolist() == order[:20:4]
    p = pool(cycle=1, pretext_loss=loss, logits=logits)
    unit = (logits / logits.square().sum(1, keepdim=True).sqrt()).softmax(1).amax(1)
    batch = [i for i in order[20:40] if i in p.unlabelled.tolist()]
    assert (
        QUERIES['pt4al_released'](p, 5, stream(0)).tolist()
        == sorted(batch, key=lambda i: unit[i])[:5]
    )


def test_ablations_change_what_their_names_say():
    """Against PT4AL in a later cycle: another batch, or the same batch with another sampler, or
    nothing.
    """
    loss, logits = 10 ** (2 * draws(60) - 3), draws(60, 4)
    p = pool(cycle=2, labelled=0, pretext_loss=loss, logits=logits)

    def batch(name):
        return set(QUERIES[name](p, 20, stream(0)).tolist())

    def picks(name):
        return QUERIES[name](p, 5, stream(0)).tolist()

    easiest = set(loss.argsort()[:20].tolist())
    for name in (
        'pt4al',
        'pt4al_random',
        'pt4al_entropy',
        'pt4al_unit_norm',
        'pt4al_every_kth',
        'pt4al_first_k',
        'pt4al_typiclust',
    ):
        assert batch(name) == easiest
    # round the end
    assert batch('pt4al_batch5_every_kth') == set(loss.argsort(descending=True)[:20].tolist())
    assert batch('pt4al_released_cold') == set(as_text(loss, 3)[0].tolist())
    assert batch('pt4al_easiest') == set(loss.argsort()[40:].tolist())
    assert batch('pt4al_text') == batch('pt4al_released') == set(as_text(loss, 3)[2].tolist())
    assert batch('pt4al_shuffled') == set(shuffled(loss, 3)[2].tolist())
    assert (
        picks('pt4al')
        == picks('pt4al_every_kth')
        == picks('pt4al_first_k')
        == picks('pt4al_typiclust')
    )
    assert (
        len(
            {
                tuple(picks(name))
                for name in QUERIES
                if name.startswith('pt4al') and name not in TWO_CHANGES
            }
            - {tuple(picks('pt4al'))}
        )
        == 8
    )
    assert picks('pt4al_batch5_every_kth') == picks('pt4al_easiest')
    inner = dataclasses.replace(p, unlabelled=torch.tensor(sorted(easiest)))
    assert picks('pt4al_entropy') == entropy(inner, 5, stream(0)).tolist()
    assert picks('pt4al_unit_norm') == unit_norm_confidence(inner, 5, stream(0)).tolist()
    start = dataclasses.replace(p, cycle=0, logits=None)
    hardest = loss.argsort(descending=True)
    assert QUERIES['pt4al_every_kth'](start, 5, stream(0)).tolist() == hardest[:20:4].tolist()
    assert QUERIES['pt4al_first_k'](start, 5, stream(0)).tolist() == hardest[:5].tolist()
    assert (
        QUERIES['pt4al_batch5_every_kth'](start, 5, stream(0)).tolist() == hardest[20:40:4].tolist()
    )
    assert (
        QUERIES['pt4al_released_cold'](start, 5, stream(0)).tolist()
        == as_text(loss, 3)[1][::4].tolist()
    )
    typical = dataclasses.replace(start, ssl_features=draws(60, 5))
    batch_0 = dataclasses.replace(typical, unlabelled=hardest[:20])
    assert (
        QUERIES['pt4al_typiclust'](typical, 5, stream(0)).tolist()
        == typiclust(batch_0, 5, stream(0)).tolist()
    )


def test_another_first_batch_is_counted_from_the_hardest_and_all_follow_round_the_end():
    loss = torch.arange(100.0).flip(0)
    made = batch_split(random, first_k, start=0.5)
    seen = [
        made(pool(n=100, cycle=k, cycles=10, labelled=0, pretext_loss=loss), 10, stream(0))
        for k in range(10)
    ]
    assert [int(batch.min()) // 10 for batch in seen] == [5, 6, 7, 8, 9, 0, 1, 2, 3, 4]
    with pytest.raises(Refused, match='budget 11 is above the 10 images left in batch 6 of 10'):
        made(pool(n=100, cycle=0, cycles=10, labelled=0, pretext_loss=loss), 11, stream(0))


def test_budget_above_the_batch_is_refused():
    p = pool(cycle=2, labelled=0, pretext_loss=draws(60), logits=draws(60, 4))
    assert len(QUERIES['pt4al'](p, 20, stream(0))) == 20
    with pytest.raises(Refused, match='budget 21 is above the 20 images left in batch 3 of 3'):
        QUERIES['pt4al'](p, 21, stream(0))


def test_a_pretext_loss_that_is_not_finite_never_orders_a_pool():
    loss = draws(60)
    loss[3] = float('nan')
    with pytest.raises(Refused, match='1 pretext losses are not finite'):
        QUERIES['pt4al'](pool(cycle=0, pretext_loss=loss), 5, stream(0))


# --- plumbing ---


def test_needs_travel_through_the_combinators():
    assert least_confidence.needs == {'logits'} == cold(least_confidence).needs
    assert batch_split(least_confidence).needs == {'logits', 'pretext_loss'}
    assert batch_split(random).needs == {'pretext_loss'} and cold(random).needs == frozenset()
    assert needs('features', 'logits')(lambda pool, budget, rng: None).needs == {
        'features',
        'logits',
    }
    assert batch_split(random, first=coreset).needs == {'features', 'pretext_loss'}
    found = {name: q.needs for name, q in QUERIES.items()}
    assert {found.pop(f'pt4al_{order}_random') for order in ('easiest', 'text', 'shuffled')} == {
        frozenset({'pretext_loss'})
    }
    assert found.pop('random') == frozenset() and found.pop('pt4al_random') == {'pretext_loss'}
    assert found.pop('coregcn') == found.pop('coreset') == {'features'} and found.pop('badge') == {
        'features',
        'logits',
    }
    assert found.pop('vaal') == {'pixels'}
    assert found.pop('learning_loss') == {'predicted_loss'}
    assert found.pop('typiclust') == {'ssl_features'} and found.pop('probcover') == {
        'ssl_features',
        'classes',
    }
    assert found.pop('pt4al_typiclust') == {'logits', 'pretext_loss', 'ssl_features'}
    assert found.pop('class_matched') == {'pretext_loss', 'oracle_labels'}
    assert found.pop('class_even') == {'oracle_labels'}
    assert found.pop('pt4al_class_even') == {'logits', 'pretext_loss', 'oracle_labels'}
    usual = {True: {'logits', 'pretext_loss'}, False: {'logits'}}
    odd = {name: asks for name, asks in found.items() if asks != usual['pt4al' in name]}
    assert not odd, f'say above what these need: {odd}'


def test_only_controls_see_the_truth():
    seeing = [name for name, made in QUERIES.items() if 'oracle_labels' in made.needs]
    assert seeing == ['class_matched', 'class_even', 'pt4al_class_even']


def test_a_plug_in_is_found_by_its_entry_point_and_takes_no_name_of_ours(tmp_path):
    folder = tmp_path / 'plug-1.0.dist-info'
    folder.mkdir()
    (folder / 'METADATA').write_text('Metadata-Version: 2.1\nName: plug\nVersion: 1.0\n')
    (folder / 'entry_points.txt').write_text(
        '[pt4al.queries]\nmine = plug:last\nrandom = plug:last\ntorn = plug:no_such\nnumber = plug:number\n'
    )
    (tmp_path / 'plug.py').write_text(
        'from pt4al.query import needs\n'
        'last = needs("logits")(lambda pool, budget, rng: pool.unlabelled[-budget:])\nnumber = 3\n'
    )
    code = (
        'from pt4al.query import QUERIES, random; import pt4al; '
        'assert QUERIES["mine"].needs == {"logits"} and QUERIES["random"] is random; '
        'assert "torn" not in QUERIES; '
        'assert pt4al.spec("active", dataset="cifar10-mini", strategy="mine").strategy == "mine"'
    )
    done = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        env=os.environ | {'PYTHONPATH': os.pathsep.join([str(tmp_path), str(ROOT)])},
    )
    assert done.returncode == 0, done.stderr
    assert 'strategy torn of plug:no_such cannot be loaded' in done.stderr
    assert 'strategy number of plug:number cannot be loaded: 3 is no strategy' in done.stderr


def test_names_are_light_and_each_has_a_colour_of_its_own():
    light = 'import sys, pt4al.query; sys.exit("torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', light]).returncode == 0
    # those are never lines of a figure
    assert QUERIES.keys() - TWO_CHANGES <= METHOD_COLOURS.keys()
    assert len(set(METHOD_COLOURS.values())) == len(METHOD_COLOURS)


def test_the_factorial_names_every_order_with_every_sampler_once():
    cells = query.factorial()
    orders, samplers = {order for order, _ in cells}, {sampler for _, sampler in cells}
    assert cells.keys() == {(order, sampler) for order in orders for sampler in samplers}
    assert (len(orders), len(samplers)) == (5, 4) and len(set(cells.values())) == 20
    assert set(cells.values()) <= QUERIES.keys()
    loss = (torch.arange(200) * 7919 % 200).float()  # every rank once
    p = pool(200, cycle=3, cycles=10, labelled=0, pretext_loss=loss, logits=draws(200, 10).float())
    for (order, _), strategy in cells.items():
        if order in ('hardest', 'easiest'):
            rank = loss[QUERIES[strategy](p, 5, np.random.default_rng(0))]
            place = rank if order == 'easiest' else 199 - rank
            assert ((place >= 60) & (place < 80)).all(), strategy


def test_restrict_keeps_unlabelled_ones_in_the_given_order():
    p = Pool(torch.tensor([0, 3]), torch.tensor([1, 2, 4, 5]), 1, 2, pretext_loss=torch.ones(6))
    kept = p.restrict(torch.tensor([5, 3, 1]))
    assert kept.unlabelled.tolist() == [5, 1] and p.unlabelled.tolist() == [1, 2, 4, 5]
    assert dataclasses.replace(kept, unlabelled=p.unlabelled) == p


def test_cold_starts_at_random_and_asks_the_strategy_from_then_on():
    logits, blind = draws(60, 4), pool(cycle=0)
    assert torch.equal(cold(least_confidence)(blind, 5, stream(4)), random(blind, 5, stream(4)))
    p = pool(logits=logits)
    assert torch.equal(cold(least_confidence)(p, 5, stream(4)), least_confidence(p, 5, stream(4)))
