"""Priors on disk: tensors as safetensors, all else in a JSON card beside them; the hash is checked before loading.

`NAME.safetensors` holds tensors only (no code can hide in it). `NAME.json`, its card, holds the SHA-256 of that file,
the architecture, the spread table, and what people need to know: data, licence, how it was trained.
`NAME.trust.json`, which may be missing, holds what simulated series taught about the errors of its results (`Trust`).
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor

from medseq.bold_prior import BoldPrior
from medseq.calibration import Calibration
from medseq.errors import InputError
from medseq.io.faults import reason
from medseq.io.files import atomic_write
from medseq.mismatch import Expectation
from medseq.network import VideoUNet
from medseq.prior import Prior, SpreadTable, Trust
from medseq.tiling import out_of_memory

SHIPPED = Path(__file__).parent.parent / "weights"
DEFAULT = "heart-3"
BOLD = "bold-1"
_WIDEST = 1024  # channels, or blocks; what is larger is damage, and would take all memory before the weights are read


@dataclass(frozen=True)
class Card:
    """What stands beside the weights. channels: 2 for a prior of complex images, 1 for one of real fluctuations.
    few: for the few evaluations that it was trained for. `about` is free: data, licence, steps, hours, recipe.
    """

    sha256: str
    width: tuple[int, ...]
    blocks: int
    guides: int
    channels: int
    sigma_data: float
    spread: SpreadTable
    about: dict[str, Any]
    few: bool = False


def weights_path(name_or_path: str | Path | None = None) -> Path:
    """The safetensors file meant: a path, the name of a prior that ships with medseq, or None for the default one."""
    name = str(DEFAULT if name_or_path is None else name_or_path)
    path = Path(name) if name.endswith(".safetensors") else SHIPPED / f"{name}.safetensors"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.safetensors"))) or "none"
        raise InputError(f"{name}: no such prior; give a .safetensors file or one of those shipped: {known}")
    return path


def bold_weights_path(name_or_path: str | Path | None = None) -> Path:
    """As `weights_path`, None being the default prior of BOLD fluctuations."""
    return weights_path(BOLD if name_or_path is None else name_or_path)


def read_card(path: Path) -> Card:
    """The card of the weights at `path`. Raises InputError when it is missing or does not make sense."""
    beside = path.with_suffix(".json")
    try:
        card = json.loads(beside.read_text("utf-8"))
        found = Card(
            str(card["sha256"]),
            tuple(int(w) for w in card["width"]),
            int(card["blocks"]),
            int(card.get("guides", 0)),
            int(card.get("channels", 2)),
            float(card["sigma_data"]),
            SpreadTable(card["spread"]["sigma"], card["spread"]["rmse"]),
            dict(card["about"]),
            bool(card.get("few", False)),
        )
        _check_sizes(found)
        return found
    except FileNotFoundError:
        raise InputError(f"{beside}: the card of the prior is missing; keep it beside the weights") from None
    except (AttributeError, ArithmeticError, KeyError, RecursionError, TypeError, ValueError, OSError) as error:
        raise InputError(f"{beside}: not the card of a prior ({reason(error)}); fetch weights and card anew") from error


def _check_sizes(card: Card) -> None:
    """Raise ValueError for a network that no card of ours describes, before it is built."""
    sizes = (*card.width, card.blocks)
    if not 1 <= len(card.width) <= 8 or min(sizes) < 1 or max(sizes) > _WIDEST or not 0 <= card.guides <= _WIDEST:
        raise ValueError(f"a network of {len(card.width)} levels and {card.blocks} blocks")
    if not (math.isfinite(card.sigma_data) and card.sigma_data > 0):
        raise ValueError(f"a sigma_data of {card.sigma_data}")
    if not all(map(math.isfinite, card.spread.sigma + card.spread.rmse)):
        raise ValueError("a spread that is not finite")


def load_prior(name_or_path: str | Path | None = None) -> Prior:
    """A trained prior of images, in evaluation mode, on the CPU.

    name_or_path: a .safetensors file with its card beside it, the name of a shipped prior, or None (the default).
    Raises InputError when the file is missing, damaged (SHA-256), unsafe (not safetensors), of another architecture, or
    a prior of BOLD fluctuations, or when the trust table beside it is not one, or is that of other weights.
    """
    path = weights_path(name_or_path)
    card, net = _network(path)
    if card.channels != 2:
        raise InputError(f"{path}: a prior of BOLD fluctuations, not of images; choose another one")
    prior = Prior(net, card.sigma_data, card.spread, trust=_read_trust(path, card.sha256), few=card.few)
    return prior.eval().requires_grad_(False)


def load_bold_prior(name_or_path: str | Path | None = None) -> BoldPrior:
    """A trained prior of BOLD fluctuations; all else as `load_prior`."""
    path = bold_weights_path(name_or_path)
    card, net = _network(path)
    if card.channels != 1:
        raise InputError(f"{path}: a prior of images, not of BOLD fluctuations; choose another one")
    return BoldPrior(net, card.spread).eval().requires_grad_(False)


def _network(path: Path) -> tuple[Card, VideoUNet]:
    """The card of the weights at `path`, and the network with them, once the hash agrees."""
    card = read_card(path)
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != card.sha256:
        raise InputError(f"{path}: the SHA-256 differs from its card's: the file is damaged or swapped; fetch it anew")
    try:
        tensors = load_tensors(data)
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
            raise ValueError("some are not finite")
        net = VideoUNet(card.width, card.blocks, card.guides, card.channels)
        net.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except (SafetensorError, RuntimeError, ValueError) as error:
        if out_of_memory(error):
            raise
        first = str(error).splitlines()[0][:200]
        raise InputError(f"{path}: not the weights of this network ({first}); fetch weights and card anew") from error
    return card, net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _read_trust(path: Path, weights: str) -> Trust:
    """What stands beside the weights at `path`, of SHA-256 `weights`; nothing known when there is no such file."""
    beside = path.with_suffix(".trust.json")
    if not beside.is_file():
        return Trust()
    try:
        data = beside.read_bytes()
        table = json.loads(data)
        std = {
            name: Calibration(
                {str(k): float(w) for k, w in one["weights"].items()},
                float(one["constant"]),
                float(one["gain"]),
                tuple(float(factor) for factor in one["factors"]),
                int(one["steps"]),
                str(one["about"]),
            )
            for name, one in table["std"].items()
        }
        expected = {
            name: Expectation(
                float(one["constant"]), {str(k): float(v) for k, v in one["slopes"].items()}, float(one["width"])
            )
            for name, one in table["expected"].items()
        }
        fitted_for = str(table["weights"])
    except (AttributeError, ArithmeticError, KeyError, RecursionError, TypeError, ValueError, OSError) as error:
        raise InputError(f"{beside}: not a trust table ({reason(error)}); fetch it anew or remove it") from error
    if fitted_for != weights:
        raise InputError(f"{beside}: was fitted to other weights; run pipelines/calibrate.py anew or remove it")
    return Trust(std, expected, hashlib.sha256(data).hexdigest())


def save_trust(trust: Trust, path: str | Path, about: dict[str, Any]) -> Path:
    """Write what is known of the errors of the prior at `path` (its .safetensors) beside it. Returns where."""
    path = Path(path)
    table = {
        "weights": read_card(path).sha256,
        "about": _rounded(about),
        "std": {name: _rounded(asdict(one)) for name, one in trust.std.items()},
        "expected": {name: _rounded(asdict(one)) for name, one in trust.expected.items()},
    }
    beside = path.with_suffix(".trust.json")
    with atomic_write(beside) as partial:
        partial.write_text(json.dumps(table, indent=1) + "\n", "utf-8")
    return beside


def _rounded(value: Any) -> Any:
    """Numbers to five digits, which is more than was measured."""
    if isinstance(value, dict):
        return {name: _rounded(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(entry) for entry in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def save_prior(prior: Prior | BoldPrior, path: str | Path, about: dict[str, Any]) -> Path:
    """Write weights (float16: half the size, less rounding than the network's own) and card. Returns the weights' path.

    Raises ValueError when the prior has no measured spread: without it the solver does not know what to trust.
    """
    if prior.spread is None:
        raise ValueError("measure the spread of the prior before saving it")
    path = Path(path).with_suffix(".safetensors")
    tensors: dict[str, Tensor] = {k: v.detach().half().contiguous().cpu() for k, v in prior.net.state_dict().items()}
    data = dump_tensors(tensors)
    net = prior.net
    assert isinstance(net, VideoUNet)
    card = {
        "sha256": hashlib.sha256(data).hexdigest(),
        "width": list(net.width),
        "blocks": net.blocks,
        "guides": net.guides,
        "channels": net.channels,
        "sigma_data": prior.sigma_data if isinstance(prior, Prior) else 1.0,  # fluctuations are in units of the noise
        "spread": {
            "sigma": [float(f"{s:.5g}") for s in prior.spread.sigma],
            "rmse": [float(f"{r:.5g}") for r in prior.spread.rmse],
        },
        **({"few": True} if isinstance(prior, Prior) and prior.few else {}),
        "about": about,
    }
    with atomic_write(path) as partial:
        partial.write_bytes(data)
    with atomic_write(path.with_suffix(".json")) as partial:
        partial.write_text(json.dumps(card, indent=1) + "\n", "utf-8")
    return path
