"""The figures of the README, made from the sample data and a simulated run, each time anew.

    python pipelines/readme_figures.py [-o docs/images]

They are figures of `docs/notebooks/tour.py`, from the cells that carry their names as tags, so that README and notebook
cannot disagree. Needs what the tests need (`requirements-dev.lock`).
"""

from __future__ import annotations

import argparse
import io
from base64 import b64decode
from pathlib import Path

import jupytext
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "docs" / "notebooks" / "tour.py"
FIGURES = ("cine", "fmri")  # tags of cells
_QUALITY = 88  # of WebP


def executed() -> NotebookNode:
    """The tour as a notebook, with what its cells put out. Raises CellExecutionError where one fails."""
    place = {"metadata": {"path": str(NOTEBOOK.parent)}}
    return NotebookClient(jupytext.read(NOTEBOOK), timeout=None, resources=place).execute()


def pictures(notebook: NotebookNode) -> dict[str, bytes]:
    """The PNG of each tagged cell, by its tag."""
    found = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            for tag in cell.metadata.get("tags", []):
                if "image/png" in output.get("data", {}):
                    found[tag] = b64decode(output["data"]["image/png"])
    return found


def save(png: bytes, path: Path) -> None:
    with Image.open(io.BytesIO(png)) as picture:
        picture.convert("RGB").save(path, quality=_QUALITY, method=6)
    print(f"{path} {path.stat().st_size // 1000} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs" / "images")
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    found = pictures(executed())
    for name in FIGURES:
        save(found[name], folder / f"{name}.webp")


if __name__ == "__main__":
    main()
