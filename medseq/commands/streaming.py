"""The command that reconstructs frames as they arrive: stream."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from medseq.commands.options import Count, Device, Positive, UpToADay, app, examples
from medseq.errors import UsageError

if TYPE_CHECKING:
    from medseq.clip import KSpace
    from medseq.stream.session import Reconstruction


@app.command(
    help_epilogue=examples(
        "stream --replay raw.h5 -o image.nii.gz",
        "stream --replay raw.h5 -o image.nii.gz --speed 0.5",
        "stream --listen localhost:9002 --log sessions.jsonl",
    )
)
def stream(
    *,
    listen: Annotated[
        str | None, Parameter(help="HOST:PORT to serve MRD clients on [default: localhost:9002].")
    ] = None,
    replay: Annotated[Path | None, Parameter(help="Play this file of k-space rather than listen.")] = None,
    output: Annotated[
        Path | None, Parameter(name=("--output", "-o"), help="With --replay: NIfTI file to write.")
    ] = None,
    speed: Annotated[
        Positive | None, Parameter(help="With --replay: times as fast as it was measured [default: 1].")
    ] = None,
    wait: Annotated[
        bool, Parameter(help="Drop no frame: have whoever sends wait; for stored data, not for a scanner.")
    ] = False,
    calibrate: Annotated[
        Count, Parameter(help="Frames held back first, best a heartbeat: maps and scale are taken from them.")
    ] = 12,
    queue: Annotated[Count, Parameter(help="Frames that may wait; with one more the oldest is dropped.")] = 2,
    timeout: Annotated[UpToADay, Parameter(help="Seconds of silence after which a client has stalled.")] = 30.0,
    log: Annotated[Path | None, Parameter(help="Append a line of JSON about each client to this file.")] = None,
    device: Device = "auto",
    precision: Annotated[Literal["auto", "float32", "bfloat16"], Parameter(help="What the network computes in.")] = (
        "auto"
    ),
    prior: Annotated[
        str | None, Parameter(help="Name or file of another prior than the one that medseq ships.")
    ] = None,
) -> None:
    """Reconstruct frames as they arrive: serve MRD (ISMRMRD) streaming clients, or play a file at its own pace."""
    if (replay is None) != (output is None):
        raise UsageError("--replay and -o go together; give both or none")
    if replay is None and speed is not None:
        raise UsageError("--speed goes with --replay")
    if replay is not None and (listen is not None or log is not None):
        raise UsageError("--replay excludes --listen and --log, which are about clients")
    if wait and speed is not None:
        raise UsageError("--wait and --speed exclude each other: who waits has no pace")
    from medseq.causal import CausalReconstruction, calibrated
    from medseq.io.weights import load_prior
    from medseq.stream.jobs import replay_file, serve_clients
    from medseq.stream.server import Manner

    loaded = load_prior(prior)

    def begin(kspace: KSpace) -> Reconstruction:
        return CausalReconstruction(loaded, calibrated(kspace), device=device, precision=precision)

    settings = {"wait": wait, "calibrate": calibrate, "queue": queue, "device": device, "precision": precision}
    settings |= {"prior": prior}
    if replay is not None and output is not None:
        pace = None if wait else speed or 1.0
        settings |= {"speed": pace}
        print(replay_file(replay, output, begin, settings, first=calibrate, room=queue, speed=pace))
        return
    settings |= {"timeout": timeout}
    manner = Manner(first=calibrate, room=queue, patient=wait, timeout=timeout)
    serve_clients(listen or "localhost:9002", begin, manner, settings, log)
