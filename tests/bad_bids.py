"""BIDS datasets that are broken: nothing of them can be restored, or a part."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bad_case import Case, Make, foreign
from bids_dataset import BOLD, bold, empty_dataset, put, put_bold, write_json

BIDS = (
    "medseq-bids {bad} out participant --skip-bids-validation",
    "denoise {bad} -o out",
    "interpolate {bad} -o out --factor 2",
)
SIDECAR = BOLD.replace(".nii.gz", ".json")
DESCRIPTION = "dataset_description.json"


@cache
def _good() -> dict[str, bytes]:
    """The files of a dataset of one run, made once."""
    with TemporaryDirectory() as folder:
        root = empty_dataset(Path(folder))
        put_bold(root)
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def dataset(change: Callable[[Path], object]) -> Make:
    def made(root: Path) -> None:
        for name, data in _good().items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
        change(root)

    return made


def of_sidecar(**values: Any) -> Make:
    return dataset(lambda root: write_json(root / SIDECAR, {"TaskName": "rest", "RepetitionTime": 2.0, **values}))


def text_in(name: str, text: str | bytes) -> Make:
    raw = text.encode() if isinstance(text, str) else text
    return dataset(lambda root: (root / name).write_bytes(raw))


def _whole() -> Iterator[tuple[str, Make, str]]:
    """Faults of the dataset itself: nothing is tried."""
    for fault, text in (
        *(("empty", ""), ("half", '{"Name": "stu'), ("a list", "[1, 2]"), ("a text", '"study"'), ("null", "null")),
        *(("bytes", b"\xff\xfe\0"), ("100000 deep", "[" * 100_000), ("of NaN", '{"Name": NaN}')),
        ("infinite", '{"BIDSVersion": 1e999}'),
    ):
        yield f"a description that is {fault}", text_in(DESCRIPTION, text), DESCRIPTION
    yield "no runs", dataset(lambda root: shutil.rmtree(root / "sub-01")), "holds no"
    yield "runs that .bidsignore hides", text_in(".bidsignore", "sub-*\n"), "holds no"
    yield "a .bidsignore of bytes", text_in(".bidsignore", b"\xff\xfe\x81"), ".bidsignore"
    yield "two files of one run", dataset(_twice), "keep one"
    yield "a subject in another's folder", dataset(lambda root: (root / "sub-01").rename(root / "sub-02")), "holds no"


def _twice(root: Path) -> None:
    path = root / BOLD
    shutil.copy(path, path.with_suffix(""))


def _run() -> Iterator[tuple[str, Make, str]]:
    """Faults of its only run: it fails, and is told."""
    for fault, text in (
        *(("empty", ""), ("half", '{"RepetitionTime": '), ("a list", "[2.0]"), ("a number", "2")),
        *(("bytes", b"\xff\xfe\0"), ("100000 deep", '{"a": ' * 100_000), ("of NaN", '{"RepetitionTime": NaN}')),
    ):
        yield f"a sidecar that is {fault}", text_in(SIDECAR, text), SIDECAR.split("/")[-1]
    for value in ("two", 0, -2.0, [2.0], True, None, 1e12):
        yield f"a RepetitionTime of {value}", of_sidecar(RepetitionTime=value), "RepetitionTime"
    for value in ("now", [0.0], [0, 2, 1], list(range(9)), [1, "a"], {}):
        yield f"a VolumeTiming of {value}", of_sidecar(RepetitionTime=2.0, VolumeTiming=value), ""
    for what, data in foreign().items():
        if what not in ("one byte", "zeros", "tar", "UTF-16"):
            yield f"a series that is {what}", text_in(BOLD, data), ""
    yield "a series cut short", dataset(_cut), ""
    yield "a series that is not fetched", dataset(_unfetched), "fetch"
    yield "a series that is a folder", dataset(_folder), ""
    yield "a phase without its magnitude", dataset(_lonely_phase), "part-mag"
    for fault, change in (("Units", {"Units": "bananas"}), ("radians", {"Units": "rad"})):
        yield f"a phase of impossible {fault}", dataset(lambda root, c=change: _phase(root, c)), "phase"


def _cut(root: Path) -> None:
    raw = (root / BOLD).read_bytes()
    (root / BOLD).write_bytes(raw[: len(raw) // 2])


def _unfetched(root: Path) -> None:
    (root / BOLD).unlink()
    (root / BOLD).symlink_to("../../.git/annex/objects/nowhere")


def _folder(root: Path) -> None:
    (root / BOLD).unlink()
    (root / BOLD).mkdir()


def _lonely_phase(root: Path) -> None:
    for path in list((root / BOLD).parent.iterdir()):
        path.rename(path.with_name(path.name.replace("rest_bold", "rest_part-phase_bold")))


def _phase(root: Path, about: dict[str, Any]) -> None:
    """A phase beside the magnitude that cannot be one."""
    folder = root / "sub-01" / "func"
    for path in list(folder.iterdir()):
        path.rename(path.with_name(path.name.replace("rest_bold", "rest_part-mag_bold")))
    sidecar = {"TaskName": "rest", "RepetitionTime": 2.0, **about}
    put(root, "sub-01/func/sub-01_task-rest_part-phase_bold.nii.gz", bold(), sidecar)


def _partly() -> Iterator[tuple[str, Make, str]]:
    """One good run and a bad one: the good one is restored."""
    good = "sub-01/func/sub-01_task-rest_bold.nii.gz"
    bad = "sub-03/func/sub-03_task-rest_bold.nii.gz"

    def beside(data: bytes) -> Make:
        def change(root: Path) -> None:
            shutil.copytree(root / "sub-01", root / "sub-03")
            for path in list((root / "sub-03" / "func").iterdir()):
                path.rename(path.with_name(path.name.replace("sub-01", "sub-03")))
            (root / bad).write_bytes(data)

        return dataset(change)

    assert good == BOLD
    yield "a run that is text beside a good one", beside(b"not a series"), "sub-03"
    yield "a run that is empty beside a good one", beside(b""), "sub-03"


def cases() -> Iterator[Case]:
    for family, code in ((_whole, 4), (_run, 4), (_partly, 3)):
        for fault, make, says in family():
            yield Case("BIDS", fault, "study", make, says, BIDS if code == 4 else BIDS[:2], code)
