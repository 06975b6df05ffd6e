"""The command that judges results: evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from medseq.commands.options import app, examples
from medseq.evaluate_options import EvaluateOptions


@app.command(
    help_epilogue=examples(
        "evaluate --reference cine.nii.gz ours.nii.gz theirs.nii.gz -o judged",
        "evaluate cine.nii.gz --ventricle around_lv.nii.gz -o judged",
        "evaluate study -o judged",
    )
)
def evaluate(
    *results: Annotated[Path, Parameter(help="Series to judge: NIfTI file, or folder or file of DICOM; one a method.")],
    output: Annotated[Path, Parameter(name=("--output", "-o"), help="Folder to write; missing ones are made.")],
    reference: Annotated[
        Path | None, Parameter(help="The series they should be; without it, only what needs none is told.")
    ] = None,
    options: EvaluateOptions = EvaluateOptions(),  # noqa: B008 (frozen)
) -> None:
    """Tell in figures how good restored series of one case are, and show them side by side."""
    from medseq.evaluate_jobs import evaluate_files

    print(evaluate_files(results, reference, output, options))
