"""Every published protocol of PT4AL as a switch: fields of specs at the paper's scale, and profiles
that shrink them.

    pt4al.get(protocols.spec('as-released', dataset='cifar10-mini', profile='smoke'))

What public code did is cited, and what of it is not done here is named, in the book
(`book/_code/protocol_table.py`).
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import yaml

from pt4al.errors import Refused, choose
from pt4al.experiments import specs
from pt4al.files import ASSETS
from pt4al.tasks import family

Fields = dict[str, Any]


@dataclass(frozen=True)
class Protocol:
    """One way to run the study at the paper's scale: 50,000 images, width 64."""

    summary: str  # in a sentence or two
    pretext: dict[str, Fields]  # task -> fields of `Pretext`; the first one orders the pool
    active: Fields  # of `Active`, in every arm
    arms: dict[str, Fields]  # arm -> its strategy, and fields that it alone changes
    main: Fields = field(default_factory=dict)  # of `Main`; empty: nothing is known of it


@dataclass(frozen=True)
class Profile:
    """How far a protocol is shrunk; budget, batches and images held out follow the data set."""

    width: int
    epochs: float = 1  # of classifiers, as a part of the protocol's; milestones alike
    pretext: float = 1  # the same of pretext tasks, which learn nothing in two epochs
    until: int = 0  # cycles that are run of the whole split; 0: all


_STATED = yaml.safe_load((ASSETS / 'protocols.yaml').read_text('utf-8'))
PROFILES = {name: Profile(**fields) for name, fields in _STATED['profiles'].items()}
PROTOCOLS = {name: Protocol(**fields) for name, fields in _STATED['protocols'].items()}


def spec(
    protocol: str = 'rigorous',
    arm: str = 'pt4al',
    dataset: str | None = None,
    seed: int = 0,
    profile: str = 'paper',
    kind: str = 'active',
    **changes: Any,
) -> specs.Spec:
    """The spec of one arm of a protocol, or of its pretext or main task alone.

    arm      of `active` alone
    profile  shrinks it
    kind     active, pretext or main
    changes  fields of the spec that replace the protocol's; of an active one also `task` and
             `pretext_seed`

    Raises `Refused` as `specs.spec` does, and for a protocol without a main task.
    """
    chosen = PROTOCOLS[choose('protocol', protocol, PROTOCOLS)]
    shrunk = PROFILES[choose('profile', profile, PROFILES)]
    choose('kind of experiment of a protocol', kind, ('active', 'pretext', 'main'))
    task = changes.pop('task', None) or next(iter(chosen.pretext))
    if kind == 'pretext':
        fields = chosen.pretext.get(family(task), {})
        return _spec(kind, shrunk, fields, dataset, seed, {'task': task} | changes)
    if kind == 'main':
        if not chosen.main:
            what = f'{protocol} says nothing of the main task'
            raise Refused(f'{what}: take as-reproduced:code or rigorous')
        return _spec(kind, shrunk, chosen.main, dataset, seed, changes)
    fields = chosen.active | chosen.arms[choose(f'arm of {protocol}', arm, chosen.arms)]
    pretext_seed = changes.pop('pretext_seed', 0)
    out = _spec(kind, shrunk, fields, dataset, seed, changes)
    if out.pretext is None or 'pretext' in changes:
        return out
    of_order = {'kind': 'pretext', 'task': task, 'width': out.width}
    pretext = spec(protocol, arm, dataset, pretext_seed, profile, **of_order)
    return dataclasses.replace(out, pretext=pretext)


def _spec(
    kind: str, profile: Profile, fields: Fields, dataset: str | None, seed: int, changes: Fields
) -> Any:
    """A spec of the fields at the size of the profile and of the data set's own defaults."""
    usual: Any = specs.spec(kind, dataset=dataset, task=changes.get('task'))
    sized: Fields = {'width': profile.width}
    if fields:
        sized |= shortened(fields, profile.pretext if kind == 'pretext' else profile.epochs)
        sized['batch'] = min(fields['batch'], usual.batch)
    if kind == 'active':
        sized['budget'] = min(fields['budget'], usual.budget)
        sized['held_out'] = round(fields.get('held_out', 0) * sized['budget'] / fields['budget'])
        sized['until'] = min(filter(None, (fields.get('until'), profile.until)), default=0)
    return specs.spec(kind, **{**fields, **sized, 'dataset': dataset, 'seed': seed, **changes})


def shortened(fields: Fields, part: float) -> dict[str, Any]:
    """Epochs and milestones times `part`, at least 1.

    A milestone that was reached before the last epoch still is, and one that was not is not.
    """
    epochs = max(1, round(fields['epochs'] * part))

    def milestone(m: int) -> int:
        near = max(1, round(m * part))
        return max(near, epochs) if m >= fields['epochs'] else max(1, min(near, epochs - 1))

    return {'epochs': epochs, 'milestones': tuple(milestone(m) for m in fields['milestones'])}
