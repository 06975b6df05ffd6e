"""The manifest of a study, `study.yaml`: every unit with its input, task, output and estimates.

It is data that anybody may have written: safe-loaded, without aliases (of which a few lines can stand for gigabytes),
checked against a schema that knows no other keys, and every path in it stays inside the source or the study.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from medseq.io.files import atomic_write
from medseq.io.yaml_files import checked, read_yaml

MANIFEST = "study.yaml"
FETCHED = "fetched"  # what came from an archive, below the study
# Of the results; "bids": a dataset of derivatives of one run.
Format = Literal["nifti", "dicom", "bids"]
# What file systems, shells and web pages all take as it is; no leading dot, so that it hides from nobody.
_WORD = r"[A-Za-z0-9][A-Za-z0-9._+=-]{0,119}"


def safe_name(text: str) -> str:
    """`text` as a name that can be a file's: anything else than ASCII letters, digits and `._+=-` becomes `_`."""
    return re.sub(r"[^A-Za-z0-9._+=-]+", "_", text).lstrip("._+=-")[:100].rstrip("_") or "unit"


def _inside(path: str) -> str:
    """A relative path that leads nowhere else: no root, no `..`, no control characters."""
    parts = PurePosixPath(path).parts
    if path == ".":  # the source itself is a series
        return path
    if not parts or path.startswith("/") or ".." in parts or not path.isprintable():
        raise ValueError("must be a relative path without '..'")
    return path


def _output(path: str) -> str:
    if not all(re.fullmatch(_WORD, part) for part in path.split("/")):
        raise ValueError("must be a relative path of letters, digits and ._+=- without hidden names or '..'")
    return path


def _uid(text: str) -> str:
    from medseq.archive.peer import is_uid

    if not is_uid(text):
        raise ValueError("must be a UID: digits and dots")
    return text


def _prior(text: str) -> str:
    """A name, or a file by its whole path: units run in folders of their own."""
    if not (re.fullmatch(_WORD, text) or (text.startswith("/") and text.isprintable())):
        raise ValueError("must be the name of a prior, or the whole path of its file")
    if text.endswith(".safetensors") and not text.startswith("/"):
        raise ValueError("must be the whole path of a file, from / on")
    return text


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class _Task(_Strict):
    """Options of the command line by their names there, `-` being `_`; what is left out is the command's default."""

    kind: Literal["auto", "cine", "bold"] = "auto"
    steps: Annotated[int, Field(ge=1)] | None = None
    samples: Annotated[int, Field(ge=1)] = 1
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    prior: Annotated[str, AfterValidator(_prior)] | None = None
    report: bool = False

    def arguments(self) -> list[str]:
        """For the command line, without the command itself; each is one word, so that no value becomes an option."""
        given = self.model_dump(exclude_defaults=True, exclude={"command"})
        flags = {name.replace("_", "-"): value for name, value in given.items()}
        return [f"--{name}" if value is True else f"--{name}={value}" for name, value in flags.items()]


class _ImageTask(_Task):
    deidentify: bool = False
    allow_missing_frames: bool = False
    precise: bool = False
    multiframe: bool = False


class Denoise(_ImageTask):
    command: Literal["denoise"] = "denoise"
    goal: Literal["activation", "fluctuations"] = "activation"
    sigma: Annotated[float, Field(gt=0)] | None = None


class Interpolate(_ImageTask):
    command: Literal["interpolate"] = "interpolate"
    factor: Annotated[int, Field(ge=2)] = 2


class Reconstruct(_Task):
    command: Literal["reconstruct"] = "reconstruct"
    denoise: bool = False


Task = Annotated[Denoise | Interpolate | Reconstruct, Field(discriminator="command")]


class Archived(_Strict):
    """A series that an archive has, by its UIDs: who may ask the archive learns from them whose it is."""

    study: Annotated[str, AfterValidator(_uid)]
    series: Annotated[str, AfterValidator(_uid)]

    @property
    def folder(self) -> str:
        """Where it is fetched to: no other series ever lies there."""
        return hashlib.sha256(f"{self.study}/{self.series}".encode()).hexdigest()[:32]


class Input(_Strict):
    """What a unit reads. path: a file, or a folder of DICOM, below the source. also: files that go with it.

    series: the number of a DICOM series. bytes: in all, when it was planned. sha256: what the content must be, by
    `ledger.content_of`; None takes it as it is found. archived: what is fetched into `path` when the unit runs.
    """

    path: Annotated[str, AfterValidator(_inside)]
    also: tuple[Annotated[str, AfterValidator(_inside)], ...] = Field(default=(), strict=False)
    series: int | None = None
    bytes: Annotated[int, Field(ge=0)] = 0
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    archived: Archived | None = None

    @model_validator(mode="after")
    def _apart(self) -> Input:
        if self.archived is not None and (self.path != self.archived.folder or self.also):
            raise ValueError(f"the path of this series must be {self.archived.folder}, and nothing goes with it")
        return self

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.path, *self.also)


class Estimate(_Strict):
    """What a unit is expected to take on one core; rough, and meant to choose how many run side by side."""

    memory_mb: Annotated[int, Field(ge=0)] = 0
    disk_mb: Annotated[int, Field(ge=0)] = 0
    seconds: Annotated[int, Field(ge=0)] = 0


class Unit(_Strict):
    """One series to restore. output: the folder of its results, relative to the study."""

    name: Annotated[str, Field(pattern=f"^{_WORD}$")]
    input: Input
    task: Task
    output: Annotated[str, AfterValidator(_output)]
    format: Format = "nifti"
    estimate: Estimate = Estimate()


class Manifest(_Strict):
    """What is to be done. source: the folder that inputs are relative to. refused: what was found and is no unit."""

    version: Literal[1] = 1
    source: str
    units: tuple[Unit, ...] = Field(min_length=1, strict=False)
    refused: tuple[str, ...] = Field(default=(), strict=False)

    @model_validator(mode="after")
    def _apart(self) -> Manifest:
        """Names and outputs differ, even to file systems that ignore case, and no output lies in another."""
        for what, texts in (
            ("name", [unit.name.lower() for unit in self.units]),
            ("output", [unit.output.lower() for unit in self.units]),
        ):
            text, count = Counter(texts).most_common(1)[0]
            if count > 1:
                raise ValueError(f"{count} units have the {what} {text}; give each its own")
        outputs = {unit.output.lower() for unit in self.units}
        for unit in self.units:
            parents = {parent.as_posix() for parent in PurePosixPath(unit.output.lower()).parents}
            if parents & outputs or unit.output.lower().split("/")[0] in {"ledger", MANIFEST, "collected", FETCHED}:
                raise ValueError(f"the output {unit.output} lies in another one, or in the study's own files")
            if unit.input.archived is not None and self.source != FETCHED:
                raise ValueError(f"series of archives are fetched into the source {FETCHED}; set it")
        return self


def load_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of a study. Raises InputError naming the file and the first thing wrong with it."""
    path = folder / MANIFEST
    content = read_yaml(path, "correct it, or make it with medseq study plan")
    return checked(Manifest, content, path, "correct it or plan anew")


def save_manifest(manifest: Manifest, folder: Path) -> None:
    """Write the manifest of a study, atomically; what is as by default is left out."""
    content: dict[str, Any] = {"version": manifest.version, **manifest.model_dump(mode="json", exclude_defaults=True)}
    for unit, plain in zip(manifest.units, content["units"], strict=True):
        plain["task"] = {"command": unit.task.command, **plain["task"]}
    with atomic_write(folder / MANIFEST) as temporary:
        temporary.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120), "utf-8")
