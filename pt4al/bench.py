"""Speed, measured: every benchmark compares alternatives in one process, in turns, and keeps medians and ratios.

Absolute numbers are those of one machine on one day; ratios travel better.  Nothing here is a test.
"""
from __future__ import annotations

import ast
import inspect
import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from . import data, store
from .tasks import TASKS


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


def tasks(names: Iterable[str] = tuple(TASKS), dataset: str = 'cifar10-mini', width: int = 16, images: int = 128,
          rounds: int = 5) -> dict[str, Any]:
    """Training steps of each pretext task on batches of `images`: images/s, and the ratio to rotation's.

    `lines` counts what its module defines for it: the class, without comments or blank lines.
    """
    import torch

    from . import nets
    from .execution import execution, machine
    from .fit import Schedule
    from .rng import device_stream, initialising
    chosen = execution()
    pixels = data.load(dataset, chosen.device)[0].pixels[:images]
    index = torch.arange(images, device=chosen.device)

    def step(name: str) -> Callable[[], None]:
        task = TASKS[name]()
        with initialising(0, 'bench', name):
            model = nets.Model(nets.resnet18(width), task.head(8 * width))
        model = model.to(chosen.device, memory_format=torch.channels_last).train()
        task.start(model, pixels, device_stream(0, 'bench', name, device=chosen.device))
        optimiser = Schedule(1, 1e-3).start(model)

        def run() -> None:
            inputs, targets = task.make_batch(pixels, index, device_stream(0, 'bench', device=chosen.device))
            with chosen.autocast():
                outputs = model(inputs)
            optimiser.zero_grad(set_to_none=True)
            task.per_sample_loss(outputs, targets).mean().backward()
            optimiser.step()
        return run

    seconds = interleaved({name: step(name) for name in dict.fromkeys(['rotation', *names])}, rounds)
    rate = {name: images / float(np.median(values)) for name, values in seconds.items()}
    rows = [{'task': name, 'lines': _lines(type(TASKS[name]())), 'images_per_second': rate[name],
             'ratio_to_rotation': rate[name] / rate['rotation']} for name in rate]
    return {'what': 'training images per second', 'dataset': dataset, 'width': width, 'images': images, 'rounds': rounds,
            'commit': store.commit(), **machine(chosen), 'rows': rows}


def _lines(kind: type) -> int:
    """Lines of a class's source that hold code: no blank line, comment or docstring."""
    source = ast.unparse(ast.parse(inspect.getsource(kind)))        # comments and blank lines do not survive
    documented = [node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.ClassDef, ast.FunctionDef))
                  and ast.get_docstring(node) is not None]
    return len(source.splitlines()) - sum(node.body[0].end_lineno - node.body[0].lineno + 1 for node in documented) \
        - source.count('\n\n')


def keep(name: str, content: dict[str, Any]) -> Path:
    """Write a benchmark's result beside the other results, whole or not at all."""
    path = store.roots()[0] / 'bench' / f'{name}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f'.{os.getpid()}.part')
    part.write_text(json.dumps(content, indent=1) + '\n')
    os.replace(part, path)
    return path


def kept(name: str) -> dict[str, Any] | None:
    """A stored benchmark by name, or None where it has not been run."""
    for root in store.roots():
        if (path := root / 'bench' / f'{name}.json').exists():
            return json.loads(path.read_text())
    return None
