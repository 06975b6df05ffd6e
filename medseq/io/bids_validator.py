"""The official BIDS validator, where it is installed (`pip install bids-validator-deno`)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

from medseq.errors import InputError, MedseqWarning

_COMMAND = "bids-validator-deno"
_ERRORS_FOUND = 16
_PATIENCE = 1800  # seconds


def validate(dataset: Path) -> None:
    """Let the validator judge a dataset; warns with MedseqWarning when it is not installed or fails itself.

    Raises InputError when it finds errors, naming the first.
    """
    # An environment that has not been activated is not on PATH, but its commands lie beside its Python.
    command = shutil.which(
        _COMMAND, path=os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)])
    )
    if command is None:
        _warn(f"{dataset}: not validated, as {_COMMAND} is not installed")
        return
    words = [command, "--format", "json", "--ignoreWarnings", str(dataset.absolute())]
    try:
        done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        _warn(f"{dataset}: not validated, as {_COMMAND} took more than {_PATIENCE} s")
        return
    if done.returncode not in (0, _ERRORS_FOUND):
        _warn(f"{dataset}: not validated, as {_COMMAND} failed with exit code {done.returncode}")
        return
    try:
        issues = json.loads(done.stdout)["issues"]["issues"]
        errors = [issue for issue in issues if issue["severity"] == "error"]
    except (ValueError, KeyError, TypeError):
        _warn(f"{dataset}: not validated, as the answer of {_COMMAND} is not understood")
        return
    if errors or done.returncode == _ERRORS_FOUND:
        raise InputError(f"{dataset}: {_described(errors)}; correct the dataset, or pass --skip-bids-validation")


def _described(errors: list[dict]) -> str:
    first = errors[0] if errors else {}
    where = str(first.get("location", "")).lstrip("/") or "the dataset"
    return f"{len(errors)} BIDS errors, the first {first.get('subCode') or ''} {first.get('code')} in {where}"


def _warn(text: str) -> None:
    warnings.warn(text, MedseqWarning, stacklevel=3)
