"""The commands `study plan`, `run`, `status` and `collect`: hundreds of series, and nothing lost."""

from __future__ import annotations

import json as json_format
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter
from cyclopts.validators import Number

from medseq import terminal
from medseq.commands.archives import Calling, Wanted
from medseq.commands.options import Count, Device, Goal, Kind, Positive, app, examples
from medseq.errors import UsageError

study = App(
    name="study",
    help="Restore every series of a study, whatever happens on the way.",
    help_epilogue="A folder holds the study: its plan (study.yaml), results and ledger. See docs/studies.md.",
)
app.command(study)

Folder = Annotated[Path, Parameter(help="Folder of a study that was planned.")]


@study.command(
    help_epilogue=examples(
        "study plan scans -o night",
        "study plan dataset -o night --task interpolate --factor 2 --report",
        "study plan https://pacs/dicom-web -o night --date 20261123 --description '*cine*'",
    )
)
def plan(
    source: Annotated[
        str, Parameter(help="Folder of NIfTI, DICOM and raw data, BIDS dataset, or address of an archive.")
    ],
    /,
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o"), help="Folder of the study; missing ones are made.")],
    task: Annotated[
        Literal["denoise", "interpolate"], Parameter(help="What to do with images; raw data are reconstructed.")
    ] = "denoise",
    kind: Kind = "auto",
    goal: Goal = "activation",
    factor: Annotated[int, Parameter(validator=Number(gte=2), help="Frames for every frame, to interpolate.")] = 2,
    sigma: Annotated[Positive | None, Parameter(help="Noise std in input units; estimated when not given.")] = None,
    steps: Annotated[Count | None, Parameter(help="Noise levels: more is slower and sharper.")] = None,
    samples: Annotated[Count, Parameter(help="Draws; with more than one, their mean, and their std beside it.")] = 1,
    seed: Annotated[int, Parameter(validator=Number(gte=0), help="The same seed gives the same result.")] = 0,
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    prior: Annotated[
        str | None, Parameter(help="Name or file of another prior than the one that medseq ships.")
    ] = None,
    report: Annotated[bool, Parameter(help="Write a page of every series, too.")] = False,
    nifti: Annotated[bool, Parameter(help="Write NIfTI of DICOM series.")] = False,
    deidentify: Annotated[
        bool, Parameter(help="Write nothing that tells who was scanned; units are numbered.")
    ] = False,
    hash: Annotated[bool, Parameter(help="Note the SHA-256 of every input now; the run insists on it.")] = False,
    restart: Annotated[bool, Parameter(help="Plan anew though there is a plan, which may have been edited.")] = False,
    wanted: Wanted = Wanted(),  # noqa: B008 (frozen)
    description: Annotated[str, Parameter(help="Of series in an archive; * and ? are any characters.")] = "*",
    calling: Calling = "MEDSEQ",
) -> None:
    """Find every series in a folder, and write down what is to be done with it; nothing is read but headers."""
    from medseq.provenance import staged
    from medseq.study.manifest import FETCHED, MANIFEST, Denoise, Interpolate, Reconstruct, save_manifest
    from medseq.study.plan import Tasks, plan_archive
    from medseq.study.plan import plan as plan_study

    if (output / MANIFEST).exists() and not restart:
        raise UsageError(f"{output / MANIFEST}: is there already; edit it, or plan anew with --restart")
    if prior is not None and prior.endswith(".safetensors"):
        prior = str(Path(prior).resolve())
    common: dict[str, Any] = {
        "steps": steps,
        "samples": samples,
        "seed": seed,
        "precision": precision,
        "prior": prior,
        "report": report,
    }
    images = {**common, "kind": kind, "deidentify": deidentify}
    tasks = Tasks(
        Denoise(goal=goal, sigma=sigma, **images) if task == "denoise" else Interpolate(factor=factor, **images),
        Reconstruct(**common, kind=kind),
        nifti,
    )
    if "://" in source:
        from medseq.archive import Query, connect

        if hash:
            raise UsageError("--hash is about files; of an archive none is there yet")
        manifest = plan_archive(connect(source, calling=calling), Query(**asdict(wanted)), tasks, description)
    else:
        if (wanted, description) != (Wanted(), "*"):
            raise UsageError(f"{source}: only an archive is asked for patients, studies, dates and descriptions")
        manifest = plan_study(Path(source), output, tasks, hashed=hash)
    with staged(output) as folder:
        save_manifest(manifest, folder)
    for refused in manifest.refused:
        terminal.warn(refused)
    archive = f" --archive {source}" if manifest.source == FETCHED else ""
    print(f"{output / MANIFEST}: {len(manifest.units)} units; look at it, then: medseq study run {output}{archive}")


@study.command(
    help_epilogue=examples(
        "study run night",
        "study run night --workers 4 --memory 8000",
        "study run night --engine slurm --workers 20",
    )
)
def run(
    folder: Folder,
    /,
    *,
    engine: Annotated[
        str, Parameter(help="local, slurm, or tcp://host:port of a running Dask scheduler (tls:// too).")
    ] = "local",
    workers: Annotated[
        Count | None, Parameter(help="Units at a time, or jobs of SLURM [default: by GPUs, or cores and memory].")
    ] = None,
    threads: Annotated[Count | None, Parameter(help="Threads of a unit [default: its share of the cores].")] = None,
    memory: Annotated[Count | None, Parameter(help="MiB that a unit may take [default: its share].")] = None,
    timeout: Annotated[
        Count | None, Parameter(help="Seconds that a unit may take [default: an hour, or 20 times the estimate].")
    ] = None,
    device: Device = "auto",
    again: Annotated[bool, Parameter(help="Also try units again that failed for good.")] = False,
    archive: Annotated[
        str | None, Parameter(help="Fetch from here what was planned from an archive: https://... or dicom://...")
    ] = None,
    calling: Calling = "MEDSEQ",
) -> int:
    """Do every unit that is not done; after whatever stopped it, the same command goes on."""
    from medseq.study.run import Settings, run_study

    settings = Settings(engine, workers, threads, memory, timeout, device, again, archive=archive, calling=calling)
    summary = run_study(folder, settings)
    print(f"{len(summary.done)} done, {len(summary.unchanged)} unchanged, {len(summary.failed)} failed")
    return summary.exit_code


@study.command(help_epilogue=examples("study status night", "study status night --json"))
def status(folder: Folder, /, *, json: Annotated[bool, Parameter(help="Machine-readable.")] = False) -> None:
    """Say where a study stands, unit by unit; a run that is going on is not disturbed."""
    from medseq.study.status import read_status

    found = read_status(folder)
    if json:
        print(json_format.dumps({**asdict(found), "counts": found.counts}, indent=2))
        return
    rows = [
        [
            unit.unit,
            unit.task,
            unit.state,
            str(unit.attempts or ""),
            "" if unit.seconds is None else f"{unit.seconds:.0f}",
            "" if unit.memory_mb is None else str(unit.memory_mb),
            unit.reason or "",
        ]
        for unit in found.units
    ]
    terminal.print_table(("unit", "task", "state", "attempts", "seconds", "MiB", "reason"), rows)
    counts = ", ".join(f"{count} {state}" for state, count in found.counts.items() if count)
    left = "" if found.seconds_left is None else f"; about {found.seconds_left:.0f} s of work left"
    print(f"{counts}{left}; {'a run is going on' if found.running else 'no run is going on'}")


@study.command(help_epilogue=examples("study collect night"))
def collect(folder: Folder, /) -> None:
    """Gather figures of all units as CSV, and write one page that leads to every result."""
    from medseq.study.collect import collect as collect_study

    print(collect_study(folder))
