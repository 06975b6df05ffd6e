"""A study of what an archive has: each series is fetched when its unit runs, whatever happens on the way."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest
import yaml
from cli_shelf import fails, noisy_scan
from orthanc import Orthanc, datasets, fetched, images

from medseq.archive import Query, connect, find, store
from medseq.cli import main
from medseq.errors import InputError
from medseq.provenance import sha256
from medseq.study.ledger import entry_path, read_entry
from medseq.study.manifest import FETCHED, Archived, Denoise, Input, Manifest, Reconstruct, load_manifest, save_manifest
from medseq.study.plan import Tasks, plan_archive
from medseq.study.run import Settings, run_study
from medseq.study.status import read_status

FRAMES = 4
# In the place of medseq: a fetch that may be killed after some images, and a restoration that says what it was given.
PROGRAM = """
import os, signal, sys
from pathlib import Path
here = Path(__file__).parent
with open(here / "calls", "a") as calls:
    calls.write(sys.argv[2] + "\\n")
if sys.argv[2] == "archive":
    import medseq.archive.transfer as transfer
    transfer.WAITS = (0.0, 0.0)
    replace, kill = os.replace, here / "kill"
    def counted(source, target):
        replace(source, target)
        if str(target).endswith(".dcm") and not Path(target).name.startswith("."):
            with open(here / "came", "a") as came:
                came.write(Path(target).name + "\\n")
            if kill.exists() and len((here / "came").read_text().split()) == int(kill.read_text()):
                os.kill(os.getpid(), signal.SIGKILL)
    os.replace = counted
    from medseq.cli import main
    sys.exit(main(sys.argv[2:]))
