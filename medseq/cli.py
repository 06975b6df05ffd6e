"""The command `medseq`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from medseq.command_line import run_app
from medseq.commands import (  # noqa: F401 (add commands)
    archives,
    evaluating,
    files,
    making,
    restoring,
    streaming,
    studies,
)
from medseq.commands.options import app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; every failure prints one line (a traceback with --debug)."""
    return run_app(app, arguments)


def entry() -> NoReturn:
    """The installed command `medseq`."""
    sys.exit(main())
