"""Fuzzing: every reader of the project on inputs that nobody meant, changed from seeds that it writes itself.

The rule: whatever the bytes, a reader gives a result or one of `medseq.errors` in one line, within seconds and bounded
memory. `python -m fuzz` (from `tests/`) runs one target for long under atheris, `test_fuzz.py` each for a moment.
"""