output = next(word.removeprefix("--output=") for word in sys.argv if word.startswith("--output="))
os.mkdir(output)
(Path(output) / "seen").write_text("\\n".join(sorted(os.listdir(sys.argv[3]))))
"""


@pytest.fixture
def scans(orthanc: Orthanc, tmp_path: Path) -> list[Path]:
    """A cine of one patient in the archive."""
    noisy_scan(tmp_path / "scan", "ge", slices=1, frames=FRAMES, number=5)
    store(images(tmp_path / "scan"), connect(orthanc.web), tmp_path / "outbox")
    return images(tmp_path / "scan")


@pytest.fixture
def night(orthanc: Orthanc, scans: list[Path], tmp_path: Path) -> Path:
    """It, planned."""
    query = Query(study=str(pydicom.dcmread(scans[0]).StudyInstanceUID))
    (tmp_path / "night").mkdir()
    save_manifest(plan_archive(connect(orthanc.web), query, Tasks(Denoise(), Reconstruct())), tmp_path / "night")
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path / "night"


def settings(night: Path, archive: str | None, **options) -> Settings:
    program = (sys.executable, str(night.parent / "program.py"))
    return Settings(workers=1, memory_mb=2000, timeout=300, program=program, archive=archive, **options)


def lines(night: Path, name: str) -> list[str]:
    return (night.parent / name).read_text().split()


def quiet(_: str) -> None:
    pass


def test_a_series_of_an_archive_is_restored_and_its_result_stored_there(
    orthanc: Orthanc, scans: list[Path], shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address, header = orthanc.web, pydicom.dcmread(scans[0])
    study, prior = str(tmp_path / "night"), str(shelf / "tiny.safetensors")
    asked = ["--patient", str(header.PatientID), "--prior", prior]
    assert main(["study", "plan", address, "-o", study, *asked]) == 0
    assert f"medseq study run {study} --archive {address}" in capsys.readouterr().out
    assert main(["study", "run", study, "--archive", address, "--device", "cpu"]) == 0
    (unit,) = load_manifest(tmp_path / "night").units
    assert unit.name == "dicom-0001_series-5"
    came = images(tmp_path / "night" / FETCHED)
    assert datasets(came) == datasets(scans)

    result = tmp_path / "night" / unit.output / "dicom"
    assert main(["archive", "store", str(result), address, "--outbox", str(tmp_path / "outbox")]) == 0
    back = fetched(connect(address), sorted(result.glob("*.dcm")), tmp_path / "back")
    assert all(dataset.PatientID == header.PatientID for dataset in datasets(back).values())
    # What medseq has stored is no unit, and a second run does not need the archive.
    again = plan_archive(connect(address), Query(study=unit.input.archived.study), Tasks(Denoise(), Reconstruct()))
    assert [each.input.archived for each in again.units] == [unit.input.archived]
    capsys.readouterr()
    assert main(["study", "run", study]) == 0 and "0 done, 1 unchanged" in capsys.readouterr().out


@pytest.mark.parametrize("protocol", ["web", "network"])
def test_nothing_but_the_plan_and_what_was_fetched_tells_who_it_is(
    orthanc: Orthanc, scans: list[Path], night: Path, protocol: str
) -> None:
    assert run_study(night, settings(night, getattr(orthanc, protocol)), quiet).exit_code == 0
    assert datasets(images(night / FETCHED)) == datasets(scans)
    header = pydicom.dcmread(scans[0])
    told = [path for path in night.rglob("*") if path.is_file() and FETCHED not in path.parts]
    assert {"study.yaml", "seen"} <= {path.name for path in told}
    for path in told:
        for secret in (str(header.PatientID), str(header.PatientName), *_uids(header, path)):
            assert secret not in path.read_text(), (path, secret)


def _uids(header: pydicom.Dataset, path: Path) -> list[str]:
    return [] if path.name == "study.yaml" else [header.StudyInstanceUID, header.SeriesInstanceUID]


def test_a_fetch_that_is_killed_goes_on_where_it_stopped(orthanc: Orthanc, scans: list[Path], night: Path) -> None:
    (night.parent / "kill").write_text("2")
    summary = run_study(night, settings(night, orthanc.web), quiet)
    assert summary.exit_code == 0 and lines(night, "calls") == ["archive", "archive", "denoise"]
    came = lines(night, "came")
    assert len(came) == len(set(came)) == FRAMES  # none of them twice
    (unit,) = load_manifest(night).units
    assert (night / unit.output / "dicom" / "seen").read_text().split() == sorted(came)
    entry = read_entry(entry_path(night, unit.name))
    assert entry is not None and entry.attempts == 2 and entry.content is not None
    assert entry.content.sha256 == sha256(night / FETCHED / unit.input.path)
    assert [path.name for path in (night / FETCHED).iterdir()] == [unit.input.path]


def test_an_archive_that_is_down_is_tried_thrice_and_told(
    tmp_path_factory, orthanc: Orthanc, scans: list[Path], night: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nobody = Orthanc(tmp_path_factory.mktemp("down")).web
    summary = run_study(night, settings(night, nobody), quiet)
    assert summary.exit_code == 5 and lines(night, "calls") == ["archive"] * 3
    assert "127.0.0.1" in capsys.readouterr().err and read_status(night).counts["failed"] == 1
    assert not images(night / FETCHED) and not images(night / "results")
    assert run_study(night, settings(night, orthanc.web), quiet).exit_code == 0
    assert lines(night, "calls") == ["archive"] * 4 + ["denoise"]


def test_two_units_may_want_the_same_series(orthanc: Orthanc, scans: list[Path], night: Path) -> None:
    (unit,) = load_manifest(night).units
    others = {"name": "other", "output": "results/other", "task": Denoise(seed=1)}
    save_manifest(Manifest(source=FETCHED, units=(unit, unit.model_copy(update=others))), night)
    summary = run_study(night, replace(settings(night, orthanc.web), workers=2), quiet)
    assert summary.exit_code == 0 and sorted(lines(night, "calls")) == ["archive", "denoise", "denoise"]
    assert [path.name for path in (night / FETCHED).iterdir()] == [unit.input.path]
    assert len(images(night / FETCHED)) == FRAMES == len(lines(night, "came"))


def test_what_was_fetched_may_go_once_it_has_served(orthanc: Orthanc, scans: list[Path], night: Path) -> None:
    run_study(night, settings(night, orthanc.web), quiet)
    for path in images(night / FETCHED):
        path.unlink()
    for folder in (night / FETCHED).iterdir():
        folder.rmdir()
    assert run_study(night, settings(night, None), quiet).unchanged
    (unit,) = load_manifest(night).units
    changed = unit.model_copy(update={"task": Denoise(seed=1)})
    save_manifest(Manifest(source=FETCHED, units=(changed,)), night)
    told = run_study(night, settings(night, None), quiet)  # it has to be fetched again, and nobody said from where
    assert told.exit_code == 2 and "--archive" in str(told.failed[unit.name].reason)
    assert run_study(night, settings(night, orthanc.web), quiet).done == [unit.name]


def test_only_the_series_asked_for_are_units(orthanc: Orthanc, scans: list[Path], tmp_path: Path) -> None:
    peer = connect(orthanc.web)
    (series,) = find(peer, Query(study=str(pydicom.dcmread(scans[0]).StudyInstanceUID)))
    query, tasks = Query(study=series.uid.study), Tasks(Denoise(deidentify=True), Reconstruct())
    wanted = f"*{series.description[1:-1].upper()}?"
    (unit,) = plan_archive(peer, query, tasks, wanted).units
    assert unit.name == "unit-0001" and unit.estimate.memory_mb > 0
    with pytest.raises(InputError, match="no such series"):
        plan_archive(peer, query, tasks, "perfusion")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"archived": {"study": "1.2/../3", "series": "1.2"}}, "UID"),
        ({"path": "elsewhere"}, "path"),
        ({"also": ["other.json"]}, "path"),
        ({"archived": {"study": "1.2", "series": "1.3", "address": "https://evil"}}, "address"),
    ],
)
def test_a_hostile_plan_fetches_nothing_to_elsewhere(tmp_path: Path, change: dict, word: str) -> None:
    series = Archived(study="1.2", series="1.3")
    given = {"path": series.folder, "archived": series.model_dump()}
    unit = {"name": "a", "task": {"command": "denoise"}, "output": "results/a", "format": "dicom"}
    content = {"version": 1, "source": FETCHED, "units": [{**unit, "input": {**given, **change}}]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=word):
        load_manifest(tmp_path)


def test_what_is_fetched_stays_inside_the_study(tmp_path: Path) -> None:
    series = Archived(study="1.2", series="1.3")
    fetched_one = Input(path=series.folder, archived=series)
    unit = {"name": "a", "input": fetched_one, "task": Denoise(), "output": "results/a"}
    with pytest.raises(ValueError, match="fetched"):
        Manifest.model_validate({"source": "/etc", "units": [unit]})
    save_manifest(Manifest.model_validate({"source": FETCHED, "units": [unit]}), tmp_path)
    (tmp_path / FETCHED).symlink_to("/")
    with pytest.raises(InputError, match="link"):
        run_study(tmp_path, settings(tmp_path, None), quiet)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("study plan http://127.0.0.1:9/dicom-web -o night", 2, ["every study"]),
        ("study plan http://127.0.0.1:9/dicom-web -o night --patient 1", 5, ["127.0.0.1:9"]),
        ("study plan http://127.0.0.1:9/dicom-web -o night --patient 1 --hash", 2, ["--hash"]),
        ("study plan study -o night --patient 1", 2, ["archive"]),
        ("study plan ftp://host -o night --patient 1", 2, ["address"]),
    ],
)
def test_mistakes_are_told_in_one_line(here, capsys, monkeypatch, arguments, code, words) -> None:
    monkeypatch.setattr("medseq.archive.transfer.WAITS", (0.0, 0.0))
    fails(capsys, arguments, code, *words)
    assert not (here / "night").exists()


def test_a_study_of_files_has_no_archive(here, capsys) -> None:
    assert main(["study", "plan", "study", "-o", "night"]) == 0
    capsys.readouterr()
    fails(capsys, "study run night --archive https://host/dicom-web", 2, "--archive")
