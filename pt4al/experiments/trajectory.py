"""Losses of every image while a classifier trains: at logged epochs, and counts over all epochs.

Shapes: N training images, M test images, C classes.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pt4al import files
from pt4al.data import Images
from pt4al.errors import Refused
from pt4al.experiments.main import folds
from pt4al.experiments.pretext import trained
from pt4al.experiments.running import epochs_table, labels, prepared, title, train_classifier
from pt4al.experiments.specs import Trajectory
from pt4al.experiments.store import Computed, Tables
from pt4al.training.execution import machine
from pt4al.training.fit import classification_loss, predict
from pt4al.training.nets import Model

# error norms measure how hard an image is up to this epoch
EARLY = 20


class Trace:
    """The record of one training run, saved in `folder` after every epoch: an interrupted run goes
    on with it.
    """

    def __init__(self, train: Images, test: Images, log: Sequence[int], folder: Path):
        self.train, self.test, self.log, self.folder = train, test, log, folder
        n, device = len(train.labels), train.labels.device
        self.tally = {
            'total': torch.zeros(n, device=device),
            'forgotten': torch.zeros(n, device=device),
            'right': torch.zeros(n, dtype=torch.bool, device=device),
        }
        self.epoch = _epochs_of(folder / 'fit.pt')
        if self.epoch:
            saved = _read(self._path(self.epoch))
            self.tally = {name: torch.from_numpy(saved[name]).to(device) for name in self.tally}

    def on_batch(self, index: Tensor, outputs: Tensor, losses: Tensor) -> None:
        """Add a batch as it was trained on: its loss, and whether an image known before is now
        wrong.

        A forgetting event is counted where the image was right in the epoch before (Toneva et al.
        2019).
        """
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
            _save(
                self.folder / f'log-{self.epoch}.npz',
                {
                    'loss': classification_loss(logits, self.train.labels),
                    'right': logits.argmax(1) == self.train.labels,
                    'error': (logits.softmax(1) - one_hot).norm(dim=1),
                    'test': classification_loss(other, self.test.labels),
                    'test_right': other.argmax(1) == self.test.labels,
                },
            )
        _save(self._path(self.epoch), self.tally)
        # the one before may be what a checkpoint goes with
        self._path(self.epoch - 2).unlink(missing_ok=True)
        return {}

    def logged(self, epoch: int) -> dict[str, np.ndarray]:
        """What was saved at a logged epoch: loss, right and error [N], test and test_right [M]."""
        return _read(self.folder / f'log-{epoch}.npz')

    def _path(self, epoch: int) -> Path:
        return self.folder / f'tally-{epoch}.npz'


def _epochs_of(checkpoint: Path) -> int:
    if not checkpoint.exists():
        return 0
    try:
        content = io.BytesIO(files.unseal(checkpoint))
        return len(torch.load(content, weights_only=True, map_location='cpu')['history']['loss'])
    # torch names no common class for the ways in which a file can be bad
    except Exception as damage:
        raise Refused(
            f'checkpoint {checkpoint} is damaged ({type(damage).__name__}): '
            f'delete {checkpoint.parent} to start this run over'
        ) from None


def _save(path: Path, columns: dict[str, Tensor]) -> None:
    content = io.BytesIO()
    arrays: dict[str, Any] = {name: values.cpu().numpy() for name, values in columns.items()}
    np.savez(content, **arrays)
    files.seal(path, content.getbuffer())


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(io.BytesIO(files.unseal(path)), allow_pickle=False) as columns:
            return dict(columns)
    except (ValueError, KeyError, zipfile.BadZipFile) as damage:
        raise Refused(f'{damage}: delete {path.parent} to start this run over') from None


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
        rows.append(
            {
                'epoch': epoch,
                'out': by_model['right'][out_of].mean(),
                'in': by_model['right'][~out_of].mean(),
                'test': by_model['test_right'].mean(),
            }
        )
    total, forgotten = (
        np.stack([t.tally[name].cpu().numpy() for t in traces]) for name in ('total', 'forgotten')
    )
    images['loss_mean'] = _mean_inside(total, out_of) / s.epochs
    images['forgotten'] = _mean_inside(forgotten, out_of)
    log = {
        name: np.array([row[name] for row in rows], 'int16' if name == 'epoch' else 'float32')
        for name in rows[0]
    }
    return (
        {'images': images, 'test': others, 'log': log},
        {f'accuracy_{name}': float(log[name][-1]) for name in ('out', 'in', 'test')},
    )


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
        _, history = train_classifier(
            s,
            chosen,
            train,
            (fold != f).nonzero()[:, 0],
            title(s, f'trajectory fold {f + 1}/{s.folds}'),
            scratch / f'fold-{f}' / 'fit.pt',
            'main',
            f,
            start=trunk,
            watch=trace.watch,
            on_batch=trace.on_batch,
        )
        traces.append(trace)
        histories.append(history)
    columns, summary = tables(s, traces, fold, train, test)
    columns['epochs'] = epochs_table(histories)
    return Computed(columns, summary, train.classes, machine(chosen))
