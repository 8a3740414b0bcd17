"""Strategies and the split of the pool against slow loops."""
from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from pt4al.errors import Refused
from pt4al.query import QUERIES, Pool, batch_split, cold, highest, least_confidence, needs, random, split
from pt4al.rng import stream


def pool(n: int = 60, cycle: int = 1, cycles: int = 3, labelled: int = 6, **fields: torch.Tensor) -> Pool:
    order = torch.from_numpy(np.random.default_rng(1).permutation(n))
    return Pool(order[:labelled], order[labelled:].sort().values, cycle, cycles, **fields)


def draws(n: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(2).normal(size=(n, *shape)))


# -- split -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('n, batches', [(1000, 10), (1003, 10), (7, 7), (5, 1), (50, 3)])
def test_split_partitions_and_is_monotone_over_eight_decades(n, batches):
    loss = 10. ** torch.from_numpy(np.random.default_rng(n).permutation(np.linspace(-7, 1, n)))
    for dtype in (torch.float32, torch.float64):
        parts = split(loss.to(dtype), batches)
        assert len(parts) == batches and max(map(len, parts)) - min(map(len, parts)) <= 1
        assert sorted(torch.cat(parts).tolist()) == list(range(n))
        assert all(loss[a].min() > loss[b].max() for a, b in zip(parts, parts[1:]))


def test_split_compares_numbers_not_text():
    loss = torch.tensor([9.99e-05, 0.97, 1.2, 10.5, 2e-7, 3.])
    assert torch.cat(split(loss, 6)).tolist() == [3, 5, 2, 1, 0, 4]
    as_text = sorted(range(6), key=lambda i: str(loss[i].item()), reverse=True)
    assert as_text != [3, 5, 2, 1, 0, 4]


def test_ties_do_not_follow_the_files_and_are_the_same_in_every_call():
    parts = split(torch.zeros(1000), 10)
    assert all(torch.equal(a, b) for a, b in zip(parts, split(torch.zeros(1000), 10)))
    # were batches stretches of the files, their mean places would be 50, 150, ...; at random they are 500 +- 29
    assert all(abs(part.double().mean() - 499.5) < 4 * 1000 / math.sqrt(12 * 100) for part in parts)
    half = torch.cat([torch.ones(500), torch.zeros(500)])
    assert set(torch.cat(split(half, 10)[:5]).tolist()) == set(range(500))


def test_more_batches_than_images_is_refused():
    with pytest.raises(Refused, match='5 batches of 4 images: give at most one batch an image'):
        split(torch.ones(4), 5)


@pytest.mark.parametrize('bad', [float('nan'), float('inf'), -float('inf')])
def test_losses_that_are_not_finite_are_refused(bad):
    with pytest.raises(Refused, match='2 pretext losses are not finite: score again'):
        split(torch.tensor([1., bad, 2., bad]), 2)


# -- strategies --------------------------------------------------------------------------------------------------------

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
    p = Pool(torch.arange(0), torch.arange(2), 1, 2, logits=torch.tensor([[9., 8.9], [2., 0.]]))
    assert least_confidence(p, 1, stream(0)).tolist() == [0]


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
    counts = np.bincount(np.concatenate([random(p, 9, stream(s)).numpy() for s in range(600)]), minlength=60)
    assert (counts[p.labelled] == 0).all()
    assert np.abs(counts[p.unlabelled] - 100).max() < 4.5 * math.sqrt(600 / 6 * 5 / 6)


# -- PT4AL -------------------------------------------------------------------------------------------------------------

def test_pt4al_is_its_definition_as_a_loop():
    loss, logits = draws(60).exp(), draws(60, 4)
    order = sorted(range(60), key=lambda i: -loss[i])
    for cycle in (1, 2):
        p = pool(cycle=cycle, pretext_loss=loss, logits=logits)
        batch = [i for i in order[20 * cycle:20 * cycle + 20] if i in p.unlabelled.tolist()]
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
    loss = torch.arange(60.)
    asked = [made(pool(cycle=k, labelled=0, pretext_loss=loss), 5, None) for k in range(3)]
    assert asked == [('first', list(range(40, 60))), ('inner', list(range(20, 40))), ('inner', list(range(20)))]


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


# -- plumbing ----------------------------------------------------------------------------------------------------------

def test_needs_travel_through_the_combinators():
    assert least_confidence.needs == {'logits'} == cold(least_confidence).needs
    assert batch_split(least_confidence).needs == {'logits', 'pretext_loss'}
    assert batch_split(random).needs == {'pretext_loss'} and cold(random).needs == frozenset()
    assert needs('features', 'logits')(lambda pool, budget, rng: None).needs == {'features', 'logits'}
    assert [sorted(getattr(q, 'needs', ())) for q in QUERIES.values()] == [[], ['logits'], ['logits', 'pretext_loss']]


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
