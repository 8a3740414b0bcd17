"""Runs that look at the picks of an active-learning run with an independent network."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import numpy as np
import torch.nn.functional as F

from pt4al.experiments import get, representation, store
from pt4al.experiments.pretext import trained
from pt4al.experiments.running import labels, prepared
from pt4al.experiments.specs import Diagnosis, Pretext
from pt4al.stats.comparisons import diagnose
from pt4al.training.execution import machine


def run(s: Diagnosis, scratch: Path) -> store.Computed:
    """'queries': one row per cycle, with the readings of `diagnose`."""
    chosen, train, _ = prepared(s)
    picks = get(s.active, 'missing').tables['picks']
    features, log_posterior = _ruler(s.encoder)
    rows = []
    for cycle in np.unique(picks['cycle']):
        labelled = picks['index'][picks['cycle'] <= cycle]
        reading = diagnose(
            picks['index'][picks['cycle'] == cycle],
            labelled,
            labels(train),
            len(train.classes),
            features,
            log_posterior,
        )
        rows.append({'cycle': cycle, 'labels': len(labelled), **dataclasses.asdict(reading)})
    queries = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return store.Computed(
        {'queries': queries},
        {name: float(queries[name][-1]) for name in ('mean_distance', 'uncertainty')},
        train.classes,
        machine(chosen),
    )


@cache
def _ruler(encoder: Pretext) -> tuple[np.ndarray, np.ndarray]:
    """Unit-length features [N,d] of an encoder's trunk, and the log-posterior [N,C] of a linear
    classifier on them.
    """
    task, model = trained(encoder)
    _, train, _ = prepared(encoder)
    features = F.normalize(representation.embed(model.trunk, train.pixels, task.encode))
    return features.cpu().numpy(), representation.posterior(features, train.labels)
