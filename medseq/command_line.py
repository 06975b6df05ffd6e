"""Running a command-line application: one line for every failure, and an exit code that says why."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Parameter

from medseq import __version__, terminal
from medseq.errors import UsageError

_EPILOGUE = """\
--debug, anywhere, shows the traceback of an error.

Exit codes: 0 done, 1 internal error, 2 usage, 3 some of several failed, 4 bad input or model,
5 device, memory or disk, 130/143 interrupted."""


def new_app(name: str, about: str, examples: str = "") -> App:
    """An application whose help ends with examples, if any, and what its exit codes mean."""
    return App(
        name=name,
        help=about,
        version=__version__,
        help_format="plaintext",
        result_action="return_value",
        suppress_keyboard_interrupt=False,
        default_parameter=Parameter(negative=""),
        help_epilogue=examples + _EPILOGUE,
    )


def _any_name_can_be_printed() -> None:
    """Names of files need not be text: print their bytes as `\\xff` rather than fail once the work is done."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def run_app(app: App, arguments: Sequence[str] | None = None) -> int:
    """Run `app` and return its exit code; every failure prints one line (a traceback with --debug)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        with terminal.sigterm_raises():
            _any_name_can_be_printed()
            code = int(app(words, exit_on_error=False, print_error=False) or 0)
            sys.stdout.flush()  # a reader that has gone shows here, not while Python shuts down
            return code
    except CycloptsError as error:
        command = " ".join([app.name[0], *(error.command_chain or ())])
        terminal.say(f"error: {error} See {command} --help")
        return UsageError.exit_code
    except (KeyboardInterrupt, terminal.Terminated) as stop:
        terminal.say("interrupted")
        return 143 if isinstance(stop, terminal.Terminated) else 130
    except BrokenPipeError:  # whoever read our output has enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        terminal.say(terminal.explained(error))
        return terminal.exit_code(error)
