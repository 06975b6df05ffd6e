"""The figures of the README, made from the sample data and a simulated run, each time anew.

    python pipelines/readme_figures.py [-o docs/images]

The two of results are figures of `docs/notebooks/tour.py`, from the cells that carry their names as tags, so that
README and notebook cannot disagree. The third is a picture of the report that `medseq demo` writes, taken by Chromium;
without Chromium that file is left as it is. Needs what the tests need (`requirements-dev.lock`).
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from tempfile import TemporaryDirectory

import jupytext
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image
from traitlets.config import Config

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "docs" / "notebooks" / "tour.py"
FIGURES = ("cine", "fmri")  # tags of cells
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_WINDOW = (1200, 1060)  # pixels
_WAIT = 10_000  # milliseconds of the page's own time, in which its players draw
_QUALITY = 88  # of WebP


def executed() -> NotebookNode:
    """The tour as a notebook, with what its cells put out. Raises CellExecutionError where one fails."""
    # Sockets in the file system: ports would be open to everybody on this machine.
    config = Config({"KernelManager": {"transport": "ipc"}})
    place = {"metadata": {"path": str(NOTEBOOK.parent)}}
    return NotebookClient(jupytext.read(NOTEBOOK), timeout=None, resources=place, config=config).execute()


def pictures(notebook: NotebookNode) -> dict[str, bytes]:
    """The PNG of each tagged cell, by its tag."""
    found = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            for tag in cell.metadata.get("tags", []):
                if "image/png" in output.get("data", {}):
                    found[tag] = b64decode(output["data"]["image/png"])
    return found


def photographed_report() -> bytes | None:
    """The top of the demo's report as PNG, or None without Chromium."""
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if browser is None:
        return None
    with TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, "-m", "medseq", "demo", "-o", str(folder / "demo")], check=True, cwd=ROOT)
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        options += [f"--user-data-dir={folder / 'profile'}", f"--window-size={_WINDOW[0]},{_WINDOW[1]}"]
        options += [f"--virtual-time-budget={_WAIT}", f"--screenshot={folder / 'report.png'}"]
        page = (folder / "demo" / "report.html").as_uri()
        subprocess.run([browser, *options, page], check=True, capture_output=True)
        return (folder / "report.png").read_bytes()


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
    report = photographed_report()
    if report is None:
        print("no Chromium: the picture of the report stays as it is")
    else:
        save(report, folder / "report.webp")


if __name__ == "__main__":
    main()
