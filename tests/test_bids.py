"""BIDS in: names, inheritance, timing, complex series, what is chosen and what is refused."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from bids_dataset import BOLD, CINE, FRAMES, RAW, bold, empty_dataset, put, put_bold, put_complex_bold, put_heart
from bids_dataset import write_json as write
from hypothesis import given
from hypothesis import strategies as st

from medseq.clip import Clip
from medseq.errors import InputError, MedseqWarning, UsageError
from medseq.io.bids import Run, find_runs, load_run
from medseq.io.bids_choice import Choice, choose, read_filters
from medseq.io.bids_names import parse_name
from medseq.io.bids_sidecar import read_json, read_sidecar


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return empty_dataset(tmp_path / "study")


def only_clip(dataset: Path) -> Clip:
    [run] = find_runs(dataset)
    clip, _ = load_run(run)
    assert isinstance(clip, Clip)
    return clip


def names(runs: list[Run]) -> list[str]:
    return [str(run.name) for run in runs]


LABELS = st.text("abcXYZ019", min_size=1, max_size=4)
ENTITIES = st.dictionaries(st.sampled_from(["sub", "ses", "task", "acq", "run", "echo"]), LABELS)


@given(ENTITIES, LABELS, st.sampled_from([".nii", ".nii.gz", ".json"]))
def test_a_name_is_its_parts(entities: dict[str, str], suffix: str, extension: str) -> None:
    text = "".join(f"{key}-{label}_" for key, label in entities.items()) + suffix + extension
    name = parse_name(text)
    assert name is not None and (name.entities, name.suffix, name.extension) == (entities, suffix, extension)
    assert str(name) == text
    derived = parse_name(str(name.described("denoised")))
    assert derived is not None and derived.without("desc") == name


@pytest.mark.parametrize(
    "text",
    ["bold", "sub-01_bold", "sub-01_sub-02_bold.nii", "sub_01_bold.nii", "sub-01__bold.nii", ".nii", "sub-é_b.nii"],
)
def test_what_is_no_name(text: str) -> None:
    assert parse_name(text) is None


def test_what_was_described_before_keeps_that() -> None:
    name = parse_name("sub-01_space-T1w_desc-preproc_bold.nii.gz")
    assert name is not None and str(name.described("denoised")) == "sub-01_space-T1w_desc-preprocDenoised_bold.nii.gz"


def test_sidecars_are_inherited_from_the_root_down(dataset: Path) -> None:
    """The inheritance principle: entities of the sidecar are among the file's, the nearest sidecar wins."""
    path = put(dataset, "sub-01/ses-a/func/sub-01_ses-a_task-rest_run-1_bold.nii.gz", bold())
    write(dataset / "bold.json", {"root": 1, "A": "root", "B": "root", "C": "root", "D": "root"})
    write(dataset / "task-rest_bold.json", {"A": "task", "B": "task", "C": "task", "D": "task"})
    write(dataset / "sub-01" / "sub-01_bold.json", {"B": "subject", "C": "subject", "D": "subject"})
    write(dataset / "sub-01" / "ses-a" / "sub-01_ses-a_bold.json", {"C": "session", "D": "session"})
    write(path.parent / "sub-01_ses-a_task-rest_run-1_bold.json", {"D": "file"})
    for stranger in ("task-move_bold.json", "task-rest_sbref.json", "run-2_bold.json", "sub-01/ses-a/echo-1_bold.json"):
        write(dataset / stranger, {"A": "stranger"})
    expected = {"root": 1, "A": "task", "B": "subject", "C": "session", "D": "file"}
    assert read_sidecar(dataset, path) == expected


def test_runs_are_found_by_name_and_place(dataset: Path) -> None:
    put_bold(dataset)
    put_heart(dataset)
    put_bold(dataset, "sub-02/ses-1/func/sub-02_ses-1_task-rest_bold.nii")
    for other in (
        "sub-01/func/sub-01_task-rest_sbref.nii.gz",
        "sub-01/anat/sub-01_bold.nii.gz",
        "sub-01/func/sub-07_task-rest_bold.nii.gz",
        "sub-01/func/.sub-01_task-x_bold.nii.gz",
        "derivatives/sub-01/func/sub-01_task-rest_bold.nii.gz",
    ):
        put(dataset, other, bold())
    found = find_runs(dataset)
    assert [str(run.file.relative_to(dataset)) for run in found] == [
        BOLD,
        CINE,
        RAW,
        "sub-02/ses-1/func/sub-02_ses-1_task-rest_bold.nii",
    ]


