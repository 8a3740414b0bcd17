"""Every pretext task beside rotation: images a second in training, and how much code it is."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from benchmarks.turns import interleaved
from pt4al import data
from pt4al.errors import Refused, choose
from pt4al.tasks import TASKS, family

if TYPE_CHECKING:
    from pt4al.training.execution import Execution

USUAL = tuple(task for task in TASKS if task == family(task))
# tasks that need what the usual images lack, and where it is
ELSEWHERE = {'audio_visual': 'digits-sound'}


def tasks(
    names: Iterable[str] = USUAL,
    dataset: str = 'cifar10-mini',
    width: int = 16,
    images: int = 128,
    rounds: int = 5,
) -> dict[str, Any]:
    """Training steps of each pretext task on batches of `images`: images/s, and the ratio to
    rotation's.

    `lines` is the code of its class, see `_lines`.  A task that refuses the images is left out,
    with its reason; raises `Refused` where rotation does, or for an unknown task.
    """
    from pt4al.training.execution import execution

    chosen, steps, left_out = execution(), {}, {}
    for name in dict.fromkeys(['rotation', *names]):
        choose('task', name, TASKS)
        try:
            steps[name] = _step(name, ELSEWHERE.get(family(name), dataset), width, images, chosen)
        except Refused as reason:
            if name == 'rotation':
                raise
            left_out[name] = str(reason)
    rate = {
        name: images / turns.seconds()
        for name, turns in interleaved(steps, rounds, 'tasks').items()
    }
    rows = [
        {
            'task': name,
            'dataset': ELSEWHERE.get(family(name), dataset),
            'lines': _lines(type(TASKS[name]())),
            'images_per_second': rate[name],
            'ratio_to_rotation': rate[name] / rate['rotation'],
        }
        for name in rate
    ]
    clock = 'second' if chosen.device.startswith('cuda') else 'second of CPU time'
    return {
        'what': f'training images per {clock}',
        'dataset': dataset,
        'width': width,
        'images': images,
        'rounds': rounds,
        'rows': rows,
        'left_out': left_out,
    }


def _step(
    name: str, dataset: str, width: int, images: int, chosen: Execution
) -> Callable[[], None]:
    """One training step of a task on the first images of a data set, as `fit` makes it."""
    import torch

    from pt4al.rng import device_stream, initialising
    from pt4al.training import nets
    from pt4al.training.fit import Schedule

    everything = data.load(dataset, chosen.device)[0].pixels
    if images > len(everything):
        raise Refused(
            f'a batch of {images} images, but {dataset} has {len(everything)}: give fewer'
        )
    pixels, index = everything[:images], torch.arange(images, device=chosen.device)
    rng, task = device_stream(0, 'bench', name, device=chosen.device), TASKS[name]()
    with initialising(0, 'bench', name):
        model = nets.Model(nets.resnet18(width), task.head(8 * width))
    model = model.to(chosen.device, memory_format=torch.channels_last)
    task.start(model, everything, rng)
    optimiser = Schedule(1, 1e-3).start(model.train())

    def step() -> None:
        inputs, targets = task.make_batch(pixels, index, rng)
        with chosen.autocast():
            outputs = model(inputs)
        optimiser.zero_grad(set_to_none=True)
        task.per_sample_loss(outputs, targets).mean().backward()
        optimiser.step()

    return step


def _lines(kind: type) -> int:
    """Lines of code of a task's class and of the classes it inherits from, `Task` aside; its
    networks do not count.

    Blank lines, comments and docstrings are no code.
    """
    from pt4al.tasks.task import Task

    return sum(_code(inspect.getsource(part)) for part in kind.__mro__ if part not in Task.__mro__)


def _code(source: str) -> int:
    """Lines of a class's source that are no blank line, comment or docstring."""
    source = textwrap.dedent(source)
    documented = {
        number
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None
        for number in range(node.body[0].lineno, node.body[0].end_lineno + 1)
    }
    return sum(
        number not in documented and line.strip()[:1] not in ('', '#')
        for number, line in enumerate(source.splitlines(), 1)
    )
