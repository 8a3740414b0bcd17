"""The experiments of the study: for each kind of spec a function that computes it into the store."""
from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import data, store
from .errors import Refused, choose
from .specs import PRETEXT_FIELDS, Active, Main, Pretext, Representation, Spec, data_digest, query_needs, seeded, spec
from .tasks import TASKS

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .cycle import Cycle
    from .execution import Execution
    from .fit import History, Schedule
    from .nets import Model
    from .tasks.base import Task


def get(s: Spec, policy: str | None = None) -> store.Result:
    """Read the result of a spec from the store, or compute it; policy 'never' makes a lack an error.

    The default policy is $PT4AL_COMPUTE, else 'missing'; the book is built with 'never'.
    """
    policy = choose('policy', policy or os.environ.get('PT4AL_COMPUTE', 'missing'), ('missing', 'never'))
    compute = {'pretext': _pretext, 'main': _main, 'active': _active, 'representation': _representation}[s.kind]
    return store.result(s, data_digest(s), compute, policy)


def runs(kind: str, **fields: Any) -> list[store.Result]:
    """The stored results of one spec under every seed, in order of seed."""
    base = spec(kind, **fields)
    digest = data_digest(base)
    return [r for r in store.find(kind, dataset=base.dataset) if r.key == store.key(seeded(base, r.spec['seed']), digest)]


def _prepare(s: Spec) -> tuple[Execution, data.Images, data.Images]:
    from .execution import execution
    chosen = execution()
    train, test = data.load(s.dataset, chosen.device)
    data.check_trainable(train, s.dataset)
    return chosen, train, test


def _labels(images: data.Images) -> np.ndarray:
    """Labels [N], kept with every result so that it can be read where the images are not at hand."""
    return images.labels.cpu().numpy().astype('int16')


def _label(s: Spec, *words: str) -> str:
    return ' '.join([s.dataset, *words, f'seed {s.seed}'])


def _schedule(s: Spec) -> Schedule:
    from .fit import Schedule
    return Schedule(s.epochs, s.lr, s.milestones, optimiser=getattr(s, 'optimiser', 'sgd'))


def _epochs_table(histories: list[History]) -> dict[str, np.ndarray]:
    rows = [(run, epoch, h.loss[epoch], h.lr[epoch], h.steps[epoch])
            for run, h in enumerate(histories) for epoch in range(len(h.loss))]
    run, epoch, loss, lr, steps = zip(*rows)
    return {'run': np.array(run, 'int16'), 'epoch': np.array(epoch, 'int16') + 1, 'loss': np.array(loss, 'float32'),
            'lr': np.array(lr, 'float32'), 'steps': np.array(steps, 'int32')}


def _untrained(s: Pretext, chosen: Execution, train: data.Images) -> tuple[Task, Model]:
    import torch

    from . import nets
    from .rng import device_stream, initialising
    task = TASKS[s.task]()
    with initialising(s.seed, 'pretext', s.task, 'weights'):
        model = nets.Model(nets.resnet18(s.width), task.head(8 * s.width))
    model = model.to(chosen.device, memory_format=torch.channels_last)
    task.start(model, train.pixels, device_stream(s.seed, 'pretext', s.task, 'start', device=chosen.device))
    return task, model


def _pretext(s: Pretext, scratch: Path) -> store.Computed:
    import torch

    from .execution import machine
    from .fit import fit, minibatches
    from .rng import device_stream
    from .score import pretext_losses
    chosen, train, _ = _prepare(s)
    task, model = _untrained(s, chosen, train)
    everything = torch.arange(len(train.labels), device=chosen.device)

    def batches(epoch: int):
        rng = device_stream(s.seed, 'pretext', s.task, 'epoch', epoch, device=chosen.device)
        for index in minibatches(everything, s.batch, rng):
            yield task.make_batch(train.pixels[index], index, rng)

    history = fit(model, batches, task.per_sample_loss, _schedule(s), chosen, len(everything),
                  _label(s, s.task), scratch / 'fit.pt')
    table = pretext_losses(model, task, train.pixels,
                           lambda r: device_stream(s.seed, 'pretext', s.task, 'score', r, device=chosen.device), s.repeats)
    columns = {name: rows.mean(0).cpu().numpy() for name, rows in table.items()}
    if s.repeats > 1:
        columns |= {f'loss_{r}': row.cpu().numpy() for r, row in enumerate(table['loss'])}
    _keep_weights(s, model)
    return store.Computed({'images': {'label': _labels(train), **columns}, 'epochs': _epochs_table([history])},
                          {'mean_loss': table['loss'].mean().item(), 'last_epoch_loss': history.loss[-1]}, train.classes,
                          machine(chosen))


def _weights(s: Pretext) -> str:
    return f'.weights/{store.key(s, data.key_digest(s.dataset))}.pt'


