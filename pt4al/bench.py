"""Speed, measured: every benchmark compares alternatives in one process, in turns, and keeps medians and ratios.

Absolute numbers are those of one machine on one day; ratios travel better.  Nothing here is a test.
"""
from __future__ import annotations

import ast
import inspect
import json
import os
import textwrap
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import data, store
from .errors import Refused, choose
from .tasks import TASKS, family

if TYPE_CHECKING:
    from .execution import Execution

USUAL = tuple(task for task in TASKS if task == family(task))
ELSEWHERE = {'audio_visual': 'digits-sound'}            # tasks that need what the usual images lack, and where it is


def interleaved(runs: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each run in each of `rounds` turns, after one turn that does not count.

    CPU time of this process, so that other work on the machine disturbs less; on an accelerator, wall time.
    """
    import torch
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            start = clock()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(clock() - start)
    return seconds


def tasks(names: Iterable[str] = USUAL, dataset: str = 'cifar10-mini', width: int = 16, images: int = 128,
          rounds: int = 5) -> dict[str, Any]:
    """Training steps of each pretext task on batches of `images`: images/s, and the ratio to rotation's.

    `lines` is the code of its class, see `_lines`.  A task that refuses the images is left out, with its reason; raises
    `Refused` where rotation does, or for an unknown task.
    """
    from .execution import execution, machine
    chosen, steps, left_out = execution(), {}, {}
    for name in dict.fromkeys(['rotation', *names]):
        choose('task', name, TASKS)
        try:
            steps[name] = _step(name, ELSEWHERE.get(family(name), dataset), width, images, chosen)
        except Refused as reason:
            if name == 'rotation':
                raise
            left_out[name] = str(reason)
    seconds = interleaved(steps, rounds)
    rate = {name: images / float(np.median(values)) for name, values in seconds.items()}
    rows = [{'task': name, 'dataset': ELSEWHERE.get(family(name), dataset), 'lines': _lines(type(TASKS[name]())),
             'images_per_second': rate[name], 'ratio_to_rotation': rate[name] / rate['rotation']} for name in rate]
    clock = 'second' if chosen.device.startswith('cuda') else 'second of CPU time'
    return {'what': f'training images per {clock}', 'dataset': dataset, 'width': width, 'images': images,
            'rounds': rounds, 'commit': store.commit(), **machine(chosen), 'rows': rows, 'left_out': left_out}


def _step(name: str, dataset: str, width: int, images: int, chosen: Execution) -> Callable[[], None]:
    """One training step of a task on the first images of a data set, as `fit` makes it."""
    import torch

    from . import nets
    from .fit import Schedule
    from .rng import device_stream, initialising
    everything = data.load(dataset, chosen.device)[0].pixels
    if images > len(everything):
        raise Refused(f'a batch of {images} images, but {dataset} has {len(everything)}: give fewer')
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
    """Lines of code of a task's class and of the classes it inherits from, `Task` aside; its networks do not count.

    Blank lines, comments and docstrings are no code.
    """
    from .tasks.base import Task
    return sum(_code(inspect.getsource(part)) for part in kind.__mro__ if part not in Task.__mro__)


def _code(source: str) -> int:
    """Lines of a class's source that are no blank line, comment or docstring."""
    source = textwrap.dedent(source)
    documented = {number for node in ast.walk(ast.parse(source))
                  if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None
                  for number in range(node.body[0].lineno, node.body[0].end_lineno + 1)}
    return sum(number not in documented and line.strip()[:1] not in ('', '#')
               for number, line in enumerate(source.splitlines(), 1))


def keep(name: str, content: dict[str, Any]) -> Path:
    """Write a benchmark's result beside the other results, whole or not at all; `Refused` where that cannot be."""
    path = store.roots()[0] / 'bench' / f'{name}.json'
    part = path.with_suffix(f'.{os.getpid()}.part')
    text = json.dumps(content, indent=1) + '\n'
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text)
        os.replace(part, path)
    except OSError as error:
        raise Refused(f'cannot write {path} ({error.strerror}): set PT4AL_RESULTS to a folder you can write to') \
            from None
    return path


def kept(name: str) -> dict[str, Any] | None:
    """A stored benchmark by name, or None where it has not been run."""
    for root in store.roots():
        if (path := root / 'bench' / f'{name}.json').exists():
            return json.loads(path.read_text())
    return None
