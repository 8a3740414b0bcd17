"""Losses of every image while a classifier trains: at logged epochs, and counts over all epochs.

Shapes: N training images, M test images, C classes.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pt4al.data import Images
from pt4al.experiments.main import folds
from pt4al.experiments.pretext import trained
from pt4al.experiments.running import epochs_table, labels, prepared, table, title, train_classifier
from pt4al.experiments.specs import Trajectory
from pt4al.experiments.store import Computed, Tables
from pt4al.training.fit import classification_loss, predict, save, saved
from pt4al.training.nets import Model

# error norms measure how hard an image is up to this epoch
EARLY = 20


class Trace:
    """The record of one training run, saved in `folder` after every epoch, to go on with."""

    def __init__(self, train: Images, test: Images, log: Sequence[int], folder: Path):
        self.train, self.test, self.log, self.folder = train, test, log, folder
        n, device = len(train.labels), train.labels.device
        self.tally = {name: torch.zeros(n, device=device) for name in ('total', 'forgotten')}
        self.tally['right'] = torch.zeros(n, dtype=torch.bool, device=device)
        self.epoch = 0
        if (folder / 'fit.pt').exists():
            self.epoch = len(self._saved('fit.pt')['history']['loss'])
            self.tally = self._saved(f'tally-{self.epoch}.pt')

    def on_batch(self, index: Tensor, outputs: Tensor, losses: Tensor) -> None:
        """Add a batch as trained on: its loss, and what it forgot (Toneva et al. 2019)."""
        right = outputs.argmax(1) == self.train.labels[index]
        self.tally['total'][index] += losses
        self.tally['forgotten'][index] += self.tally['right'][index] & ~right
        self.tally['right'][index] = right

    @torch.no_grad()
    def watch(self, model: Model) -> dict[str, float]:
        """Keep this epoch's record; if it is logged, also every image's loss and error norm."""
        self.epoch += 1
        if self.epoch in self.log:
            logits = predict(model, self.train.pixels).logits
            other = predict(model, self.test.pixels).logits
            one_hot = torch.nn.functional.one_hot(self.train.labels, logits.shape[1])
            logged = {
                'loss': classification_loss(logits, self.train.labels),
                'right': logits.argmax(1) == self.train.labels,
                'error': (logits.softmax(1) - one_hot).norm(dim=1),
                'test': classification_loss(other, self.test.labels),
                'test_right': other.argmax(1) == self.test.labels,
            }
            save(self.folder / f'log-{self.epoch}.pt', logged)
        save(self.folder / f'tally-{self.epoch}.pt', self.tally)  # not every epoch has a checkpoint
        return {}

    def logged(self, epoch: int) -> dict[str, np.ndarray]:
        """What was saved at a logged epoch: loss, right and error [N], test and test_right [M]."""
        columns = self._saved(f'log-{epoch}.pt')
        return {name: values.cpu().numpy() for name, values in columns.items()}

    def _saved(self, name: str) -> dict[str, Any]:
        cure = f'delete {self.folder} to start this run over'
        with saved(self.folder / name, self.train.labels.device, cure) as content:
            return content


def tables(
    s: Trajectory, traces: Sequence[Trace], fold: Tensor, train: Images, test: Images
) -> tuple[Tables, dict[str, float]]:
    """Tables of a run in folds, and its accuracies after the last logged epoch.

    'images' holds, of every training image, loss_out_E and loss_in_E of each logged epoch E (from
    the model that did not train on it, and the mean of those that did), error_E of those that did,
    for early epochs (Paul, Ganguli & Dziugaite 2021, EL2N), and over all training the mean loss and
    the forgetting events, as it was trained on; 'test' the mean loss of each test image over the
    models; 'log' the accuracies.
    """
    left_out = fold.cpu().numpy()
    # [folds,N]: left out by model f
    out_of = np.stack([left_out == f for f in range(s.folds)])
    images = {'label': labels(train), 'fold': left_out.astype('int16')}
    others, rows = {'label': labels(test)}, []
    for epoch in sorted(set(s.log)):
        logs = [trace.logged(epoch) for trace in traces]
        by_model = {name: np.stack([log[name] for log in logs]) for name in logs[0]}
        images[f'loss_out_{epoch}'] = by_model['loss'][out_of.argmax(0), np.arange(len(left_out))]
        images[f'loss_in_{epoch}'] = _mean_inside(by_model['loss'], out_of)
        if epoch <= EARLY:
            images[f'error_{epoch}'] = _mean_inside(by_model['error'], out_of).astype('float16')
        others[f'loss_{epoch}'] = by_model['test'].mean(0)
        right = by_model['right']
        known = right[out_of].mean(), right[~out_of].mean(), by_model['test_right'].mean()
        rows.append((epoch, *known))
    total, forgotten = (
        np.stack([t.tally[name].cpu().numpy() for t in traces]) for name in ('total', 'forgotten')
    )
    images['loss_mean'] = _mean_inside(total, out_of) / s.epochs
    images['forgotten'] = _mean_inside(forgotten, out_of)
    log = table(rows, epoch='int16', **dict.fromkeys(('out', 'in', 'test'), 'float32'))
    summary = {f'accuracy_{name}': float(log[name][-1]) for name in ('out', 'in', 'test')}
    return {'images': images, 'test': others, 'log': log}, summary


def _mean_inside(values: np.ndarray, out_of: np.ndarray) -> np.ndarray:
    """Mean [N] over the models [folds,N] that trained on an image."""
    return (values.sum(0, where=~out_of) / (len(out_of) - 1)).astype('float32')


def run(s: Trajectory, scratch: Path) -> Computed:
    """The tables of `tables`, and 'epochs'."""
    chosen, train, test = prepared(s)
    trunk = None if s.pretext is None else trained(s.pretext)[1].trunk
    fold = folds(s, len(train.labels), chosen.device)
    traces, histories = [], []
    for f in range(s.folds):
        trace = Trace(train, test, s.log, scratch / f'fold-{f}')
        rest, label = (fold != f).nonzero()[:, 0], title(s, f'trajectory fold {f + 1}/{s.folds}')
        learn = partial(train_classifier, start=trunk, watch=trace.watch, on_batch=trace.on_batch)
        _, history = learn(s, chosen, train, rest, label, trace.folder / 'fit.pt', 'main', f)
        traces.append(trace)
        histories.append(history)
    columns, summary = tables(s, traces, fold, train, test)
    columns['epochs'] = epochs_table(histories)
    return Computed(columns, summary, train.classes)
