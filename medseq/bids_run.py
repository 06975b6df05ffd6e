"""A BIDS dataset in, a BIDS dataset of derivatives out: one failure costs one run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from medseq import __version__, restore, terminal
from medseq.bids_method import DESCRIPTIONS, Method, Task, derivative_name, map_name, std_name
from medseq.bids_reports import page_of, write_subject_pages
from medseq.bold_task import resample_bold, restore_bold
from medseq.clip import Clip, KSpace
from medseq.errors import InputError, UsageError
from medseq.gathering import Restored
from medseq.io import is_nifti
from medseq.io.bids import Run, find_runs, load_run
from medseq.io.bids_choice import Choice, choose
from medseq.io.bids_names import BidsName, name_of
from medseq.io.bids_sidecar import Sidecar, read_json
from medseq.io.bids_write import check_dataset, describe_dataset, inherited, source_uri, write_series, write_text
from medseq.io.weights import load_prior, weights_path
from medseq.prior import Prior
from medseq.provenance import RunRecord, collected_warnings, sha256, staged, stem
from medseq.reconstruction import reconstruct
from medseq.runtime import choose_device
from medseq.terminal import Progress


@dataclass
class Report:
    """What became of each run, by the name of its derivative: written, as it was already, or why not."""

    done: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    failed: dict[str, Exception] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        codes = [terminal.exit_code(error) for error in self.failed.values()]
        return terminal.exit_code_of_many(codes, some_done=bool(self.done or self.unchanged))


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
    """Restore the chosen runs of a BIDS dataset into `out`, a BIDS dataset of derivatives, and write a page a subject.

    A run whose inputs, options and model are those of the outputs already there is left as it is. One that fails is
    told on stderr and the others go on, unless `stop_on_first_crash`. tell: hears one line for every run restored.
    Raises InputError when the dataset holds nothing to restore, UsageError for an impossible `out`, ResourceError when
    the device is not there.
    """
    runs = plan(dataset, out, choice)
    choose_device(method.device)
    if method.prior is not None:
        weights_path(method.prior)  # a wrong name is told at once, whoever may need it
    prior = None if all(method.is_bold(run) for run in runs) else load_prior(method.prior)
    with collected_warnings(terminal.warn):
        about = describe_dataset(out, dataset, __version__)
    report = Report()
    for run in runs:
        work = _Work(run, out, about, method, prior, method.model(run))
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
    report.failed |= write_subject_pages(dataset, out, [run for run in runs if _needs_page(run, out, method, report)])
    return report


def _needs_page(run: Run, out: Path, method: Method, report: Report) -> bool:
    name = derivative_name(run, method).stem
    return name in report.done or (name in report.unchanged and not page_of(run, out).is_file())


@dataclass(frozen=True)
class _Work:
    """One run to restore, and where its outputs belong. about: the files at the root of `out`, by name. prior: of
    images, once for all runs that need it. model: the weights that this run is restored with."""

    run: Run
    out: Path
    about: Mapping[str, str]
    method: Method
    prior: Prior | None
    model: Path | None

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
        hashes = [sha256(file) for file in (*self.run.files, *([self.model] if self.model else []))]
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
                if self.model is not None:
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

    def _about_method(self, restored: Restored) -> Sidecar:
        model = {} if self.model is None else {"Model": stem(self.model), "ModelSHA256": sha256(self.model)}
        if self.method.is_bold(self.run):
            return {**model, **_about_bold(restored)}
        info = restored.info
        return {**model, "Seed": self.method.seed, "Steps": info["steps"], "Samples": info["samples"]}

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
                **self._about_method(restored),
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
        "Goal": info["goal"],
        "ShareRemoved": info["share"],
        "AmplitudeKept": info["kept"],
        "SmoothnessGrowth": info["growth"],
        "DegreesOfFreedomLost": info["dof_lost"],
        "LimitedBy": info["limit"],
    }


def _restored(run: Run, series: Clip | KSpace, method: Method, prior: Prior | None, progress: Progress) -> Restored:
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
        made = reconstruct(series, steps=method.steps, **common)
        return replace(made, clip=made.clip.with_data(made.clip.data.abs()))
    is_bold = method.is_bold(run)
    if is_bold and method.mode == "interpolate":
        return resample_bold(series, method.factor, samples=method.samples)
    if is_bold:
        return restore_bold(
            series,
            goal=method.goal,
            sigma=method.sigma,
            samples=method.samples,
            prior=method.prior,
            device=method.device,
            precision=method.precision,
            strict=method.strict,
        )
    if method.mode == "interpolate":
        if method.steps is not None:
            common["steps"] = method.steps
        return restore.interpolate(series, method.factor, **common)
    return restore.denoise(series, sigma=method.sigma, steps=method.steps, **common)


def _images(work: _Work, restored: Restored) -> Iterator[tuple[BidsName, Clip, Sidecar, Path]]:
    """The series to write, what is to be said of each, and the file that it was derived from.

    One that was joined from magnitude and phase is written as these two.
    """
    run, clip, told = work.run, restored.clip, DESCRIPTIONS[work.task]
    what = "with a learned prior" if work.model else "in what cannot be a haemodynamic response"
    description = f"{told} {what}" if work.model or work.task == "denoise" else told
    if run.phase is None:
        yield work.output, clip, {"Description": description}, run.file
    else:
        yield work.output, clip.with_data(clip.data.abs()), {"Description": f"{description}: magnitude"}, run.file
        name = name_of(run.phase).described(told).ending(".nii.gz")
        about = {"Description": f"{description}: phase", "Units": "rad"}
        yield name, clip.with_data(clip.data.angle()), about, run.phase
    for suffix, extra in restored.maps.items():
        yield (
            map_name(work.output, suffix),
            extra,
            {"Description": f"{description}: {suffix.replace('_', ' ')}"},
            run.file,
        )
    if restored.std is not None:
        name = std_name(work.output)
        yield name, restored.std, {"Description": f"{description}: std of the magnitude"}, run.file
