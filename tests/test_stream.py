"""Frames as they arrive: a client written from the protocol's description, and whatever it does wrong."""

from __future__ import annotations

import re
import socket
import struct
import time
from collections.abc import Iterator

import ismrmrd
import numpy as np
import pytest
import torch
from mrd_client import (
    CALIBRATION,
    CLOSE,
    CONFIG,
    LAST_IN_REPETITION,
    NOISE,
    SAMPLES,
    Answer,
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

assert ismrmrd


@pytest.fixture
def served() -> Iterator[Served]:
    with serving(first=3, patient=True, timeout=20) as server:
        yield server


def test_each_frame_comes_back_as_an_image_in_its_place(served):
    answer = served.ask(stream(7, time=123))
    assert answer.closed and answer.texts == [] and len(answer.images) == 7
    for number, (head, pixels, attributes) in enumerate(answer.images):
        np.testing.assert_array_equal(head["matrix"], [32, 24, 1])
        np.testing.assert_allclose(head["fov"], [320, 240, 6], rtol=1e-6)
        y, x = np.unravel_index(pixels.argmax(), pixels.shape)
        there = head["position"] + (x - 16) * 10 * head["read"] + (y - 12) * 10 * head["phase"]
        np.testing.assert_allclose(there, SOURCE, atol=1e-3)
        assert head["counters"].tolist() == [0, 0, 0, 0, number, 0]
        assert (head["index"], head["series"], head["type"], head["time"]) == (number + 1, 1, 1, 123)
        # two coils of 1 and 1 + i of a point of intensity 1 + number, on a grid of 768 orthonormal samples
        np.testing.assert_allclose(pixels.max(), np.sqrt(3 * 768) * (1 + number), rtol=1e-4)
        assert float(re.search("medseq_latency_ms</name><value>(.*?)<", attributes)[1]) >= 0
    assert served.ended[0][0] is None
