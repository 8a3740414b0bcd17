"""Bad input is refused in one line that says what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

SHOWN = 50  # names in one message


class Refused(ValueError):
    """Input that cannot be used; the message is one line for the person who typed it."""


class NotStored(Refused):
    """A result that is not in the store, where none may be computed."""


def one_line(error: object) -> str:
    """What an error says, in one line."""
    return ' '.join(str(error).split())


def first(names: Sequence[str], most: int, sep: str = ', ') -> str:
    """The first of some names, and how many others there are: 'a, b and 3 more'."""
    text = sep.join(names[:most])
    return f'{text} and {len(names) - most} more' if len(names) > most else text


def choose(what: str, name: str, valid: Iterable[str]) -> str:
    """Return `name` if it is one of `valid`, else refuse with the nearest one."""
    valid = sorted(valid)
    if name in valid:
        return name
    lower = {one.lower(): one for one in valid}
    near = difflib.get_close_matches(str(name).lower(), lower, n=1, cutoff=0.5)
    hint = f'did you mean {lower[near[0]]!r}? ' if near else ''
    raise Refused(f'unknown {what} {str(name)!r}: {hint}valid: {first(valid, SHOWN)}')