def test_bidsignore_is_obeyed_but_hides_no_heart(dataset: Path) -> None:
    put_bold(dataset)
    put_heart(dataset)
    put_bold(dataset, "sub-01/func/sub-01_task-bad_bold.nii.gz")
    for rule in ("**/heart", "heart/", "sub-*/heart/**"):
        (dataset / ".bidsignore").write_text(f"# a comment\n{rule}\n*_task-bad_*\n")
        assert [str(run.file.relative_to(dataset)) for run in find_runs(dataset)] == [BOLD, CINE, RAW]
    (dataset / ".bidsignore").write_text("sub-01/heart\n/sub-01/func/\n")
    assert find_runs(dataset) == []


def test_magnitude_and_phase_become_complex(dataset: Path) -> None:
    expected = put_complex_bold(dataset)
    clip = only_clip(dataset)
    assert clip.is_complex
    torch.testing.assert_close(clip.data, expected.data, rtol=1e-6, atol=1e-3)


# What a turn of -pi to pi is stored as, and how exactly.
SCALES: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], float]] = {
    "radians": (lambda angle: angle, 1e-5),
    "radians from zero": (lambda angle: angle % (2 * math.pi), 1e-5),
    "thousandths (GE, Philips)": (lambda angle: (1000 * angle).round(), 6e-4),
    "Siemens by dcm2niix": (lambda angle: 2 * (angle * 2048 / math.pi).round().clamp(-2048, 2047), 2e-3),
    "Siemens as stored": (lambda angle: (angle * 2048 / math.pi).round().clamp(-2048, 2047) + 2048, 2e-3),
}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("units", ["arbitrary", None])
def test_scales_of_phase_are_recognised(dataset: Path, scale: str, units: str | None) -> None:
    store, exactness = SCALES[scale]
    magnitude = bold()
    angle = (2 * torch.rand(magnitude.data.shape, generator=torch.Generator().manual_seed(0)) - 1) * math.pi
    put(dataset, "sub-01/func/sub-01_task-rest_part-mag_bold.nii", magnitude, {"RepetitionTime": 2})
    about = {"RepetitionTime": 2} if units is None else {"RepetitionTime": 2, "Units": units}
    put(dataset, "sub-01/func/sub-01_task-rest_part-phase_bold.nii", magnitude.with_data(store(angle)), about)
    if units is None:
        with pytest.warns(MedseqWarning, match="no Units"):
            clip = only_clip(dataset)
    else:
        clip = only_clip(dataset)
    off = (clip.data * torch.polar(torch.ones_like(angle), -angle)).angle().abs().max()
    assert float(off) < exactness


PHASE_FAULTS: dict[str, tuple[Callable[[Clip], Clip], object]] = {
    "Units is rad, but": (lambda clip: clip.with_data(clip.data * 2), "rad"),
    "not 'deg'": (lambda clip: clip, "deg"),
    "the scale of this phase image": (lambda clip: clip.with_data(clip.data * 500), "arbitrary"),
    "its magnitude real values": (lambda clip: replace(clip, data=clip.data[:, :, :-1], times=clip.times[:-1]), "rad"),
    "lies elsewhere": (lambda clip: replace(clip, affine=clip.affine + _moved()), "rad"),
}


def _moved() -> np.ndarray:
    shift = np.zeros((4, 4))
    shift[0, 3] = 1.0
    return shift


@pytest.mark.parametrize("message", PHASE_FAULTS)
def test_a_phase_that_cannot_be_meant_is_refused(dataset: Path, message: str) -> None:
    put_complex_bold(dataset)
    change, units = PHASE_FAULTS[message]
    magnitude = bold(seed=1)
    phase = magnitude.with_data(torch.linspace(-3, 3, 32).expand_as(magnitude.data).contiguous())
    about = {"RepetitionTime": 2, "Units": units}
    put(dataset, "sub-02/func/sub-02_task-rest_part-phase_bold.nii.gz", change(phase), about)
    with pytest.raises(InputError, match=message):
        only_clip(dataset)


@pytest.mark.parametrize("part", ["phase", "real"])
def test_a_part_alone_is_refused(dataset: Path, part: str) -> None:
    put(dataset, f"sub-01/func/sub-01_task-rest_part-{part}_bold.nii.gz", bold(), {"RepetitionTime": 2, "Units": "rad"})
    with pytest.raises(InputError, match="cannot be used alone"):
        only_clip(dataset)


