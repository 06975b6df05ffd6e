"""A BIDS dataset in, a BIDS dataset of derivatives out: one failure costs one run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medseq import __version__, restore, terminal
from medseq.bold_task import resample_bold, restore_bold
from medseq.clip import Clip, KSpace
from medseq.errors import InputError, UsageError
from medseq.gathering import Restored
from medseq.io import is_nifti, is_raw
from medseq.io.bids import Run, find_runs, load_run
from medseq.io.bids_choice import Choice, choose
from medseq.io.bids_names import BidsName, name_of
from medseq.io.bids_sidecar import Sidecar, read_json
from medseq.io.bids_write import check_dataset, describe_dataset, inherited, source_uri, write_series, write_text
from medseq.io.weights import load_prior, weights_path
from medseq.prior import Prior
from medseq.provenance import RunRecord, collected_warnings, sha256, staged, stem
from medseq.runtime import choose_device
from medseq.terminal import Progress

Task = Literal["denoise", "interpolate", "reconstruct"]
_DESCRIPTIONS = {"denoise": "denoised", "interpolate": "interpolated", "reconstruct": "recon"}
SOME_FAILED = 3


@dataclass(frozen=True)
class Method:
    """How runs are restored. mode: of images; raw data are always reconstructed. kind: how they are denoised, "auto" is
    by the BIDS suffix. The rest: see `medseq.restore` and `medseq.bold_task`."""

    mode: Literal["denoise", "interpolate"] = "denoise"
    kind: Literal["auto", "cine", "bold"] = "auto"
    factor: int = 2
    sigma: float | None = None
    steps: int | None = None
    samples: int = 1
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    prior: str | None = None
    strict: bool = False

    def is_bold(self, run: Run) -> bool:
        """Whether a run is done by the methods for BOLD, which ask no prior."""
        return not is_raw(run.file) and (run.name.suffix if self.kind == "auto" else self.kind) == "bold"

    def task(self, run: Run) -> Task:
        return "reconstruct" if is_raw(run.file) else self.mode


@dataclass
class Report:
    """What became of each run, by the name of its derivative: written, as it was already, or why not."""

    done: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    failed: dict[str, Exception] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 when nothing failed, 3 when something did; the code of the first failure when everything did."""
        if not self.failed:
            return 0
        if self.done or self.unchanged:
            return SOME_FAILED
        return terminal.exit_code(next(iter(self.failed.values())))


def plan(dataset: Path, out: Path, choice: Choice = Choice()) -> list[Run]:  # noqa: B008 (frozen)
    """The runs to restore. Raises InputError when there are none, UsageError when `out` cannot hold the results."""
    runs = find_runs(dataset)
    if not runs:
        raise InputError(f"{dataset}: holds no func/*_bold, heart/*_cine (NIfTI) or heart/*_kspace.h5; add some")
    source, target = dataset.resolve(), out.resolve()
    if source == target or (target.is_relative_to(source) and target.relative_to(source).parts[0] != "derivatives"):
        raise UsageError(f"{out}: lies in the dataset itself; choose a folder in its derivatives/, or outside of it")
    check_dataset(out)
    return choose(runs, choice)


def restore_dataset(
    dataset: Path,
    out: Path,
    *,
    choice: Choice = Choice(),  # noqa: B008 (frozen)
    method: Method = Method(),  # noqa: B008 (frozen)
    stop_on_first_crash: bool = False,
    tell: Callable[[str], None] = print,
) -> Report:
    """Restore the chosen runs of a BIDS dataset into `out`, a BIDS dataset of derivatives.

    A run whose inputs, options and model are those of the outputs already there is left as it is. One that fails is
    told on stderr and the others go on, unless `stop_on_first_crash`. tell: hears one line for every run restored.
    Raises InputError when the dataset holds nothing to restore, UsageError for an impossible `out`, ResourceError when
    the device is not there.
    """
    runs = plan(dataset, out, choice)
    choose_device(method.device)
    prior, model = load_prior(method.prior), weights_path(method.prior)
    with collected_warnings(terminal.warn):
        about = describe_dataset(out, dataset, __version__)
    report = Report()
    for run in runs:
        work = _Work(run, out, about, method, prior, model)
        try:
            run.check_fetched()
            if work.is_done():
                report.unchanged.append(work.output.stem)
                continue
            tell(work.perform())
            report.done.append(work.output.stem)
        except Exception as error:
            if stop_on_first_crash:
                raise
            terminal.say(f"{run.name}: {terminal.explained(error)}")
            report.failed[work.output.stem] = error
    return report


