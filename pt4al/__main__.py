"""`python -m pt4al`."""

from __future__ import annotations

import sys

from pt4al.cli import app
from pt4al.errors import Refused


def main() -> None:
    """The command; what is refused is one line on stderr."""
    try:
        app()
    except Refused as refusal:
        sys.exit(f'pt4al: {refusal}')


if __name__ == '__main__':
    main()
