"""pt4al: does a self-supervised pretext loss tell you which images to label?

    import pt4al
    losses = pt4al.get(pt4al.spec('pretext', dataset='cifar10-mini', task='rotation', seed=0))

Reading results, statistics and figures do not import torch; training does.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from pt4al.errors import Refused
from pt4al.experiments import get, runs
from pt4al.experiments.specs import spec
from pt4al.experiments.store import find

if TYPE_CHECKING:
    from pt4al.own.advice import advise
    from pt4al.own.ranking import rank

__all__ = ['Refused', 'advise', 'find', 'get', 'rank', 'runs', 'spec']
__version__ = '0.2.0'


def __getattr__(name: str) -> object:
    """Functions on images of one's own, imported at first use: reading results needs none."""
    homes = {'rank': '.own.ranking', 'advise': '.own.advice'}
    if name not in homes:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(homes[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
