"""How fast is a reconstruction beside L+S, where does the time go, how near is it to what the machine can do?

    python pipelines/benchmark_speed.py -o runs/speed [--sizes 184x256 192x192 --coils 8 --frames 30 --steps 2 4 ...]
    python pipelines/benchmark_speed.py -o runs/speed --profile --roofline --exponents

Cases are simulated. The first command runs every combination in a process of its own, medseq and L+S of 50 iterations
in turns, and prints frames a second, milliseconds a frame, peak memory and the ratio; the second looks into the first
combination. Only ratios within one run mean something on a machine that does other things as well.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
import warnings
from functools import partial
from itertools import product
from pathlib import Path

import torch
from speed_cases import PRESETS, Setting, classical, in_turns, kspace_of, ours, peak_memory, theirs
from speed_parts import exponents, launches, profile
from speed_roofline import peaks, roofline

from medseq.errors import MedseqError, UsageError
from medseq.io.weights import load_prior
from medseq.terminal import exit_code, explained, say

Row = dict[str, float | str]


def speed(setting: Setting, prior: str | None, repeats: int) -> Row:
    """One row: both methods in turns, in this process."""
    loaded, kspace = load_prior(prior), kspace_of(setting)
    y, A = classical(kspace, setting.device)
    ours(kspace_of(Setting(8, (32, 32), 2, 2.0)), setting, loaded)  # what libraries do once
    memory = peak_memory(partial(ours, kspace, setting, loaded), setting.device)
    runs = {"medseq": partial(ours, kspace, setting, loaded), "L+S": partial(theirs, y, A)}
    least = in_turns(runs, repeats, setting)
    return setting.told | {
        "threads": str(torch.get_num_threads()),
        "seconds": least["medseq"],
        "frames/s": setting.frames / least["medseq"],
        "ms/frame": 1e3 * least["medseq"] / setting.frames,
        "peak MiB": memory / 2**20,
        "L+S seconds": least["L+S"],
        "ratio to L+S": least["medseq"] / least["L+S"],
    }


def in_process(setting: Setting, asked: argparse.Namespace) -> Row:
    """As `speed`, in a process of its own, whose peak of memory nothing else has raised."""
    words = [sys.executable, __file__, "--child", json.dumps(vars(setting)), "--repeats", str(asked.repeats)]
    words += [] if asked.prior is None else ["--prior", asked.prior]
    words += [] if asked.threads is None else ["--threads", str(asked.threads)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise UsageError(f"{setting}: {done.stderr.strip().splitlines()[-1]}")
    row: Row = json.loads(done.stdout)
    return row


def markdown(rows: list[Row]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [row.get(column, "") for column in columns]
        lines.append("| " + " | ".join(f"{c:.3g}" if isinstance(c, float) else str(c) for c in cells) + " |")
    return "\n".join(lines)


def tables(asked: argparse.Namespace, settings: list[Setting]) -> dict[str, list[Row]]:
    first, found = settings[0], {}
    if not (asked.profile or asked.roofline or asked.exponents):
        return {"speed": [in_process(setting, asked) for setting in settings]}
    prior = load_prior(asked.prior)
    if asked.profile:
        found["profile"] = profile(first, prior, asked.repeats)
        if first.device.startswith("cuda"):
            found["launches"] = [{"kernels of one reconstruction": launches(first, prior)}]
    if asked.roofline:
        most = peaks(first, asked.repeats)
        found["peaks"] = [{"GFLOP/s or GB/s of": name, "measured": value / 1e9} for name, value in most.items()]
        found["roofline"] = roofline(first, prior, asked.repeats, most)
    if asked.exponents:
        found["exponents"] = exponents(first, prior, asked.repeats)
    return found


def size(text: str) -> tuple[int, int]:
    height, width = map(int, text.split("x"))
    return height, width


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/speed"))
    parser.add_argument("--frames", type=int, nargs="+", default=[30])
    parser.add_argument("--sizes", type=size, nargs="+", default=[(184, 256)], metavar="YxX")
    parser.add_argument("--coils", type=int, nargs="+", default=[8])
    parser.add_argument("--steps", type=int, nargs="+", default=[None], help="evaluations of the network")
    parser.add_argument("--precisions", nargs="+", default=["auto"], help="float32, bfloat16, auto")
    parser.add_argument("--presets", nargs="+", choices=tuple(PRESETS), default=["best image"])
    parser.add_argument("--acceleration", type=float, default=8.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--prior")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--processor-time", action="store_true", help="in the place of the clock's")
    parser.add_argument("--profile", action="store_true", help="where the time goes")
    parser.add_argument("--roofline", action="store_true", help="beside what the machine does")
    parser.add_argument("--exponents", action="store_true", help="how cost grows")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    asked = arguments()
    warnings.simplefilter("ignore")  # a simulated heart may be told as unlike the prior's
    if asked.threads is not None:
        torch.set_num_threads(asked.threads)
    try:
        if asked.child is not None:
            fields = json.loads(asked.child)
            row = speed(Setting(**fields | {"size": tuple(fields["size"])}), asked.prior, asked.repeats)
            print(json.dumps(row))
            return 0
        grid = product(asked.frames, asked.sizes, asked.coils, asked.steps, asked.precisions, asked.presets)
        settings = [
            Setting(
                frames, size, coils, asked.acceleration, steps, precision, asked.device, preset, asked.processor_time
            )
            for frames, size, coils, steps, precision, preset in grid
        ]
        found = tables(asked, settings)
        asked.output.mkdir(parents=True, exist_ok=True)
        about = {
            "machine": platform.processor() or platform.machine(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "when": time.strftime("%Y-%m-%dT%H:%M:%S"),
        }
        text = "\n\n".join(f"### {name}\n\n{markdown(rows)}" for name, rows in found.items())
        name = "-".join(found)
        (asked.output / f"{name}.json").write_text(json.dumps({"about": about} | found, indent=1), "utf-8")
        (asked.output / f"{name}.md").write_text(text + "\n", "utf-8")
    except (MedseqError, OSError) as error:
        say(explained(error))
        return exit_code(error)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
