"""Bootstraps by content: one that was computed before is read.

    results/.bootstraps/3f2a9c0d1e5b...json      the fields of an `Estimate`

Nothing is remembered until `keep_in` names a folder, which may be deleted at any time.
"""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache, wraps
from pathlib import Path
from typing import Any

import numpy as np

from pt4al import files

_folder: Path | None = None


def keep_in(folder: Path | None) -> None:
    """Remember bootstraps of this process in `folder`, or from now on in none."""
    global _folder
    _folder = folder


def remembered(of: Callable[..., Any]) -> Callable[..., Any]:
    """Remember what a function of arrays and numbers returned, an `Estimate` of its module, by its
    name, all arguments, its module's source and numpy's version.
    """
    made = sys.modules[of.__module__]

    @wraps(of)
    def call(*arguments: Any, **named: Any) -> Any:
        if _folder is None:
            return of(*arguments, **named)
        name = _digest(of.__name__, _source(made.__file__), arguments, named)
        stored = load(name)
        if stored is not None:
            return made.Estimate(**stored)
        result = of(*arguments, **named)
        save(name, dataclasses.asdict(result))
        return result

    return call


def load(name: str) -> dict[str, Any] | None:
    """What was saved by this name; None where it is not there or was cut short."""
    try:
        return json.loads((_folder / f'{name}.json').read_text()) if _folder else None
    except (OSError, ValueError):
        return None


def save(name: str, content: dict[str, Any]) -> None:
    """Save it where a folder is named and can be written to."""
    if _folder is not None:
        with suppress(OSError):
            files.write(_folder / f'{name}.json', json.dumps(content).encode())


def _digest(name: str, source: str, arguments: tuple, named: dict[str, Any]) -> str:
    digest = hashlib.sha256(f'{name} {source} {sorted(named)}'.encode())
    for value in [*arguments, *(named[key] for key in sorted(named))]:
        array = np.ascontiguousarray(value)
        # objects have no content of their own to go by: None alone can be arguments
        content = repr(value).encode() if array.dtype == object else array.tobytes()
        digest.update(f' {array.dtype.str} {array.shape} '.encode() + content)
    return digest.hexdigest()[:32]


@cache
def _source(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes() + np.__version__.encode()).hexdigest()
