"""What `medseq stream` does: serve until it is stopped, or play one file; and what it leaves behind."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from medseq import terminal
from medseq.errors import MedseqWarning, ResourceError, UsageError
from medseq.io import NIFTI_ENDINGS, load_kspace, save_clip
from medseq.io.kspace import files_of
from medseq.io.weights import weights_path
from medseq.jobs import check_output, input_named
from medseq.provenance import RunRecord, collected_warnings, staged, stem
from medseq.stream.replay import replay
from medseq.stream.server import Manner, listening, parse_address, serve
from medseq.stream.session import Begin
from medseq.stream.tally import Tally

_HERE = ("localhost", "127.0.0.1", "::1")


def serve_clients(
    address: str, begin: Begin, manner: Manner, settings: Mapping[str, Any], log: Path | None
) -> NoReturn:
    """Serve one client after the other until interrupted, and tell of each on stderr and as a line of `log` (JSON).

    settings: every option, by name; `prior` among them. A line is what `run.json` says elsewhere; nothing in it comes
    from a client but numbers. Raises UsageError for an impossible address, ResourceError when it cannot be listened on
    or the log cannot be written.
    """
    host, port = parse_address(address)
    record, number = _record(settings), 0
    options, model = record.options, record.model
    with _appended(log) as note, listening(host, port) as server:
        terminal.say(f"listening on {host}:{server.getsockname()[1]}, for {_whom(host)}")
        while True:
            try:
                line, _ = server.accept()
            except ConnectionError:  # it went before its turn came
                continue
            number += 1
            record, tally = RunRecord("stream", options, model=model), Tally()
            with line, collected_warnings(terminal.warn) as record.warnings, terminal.live() as show:
                fault = serve(line, begin, manner, tally, lambda tally: show(tally.line()))
            record.result = {"client": number, "fault": fault, **tally.content()}
            terminal.say(f"client {number}: {tally.line()}" + (f"; {fault}" if fault else ""))
            note(record.content())


def replay_file(
    source: Path,
    output: Path,
    begin: Begin,
    settings: Mapping[str, Any],
    *,
    first: int,
    room: int,
    speed: float | None,
) -> str:
    """Play raw data at their own pace, write the magnitude of what was reconstructed as NIfTI, and its `.run.json`.

    settings: every option, by name; `prior` among them. Returns what to tell the user. Raises MedseqError like
    `load_kspace` and `replay`, and UsageError for an impossible output.
    """
    check_output(output, NIFTI_ENDINGS, source)
    record, tally = _record(settings), Tally()
    with staged(output.parent) as folder, collected_warnings(terminal.warn) as record.warnings:
        for file in files_of(source):
            record.add_input(file)
        kspace = load_kspace(source)
        with record.timed("restore"), terminal.live() as show, input_named(source, settings["prior"]):
            clip = replay(
                kspace,
                begin,
                tally,
                first=first,
                room=room,
                speed=speed,
                show=lambda tally: show(tally.line()),
            )
        record.result = tally.content()
        if clip.present is not None:
            lost = (~clip.present).nonzero().tolist()
            record.result = {**record.result, "frames_dropped": [{"slice": b, "frame": t} for b, t in lost]}
            warnings.warn(
                f"{source}: {len(lost)} frames were dropped; zeros stand for them", MedseqWarning, stacklevel=2
            )
        save_clip(clip.with_data(clip.data.abs()), folder / output.name)
        record.save(folder / f"{stem(output)}.run.json")
    return f"{output}: {tally.line()}"


def _record(settings: Mapping[str, Any]) -> RunRecord:
    prior = settings["prior"]
    record = RunRecord("stream", {**settings, "prior": prior and Path(prior).name})
    record.add_model(weights_path(prior))
    return record


def _whom(host: str) -> str:
    return "this machine only" if host in _HERE else "everybody who reaches it; nothing is encrypted or asked"


@contextmanager
def _appended(log: Path | None) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Gives what appends one line of JSON to the log, if there is one."""
    if log is None:
        yield lambda content: None
        return
    try:
        with log.open("a", encoding="utf-8") as file:

            def note(content: Mapping[str, Any]) -> None:
                try:
                    file.write(json.dumps(content, allow_nan=False) + "\n")
                    file.flush()
                except OSError as error:  # the next client is to be served
                    terminal.warn(f"{log}: cannot be written ({error.strerror}); free some space")

            yield note
    except IsADirectoryError:
        raise UsageError(f"{log}: is a folder; give a file for the log") from None
    except OSError as error:
        raise ResourceError(f"{log}: cannot be written ({error.strerror}); check the folder and its rights") from error
