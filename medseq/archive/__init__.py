"""Series from archives and results back: DICOMweb and the classic DICOM network behind one small interface.

peer = connect("https://archive/dicom-web")
for series in find(peer, Query(accession="12345")):
    fetch(peer, series.uid, folder)
store(paths, peer, outbox)          # down? they wait there
send(outbox)                        # ... for this
"""

from medseq.archive.connection import connect
from medseq.archive.outbox import Sent, put, send, store
from medseq.archive.peer import Limits, Peer, SeriesUid
from medseq.archive.transfer import ArchivedSeries, Query, fetch, find

__all__ = [
    "ArchivedSeries",
    "Limits",
    "Peer",
    "Query",
    "Sent",
    "SeriesUid",
    "connect",
    "fetch",
    "find",
    "put",
    "send",
    "store",
]