@dataclass(frozen=True)
class _Work:
    """One run to restore, and where its outputs belong. about: the files at the root of `out`, by name."""

    run: Run
    out: Path
    about: Mapping[str, str]
    method: Method
    prior: Prior
    model: Path

    @property
    def task(self) -> Task:
        return self.method.task(self.run)

    @property
    def output(self) -> BidsName:
        return derivative_name(self.run, self.method)

    @property
    def log(self) -> Path:
        return self.out / "logs" / f"{self.output.stem}.run.json"

    def is_done(self) -> bool:
        """Whether outputs of the same inputs, options and model are there already."""
        before = self._before()
        return before.get("fingerprint") == self._fingerprint() and all(
            (self.out / self.run.folder / name).is_file() for name in before["outputs"]
        )

    def _before(self) -> Mapping[str, Any]:
        """`fingerprint` and `outputs` of an earlier run; nothing when there was none, or its log is broken."""
        try:
            result = read_json(self.log)["result"]
            return {"fingerprint": str(result["fingerprint"]), "outputs": [str(name) for name in result["outputs"]]}
        except (InputError, KeyError, TypeError):
            return {}

    def _fingerprint(self) -> str:
        """Of all that the result depends on; how fast it comes about (device) is left out."""
        options = {key: value for key, value in asdict(self.method).items() if key not in ("device", "prior")}
        hashes = [sha256(file) for file in (*self.run.files, self.model)]
        content = [__version__, options, hashes, self.run.sidecar(), self.run.phase_sidecar()]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def perform(self) -> str:
        """Restore, write series, sidecars and log, and return what to tell the user; all of it or nothing."""
        options = asdict(self.method)
        record = RunRecord(self.task, {**options, "prior": self.method.prior and Path(self.method.prior).name})
        before = self._before()
        place = self.out / self.run.folder
        with (
            collected_warnings(terminal.warn) as record.warnings,
            staged(self.out) as root,
            staged(self.log.parent) as logs,
        ):
            for title, text in self.about.items():
                write_text(root / title, text)
            with record.timed("read"):
                for file in self.run.files:
                    record.add_input(file)
                if not self.method.is_bold(self.run):
                    record.add_model(self.model)
                fingerprint = self._fingerprint()
                series, sidecar = load_run(self.run)
            with record.timed("restore"), terminal.progress(self.run.name.stem) as progress:
                restored = _restored(self.run, series, self.method, self.prior, progress)
            with staged(place) as folder, record.timed("write"):
                self._write(folder, restored, sidecar)
                outputs = sorted(path.name for path in folder.iterdir())
            # Last: what it says of the outputs is true once it is there.
            record.result = {**restored.info, "fingerprint": fingerprint, "outputs": outputs}
            record.save(logs / self.log.name)
        for name in set(before.get("outputs", ())) - set(outputs):  # a std that was not asked for again
            (place / Path(name).name).unlink(missing_ok=True)
        slices, _, frames, height, width = restored.clip.data.shape
        where = place / str(self.output)
        return f"{where}: {frames} frames of {width} x {height}, {slices} slices; {record.elapsed:.1f} s"

    def _write(self, folder: Path, restored: Restored, sidecar: Sidecar) -> None:
        about = self._about(restored, sidecar)
        for name, clip, extra, source in _images(self, restored):
            write_series(folder, name, clip, {**about, **extra}, source if is_nifti(source) else None)

    def _about_prior(self, restored: Restored) -> Sidecar:
        return {
            "Model": stem(self.model),
            "ModelSHA256": sha256(self.model),
            "Seed": self.method.seed,
            "Steps": restored.info["steps"],
            "Samples": restored.info["samples"],
        }

    def _about(self, restored: Restored, sidecar: Sidecar) -> Sidecar:
        """What every sidecar of this run says."""
        task = self.task
        about: Sidecar = {
            **inherited(sidecar, same_frames=task != "interpolate"),
            "Sources": [source_uri(file.relative_to(self.run.dataset)) for file in self.run.files],
            "Medseq": {
                "Version": __version__,
                "Task": task,
                "NoiseStd": np.asarray(restored.info["noise"]).tolist(),
                **(_about_bold(restored) if self.method.is_bold(self.run) else self._about_prior(restored)),
            },
        }
        if task == "interpolate":
            about["Medseq"]["Factor"] = self.method.factor
        if self.run.name.suffix == "bold":
            about["SkullStripped"] = False  # required of derived images: nothing was cut away
        return about


