"""Runs of the classifier in folds: the loss of every image, in-sample and out-of-fold."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pt4al.data import noise
from pt4al.errors import Refused
from pt4al.experiments import store
from pt4al.experiments.running import epochs_table, labels, prepared, title, train_classifier
from pt4al.experiments.specs import Main, Trajectory
from pt4al.rng import stream
from pt4al.training.fit import classification_loss, correct, predict


def folds(s: Main | Trajectory, n: int, device: str) -> Tensor:
    """The fold [n] of each of `n` images, of nearly equal sizes."""
    return torch.from_numpy(stream(s.seed, 'main', 'folds').permutation(n) % s.folds).to(device)


def run(s: Main, scratch: Path) -> store.Computed:
    """'images' and 'epochs'. With noise, losses and what is right are by the labels trained on;
    'label' stays the truth, and 'wrong' says where the two differ.
    """
    chosen, train, test = prepared(s)
    n, truth = len(train.labels), labels(train)
    if s.noise:
        train = replace(train, labels=noise.wrong(s.noise, s.dataset, train.labels, s.seed))
    if s.folds > n:
        raise Refused(f'{s.folds} folds of {n} images: give at most one fold per image')
    fold = folds(s, n, chosen.device)
    loss_out, right_out = torch.empty(n), torch.empty(n, dtype=torch.bool)
    loss_in, right_in = torch.zeros(n), torch.zeros(n)
    histories, test_accuracy = [], []
    for f in range(s.folds):
        left_out, rest = (fold == f).cpu(), (fold != f).nonzero()[:, 0]
        label, checkpoint = title(s, f'main fold {f + 1}/{s.folds}'), scratch / f'fold-{f}.pt'
        model, history = train_classifier(s, chosen, train, rest, label, checkpoint, 'main', f)
        logits = predict(model, train.pixels).logits
        loss = classification_loss(logits, train.labels).cpu()
        right = (logits.argmax(1) == train.labels).cpu()
        loss_out[left_out], right_out[left_out] = loss[left_out], right[left_out]
        loss_in[~left_out] += loss[~left_out] / (s.folds - 1)
        right_in[~left_out] += right[~left_out].float() / (s.folds - 1)
        histories.append(history)
        test_accuracy.append(correct(model, test.pixels, test.labels).float().mean().item())
    images = {
        'label': truth,
        'fold': fold.cpu().numpy().astype('int16'),
        'loss_out': loss_out.numpy(),
        'loss_in': loss_in.numpy(),
        'right_out': right_out.numpy(),
    }
    if s.noise:
        images['wrong'] = labels(train) != truth
    summary = {
        'accuracy_out': right_out.float().mean().item(),
        'accuracy_in': right_in.mean().item(),
        'accuracy_test': float(np.mean(test_accuracy)),
    }
    tables = {'images': images, 'epochs': epochs_table(histories)}
    return store.Computed(tables, summary, train.classes)
