"""Our training loop against the plain reference, and a profile of where its time goes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import reference
from benchmarks.turns import compared, interleaved
from pt4al import data
from pt4al.data import views
from pt4al.errors import Refused
from pt4al.progress import log
from pt4al.rng import device_stream, initialising
from pt4al.tasks import TASKS
from pt4al.training import nets
from pt4al.training.execution import Execution, execution
from pt4al.training.fit import Schedule, classification_loss, fit, minibatches

# a rate at which nothing diverges, however often it is trained
DATASET, RATE = 'cifar10-mini', 1e-3
# images a step, as in the release; a rotated image is four views
BATCH = {'classification': 128, 'rotation': 256}
# channels of the first stage -> views in one turn
WIDTHS = {16: 1024, 64: 128}
# views, at most, in an epoch on a GPU; epochs in one turn
ON_GPU, EPOCHS = 8_000, 3


@dataclass(frozen=True)
class Work:
    """What one loop trains on: a pretext task, or `classification`, at a width, and the first
    `images` of the data set.
    """

    kind: str
    width: int
    images: int

    def part(self, device: str) -> data.Images:
        """These images, on the device."""
        whole = data.load(DATASET, device)[0]
        if self.images > len(whole.labels):
            raise Refused(
                f'{self.images} images, but {DATASET} has {len(whole.labels)}: give fewer'
            )
        return replace(
            whole, pixels=whole.pixels[: self.images], labels=whole.labels[: self.images]
        )

    def head(self) -> nn.Module:
        """An untrained head of the network."""
        return (
            nets.Pooled(8 * self.width, 10)
            if self.kind == 'classification'
            else TASKS[self.kind]().head(8 * self.width)
        )

    def network(self, device: str, layout: torch.memory_format) -> nets.Model:
        """The untrained network, the same for all alternatives."""
        with initialising(0, 'bench', self.kind):
            model = nets.Model(nets.resnet18(self.width), self.head())
        return model.to(device, memory_format=layout)


def ours(work: Work, chosen: Execution, epochs: int = 1) -> Callable[[], object]:
    """`fit` on the work, with the batches that the experiments make."""
    part, model = work.part(chosen.device), work.network(chosen.device, torch.channels_last)
    everything, batch = torch.arange(work.images, device=chosen.device), BATCH.get(work.kind, 256)
    task = None if work.kind == 'classification' else TASKS[work.kind]()

    def batches(epoch: int) -> Iterator[tuple[nets.Inputs, Tensor]]:
        rng = device_stream(0, 'bench', epoch, device=chosen.device)
        for index in minibatches(everything, batch, rng):
            pixels = part.pixels[index]
            yield (
                ((views.normalise(views.crop_flip(pixels, rng)),), part.labels[index])
                if task is None
                else task.make_batch(pixels, index, rng)
            )

    loss = classification_loss if task is None else task.per_sample_loss
    return lambda: fit(
        model,
        batches,
        loss,
        Schedule(epochs, RATE),
        chosen,
        work.images,
        f'{work.kind} {chosen.precision}',
    )


def plain(work: Work, chosen: Execution, epochs: int = 1) -> Callable[[], object]:
    """The reference loop on the same images: float32 as torch sets it up, NCHW, loader with
    workers.
    """
    part, model = work.part('cpu'), work.network(chosen.device, torch.contiguous_format)
    turned = work.kind == 'rotation'
    pictures = (reference.Turned if turned else reference.Pictures)(
        part.pixels.numpy(),
        part.labels.numpy(),
        reference.plain() if turned else reference.augmented(),
    )
    batches = reference.loader(pictures, BATCH[work.kind], device_stream(0, 'bench'))
    train, optimiser = (
        reference.rotate if turned else reference.classify,
        reference.optimiser(model, RATE),
    )
    return lambda: [train(model, batches, optimiser, chosen.device) for _ in range(epochs)]


def _work(kind: str, width: int, chosen: Execution, widths: Mapping[int, int]) -> Work:
    """As many views as `widths` has, on a GPU enough to fill it; a rotated image is four."""
    seen = ON_GPU if chosen.device.startswith('cuda') else widths[width]
    return Work(kind, width, min(4000, seen) if kind == 'classification' else max(1, seen // 4))


def _precisions(chosen: Execution) -> tuple[str, ...]:
    return ('bf16', 'tf32', 'fp32') if chosen.device.startswith('cuda') else ('bf16', 'fp32')


def training(rounds: int = 5, widths: Mapping[int, int] = WIDTHS) -> dict[str, Any]:
    """Images a second of our loop in each precision, and of the reference loop, which is the base
    of the ratios.
    """
    chosen, rows = execution(), []
    epochs = EPOCHS if chosen.device.startswith('cuda') else 1
    for work in (_work(kind, width, chosen, widths) for width in widths for kind in BATCH):
        loops = {
            'reference': plain(work, chosen, epochs),
            **{
                f'ours {p}': ours(work, replace(chosen, precision=p), epochs)
                for p in _precisions(chosen)
            },
        }
        turns = interleaved(loops, rounds, f'training, {work.kind} at width {work.width}')
        rows += [
            {'kind': work.kind, 'width': work.width, **row}
            for row in compared(turns, work.images * epochs, 'reference')
        ]
    return {
        'what': 'training images per second, and of CPU time',
        'dataset': DATASET,
        'rounds': rounds,
        'workers': reference.WORKERS,
        'rows': rows,
    }


# --- where the time goes ---


def profile(widths: Mapping[int, int] = WIDTHS, most: int = 8) -> dict[str, Any]:
    """Shares of one epoch of `fit` by operation, on one thread: the `most` largest, and all others
    as one row.
    """
    chosen = replace(execution(), threads=1)
    before = torch.get_num_threads()
    os.environ.setdefault('KINETO_LOG_LEVEL', '99')  # the profiler's own messages
    torch.set_num_threads(1)
    try:
        rows = [
            row
            for width in widths
            for kind in BATCH
            for precision in _precisions(chosen)
            for row in _profiled(
                _work(kind, width, chosen, widths), replace(chosen, precision=precision), most
            )
        ]
    finally:
        torch.set_num_threads(before)
    return {
        'what': 'share of the time of one epoch, by operation',
        'dataset': DATASET,
        'threads': 1,
        'rows': rows,
    }


def _profiled(work: Work, chosen: Execution, most: int) -> list[dict[str, Any]]:
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    cuda = chosen.device.startswith('cuda')
    run = ours(work, chosen)
    run()  # the first pass sets up what later ones reuse
    log.info('profile: %s at width %d, %s', work.kind, work.width, chosen.precision)
    with record(
        activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * cuda], acc_events=True
    ) as found:
        run()
    spent = sorted(
        (
            (e.self_device_time_total if cuda else e.self_cpu_time_total, e.key, e.count)
            for e in found.key_averages()
            if not cuda or e.device_type == DeviceType.CUDA
        ),
        reverse=True,
    )
    total = sum(time for time, *_ in spent)
    rest = spent[most:]
    parts = [
        *spent[:most],
        (sum(time for time, *_ in rest), 'all others', sum(count for *_, count in rest)),
    ]
    return [
        {
            'kind': work.kind,
            'width': work.width,
            'precision': chosen.precision,
            'share': time / total,
            'operation': name.removeprefix('aten::'),
            'milliseconds': time / 1e3,
            'calls': count,
        }
        for time, name, count in parts
    ]
