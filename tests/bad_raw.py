"""Raw data of which nothing can be reconstructed: ISMRMRD, fastMRI, BART, CMRxRecon and Siemens twix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import ismrmrd
import numpy as np
import scipy.io
from bad_case import RAW, Case, Make, cut, flipped, others
from ismrmrd import xsd
from raw_examples import example
from scanner import QUIET, SOURCE, Scanner, write
from test_raw_formats_twix import OVERSAMPLED, readouts
from test_raw_refusals import REFUSED, broken, each, encoding, two_frames
from twix_scanner import Measurement, write_vb, write_vd

from medseq.io import save_kspace

NAN, INF = float("nan"), float("inf")
Readouts = list[ismrmrd.Acquisition]


def scanned(change: Callable[[xsd.ismrmrdHeader, Readouts], object]) -> Make:
    """An ISMRMRD file of two frames whose header or readouts are changed."""

    def made(path: Path) -> None:
        header, lines = QUIET.xml(), two_frames()
        change(header, lines)
        write(path, header, lines)

    return made


def good(path: Path) -> None:
    write(path, QUIET.xml(), two_frames())


def in_file(change: Callable[[h5py.File], object], make: Make = good) -> Make:
    """A file whose HDF5 content is changed."""

    def made(path: Path) -> None:
        make(path)
        with h5py.File(path, "r+") as file:
            change(file)

    return made


def xml(change: Callable[[str], str | bytes]) -> Make:
    """A file whose XML header is changed as text."""

    def rewritten(file: h5py.File) -> None:
        text = file["dataset/xml"][0].decode()
        file["dataset/xml"][0] = change(text)

    return in_file(rewritten)


def matrix(**sizes: int) -> Make:
    return scanned(lambda h, r: vars(encoding(h).encodedSpace.matrixSize).update(sizes))


def _header() -> Iterator[tuple[str, Make, str]]:
    laughs = '<!DOCTYPE a [<!ENTITY a "ha">' + "".join(
        f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefghi", "bcdefghij", strict=True)
    )
    outside = '<!DOCTYPE a [<!ENTITY j SYSTEM "file:///etc/passwd">'
    for fault, doctype in (("of entities that grow without end", laughs), ("that asks for another file", outside)):
        yield f"XML {fault}", xml(lambda text, d=doctype: _with_entity(text, d)), ""
    yield "XML cut short", xml(lambda text: text[: len(text) // 2]), ""
    yield "XML of another kind", xml(lambda text: "<html/>"), ""
    yield "no XML", xml(lambda text: ""), ""
    yield "XML that is no text", xml(lambda text: b"\xff\xfe\xfd"), ""
    yield "XML nested 100000 deep", xml(lambda text: "<a>" * 100_000), ""
    for old, new in (("<x>32</x>", "<x>many</x>"), ("<x>32</x>", "<x>-32</x>"), ("<x>32</x>", "<x>1e9</x>")):
        yield f"a matrix of {new}", xml(lambda text, o=old, n=new: text.replace(o, n)), ""
    for size in ("NaN", "INF", "-320.0", "0.0", "none"):
        yield f"a field of view of {size}", xml(lambda text, s=size: text.replace("<x>320.0</x>", f"<x>{s}</x>")), ""
    yield "no encoding", scanned(lambda h, r: h.encoding.clear()), ""
    for kind in ("RADIAL", "SPIRAL", "GOLDENANGLE", "OTHER"):
        trajectory = xsd.trajectoryType[kind]
        yield (
            f"a {kind} trajectory",
            scanned(lambda h, r, t=trajectory: setattr(encoding(h), "trajectory", t)),
            "trajectory",
        )
    yield "a matrix of 100000 x 100000 and few lines", matrix(x=100_000, y=100_000), "lines of 32 samples"
    yield "a matrix of no lines", matrix(y=0), "impossible matrix"
    yield "a matrix of no columns", matrix(x=0), "impossible matrix"
    for space, sizes in (("x", 1_000_000), ("y", 1_000_000)):
        change = {space: sizes}
        yield (
            f"an image of {sizes} along {space}",
            scanned(lambda h, r, c=change: vars(encoding(h).reconSpace.matrixSize).update(c)),
            "",
        )
    yield "multiband", xml(_multiband), "multiband"


def _with_entity(text: str, doctype: str) -> str:
    start, end = text.partition("?>")[::2] if text.startswith("<?xml") else ("", text)
    return f"{start}{'?>' if start else ''}{doctype}]>{end.replace('Cartesian', '&j;').replace('cartesian', '&j;')}"


def _multiband(text: str) -> str:
    band = (
        "<parallelImaging><accelerationFactor><kspace_encoding_step_1>1</kspace_encoding_step_1>"
        "<kspace_encoding_step_2>1</kspace_encoding_step_2></accelerationFactor><multiband><spacing><dZ>10</dZ>"
        "</spacing><deltaKz>1</deltaKz><multiband_factor>3</multiband_factor><calibration>separable2D</calibration>"
        "<calibration_encoding>0</calibration_encoding></multiband></parallelImaging>"
    )
    place = text.index("</encodingLimits>") + len("</encodingLimits>")
    return text[:place] + band + text[place:]


def _readouts() -> Iterator[tuple[str, Make, str]]:
    yield "no readouts at all", in_file(lambda f: f["dataset"].__delitem__("data")), ""
    yield "an empty array of readouts", in_file(_emptied), ""
    for value in (NAN, INF):
        yield f"{value} in one sample", scanned(lambda h, r, v=value: r[5].data.__setitem__((1, 3), v)), "not finite"
        yield (
            f"{value} in every sample",
            scanned(lambda h, r, v=value: [x.data.__setitem__(slice(None), v) for x in r]),
            "not finite",
        )
    yield "a line beyond the matrix", scanned(lambda h, r: each(r[3:4], kspace_encode_step_1=60_000)), ""
    yield "every line one and the same", scanned(lambda h, r: each(r, kspace_encode_step_1=12)), ""
    yield "outer lines only", scanned(lambda h, r: each(r, kspace_encode_step_1=1)), ""
    yield "a phase of 65535", scanned(lambda h, r: each(r, phase=65_535, repetition=0)), ""
    yield "no coils", in_file(lambda f: _heads(f, active_channels=0)), ""
    yield "1000 coils", in_file(lambda f: _heads(f, active_channels=1000)), ""
    yield "65535 samples", in_file(lambda f: _heads(f, number_of_samples=65_535)), ""
    yield "no samples", in_file(lambda f: _heads(f, number_of_samples=0)), ""
    yield "a centre beyond the samples", scanned(lambda h, r: each(r, center_sample=31)), "does not fit"
    yield "trajectories of 65535 dimensions", in_file(lambda f: _heads(f, trajectory_dimensions=65_535)), ""
    yield "only noise", scanned(lambda h, r: [x.set_flag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT) for x in r]), "no image"
    yield "only navigators", scanned(lambda h, r: [x.set_flag(ismrmrd.ACQ_IS_NAVIGATION_DATA) for x in r]), "no image"
    yield "an infinite position", scanned(lambda h, r: each(r, position=[INF, 0, 0])), "not finite"
    yield "directions that are not finite", scanned(lambda h, r: each(r, read_dir=[NAN, 0, 0])), "not finite"
    yield "directions of no use", scanned(lambda h, r: each(r, phase_dir=[0.6, 0.8, 0])), "perpendicular"
    yield "a single coil of noise scans", scanned(lambda h, r: r.append(_noise(1))), "channels"
    yield "noise that is not finite", scanned(lambda h, r: r.append(_noise(2, NAN))), "not finite"
    yield "noise of a dead coil", scanned(lambda h, r: r.append(_noise(2, 0.0))), ""


def _noise(coils: int, value: float = 1.0) -> ismrmrd.Acquisition:
    noise = ismrmrd.Acquisition.from_array(np.full((coils, 64), value, np.complex64), sample_time_us=4.0)
    noise.set_flag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
    return noise


def _emptied(file: h5py.File) -> None:
    kind = file["dataset/data"].dtype
    del file["dataset/data"]
    file.create_dataset("dataset/data", (0,), kind, maxshape=(None,))


def _heads(file: h5py.File, **fields: int) -> None:
    rows = file["dataset/data"][:]
    for name, value in fields.items():
        rows["head"][name] = value
    file["dataset/data"][:] = rows


def _saved(ending: str, **changes: Any) -> Make:
    return lambda path: save_kspace(example(**changes), path)


def _replaced(name: str, value: Any, make: Make) -> Make:
    def change(file: h5py.File) -> None:
        if name in file:
            del file[name]
        if value is not None:
            file[name] = value

    return in_file(change, make)


def _fastmri() -> Iterator[tuple[str, Make, str]]:
    whole = _saved(".fastmri.h5", frames=1)
    shape = (2, 3, 32, 25)
    for fault, value, says in (
        ("of magnitudes", np.ones(shape, np.float32), "must be complex"),
        ("of two dimensions", np.ones((32, 25), np.complex64), "must be complex"),
        ("of five dimensions", np.ones((1, *shape), np.complex64), "must be complex"),
        ("of no slices", np.ones((0, *shape[1:]), np.complex64), "must be complex"),
        ("of NaN", np.full(shape, NAN, np.complex64), "not finite"),
        ("of zeros", np.zeros(shape, np.complex64), "zero"),
        ("of text", "k-space", "must be complex"),
    ):
        yield f"k-space {fault}", _replaced("kspace", value, whole), says
    yield "a mask of another length", _replaced("mask", np.ones(7, bool), whole), "a mask of"
    yield "a mask that keeps nothing", _replaced("mask", np.zeros(25, bool), whole), ""
    yield "a mask of two dimensions", _replaced("mask", np.ones((5, 5), bool), whole), "a mask of"
    for fault, text in (("none", ""), ("cut short", "<ismrmrdHeader><enc"), ("of HTML", "<html/>")):
        yield f"a header that is {fault}", _replaced("ismrmrd_header", text, whole), ""
    yield "an array that cannot be in so small a file", in_file(_absurd, whole), "small a file"
    for share in (0.1, 0.5, 0.95):
        yield f"cut after {share:.0%}", cut(whole, share), ""


def _absurd(file: h5py.File) -> None:
    del file["kspace"]
    file.create_dataset("kspace", (10_000, 64, 4096, 4096), np.complex64, chunks=(1, 1, 64, 64))


def _bart() -> Iterator[tuple[str, Make, str]]:
    def dimensions(text: str) -> Make:
        def made(path: Path) -> None:
            save_kspace(example(), path)
            path.with_suffix(".hdr").write_text(text)

        return made

    whole = _saved(".cfl")
    for text in (
        *("", "# Dimensions\n", "# Dimensions\nmany\n", "# Dimensions\n32 25 1 3 1\n", "# Dimensions\n-32 25\n"),
        *("# Dimensions\n0 25 1 3\n", "# Dimensions\n32 25 1 3 1 1 1 1 1 1 4 4 1 2\n", "# Dimensions\n1e3\n"),
        *("# Dimensions\n99999999999 99999999999\n", "# Dimensions\n1 25 32 3\n", "# Dimensions\n32 25 4 3\n"),
        *("# Dimensions\n32 25 1 3 2\n", "# Dimensions\n" + "2 " * 40, "# Sizes\n32 25\n", "\0" * 100),
    ):
        yield f"a header of {text[:40]!r}", dimensions(text), ""
    yield "no header", _and(whole, lambda path: path.with_suffix(".hdr").unlink()), ""
    yield "a header that is a folder", _and(whole, _folder_for_header), ""
    yield "a header of 20 MiB", dimensions("# Dimensions\n32 25\n" + "#" * (20 << 20)), "too large"
    for share in (0.0, 0.3, 0.99):
        yield f"samples cut after {share:.0%}", cut(whole, share), "its .hdr promises"
    yield "samples too many", _and(whole, lambda path: path.write_bytes(path.read_bytes() + bytes(8))), "longer"
    yield "samples of zero", _and(whole, lambda path: path.write_bytes(bytes(path.stat().st_size))), "zero"
    yield "samples of NaN", _and(whole, lambda path: path.write_bytes(b"\xff" * path.stat().st_size)), "not finite"


def _and(make: Make, change: Make) -> Make:
    def made(path: Path) -> None:
        make(path)
        change(path)

    return made


def _folder_for_header(path: Path) -> None:
    path.with_suffix(".hdr").unlink()
    path.with_suffix(".hdr").mkdir()


def _matlab() -> Iterator[tuple[str, Make, str]]:
    good_array = np.ones((8, 6, 2), np.complex64)
    for fault, arrays in (
        ("without k-space", {"mask04": good_array}),
        ("with two of them", {"kspace_full": good_array, "kus": good_array}),
        ("of magnitudes", {"kspace": np.ones((8, 6))}),
        ("of six dimensions", {"kspace": np.ones((8, 6, 1, 1, 1, 2), complex)}),
        ("of zeros", {"kspace": np.zeros((8, 6), complex)}),
        ("of NaN", {"kspace": np.full((8, 6), complex(NAN, 1))}),
        ("of text", {"kspace": "nothing"}),
        ("of cells", {"kspace": np.array([[1, "a"]], object)}),
        ("of no samples", {"kspace": np.ones((0, 6), complex)}),
        ("of nothing", {}),
    ):
        yield f"MATLAB 5 {fault}", lambda path, a=arrays: scipy.io.savemat(path, a), ""

    def old(path: Path) -> None:
        scipy.io.savemat(path, {"kspace": good_array + np.arange(2)})

    for share in (0.1, 0.5, 0.9, 0.99):
        yield f"MATLAB 5 cut after {share:.0%}", cut(old, share), ""
    new = _saved(".mat")
    for share in (0.05, 0.3, 0.9):
        yield f"MATLAB 7.3 cut after {share:.0%}", cut(new, share), ""
    yield "MATLAB 7.3 of magnitudes", _replaced("kspace", np.ones((2, 3, 4), np.float32), new), "not complex"
    yield "MATLAB 7.3 of six dimensions", _replaced("kspace", _pairs(1, 1, 1, 1, 2, 2), new), "must have 2 to 5"
    yield "MATLAB 7.3 of zeros", _replaced("kspace", _pairs(4, 4), new), "zero"
    yield "MATLAB 7.3 without k-space", _replaced("kspace", None, new), "no k-space"


def _pairs(*shape: int) -> np.ndarray:
    return np.zeros(shape, [("real", "<f4"), ("imag", "<f4")])


def _twix() -> Iterator[tuple[str, Make, str]]:
    def vd(path: Path, protocol: dict[str, Any] | None = None, lines: Readouts | None = None) -> None:
        write_vd(path, Measurement(OVERSAMPLED, [(x, 0) for x in lines or readouts()], protocol or {}))

    for protocol, says in (
        ({"sKSpace.ucTrajectory": "0x2"}, "radial"),
        ({"sKSpace.ucTrajectory": "0x4"}, "spiral"),
        ({"sKSpace.ucTrajectory": "0x63"}, ""),
        ({"sSliceArray.asSlice[0].dReadoutFOV": ""}, ""),
        ({"sSliceArray.asSlice[0].dReadoutFOV": "nan"}, ""),
        ({"sSliceArray.asSlice[0].dPhaseFOV": "0"}, ""),
        ({"sSliceAcceleration.lMultiBandFactor": 3}, "multiband"),
        ({"sKSpace.lBaseResolution": 0}, ""),
        ({"sKSpace.lPhaseEncodingLines": -1}, ""),
        ({"sKSpace.lBaseResolution": 100_000}, ""),
    ):
        yield f"a protocol with {protocol}", lambda path, p=protocol: vd(path, p), says
    for share in (0.001, 0.1, 0.5, 0.7, 0.99):
        yield f"VD cut after {share:.1%}", cut(vd, share), ""

    def vb(path: Path) -> None:
        write_vb(path, Measurement(OVERSAMPLED, [(x, 0) for x in readouts()]))

    for share in (0.1, 0.6, 0.98):
        yield f"VB cut after {share:.0%}", cut(vb, share), ""
    yield "partitions of a 3-D scan", lambda path: vd(path, None, [*readouts(), *readouts(kspace_encode_step_2=1)]), ""


def _hdf5() -> Iterator[tuple[str, Make, str]]:
    for share in (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999):
        yield f"cut after {share:.1%}", cut(good, share), ""
    yield "no magic", flipped(good, 0.0), ""
    for how in ("no header", "foreign xml", "other columns", "short readout", "absurd length", "folder"):
        yield f"{how} in HDF5", lambda path, h=how: (good(path), broken(path, h)), ""
    yield "a link out of the file", in_file(_linked), ""
    yield "a link to itself", in_file(_looped), ""
    yield "several groups of raw data", in_file(_doubled), "several groups"
    yield "one coil of a thousand samples too short", scanned(lambda h, r: r.append(_another(3))), "channels"


def _another(coils: int) -> ismrmrd.Acquisition:
    return Scanner(coils=coils).readout(3, SOURCE[None])


def _linked(file: h5py.File) -> None:
    del file["dataset/data"]
    file["dataset/data"] = h5py.ExternalLink("/nowhere/secret.h5", "/data")


def _looped(file: h5py.File) -> None:
    del file["dataset/data"]
    file["dataset/data"] = h5py.SoftLink("/dataset/data")


def _doubled(file: h5py.File) -> None:
    file.move("dataset", "first")
    file.copy("first", "second")


# What can be stored in another format all the same.
_STORED = ("every line one and the same", "outer lines only", "noise of a dead coil")


def cases() -> Iterator[Case]:
    for says, change in REFUSED.items():
        yield Case("ISMRMRD", f"refused as: {says}", "bad.h5", scanned(change), says, RAW)
    for family, kind, name in (
        (_header, "ISMRMRD", "bad.h5"),
        (_readouts, "ISMRMRD", "bad.h5"),
        (_hdf5, "ISMRMRD", "bad.h5"),
        (_fastmri, "fastMRI", "bad.fastmri.h5"),
        (_bart, "BART", "bad.cfl"),
        (_matlab, "CMRxRecon", "bad.mat"),
        (_twix, "twix", "bad.dat"),
    ):
        for fault, make, says in family():
            yield Case(kind, fault, name, make, says, RAW[:1] if fault in _STORED else RAW)
    for kind, name in (("ISMRMRD", "bad.h5"), ("CMRxRecon", "bad.mat"), ("twix", "bad.dat")):
        yield from others(kind, name, RAW, "")
