"""From an archive and back: fetch a study, denoise each dynamic MR series of it, store the results beside it.

    python pipelines/restore_archive_study.py https://archive/dicom-web 1.2.840.113619.2.1 -w work
    python pipelines/restore_archive_study.py dicom://ARCHIVE@host:104 1.2.840.113619.2.1 -w work --calling MEDSEQ

`work` keeps what was fetched and what the archive has not taken yet; run the same line again to go on after a failure.
It holds images of patients: keep it where those belong, and remove it afterwards. Running again when all is done
changes nothing: the results have the same UIDs, and the archive has them. docs/archives.md says more.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from medseq import denoise
from medseq.archive import Peer, Query, connect, fetch, find, store
from medseq.errors import MedseqError
from medseq.io.dicom import DicomSeries, find_series, load_series
from medseq.io.dicom.derived import Derivation
from medseq.io.dicom.write import save_derived
from medseq.io.weights import weights_path
from medseq.provenance import sha256, stem

SEED = 0


def fetch_study(peer: Peer, study: str, folder: Path) -> None:
    """Every MR series of the study, but for what medseq itself has stored there."""
    for series in find(peer, Query(study=study)):
        if "medseq" not in series.description:
            fetch(peer, series.uid, folder)


def derivation() -> Derivation:
    """What the results say of how they were made."""
    weights = weights_path(None)
    return Derivation(
        task="denoise",
        description="Denoised with a video diffusion prior; for research only",
        model=stem(weights),
        model_sha256=sha256(weights),
        options={},
        seed=SEED,
    )


def restore(source: DicomSeries, peer: Peer, outbox: Path) -> str:
    """Denoise one series and store the result; returns what to tell the user."""
    clean = denoise(load_series(source), seed=SEED).clip
    with tempfile.TemporaryDirectory(dir=outbox.parent) as folder:
        sent = store(save_derived(clean, Path(folder), source, derivation()), peer, outbox)
    return f"{sent.images} images are in the archive, {sent.new} of them new"


def restore_study(peer: Peer, study: str, work: Path) -> bool:
    """Do it all; a series that fails is named and does not stop the others. Returns whether none has."""
    fetch_study(peer, study, work / "source")
    found = find_series(work / "source")
    failures = [f"{refused.what}: {refused.reason}" for refused in found.refused]
    for source in found.series:
        if source.kind == "other":
            continue
        try:
            print(f"series {source.number} ({source.kind}): {restore(source, peer, work / 'outbox')}")
        except MedseqError as fault:
            failures.append(f"series {source.number}: {fault}")
    for failure in failures:
        print(failure, file=sys.stderr)
    return not failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", help="https://host/dicom-web or dicom://TITLE@host:port")
    parser.add_argument("study", help="Study Instance UID")
    parser.add_argument("-w", "--work", type=Path, required=True, help="folder for what is under way")
    parser.add_argument("--calling", default="MEDSEQ", help="our application entity title (classic network)")
    options = parser.parse_args()
    try:
        peer = connect(options.archive, calling=options.calling)
        return 0 if restore_study(peer, options.study, options.work) else 3
    except MedseqError as fault:
        print(fault, file=sys.stderr)
        return fault.exit_code


if __name__ == "__main__":
    sys.exit(main())
