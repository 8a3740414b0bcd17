"""What was changed about the measurement of rho, in words, and which changes move it enough."""

from __future__ import annotations

from functools import cache

import released

from pt4al import claims
from pt4al.claims import sensitivity
from pt4al.claims.sensitivity import Level

NEAR = 0.05  # within which a change must move rho by the difference
PUBLIC = 'CIFAR-10, published rotation losses'
SETS = {'cifar10': "CIFAR-10, this report's rotation losses", 'cifar10-mini': 'CIFAR-10-mini'}
# of three averages over bins of images, all near 1 on CIFAR-10, that which averages least is shown
LEFT_OUT = ('means of 50 rank bins', 'means of 10 rank bins')
WORDS = {  # a factor and its level as a row's name
    'base': 'starting point: {}',
    'evaluation set': '{}',
    'checkpoint': '{}',
    'over training': 'during training: {}',
    'rate': 'learning rate {}',
    'pretext length': 'rotation trained for {}',
    'width': 'width: {}',
    'augmentation': '{}',
    'as reproduced': 'as in the reproduction: {}',
    'seeds averaged': 'mean over {}',
    'level of analysis': '{}',
    'number of images': '{}',
    'sorted as text': 'sorted as text: {}',
    'shared weights': 'classifier starts {}',
}
PLAIN = {
    'flips only, width 64, ': '',
    'in-sample, best on test (': 'in-sample, best epoch on the test set (',
    'pretext side': 'rotation loss',
    'both sides': 'both losses',
    'pretext and': 'rotation and',
    'main runs': 'classifier runs',
    'mean within': 'mean rho within',
    'mean loss': 'mean main-task loss',
}


@cache
def levels() -> dict[str, list[Level]]:
    """The levels of each set of rotation losses, the starting point first."""
    every = {PUBLIC: released.published_levels()}
    every |= {words: sensitivity.levels(dataset) for dataset, words in SETS.items()}
    return {
        words: [one for one in found if one.level not in LEFT_OUT] for words, found in every.items()
    }


def in_words(one: Level) -> str:
    """A change in words."""
    level = one.level
    for code, plain in PLAIN.items():
        level = level.replace(code, plain)
    return WORDS.get(one.factor, f'{one.factor}: {{}}').format(level)


def undecided(one: Level) -> bool:
    """Whether a level is measured too imprecisely to decide."""
    return one.rho.high - one.rho.low > 2 * NEAR


def published() -> tuple[float, float]:
    """Rho on CIFAR-10 by the paper and by the reproduction."""
    paper, reproduction = map(float, claims.published('1', 'cifar10'))
    return paper, reproduction


def reconciles(one: Level, base: Level) -> bool:
    """Whether a change moves rho by the difference of the two published values."""
    return sensitivity.reconciles(one, base, *published(), NEAR)


def changes() -> list[tuple[Level, Level]]:
    """Every change on CIFAR-10 with its starting point."""
    both = (levels()[words] for words in (PUBLIC, SETS['cifar10']))
    return [(one, found[0]) for found in both for one in found[1:]]


def moved() -> str:
    """The changes on CIFAR-10 that move rho enough, in words; else that none does."""
    enough = [in_words(one) for one, base in changes() if reconciles(one, base)]
    return '; '.join(enough) or 'no factor that was measured precisely enough'


def counts() -> tuple[int, int]:
    """How many changes on CIFAR-10 are undecided, and of how many."""
    return sum(undecided(one) for one, _ in changes()), len(changes())
