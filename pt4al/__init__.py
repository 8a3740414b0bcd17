"""pt4al: does a self-supervised pretext loss tell you which images to label?

    import pt4al
    losses = pt4al.get(pt4al.spec('pretext', dataset='cifar10-mini', task='rotation', seed=0))

Reading results, statistics and figures do not import torch; training does.
"""
from .errors import Refused
from .experiments import get, runs
from .specs import spec
from .store import find

__all__ = ['Refused', 'find', 'get', 'runs', 'spec']
__version__ = '0.1.0'
