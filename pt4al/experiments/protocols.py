"""Every published protocol of PT4AL as a switch: fields of specs at the paper's scale, and profiles
that shrink them.

    pt4al.get(protocols.spec('as-released', dataset='cifar10-mini', profile='smoke'))

What public code did is cited, and what of it is not done here is named, in the book
(`book/_code/protocol_table.py`).
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from pt4al.errors import Refused, choose
from pt4al.experiments import specs
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


PROFILES: dict[str, Profile] = {
    'smoke': Profile(16, 0.02, 0.1, until=3),
    'cpu': Profile(16, 0.15, 0.5),
    'narrow': Profile(16),  # nothing but the width: every label is still fitted
    'paper': Profile(64),
}

ROTATION: Fields = {'epochs': 15, 'batch': 256, 'lr': 0.1, 'milestones': (30, 60, 90)}
REPEATED: Fields = {'epochs': 128, 'batch': 256, 'lr': 0.1, 'milestones': ()}
SUPERVISED: Fields = {'epochs': 200, 'batch': 128, 'lr': 0.1, 'milestones': (160,)}
CLASSIFIER: Fields = {'cycles': 10, 'budget': 1000} | SUPERVISED
FITTING: Fields = {'epochs': 100, 'milestones': (80,), 'minibatches': 'even'}
BEST_ON_TEST: Fields = {'start': 'warm', 'watch': 'test', 'keep': 'best', 'channels': 'bgr'}
BOTH: dict[str, Fields] = {'pt4al': {'strategy': 'pt4al'}, 'random': {'strategy': 'random'}}

_released = Protocol(
    "What the authors' code does: losses sorted as text, unit-norm logits, warm start, the best "
    'test epoch.',
    pretext={'rotation': ROTATION},
    active=CLASSIFIER | BEST_ON_TEST,
    arms=BOTH | {'pt4al': {'strategy': 'pt4al_released'}},
)
PROTOCOLS: dict[str, Protocol] = {
    'as-released': _released,
    'as-released:cold': dataclasses.replace(
        _released,
        summary="The authors' cold-start scripts: one cycle, its images from the sixth batch "
        'instead of the first.',
        active=_released.active | {'until': 1},
        arms=BOTH | {'pt4al': {'strategy': 'pt4al_released_cold'}},
    ),
    'as-released:train': dataclasses.replace(
        _released,
        summary='As released from November 2021 to December 2022: evaluated on the training '
        'images.',
        active=_released.active | {'watch': 'train'},
    ),
    'as-reproduced': Protocol(
        'What the reproduction reports: 128 epochs of pretext training, 100 of the classifier, '
        'three repeats.',
        pretext={
            'rotation': REPEATED | {'optimiser': 'sgd'},
            'colorization_reproduced': REPEATED | {'optimiser': 'adam'},
        },
        active=CLASSIFIER | {'epochs': 100, 'milestones': ()},
        main=SUPERVISED | {'epochs': 100, 'milestones': ()},
        arms=BOTH,
    ),
    'as-reproduced:code': Protocol(
        "What the reproduction's code does: the hardest first, and random labels on their own "
        'schedule.',
        pretext={
            'rotation': ROTATION,
            'colorization_reproduced': REPEATED | {'optimiser': 'adam', 'epochs': 30},
        },
        active=CLASSIFIER | BEST_ON_TEST,
        main=SUPERVISED | {'epochs': 100},
        # one scheduler for all its cycles, and it goes on from the last epoch, whichever was best
        arms={
            'pt4al': {'strategy': 'pt4al_reproduced'},
            'random': {'strategy': 'random', 'epochs': 100, 'schedule': 'continue', 'keep': 'last'},
        },
    ),
    'as-described': Protocol(
        'What the paper describes: losses sorted as numbers, soft-max confidence, uniform first '
        'picks, fresh starts.',
        pretext={'rotation': ROTATION},
        active=CLASSIFIER,
        arms=BOTH,
    ),
    # The schedule is the shorter one that is known to fit: at width 16, 1,000 to 7,000 labels of
    # CIFAR-10 in batches of 125, which is what even ones of 128 come to, are classified right to
    # at least .98 after it.
    'rigorous': Protocol(
        'Ours: fresh weights, even minibatches, the last epoch, images held out; the test set '
        'chooses nothing. Its 100 epochs, with a step at 80, fit 1,000 to 7,000 labels at width '
        '16; for width 64 give 200 with a step at 160.',
        pretext={'rotation': ROTATION},
        active=CLASSIFIER | FITTING | {'held_out': 5000, 'watch': 'test'},
        main={'batch': 128, 'lr': 0.1, 'folds': 5} | FITTING,
        arms={
            name: {'strategy': name}
            for name in (
                *('pt4al', 'random', 'pt4al_shuffled', 'pt4al_random', 'pt4al_text'),
                *('least_confidence', 'margin', 'entropy', 'coreset'),
                *('coregcn', 'vaal', 'learning_loss', 'badge', 'typiclust'),
            )
        },
    ),
}


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
    length = fields or {'epochs': usual.epochs, 'milestones': usual.milestones}
    sized |= shortened(length, profile.pretext if kind == 'pretext' else profile.epochs)
    if fields:
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
