"""Runs of a pretext task: train a network on the whole pool, then score every image."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Generator

from pt4al import data
from pt4al.experiments import store
from pt4al.experiments.running import epochs_table, labels, prepared, schedule, title, to_device
from pt4al.experiments.specs import Pretext
from pt4al.rng import device_stream, initialising
from pt4al.tasks import TASKS
from pt4al.tasks.task import Task, pretext_losses
from pt4al.training import fit, nets
from pt4al.training.execution import Execution
from pt4al.training.fit import minibatches
from pt4al.training.nets import Model


def untrained(s: Pretext, chosen: Execution, train: data.Images) -> tuple[Task, Model]:
    """The task of a pretext spec and its network before the first step of training."""
    task = TASKS[s.task]()
    with initialising(s.seed, 'pretext', s.task, 'weights'):
        model = nets.Model(nets.resnet18(s.width, train.pixels.shape[-1]), task.head(8 * s.width))
    model = to_device(model, chosen)
    rng = device_stream(s.seed, 'pretext', s.task, 'start', device=chosen.device)
    task.start(model, train.pixels, rng)
    return task, model


def run(s: Pretext, scratch: Path) -> store.Computed:
    """Losses of every image: 'images', 'epochs', and 'test' where the task can judge new images."""
    chosen, train, test = prepared(s)
    task, model = untrained(s, chosen, train)
    everything = torch.arange(len(train.labels), device=chosen.device)

    def batches(epoch: int):
        rng = device_stream(s.seed, 'pretext', s.task, 'epoch', epoch, device=chosen.device)
        for index in minibatches(everything, s.batch, rng, s.minibatches):
            yield task.make_batch(train.pixels[index], index, rng)

    n, label, checkpoint = len(everything), title(s, s.task), scratch / 'fit.pt'
    history = fit.fit(
        model, batches, task.per_sample_loss, schedule(s), chosen, n, label, checkpoint
    )

    def draws(purpose: str) -> Callable[[int], Generator]:
        return lambda r: device_stream(s.seed, 'pretext', s.task, purpose, r, device=chosen.device)

    table = pretext_losses(model, task, train.pixels, draws('score'), s.repeats)
    columns = {name: rows.mean(0).cpu().numpy() for name, rows in table.items()}
    tables = {'images': {'label': labels(train), **columns}, 'epochs': epochs_table([history])}
    # a task that holds no training image can judge others; those of clips hold none
    if (type(task).start is Task.start or train.pixels.ndim == 5) and len(test.labels):
        rows = pretext_losses(model, task, test.pixels, draws('test'), s.repeats)
        tables['test'] = {'label': labels(test), 'loss': rows['loss'].mean(0).cpu().numpy()}
    if s.repeats > 1:
        tables['images'] |= {f'loss_{r}': row.cpu().numpy() for r, row in enumerate(table['loss'])}
    # on this machine only: weights are large, and cheap beside their study
    fit.save(store.roots()[0] / _weights(s), model.state_dict())
    summary = {'mean_loss': table['loss'].mean().item(), 'last_epoch_loss': history.loss[-1]}
    return store.Computed(tables, summary, train.classes)


def _weights(s: Pretext) -> str:
    return f'.weights/{store.key(s, data.key_digest(s.dataset))}.pt'


def load_weights(path: Path, model: Model, device: str, cure: str) -> Model:
    """Read weights into `model`; `Refused` if they are damaged, with `cure` as the advice."""
    with fit.saved(path, device, cure) as weights:
        model.load_state_dict(weights)
    return model


def trained(s: Pretext) -> tuple[Task, Model]:
    """The task of a pretext spec and its network, trained again where no weights are saved."""
    chosen, train, _ = prepared(s)
    paths = [root / _weights(s) for root in store.roots()]
    path = next((path for path in paths if path.exists()), paths[0])
    if not path.exists():
        scratch = store.roots()[0] / '.partial' / f'weights-{store.key(s, train.digest)}'
        scratch.parent.mkdir(parents=True, exist_ok=True)
        with store.locked(scratch):
            # another process may have made them meanwhile
            if not path.exists():
                run(s, scratch)
            shutil.rmtree(scratch, ignore_errors=True)
    task, model = untrained(s, chosen, train)
    return task, load_weights(path, model, chosen.device, 'delete the file, they are made again')
