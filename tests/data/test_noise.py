"""Wrong labels: how many, which, and where human ones come from."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from pt4al.data import CLASSES, cifar, noise
from pt4al.errors import Refused

TRUTH = torch.arange(20_000) % 10


def test_flips_are_as_many_as_named_and_go_where_they_may():
    even = noise.wrong('symmetric:20', 'cifar10', TRUTH, 0)
    moved = (even - TRUTH)[even != TRUTH] % 10
    assert len(moved) == pytest.approx(4000, abs=250)
    assert moved.bincount(minlength=10)[1:].tolist() == pytest.approx([len(moved) / 9] * 9, rel=0.2)
    pairs = noise.wrong('pairs:20', 'cifar10', TRUTH, 0)
    there = {(CLASSES[a], CLASSES[b]) for a, b in zip(TRUTH.tolist(), pairs.tolist()) if a != b}
    assert there == set(noise.ALIKE.items())
    assert (pairs != TRUTH).float().mean().item() == pytest.approx(0.1, abs=0.01)


def test_flips_follow_their_seed():
    first, again, other = (noise.wrong('symmetric:20', 'cifar10', TRUTH, s) for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(
    'asked, dataset, message',
    [
        ('symetric:20', 'cifar10', "unknown noise 'symetric': did you mean 'symmetric'"),
        ('pairs', 'cifar10', 'noise pairs: give a whole per cent from 1 to 90'),
        ('symmetric:0', 'cifar10', 'give a whole per cent from 1 to 90'),
        ('human:worst', 'cifar10', "unknown labels of CIFAR-10N 'worst': did you mean 'worse'"),
        ('human:worse', 'cifar100', "unknown data set with wrong labels 'cifar100'"),
    ],
)
def test_what_is_no_noise_is_refused(asked, dataset, message):
    with pytest.raises(Refused, match=message):
        noise.check(asked, dataset)


def test_human_labels_are_read_by_their_digest_in_the_order_of_the_images(tmp_path, monkeypatch):
    noise.human.cache_clear()
    monkeypatch.setenv('PT4AL_DATA', str(tmp_path))
    path = tmp_path / 'cifar-10n' / 'CIFAR-10_human.pt'
    path.parent.mkdir()
    column = np.random.default_rng(0).integers(10, size=50_000)
    torch.save({'worse_label': column}, path)
    with pytest.raises(Refused, match='CIFAR-10_human.pt is not CIFAR-10N: it has sha256'):
        noise.human('cifar10', 'worse_label')
    monkeypatch.setattr(noise, 'SHA256', hashlib.sha256(path.read_bytes()).hexdigest())
    assert noise.wrong('human:worse', 'cifar10', TRUTH, 3).tolist() == column.tolist()
    few = noise.wrong('human:worse', 'cifar10-mini', TRUTH, 0)
    assert few.tolist() == column[cifar.mini_indices()[0]].tolist()
    noise.human.cache_clear()
