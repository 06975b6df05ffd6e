"""Text files that commands read beside series: times, bad volumes, secrets, recipes, manifests, filters, outboxes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from bad_case import Case, Make, content, others
from test_study_plan import LAUGHS, written

from medseq.study.manifest import MANIFEST

_PRIOR = "--prior {shelf}/tiny.safetensors"
TIMES = (f"interpolate {{shelf}}/cine.nii.gz --times {{bad}} -o out/out.nii.gz {_PRIOR}",)
CENSORED = ("denoise {shelf}/rest.nii.gz --kind bold --censored {bad} -o out/out.nii.gz",)
SECRET = (
    f"denoise {{shelf}}/study --deidentify --deidentify-key {{bad}} -o out/new {_PRIOR}",
    "convert {shelf}/like.nii.gz --like {shelf}/study --deidentify --deidentify-key {bad} -o out/new",
)
RECIPE = ("train {bad} -o out/run --device cpu",)
STUDY = ("study run {bad}", "study status {bad}", "study collect {bad}")
FILTER = ("medseq-bids {shelf}/dataset out participant --skip-bids-validation --bids-filter-file {bad}",)
OUTBOX = ("archive send --outbox {bad}",)


def _times() -> Iterator[tuple[str, bytes | str, int]]:
    for text in ("soon", "0.0 0.1 later", "0,1;0,2", "0x10 0x20", "0.0 0.1 0.2s", "[0, 1]", "1e", "--", "٣ ٤ x"):
        yield f"words ({text})", text, 4
    for text in ("", " \n\n", "nan", "0 nan 0.1", "0 inf", "-inf 0", "0.1 0.0", "0.1 0.1", "1e999"):
        yield f"times {text!r}", text, 4
    for text in ("-5", "0 100", "1e300"):  # nothing wrong with them, but with asking them of this series
        yield f"times {text!r}", text, 2
    yield "bytes", b"\xff\xfe\0\x81 0.1", 4
    yield "a byte of zero", b"0.0\0 0.1", 4
    yield "a byte-order mark of UTF-16", "0.0 0.1".encode("utf-16"), 4
    yield "a number of 100000 digits", "9" * 100_000, 4
    yield "200000 numbers", "0.01 " * 200_000, 4


def _censored() -> Iterator[tuple[str, bytes | str, int]]:
    for text in ("", "good bad", "0 1 2 0 0 0", "0.5 0 0 0 0 0", "nan 0 0 0 0 0", "-1 0 0 0 0 0"):
        yield f"marks {text!r}", text, 4
    yield "every volume bad", "1 " * 10, 4
    yield "too few marks", "0 1 0", 2
    yield "too many marks", "0 " * 40, 2


def _recipes() -> Iterator[tuple[str, bytes | str]]:
    yield from (
        ("a recipe of another name", "receipt: {steps: 3}"),
        ("an unknown option", "recipe: {step: 3}"),
        ("words for numbers", "recipe: {steps: many}"),
        ("a list for an object", "recipe: [steps, 3]"),
        ("a list", "- recipe\n- steps"),
        ("a text", "just text"),
        ("a number", "42"),
        ("no steps", "recipe: {steps: 0}"),
        ("steps before the first", "recipe: {steps: -3}"),
        ("part of a step", "recipe: {steps: 2.5}"),
        ("a share above 1", "recipe: {mixed_share: 1.5}"),
        ("shares above 1 together", "recipe: {aliased_share: 0.6, skipped_share: 0.6}"),
        ("noise that falls", "recipe: {sigma_range: [2.0, 1.0]}"),
        ("no noise", "recipe: {sigma_range: [0.0, 1.0]}"),
        ("noise of one number", "recipe: {sigma_range: [1.0]}"),
        ("a network of no width", "recipe: {width: []}"),
        ("a network of negative width", "recipe: {width: [-8]}"),
        ("a window that does not halve", "recipe: {window: 33}"),
        ("no frames", "recipe: {frames: []}"),
        ("a learning rate of NaN", "recipe: {learning_rate: .nan}"),
        ("an infinite learning rate", "recipe: {learning_rate: .inf}"),
        ("an average of NaN", "recipe: {ema: .nan}"),
        ("a std of NaN", "recipe: {sigma_data: .nan}"),
        ("a prior that is nowhere", "recipe: {start_from: nowhere}"),
        ("a prior of another kind", "recipe: {start_from: bold-1}"),
        ("stills that are nowhere", "stills: nowhere\nrecipe: {steps: 1}"),
        ("stills in a place without any", "stills: .\nrecipe: {steps: 1}"),
        ("stills by number", "stills: 3"),
        ("code", "recipe: !!python/object/apply:os.system ['touch owned']"),
        ("an object of Python", "!!python/object/new:subprocess.Popen [[touch, owned]]"),
        ("a tag that is none", "recipe: !steps 3"),
        ("laughs", LAUGHS),
        ("a loop", "recipe: &a [*a]"),
        ("an alias of nothing", "recipe: *steps"),
        ("two documents", "recipe: {steps: 3}\n---\nrecipe: {steps: 3}"),
        ("an open bracket", "recipe: {steps: [3"),
        ("5000 open brackets", "[" * 5_000),
        ("tabs", "recipe:\n\tsteps: 3"),
        ("a BOLD recipe of no volumes", "bold: {frames: []}"),
        ("a BOLD recipe of unknown options", "bold: {mixed_share: 0.5}"),
        ("a key of an object", "? {a: b}\n: 3"),
        ("a date for steps", "recipe: {steps: 2026-11-27}"),
        ("a seed of text", "recipe: {seed: '1; rm -rf /'}"),
    )
    yield "bytes", b"recipe: \xff\xfe"
    yield "control characters", "recipe: \x07\x1b[31m"


MANIFESTS: dict[str, dict[str, Any]] = {
    "an output above the study": {"output": "../../etc/cron.d/x"},
    "an absolute output": {"output": "/etc/x"},
    "an output with a step back": {"output": "results/.."},
    "a hidden output": {"output": "results/.hidden"},
    "an output of two lines": {"output": "results/a\nb"},
    "an output in the ledger": {"output": "ledger/a"},
    "an output in another": {"output": "results/b/in"},
    "an output that differs by case": {"output": "Results/B"},
    "a name that is a path": {"name": "../x"},
    "a name with a terminal escape": {"name": "a\x1b[2J"},
    "two units of one name": {"name": "b"},
    "no name": {"name": ""},
    "a name of 300 letters": {"name": "a" * 300},
    "an input above the source": {"input": {"path": "../secret.nii.gz"}},
    "an absolute input": {"input": {"path": "/etc/passwd"}},
    "an input beside it from above": {"input": {"path": "a.nii.gz", "also": ["../../x"]}},
    "an input with a byte of zero": {"input": {"path": "a\x00b"}},
    "a hash that is none": {"input": {"path": "a.nii.gz", "sha256": "abc"}},
    "a size below zero": {"input": {"path": "a.nii.gz", "bytes": -1}},
    "an unknown command": {"task": {"command": "train"}},
    "a command of the shell": {"task": {"command": "rm -rf /"}},
    "no command": {"task": {"seed": 3}},
    "a prior that is an option": {"task": {"command": "denoise", "prior": "--output=/etc/x"}},
    "an output among the options": {"task": {"command": "denoise", "output": "/etc/x"}},
    "a noise of NaN": {"task": {"command": "denoise", "sigma": float("nan")}},
    "a seed of text": {"task": {"command": "denoise", "seed": "1; rm -rf /"}},
    "no steps": {"task": {"command": "denoise", "steps": 0}},
    "a factor of 1": {"task": {"command": "interpolate", "factor": 1}},
    "an unknown key": {"run": "rm -rf /"},
    "memory below zero": {"estimate": {"memory_mb": -1}},
    "an unknown format": {"format": "gif"},
}


def manifest(**changes: Any) -> Make:
    def made(folder: Path) -> None:
        folder.mkdir()
        text = written(folder, **changes)
        (folder / MANIFEST).write_text(text)

    return made


def study(text: bytes | str) -> Make:
    """A study whose manifest is this."""

    def made(folder: Path) -> None:
        folder.mkdir()
        content(text)(folder / MANIFEST)

    return made


def _studies() -> Iterator[tuple[str, Make]]:
    for fault, changes in MANIFESTS.items():
        yield fault, manifest(**changes)
    for fault, text in (
        ("code in a manifest", "source: !!python/object/apply:os.system ['touch owned']\nunits: []"),
        ("laughs in a manifest", LAUGHS),
        ("5000 open brackets in a manifest", "[" * 5_000),
        ("no units", "source: /data\nunits: []"),
        ("units by number", "source: /data\nunits: 3"),
        ("half a manifest", "units: 3\nsource: ["),
        ("text for a manifest", "just text"),
        ("nothing for a manifest", ""),
        ("a manifest of the future", yaml.safe_dump({"version": 2, "source": "/data", "units": []})),
        ("bytes for a manifest", b"\xff\xfe\0"),
    ):
        yield fault, study(text)
    yield "a folder without a manifest", Path.mkdir
    yield "a manifest that is a folder", lambda folder: (folder / MANIFEST).mkdir(parents=True)


def _filters() -> Iterator[tuple[str, str | bytes, int]]:
    yield "a list of filters", "[1, 2]", 4
    yield "half of a filter", '{"bold": ', 4
    yield "filters of NaN", '{"bold": {"run": NaN}}', 4
    yield "a filter that is a text", '{"bold": "rest"}', 4
    yield "filters 100000 deep", '{"bold": ' + "[" * 100_000, 4
    yield "filters of bytes", b"\xff\xfe\0", 4
    yield "an unknown query", '{"anatomy": {}}', 2
    yield "an unknown entity", '{"bold": {"planet": "mars"}}', 2


def _outboxes() -> Iterator[tuple[str, Make]]:
    def entry(address: str | bytes, images: bool = False) -> Make:
        def made(folder: Path) -> None:
            (folder / "entry").mkdir(parents=True)
            (folder / ".lock").touch()  # stays, as locks do
            content(address)(folder / "entry" / "to.json")
            if images:
                (folder / "entry" / "a.dcm").write_bytes(b"not DICOM")

        return made

    yield "an address that is no JSON", entry("{")
    yield "an address of bytes", entry(b"\xff\xfe\0")
    yield "an address that is a list", entry("[1, 2]")
    yield "an address without its parts", entry("{}")
    yield "an address by number", entry('{"address": 3, "calling": "MEDSEQ"}')
    yield "an address 100000 deep", entry("[" * 100_000)
    yield "an image that is none", entry(json.dumps({"address": "https://127.0.0.1:9/x", "calling": "M"}), images=True)


def cases() -> Iterator[Case]:
    for fault, text, code in _times():
        yield Case("times", fault, "bad.txt", content(text), "", TIMES, code)
    for fault, text, code in _censored():
        yield Case("bad volumes", fault, "bad.txt", content(text), "", CENSORED, code)
    for fault, text in (("a short one", b"123"), ("an empty one", b"")):
        yield Case("secrets", fault, "bad.key", content(text), "is no secret", SECRET)
    for fault, text in _recipes():
        yield Case("recipes", fault, "bad.yaml", content(text), "", RECIPE)
    for fault, make in _studies():
        yield Case("manifests", fault, "night", make, MANIFEST, STUDY)
    for fault, text, code in _filters():
        yield Case("filters", fault, "bad.json", content(text), "", FILTER, code)
    for fault, make in _outboxes():
        yield Case("outboxes", fault, "outbox", make, "", OUTBOX)
    yield from others("times", "bad.txt", TIMES, "", but=("one byte",))
    # Two of them are YAML, and one is an empty recipe, which stands for the defaults.
    yield from others("recipes", "bad.yaml", RECIPE, "", but=("nothing",))
