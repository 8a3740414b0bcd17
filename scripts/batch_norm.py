"""Whether rotation networks score images badly because of batch norm's running statistics.

    python -m scripts.batch_norm [--seeds 1 2]

Scores 2,000 images of Caltech-101 with each network as it is, and with batch-norm statistics taken
anew with the final weights. Saved in bench/batch_norm.json beside the results, for the book.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import torch
from scipy.stats import spearmanr

from pt4al import data
from pt4al.claims.curves import ORDERS
from pt4al.experiments import get, pretext, records
from pt4al.experiments.specs import spec
from pt4al.rng import stream
from pt4al.tasks.task import pretext_losses, recalibrate, training_inputs
from pt4al.training.execution import execution

DATASET = 'caltech101:size=64,background=no'
IMAGES = 2_000


def row(seed: int, fields: dict[str, Any]) -> dict[str, Any]:
    """One rotation run: its loss in training, and when it scores with either statistics."""
    s: Any = spec('pretext', dataset=DATASET, seed=seed, **fields)
    stored = get(s)
    task, model = pretext.trained(s)
    pixels = data.load(DATASET, execution().device)[0].pixels
    some = stream(seed, 'batch norm', 'images').choice(len(pixels), IMAGES, replace=False)

    def draws(repeat: int) -> torch.Generator:
        return torch.Generator(pixels.device).manual_seed(repeat)

    with torch.no_grad():
        anew = recalibrate(model, training_inputs(task, pixels, draws(0)))
    loss = pretext_losses(anew, task, pixels[some.tolist()], draws, 1)['loss'][0].cpu().numpy()
    before = stored.tables['images']['loss'][some]
    return {
        'seed': seed,
        'batch': s.batch,
        'steps': s.epochs * math.ceil(len(pixels) / s.batch),
        'training': stored.summary['last_epoch_loss'],
        'running': float(before.mean()),
        'anew': float(loss.mean()),
        'rho': float(spearmanr(before, loss)[0]),
    }


def main() -> None:
    """Measure each run and save the record."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--seeds', type=int, nargs='+', default=[1, 2])
    seeds = parser.parse_args().seeds
    ways = ({}, ORDERS[DATASET])
    rows = [row(seed, fields) for fields in ways for seed in seeds]
    records.save('batch_norm', {'dataset': DATASET, 'images': IMAGES, 'rows': rows})


if __name__ == '__main__':
    main()
