"""The command line: one function a command, each a thin layer over the library.

Libraries are imported inside the commands, so that `--help` and a mistyped option answer at once.
"""

from __future__ import annotations

import json as json_format
import os
import re
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

from cyclopts import App, CycloptsError, Parameter
from cyclopts.validators import Number

from medseq import __version__, terminal
from medseq.errors import InputError, UsageError

if TYPE_CHECKING:
    from medseq.clip import Clip, KSpace
    from medseq.restore import Restored
    from medseq.terminal import Progress


def _valid_device(_: type, device: str) -> None:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ValueError("Choose auto, cpu, cuda or cuda:N.")


def _check_finite_positive(_: type, value: float | None) -> None:
    if value is not None and not 0 < value < float("inf"):
        raise ValueError("Must be a finite number > 0.")


Output = Annotated[Path, Parameter(name=("--output", "-o"), help="File to write; missing folders are made.")]
Count = Annotated[int, Parameter(validator=Number(gte=1))]
Steps = Annotated[int, Parameter(validator=Number(gte=1), help="Noise levels: more is slower and sharper.")]
Device = Annotated[str, Parameter(validator=_valid_device, help="auto, cpu, cuda or cuda:N.")]
Positive = Annotated[float, Parameter(validator=_check_finite_positive)]


@Parameter(name="*")
@dataclass(frozen=True)
class PriorOptions:
    """What every command that runs the prior takes."""

    seed: Annotated[int, Parameter(validator=Number(gte=0), help="The same seed gives the same result.")] = 0
    device: Device = "auto"
    precision: Annotated[Literal["auto", "float32", "bfloat16"], Parameter(help="What the network computes in.")] = (
        "auto"
    )
    prior: Annotated[str | None, Parameter(help="Name or file of another prior than the one that medseq ships.")] = None


@Parameter(name="*")
@dataclass(frozen=True)
class Options(PriorOptions):
    """What every restoring command takes."""

    samples: Annotated[Count, Parameter(help="Draws; with more than one, their mean, and their std in OUT_std.")] = 1


app = App(
    name="medseq",
    help="Restores dynamic medical image series with one video diffusion prior.",
    version=__version__,
    help_format="plaintext",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
    default_parameter=Parameter(negative=""),
    help_epilogue="""\
--debug, anywhere, shows the traceback of an error.

Exit codes: 0 done, 1 internal error, 2 usage, 3 some files of several failed, 4 bad input or model,
5 device, memory or disk, 130/143 interrupted.""",
)


def _examples(*lines: str) -> str:
    return "Examples:\n\n" + "\n".join(f"    medseq {line}" for line in lines)


@app.command(help_epilogue=_examples("demo", "demo -o out/demo"))
def demo(
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o"), help="Folder to write.")] = Path("demo_output"),
    device: Device = "auto",
) -> None:
    """Restore the sample series: k-space to images, noise removed, frames filled in; with pictures and a table."""
    from medseq.demo import print_scores, run_demo
    from medseq.provenance import RunRecord, collected_warnings, staged

    record = RunRecord("demo", {"device": device})
    with staged(output) as folder, collected_warnings(terminal.warn) as record.warnings:
        scores = run_demo(folder, record, device=device)
        record.save(folder / "run.json")
    print_scores(scores)
    print(f"{output}: images (NIfTI), pictures (PNG, WebP) and run.json; {record.elapsed:.0f} s")


@app.command(help_epilogue=_examples("info cine.nii.gz", "info raw.h5 --json", "info folder"))
def info(
    path: Annotated[Path, Parameter(help="NIfTI or ISMRMRD file, or a folder of them.")],
    /,
    *,
    json: Annotated[bool, Parameter(help="Machine-readable.")] = False,
) -> int:
    """Say what a file or folder holds: kind, frames, geometry, timing, problems."""
    from medseq.survey import survey

    found = survey(path)
    bad = [series for series in found if series.error]
    if bad and not path.is_dir():
        raise InputError(f"{path}: {bad[0].error}")
    if json:
        print(json_format.dumps([asdict(series) for series in found], indent=2))
    else:
        terminal.print_series(found)
    if not bad:
        return 0
    return InputError.exit_code if len(bad) == len(found) else 3


