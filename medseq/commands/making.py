"""Commands that make things: demo, generate, simulate, train."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from medseq import terminal
from medseq.commands.options import Count, Device, Output, Positive, PriorOptions, Steps, app, examples

if TYPE_CHECKING:
    from medseq.gathering import Restored
    from medseq.terminal import Progress


@app.command(help_epilogue=examples("demo", "demo -o out/demo"))
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
    print(f"{output}: report.html, images (NIfTI), pictures (PNG, WebP) and run.json; {record.elapsed:.0f} s")


@app.command(
    help_epilogue=examples("generate -o clip.nii.gz", "generate -o still.nii.gz --frames 1 --size 64 64 --seed 7")
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
    help_epilogue=examples(
        "simulate cine -o cine.nii.gz",
        "simulate cine -o raw.h5 --truth truth.nii.gz",
        "simulate cine --from cine.nii.gz -o raw.h5 --acceleration 4",
        "simulate cine -o radial.h5 --trajectory radial --spokes 16",
        "simulate bold -o bold.nii.gz --truth active.nii.gz",
        "simulate bold -o epi.h5 --truth active.nii.gz --acceleration 3",
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
    trajectory: Annotated[
        Literal["radial", "spiral"] | None, Parameter(help="Of a cine: golden-angle readouts rather than lines.")
    ] = None,
    spokes: Annotated[Count | None, Parameter(help="Spokes or spirals a frame, with --trajectory [16].")] = None,
    noise: Annotated[Positive | None, Parameter(help="Noise std of k-space, relative to the signal.")] = None,
    seed: Annotated[int, Parameter(validator=Number(gte=0), help="The same seed gives the same phantom.")] = 0,
) -> None:
    """Make a series with known truth: images, or the undersampled k-space that a scanner would measure of them."""
    from medseq.jobs import simulate_file

    phantom = {"frames": frames, "size": size, "slices": slices}
    scan = {"coils": coils, "acceleration": acceleration, "noise": noise, "trajectory": trajectory, "spokes": spokes}
    print(simulate_file(kind, output, source=source, truth=truth, phantom=phantom, scan=scan, seed=seed))


@app.command(
    help_epilogue=examples(
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
    from medseq.jobs import input_named
    from medseq.provenance import RunRecord, collected_warnings, staged
    from medseq.runtime import choose_device

    record = RunRecord("train", {"restart": restart, "device": device})
    with collected_warnings(terminal.warn) as record.warnings:
        record.add_input(config)
        settings = load_config(config)
        with input_named(config, settings.starts_from):
            stills = settings.load_stills()
        with record.timed("train"), terminal.progress("train") as progress:
            where = str(choose_device(device))
            for step in settings.train(output, stills, resume=not restart, device=where):
                progress(step, settings.steps)
        with staged(output) as folder:
            record.save(folder / "run.json")
    print(f"{output}: trained for {settings.steps} steps")
