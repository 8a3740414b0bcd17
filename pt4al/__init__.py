"""pt4al: does a self-supervised pretext loss tell you which images to label?

    import pt4al
    losses = pt4al.get(pt4al.spec('pretext', dataset='cifar10-mini', task='rotation', seed=0))

Reading results, statistics and figures do not import torch; training does.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from pt4al.errors import Refused

if TYPE_CHECKING:
    from pt4al.experiments import get, runs
    from pt4al.experiments.specs import spec
    from pt4al.experiments.store import find
    from pt4al.own.advice import advise
    from pt4al.own.ranking import rank

__all__ = ['Refused', 'advise', 'find', 'get', 'rank', 'runs', 'spec']
__version__ = '0.2.0'
HOMES = {'find': 'experiments.store', 'get': 'experiments', 'runs': 'experiments'}
HOMES |= {'spec': 'experiments.specs', 'rank': 'own.ranking', 'advise': 'own.advice'}


def __getattr__(name: str) -> object:
    """Functions and modules, imported at first use: the command begins at once."""
    if name in HOMES:
        return getattr(import_module(f'{__name__}.{HOMES[name]}'), name)
    if find_spec(f'{__name__}.{name}'):
        return import_module(f'{__name__}.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
