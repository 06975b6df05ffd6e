"""`medseq stream` as people run it: a server process with clients of the field, a file at its own pace, its memory."""

from __future__ import annotations

import io
import json
import re
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import ismrmrd
import numpy as np
import psutil
import pytest
import torch
from cli_shelf import FRAMES, SIZE, command, fails
from hypothesis import given
from hypothesis import strategies as st
from ismrmrd import xsd
from mrd_client import (
    CONFIG,
    HERE,
    LAST_IN_REPETITION,
    Client,
    Quick,
    acquisition,
    frame,
    header,
    serving,
    stream,
    text,
)
from scanner import QUIET, Scanner

from medseq.baselines import zero_filled
from medseq.clip import KSpace
from medseq.coils import estimate_maps
from medseq.errors import InputError, UsageError
from medseq.io import load_clip, load_kspace, save_kspace
from medseq.io.mrd_stream import encoded, messages
from medseq.metrics import psnr
from medseq.simulate import acquire, simulate_cine
from medseq.stream.frames import Frame, Start
from medseq.stream.replay import replay
from medseq.stream.server import parse_address
from medseq.stream.session import reconstructed
from medseq.stream.tally import Latency, Tally
from medseq.trajectories import golden_radial
from medseq.warmstart import sense_operator


@dataclass
class Program:
    process: subprocess.Popen[str]
    said: IO[str]
    port: int

    def ended(self, number: signal.Signals) -> tuple[int, str]:
        """Exit code, and the rest of what it said, after a signal."""
        self.process.send_signal(number)
        code = self.process.wait(60)
        return code, self.said.read()


