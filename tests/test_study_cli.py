"""`medseq study` as people use it, with units that are real commands."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
from pathlib import Path

import pytest
from bids_dataset import BOLD, empty_dataset, errors_of, put_bold
from cli_shelf import command, fails
from study_shelf import Shelf

from medseq.cli import main
from medseq.errors import UsageError
from medseq.io import load_clip
from medseq.report.blocks import Table
from medseq.study.collect import collect
from medseq.study.ledger import only_run
from medseq.study.manifest import load_manifest, save_manifest
from medseq.study.run import run_study


@pytest.fixture(scope="module")
def night(shelf, tmp_path_factory) -> Path:
    """A study of NIfTI, DICOM, raw data and a file that is none, run to its end."""
    folder = tmp_path_factory.mktemp("studies")
    source = folder / "scans"
    source.mkdir()
    for name in ("cine.nii.gz", "raw.h5"):
        (source / name).symlink_to(shelf / name)
    shutil.copytree(shelf / "study", source / "study")
    (source / "jane_doe.nii.gz").write_text("not a series")
    study, prior = folder / "night", shelf / "tiny.safetensors"
    plan = ["study", "plan", str(source.resolve()), "-o", str(study), "--prior", str(prior), "--deidentify", "--report"]
    assert main(plan) == 0
    assert main(["study", "run", str(study), "--device", "cpu"]) == 3
    return study


def test_real_units_are_restored_and_the_bad_one_named(night, shelf, capsys):
    assert main(["study", "status", str(night), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    states = {each["unit"]: (each["task"], each["state"], each["exit_code"]) for each in told["units"]}
    assert states == {
        "unit-0001": ("denoise", "done", 0),
        "unit-0002": ("denoise", "failed", 4),
        "unit-0003": ("reconstruct", "done", 0),
        "unit-0004": ("denoise", "done", 0),
    }
    assert told["counts"]["done"] == 3 and not told["running"]
    before, after = load_clip(shelf / "cine.nii.gz"), load_clip(night / "results/unit-0001/unit-0001.nii.gz")
    assert after.data.shape == before.data.shape and bool((after.data != before.data).any())
    assert len(list((night / "results/unit-0004/dicom").glob("*.dcm"))) == 6


def test_a_unit_gives_what_the_command_gives(night, shelf, tmp_path):
    words = ["denoise", str(shelf / "cine.nii.gz"), "-o", str(tmp_path / "out.nii.gz"), "--device", "cpu"]
    assert main([*words, "--prior", str(shelf / "tiny.safetensors"), "--deidentify"]) == 0
    by_hand, by_study = load_clip(tmp_path / "out.nii.gz"), load_clip(night / "results/unit-0001/unit-0001.nii.gz")
    assert bool((by_hand.data == by_study.data).all())


def test_a_second_run_has_nothing_to_do(night, capsys):
    def looks() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in (night / "results").rglob("*")}

    before = looks()
    assert main(["study", "run", str(night), "--device", "cpu"]) == 3
    assert "0 done, 3 unchanged, 1 failed" in capsys.readouterr().out and looks() == before


def test_what_is_collected_leads_everywhere_and_tells_nobody(night, capsys):
    assert main(["study", "collect", str(night)]) == 0
    assert "3 of 4 units done" in capsys.readouterr().out
    place = night / "collected"
    page = html.unescape((place / "index.html").read_text())
    links = re.findall(r'href="([^"#]+)"', page)
    assert len(links) == 6 and all((place / link).resolve().exists() for link in links)
    assert "default-src 'none'" in page and "4" in page and "unit-0002" in page
    with (place / "figures.csv").open() as stream:
        figures = list(csv.DictReader(stream))
    assert {row["unit"] for row in figures} == {"unit-0001", "unit-0003", "unit-0004"}
    assert all(float(row["value"]) == float(row["value"]) for row in figures)
    with (place / "units.csv").open() as stream:
        assert [row["state"] for row in csv.DictReader(stream)] == ["done", "failed", "done", "done"]
    everything = [path for path in (*place.iterdir(), *(night / "ledger").glob("*.json")) if path.is_file()]
    for path in everything:
        for secret in ("jane", "doe", str(night.parent), "cine.nii"):
            assert secret not in path.read_text().lower(), (path, secret)


def test_a_run_of_a_bids_dataset_is_a_unit_and_nothing_but_that_run(tmp_path):
    root = empty_dataset(tmp_path / "dataset")
    put_bold(root)
    put_bold(root, BOLD.replace("_bold", "_run-2_bold"))
    study = tmp_path / "night"
    assert main(["study", "plan", str(root), "-o", str(study)]) == 0
    manifest = load_manifest(study)
    assert [each.name for each in manifest.units] == ["sub-01_task-rest_bold", "sub-01_task-rest_run-2_bold"]
    save_manifest(manifest.model_copy(update={"units": manifest.units[:1]}), study)
    assert main(["study", "run", str(study), "--device", "cpu"]) == 0
    assert main(["study", "collect", str(study)]) == 0
    made = study / "results" / "sub-01_task-rest_bold"
    names = {path.name for path in made.rglob("*.nii.gz")}
    assert "sub-01_task-rest_desc-denoised_bold.nii.gz" in names and not any("run-2" in name for name in names)
    assert (made / "dataset_description.json").is_file()

    # The other run comes later; together they are one dataset, to which the validator has no objection.
    save_manifest(manifest, study)
    assert main(["study", "run", str(study), "--device", "cpu"]) == 0
    for _ in range(2):
        assert main(["study", "collect", str(study)]) == 0
    derivatives = study / "collected" / "derivatives"
    everything = [path for each in manifest.units for path in (study / each.output).glob("*/**/*") if path.is_file()]
    merged = [path for path in derivatives.glob("*/**/*") if path.is_file()]
    assert sorted(path.name for path in merged) == sorted(path.name for path in everything)
    assert any("run-2" in path.name for path in merged) and errors_of(derivatives) == []
    link = json.loads((derivatives / "dataset_description.json").read_text())["DatasetLinks"]["raw"]
    assert (derivatives / link).resolve() == root.resolve()
    assert not [path.name for path in (study / "collected").iterdir() if path.name.startswith(".")]


def test_a_study_is_not_planned_over_an_edited_one(tmp_path, here, capsys):
    assert command("study plan study -o night") == 0
    capsys.readouterr()
    fails(capsys, "study plan study -o night", 2, "night/study.yaml", "--restart")
    assert command("study plan study -o night --restart --task interpolate --factor 3") == 0
    assert "factor: 3" in (here / "night" / "study.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("study plan missing -o night", 4, ["missing"]),
        ("study plan empty -o night", 4, ["empty", "no series"]),
        ("study plan study -o study", 2, ["study"]),
        ("study run missing", 4, ["study.yaml", "study plan"]),
        ("study status missing", 4, ["study.yaml"]),
        ("study collect missing", 4, ["study.yaml"]),
        ("study run missing --engine slurm", 2, ["engine"]),
    ],
)
def test_mistakes_are_told_in_one_line(here, capsys, arguments, code, words):
    (here / "empty").mkdir()
    fails(capsys, arguments, code, *words)
    assert not (here / "night").exists()


def test_a_study_that_is_being_run_is_left_alone(tmp_path, capsys):
    shelf = Shelf(tmp_path, {"a": "fine"})
    with only_run(shelf.study):
        fails(capsys, f"study run {shelf.study}", 5, "another run")
        assert main(["study", "status", str(shelf.study)]) == 0
    assert "a run is going on" in capsys.readouterr().out


def test_tables_are_harmless_to_spreadsheets_and_pages(tmp_path):
    shelf = Shelf(tmp_path, {"a": "fine", "b": "bad"})
    program = shelf.program.read_text().replace("holds nothing that can be used", "<script>alert(1)</script>")
    shelf.program.write_text(program.replace('"medseq: error: %s: %s" % (source, reason)', '"=HYPERLINK(1)" + reason'))
    run_study(shelf.study, shelf.settings(), lambda _: None)
    collect(shelf.study)
    assert ",'=HYPERLINK(1)" in (shelf.study / "collected" / "units.csv").read_text()
    page = (shelf.study / "collected" / "index.html").read_text()
    with pytest.raises(UsageError, match="relative"):
        Table("", ["unit"], [["a"]], links=[["javascript:alert(1)"]])
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
    figures = (shelf.study / "collected" / "figures.csv").read_text().splitlines()
    assert figures == [
        "unit,task,figure,value",
        "a,denoise,noise,1.5",
        "a,denoise,deep.er,2",
        "a,denoise,seconds.total,0.1",
    ]
