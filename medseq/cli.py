"""The command line: one function a command, each a thin layer over the library.

Libraries are imported inside the commands, so that `--help` and a mistyped option answer at once.
"""

from __future__ import annotations

import errno
import json as json_format
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, TypeVar

from cyclopts import App, CycloptsError, Parameter
from cyclopts.validators import Number

from medseq import __version__, terminal
from medseq.errors import InputError, MedseqError, ResourceError, UsageError

if TYPE_CHECKING:
    from medseq.clip import Clip, KSpace
    from medseq.restore import Restored

SeriesType = TypeVar("SeriesType", "Clip", "KSpace")
Progress = Callable[[int, int], None]

_NIFTI = (".nii.gz", ".nii")
_OUT_OF_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EFBIG, errno.EROFS}


class _Terminated(BaseException):
    """SIGTERM, raised like KeyboardInterrupt so that no half-written output survives it."""


def _valid_device(_: type, device: str) -> None:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ValueError("Choose auto, cpu, cuda or cuda:N.")


def _check_finite_positive(_: type, value: float | None) -> None:
    if value is not None and not 0 < value < float("inf"):
        raise ValueError("Must be a finite number > 0.")


Output = Annotated[Path, Parameter(name=("--output", "-o"), help="File to write; missing folders are made.")]
Count = Annotated[int, Parameter(validator=Number(gte=1))]
Steps = Annotated[int, Parameter(validator=Number(gte=1), help="Noise levels: more is slower and sharper.")]
Positive = Annotated[float, Parameter(validator=_check_finite_positive)]


@Parameter(name="*")
@dataclass(frozen=True)
class Options:
    """What every restoring command takes."""

    samples: Annotated[Count, Parameter(help="Draws; with more than one, their mean, and their std in OUT_std.")] = 1
    seed: Annotated[int, Parameter(validator=Number(gte=0), help="The same seed gives the same result.")] = 0
    device: Annotated[str, Parameter(validator=_valid_device, help="auto, cpu, cuda or cuda:N.")] = "auto"
    precision: Annotated[Literal["auto", "float32", "bfloat16"], Parameter(help="What the network computes in.")] = (
        "auto"
    )
    prior: Annotated[str | None, Parameter(help="Name or file of another prior than the one that medseq ships.")] = None


app = App(
    name="medseq",
    help="Restores dynamic medical image series with one video diffusion prior.",
    version=__version__,
    help_format="plaintext",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
    help_epilogue="""\
--debug, anywhere, shows the traceback of an error.

Exit codes: 0 done, 1 internal error, 2 usage, 4 bad input or model, 5 device, memory or disk, 130/143 interrupted.""",
)


def _examples(*lines: str) -> str:
    return "Examples:\n\n" + "\n".join(f"    medseq {line}" for line in lines)


