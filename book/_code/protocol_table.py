"""Protocols side by side: where they are written, what of that is not done here, and the fields in
which they differ.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from pt4al.experiments import protocols, specs

RELEASE = 'johnsk95/PT4AL@9a0da4a'
REPRODUCTION = 'bae-sohee/Machine_Learning_Reproducibility_Challenge@cd6c032'
# seeds that the source runs, where it runs more than one
REPEATS = {'as-reproduced': 3, 'rigorous': 5}
# by protocol: file:line of public code, or where it is written
SOURCES = {
    'as-released': (
        f'{RELEASE} rotation.py:45-46,66-67,158',
        f'{RELEASE} make_batches.py:86-109',
        f'{RELEASE} main.py:52-57,104-114,154-177,208-245',
        f'{RELEASE} loader.py:66-73',
        f'{RELEASE} main_random.py:44-49',
    ),
    'as-released:cold': (
        f'{RELEASE} main_pt4al.py:43-47',
        f'{RELEASE} loader.py:83-85',
        f'{RELEASE} main_random.py:44-49',
    ),
    'as-released:train': (
        'johnsk95/PT4AL@7656fce main.py:44,52',
        'johnsk95/PT4AL@7656fce loader.py:56-58',
        'fixed in 458883d, issue #8',
    ),
    'as-reproduced': ("the reproduction's report, its list of hyper-parameters",),
    'as-reproduced:code': (
        f'{REPRODUCTION} rotation.py:23',
        f'{REPRODUCTION} colorization.py:23-43',
        f'{REPRODUCTION} main.py:241-243',
        f'{REPRODUCTION} main_random.py:139-141,190-215',
        f'{REPRODUCTION} main_supervised.py:38-42,111-112',
    ),
    'as-described': (
        'PT4AL, sec. 3, eq. 1 and 2, as the reproduction quotes them',
        'johnsk95/PT4AL issue #7: trained from scratch',
    ),
    'rigorous': ('this report',),
}
_RELEASED = (
    'the rotation network is that of the last epoch; the release keeps the epoch of the best '
    'accuracy on its training images',
    'the four views of an image share the batch-norm statistics of one minibatch; the release '
    'takes four passes',
    'the pretext network sees RGB, only the classifier BGR',
)
_LABELS = ('random labels after the first cycle, and seeds: the release has neither',)
# by protocol: what of the source is not done here
DEVIATIONS = {
    'as-released': _RELEASED + _LABELS,
    'as-released:cold': _RELEASED,
    'as-released:train': _RELEASED + _LABELS,
    'as-reproduced': (
        'the report states neither a learning-rate schedule nor the minibatch of the classifier: '
        "here a constant rate and the release's 128",
        'the report does not say which epoch counts: here the last',
    ),
    'as-reproduced:code': (
        'for random labels the source reports the highest accuracy of all cycles so far (here: '
        'the running maximum of test_best)',
        'the optimiser of random labels keeps its momentum from cycle to cycle in the source',
        'the rotation network of the source is that of the best epoch on test images, with a head '
        'of ten outputs',
        'the classifier of claim 1 in the source is augmented by flips alone, trained on all '
        'images (here in folds: loss_in), kept at its best test epoch, and sees BGR',
        'colorization in the source trains at 224 pixels and scores at 32',
    ),
    'as-described': ('epochs, learning rates and sizes of minibatches are those of the release',),
    'rigorous': (),
}


def differences(names: Iterable[str] = tuple(protocols.PROTOCOLS)) -> list[dict[str, str]]:
    """Rows field x protocol of all in which these protocols differ, as text, for a table."""
    facts = {
        name: _facts(protocols.PROTOCOLS[name]) | {'repeats': _text(REPEATS.get(name, 1))}
        for name in names
    }
    fields = dict.fromkeys(key for row in facts.values() for key in row)
    rows = [
        {'field': key, **{name: row.get(key, '–') for name, row in facts.items()}} for key in fields
    ]
    return [row for row in rows if len({value for key, value in row.items() if key != 'field'}) > 1]


def _facts(protocol: protocols.Protocol) -> dict[str, str]:
    active = _defaults(specs.Active) | protocol.active
    out = {
        name: _text(active[name])
        for name in (
            *protocols.CLASSIFIER,
            *specs.PROTOCOL_FIELDS,
            'minibatches',
            'held_out',
            'until',
        )
    }
    for arm in ('pt4al', 'random'):
        fields = protocol.arms[arm]
        out[f'{arm}: strategy'] = fields['strategy']
        out[f'{arm}: its own'] = (
            ', '.join(f'{name} {_text(fields[name])}' for name in fields if name != 'strategy')
            or '–'
        )
    for task, fields in protocol.pretext.items():
        out |= {
            f'{task}: {name}': _text((_defaults(specs.Pretext) | fields)[name])
            for name in ('epochs', 'batch', 'lr', 'milestones', 'optimiser')
        }
    out |= {
        f'main: {name}': _text((_defaults(specs.Main) | protocol.main)[name])
        for name in protocol.main
    }
    return out


def _defaults(cls: type) -> dict[str, Any]:
    return {f.name: f.default for f in dataclasses.fields(cls)}


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ', '.join(map(str, value)) or 'none'
    return f'{value:,}' if type(value) is int else str(value) or 'no'
