"""The fields in which protocols differ, for a table."""

from __future__ import annotations

import dataclasses
from typing import Any

from pt4al.experiments import protocols, specs


def differences() -> list[dict[str, str]]:
    """Rows field x protocol of all in which the protocols differ, as text, for a table."""
    facts = {name: _facts(protocol) for name, protocol in protocols.PROTOCOLS.items()}
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
    return out | {'repeats': _text(protocol.repeats)}


def _defaults(cls: type) -> dict[str, Any]:
    return {f.name: f.default for f in dataclasses.fields(cls)}


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ', '.join(map(str, value)) or 'none'
    return str(value) or 'no'
