"""`python -m medseq` is the command `medseq`."""

from medseq.cli import entry

entry()
