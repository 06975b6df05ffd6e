"""Clips from nothing measured: the right variance, reproducible, in the size that was asked for, and on disk."""

from __future__ import annotations

import inspect
import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from medseq import Prior, UsageError, VideoUNet, generate, load_clip, unit_noise
from medseq.cli import app, main
from medseq.generation import HIGHEST_SIGMA, unconditional
from medseq.io.weights import save_prior
from medseq.prior import SpreadTable
from medseq.report.sheet import contact_sheet

SMALL = {"frames": 3, "size": (16, 24), "steps": 3, "device": "cpu"}


def tiny_prior() -> Prior:
    """Untrained but for its last layer, which is random, so that its answer depends on all that it sees."""
    torch.manual_seed(0)
    net = VideoUNet((8, 16), 1)
    torch.nn.init.normal_(net.leave.weight, std=0.1)
    return Prior(net, 0.3, SpreadTable([0.01, 1.0], [0.005, 0.1])).eval()


def test_a_gaussian_prior_gets_its_own_std_back() -> None:
    """Independent coordinates of known std, from far below to far above the noise that images have: within 7 %."""
    std = torch.tensor([0.05, 0.2, 1.0, 3.0]).view(1, 1, 4, 1, 1)

    def prior(x: Tensor, sigma: float | Tensor) -> Tensor:
        return x * std**2 / (std**2 + sigma**2)

    g = torch.Generator().manual_seed(0)
    start = HIGHEST_SIGMA * unit_noise(torch.zeros(1, 1, 4, 64, 64, dtype=torch.complex64), g)
    *_, sample = unconditional(prior, start, 100, g)
    channels = torch.view_as_real(sample)
    found = channels.std(dim=(0, 1, 3, 4, 5)) / std.flatten()
    print(f"std over the right one: {[round(float(r), 3) for r in found]}")
    assert ((found > 0.93) & (found < 1.02)).all()
    assert (channels.mean(dim=(0, 1, 3, 4, 5)).abs() < 0.05 * std.flatten()).all()


@pytest.mark.parametrize("periodic", [True, False])
def test_size_time_and_geometry(periodic: bool) -> None:
    made = generate(**SMALL, count=2, periodic=periodic, prior=tiny_prior())
    clip = made.clip
    assert clip.data.shape == (2, 1, 3, 16, 24) and clip.is_complex and bool(torch.isfinite(clip.data.abs()).all())
    assert clip.period == (0.9 if periodic else None)
    np.testing.assert_allclose(clip.times, [0, 0.3, 0.6] if periodic else [0, 0.04, 0.08])
    np.testing.assert_allclose(np.abs(np.diag(clip.affine)), [1.4, 1.4, 8.0, 1.0])
    assert made.info["steps"] == 3


def test_a_still_has_no_cycle() -> None:
    clip = generate(1, (16, 16), steps=2, prior=tiny_prior(), device="cpu").clip
    assert clip.frames == 1 and clip.period is None


def test_the_same_seed_gives_the_same_clip() -> None:
    prior = tiny_prior()
    one, again, other = (generate(**SMALL, count=2, prior=prior, seed=s).clip.data for s in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.allclose(one, other) and not torch.allclose(one[0], one[1])
    # A clip is the same, whatever else is drawn beside it.
    assert torch.equal(generate(**SMALL, count=1, prior=prior, seed=1).clip.data, one[:1])


def test_progress_counts_every_level() -> None:
    seen: list[tuple[int, int]] = []
    generate(**SMALL, count=2, prior=tiny_prior(), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 6) for n in range(1, 7)]


