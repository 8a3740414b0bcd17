"""Small photographs, small networks."""

from __future__ import annotations

import pytest

from pt4al import data, files
from pt4al.own import folder


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch) -> None:
    """A narrow network on images of 16 pixels, on one thread, with caches and results of its own."""
    monkeypatch.setattr(files, 'cache', lambda: tmp_path / 'cache')
    monkeypatch.setattr(folder, 'SLOW', (4, 16))
    monkeypatch.delenv('PT4AL_RESULTS', raising=False)
    for name, value in {
        'PT4AL_THREADS': '1',
        'PT4AL_DEVICE': 'cpu',
        'PT4AL_PRECISION': 'fp32',
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr('pt4al.experiments.store.commit', lambda: 'c0ffee')
    yield
    data.arrays.cache_clear()