def test_a_magnitude_without_the_entity_has_its_phase_too(dataset: Path) -> None:
    expected = put_complex_bold(dataset)
    folder = dataset / "sub-02" / "func"
    for ending in (".nii.gz", ".json"):
        (folder / f"sub-02_task-rest_part-mag_bold{ending}").rename(folder / f"sub-02_task-rest_bold{ending}")
    torch.testing.assert_close(only_clip(dataset).data, expected.data, rtol=1e-6, atol=1e-3)


def test_the_repetition_time_of_the_dataset_wins(dataset: Path) -> None:
    path = put(dataset, BOLD, bold())
    write(dataset / "task-rest_bold.json", {"RepetitionTime": 1.5})
    for place in (dataset / "task-rest_bold.json", path.with_name("sub-01_task-rest_bold.json")):
        write(place, {"RepetitionTime": 1.5})
        with pytest.warns(MedseqWarning, match=r"RepetitionTime of 1\.5 s is used") as caught:
            clip = only_clip(dataset)
        assert len(caught) == 1
        np.testing.assert_array_equal(clip.times, 1.5 * np.arange(FRAMES))


def test_an_inherited_repetition_time_fills_a_header_without(dataset: Path) -> None:
    path = put(dataset, BOLD, bold())
    image = nib.load(path)
    image.header["pixdim"][4] = 0
    nib.save(image, path)
    write(dataset / "bold.json", {"RepetitionTime": 2.5})
    with pytest.warns(MedseqWarning, match=r"RepetitionTime of 2\.5 s is used") as caught:
        clip = only_clip(dataset)
    assert len(caught) == 1
    np.testing.assert_array_equal(clip.times, 2.5 * np.arange(FRAMES))


def test_volumes_may_have_times_of_their_own(dataset: Path) -> None:
    times = [0.5, 2.0, 5.0, 6.0, 7.5, 10.0, 11.0, 13.0, 14.0, 17.0]
    put(dataset, BOLD, bold(), {"VolumeTiming": times})
    np.testing.assert_array_equal(only_clip(dataset).times, times)
    for bad in (times[:-1], [*times[:-1], "x"], [*times[:-1], 1.0], 3, [*times[:-1], True]):
        write(dataset / "sub-01/func/sub-01_task-rest_bold.json", {"VolumeTiming": bad})
        with pytest.raises(InputError, match=r"VolumeTiming|increase"):
            only_clip(dataset)


@pytest.mark.parametrize(("direction", "expected"), [(None, [0.25, 1.0]), ("k", [0.25, 1.0]), ("k-", [1.0, 0.25])])
def test_slice_times_follow_the_encoding_direction(dataset: Path, direction: str | None, expected: list[float]) -> None:
    put_bold(dataset, SliceTiming=[0.25, 1.0], **({} if direction is None else {"SliceEncodingDirection": direction}))
    slice_times = only_clip(dataset).slice_times
    assert slice_times is not None
    np.testing.assert_array_equal(slice_times, expected)


@pytest.mark.parametrize(
    ("timing", "message"),
    [
        ({"SliceTiming": [0.0, 1.0, 0.5]}, "2 seconds, one a slice"),
        ({"SliceTiming": [0.0, 1000.0]}, r"from 0 to 1000 s in frames of 2 s"),
        ({"SliceTiming": [-0.1, 1.0]}, r"from -0\.1"),
        ({"SliceTiming": ["a", 1.0]}, "2 seconds"),
        ({"SliceTiming": [0.0, 1.0], "SliceEncodingDirection": "i"}, "along k"),
    ],
)
def test_slice_times_that_cannot_be_meant_are_left_aside(dataset: Path, timing: dict, message: str) -> None:
    put_bold(dataset, **timing)
    with pytest.warns(MedseqWarning, match=message):
        assert only_clip(dataset).slice_times is None


def test_a_heart_may_state_its_period(dataset: Path) -> None:
    put_heart(dataset)
    (dataset / RAW).unlink()
    assert only_clip(dataset).period == pytest.approx(0.9)
    write(dataset / "cine.json", {"CardiacPeriod": 1.25})
    assert only_clip(dataset).period == 1.25
    write(dataset / "cine.json", {"CardiacPeriod": 0.1})
    with pytest.raises(InputError, match="period"):
        only_clip(dataset)
    write(dataset / "cine.json", {"CardiacPeriod": "long"})
    with pytest.raises(InputError, match="CardiacPeriod must be"):
        only_clip(dataset)