@pytest.mark.parametrize(
    "bad",
    [{"frames": 0}, {"size": (8, 16)}, {"size": (16, 4096)}, {"count": 0}, {"steps": 0}, {"seed": -1}, {"frames": 97}],
)
def test_impossible_options_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        generate(**{**SMALL, "prior": tiny_prior(), **bad})


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder that holds a tiny prior."""
    save_prior(tiny_prior(), tmp_path / "tiny.safetensors", {"licence": "test"})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(words: str) -> int:
    return main(f"generate --prior tiny.safetensors {words}".split())


def test_the_command_writes_a_clip_and_how_it_was_made(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("-o new/out.nii.gz --frames 3 --size 16 24 --steps 2 --seed 5") == 0
    assert capsys.readouterr().out.startswith("new/out.nii.gz: 3 frames of 24 x 16")
    clip = load_clip(here / "new" / "out.nii.gz")
    assert clip.data.shape == (1, 1, 3, 16, 24) and not clip.is_complex and bool((clip.data >= 0).all())
    assert clip.period == pytest.approx(0.9)
    expected = generate(3, (16, 24), steps=2, seed=5, prior="tiny.safetensors").clip
    torch.testing.assert_close(clip.data, expected.data.abs())
    run = json.loads((here / "new" / "out.run.json").read_text())
    assert run["command"] == "generate" and run["inputs"] == [] and run["model"]["name"] == "tiny"
    assert run["options"]["seed"] == 5 and run["options"]["size"] == [16, 24] and run["result"]["steps"] == 2


def test_several_clips_and_complex_values(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("-o out.nii.gz --frames 2 --size 16 16 --steps 2 --count 2 --complex --no-periodic") == 0
    assert {path.name for path in here.glob("out*")} == {"out_1.nii.gz", "out_2.nii.gz", "out.run.json"}
    assert capsys.readouterr().out.startswith("out_1 to 2.nii.gz: 2 clips of 2 frames of 16 x 16")
    first, second = (load_clip(here / f"out_{n}.nii.gz") for n in (1, 2))
    assert first.is_complex and first.period is None and not torch.equal(first.data, second.data)


@pytest.mark.parametrize(
    ("words", "word"),
    [
        ("", "--output"),
        ("-o out.png", "out.png"),
        ("-o out.nii.gz --frames 0", "--frames"),
        ("-o out.nii.gz --size 8 8", "8 x 8"),
        ("-o out.nii.gz --size 32", "--size"),
        ("-o out.nii.gz --steps 0", "--steps"),
        ("-o out.nii.gz --count 0", "--count"),
        ("-o out.nii.gz --frames 200", "200"),
        ("-o out.nii.gz --device gpu", "gpu"),
    ],
)
def test_bad_options_exit_with_2(here: Path, capsys: pytest.CaptureFixture[str], words: str, word: str) -> None:
    assert command(words) == 2
    output, error = capsys.readouterr()
    assert output == "" and error.count("\n") == 1 and word in error
    assert not list(here.glob("out*"))


def test_defaults_are_those_of_the_library() -> None:
    _, bound, _ = app.parse_args(["generate", "-o", "out"], exit_on_error=False, print_error=False)
    bound.apply_defaults()
    defaults = {k: p.default for k, p in inspect.signature(generate).parameters.items()}
    for name in ("frames", "size", "count", "periodic", "steps"):
        assert bound.arguments[name] == defaults[name]


def test_the_check_prints_a_table_and_leaves_a_picture(tmp_path: Path, monkeypatch, capsys) -> None:
    save_prior(tiny_prior(), tmp_path / "tiny.safetensors", {"licence": "test"})
    script = Path(inspect.getfile(generate)).parent.parent / "pipelines" / "generation_check.py"
    words = f"-o {tmp_path / 'out'} --prior {tmp_path / 'tiny.safetensors'} --count 2 --steps 2"
    monkeypatch.setattr("sys.argv", [str(script), *words.split()])
    runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out.startswith("| clips | flicker | correlation")
    rows = json.loads((tmp_path / "out" / "generation.json").read_text())
    assert [row["clips"] for row in rows][0] == "training, held out" and len(rows) == 3
    assert rows[0]["correlation"] > 0.8 > 0.2 > rows[2]["correlation"]
    assert (tmp_path / "out" / "generation.png").stat().st_size > 1000


def test_a_contact_sheet_has_a_row_for_every_clip(tmp_path: Path) -> None:
    from PIL import Image

    clips = [("dark", np.zeros((5, 64, 64))), ("bright", np.ones((5, 64, 64)))]
    contact_sheet(clips, tmp_path / "sheet.png", frames=2)
    with Image.open(tmp_path / "sheet.png") as image:
        pixels = np.asarray(image)
    half = pixels.shape[0] // 2
    assert pixels[half // 2, 10] == 0 and pixels[half + half // 2, 10] == 255
    with pytest.raises(ValueError, match="one size"):
        contact_sheet([*clips, ("odd", np.ones((5, 32, 64)))], tmp_path / "sheet.png")
