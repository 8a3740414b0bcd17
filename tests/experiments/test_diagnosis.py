"""What a diagnosis reads of one query."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from pt4al import stats
from pt4al.experiments import diagnosis


def test_nearest_labelled_is_the_full_distance_matrix():
    features = np.random.default_rng(0).normal(size=(300, 7)).astype(np.float32) + 100
    features[7] = features[8]  # a copy of a labelled image
    labelled = np.array([8, 250, 31])
    got = diagnosis.nearest_labelled(features, labelled)
    np.testing.assert_allclose(got, cdist(features, features[labelled]).min(axis=1), atol=1e-4)
    assert got.shape == (300,)
    # |a|² - 2ab + |b|² leaves rounding here
    far = np.random.default_rng(0).normal(size=(300, 64)) + 1000
    assert (diagnosis.nearest_labelled(far, np.arange(150))[:150] == 0).all()


@pytest.mark.long
def test_nearest_labelled_never_holds_a_matrix_of_pairs():
    code = """
import multiprocessing, resource, numpy as np
from pt4al.experiments.diagnosis import nearest_labelled
features = np.random.default_rng(0).normal(size=(40_000, 4)).astype('f4')
def grown():
    nearest_labelled(features[:100], np.arange(10))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    nearest_labelled(features, np.arange(4_000))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(multiprocessing.get_context('fork').Pool(1).apply(grown))     # a peak of whoever started this is not inherited
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    grown = int(done.stdout) / (1 if sys.platform == 'linux' else 1024)
    # KiB; 40,000 x 4,000 would take 640,000 in float32
    assert grown < 100_000


def test_diagnose_reads_classes_from_the_picks_and_coverage_from_all_labels():
    rng = np.random.default_rng(0)
    labels, features, logits = (
        rng.integers(0, 3, 60),
        rng.normal(size=(60, 4)),
        rng.normal(size=(60, 3)),
    )
    picks, labelled = np.array([5, 9, 20, 33]), np.array([1, 2, 5, 9, 20, 33])
    got = diagnosis.diagnose(picks, labelled, labels, 3, features, logits)
    distance = cdist(features, features[labelled]).min(axis=1)
    assert got['entropy'] == stats.normalised_entropy(labels[picks], 3)
    assert got['kl_uniform'] == stats.class_divergence(labels[picks], 3)
    assert got['kl_pool'] == stats.class_divergence(labels[picks], 3, labels)
    assert (got['radius'], got['mean_distance']) == pytest.approx((distance.max(), distance.mean()))
    p = np.exp(logits[picks]) / np.exp(logits[picks]).sum(axis=1, keepdims=True)
    assert got['uncertainty'] == pytest.approx(-(p * np.log(p)).sum() / 4 / math.log(3))
    assert len({got['entropy'], got['kl_uniform'], got['kl_pool']}) == 3
