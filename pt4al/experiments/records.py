"""Measurements that are no results of an experiment, such as benchmarks: JSON files beside the
results, one a name and kind of device.
"""

import json
from pathlib import Path
from typing import Any

from pt4al import files
from pt4al.experiments import store


def save(name: str, content: dict[str, Any]) -> Path:
    """Write a record beside the other results."""
    path = store.roots()[0] / 'bench' / _file(name, content.get('device', 'cpu'))
    files.check_writable(path.parent, 'set PT4AL_RESULTS to a folder you can write to')
    files.write(path, (json.dumps(content, indent=1) + '\n').encode())
    return path


def load(name: str, device: str = 'cpu') -> dict[str, Any] | None:
    """A record by name and kind of device, cpu or cuda; None where it has not been measured."""
    for root in store.roots():
        if (path := root / 'bench' / _file(name, device)).exists():
            return json.loads(path.read_text())
    return None


def _file(name: str, device: str) -> str:
    """Each kind of device has its own file, so that one does not replace another's figures."""
    kind = device.partition(':')[0]
    return f'{name}.json' if kind == 'cpu' else f'{name}-{kind}.json'