@app.command(
    help_epilogue=_examples("reconstruct raw.h5 -o image.nii.gz", "reconstruct raw.h5 -o image.nii.gz --samples 8")
)
def reconstruct(
    raw: Annotated[Path, Parameter(help="ISMRMRD file of multi-coil Cartesian k-space.")],
    /,
    *,
    output: Output,
    keep_phase: Annotated[
        bool, Parameter(name="--complex", help="Write complex values, which few viewers open.")
    ] = False,
    steps: Annotated[Count | None, Parameter(help="Noise levels [default: 4, or 12 with several samples].")] = None,
    options: Options = Options(),  # noqa: B008 (frozen)
) -> None:
    """Reconstruct an image series from undersampled k-space."""
    from medseq import restore
    from medseq.io import load_kspace
    from medseq.jobs import restore_file

    def work(kspace: KSpace, progress: Progress) -> Restored:
        restored = restore.reconstruct(kspace, steps=steps, progress=progress, **asdict(options))
        clip = restored.clip
        return restored if keep_phase else replace(restored, clip=clip.with_data(clip.data.abs()))

    settings = {"complex": keep_phase, "steps": steps, **asdict(options)}
    print(restore_file("reconstruct", raw, output, settings, load_kspace, work))


@app.command(
    help_epilogue=_examples("denoise cine.nii.gz -o clean.nii.gz", "denoise cine.nii.gz -o clean.nii.gz --sigma 12")
)
def denoise(
    series: Annotated[Path, Parameter(help="NIfTI file.")],
    /,
    *,
    output: Output,
    sigma: Annotated[Positive | None, Parameter(help="Noise std in input units; estimated when not given.")] = None,
    steps: Annotated[Count | None, Parameter(help="Noise levels [default: 1, or 12 with several samples].")] = None,
    options: Options = Options(),  # noqa: B008 (frozen)
) -> None:
    """Remove noise from an image series."""
    from medseq import restore
    from medseq.io import load_clip
    from medseq.jobs import restore_file

    def work(clip: Clip, progress: Progress) -> Restored:
        return restore.denoise(clip, sigma=sigma, steps=steps, progress=progress, **asdict(options))

    print(restore_file("denoise", series, output, {"sigma": sigma, "steps": steps, **asdict(options)}, load_clip, work))


@app.command(
    help_epilogue=_examples(
        "interpolate cine.nii.gz -o smooth.nii.gz", "interpolate cine.nii.gz -o at.nii.gz --times times.txt"
    )
)
def interpolate(
    series: Annotated[Path, Parameter(help="NIfTI file.")],
    /,
    *,
    output: Output,
    factor: Annotated[
        int | None, Parameter(validator=Number(gte=2), help="Frames for every frame [default: 2].")
    ] = None,
    times: Annotated[Path | None, Parameter(help="Text file of the wanted times in seconds.")] = None,
    steps: Steps = 2,
    options: Options = Options(),  # noqa: B008 (frozen)
) -> None:
    """Fill in frames between those of an image series."""
    from medseq import restore
    from medseq.io import load_clip
    from medseq.jobs import read_times, restore_file

    if factor is not None and times is not None:
        raise UsageError("--factor and --times exclude each other; give one")
    wanted = None if times is None else read_times(times)

    def work(clip: Clip, progress: Progress) -> Restored:
        return restore.interpolate(clip, factor or 2, wanted, steps=steps, progress=progress, **asdict(options))

    settings = {"factor": factor, "times": wanted, "steps": steps, **asdict(options)}
    print(restore_file("interpolate", series, output, settings, load_clip, work))


@app.command(
    help_epilogue=_examples("generate -o clip.nii.gz", "generate -o still.nii.gz --frames 1 --size 64 64 --seed 7")
)
def generate(
    *,
    output: Output,
    frames: Annotated[Count, Parameter(help="Frames of a clip.")] = 16,
    size: Annotated[tuple[Count, Count], Parameter(help="Voxels along Y and X.")] = (96, 96),
    count: Annotated[Count, Parameter(help="Clips; several go into OUT_1, OUT_2 and so on.")] = 1,
    periodic: Annotated[
        bool, Parameter(negative="--no-periodic", help="One cycle, whose last frame leads to the first.")
    ] = True,
    keep_phase: Annotated[
        bool, Parameter(name="--complex", help="Write complex values, which few viewers open.")
    ] = False,
    steps: Steps = 100,
    options: PriorOptions = PriorOptions(),  # noqa: B008 (frozen)
) -> None:
    """Draw coherent clips from the prior alone: nothing is measured, and what they show is nobody."""
    from medseq import generation
    from medseq.jobs import generate_file

    def work(progress: Progress) -> Restored:
        made = generation.generate(
            frames, size, count=count, periodic=periodic, steps=steps, progress=progress, **asdict(options)
        )
        return made if keep_phase else replace(made, clip=made.clip.with_data(made.clip.data.abs()))

    settings = {"frames": frames, "size": size, "count": count, "periodic": periodic, "complex": keep_phase}
    print(generate_file(output, {**settings, "steps": steps, **asdict(options)}, work))


