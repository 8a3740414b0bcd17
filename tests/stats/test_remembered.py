"""Bootstraps that are remembered by content."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from pt4al import runs, stats
from pt4al.experiments import store
from pt4al.stats import correlation, remembered


@pytest.fixture
def folder(tmp_path):
    remembered.keep_in(tmp_path / 'bootstraps')
    yield tmp_path / 'bootstraps'
    remembered.keep_in(None)


def test_the_same_question_is_answered_once_and_alike(folder, monkeypatch):
    x, y = np.random.default_rng(0).normal(size=(2, 60))
    first = stats.rank_correlation(x, y, draws=20)
    monkeypatch.setattr(correlation, '_bootstrapped', None)  # nothing more can be computed
    assert stats.rank_correlation(x, y, draws=20) == first
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize(
    'change', [{'draws': 21}, {'draws': 20, 'seed': 1}, {'labels': [0, 1] * 30}]
)
def test_another_question_is_another_file(folder, change):
    x, y = np.random.default_rng(0).normal(size=(2, 60))
    stats.rank_correlation(x, y, draws=20)
    stats.rank_correlation(x, y, **change)
    stats.rank_correlation(y, x, draws=20)
    stats.rank_correlation(x.astype('float32'), y, draws=20)
    assert len(list(folder.iterdir())) == 4


def test_a_file_that_was_cut_short_is_computed_again(folder):
    x, y = np.random.default_rng(0).normal(size=(2, 60))
    first = stats.partial_rank_correlation(x, y, confounders=np.arange(60) % 3, draws=5)
    [file] = folder.iterdir()
    file.write_text(file.read_text()[:20])
    assert stats.partial_rank_correlation(x, y, confounders=np.arange(60) % 3, draws=5) == first


def test_nothing_is_remembered_where_no_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stats.rank_correlation(*np.random.default_rng(0).normal(size=(2, 60)), draws=5)
    assert not list(tmp_path.iterdir())


def test_the_committed_bootstraps_are_those_of_this_code(monkeypatch):
    root = Path(__file__).resolve().parents[2] / 'results'
    with store.only_in(root):
        sides = [runs(kind, dataset='cifar10-mini')[0].tables for kind in ('pretext', 'main')]
    pair = [side['images'][column] for side, column in zip(sides, ('loss', 'loss_out'))]
    anew = stats.rank_correlation(*pair)
    monkeypatch.setattr(remembered, '_folder', root / '.bootstraps')
    monkeypatch.setattr(correlation, '_bootstrapped', None)  # CONTRIBUTING.md says what to do
    stored = stats.rank_correlation(*pair)
    bounds = ('value', 'low', 'high')  # another CPU sums in another order
    stored_bounds, bounds_anew = ([getattr(e, name) for name in bounds] for e in (stored, anew))
    assert stored_bounds == pytest.approx(bounds_anew, rel=1e-12)
    same = dict.fromkeys(bounds, 0.0)
    assert dataclasses.replace(stored, **same) == dataclasses.replace(anew, **same)
