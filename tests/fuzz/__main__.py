"""`python -m fuzz TARGET --runs N`: one target for long, guided by atheris through what the project's readers cover.

Ends at the first input that breaks the rule, which is left in the working folder, or after N executions. `--replay
FILE` executes one input.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["medseq"], enable_loader_override=False):
    from fuzz.targets import TARGETS
from fuzz.target import Trial, scratch

_MEMORY_MB = 2048
_TOLD = 10_000  # executions from one report to the next


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fuzz")
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--runs", type=int, help="by default those of a long run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--replay", type=Path)
    asked = parser.parse_args()
    target = TARGETS[asked.target]
    runs = asked.runs or target.runs
    shelf = scratch()
    work, made, corpus = (Path(shelf.name, name) for name in ("work", "made", "corpus"))
    for folder in (work, made, corpus):
        folder.mkdir()
    trial = Trial(target, work)
    if asked.replay:
        trial(asked.replay.read_bytes())
        print(trial.count)
        return
    seeds = target.seeds(made)
    for number, seed in enumerate(seeds):
        (corpus / f"seed{number}").write_bytes(seed)

    def once(data: bytes) -> None:
        before = trial.count.executions
        trial(data)
        if trial.count.executions > before and trial.count.executions % _TOLD == 0:
            print(f"{target.name}: {trial.count}", flush=True)
        if trial.count.executions >= runs:
            print(f"{target.name}: {trial.count}; done", flush=True)
            shelf.cleanup()
            os._exit(0)  # libFuzzer takes every other end for a fault

    def changed(data: bytes, most: int, seed: int) -> bytes:
        """Half by the format's own changes, half by libFuzzer's."""
        chance = random.Random(seed)
        if chance.random() < 0.6:
            return target.mutate(data, chance)[:most]
        return atheris.Mutate(data, most)

    longest = max(1 << 16, 2 * max(map(len, seeds)))
    words = [
        sys.argv[0],
        str(corpus),
        f"-seed={asked.seed}",
        f"-timeout={target.seconds}",
        f"-rss_limit_mb={_MEMORY_MB}",
    ]
    words += ["-verbosity=0", f"-max_len={longest}", f"-artifact_prefix={target.name}-"]
    atheris.Setup(words, once, custom_mutator=changed)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
