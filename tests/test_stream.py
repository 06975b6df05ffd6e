"""Frames as they arrive: a client written from the protocol's description, and whatever it does wrong."""

from __future__ import annotations

import io
import re
import socket
import struct
import time
import warnings
from collections.abc import Iterator

import ismrmrd
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mrd_client import (
    ACQUISITION,
    CALIBRATION,
    CLOSE,
    CONFIG,
    LAST_IN_REPETITION,
    NOISE,
    SAMPLES,
    Client,
    Quick,
    Served,
    acquisition,
    frame,
    header,
    serving,
    stream,
    text,
)
from scanner import PHASE, POSITION, QUIET, READ, SOURCE, Scanner

from medseq.errors import InputError, MedseqWarning
from medseq.io.mrd_stream import messages
from medseq.stream.collector import Collector
from medseq.stream.tally import Tally


@pytest.fixture
def served() -> Iterator[Served]:
    with serving(first=3, patient=True, timeout=20) as server:
        yield server


def test_each_frame_comes_back_as_an_image_in_its_place(served):
    lines = [acquisition((1 + t) * SAMPLES[y], y, t, time=1000 * t + y) for t in range(7) for y in range(24)]
    answer = served.ask(CONFIG + header() + b"".join(lines) + CLOSE)
    assert answer.closed and answer.texts == [] and len(answer.images) == 7
    for number, (head, pixels, attributes) in enumerate(answer.images):
        np.testing.assert_array_equal(head["matrix"], [32, 24, 1])
        np.testing.assert_allclose(head["fov"], [320, 240, 6], rtol=1e-6)
        y, x = np.unravel_index(pixels.argmax(), pixels.shape)
        there = head["position"] + (x - 16) * 10 * head["read"] + (y - 12) * 10 * head["phase"]
        np.testing.assert_allclose(there, SOURCE, atol=1e-3)
        assert head["counters"].tolist() == [0, 0, 0, 0, number, 0]
        assert (head["index"], head["series"], head["type"], head["time"]) == (number + 1, 1, 1, 1000 * number + 12)
        # two coils of 1 and 1 + i of a point of intensity 1 + number, on a grid of 768 orthonormal samples
        np.testing.assert_allclose(pixels.max(), np.sqrt(3 * 768) * (1 + number), rtol=1e-4)
        assert float(re.search("medseq_latency_ms</name><value>(.*?)<", attributes)[1]) >= 0
    assert served.outcome(0)[0] is None


def test_frames_end_with_their_last_line_or_with_the_next_frame(served):
    with Client(served.port) as client:
        client.say(CONFIG + header())
        for t in range(3):
            client.say(frame(t, range(23)) + acquisition(SAMPLES[23], 23, t, flags=LAST_IN_REPETITION))
        # the first three calibrate; nothing of the fourth has come
        assert [client.read(2) == struct.pack("<H", 1022) and client.image()[0]["index"] for _ in range(3)] == [1, 2, 3]
        answer = client.say(frame(3) + CLOSE).listen()
    assert len(answer.images) == 1 and answer.closed


@pytest.mark.parametrize(("place", "counter"), [(4, "repetition"), (3, "phase")])
def test_either_counter_numbers_the_frames(served, place, counter):
    frames = [frame(t) if counter == "repetition" else frame(0, phase=t) for t in range(5)]
    answer = served.ask(CONFIG + header() + b"".join(frames) + CLOSE)
    assert [head["counters"].tolist()[place] for head, *_ in answer.images] == list(range(5))


def test_slices_are_frames_of_their_own(served):
    content = b"".join(
        frame(t, slice=s, position=POSITION + 8 * s * np.cross(READ, PHASE)) for t in range(4) for s in (0, 1)
    )
    answer = served.ask(CONFIG + header() + content + CLOSE)
    seen = [(int(head["counters"][1]), int(head["counters"][4])) for head, *_ in answer.images]
    assert sorted(seen) == [(s, t) for s in (0, 1) for t in range(4)]
    for s in (0, 1):
        assert [t for slice, t in seen if slice == s] == [0, 1, 2, 3]
        position = next(head["position"] for head, *_ in answer.images if head["counters"][1] == s)
        np.testing.assert_allclose(position, POSITION + 8 * s * np.cross(READ, PHASE), atol=1e-4)


