"""Wrong labels of CIFAR-10: flipped at random, flipped to a class that looks alike, or human."""

from __future__ import annotations

import hashlib
import io
import re
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from pt4al import files
from pt4al.data import cifar, download
from pt4al.data.splits import CLASSES
from pt4al.errors import Refused, choose
from pt4al.rng import stream

if TYPE_CHECKING:
    from torch import Tensor

# who a class is taken for (Patrini et al. 2017); the others keep their labels
ALIKE = {'truck': 'automobile', 'bird': 'airplane', 'deer': 'horse', 'cat': 'dog', 'dog': 'cat'}
# labels of CIFAR-10N (Wei et al. 2022): of each image's three people the majority's, or a wrong one
# where any is wrong
HUMAN = {'majority': 'aggre_label', 'worse': 'worse_label'}
URL = (
    'https://raw.githubusercontent.com/UCSC-REAL/cifar-10-100n/'
    '49df7d8a69e355470c77c1c2f2424916325a394b/data/CIFAR-10_human.pt'
)
SHA256 = '873e69c39cb9b5e97fb6bae2d60bb59b38a5cbc31d2b868f7903dcb2b9dd2310'


def check(noise: str, dataset: str) -> None:
    """Refuse a noise that is none of '', 'symmetric:P', 'pairs:P' (P per cent) and 'human:WHO'."""
    kind, _, argument = noise.partition(':')
    if not noise:
        return
    choose('data set with wrong labels', dataset, ('cifar10', 'cifar10-mini'))
    if choose('noise', kind, ('symmetric', 'pairs', 'human')) == 'human':
        choose('labels of CIFAR-10N', argument, HUMAN)
    elif not re.fullmatch('[1-9][0-9]?', argument) or int(argument) > 90:
        raise Refused(f'noise {noise}: give a whole per cent from 1 to 90, such as {kind}:20')


def wrong(noise: str, dataset: str, labels: Tensor, seed: int) -> Tensor:
    """The labels [N] with some of them wrong.

    Each is flipped by its own draw under `seed`: 'symmetric' to any other class, 'pairs' to the one
    of `ALIKE`. The human labels are what they are.
    """
    kind, _, argument = noise.partition(':')
    truth = labels.cpu().numpy()
    if kind == 'human':
        out = human(dataset, HUMAN[argument])
    else:
        draw, shift = stream(seed, 'noise', noise).random((2, len(truth)))
        other = {
            'symmetric': (truth + 1 + (9 * shift).astype(int)) % 10,
            'pairs': np.array([CLASSES.index(ALIKE.get(name, name)) for name in CLASSES])[truth],
        }[kind]
        out = np.where(draw < int(argument) / 100, other, truth)
    return labels.new_tensor(out)


@cache
def human(dataset: str, column: str) -> np.ndarray:
    """A column of CIFAR-10N [N] in the order of `cifar10` or `cifar10-mini`."""
    import torch

    if (path := download.find('cifar-10n/CIFAR-10_human.pt')) is None:
        get = lambda scratch: download.fetch(URL, SHA256, scratch / 'cifar-10n').parent
        folder = download.folder('CIFAR-10N', files.cache() / 'cifar-10n', get)
        path = folder / 'CIFAR-10_human.pt'
    content = files.check_regular_file(path).read_bytes()
    if (got := hashlib.sha256(content).hexdigest()) != SHA256:
        raise Refused(
            f'{path} is not CIFAR-10N: it has sha256 {got}, expected {SHA256}; replace it'
        )
    # a pickle, known by its digest
    labels = torch.load(io.BytesIO(content), weights_only=False)[column]
    return labels if dataset == 'cifar10' else labels[cifar.mini_indices()[0]]
