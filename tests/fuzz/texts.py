"""Targets of text: training configurations, manifests, ledgers, sidecars and tables of BIDS, times, cards of priors."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from fuzz.chance import YAML_WORDS, changed_bytes, changed_text, changed_tree
from fuzz.target import Target
from medseq.bold_recipe import BoldRecipe
from medseq.clip import Clip
from medseq.config import load_config
from medseq.errors import InputError
from medseq.io.bids import find_runs
from medseq.io.bids_choice import Choice, choose, read_filters
from medseq.io.bids_sidecar import read_json, timed
from medseq.io.events import load_events
from medseq.io.nifti import load_nifti, save_nifti
from medseq.io.weights import read_card
from medseq.jobs import read_censored, read_times
from medseq.recipe import Recipe
from medseq.study.collect import read_run
from medseq.study.ledger import Content, Entry, read_entry
from medseq.study.manifest import (
    MANIFEST,
    Denoise,
    Estimate,
    Input,
    Interpolate,
    Manifest,
    Unit,
    load_manifest,
    save_manifest,
)

_CLIP = Clip(torch.ones(2, 1, 3, 2, 2))


def fuzz_config(data: bytes, folder: Path) -> None:
    load_config(_put(data, folder / "a.yaml"))


def fuzz_manifest(data: bytes, folder: Path) -> None:
    _put(data, folder / MANIFEST)
    load_manifest(folder)


def fuzz_ledger(data: bytes, folder: Path) -> None:
    """An entry, and the record of a run, which `collect` gathers; both are nothing where they make no sense."""
    path = _put(data, folder / "a.json")
    read_entry(path)
    read_run(path)


def fuzz_sidecar(data: bytes, folder: Path) -> None:
    """As what a dataset says of a series, beside a NIfTI file without a frame interval, and as a filter file."""
    path = _put(data, folder / "a.json")
    series = folder / "a.nii"
    if not series.exists():
        save_nifti(_CLIP, series)
        content = bytearray(series.read_bytes())
        content[92:96] = bytes(4)  # pixdim[4]
        series.write_bytes(content)
    load_nifti(series)
    timed(_CLIP, read_json(path), series)


def fuzz_filters(data: bytes, folder: Path) -> None:
    """A filter file, put to use on a dataset."""
    if not (folder / "dataset_description.json").exists():
        (folder / "dataset_description.json").write_text('{"Name": "a", "BIDSVersion": "1.10.0"}')
        for name in ("sub-01/func/sub-01_task-rest_run-01_bold.nii.gz", "sub-01/heart/sub-01_cine.nii.gz"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
    choose(find_runs(folder), Choice(filters=read_filters(_put(data, folder / "filters.json"))))


def fuzz_ignore(data: bytes, folder: Path) -> None:
    """The `.bidsignore` of a dataset."""
    _put(data, folder / ".bidsignore")
    (folder / "dataset_description.json").write_text('{"Name": "a", "BIDSVersion": "1.10.0"}')
    find_runs(folder)


def fuzz_events(data: bytes, folder: Path) -> None:
    load_events(_put(data, folder / "a_events.tsv"))


def fuzz_times(data: bytes, folder: Path) -> None:
    """The files of `--times` and `--censor`."""
    path = _put(data, folder / "times.txt")
    try:
        read_times(path)
    except InputError:
        read_censored(path)


def fuzz_card(data: bytes, folder: Path) -> None:
    """The card of a prior."""
    _put(data, folder / "a.json")
    read_card(folder / "a.safetensors")


def _put(data: bytes, path: Path) -> Path:
    path.write_bytes(data)
    return path


def _configs(folder: Path) -> Sequence[bytes]:
    image, bold = ({name: getattr(kind(), name) for name in kind.__dataclass_fields__} for kind in (Recipe, BoldRecipe))
    plain = yaml.safe_dump({"recipe": json.loads(json.dumps(image)), "stills": "pictures"})
    return [plain.encode(), yaml.safe_dump({"bold": json.loads(json.dumps(bold))}).encode(), b"recipe: {steps: 3}\n"]


def _manifests(folder: Path) -> Sequence[bytes]:
    units = (
        Unit(
            name="a",
            input=Input(path="a.nii", also=("b.nii",), series=3, bytes=9),
            task=Denoise(sigma=0.5),
            output="results/a",
        ),
        Unit(
            name="b",
            input=Input(path="c", sha256="0" * 64),
            task=Interpolate(factor=3),
            output="results/b",
            format="dicom",
        ),
    )
    save_manifest(Manifest(source="/data", units=units, refused=("x: broken",)), folder)
    save_manifest(
        Manifest(source="/data", units=(units[0].model_copy(update={"estimate": Estimate(seconds=3)}),)), folder / ".."
    )
    return [(folder / MANIFEST).read_bytes(), (folder / ".." / MANIFEST).read_bytes()]


def _entries(folder: Path) -> Sequence[bytes]:
    content = Content(looks="0" * 64, sha256="1" * 64)
    entry = Entry(
        unit="a", state="failed", key="k", run="r", content=content, limits=(9, 9), exit_code=4, outputs={"x": 1}
    )
    return [entry.model_dump_json().encode(), b'{"result": {"nrmse": 0.1, "more": {"x": 1}}, "seconds": {"all": 3.5}}']


def _written(*contents: Any) -> Callable[[Path], Sequence[bytes]]:
    return lambda folder: [json.dumps(content).encode() for content in contents]


_SIDECARS = _written(
    {"RepetitionTime": 1.5, "SliceTiming": [0.0, 0.5], "SliceEncodingDirection": "k-", "TaskName": "rest"},
    {"VolumeTiming": [0.0, 1.0, 2.5], "CardiacPeriod": 4.0, "Units": "rad"},
)
_FILTERS = _written(
    {"bold": {"session": None, "run": [1, "02"], "task": "rest"}, "t1w": {}}, {"cine": {"subject": "*"}}
)
_CARDS = _written(
    {
        **{"sha256": "0" * 64, "width": [8, 16], "blocks": 1, "guides": 3, "channels": 2, "sigma_data": 0.3},
        **{"spread": {"sigma": [0.1, 1.0], "rmse": [0.05, 0.2]}, "about": {"what": "a prior"}},
    }
)
_EVENTS = [b"onset\tduration\ttrial_type\n0.0\t1.5\tleft\n3.0\t0\tright\n4\t1\tn/a\n", b"duration\tonset\n1\t2\n"]


def _tree_or_text(load: Callable[[str], Any], dump: Callable[[Any], str]) -> Callable[[bytes, random.Random], bytes]:
    def mutate(data: bytes, chance: random.Random) -> bytes:
        kind = chance.random()
        if kind < 0.1:
            return changed_bytes(data, chance)
        try:
            if kind > 0.5:
                return dump(changed_tree(load(data.decode("utf-8")), chance)).encode("utf-8", "surrogatepass")
        except Exception:  # noqa: BLE001, S110 - no tree any more, or one that cannot be written
            pass
        return changed_text(data.decode("utf-8", "replace"), chance, YAML_WORDS).encode("utf-8", "surrogatepass")

    return mutate


def _lines(data: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.2:
        return changed_bytes(data, chance)
    text = changed_text(
        data.decode("utf-8", "replace"), chance, ("\t", "\r", "\n\n", '"', "\ufeff", "!", "**/heart", "[", "\\")
    )
    return text.encode("utf-8", "surrogatepass")


_json, _yaml = _tree_or_text(json.loads, json.dumps), _tree_or_text(yaml.safe_load, yaml.safe_dump)

TARGETS = (
    Target("config", 5_000, _configs, fuzz_config, _yaml),
    Target("manifest", 5_000, _manifests, fuzz_manifest, _yaml),
    Target("ledger", 120_000, _entries, fuzz_ledger, _json),
    Target("sidecar", 20_000, _SIDECARS, fuzz_sidecar, _json),
    Target("filters", 20_000, _FILTERS, fuzz_filters, _json),
    Target("ignore", 110_000, lambda folder: [b"**/heart\n*.tmp\n!a\n/sub-*/[x-z]\n"], fuzz_ignore, _lines),
    Target("events", 130_000, lambda folder: _EVENTS, fuzz_events, _lines),
    Target("times", 120_000, lambda folder: [b"0.0 0.1, 0.2\n0.3", b"0\n1\n0\n"], fuzz_times, _lines),
    Target("card", 110_000, _CARDS, fuzz_card, _json),
)