def test_what_is_late_missing_or_short_is_survived_and_counted():
    made: list[Quick] = []

    def begin(kspace):
        made.append(Quick(kspace))
        return made[0]

    with serving(begin, first=2, patient=True) as served:
        whole = [frame(t) for t in range(9)]
        late, short = acquisition(SAMPLES[0], 0, 2), frame(4, range(6, 20))
        answer = served.ask(
            CONFIG + header() + b"".join([*whole[:4], late, late, short, whole[7], frame(8, [12])]) + CLOSE
        )
        fault, tally = served.outcome(0)
    assert fault is None and len(answer.images) == 7
    assert made[0].told == [24, 24, 24, 24, 14, -2, 24, 1]
    assert (tally.late, tally.missed, tally.short, tally.dropped) == (2, 2, 2, 0)
    assert (tally.frames, tally.images) == (7, 7)
    assert "<name>medseq_lost_before</name><value>2<" in answer.images[5][2]


def test_frames_held_back_are_reconstructed_together():
    told: list[tuple[int, int]] = []

    class Together(Quick):
        def first(self, y, keep):
            told.append((y.shape[2], keep.shape[2]))
            return super().first(y, keep)

    with serving(Together, first=3) as served:
        answer = served.ask(stream(5))
    assert told == [(3, 3)]
    assert [int(head["counters"][4]) for head, *_ in answer.images] == [0, 1, 2, 3, 4]


def test_when_reconstruction_is_slow_the_oldest_frames_are_dropped():
    made: list[Quick] = []

    class Slow(Quick):
        def frame(self, y, keep):
            made.append(self)
            while served.tally.dropped < 15:  # all have come
                time.sleep(0.001)
            return super().frame(y, keep)

    with serving(Slow, first=2, room=3) as served:
        answer = served.ask(stream(20))
        fault, tally = served.outcome(0)
    assert fault is None and answer.closed
    assert [int(head["counters"][4]) for head, *_ in answer.images] == [0, 1, 17, 18, 19]
    assert made[0].told == [24, 24, -15, 24, 24, 24]
    assert (tally.frames, tally.images, tally.dropped, tally.missed) == (20, 5, 15, 0)


def test_noise_scans_and_calibration_scans_reach_the_reconstruction():
    made: list[Quick] = []

    def begin(kspace):
        made.append(Quick(kspace))
        return made[-1]

    rng = np.random.default_rng(0)
    mixing = np.array([[2.0, 0.0], [1.0, 1.0]])
    noise = mixing @ (rng.normal(size=(2, 20_000)) + 1j * rng.normal(size=(2, 20_000)))
    apart = Scanner(header={})
    xml = apart.xml()
    xml.encoding[0].parallelImaging = ismrmrd.xsd.parallelImagingType(
        accelerationFactor=ismrmrd.xsd.accelerationFactorType(kspace_encoding_step_1=1, kspace_encoding_step_2=1),
        calibrationMode=ismrmrd.xsd.calibrationModeType.SEPARATE,
    )
    scan = b"".join(acquisition(5 * SAMPLES[y], y, 0, flags=CALIBRATION) for y in range(8, 16))
    with serving(begin, first=2, patient=True) as served:
        answer = served.ask(
            CONFIG
            + text(3, xml.toXML())
            + acquisition(noise, 0, 0, flags=NOISE)
            + scan
            + frame(0)
            + frame(1)
            + frame(2, [0])
            + acquisition(noise, 0, 2, flags=NOISE)
            + frame(2, range(1, 24))
            + CLOSE
        )
        fault, tally = served.outcome(0)
    assert fault is None and len(answer.images) == 3 and (tally.frames, tally.skipped) == (3, 1)
    covariance = made[0].kspace.noise
    np.testing.assert_allclose(covariance.numpy(), mixing @ mixing.T, atol=0.15)
    assert made[0].kspace.calibration is not None
    assert made[0].kspace.calibration.any(-1).sum().item() == 2 * 8
    assert made[0].kspace.frames == 2


def test_a_stream_shorter_than_its_calibration_is_reconstructed(served):
    assert len(served.ask(stream(2)).images) == 2
    assert len(served.ask(CONFIG + header() + CLOSE).images) == 0
    assert [served.outcome(client)[0] for client in (0, 1)] == [None, None]


def test_counters_may_pass_their_end(served):
    answer = served.ask(stream(8, first=65_532))
    assert [int(head["counters"][4]) for head, *_ in answer.images] == [65_532, 65_533, 65_534, 65_535, 0, 1, 2, 3]


def test_text_and_waveforms_are_passed_over(served):
    # version, flags, uid, counter, time, samples, channels, interval, kind: aligned to 8 bytes
    waveform = struct.pack("<HxxxxxxQIIIHHfHxx", 1, 0, 7, 0, 0, 5, 2, 2.5, 0) + bytes(4 * 5 * 2)
    aside = struct.pack("<H", 1026) + waveform + text(5, "hello\0")
    answer = served.ask(CONFIG + text(5, "first") + header() + aside + frame(0) + aside + frame(1) + CLOSE)
    assert len(answer.images) == 2 and served.outcome(0)[0] is None


