"""Results of experiments: read from the store, or computed into it.

The runner of a kind is the function `run` of the module of that name, imported when it is first
needed: reading imports no torch.
"""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from pt4al import data
from pt4al.errors import NotStored, Refused, choose
from pt4al.experiments import store
from pt4al.experiments.specs import Spec, data_digest, seeded, spec


def get(s: Spec, policy: str | None = None) -> store.Result:
    """Return a spec's stored result, or compute and store it; with `policy` 'never' a missing one
    raises `NotStored`.
    """
    policy = policy or os.environ.get('PT4AL_COMPUTE', 'missing')
    choose('policy', policy, ('missing', 'never'))
    if policy == 'never' and not data.known(s.dataset):
        if stored := [result for result in _any_version(s) if result.spec.seed == s.seed]:
            return stored[0]
        raise NotStored(f'no result of {s} is stored: run it where {s.dataset} is at hand')
    return store.get_or_compute(s, data_digest(s), compute, policy)


def compute(s: Spec, scratch: Path) -> store.Computed:
    """Compute the tables of a spec, whatever the store holds of it.

    Unfinished work is saved in `scratch`, and what is saved there is not done again.
    """
    computed = import_module(f'.{s.kind}', __name__).run(s, scratch)
    where = import_module('pt4al.training.execution')
    return replace(computed, machine=computed.machine or where.machine(where.execution()))


def runs(kind: str, **fields: Any) -> list[store.Result]:
    """All stored results of these settings, one per seed, sorted by seed; nothing is computed.

    Of the images on this machine, else of the version that most are of: decoders round differently.
    """
    if fields.get('seed') is not None:
        raise Refused('runs gives the results of all seeds: leave seed out, or use get')
    base = spec(kind, **fields)
    if data.known(base.dataset):
        here = data_digest(base)
        if stored := _stored(base, lambda row: here):
            return stored
    return _any_version(base)


def _any_version(base: Spec) -> list[store.Result]:
    stored = _stored(base, lambda row: row['provenance']['data'])
    versions = Counter(result.provenance['data'] for result in stored)
    most = max(versions, key=lambda version: (versions[version], version), default='')
    return [result for result in stored if result.provenance['data'] == most]


def _stored(base: Spec, version: Callable[[Any], str]) -> list[store.Result]:
    # most results ask for the same few
    keys = cache(lambda seed, digest: store.key(seeded(base, seed), digest))
    return store.find(
        base.kind,
        lambda row: row['key'] == keys(row['spec']['seed'], version(row)),
        dataset=base.dataset,
    )
