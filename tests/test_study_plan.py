"""Plans: every series of a folder becomes a unit, and a manifest that anybody may have written does no harm."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml
from bids_dataset import empty_dataset, put_bold, put_complex_bold, put_heart
from cli_shelf import noisy_scan
from study_shelf import unit

from medseq.cli import app
from medseq.errors import InputError, UsageError
from medseq.study.child import Limits
from medseq.study.manifest import (
    MANIFEST,
    Denoise,
    Interpolate,
    Manifest,
    Reconstruct,
    load_manifest,
    safe_name,
    save_manifest,
)
from medseq.study.plan import Tasks, plan
from medseq.study.unit import Job, _command

TASKS = Tasks(Denoise(), Reconstruct())


def put_nifti(path: Path, shape: tuple[int, ...] = (24, 24, 1, 5)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.ones(shape, np.float32), np.eye(4)), path)
    return path


@pytest.fixture
def source(tmp_path) -> Path:
    folder = tmp_path / "scans"
    put_nifti(folder / "one" / "cine.nii.gz")
    put_nifti(folder / "two" / "cine.nii", (24, 24, 2, 5))
    (folder / "two" / "cine.json").write_text("{}")
    (folder / "broken.nii.gz").write_text("not a series")
    (folder / "raw.h5").write_bytes(b"x" * 8000)
    (folder / "notes.txt").write_text("nothing")
    return folder


def test_every_series_of_a_folder_is_a_unit(source, tmp_path):
    noisy_scan(source / "Doe^John 1.2.3" / "a", "ge", slices=1, frames=6, number=5)
    noisy_scan(source / "Doe^John 1.2.3" / "b", "ge", slices=1, frames=6, number=7, name="other")
    manifest = plan(source, tmp_path / "night", TASKS)
    units = {each.name: each for each in manifest.units}
    assert list(units) == ["broken", "one_cine", "raw", "two_cine", "dicom-0005_series-5", "dicom-0006_series-7"]
    assert [each.task.command for each in manifest.units] == ["denoise"] * 2 + ["reconstruct"] + ["denoise"] * 3
    assert units["two_cine"].input.also == ("two/cine.json",) and units["dicom-0005_series-5"].format == "dicom"
    assert units["dicom-0005_series-5"].input.path == "Doe^John 1.2.3/a"
    assert not any("Doe" in each.output for each in manifest.units)
    small, large = units["one_cine"].estimate, units["two_cine"].estimate
    assert small.memory_mb <= large.memory_mb and small.seconds > 0 and small.disk_mb > 0


def test_a_plan_leaves_results_of_other_studies_inside_the_source_aside(source):
    put_nifti(source / "night" / "results" / "x" / "x.nii.gz")
    assert all(not each.input.path.startswith("night") for each in plan(source, source / "night", TASKS).units)
    with pytest.raises(UsageError, match="holds the source"):
        plan(source / "one", source, TASKS)


def test_a_plan_survives_being_written_and_edited(source, tmp_path):
    manifest = plan(source, tmp_path / "night", Tasks(Interpolate(factor=3, seed=4), Reconstruct(seed=4)), hashed=True)
    save_manifest(manifest, tmp_path)
    assert load_manifest(tmp_path) == manifest
    content = yaml.safe_load((tmp_path / MANIFEST).read_text())
    assert content["units"][0]["task"] == {"command": "interpolate", "seed": 4, "factor": 3}
    assert len(content["units"][0]["input"]["sha256"]) == 64
    content["units"] = content["units"][1:]
    content["units"][0]["task"]["factor"] = 2
    (tmp_path / MANIFEST).write_text(json.dumps(content))  # JSON is YAML
    assert len(load_manifest(tmp_path).units) == 3


def test_names_that_differ_only_to_people_get_numbers(tmp_path):
    for name in ("a b.nii.gz", "a_b.nii.gz", "A_b.nii.gz", "-x.nii.gz", "..hid den.nii.gz", "żółw.nii.gz"):
        put_nifti(tmp_path / "scans" / name)
    names = [each.name for each in plan(tmp_path / "scans", tmp_path / "night", TASKS).units]
    assert len({name.lower() for name in names}) == 6 and all(safe_name(name) == name for name in names)
    hidden = plan(tmp_path / "scans", tmp_path / "night", Tasks(Denoise(deidentify=True), Reconstruct()))
    assert [each.name for each in hidden.units] == [f"unit-000{number}" for number in range(1, 7)]


def test_bids_runs_are_units_of_their_own(tmp_path):
    root = empty_dataset(tmp_path / "dataset")
    (root / "task-rest_bold.json").write_text("{}")
    put_bold(root)
    put_complex_bold(root)
    put_heart(root)
    manifest = plan(root, tmp_path / "night", TASKS)
    units = {each.name: each for each in manifest.units}
    assert units["sub-01_task-rest_bold"].input.also == (
        "task-rest_bold.json",
        "sub-01/func/sub-01_task-rest_bold.json",
    )
    phase = "sub-02/func/sub-02_task-rest_part-phase_bold.nii.gz"
    assert phase in units["sub-02_task-rest_part-mag_bold"].input.also and all(
        u.format == "bids" for u in units.values()
    )
    with pytest.raises(UsageError, match="--deidentify"):
        plan(root, tmp_path / "night", Tasks(Denoise(deidentify=True), Reconstruct()))


@pytest.mark.parametrize(
    "task",
    [
        Denoise(),
        Denoise(kind="bold", goal="fluctuations", sigma=1e-3, steps=2, samples=2, seed=3, prior="/x.safetensors"),
        Denoise(report=True, deidentify=True, allow_missing_frames=True, precise=True, multiframe=True),
        Interpolate(factor=3, precision="float32"),
        Reconstruct(kind="bold", denoise=True, report=True),
    ],
)
def test_every_option_is_one_of_the_command(task, tmp_path):
    job = Job(unit("a").model_copy(update={"task": task}), tmp_path, tmp_path, "run", "", Limits(1, 1))
    words = _command(job)[3:]
    command, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    assert command.__name__ == task.command
    told = {**bound.arguments, **vars(bound.arguments["options"]), **vars(bound.arguments.get("reading") or object)}
    for name, value in task.model_dump(exclude={"command"}, exclude_defaults=True).items():
        assert told[name] == value


def written(folder: Path, **changes: object) -> str:
    save_manifest(Manifest(source="/data", units=(unit("a"), unit("b"))), folder)
    content = yaml.safe_load((folder / MANIFEST).read_text())
    content["units"][0] |= changes
    return yaml.safe_dump(content)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"output": "../../etc/cron.d/x"}, "output"),
        ({"output": "/etc/x"}, "output"),
        ({"output": "results/.."}, "output"),
        ({"output": "results/.hidden"}, "output"),
        ({"output": "results//x"}, "output"),
        ({"output": "results\\..\\x"}, "output"),
        ({"output": "results/a\nb"}, "output"),
        ({"output": "ledger/a"}, "own files"),
        ({"output": "Results/B"}, "output"),
        ({"output": "results/b/in"}, "lies in another"),
        ({"name": "../x"}, "name"),
        ({"name": "B"}, "name"),
        ({"name": ".lock"}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a" * 300}, "name"),
        ({"input": {"path": "../secret.nii.gz"}}, "path"),
        ({"input": {"path": "/etc/passwd"}}, "path"),
        ({"input": {"path": "a.nii.gz", "also": ["../../x"]}}, "also"),
        ({"input": {"path": "a\x00b"}}, "path"),
        ({"task": {"command": "train"}}, "task"),
        ({"task": {"command": "denoise", "prior": "--output=/etc/x"}}, "prior"),
        ({"task": {"command": "denoise", "prior": "near.safetensors"}}, "prior"),
        ({"task": {"command": "denoise", "output": "/etc/x"}}, "output"),
        ({"task": {"command": "denoise", "sigma": float("nan")}}, "sigma"),
        ({"task": {"command": "denoise", "seed": "1; rm -rf /"}}, "seed"),
        ({"task": {"command": "denoise", "steps": 0}}, "steps"),
        ({"task": {"command": "denoise", "seed": True}}, "seed"),
        ({"run": "rm -rf /"}, "run"),
        ({"estimate": {"memory_mb": -1}}, "memory_mb"),
    ],
)
def test_a_hostile_manifest_is_refused(tmp_path, changes, word):
    text = written(tmp_path, **changes)
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(InputError, match=MANIFEST) as told:
        load_manifest(tmp_path)
    assert word in str(told.value) and "\n" not in str(told.value)


LAUGHS = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))


@pytest.mark.parametrize(
    "text",
    [
        "source: !!python/object/apply:os.system ['touch owned']\nunits: []",
        "!!python/object/new:subprocess.Popen [[touch, owned]]",
        LAUGHS,
        "[" * 5_000,
        "source: /data\nunits: []",
        "source: /data",
        "units: 3\nsource: [",
        "just text",
        "",
        "version: 2\nsource: /data\nunits: []",
    ],
    ids=["code", "object", "laughs", "deep", "empty", "none", "broken", "text", "nothing", "version"],
)
def test_what_is_no_manifest_is_refused_and_never_run(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(InputError, match=MANIFEST):
        load_manifest(tmp_path)
    assert not (tmp_path / "owned").exists()


def test_bytes_that_are_no_text_and_no_file_at_all_are_refused(tmp_path):
    with pytest.raises(InputError, match="study plan"):
        load_manifest(tmp_path)
    (tmp_path / MANIFEST).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=MANIFEST):
        load_manifest(tmp_path)


@pytest.mark.parametrize(
    "name", ["../../x", "a/b", "1.2.840^DOE", "\u202egnp.exe", "con\n", "", ".", "..", "-rf", "x" * 500]
)
def test_names_become_harmless(name):
    made = safe_name(name)
    assert made == Path(made).name and made.isascii() and made[0] not in ".-" and len(made) <= 100
    unit(made)