def radial_header() -> bytes:
    xml = QUIET.xml()
    xml.encoding[0].trajectory = ismrmrd.xsd.trajectoryType.RADIAL
    return text(3, xml.toXML())


def few_channels() -> bytes:
    system = ismrmrd.xsd.acquisitionSystemInformationType(receiverChannels=1)
    return text(3, Scanner(header={"acquisitionSystemInformation": system}).xml().toXML())


BEGUN = CONFIG + header() + frame(0) + frame(1) + frame(2) + frame(3)
NAN = np.full_like(SAMPLES[0], np.nan)
HALF = [samples[:, 8:] for samples in SAMPLES]
FAULTS = {
    "no such message": (CONFIG + struct.pack("<H", 4711) + bytes(99), "4711"),
    "a query of Gadgetron": (struct.pack("<H", 6) + bytes(99), "kind 6"),
    "another protocol": (b"GET / HTTP/1.1\r\n\r\n", "kind"),
    "readouts first": (CONFIG + frame(0), "a readout before the header"),
    "no header": (CONFIG + CLOSE, "before it sent a header"),
    "an endless header": (CONFIG + struct.pack("<HI", 3, 2**32 - 1) + bytes(999), "4294967295"),
    "an endless text": (BEGUN + struct.pack("<HI", 5, 2**31), "2147483648"),
    "no XML": (CONFIG + text(3, b"\xff\xfe\xfd"), "no valid ISMRMRD header"),
    "XML of another kind": (CONFIG + text(3, "<html/>"), "no valid ISMRMRD header"),
    "deep XML": (CONFIG + text(3, "<a>" * 100_000), "no valid ISMRMRD header"),
    "a document type": (CONFIG + text(3, b'<!DOCTYPE a [<!ENTITY a "ha">]><a>&a;</a>'), "document type"),
    "a matrix of words": (CONFIG + header().replace(b"<x>32</x>", b"<x>xx</x>"), "no valid ISMRMRD header"),
    "a name in place of a number": (CONFIG + header().replace(b"<x>320.0</x>", b"<x>Mr. D</x>"), "no valid ISMRMRD"),
    "two headers": (BEGUN + header(), "a second header"),
    "a configuration again": (BEGUN + CONFIG, "a configuration after"),
    "no samples": (BEGUN + acquisition(SAMPLES[0], 0, 4, samples=0), "0 samples"),
    "absurd sizes": (BEGUN + acquisition(SAMPLES[0], 0, 4, samples=65535, channels=65535), "65535"),
    "a readout too large": (BEGUN + acquisition(SAMPLES[0], 0, 4, samples=32768, channels=1024), "268435456"),
    "an absurd trajectory": (BEGUN + acquisition(SAMPLES[0], 0, 4, trajectory=np.zeros((32, 99))), "99 dimensions"),
    "a line beyond the matrix": (BEGUN + acquisition(SAMPLES[0], 999, 4) + CLOSE, "matrix"),
    "no such encoding": (BEGUN + acquisition(SAMPLES[0], 0, 4, encoding=7) + CLOSE, "encoding 7"),
    "other coils": (BEGUN + acquisition(SAMPLES[0][:1], 0, 4) + CLOSE, "other coils"),
    "more coils than the header": (CONFIG + few_channels() + frame(0) + CLOSE, "channels"),
    "a longer readout": (BEGUN + acquisition(np.tile(SAMPLES[0], 9), 0, 4) + CLOSE, "288 samples"),
    "partial echoes": (
        CONFIG + header() + b"".join(acquisition(HALF[y], y, 0, centre=8) for y in range(24)) + CLOSE,
        "partial echoes",
    ),
    "NaN": (BEGUN + acquisition(NAN, 0, 4) + CLOSE, "not finite"),
    "NaN at once": (CONFIG + header() + acquisition(NAN, 0, 0) + CLOSE, "not finite"),
    "nothing but zeros": (CONFIG + header() + acquisition(0 * SAMPLES[0], 0, 0) + CLOSE, "every sample is zero"),
    "a place that is none": (BEGUN + frame(4, position=(np.nan, 0, 0)) + CLOSE, "finite"),
    "a place beyond all": (BEGUN + frame(4, position=(1e38, -1e38, 0)) + CLOSE, "slice moved"),
    "a slice that moves": (BEGUN + frame(4, position=POSITION + 3) + CLOSE, "slice moved"),
    "both counters": (BEGUN + frame(4, phase=1) + CLOSE, "both phases and repetitions"),
    "a jump": (BEGUN + frame(9000), "8996 frames are left out"),
    "many slices": (BEGUN + b"".join(acquisition(SAMPLES[0], 0, 0, slice=s) for s in range(40)), "32 slices"),
    "a radial scan": (CONFIG + radial_header() + frame(0) + CLOSE, "radial"),
    "an image": (BEGUN + struct.pack("<H", 1022) + bytes(198 + 8), "image"),
    "an image of unknown pixels": (BEGUN + struct.pack("<HHH", 1022, 1, 99) + bytes(198 + 8), "unknown type 99"),
}


