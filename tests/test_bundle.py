"""The MONAI bundle of the prior: MONAI's own command runs it, without evaluating code, to what the library gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import medseq
from medseq import Clip, denoise, load_clip, save_clip, unit_noise
from medseq.io.weights import DEFAULT

BUNDLE = Path(medseq.__file__).parent.parent / "configs" / "bundle"
META, CONFIG = BUNDLE / "metadata.json", BUNDLE / "inference.yaml"


def test_the_command_gives_what_the_library_gives(tmp_path: Path) -> None:
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, 32)] * 2, indexing="ij")
    radius = 0.5 + 0.1 * torch.cos(2 * torch.pi * torch.arange(4) / 4)[:, None, None]
    image = 20 + 100 * torch.sigmoid(20 * (radius - torch.hypot(y, x)))[None, None]
    noisy = (image + 5 * unit_noise(image.to(torch.complex64), torch.Generator().manual_seed(0))).abs()
    save_clip(Clip(noisy, np.diag([-1.4, 1.4, 8, 1]), 0.05 * np.arange(4), 0.2), tmp_path / "cine.nii.gz")
    words = ["run", "--meta_file", META, "--config_file", CONFIG, "--input", "cine.nii.gz", "--sigma", "5.0"]
    run = subprocess.run(
        [sys.executable, "-m", "monai.bundle", *map(str, words), "--device", "cpu", "--precision", "float32"],
        cwd=tmp_path,
        # MONAI then takes `$` expressions for plain text: nothing in the bundle is evaluated.
        env={**os.environ, "MONAI_EVAL_EXPR": "0"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    found = load_clip(tmp_path / "cine_denoised.nii.gz")
    source = load_clip(tmp_path / "cine.nii.gz")
    expected = denoise(source, sigma=5.0, device="cpu", precision="float32").clip
    torch.testing.assert_close(found.data, expected.data, rtol=1e-4, atol=1e-3)
    assert (found.data - image).square().mean() < 0.5 * (noisy - image).square().mean()
    np.testing.assert_allclose(found.affine, source.affine)
    np.testing.assert_allclose(found.times, source.times)
    assert found.period == source.period


def leaves(content: Any) -> list[Any]:
    if isinstance(content, dict | list):
        return [leaf for part in (content.values() if isinstance(content, dict) else content) for leaf in leaves(part)]
    return [content]


def test_the_configuration_holds_no_code() -> None:
    for leaf in leaves(yaml.safe_load(CONFIG.read_text())):
        assert not (isinstance(leaf, str) and leaf.startswith(("$", "%")))


def test_the_metadata_hold_what_monai_asks_for() -> None:
    """The mandatory keys of the MONAI Bundle Specification; its own check would download a schema."""
    meta = json.loads(META.read_text())
    texts = (
        "version",
        "monai_version",
        "pytorch_version",
        "numpy_version",
        "task",
        "description",
        "authors",
        "copyright",
    )
    assert all(isinstance(meta[key], str) and meta[key] for key in texts)
    assert all(isinstance(meta[key], dict) for key in ("optional_packages_version", "required_packages_version"))
    formats = meta["network_data_format"]
    assert set(formats) == {"inputs", "outputs"} and "image" in formats["inputs"] and "pred" in formats["outputs"]
    for tensor in (*formats["inputs"].values(), *formats["outputs"].values()):
        assert tensor["type"] == "image" and tensor["modality"] == "MR" and tensor["dtype"] == "float32"
        assert len(tensor["channel_def"]) == tensor["num_channels"] and tensor["is_patch_data"] is False
        assert len(tensor["spatial_shape"]) == 3 and tensor["value_range"] == []


def test_versions_and_weights_are_those_of_the_project() -> None:
    meta = json.loads(META.read_text())
    assert meta["version"] == meta["required_packages_version"]["medseq"] == medseq.__version__
    assert yaml.safe_load(CONFIG.read_text())["prior"] == DEFAULT and DEFAULT in meta["name"]
    lines = (BUNDLE.parent.parent / "pyproject.toml").read_text().splitlines()
    stated = {"monai": meta["monai_version"], "torch": meta["pytorch_version"], "numpy": meta["numpy_version"]}
    stated |= {name: v for name, v in meta["required_packages_version"].items() if name != "medseq"}
    for name, version in stated.items():
        (line,) = [line for line in lines if line.strip().startswith(f'"{name}>=')]
        assert Requirement(line.strip(' ",')).specifier.contains(Version(version)), name


@pytest.mark.parametrize("restore", [lambda clip: clip, lambda clip: medseq.Restored(clip)])
def test_a_restoring_transform_takes_either_answer(tmp_path: Path, restore: Any) -> None:
    from medseq.transforms import LoadClipd, RestoreClipd

    save_clip(Clip(torch.rand(1, 1, 3, 8, 8)), tmp_path / "cine.nii.gz")
    loaded = LoadClipd("image")({"image": tmp_path / "cine.nii.gz"})
    assert torch.equal(RestoreClipd("image", restore)(loaded)["image"], loaded["image"])
