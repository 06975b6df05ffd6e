"""The few ways medseq refuses to go on, each with the exit code of the command line.

A message is one line: what file, what is wrong, what to do.
"""

from __future__ import annotations


class MedseqError(Exception):
    """Base of every error that medseq raises on purpose."""

    exit_code = 1


class UsageError(MedseqError):
    """An unknown option or an impossible value."""

    exit_code = 2


class InputError(MedseqError, ValueError):
    """Missing, unreadable, non-finite or all-zero input; a corrupted or unsafe model."""

    exit_code = 4


class ResourceError(MedseqError):
    """A device that is not there, not enough memory or disk, a lock held by another run."""

    exit_code = 5


class MedseqWarning(UserWarning):
    """Something in the input had to be assumed; `info` and `run.json` list every one."""