JSON_FAULTS = {
    "half": '{"RepetitionTime": ',
    "a list": "[1]",
    "NaN": '{"RepetitionTime": NaN}',
    "deep": '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "binary": b"\xff\xfe\x00",
    "infinity": '{"EchoTime": 1e400}',
}


@pytest.mark.parametrize("fault", JSON_FAULTS)
def test_a_broken_sidecar_is_refused(tmp_path: Path, fault: str) -> None:
    content = JSON_FAULTS[fault]
    path = tmp_path / "bold.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError) as caught:
        read_json(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"a": 1}).encode())
    assert read_json(tmp_path / "x.json") == {"a": 1}


def test_what_is_no_dataset_is_refused(tmp_path: Path, dataset: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        find_runs(tmp_path / "nowhere")
    with pytest.raises(InputError, match="not a BIDS dataset"):
        find_runs(tmp_path)
    put_bold(dataset)
    put(dataset, BOLD.removesuffix(".gz"), bold())
    with pytest.raises(InputError, match="keep one"):
        find_runs(dataset)


def test_a_file_that_was_not_fetched_is_refused(dataset: Path) -> None:
    path = dataset / BOLD
    path.parent.mkdir(parents=True)
    path.symlink_to("../../.git/annex/objects/x")
    with pytest.raises(InputError, match="datalad get"):
        only_clip(dataset)


@pytest.fixture
def several(dataset: Path) -> list[Run]:
    """Names are all that matters for a choice."""
    for name in (
        "sub-01/ses-a/func/sub-01_ses-a_task-rest_run-01_bold.nii.gz",
        "sub-01/ses-b/func/sub-01_ses-b_task-rest_run-02_bold.nii.gz",
        "sub-02/func/sub-02_task-move_acq-fast_bold.nii.gz",
        "sub-02/heart/sub-02_cine.nii.gz",
    ):
        (dataset / name).parent.mkdir(parents=True, exist_ok=True)
        (dataset / name).touch()
    return find_runs(dataset)


CHOICES = [
    (Choice(), [0, 1, 2, 3]),
    (Choice(participants=["02"]), [2, 3]),
    (Choice(participants=["sub-01", "02"]), [0, 1, 2, 3]),
    (Choice(participants=["01"], sessions=["ses-b"]), [1]),
    (Choice(tasks=["rest", "task-move"]), [0, 1, 2]),
    (Choice(filters={"bold": {"run": 1}}), [0, 3]),
    (Choice(filters={"bold": {"run": ["1", 2]}}), [0, 1, 3]),
    (Choice(filters={"bold": {"session": None}}), [2, 3]),
    (Choice(filters={"bold": {"acquisition": "*"}, "cine": {"subject": "02"}}), [2, 3]),
    (Choice(filters={"bold": {"session": ["a", "Query.NONE"]}, "t1w": {"nonsense": 1}}), [0, 2, 3]),
    (Choice(filters={"bold": {"suffix": "sbref"}, "cine": {"datatype": "heart"}}), [3]),
]


@pytest.mark.parametrize(("choice", "expected"), CHOICES)
def test_runs_are_chosen(several: list[Run], choice: Choice, expected: list[int]) -> None:
    assert names(choose(several, choice)) == [names(several)[index] for index in expected]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (Choice(participants=["01", "sub-09"]), "sub-09: no such"),
        (Choice(tasks=["walk"]), "task-walk"),
        (Choice(participants=["02"], sessions=["a"]), "no series of the dataset is left"),
    ],
)
def test_a_choice_of_nothing_is_refused(several: list[Run], choice: Choice, message: str) -> None:
    with pytest.raises(InputError, match=message):
        choose(several, choice)


def test_filter_files(tmp_path: Path) -> None:
    good = {"t1w": {"anything": 1}, "bold": {"session": "01", "run": [1, 2]}}
    assert read_filters(write(tmp_path / "f.json", good)) == good
    for bad, kind in (({"blod": {}}, UsageError), ({"bold": {"sesion": 1}}, UsageError), ({"bold": "x"}, InputError)):
        with pytest.raises(kind):
            read_filters(write(tmp_path / "f.json", bad))


def test_a_clean_dataset_is_read_without_a_word(dataset: Path) -> None:
    put_bold(dataset)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        only_clip(dataset)