def assert_served(served: Served) -> None:
    """A good client gets what it wants."""
    answer = served.ask(stream(4))
    assert answer.closed and len(answer.images) == 4
    assert served.outcome(-1)[0] is None


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_and_the_next_client_is_served(served, name):
    content, words = FAULTS[name]
    answer = served.ask(content)
    assert answer.closed, "the server said that it closes"
    (told,) = answer.texts
    assert words in told and told.startswith("medseq: error: ") and told.isprintable() and "Mr. D" not in told
    assert served.outcome(0)[0] == told.removeprefix("medseq: ")
    assert_served(served)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.999])
def test_a_client_that_is_killed_at_any_point(served, share):
    content = stream(6)
    with Client(served.port) as client:
        client.say(content[: int(share * len(content))])
        # what a kernel does for a killed process that had not read everything
        client.line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert_served(served)
    assert served.outcome(0)[0] == "the client went away before it closed"


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.999])
def test_a_client_that_stalls_is_let_go(share):
    with serving(first=3, patient=True, timeout=0.2) as served:
        content = stream(6)
        answer = served.ask(content[: int(share * len(content))])
        assert answer.closed and "sent nothing for 0.2 s" in answer.texts[0]
        assert_served(served)


def test_a_client_that_drips_is_let_go(monkeypatch):
    monkeypatch.setattr("medseq.stream.connection._PARTING", 0.2)
    with serving(timeout=0.3) as served:
        with Client(served.port) as client:
            client.say(CONFIG[:10])
            with pytest.raises(ConnectionError):
                for _ in range(1000):
                    client.say(b"\0")
                    time.sleep(0.02)
        assert_served(served)
        assert "sent nothing" in served.outcome(0)[0]


def test_a_client_that_does_not_read_is_let_go(monkeypatch):
    monkeypatch.setattr("medseq.stream.connection._PARTING", 0.2)

    class Large(Quick):
        def frame(self, y, keep):
            return torch.ones(1, 1, 1, 2000, 2000, dtype=torch.complex64)

    with serving(Large, first=1, patient=True, timeout=0.3) as served, Client(served.port) as client:
        client.say(CONFIG + header() + frame(0) + frame(1) + frame(2))
        assert "took no image" in served.outcome(0)[0]


def test_whatever_fails_in_here_is_told_and_the_next_client_is_served():
    class Broken(Quick):
        def frame(self, y, keep):
            if len(served.ended) == 0:
                while served.tally.frames < 6:  # three first, two that wait, and one more for which there is no room
                    time.sleep(0.001)
                raise ZeroDivisionError("by nothing")
            return super().frame(y, keep)

    with serving(Broken, first=3, patient=True) as served:
        answer = served.ask(stream(12))  # more than may wait
        assert "internal error: ZeroDivisionError" in answer.texts[0] and answer.closed
        assert_served(served)


READOUT = 2 + ACQUISITION.size + SAMPLES[0].nbytes


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 95), st.integers(2, 2 + ACQUISITION.size - 1), st.integers(0, 255)), max_size=4)
)
def test_readouts_whose_headers_are_damaged_become_frames_or_a_fault(damage):
    content = bytearray(b"".join(frame(t) for t in range(4)) + CLOSE)
    for readout, place, value in damage:
        content[readout * READOUT + place] = value
    collector = Collector(QUIET.xml(), 2, Tally())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MedseqWarning)
        try:
            source = io.BytesIO(content)
            for readout in messages(source.read):
                for item in collector.add(readout):
                    assert item.slice >= 0
            list(collector.end())
        except (InputError, ValueError, struct.error) as fault:  # the latter two of a stream that is cut short
            assert isinstance(fault, InputError) or source.tell() == len(content)


def test_a_matrix_out_of_all_proportion_takes_no_memory(monkeypatch, served):
    monkeypatch.setattr("medseq.stream.collector._MOST_PLACES", 1000)
    assert "too large" in served.ask(stream(4)).texts[0]
    monkeypatch.undo()
    assert_served(served)


def test_readouts_that_never_become_a_frame_take_no_memory_without_end(monkeypatch, served):
    monkeypatch.setattr("medseq.stream.collector._MOST_HELD", 100_000)
    answer = served.ask(CONFIG + header() + 20 * frame(0))
    assert "wait to become frames" in answer.texts[0]
    assert_served(served)
