"""`python -m pt4al`, and under torchrun one process of several."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext

from pt4al.cli import app
from pt4al.errors import Refused


def main() -> None:
    """The command; what is refused is one line on stderr."""
    together = nullcontext()
    if int(os.environ.get('WORLD_SIZE', 1)) > 1:
        from pt4al.training import torchrun

        together = torchrun.together(sys.argv[1:])
    try:
        with together:
            app()
    except Refused as refusal:
        sys.exit(f'pt4al: {refusal}')


if __name__ == '__main__':
    main()