def _keep_weights(s: Pretext, model: Model) -> None:
    """Save a trained network beside the results, on this machine only: weights are large, and cheap beside their study."""
    import torch
    path = store.roots()[0] / _weights(s)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f'.{os.getpid()}.part')
    torch.save(model.state_dict(), part)
    os.replace(part, path)


def trained(s: Pretext) -> tuple[Task, Model]:
    """The trained network of a pretext spec, on the execution's device; trained again where its weights are not kept."""
    import torch
    chosen, train, _ = _prepare(s)
    found = [root / _weights(s) for root in store.roots() if (root / _weights(s)).exists()]
    if not found:
        scratch = store.roots()[0] / '.partial' / f'weights-{store.key(s, train.digest)}'
        _pretext(s, scratch)
        shutil.rmtree(scratch, ignore_errors=True)
        found = [store.roots()[0] / _weights(s)]
    task, model = _untrained(s, chosen, train)
    try:
        model.load_state_dict(torch.load(found[0], weights_only=True, map_location=chosen.device))
    except Exception as damage:                  # torch names no common class for the ways in which a file can be bad
        raise Refused(f'weights {found[0]} are damaged ({type(damage).__name__}): delete the file, they are made again') \
            from None
    return task, model


def _classifier(s: Main | Active | Representation, chosen: Execution, train: data.Images, index: Tensor, label: str,
                checkpoint: Path | None, *path: str | int, start: nn.Module | None = None):
    """Train a fresh classifier on the images of `index`, its trunk from the weights of `start` if that is given.

    All its randomness comes from the stream `path`.
    """
    import torch

    from . import learners, views
    from .fit import fit, minibatches
    from .rng import device_stream, initialising
    kind = learners.learner(query_needs(s.strategy) if isinstance(s, Active) else frozenset())
    with initialising(s.seed, *path, 'weights'):
        model = kind.model(s.width, len(train.classes))
    if start is not None:
        model.trunk.load_state_dict(start.state_dict())
    model = model.to(chosen.device, memory_format=torch.channels_last)

    def batches(epoch: int):
        rng = device_stream(s.seed, *path, 'epoch', epoch, device=chosen.device)
        for part in minibatches(index, s.batch, rng):
            images = views.normalise(views.crop_flip(train.pixels[part], rng))
            yield (images, *kind.extras(model, len(part), epoch / s.epochs, rng)), train.labels[part]

    return model, fit(model, batches, kind.loss, _schedule(s), chosen, len(index), label, checkpoint)


def _main(s: Main, scratch: Path) -> store.Computed:
    import torch

    from .execution import machine
    from .fit import classification_loss, predict
    from .rng import stream
    chosen, train, test = _prepare(s)
    n = len(train.labels)
    if s.folds > n:
        raise Refused(f'{s.folds} folds of {n} images: give at most one fold an image')
    fold = torch.from_numpy(stream(s.seed, 'main', 'folds').permutation(n) % s.folds).to(chosen.device)
    loss_out, right_out = torch.empty(n), torch.empty(n, dtype=torch.bool)
    loss_in, right_in = torch.zeros(n), torch.zeros(n)
    histories, test_accuracy = [], []
    for f in range(s.folds):
        held = (fold == f).cpu()
        model, history = _classifier(s, chosen, train, (fold != f).nonzero()[:, 0],
                                     _label(s, f'main fold {f + 1}/{s.folds}'), scratch / f'fold-{f}.pt', 'main', f)
        logits = predict(model, train.pixels).logits
        loss, right = classification_loss(logits, train.labels).cpu(), (logits.argmax(1) == train.labels).cpu()
        loss_out[held], right_out[held] = loss[held], right[held]
        loss_in[~held] += loss[~held] / (s.folds - 1)
        right_in[~held] += right[~held].float() / (s.folds - 1)
        histories.append(history)
        test_accuracy.append((predict(model, test.pixels).logits.argmax(1) == test.labels).float().mean().item())
    images = {'label': _labels(train), 'fold': fold.cpu().numpy().astype('int16'), 'loss_out': loss_out.numpy(),
              'loss_in': loss_in.numpy(), 'right_out': right_out.numpy()}
    return store.Computed({'images': images, 'epochs': _epochs_table(histories)},
                          {'accuracy_out': right_out.float().mean().item(), 'accuracy_in': right_in.mean().item(),
                           'accuracy_test': float(np.mean(test_accuracy))}, train.classes, machine(chosen))


def _of_pretext(s: Pretext, train: data.Images, asked: frozenset[str]) -> dict[str, Tensor]:
    """The fields of a `Pool` that come of a pretext task: losses as they are stored, features of the kept network."""
    import torch

    from .represent import embed
    result, out = get(s, 'missing'), {}
    if 'pretext_loss' in asked:
        out['pretext_loss'] = torch.tensor(result.tables['images']['loss'], device=train.labels.device)
    if 'ssl_features' in asked:
        task, model = trained(s)
        out['ssl_features'] = embed(model.trunk, train.pixels, task.encode)
    return out