@app.command(
    help_epilogue=_examples(
        "simulate cine -o cine.nii.gz",
        "simulate cine -o raw.h5 --truth truth.nii.gz",
        "simulate cine --from cine.nii.gz -o raw.h5 --acceleration 4",
        "simulate bold -o bold.nii.gz --truth active.nii.gz",
    )
)
def simulate(
    kind: Annotated[Literal["cine", "bold"], Parameter(help="A beating heart, or fMRI with known activation.")],
    /,
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o"), help="NIfTI for images, .h5 for multi-coil k-space.")],
    source: Annotated[Path | None, Parameter(name="--from", help="Measure this NIfTI series, not a phantom.")] = None,
    truth: Annotated[Path | None, Parameter(help="NIfTI file for what is known: images, or BOLD activation.")] = None,
    frames: Annotated[Count | None, Parameter(help="Frames of the phantom.")] = None,
    size: Annotated[tuple[Count, Count] | None, Parameter(help="Voxels of the phantom along Y and X.")] = None,
    slices: Annotated[Count | None, Parameter(help="Slices of the phantom.")] = None,
    coils: Annotated[Count | None, Parameter(help="Coils of the k-space.")] = None,
    acceleration: Annotated[Positive | None, Parameter(help="All lines of k-space over those measured.")] = None,
    noise: Annotated[Positive | None, Parameter(help="Noise std of k-space, relative to the signal.")] = None,
    seed: Annotated[int, Parameter(validator=Number(gte=0), help="The same seed gives the same phantom.")] = 0,
) -> None:
    """Make a series with known truth: images, or the undersampled k-space that a scanner would measure of them."""
    from medseq.jobs import simulate_file

    phantom = {"frames": frames, "size": size, "slices": slices}
    scan = {"coils": coils, "acceleration": acceleration, "noise": noise}
    print(simulate_file(kind, output, source=source, truth=truth, phantom=phantom, scan=scan, seed=seed))


@app.command(
    help_epilogue=_examples(
        "train configs/train_tiny.yaml -o runs/tiny", "train configs/train_tiny.yaml -o runs/tiny --restart"
    )
)
def train(
    config: Annotated[Path, Parameter(help="YAML file; configs/ holds presets.")],
    /,
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o"), help="Folder for checkpoints and weights.")],
    restart: Annotated[bool, Parameter(help="Begin anew though the folder holds an unfinished run.")] = False,
    device: Device = "auto",
) -> None:
    """Train a prior; the same command goes on where a killed run stood, to the same result."""
    from medseq.config import load_config
    from medseq.provenance import RunRecord, collected_warnings, staged
    from medseq.runtime import choose_device
    from medseq.train import train as steps_of

    record = RunRecord("train", {"restart": restart, "device": device})
    with collected_warnings(terminal.warn) as record.warnings:
        record.add_input(config)
        settings = load_config(config)
        stills = settings.load_stills()
        with record.timed("train"), terminal.progress("train") as progress:
            where = str(choose_device(device))
            for state in steps_of(settings.recipe, output, stills=stills, resume=not restart, device=where):
                progress(state.step, settings.recipe.steps)
        with staged(output) as folder:
            record.save(folder / "run.json")
    print(f"{output}: trained for {settings.recipe.steps} steps")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; every failure prints one line (a traceback with --debug)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        with terminal.sigterm_raises():
            code = int(app(words, exit_on_error=False, print_error=False) or 0)
            sys.stdout.flush()  # a reader that has gone shows here, not while Python shuts down
            return code
    except CycloptsError as error:
        terminal.say(f"error: {error} See medseq {' '.join(error.command_chain or ())} --help")
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


def entry() -> NoReturn:
    """The installed command `medseq`."""
    sys.exit(main())
