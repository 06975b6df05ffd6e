"""Priors that are damaged, swapped or unsafe."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from bad_case import Case, Make, cut, flipped, others
from cli_shelf import fill_prior
from safetensors.torch import load, save

PRIOR = (
    "denoise {shelf}/cine.nii.gz -o out/out.nii.gz --prior {bad}",
    "interpolate {shelf}/cine.nii.gz -o out/out.nii.gz --prior {bad}",
    "reconstruct {shelf}/raw.h5 -o out/out.nii.gz --prior {bad}",
    "generate -o out/out.nii.gz --frames 2 --size 16 16 --steps 1 --prior {bad}",
)
Card = dict[str, Any]


def good(path: Path) -> None:
    fill_prior(path)


def carded(change: Callable[[Card], object]) -> Make:
    """A good prior whose card is changed."""

    def made(path: Path) -> None:
        good(path)
        card = json.loads(path.with_suffix(".json").read_text())
        changed = change(card)
        path.with_suffix(".json").write_text(json.dumps(changed if changed is not None else card))

    return made


def card_text(text: str) -> Make:
    return _then(good, lambda path: path.with_suffix(".json").write_text(text))


def trusted(text: str) -> Make:
    return _then(good, lambda path: path.with_suffix(".trust.json").write_text(text))


def hashed(change: Callable[[bytes], bytes]) -> Make:
    """Weights that are changed, and a card with their hash: damage that no hash can find."""

    def made(path: Path) -> None:
        good(path)
        data = change(path.read_bytes())
        path.write_bytes(data)
        card = json.loads(path.with_suffix(".json").read_text())
        path.with_suffix(".json").write_text(json.dumps(card | {"sha256": hashlib.sha256(data).hexdigest()}))

    return made


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Make:
    def changed(data: bytes) -> bytes:
        found = load(data)
        change(found)
        return save(found)

    return hashed(changed)


def _then(make: Make, change: Make) -> Make:
    def made(path: Path) -> None:
        make(path)
        change(path)

    return made


def _header(length: int, text: bytes = b"") -> bytes:
    return length.to_bytes(8, "little") + text


def _faults() -> Iterator[tuple[str, Make, str]]:
    for share in (0.0, 0.1, 0.5, 0.99):
        yield f"cut after {share:.0%}", cut(good, share), "SHA-256"
    for share in (0.0, 0.02, 0.3, 0.9):
        yield f"a bit changed at {share:.0%}", flipped(good, share), "SHA-256"
    yield "weights of another prior", _then(good, lambda path: fill_prior(path, seed=1, card=False)), "SHA-256"
    says = "not the weights"
    yield "a pickle with its hash", hashed(lambda _: pickle.dumps({"net": [1.0]})), says
    yield "nothing with its hash", hashed(lambda _: b""), says
    yield "cut, with its hash", hashed(lambda data: data[: len(data) // 2]), says
    yield "a header beyond the file", hashed(lambda data: _header(2**40) + data[8:]), says
    yield "a header of 2^64 - 1 bytes", hashed(lambda data: _header(2**64 - 1) + data[8:]), says
    yield "a header of text", hashed(lambda _: _header(9, b"not JSON!")), says
    yield "a header 50000 deep", hashed(lambda _: _header(50_000, b"[" * 50_000)), says
    yield "tensors beyond the file", hashed(lambda _: _lying([0, 2**40], [2**39])), says
    yield "tensors that run backwards", hashed(lambda _: _lying([8, 0], [2])), says
    yield "a tensor too few", tensors(lambda found: found.pop("enter.weight")), says
    yield "a tensor too many", tensors(lambda found: found.update(extra=torch.ones(3))), says
    yield "a tensor of another shape", tensors(lambda found: found.update({"enter.weight": torch.ones(3)})), says
    yield "weights of NaN", tensors(lambda found: [each.fill_(float("nan")) for each in found.values()]), ""
    yield "infinite weights", tensors(lambda found: [each.fill_(float("inf")) for each in found.values()]), ""


def _lying(offsets: list[int], shape: list[int]) -> bytes:
    text = json.dumps({"enter.weight": {"dtype": "F16", "shape": shape, "data_offsets": offsets}}).encode()
    return _header(len(text), text) + bytes(8)


def _cards() -> Iterator[tuple[str, Make, str]]:
    yield "no card", _then(good, lambda path: path.with_suffix(".json").unlink()), "card"
    yield "a card that is a folder", _then(good, _folder_for_card), "card"
    for text in ("", "{", "[]", "3", "null", '"card"', "{}", "[" * 100_000, '{"sha256": 3}'):
        yield f"a card of {text[:20]!r}", card_text(text), "card"
    for key in ("sha256", "width", "blocks", "sigma_data", "spread", "about"):
        yield f"a card without {key}", carded(lambda card, k=key: card.pop(k) and card), "card"
    for key, value in (
        *(("width", "wide"), ("width", 3), ("width", []), ("width", [-8, 16]), ("width", [8, 16, 32]), ("width", [8])),
        *(("blocks", -1), ("blocks", "two"), ("blocks", 100), ("guides", -1), ("guides", 5), ("channels", 7)),
        *(("sigma_data", "much"), ("spread", []), ("spread", {"sigma": [1.0], "rmse": []}), ("channels", 1)),
        *(("spread", {"sigma": [], "rmse": []}), ("spread", {"sigma": ["a"], "rmse": ["b"]}), ("about", 3)),
        *(("width", [10**6, 10**6]), ("blocks", 10**9), ("width", [10**30])),
        *(("sigma_data", float("nan")), ("sigma_data", -1.0), ("sigma_data", 0.0)),
        *(("spread", {"sigma": [1.0, 0.5], "rmse": [0.1, 0.2]}), ("spread", {"sigma": [0.1, 1], "rmse": [1, -1]})),
        ("spread", {"sigma": [0.01, float("nan")], "rmse": [0.1, 0.2]}),
    ):
        yield f"a card with {key} {str(value)[:40]}", carded(lambda card, k=key, v=value: card | {k: v}), ""


def _folder_for_card(path: Path) -> None:
    path.with_suffix(".json").unlink()
    path.with_suffix(".json").mkdir()


def _trust() -> Iterator[tuple[str, Make, str]]:
    for text in ("", "{", "[]", "{}", '{"std": 3, "expected": {}}', '{"std": {}, "expected": {}, "weights": "other"}'):
        yield f"a trust table of {text!r}", trusted(text), "trust"
    yield "a trust table 100000 deep", trusted("[" * 100_000), "trust"


def cases() -> Iterator[Case]:
    for family in (_faults, _cards, _trust):
        for fault, make, says in family():
            yield Case("priors", fault, "bad.safetensors", make, says, PRIOR)
    yield from others("priors", "bad.safetensors", PRIOR, "card")
    yield Case("priors", "a pickle of torch", "bad.pt", lambda path: torch.save({"a": torch.ones(2)}, path), "", PRIOR)
    yield Case("priors", "a folder", "bad.safetensors", Path.mkdir, "no such prior", PRIOR)
    yield Case("priors", "a copy without its card", "bad.safetensors", _lonely, "card", PRIOR)


def _lonely(path: Path) -> None:
    good(path)
    shutil.move(path.with_suffix(".json"), path.with_name("elsewhere.json"))
