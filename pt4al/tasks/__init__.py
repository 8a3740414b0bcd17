"""Pretext tasks by name; after a colon stands what a variant changes.

To add a task: a class of some 25 lines beside `rotation.py`, a line here, which imports no torch;
`pt4al.testing.check_task` tests it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from pt4al.errors import Refused, one_line

if TYPE_CHECKING:
    from pt4al.tasks.task import Task


@dataclass(frozen=True)
class Entry:
    """Where a task is defined, and what it costs; calling it makes the task."""

    module: str
    kind: str
    views: float | None = None  # the cost; None: what the task states as its `cost`, else 1
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(self) -> Task:
        try:
            kind = getattr(import_module(self.module, __name__), self.kind)
            return kind(**self.options)
        except Exception as error:  # whatever a package of others may raise
            what = f'task {self.module}:{self.kind} cannot be loaded'
            raise Refused(f'{what}: {one_line(error)}') from error

    @property
    def cost(self) -> float:
        """Whole images that training pushes through the trunk for each image of the pool."""
        return float(getattr(self(), 'cost', 1)) if self.views is None else self.views


TASKS: dict[str, Entry] = {
    'rotation': Entry('.rotation', 'Rotation', 4),
    'colorization': Entry('.colour', 'Colorization', 1.5),
    'colorization:l2': Entry('.colour', 'Regression', 1.4),
    'colorization:diverse': Entry('.colour', 'Diverse', 1.5),
    'colorization_reproduced': Entry('.colour', 'Reproduced', 1.5),
    'jigsaw': Entry('.patches', 'Jigsaw', 0.6),
    'jigsaw:grid=3': Entry('.patches', 'Jigsaw', 0.65, {'grid': 3, 'permutations': 100}),
    'relative_position': Entry('.patches', 'RelativePosition', 0.6),
    'context_encoder': Entry('.inpainting', 'ContextEncoder', 5.6),
    'context_encoder:centre': Entry('.inpainting', 'ContextEncoder', 1.4, {'grid': 1}),
    'simclr': Entry('.contrastive', 'SimCLR', 2),
    'pirl': Entry('.contrastive', 'PIRL', 1.6),
    'pirl:permutations=4': Entry('.contrastive', 'PIRL', 1.6, {'permutations': 4}),
    **{
        f'pirl:lambda={weight}': Entry('.contrastive', 'PIRL', 1.6, {'weight': weight})
        for weight in (0, 0.25, 0.75, 1)
    },
    **{
        f'pirl:negatives={count}': Entry('.contrastive', 'PIRL', 1.6, {'negatives': count})
        for count in (64, 256)
    },
    'multitask': Entry('.multi', 'MultiTask', 1),
    'shuffle_and_learn': Entry('.video', 'ShuffleAndLearn', 1.25),
    'frame_order': Entry('.video', 'FrameOrder', 0.75),
    'audio_visual': Entry('.sound', 'AudioVisual', 1),
}
TASKS |= {
    entry.name: Entry(entry.module, entry.attr)
    for entry in entry_points(group='pt4al.tasks')
    if entry.name not in TASKS
}


def family(task: str) -> str:
    """The name of a task, or of a data set, without its variant: 'pirl' of 'pirl:lambda=0.25'."""
    return task.partition(':')[0]
