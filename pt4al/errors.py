"""A command that cannot go on ends in one line: on bad input, and when it is stopped."""

from __future__ import annotations

import difflib
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from types import FrameType
from typing import NoReturn

SHOWN = 50  # names in one message


class Refused(ValueError):
    """Input that cannot be used; the message is one line for the person who typed it."""


class NotStored(Refused):
    """A result that is not in the store, where none may be computed."""


def stop_in_one_line() -> None:
    """From now on SIGTERM and Ctrl-C `stop` this process."""
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)


def stop(number: int, frame: FrameType | None = None) -> NoReturn:
    """On SIGTERM or Ctrl-C leave with status 143 or 130; a second one ends it at once."""
    signal.signal(number, signal.SIG_DFL)
    sys.stderr.write('pt4al: stopped; run it again to go on from what is saved\n')
    while frame:  # a library that is being loaded may swallow an exception, or print more lines
        if frame.f_code.co_filename == '<frozen importlib._bootstrap>':
            os._exit(128 + number)
        frame = frame.f_back
    sys.exit(128 + number)


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
