"""Bootstraps by content: one that was computed before is read, wherever it is asked for again.

    results/.bootstraps/3f2a9c0d1e5b...json      the fields of an `Estimate`

Nothing is remembered until `keep_in` names a folder, which may be deleted at any time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable
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
    """Decorate a function of arrays and numbers that returns a dataclass of numbers and text.

    What it is remembered by: its name, all its arguments, its module's source, numpy's version. A
    folder that cannot be written to is no error.
    """
    made = sys.modules[of.__module__]

    @wraps(of)
    def call(*arguments: Any, **named: Any) -> Any:
        if _folder is None:
            return of(*arguments, **named)
        path = _folder / f'{_digest(of.__name__, _source(made.__file__), arguments, named)}.json'
        try:
            return made.Estimate(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):  # not there, or cut short
            result = of(*arguments, **named)
        try:
            with files.whole(path) as file:
                file.write(json.dumps(dataclasses.asdict(result)).encode())
        except OSError:
            pass
        return result

    return call


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