def _about_bold(restored: Restored) -> Sidecar:
    """Of denoising: how much was removed, and what of it is known (`medseq.bold.Report`)."""
    info = restored.info
    if "share" not in info:
        return {"Method": "bold"}
    return {
        "Method": "bold",
        "ShareRemoved": info["share"],
        "AmplitudeKept": info["kept"],
        "SmoothnessGrowth": info["growth"],
        "DegreesOfFreedomLost": info["dof_lost"],
        "LimitedBy": info["limit"],
    }


def derivative_name(run: Run, method: Method) -> BidsName:
    """`sub-01_task-rest_bold.nii.gz` -> `sub-01_task-rest_desc-denoised_bold.nii.gz`; what was raw data is a cine."""
    task = method.task(run)
    name = replace(run.name, suffix="cine") if task == "reconstruct" else run.name
    return name.described(_DESCRIPTIONS[task]).ending(".nii.gz")


def _restored(run: Run, series: Clip | KSpace, method: Method, prior: Prior, progress: Progress) -> Restored:
    common: dict[str, Any] = {
        "prior": prior,
        "samples": method.samples,
        "seed": method.seed,
        "device": method.device,
        "precision": method.precision,
        "progress": progress,
        "strict": method.strict,
    }
    if isinstance(series, KSpace):
        made = restore.reconstruct(series, steps=method.steps, **common)
        return replace(made, clip=made.clip.with_data(made.clip.data.abs()))
    is_bold = method.is_bold(run)
    if is_bold and method.mode == "interpolate":
        return resample_bold(series, method.factor, samples=method.samples)
    if is_bold:
        return restore_bold(series, sigma=method.sigma, samples=method.samples)
    if method.mode == "interpolate":
        if method.steps is not None:
            common["steps"] = method.steps
        return restore.interpolate(series, method.factor, **common)
    return restore.denoise(series, sigma=method.sigma, steps=method.steps, **common)


def _images(work: _Work, restored: Restored) -> Iterator[tuple[BidsName, Clip, Sidecar, Path]]:
    """The series to write, what is to be said of each, and the file that it was derived from.

    One that was joined from magnitude and phase is written as these two.
    """
    run, clip, told = work.run, restored.clip, _DESCRIPTIONS[work.task]
    # Only what `denoise_bold` makes has maps, and it asks no prior.
    description = (
        f"{told} in what cannot be a haemodynamic response" if restored.maps else f"{told} with a learned prior"
    )
    if run.phase is None:
        yield work.output, clip, {"Description": description}, run.file
    else:
        yield work.output, clip.with_data(clip.data.abs()), {"Description": f"{description}: magnitude"}, run.file
        name = name_of(run.phase).described(told).ending(".nii.gz")
        about = {"Description": f"{description}: phase", "Units": "rad"}
        yield name, clip.with_data(clip.data.angle()), about, run.phase
    for suffix, extra in restored.maps.items():
        name = replace(work.output, suffix=suffix.replace("_", ""))
        yield name, extra, {"Description": f"{description}: {suffix.replace('_', ' ')}"}, run.file
    if restored.std is not None:
        name = replace(work.output, entities={**work.output.entities, "desc": f"{work.output.entities['desc']}std"})
        yield name, restored.std, {"Description": f"{description}: std of the magnitude"}, run.file
