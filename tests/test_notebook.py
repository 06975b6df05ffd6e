"""The tour runs as a notebook, complains about nothing and shows its figures; the README's figures are there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "pipelines"))
import readme_figures  # noqa: E402  (a recipe, not part of the package)

README = (ROOT / "README.md").read_text(encoding="utf-8")
IMAGES = re.findall(r"!\[(.*?)\]\((.*?)\)", README, re.DOTALL)


@pytest.mark.timeout(1200)  # restores a whole series several times, in a kernel that shares its cores with other tests
def test_the_tour_runs_as_a_notebook_and_its_assertions_hold():
    notebook = readme_figures.executed()  # a cell that raises, an assertion among them, is an error here
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    complaints = [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    assert complaints == []
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    drawing = [cell for cell in code if "plt.subplots" in cell.source or "plt.figure" in cell.source]
    assert len(drawing) >= 6
    for cell in drawing:
        assert any("image/png" in output.get("data", {}) for output in cell.outputs), cell.source
    assert set(readme_figures.pictures(notebook)) == set(readme_figures.FIGURES)


def test_text_and_results_cannot_drift_apart():
    """The text speaks of results, so there is an assertion for them in every chapter."""
    chapters = re.split(r"^# ###? ", readme_figures.NOTEBOOK.read_text(encoding="utf-8"), flags=re.MULTILINE)
    silent = ("1. A heart", "2. A run of fMRI", "What to trust")
    for chapter in chapters[1:]:
        title = chapter.splitlines()[0]
        assert title in silent or re.search(r"^assert ", chapter, re.MULTILINE), title


def test_the_figures_of_the_readme_are_there_small_and_described():
    assert len(IMAGES) >= 2
    for words, name in IMAGES:
        assert len(words) > 40, f"{name} has no description for those who cannot see it"
        with Image.open(ROOT / name) as picture:
            picture.verify()
    assert sum(path.stat().st_size for path in (ROOT / "docs" / "images").iterdir()) < 600_000


def test_the_command_that_makes_them_explains_itself():
    program = ROOT / "pipelines" / "readme_figures.py"
    assert f"python {program.relative_to(ROOT)}" in README or "make figures" in README
    run = subprocess.run([sys.executable, str(program), "--help"], capture_output=True, text=True)
    assert run.returncode == 0 and "--output" in run.stdout