def _active(s: Active, scratch: Path) -> store.Computed:
    import torch

    from . import cycle
    from .execution import machine
    from .query import QUERIES
    chosen, train, test = _prepare(s)
    budgets, query = [s.budget] * (s.until or s.cycles), QUERIES[s.strategy]
    known = set() if s.pretext is None else PRETEXT_FIELDS
    cycle.check(train, test, query, budgets, s.cycles, known)      # before hours of pretext training
    given = {} if s.pretext is None else _of_pretext(s.pretext, train, query_needs(s.strategy))

    def learner(images: data.Images, labelled: Tensor, number: int):
        return _classifier(s, chosen, images, labelled, _label(s, s.strategy, f'cycle {number + 1}/{s.cycles}'),
                           None, 'active', number)

    records = _finished(scratch)
    for record in cycle.run(train, test, learner, query, budgets, s.seed, s.cycles, records, given):
        _keep(scratch, record)
        records.append(record)
    picks = torch.cat([r.picked.cpu() for r in records]).numpy()
    labels = np.cumsum(budgets)
    tables = {
        'picks': {'cycle': np.repeat(np.arange(len(budgets), dtype='int16'), budgets) + np.int16(1), 'index': picks,
                  'label': _labels(train)[picks]},
        'cycles': {'cycle': np.arange(1, len(budgets) + 1, dtype='int16'), 'labels': labels,
                   'accuracy': np.array([r.accuracy for r in records], 'float32'),
                   'steps': np.array([r.steps for r in records])},
        'classes': {'cycle': np.repeat(np.arange(1, len(budgets) + 1, dtype='int16'), len(train.classes)),
                    'label': np.tile(np.arange(len(train.classes), dtype='int16'), len(budgets)),
                    'accuracy': torch.cat([r.per_class.cpu() for r in records]).numpy()},
    }
    return store.Computed(tables, {'accuracy': records[-1].accuracy, 'labels': int(labels[-1])}, train.classes,
                          machine(chosen))


def _trunk(s: Representation) -> tuple[nn.Sequential, Callable[[Tensor], Tensor]]:
    """The trunk that a spec asks for, and how images enter it."""
    from . import views
    if s.pretext is not None:
        task, model = trained(s.pretext)
        return model.trunk, task.encode
    chosen, train, _ = _prepare(s)
    if not s.supervised:
        return _untrained(Pretext(s.dataset, seed=s.seed, width=s.width), chosen, train)[1].trunk, views.normalise
    import torch
    everything = torch.arange(len(train.labels), device=chosen.device)
    model, _ = _classifier(s, chosen, train, everything, _label(s, 'supervised'), None, 'representation', 'supervised')
    return model.trunk, views.normalise


def _representation(s: Representation, scratch: Path) -> store.Computed:
    from . import represent
    from .execution import machine
    trunk, encode = _trunk(s)
    chosen, train, test = _prepare(dataclasses.replace(s, dataset=s.transfer or s.dataset))

    def learn(index: Tensor, start: nn.Module | None, percent: int) -> Model:
        label = _label(s, 'scratch' if start is None else 'fine-tuning', f'{percent} %')
        return _classifier(s, chosen, train, index, label, None, 'representation', 'finetune', percent, start=start)[0]

    tables, summary = represent.evaluate(trunk, encode, train, test, s.seed, s.images, s.fractions)
    if s.finetune:
        tables['finetune'] = represent.finetune(learn, trunk, train, test, s.seed, s.finetune)
        summary |= {name: float(tables['finetune'][name][-1]) for name in ('finetuned', 'scratch')}
    return store.Computed(tables, summary, train.classes, machine(chosen))


def _keep(scratch: Path, record: Cycle) -> None:
    """Save one whole cycle, so that an interrupted run goes on after it."""
    scratch.mkdir(parents=True, exist_ok=True)
    row = dataclasses.asdict(record) | {'picked': record.picked.tolist(), 'per_class': record.per_class.tolist()}
    part = scratch / f'cycle-{record.number:03d}.{os.getpid()}.part'
    part.write_text(json.dumps(row))
    os.replace(part, scratch / f'cycle-{record.number:03d}.json')


def _finished(scratch: Path) -> list[Cycle]:
    import torch

    from .cycle import Cycle
    rows = [json.loads(path.read_text()) for path in sorted(scratch.glob('cycle-*.json'))]
    return [Cycle(**(row | {'picked': torch.tensor(row['picked']), 'per_class': torch.tensor(row['per_class'])}))
            for row in rows]
