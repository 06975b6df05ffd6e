"""Targets of raw data: ISMRMRD, fastMRI, CMRxRecon (MATLAB), BART and Siemens twix."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import scipy.io
import torch
from raw_examples import example
from scanner import SOURCE, Scanner, noise_scan
from scanner import write as write_scan
from twix_scanner import NOISE, PATREFSCAN, Measurement, write_vb, write_vd

from fuzz import hdf5_changes
from fuzz.chance import changed_bytes, changed_text
from fuzz.target import Target
from medseq.clip import KSpace
from medseq.io.kspace import load_kspace, save_kspace

_TINY = Scanner(encoded=(8, 6), encoded_fov=(80, 60), recon=(8, 6), recon_fov=(80, 60))
# Seconds by the clock: the children have limits of their own, in time of a processor that others use too.
_PATIENCE = 60
_BETWEEN = b"\n=====\n"  # header and samples of BART, which are two files


def _reads(name: str) -> Callable[[bytes, Path], None]:
    def read(data: bytes, folder: Path) -> None:
        (folder / name).write_bytes(data)
        load_kspace(folder / name)

    return read


fuzz_ismrmrd, fuzz_fastmri = _reads("a.mrd"), _reads("a.h5")
fuzz_cmrxrecon, fuzz_twix = _reads("a.mat"), _reads("a.dat")


def fuzz_bart(data: bytes, folder: Path) -> None:
    header, _, samples = data.partition(_BETWEEN)
    (folder / "a.hdr").write_bytes(header)
    (folder / "a.cfl").write_bytes(samples)
    load_kspace(folder / "a.cfl")


def _scans(folder: Path) -> Sequence[bytes]:
    noise = noise_scan(np.random.default_rng(0).normal(size=(2, 64)) * (1 + 0j))
    lines = [*_TINY.lines(SOURCE[None]), *_TINY.lines(SOURCE[None], repetition=1)]
    plain = write_scan(folder / "plain.h5", _TINY.xml(), [noise, *lines])
    one = example(2, 2, 2, 11, 8)
    calibrated = KSpace(one.data, one.keep, None, 0.1, one.affine, one.times, None, calibration=one.data[:, :, :1])
    save_kspace(one, folder / "own.h5")
    save_kspace(calibrated, folder / "calibrated.h5")
    return [path.read_bytes() for path in (plain, folder / "own.h5", folder / "calibrated.h5")]


def _saved(name: str) -> Callable[[Path], Sequence[bytes]]:
    def seeds(folder: Path) -> Sequence[bytes]:
        made = []
        for coils in (2, 1):
            save_kspace(_one_frame(coils), folder / name)
            made.append((folder / name).read_bytes())
        return made

    return seeds


def _one_frame(coils: int) -> KSpace:
    full = example(2, coils, 1, 20, 8)
    keep = torch.ones(1, 1, 1, 20, 1, dtype=torch.bool)
    keep[..., ::3, :] = False
    return KSpace(full.data * keep, keep, None, None, full.affine)


def _matlab(folder: Path) -> Sequence[bytes]:
    """Version 7.3, and the older one, which a child process reads."""
    scipy.io.savemat(folder / "old.mat", {"kspace": np.ones((4, 3, 2, 1, 2)) * (1 + 1j)}, do_compression=False)
    scipy.io.savemat(folder / "packed.mat", {"kspace_full": np.ones((4, 3, 2)) * 1j}, do_compression=True)
    return [*_saved("new.mat")(folder), *(path.read_bytes() for path in folder.glob("[op]*.mat"))]


def _pairs(folder: Path) -> Sequence[bytes]:
    save_kspace(example(2, 2, 2, 11, 4), folder / "a.cfl")
    header, samples = ((folder / f"a.{ending}").read_bytes() for ending in ("hdr", "cfl"))
    return [header + _BETWEEN + samples, b"# Dimensions\n2 2 1 1\n" + _BETWEEN + samples[:32]]


def _twix(folder: Path) -> Sequence[bytes]:
    readouts = [(line, 0) for line in Scanner((16, 6), (160, 60), (8, 6), (80, 60)).lines(SOURCE[None])]
    noise = (noise_scan(np.random.default_rng(0).normal(size=(2, 16)) * (1 + 0j)), NOISE)
    extra = (readouts[0][0], PATREFSCAN)
    measured = Measurement(Scanner((16, 6), (160, 60), (8, 6), (80, 60)), [noise, extra, *readouts])
    write_vb(folder / "vb.dat", measured)
    write_vd(folder / "vd.dat", Measurement(measured.scanner, [noise]), measured)
    return [path.read_bytes() for path in sorted(folder.iterdir())]


def _changed_matlab(data: bytes, chance: random.Random) -> bytes:
    """Of the older version only where the input is: each of them starts a process."""
    if not data.startswith(b"MATLAB 7.3") and chance.random() < 0.2:
        return changed_bytes(data, chance)
    return _changed_hdf5_matlab(data, chance)


def _changed_pair(data: bytes, chance: random.Random) -> bytes:
    header, between, samples = data.partition(_BETWEEN)
    if chance.random() < 0.7:
        text = changed_text(
            header.decode("utf-8", "replace"), chance, ("0", "1", "-1", "2 " * 20, "4294967296", "# Dimensions")
        )
        header = text.encode("utf-8", "replace")
    else:
        samples = changed_bytes(samples, chance)
    return header + between + samples


def _changed_twix(data: bytes, chance: random.Random) -> bytes:
    """In the protocol's text, the headers before it, or anywhere."""
    start, end = data.find(b"### ASCCONV"), data.rfind(b"### ASCCONV END")
    if 0 <= start < end and chance.random() < 0.3:
        text = changed_text(data[start:end].decode("latin-1"), chance, ("0x1", "0xffffffff", "-1", "[0]", "= ="))
        return data[:start] + text.encode("utf-8", "replace")[: end - start].ljust(end - start) + data[end:]
    return changed_bytes(data, chance, chance.choice((0, 0, max(end, 0))), chance.choice((None, None, 64)))


_changed_fastmri = hdf5_changes.changer(_saved("a.fastmri.h5"))
_changed_hdf5_matlab = hdf5_changes.changer(_saved("new.mat"))

ISMRMRD = Target("ismrmrd", 10_000, _scans, fuzz_ismrmrd, hdf5_changes.changer(_scans), _PATIENCE)
FASTMRI = Target("fastmri", 5_000, _saved("a.fastmri.h5"), fuzz_fastmri, _changed_fastmri, _PATIENCE)
CMRXRECON = Target("cmrxrecon", 2_000, _matlab, fuzz_cmrxrecon, _changed_matlab, _PATIENCE)
BART = Target("bart", 200_000, _pairs, fuzz_bart, _changed_pair)
TWIX = Target("twix", 10_000, _twix, fuzz_twix, _changed_twix)
