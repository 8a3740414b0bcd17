"""Runs that look at the picks of an active-learning run with an independent network."""

import math
from functools import cache
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from scipy import special
from sklearn.metrics import pairwise_distances_argmin_min

from pt4al.experiments import get, representation, store
from pt4al.experiments.pretext import trained
from pt4al.experiments.running import labels, prepared
from pt4al.experiments.specs import Diagnosis, Pretext
from pt4al.stats import class_divergence, normalised_entropy


def run(s: Diagnosis, scratch: Path) -> store.Computed:
    """'queries': one row per cycle, with the readings of `diagnose`."""
    train = prepared(s)[1]
    picks = get(s.active, 'missing').tables['picks']
    network = _network(s.encoder)
    rows = []
    for cycle in np.unique(picks['cycle']):
        new = picks['index'][picks['cycle'] == cycle]
        labelled = picks['index'][picks['cycle'] <= cycle]
        reading = diagnose(new, labelled, labels(train), len(train.classes), *network)
        rows.append({'cycle': cycle, 'labels': len(labelled), **reading})
    queries = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    summary = {name: float(queries[name][-1]) for name in ('mean_distance', 'uncertainty')}
    return store.Computed({'queries': queries}, summary, train.classes)


def diagnose(
    picks: np.ndarray,
    labelled: np.ndarray,
    labels: np.ndarray,
    classes: int,
    features: np.ndarray,
    logits: np.ndarray,
) -> dict[str, float]:
    """What one query picked, and how well all labels together then cover the pool.

    picks, labelled   indices [k] of this query, and of all labelled images, these included
    labels            [N] of the pool
    features, logits  [N,d] and [N,C], of a network that no strategy trained

    The divergences, in nats, are of the picks' classes from uniform ones and from the pool's; the
    radius is the largest distance of an image to its nearest labelled one (Sener & Savarese 2018).
    """
    distance = nearest_labelled(features, labelled)
    doubt = special.entr(special.softmax(logits[picks].astype(np.float64), axis=1)).sum(axis=1)
    return {
        'entropy': normalised_entropy(labels[picks], classes),
        'kl_uniform': class_divergence(labels[picks], classes),
        'kl_pool': class_divergence(labels[picks], classes, labels),
        'radius': float(distance.max()),
        'mean_distance': float(distance.mean()),
        'uncertainty': float(doubt.mean() / math.log(logits.shape[1])),
    }


def nearest_labelled(features: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """Euclidean distance [N] of each image's features [N,d] to the nearest labelled one's."""
    distance = pairwise_distances_argmin_min(features, features[labelled])[1]
    distance[labelled] = 0  # without the rounding of |a|² - 2ab + |b|²
    return distance


@cache
def _network(encoder: Pretext) -> tuple[np.ndarray, np.ndarray]:
    """Unit features [N,d] of an encoder, and the log-posterior [N,C] of a linear probe of them."""
    task, model = trained(encoder)
    train = prepared(encoder)[1]
    features = F.normalize(representation.embed(model.trunk, train.pixels, task.encode))
    return features.cpu().numpy(), representation.posterior(features, train.labels)