@app.command(help_epilogue=_examples("demo", "demo -o out/demo"))
def demo(
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o"), help="Folder to write.")] = Path("demo_output"),
    device: Annotated[str, Parameter(validator=_valid_device, help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Restore the sample series: k-space to images, noise removed, frames filled in; with pictures and a table."""
    from medseq.demo import run_demo
    from medseq.provenance import RunRecord, collected_warnings, staged

    record = RunRecord("demo", {"device": device})
    with staged(output) as folder, collected_warnings(terminal.warn) as record.warnings:
        with terminal.progress("demo") as progress:
            scores = run_demo(folder, record, device=device, progress=progress)
        record.save(folder / "run.json")
    terminal.print_scores(scores)
    print(f"{output}: images (NIfTI), pictures (PNG, WebP) and run.json; {record.elapsed:.0f} s")


@app.command(help_epilogue=_examples("info cine.nii.gz", "info raw.h5 --json", "info folder"))
def info(
    path: Annotated[Path, Parameter(help="NIfTI or ISMRMRD file, or a folder of them.")],
    /,
    *,
    json: Annotated[bool, Parameter(help="Machine-readable.", negative="")] = False,
) -> int:
    """Say what a file or folder holds: kind, frames, geometry, timing, problems."""
    from medseq.survey import survey

    found = survey(path)
    bad = [series for series in found if series.error]
    if bad and not path.is_dir():
        raise InputError(str(bad[0].error))
    if json:
        print(json_format.dumps([asdict(series) for series in found], indent=2))
    else:
        terminal.print_series(found)
    if not bad:
        return 0
    return InputError.exit_code if len(bad) == len(found) else 3


@app.command(
    help_epilogue=_examples("reconstruct raw.h5 -o image.nii.gz", "reconstruct raw.h5 -o image.nii.gz --samples 8")
)
def reconstruct(
    raw: Annotated[Path, Parameter(help="ISMRMRD file of multi-coil Cartesian k-space.")],
    /,
    *,
    output: Output,
    steps: Steps = 6,
    options: Options = Options(),  # noqa: B008 (frozen)
) -> None:
    """Reconstruct an image series from undersampled k-space."""
    from medseq import restore
    from medseq.io import load_kspace

    def work(kspace: KSpace, progress: Progress) -> Restored:
        return restore.reconstruct(kspace, steps=steps, progress=progress, **asdict(options))

    _restore("reconstruct", raw, output, {"steps": steps, **asdict(options)}, load_kspace, work)


@app.command(
    help_epilogue=_examples("denoise cine.nii.gz -o clean.nii.gz", "denoise cine.nii.gz -o clean.nii.gz --sigma 12")
)
def denoise(
    series: Annotated[Path, Parameter(help="NIfTI file.")],
    /,
    *,
    output: Output,
    sigma: Annotated[Positive | None, Parameter(help="Noise std in input units; estimated when not given.")] = None,
    steps: Steps = 1,
    options: Options = Options(),  # noqa: B008 (frozen)
) -> None:
    """Remove noise from an image series."""
    from medseq import restore
    from medseq.io import load_clip

    def work(clip: Clip, progress: Progress) -> Restored:
        return restore.denoise(clip, sigma=sigma, steps=steps, progress=progress, **asdict(options))

    _restore("denoise", series, output, {"sigma": sigma, "steps": steps, **asdict(options)}, load_clip, work)


@app.command(
    help_epilogue=_examples(
        "interpolate cine.nii.gz -o smooth.nii.gz", "interpolate cine.nii.gz -o at.nii.gz --times times.txt"
    )
)
def interpolate(
    series: Annotated[Path, Parameter(help="NIfTI file.")],
    /,
    *,
    output: Output,
    factor: Annotated[
        int | None, Parameter(validator=Number(gte=2), help="Frames for every frame [default: 2].")
    ] = None,
    times: Annotated[Path | None, Parameter(help="Text file of the wanted times in seconds.")] = None,
    steps: Steps = 6,
    options: Options = Options(),  # noqa: B008 (frozen)
) -> None:
    """Fill in frames between those of an image series."""
    from medseq import restore
    from medseq.io import load_clip

    if factor is not None and times is not None:
        raise UsageError("--factor and --times exclude each other; give one")
    wanted = None if times is None else _read_times(times)

    def work(clip: Clip, progress: Progress) -> Restored:
        return restore.interpolate(clip, factor or 2, wanted, steps=steps, progress=progress, **asdict(options))

    settings = {"factor": factor, "times": wanted, "steps": steps, **asdict(options)}
    _restore("interpolate", series, output, settings, load_clip, work)


def _read_times(path: Path) -> list[float]:
    try:
        return [float(word) for word in path.read_text(encoding="utf-8").replace(",", " ").split()]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the name") from None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: must hold numbers (seconds) apart by blanks, commas or line ends ({error})"
        ) from error


def _restore(
    command: str,
    source: Path,
    output: Path,
    settings: Mapping[str, Any],
    load: Callable[[Path], SeriesType],
    work: Callable[[SeriesType, Progress], Restored],
) -> None:
    """Read, restore and write one series with its `run.json`, all of it or nothing."""
    from medseq.io import save_clip
    from medseq.provenance import RunRecord, collected_warnings, staged, stem

    _check_output(output, _NIFTI, source)
    record = RunRecord(command, settings)
    with staged(output.parent) as folder, collected_warnings(terminal.warn) as record.warnings:
        with record.timed("read"):
            record.add_input(source)
            series = load(source)
        with record.timed("restore"), terminal.progress(command) as progress:
            restored = work(series, progress)
        record.result = restored.info
        with record.timed("write"):
            like = None if command == "reconstruct" else source
            save_clip(restored.clip, folder / output.name, like=like)
            if restored.std is not None:
                save_clip(restored.std, folder / output.name.replace(stem(output), f"{stem(output)}_std"), like=like)
        record.save(folder / f"{stem(output)}.run.json")
    slices, _, frames, height, width = restored.clip.data.shape
    print(f"{output}: {frames} frames of {width} x {height}, {slices} slices; {record.elapsed:.1f} s")


def _check_output(output: Path, endings: Sequence[str], source: Path | None = None) -> None:
    """Refuse an impossible output before minutes are spent on it."""
    if not output.name.endswith(tuple(endings)):
        raise UsageError(f"{output}: the output must end in {' or '.join(endings)}")
    if source is not None and source.exists() and output.exists() and source.samefile(output):
        raise UsageError(f"{output}: is the input; choose another name for the output")


def _exit_code(error: BaseException) -> int:
    if isinstance(error, MedseqError):
        return error.exit_code
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return ResourceError.exit_code
    if isinstance(error, OSError) and error.errno in _OUT_OF_ROOM:
        return ResourceError.exit_code
    # torch says so of the memory of the CPU
    if isinstance(error, RuntimeError) and "not enough memory" in str(error):
        return ResourceError.exit_code
    return 1


def _explained(error: BaseException) -> str:
    code = _exit_code(error)
    if isinstance(error, MedseqError):
        return f"error: {error}"
    if code == ResourceError.exit_code:
        return f"error: out of memory or disk ({error or type(error).__name__}); free some, or give a smaller series"
    return f"internal error: {type(error).__name__}: {error}; run again with --debug and report what it prints"


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    def terminate(number: int, frame: object) -> NoReturn:
        raise _Terminated

    try:
        before = signal.signal(signal.SIGTERM, terminate)
    except ValueError:  # not the main thread, which alone hears signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; every failure prints one line (a traceback with --debug)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        with _sigterm_raises():
            return int(app(words, exit_on_error=False, print_error=False) or 0)
    except CycloptsError as error:
        terminal.say(f"error: {error} See medseq {' '.join(error.command_chain or ())} --help")
        return UsageError.exit_code
    except (KeyboardInterrupt, _Terminated) as stop:
        terminal.say("interrupted; nothing was written")
        return 143 if isinstance(stop, _Terminated) else 130
    except BrokenPipeError:  # whoever read our output has enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        terminal.say(_explained(error))
        return _exit_code(error)


def entry() -> NoReturn:
    """The installed command `medseq`."""
    sys.exit(main())