@pytest.fixture
def program(here: Path) -> Iterator[Program]:
    """`medseq stream`, listening."""
    words = "stream --listen 127.0.0.1:0 --prior tiny.safetensors --device cpu --calibrate 4 --wait --log log.jsonl"
    with subprocess.Popen([sys.executable, "-m", "medseq", *words.split()], stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        line = run.stderr.readline()
        assert line.startswith("medseq: listening on 127.0.0.1:") and "this machine only" in line, line
        try:
            yield Program(run, run.stderr, int(line.split(":")[2].split(",")[0]))
        finally:
            run.kill()


def gadgetron_client(port: int, source: Path) -> list[ismrmrd.Image]:
    """The images that Gadgetron's own Python library gets back for a file."""
    reason = "the package gadgetron is not here"
    external = pytest.importorskip("gadgetron.external", reason=reason)
    constants, readers, writers = external.constants, external.readers, external.writers
    images = []
    with Client(port) as client, ismrmrd.File(str(source), "r") as file:
        line = external.Connection.SocketWrapper(client.line)
        for kind, content in (
            (constants.GADGET_MESSAGE_CONFIG, b"<configuration/>"),
            (constants.GADGET_MESSAGE_HEADER, file["dataset"].header.toXML().encode()),
        ):
            line.write(constants.GadgetMessageIdentifier.pack(kind))
            writers.write_byte_string(line, content)
        for readout in file["dataset"].acquisitions:
            writers.write_acquisition(line, readout)
        line.write(constants.GadgetMessageIdentifier.pack(constants.GADGET_MESSAGE_CLOSE))
        while (kind := readers.read(line, constants.GadgetMessageIdentifier)) != constants.GADGET_MESSAGE_CLOSE:
            assert kind == constants.GADGET_MESSAGE_ISMRMRD_IMAGE, readers.read_byte_string(line)
            images.append(readers.read_image(line))
    return images


def test_the_client_of_gadgetron_gets_the_images_of_the_file(program, here):
    images = gadgetron_client(program.port, Path("raw.h5"))
    assert len(images) == FRAMES and {image.data.dtype for image in images} == {np.dtype(np.float32)}
    assert (
        command("stream --replay raw.h5 -o played.nii.gz --prior tiny.safetensors --device cpu --calibrate 4 --wait")
        == 0
    )
    played, truth = load_clip("played.nii.gz"), load_clip("cine.nii.gz")
    got = torch.tensor(np.stack([image.data[0, 0] for image in images]))
    torch.testing.assert_close(got, played.data[0, 0], rtol=1e-4, atol=1e-3)
    # even with a prior that knows nothing
    assert np.corrcoef(got.flatten(), truth.data.flatten())[0, 1] > 0.9
    head = images[2].getHead()
    assert head.phase == 2 and images[2].meta["medseq_frame"] == "2"
    # LPS of the voxel in the middle, and its size
    middle = np.diag([-1, -1, 1]) @ (truth.affine @ [SIZE // 2, SIZE // 2, 0, 1])[:3]
    np.testing.assert_allclose(head.position[:], middle, atol=1e-4)
    np.testing.assert_allclose(head.field_of_view[:], [1.5 * SIZE, 1.5 * SIZE, 8], rtol=1e-6)
    assert program.ended(signal.SIGTERM)[0] == 143


def test_a_server_outlives_its_clients_and_says_how_each_fared_but_not_who(program):
    scanner = Scanner(header={"subjectInformation": xsd.subjectInformationType(patientName="DOE^JANE")})
    named = CONFIG + text(3, scanner.xml().toXML())
    with Client(program.port) as client:
        client.say(named + frame(0)[:5000])
    with Client(program.port) as client:
        answer = client.say(named + frame(0) + struct.pack("<H", 99)).listen()
        assert "kind 99" in answer.texts[0]
    with Client(program.port) as client:
        answer = client.say(stream(6)).listen()
        assert len(answer.images) == 6 and answer.closed
    with Client(program.port) as client:
        client.say(CONFIG + header() + b"".join(frame(t) for t in range(5)))
        assert client.read(2) == struct.pack("<H", 1022) and client.image()  # it is our turn
        code, said = program.ended(signal.SIGINT)
        assert "being stopped" in client.listen().texts[0]
    assert (code, said.splitlines()[-1]) == (130, "medseq: interrupted")
    log = Path("log.jsonl").read_text()
    records = [json.loads(line) for line in log.splitlines()]
    assert [record["result"]["fault"] and record["result"]["fault"][:30] for record in records] == [
        "the client went away before it",
        "error: a message of kind 99, w",
        None,
    ]
    assert records[2]["result"]["images"] == 6 and records[2]["result"]["latency_ms"]["of"] <= 2
    assert records[0]["model"]["name"] == "tiny" and records[0]["options"]["prior"] == "tiny.safetensors"
    assert "client 3: 6 images; latency p50" in said and "Traceback" not in said
    assert "DOE" not in log + said and HERE not in log


@pytest.mark.parametrize("other", [ismrmrd.ProtocolDeserializer])
def test_the_library_of_the_format_reads_what_we_send(other):
    with serving(first=2, patient=True) as served, Client(served.port) as client:
        client.say(stream(3))
        received = b"".join(iter(lambda: client.line.recv(1 << 16), b""))
    images = list(other(io.BytesIO(received)).deserialize())
    assert [image.repetition for image in images] == [0, 1, 2] and received.endswith(struct.pack("<H", 4))


def test_what_the_library_of_the_format_writes_is_read():
    stream, image = io.BytesIO(), ismrmrd.Image.from_array(np.eye(5, dtype=np.float32))
    image.meta = {"a": "b"}
    readout = ismrmrd.Acquisition.from_array(np.ones((2, 7), np.complex64), np.ones((7, 2), np.float32))
    waveform = ismrmrd.Waveform.from_array(np.ones((2, 9), np.uint32))
    sent = [ismrmrd.ConfigFile("a.xml"), ismrmrd.ConfigText("<b/>"), QUIET.xml(), "text", readout, image]
    with ismrmrd.ProtocolSerializer(stream) as other:
        for message in (*sent, waveform):
            other.serialize(message)
    stream.seek(0)
    assert list(messages(stream.read)) == sent
    for message in sent:
        assert encoded(message) in stream.getvalue()


@given(st.binary(max_size=600), st.sampled_from([1, 2, 3, 5, 1008, 1022, 1026, 7]))
def test_bytes_of_any_kind_are_messages_or_a_fault(content, kind):
    source = io.BytesIO(struct.pack("<H", kind) + content)

    def read(count: int) -> bytes:
        assert count <= 64 << 20, "no memory is taken for lengths that lie"
        if len(piece := source.read(count)) < count:
            raise EOFError
        return piece

    try:
        for _ in messages(read):
            pass
    except (InputError, EOFError):
        pass


def test_a_file_is_played_at_its_pace(here, capsys):
    kspace = load_kspace("raw.h5")
    tally = Tally()
    clip = replay(kspace, Quick, tally, first=2, room=FRAMES, speed=2.0)
    assert clip.present is None and (tally.images, tally.dropped) == (FRAMES, 0)
    expected = Quick(kspace).frame(kspace.data, kspace.keep)
    torch.testing.assert_close(clip.data, expected)
    np.testing.assert_array_equal(clip.times, kspace.times)


def test_a_file_is_no_faster_than_it_was_measured(here, monkeypatch):
    slept = []

    class Patient:
        def set(self) -> None: ...

        def wait(self, seconds: float) -> None:
            slept.append(seconds)

    monkeypatch.setattr("medseq.stream.replay.Event", Patient)
    monkeypatch.setattr("medseq.stream.replay.time.monotonic", lambda: 100.0)
    replay(load_kspace("raw.h5"), Quick, Tally(), speed=0.5)
    np.testing.assert_allclose(slept, 2 * load_kspace("raw.h5").times, atol=1e-9)


def test_frames_that_a_replay_drops_are_told(here, capsys, monkeypatch):
    class Slow(Quick):
        def frame(self, y, keep):
            while tally.frames < FRAMES:
                pass
            return super().frame(y, keep)

    kspace, tally = load_kspace("raw.h5"), Tally()
    clip = replay(kspace, Slow, tally, first=1, room=2, speed=1e6)
    assert clip.present is not None and clip.present.sum() == FRAMES - tally.dropped < FRAMES
    assert not clip.data[0, 0, ~clip.present[0]].any() and clip.data[0, 0, clip.present[0]].any()


def test_latency_is_of_frames_that_came_when_those_held_back_were_done(here, monkeypatch):
    monkeypatch.setattr("medseq.stream.session.time.monotonic", lambda: 3.0)
    kspace = load_kspace("raw.h5")
    frames = [Frame(0, t, kspace.data[:, :, t : t + 1], kspace.keep[:, :, t : t + 1], 1.0 + t) for t in range(4)]
    done = reconstructed([Start(0, kspace, frames[:1]), *frames[1:]], Quick)
    assert [each.live for each in done] == [False, False, True, True]


def test_several_slices_are_played_side_by_side(tmp_path):
    clip = simulate_cine(5, (32, 32), 2)
    kspace = acquire(clip, coils=3, acceleration=1)
    played = replay(kspace, Quick, Tally(), first=2, speed=None)
    torch.testing.assert_close(played.data, Quick(kspace).frame(kspace.data, kspace.keep))


def test_the_replay_writes_its_record(here, capsys):
    assert command("stream --replay raw.h5 -o out/played.nii.gz --prior tiny.safetensors --calibrate 2 --wait") == 0
    assert "6 images; latency p50" in capsys.readouterr().out
    record = json.loads(Path("out/played.run.json").read_text())
    assert record["result"]["images"] == FRAMES and record["inputs"][0]["name"] == "raw.h5"
    played = load_clip("out/played.nii.gz")
    np.testing.assert_allclose(played.affine, load_clip("cine.nii.gz").affine, atol=1e-4)


def test_the_sample_is_played_by_the_shipped_prior(tmp_path, capsys):
    """The images are large enough for few lines to be computed apart, and frames of the window have none."""
    sample = Path(__file__).parent.parent / "sample_data"
    assert command(f"stream --replay {sample / 'cine.h5'} -o {tmp_path / 'played.nii.gz'} --wait --device cpu") == 0
    truth, played = (load_clip(path).data.abs() for path in (sample / "cine_truth.nii.gz", tmp_path / "played.nii.gz"))
    kspace = load_kspace(sample / "cine.h5")
    maps = estimate_maps(kspace)
    zeros = zero_filled(kspace.data, sense_operator(kspace.keep, maps)).abs()
    assert psnr(played[:, :, 4:], truth[:, :, 4:]) > psnr(zeros[:, :, 4:], truth[:, :, 4:]) + 4


def test_what_cannot_be_played_or_served_is_refused(here, capsys):
    spokes = golden_radial(FRAMES, (SIZE, SIZE), 16)
    save_kspace(acquire(load_clip("cine.nii.gz"), coils=2, trajectory=spokes), here / "radial.h5")
    tiny = " --prior tiny.safetensors"
    fails(capsys, "stream --replay radial.h5 -o x.nii.gz" + tiny, 4, "radial.h5", "trajectory")
    fails(capsys, "stream --replay raw.h5", 2, "-o")
    fails(capsys, "stream -o x.nii.gz", 2, "--replay")
    fails(capsys, "stream --speed 2", 2, "--replay")
    fails(capsys, "stream --replay raw.h5 -o x.nii.gz --log y", 2, "--log")
    fails(capsys, "stream --replay raw.h5 -o x.nii.gz --wait --speed 2", 2, "--wait")
    fails(capsys, "stream --replay raw.h5 -o raw.h5", 2, ".nii")
    for impossible in ("--timeout 0", "--timeout nan", "--timeout 1e30", "--queue 0", "--calibrate 0", "--speed 0"):
        fails(capsys, f"stream --listen nowhere {impossible}", 2, *impossible.split()[:1])
    fails(capsys, "stream --replay no.h5 -o x.nii.gz", 4, "no.h5")
    fails(capsys, "stream --listen nowhere" + tiny, 2, "nowhere", "HOST:PORT")
    fails(capsys, "stream --listen 127.0.0.1:0 --log ." + tiny, 2, "folder")
    with serving() as served:
        fails(capsys, f"stream --listen 127.0.0.1:{served.port}" + tiny, 5, str(served.port), "--listen")
    assert not list(here.glob("x*"))


@pytest.mark.parametrize(
    ("host", "words"),
    [("127.0.0.1", "this machine only"), ("localhost", "this machine only"), ("0.0.0.0", "everybody")],
)
def test_where_it_listens_is_said(here, monkeypatch, capsys, host, words):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr("socket.socket.accept", interrupted)
    assert command(f"stream --listen {host}:0 --prior tiny.safetensors") == 130
    assert words in capsys.readouterr().err.splitlines()[0]


def test_the_client_in_the_document_gets_every_image(program):
    page = Path(__file__).parent.parent / "docs" / "streaming.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    words = [sys.executable, "-c", code, str(program.port), "raw.h5"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and [line.split(":")[0] for line in done.stdout.splitlines()] == [
        f"image {number}" for number in range(1, FRAMES + 1)
    ], done.stderr + done.stdout


@pytest.mark.parametrize(
    ("address", "place"),
    [("localhost:9002", ("localhost", 9002)), ("[::1]:80", ("::1", 80)), ("10.0.0.1:0", ("10.0.0.1", 0))],
)
def test_addresses(address, place):
    assert parse_address(address) == place


@pytest.mark.parametrize("address", ["", "localhost", ":9002", "localhost:", "localhost:x", "localhost:65536", "a:-1"])
def test_addresses_that_are_none(address):
    with pytest.raises(UsageError, match="HOST:PORT"):
        parse_address(address)


@given(st.lists(st.floats(1e-5, 100), min_size=1, max_size=300), st.floats(0.01, 1))
def test_quantiles_are_true_to_one_per_cent(seconds, share):
    latency = Latency()
    for each in seconds:
        latency.add(each)
    assert latency.longest == max(seconds)
    exact = np.quantile(seconds, share, method="inverted_cdf")
    np.testing.assert_allclose(latency.quantile(share), exact, rtol=0.0101)
    assert Latency().quantile(0.5) is None


def memory(process: subprocess.Popen[str]) -> int:
    return psutil.Process(process.pid).memory_info().rss


@pytest.mark.soak
@pytest.mark.parametrize(("kind", "share"), [("quick", 120), ("causal", 60)])
def test_memory_does_not_grow_with_frames(kind, share, times):
    count, size, coils = times(share, 10_000), 64, 8
    scanner = Scanner(encoded=(size, size), recon=(size, size), coils=coils)
    data = np.stack([readout.data for readout in scanner.lines(np.zeros((1, 3)))])
    lines = [
        acquisition(data[y], y, 0, flags=LAST_IN_REPETITION if y == size - 1 else 0, position=(0, 0, 0))
        for y in range(size)
    ]
    readouts = np.frombuffer(b"".join(lines), np.uint8).reshape(size, -1).copy()
    place = 2 + ismrmrd.AcquisitionHeader.idx.offset + ismrmrd.EncodingCounters.repetition.offset
    child = Path(__file__).with_name("stream_child.py")
    with subprocess.Popen([sys.executable, str(child), kind], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        try:
            with Client(int(run.stdout.readline())) as client:
                client.say(CONFIG + header(scanner))
                for t in range(count):
                    readouts[:, place : place + 2] = np.frombuffer(struct.pack("<H", t % 65536), np.uint8)
                    client.say(readouts.tobytes())
                    for _ in range(4 if t == 3 else t > 3):
                        assert client.read(2) == struct.pack("<H", 1022)
                        client.image()
                    if t == count // 3:
                        before = memory(run)
                grown = memory(run) - before
        finally:
            run.kill()
    held = (count - count // 3) * data.nbytes
    print(f"\n{count} frames, {held >> 20} MiB, after a third of them: memory grew by {grown >> 10} KiB")
    assert grown < 8 << 20 < held


def test_the_mask_of_each_frame_reaches_the_reconstruction():
    made: list[Quick] = []

    def begin(kspace: KSpace) -> Quick:
        made.append(Quick(kspace))
        return made[0]

    with serving(begin, first=2, patient=True) as served:
        served.ask(CONFIG + header() + frame(0) + frame(1) + frame(2, [3, 12, 20]) + struct.pack("<H", 4))
    assert made[0].told == [24, 24, 3]
