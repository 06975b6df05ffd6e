"""The commands `archive find`, `fetch`, `store` and `send`: series from archives, and results back."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from medseq import terminal
from medseq.commands.options import app, examples
from medseq.errors import InputError

if TYPE_CHECKING:
    from medseq.archive import Sent

archive = App(
    name="archive",
    help="Get series from an archive, and store results in it.",
    help_epilogue="""\
ADDRESS is https://host/dicom-web (DICOMweb) or dicom://TITLE@host:port (classic network). Credentials come from
MEDSEQ_ARCHIVE_TOKEN, from MEDSEQ_ARCHIVE_USER and MEDSEQ_ARCHIVE_PASSWORD, or from netrc.""",
)
app.command(archive)

Address = Annotated[str, Parameter(help="https://host/dicom-web or dicom://TITLE@host:port.")]
Calling = Annotated[str, Parameter(help="Our own application entity title (classic network).")]
Outbox = Annotated[Path, Parameter(help="Folder where results wait until the archive has them.")]
OUTBOX = Path("medseq_outbox")


@Parameter(name="*")
@dataclass(frozen=True)
class Wanted:
    """What to look for in an archive."""

    study: Annotated[str, Parameter(help="Study Instance UID.")] = ""
    patient: Annotated[str, Parameter(help="Patient ID.")] = ""
    accession: Annotated[str, Parameter(help="Accession Number.")] = ""
    date: Annotated[str, Parameter(help="Of the study: YYYYMMDD, or two joined by a hyphen.")] = ""
    modality: Annotated[str, Parameter(help="As in DICOM.")] = "MR"


@archive.command(
    help_epilogue=examples(
        "archive find https://pacs/dicom-web --accession 12345", "archive find ADDRESS --date 20261123"
    )
)
def find(
    address: Address,
    /,
    *,
    wanted: Wanted = Wanted(),  # noqa: B008 (frozen)
    calling: Calling = "MEDSEQ",
) -> None:
    """List the series of the studies that match; nothing shown tells whose they are."""
    from medseq.archive import Query, connect
    from medseq.archive import find as find_series

    rows = [
        (
            series.date,
            series.modality,
            str(series.number or ""),
            series.description,
            series.uid.study,
            series.uid.series,
        )
        for series in find_series(connect(address, calling=calling), Query(**asdict(wanted)))
    ]
    terminal.print_table(("date", "modality", "number", "description", "study", "series"), rows)


@archive.command(help_epilogue=examples("archive fetch https://pacs/dicom-web STUDY_UID -o study"))
def fetch(
    address: Address,
    study: Annotated[str, Parameter(help="Study Instance UID.")],
    /,
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o"), help="Folder; what it has already is kept.")],
    series: Annotated[str | None, Parameter(help="Series Instance UID [default: every MR series].")] = None,
    calling: Calling = "MEDSEQ",
) -> None:
    """Fetch a study, or one series of it; the same command goes on where a failure stopped it."""
    from medseq.archive import Query, SeriesUid, connect
    from medseq.archive import fetch as fetch_series
    from medseq.archive import find as find_series

    peer = connect(address, calling=calling)
    if series is not None:
        wanted = [SeriesUid(study, series)]
    else:
        wanted = [each.uid for each in find_series(peer, Query(study=study))]
    if not wanted:
        raise InputError(f"{address}: has no MR series of this study; look for it with medseq archive find")
    count = sum(len(fetch_series(peer, uid, output)) for uid in wanted)
    print(f"{output}: {count} images of {len(wanted)} series")


@archive.command(help_epilogue=examples("archive store result https://pacs/dicom-web"))
def store(
    result: Annotated[Path, Parameter(help="Folder with DICOM files, such as a result of medseq.")],
    address: Address,
    /,
    *,
    outbox: Outbox = OUTBOX,
    calling: Calling = "MEDSEQ",
    verify: Annotated[
        bool, Parameter(negative="--no-verify", help="Have every image sent back, and compare it.")
    ] = True,
) -> None:
    """Store a result in an archive; when that is down the result waits in the outbox."""
    from medseq.archive import connect
    from medseq.archive import store as store_files

    peer = connect(address, calling=calling)
    files = sorted(result.glob("*.dcm"))
    if not files:
        raise InputError(f"{result}: holds no .dcm file; give the folder of a result")
    _tell(store_files(files, peer, outbox, verify=verify))


@archive.command(help_epilogue=examples("archive send"))
def send(
    *,
    outbox: Outbox = OUTBOX,
    verify: Annotated[
        bool, Parameter(negative="--no-verify", help="Have every image sent back, and compare it.")
    ] = True,
) -> None:
    """Send everything that waits in the outbox to where it shall go."""
    from medseq.archive import send as send_waiting

    _tell(send_waiting(outbox, verify=verify))


def _tell(sent: Sent) -> None:
    print(f"{sent.images} images are in the archive, {sent.new} of them new")
