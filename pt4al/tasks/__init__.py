"""Pretext tasks by name; what a name means is read from its module when the task is made.

A name before a colon is a task in its usual form; after the colon stands what a variant of it changes.  To add a task: a
class of some 25 lines beside `rotation.py`, a line here; `pt4al.contract.check_task` tests it.  This module imports no
torch, so pages that only need the names of tasks stay quick.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import Task


@dataclass(frozen=True)
class Entry:
    """Where a task is defined, and `cost`: whole images that training pushes through the trunk for each image."""

    module: str
    kind: str
    cost: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(self) -> Task:
        return getattr(import_module(self.module, __name__), self.kind)(**self.options)


TASKS: dict[str, Entry] = {
    'rotation': Entry('.rotation', 'Rotation', 4),
}
TASKS.update({entry.name: Entry(entry.module, entry.attr) for entry in entry_points(group='pt4al.tasks')})


def family(task: str) -> str:
    """The name of the task in its usual form: 'pirl' of 'pirl:lambda=0.25'."""
    return task.partition(':')[0]
