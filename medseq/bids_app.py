"""The BIDS-App `medseq-bids BIDS_DIR OUT participant`, with the flags that users of fMRIPrep expect.

Source: BIDS-Apps (Gorgolewski et al. 2017, doi:10.1371/journal.pcbi.1005209) for the three arguments and
`--participant-label`; fMRIPrep 25 for the names of the others.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

from cyclopts import Parameter
from cyclopts.validators import Number

from medseq import terminal
from medseq.command_line import new_app, run_app
from medseq.commands.options import Count, Device, Goal, Positive

if TYPE_CHECKING:
    from medseq.bids_run import Report
    from medseq.io.bids import Run
    from medseq.io.bids_choice import Choice

Labels = Annotated[list[str] | None, Parameter(consume_multiple=True)]

app = new_app(
    "medseq-bids",
    "Restores the functional and cardiac series of a BIDS dataset.",
    """\
Examples:

    medseq-bids study study/derivatives/medseq participant
    medseq-bids study out participant --participant-label 01 02 --task-id rest --random-seed 7

""",
)


@Parameter(name="*")
@dataclass(frozen=True)
class Selecting:
    """Which series."""

    participant_label: Annotated[Labels, Parameter(help="Participants, with or without sub-.")] = None
    session_id: Annotated[
        Labels, Parameter(name=("--session-id", "--session-label"), help="Sessions, with or without ses-.")
    ] = None
    task_id: Annotated[Labels, Parameter(name=("--task-id", "-t"), help="fMRI tasks; hearts have none.")] = None
    bids_filter_file: Annotated[
        Path | None, Parameter(help="JSON of entities for bold, cine and kspace, as fMRIPrep takes it.")
    ] = None

    def choice(self) -> Choice:
        from medseq.io.bids_choice import Choice, read_filters

        filters = {} if self.bids_filter_file is None else read_filters(self.bids_filter_file)
        return Choice(self.participant_label or (), self.session_id or (), self.task_id or (), filters)


@Parameter(name="*")
@dataclass(frozen=True)
class Restoring:
    """How they are restored."""

    mode: Annotated[
        Literal["denoise", "interpolate"], Parameter(help="What to do with images; raw data are reconstructed.")
    ] = "denoise"
    kind: Annotated[
        Literal["auto", "cine", "bold"], Parameter(help="How images are denoised; auto: by their BIDS suffix.")
    ] = "auto"
    goal: Goal = "activation"
    factor: Annotated[int, Parameter(validator=Number(gte=2), help="Frames for every frame, to interpolate.")] = 2
    sigma: Annotated[Positive | None, Parameter(help="Noise std in input units; estimated when not given.")] = None
    steps: Annotated[Count | None, Parameter(help="Noise levels: more is slower and sharper.")] = None
    samples: Annotated[Count, Parameter(help="Draws; with more than one, their mean, and their std beside it.")] = 1
    seed: Annotated[
        int,
        Parameter(name=("--random-seed", "--seed"), validator=Number(gte=0), help="The same seed, the same result."),
    ] = 0
    device: Device = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    prior: Annotated[str | None, Parameter(help="Name or file of another prior than the one that medseq ships.")] = None
    strict: Annotated[bool, Parameter(help="Refuse a series unlike those that the prior has learnt.")] = False


@Parameter(name="*")
@dataclass(frozen=True)
class Running:
    """How the program runs."""

    nprocs: Annotated[
        Count | None, Parameter(name=("--nprocs", "--nthreads", "--n-cpus"), help="Threads to use at most.")
    ] = None
    omp_nthreads: Annotated[Count | None, Parameter(help="The same: medseq restores one series at a time.")] = None
    mem: Annotated[
        Count | None, Parameter(name=("--mem", "--mem-mb"), help="No effect: memory does not grow with the dataset.")
    ] = None
    work_dir: Annotated[
        Path | None, Parameter(name=("--work-dir", "-w"), help="No effect: medseq keeps no intermediate files.")
    ] = None
    skip_bids_validation: bool = False
    stop_on_first_crash: Annotated[bool, Parameter(help="Else the other series are restored all the same.")] = False
    reports_only: Annotated[
        bool, Parameter(help="Write the pages of what is restored already, and restore nothing.")
    ] = False
    dry_run: Annotated[bool, Parameter(help="Say what would be restored, and write nothing.")] = False

    def limit_threads(self) -> None:
        limits = [limit for limit in (self.nprocs, self.omp_nthreads) if limit is not None]
        if limits:
            import torch

            torch.set_num_threads(min(limits))


@app.default
def run(
    bids_dir: Annotated[Path, Parameter(help="Root of a BIDS dataset.")],
    out: Annotated[Path, Parameter(help="Folder for the dataset of derivatives.")],
    level: Annotated[Literal["participant", "group"], Parameter(help="Of the analysis.")],
    /,
    *,
    selecting: Selecting = Selecting(),  # noqa: B008 (frozen)
    restoring: Restoring = Restoring(),  # noqa: B008 (frozen)
    running: Running = Running(),  # noqa: B008 (frozen)
) -> int:
    """Restore the series of a BIDS dataset into a dataset of derivatives; series already restored stay as they are."""
    from medseq.bids_method import Method, derivative_name
    from medseq.bids_run import plan, restore_dataset
    from medseq.io.bids_validator import validate
    from medseq.provenance import collected_warnings

    if level == "group":
        print("medseq restores every series on its own: there is nothing to do at the group level")
        return 0
    choice, method = selecting.choice(), Method(**vars(restoring))
    planned = plan(bids_dir, out, choice)
    if not running.skip_bids_validation:
        with collected_warnings(terminal.warn):
            validate(bids_dir)
    if running.dry_run:
        for each in planned:
            print(f"{each.name}: {method.task(each)} -> {each.folder / str(derivative_name(each, method))}")
        return 0
    running.limit_threads()
    if running.reports_only:
        return _only_reports(bids_dir, out, planned)
    report = restore_dataset(
        bids_dir, out, choice=choice, method=method, stop_on_first_crash=running.stop_on_first_crash
    )
    _print_summary(report)
    return report.exit_code


def _only_reports(bids_dir: Path, out: Path, planned: Sequence[Run]) -> int:
    from medseq.bids_reports import page_of, write_subject_pages
    from medseq.bids_run import Report

    failed = write_subject_pages(bids_dir, out, planned)
    written = sorted({page_of(run, out).name for run in planned} - failed.keys())
    if written:
        print(f"{len(written)} pages written, {len(failed)} failed")
    return Report(done=written, failed=failed).exit_code


def _print_summary(report: Report) -> None:
    print(f"{len(report.done)} restored, {len(report.unchanged)} unchanged, {len(report.failed)} failed")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the BIDS-App and return its exit code; every failure prints one line (a traceback with --debug)."""
    return run_app(app, arguments)


def entry() -> NoReturn:
    """The installed command `medseq-bids`."""
    sys.exit(main())


if __name__ == "__main__":
    entry()
