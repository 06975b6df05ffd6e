"""Archives that mean harm or are broken: one line within seconds, and nothing outside the folder or left in it."""

from __future__ import annotations

import contextlib
import json
import shutil
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pydicom
import pytest
from dicom_scanner import scan
from orthanc import free_port

from medseq.archive import Limits, Query, SeriesUid, connect, fetch, find
from medseq.errors import InputError, MedseqError, ResourceError, UsageError

LIMITS = Limits(seconds=0.5, bytes=200_000, matches=50)
BOUNDARY = "frontier"
MULTIPART = {"Content-Type": f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'}
JSON = {"Content-Type": "application/dicom+json"}
WANTED = SeriesUid("1.2.3", "1.2.3.4")
Talk = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Server:
    """A DICOMweb server that does as it is told. asked: paths; seen: their Authorization headers."""

    address: str = ""
    instances: Talk | None = None
    file: Talk | None = None
    asked: list[str] = field(default_factory=list)
    seen: list[str | None] = field(default_factory=list)

    def talk(self, handler: BaseHTTPRequestHandler) -> None:
        self.asked.append(handler.path)
        self.seen.append(handler.headers["Authorization"])
        last = handler.path.split("?")[0].rsplit("/", 1)[-1]
        answer = self.instances if last in {"instances", "series", "studies"} else self.file
        assert answer is not None
        with contextlib.suppress(OSError):  # the client has had enough
            answer(handler)


@pytest.fixture
def server() -> Iterator[Server]:
    told = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.talk(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        listener.daemon_threads = True
        told.address = f"http://127.0.0.1:{listener.server_port}/dicom-web"
        threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True).start()
        yield told
        listener.shutdown()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medseq.archive.transfer.WAITS", (0.01, 0.01))


def says(body: bytes, headers: dict[str, str], status: int = 200) -> Talk:
    def talk(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return talk


def matches(*instances: object) -> Talk:
    """One page with these SOP Instance UIDs, and again for every page that is asked for."""
    return says(json.dumps([{"00080018": {"vr": "UI", "Value": [uid]}} for uid in instances]).encode(), JSON)


def parts(*contents: bytes, end: bytes = b"--") -> Talk:
    body = b"".join(b"--frontier\r\nContent-Type: application/dicom\r\n\r\n" + part + b"\r\n" for part in contents)
    return says(body + b"--frontier" + end, MULTIPART)


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", MULTIPART["Content-Type"])
    handler.end_headers()
    while True:
        handler.wfile.write(b"[" * 65536)


def dripping(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", MULTIPART["Content-Type"])
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b"[")
        time.sleep(0.1)


def dripping_headers(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.0 200 OK\r\n")
    for number in range(100):
        handler.wfile.write(f"X-{number}: 0\r\n".encode())
        time.sleep(0.1)


def breaking_off(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", MULTIPART["Content-Type"])
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"--frontier\r\n")


@pytest.fixture
def image(tmp_path: Path) -> bytes:
    """A good image; of another study than the one that is asked for."""
    scan(tmp_path / "scan", slices=1, frames=1)
    (path,) = (tmp_path / "scan").iterdir()
    return path.read_bytes()


def refusal(call: Callable[[], object]) -> MedseqError:
    """The one line that a call ends with, in a few seconds."""
    start = time.monotonic()
    with pytest.raises(MedseqError) as fault:
        call()
    assert time.monotonic() - start < 5
    text = str(fault.value)
    assert "\n" not in text and text.isprintable() and "; " in text
    return fault.value


def refused_fetch(server: Server, tmp_path: Path) -> MedseqError:
    """The refusal to fetch from it; nothing is left, inside the folder or beside it."""
    home = tmp_path / "home"
    home.mkdir()
    peer = connect(server.address, limits=LIMITS)
    fault = refusal(lambda: fetch(peer, WANTED, home / "into"))
    assert [path for path in home.rglob("*") if path.is_file()] == []
    assert [path.name for path in home.iterdir()] in ([], ["into"])
    assert server.address in str(fault)
    return fault


NO_MATCHES = {
    "UIDs that climb out of the folder": (matches("../../../evil"), InputError),
    "a UID with a slash": (matches("1.2/3"), InputError),
    "a UID that is too long": (matches("1." + "2" * 70), InputError),
    "a UID that is a number": (matches(12.5, {"a": 1}), InputError),
    "a page for people": (says(b"<html>Welcome</html>", {"Content-Type": "text/html"}), InputError),
    "nothing": (says(b"", JSON), InputError),
    "JSON of another kind": (says(b'["a", 1, null]', JSON), InputError),
    "JSON nested without end": (says(b"[" * 100_000, JSON), InputError),
    "an answer without end": (endless, InputError),
    "more matches than can be": (matches(*(f"1.2.{n}" for n in range(60))), InputError),
    "an error of the server": (says(b"secret stack", JSON, 500), ResourceError),
    "a refusal": (says(b"who are you", JSON, 401), ResourceError),
    "not found": (says(b"", JSON, 404), InputError),
    "another address": (says(b"", {"Location": "http://127.0.0.1:1/"}, 302), InputError),
    "one byte at a time": (dripping, ResourceError),
    "one header at a time": (dripping_headers, ResourceError),
    "half an answer": (breaking_off, ResourceError),
}


@pytest.mark.parametrize("case", NO_MATCHES)
def test_a_query_with_a_bad_answer(server: Server, tmp_path: Path, case: str) -> None:
    server.instances, kind = NO_MATCHES[case]
    fault = refused_fetch(server, tmp_path)
    assert type(fault) is kind
    assert "evil" not in str(fault) and "secret" not in str(fault)


NO_FILES = {
    "not multipart": (says(b"DICM", {"Content-Type": "application/dicom"}), InputError),
    "a page for people": (says(b"<html>", {"Content-Type": "text/html"}), InputError),
    "an empty body": (says(b"", MULTIPART), InputError),
    "garbage": (says(b"\xff" * 9999, MULTIPART), InputError),
    "another boundary": (says(b"--other\r\n\r\nDICM\r\n--other--", MULTIPART), InputError),
    "no end": (parts(b"DICM", end=b""), InputError),
    "two parts": (parts(b"DICM", b"DICM"), InputError),
    "no DICOM": (parts(b"MZ" * 500), InputError),
    "broken DICOM": (parts(b"\0" * 128 + b"DICM" + b"\x08\0\x16\0UI\xff\xff" * 3), InputError),
    "a body without end": (endless, InputError),
    "one byte at a time": (dripping, ResourceError),
    "half a body": (breaking_off, ResourceError),
    "gone": (says(b"", JSON, 404), InputError),
    "busy": (says(b"", JSON, 503), ResourceError),
}


@pytest.mark.parametrize("case", NO_FILES)
def test_a_retrieval_with_a_bad_answer(server: Server, tmp_path: Path, case: str) -> None:
    server.instances = matches("1.2.3.4.5")
    server.file, kind = NO_FILES[case]
    assert type(refused_fetch(server, tmp_path)) is kind


def test_an_image_of_another_study_is_refused(server: Server, tmp_path: Path, image: bytes) -> None:
    header = pydicom.dcmread(pydicom.filebase.DicomBytesIO(image))
    server.instances, server.file = matches(header.SOPInstanceUID), parts(image)
    assert "not asked for" in str(refused_fetch(server, tmp_path))


def test_another_image_of_the_series_is_refused(server: Server, tmp_path: Path, image: bytes) -> None:
    header = pydicom.dcmread(pydicom.filebase.DicomBytesIO(image))
    server.instances, server.file = matches("1.2.3.4.5"), parts(image)
    peer = connect(server.address, limits=LIMITS)
    series = SeriesUid(header.StudyInstanceUID, header.SeriesInstanceUID)
    assert "not asked for" in str(refusal(lambda: fetch(peer, series, tmp_path / "into")))
    server.instances = matches(header.SOPInstanceUID)
    for bad in (parts(image, image), parts(image, end=b"")):
        server.file = bad
        assert "DICOMweb" in str(refusal(lambda: fetch(peer, series, tmp_path / "into")))
    server.file = parts(image)  # the same image is taken when it is the one, alone and whole
    (path,) = fetch(peer, series, tmp_path / "into")
    assert path.read_bytes() == image and path.parent == tmp_path / "into"


def test_a_server_in_trouble_is_asked_three_times(server: Server, tmp_path: Path) -> None:
    server.instances = says(b"", JSON, 503)
    refused_fetch(server, tmp_path)
    assert len(server.asked) == 3


def test_a_server_without_pages_is_not_asked_for_ever(server: Server) -> None:
    study = {"0020000D": {"vr": "UI", "Value": ["1.2.3"]}, "00080020": {"vr": "DA", "Value": ["20240229"]}}
    series = {"0020000E": {"vr": "UI", "Value": ["1.2.3.4"]}, "0008103E": {"vr": "LO", "Value": ["a\x1b[2Jcine\n"]}}
    server.instances = says(json.dumps([study | series]).encode(), JSON)
    (found,) = find(connect(server.address, limits=LIMITS), Query(date="20240229"))
    assert found.uid == SeriesUid("1.2.3", "1.2.3.4") and found.number is None
    assert found.description == "a[2Jcine"  # what could move the cursor of a terminal is gone
    assert len(server.asked) == 4


@pytest.mark.parametrize("uid", ["../..", "1.2/../3", "", "1.2\n", "1..2", "1." * 40 + "1", "१.२"])
def test_no_uid_of_the_user_reaches_a_url_unchecked(uid: str) -> None:
    with pytest.raises(UsageError):
        SeriesUid("1.2.3", uid)


@pytest.mark.parametrize(
    "address",
    [
        "archive",
        "ftp://archive/dicom-web",
        "http://",
        "https://host:port/dicom-web",
        "https://[::1/dicom-web",
        "dicom://host:104",
        "dicom://TITLE@host",
        "dicom://A_TITLE_THAT_IS_TOO_LONG@host:104",
        "dicom://TITLE@host:99999",
    ],
)
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(UsageError):
        connect(address)


@pytest.mark.parametrize("title", ["", "  ", "a" * 17, "back\\slash", "tab\t"])
def test_a_title_that_is_none(title: str) -> None:
    with pytest.raises(UsageError):
        connect("http://localhost/dicom-web", calling=title)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medseq.archive.connection.find_spec", lambda _: None)
    for address in ("http://localhost/dicom-web", "dicom://TITLE@localhost:104"):
        with pytest.raises(UsageError, match=r"pip install medseq\[archive\]"):
            connect(address)


def test_credentials_come_from_the_environment(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server.instances = says(b"[]", JSON)
    with monkeypatch.context() as environment:
        environment.setenv("MEDSEQ_ARCHIVE_USER", "reader")
        environment.setenv("MEDSEQ_ARCHIVE_PASSWORD", "hush")
        find(connect(server.address), Query(date="20240229"))
        with pytest.raises(UsageError, match="https") as fault:
            connect("http://archive.example/dicom-web")  # in the clear
        assert "hush" not in str(fault.value) and "reader" not in str(fault.value)
    with monkeypatch.context() as environment:
        environment.setenv("MEDSEQ_ARCHIVE_TOKEN", "abc")
        find(connect(server.address), Query(date="20240229"))
    with monkeypatch.context() as environment:
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login reader password hush\n")
        environment.setenv("NETRC", str(tmp_path / "netrc"))
        find(connect(server.address), Query(date="20240229"))
    find(connect(server.address), Query(date="20240229"))
    assert server.seen == ["Basic cmVhZGVyOmh1c2g=", "Bearer abc", "Basic cmVhZGVyOmh1c2g=", None]


def test_credentials_in_an_address_are_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError) as fault:
        connect("https://reader:hush@archive/dicom-web")
    assert "hush" not in str(fault.value)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not on PATH")
def test_a_certificate_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    words += ["-keyout", str(key), "-out", str(certificate), "-subj", "/CN=localhost"]
    subprocess.run([*words, "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True, timeout=60)

    class Empty(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            says(b"[]", JSON)(self)

        def log_message(self, *_: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """The client hangs up on a certificate that it does not know."""

    with Quiet(("127.0.0.1", 0), Empty) as listener:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        listener.socket = context.wrap_socket(listener.socket, server_side=True)
        threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True).start()
        address = f"https://localhost:{listener.server_port}/dicom-web"
        assert "certificate" in str(refusal(lambda: find(connect(address), Query(date="20240229"))))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        assert find(connect(address), Query(date="20240229")) == []
        listener.shutdown()


@dataclass
class Keeper:
    """bad_keeper.py, and the image that it has."""

    port: int
    image: pydicom.Dataset

    def address(self, title: str) -> str:
        return f"dicom://{title}@127.0.0.1:{self.port}"


@pytest.fixture(scope="module")
def keeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keeper]:
    folder, port = tmp_path_factory.mktemp("keeper"), free_port()
    scan(folder, slices=1, frames=1)
    (path,) = folder.iterdir()
    words = [sys.executable, str(Path(__file__).with_name("bad_keeper.py")), str(port), str(path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        yield Keeper(port, pydicom.dcmread(path))
        process.kill()


BAD_KEEPERS = {
    "CLIMBS": (InputError, "identifier that is none"),
    "ENDLESS": (InputError, "more than 50 matches"),
    "DRIPS": (ResourceError, "broke off"),
    "MUTE": (ResourceError, "fell silent"),
    "REFUSES": (ResourceError, "0xA700"),
    "REFUSES_LATER": (ResourceError, "0xA700"),
    "MUTE_LATER": (ResourceError, "fell silent"),
    "OTHER": (InputError, "not asked for"),
    "FLOODS": (InputError, "more than 200000 bytes"),
}


@pytest.mark.parametrize("title", BAD_KEEPERS)
def test_a_classic_archive_with_a_bad_answer(keeper: Keeper, tmp_path: Path, title: str) -> None:
    kind, words = BAD_KEEPERS[title]
    fault = refused_fetch(Server(keeper.address(title)), tmp_path)
    assert type(fault) is kind and words in str(fault)


def test_a_classic_archive_that_sends_an_image_again_and_again(keeper: Keeper, tmp_path: Path) -> None:
    series = SeriesUid(keeper.image.StudyInstanceUID, keeper.image.SeriesInstanceUID)
    fault = refusal(lambda: fetch(connect(keeper.address("REPEATS"), limits=LIMITS), series, tmp_path))
    assert "not asked for" in str(fault)


def test_a_port_where_no_archive_of_this_kind_listens(tmp_path: Path, server: Server) -> None:
    port = server.address.split(":")[2].split("/")[0]
    assert isinstance(refused_fetch(Server(f"dicom://TITLE@127.0.0.1:{port}"), tmp_path), ResourceError)
