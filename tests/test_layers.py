"""The layers of the design: an import may point down or sideways without a circle, and numerics stay bare.

Imports are read from the source, those inside functions too, so that a lazy import cannot hide an arrow.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import medseq

ROOT = Path(medseq.__file__).parent

# A package stands for everything in it. A new module fails here until somebody has given it a level.
LEVELS = (
    {
        "activation",
        "arithmetic",
        "clinical",
        "clip",
        "errors",
        "matching",
        "metrics",
        "network",
        "noise",
        "noise_map",
        "nonuniform",
        "operators",
        "patterns",
        "smoothness",
        "solve",
        "statistics",
        "temporal",
        "trajectories",
    },
    {"phantoms"},
    {
        "acquisition",
        "baselines",
        "between",
        "bold",
        "bold_prior",
        "bold_split",
        "calibration",
        "coils",
        "corruption",
        "few_steps",
        "guides",
        "io",
        "measurement",
        "mismatch",
        "posterior",
        "prior",
        "remembered",
        "support",
        "tiling",
        "timegrid",
        "unfolding",
        "volumes",
        "warmstart",
    },
    {
        "archive",
        "bold_kspace",
        "bold_recipe",
        "bold_evaluation",
        "bold_task",
        "causal",
        "config",
        "evaluate",
        "few_step_recipe",
        "filling",
        "gathering",
        "generation",
        "memory",
        "provenance",
        "recipe",
        "reconstruction",
        "restore",
        "runtime",
        "simulate",
        "stills",
        "summary",
        "survey",
        "train",
        "transforms",
    },
    {
        "bids_method",
        "bids_reports",
        "bids_run",
        "convert",
        "demo",
        "evaluate_jobs",
        "evaluate_options",
        "jobs",
        "report",
        "series_jobs",
        "series_options",
        "stream",
        "study",
        "terminal",
    },
    {"__main__", "bids_app", "cli", "command_line", "commands"},
)
NUMERICS = (LEVELS[0] | LEVELS[1] | LEVELS[2]) - {"io"}
BARE = {"torch", "numpy"} | set(sys.stdlib_module_names)
# scikit-image and the SciPy it stands on inside functions only, where they are the better tools.
MAY_CALL_SKIMAGE = {"activation", "baselines", "clinical", "metrics", "statistics"}
# Likewise the libraries of the optional extra behind it.
MAY_CALL_FINUFFT = {"nonuniform"}
# Who must not know whom, beyond the levels.
STRANGERS = {("io", "network"), ("io", "prior"), ("prior", "operators")}
EXEMPT = {"medseq.io.weights"}


@dataclass(frozen=True)
class Import:
    module: str
    at_top: bool


def part(module: str) -> str:
    """`medseq.io.nifti` -> `io`."""
    return module.split(".")[1]


def read_modules() -> dict[str, str]:
    """Source of every module by its dotted name; the lazy exports of the root are no layer."""
    sources = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = ("medseq", *path.relative_to(ROOT).with_suffix("").parts)
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name != "medseq":
            sources[name] = path.read_text(encoding="utf-8")
    return sources


def imports(source: str, known: set[str]) -> Iterator[Import]:
    """Every import of a module; a public name taken from `medseq` itself counts as its home module."""
    tree = ast.parse(source)
    deferred = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        at_top = id(node) not in deferred
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, at_top)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute in this project"
            base = node.module or ""
            for alias in node.names:
                full = f"{base}.{alias.name}"
                if full == "medseq.__version__":
                    continue
                home = medseq._HOME.get(alias.name, base) if base == "medseq" else base
                yield Import(full if full in known else home, at_top)


def violations(sources: Mapping[str, str]) -> list[str]:
    """One line for each broken rule; empty when the layers hold."""
    level = {name: number for number, names in enumerate(LEVELS) for name in names}
    unlisted = [f"{module}: has no level; give it one in LEVELS" for module in sources if part(module) not in level]
    if unlisted:
        return unlisted
    known, found, graph = set(sources), [], {}
    for module, source in sources.items():
        own = part(module)
        below = graph.setdefault(module, set())
        for imported in imports(source, known):
            name = imported.module
            if name == "medseq":
                found.append(f"{module} imports the lazy root, which hides what it uses; import from the home module")
                continue
            if not name.startswith("medseq."):
                found += outside(module, imported)
                continue
            other = part(name)
            if level.get(other, len(LEVELS)) > level[own]:
                found.append(f"{module} (level {level[own]}) imports upward: {name}")
            if (own, other) in STRANGERS and module not in EXEMPT:
                found.append(f"{module} must not know {name}")
            below.add(name)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append(f"imports go in a circle: {' <- '.join(error.args[1])}")
    return found


def outside(module: str, imported: Import) -> list[str]:
    """Numerics run on a machine that has torch and numpy and nothing else."""
    package = imported.module.split(".")[0]
    own = part(module)
    if own not in NUMERICS or package in BARE:
        return []
    if package in {"skimage", "scipy"} and own in MAY_CALL_SKIMAGE and not imported.at_top:
        return []
    if package in {"finufft", "cufinufft"} and own in MAY_CALL_FINUFFT and not imported.at_top:
        return []
    return [f"{module} is numerics and imports {imported.module}"]


def test_the_layers_hold():
    assert violations(read_modules()) == []


def test_the_document_shows_the_layers():
    lines = (ROOT.parent / "docs" / "architecture.md").read_text(encoding="utf-8").splitlines()
    rows = [line.split("|")[1:3] for line in lines if re.match(r"\| \d \|", line)]
    shown = {int(level): {name.rstrip("/") for name in re.findall(r"`([^`]+)`", names)} for level, names in rows}
    assert shown == dict(enumerate(LEVELS))


def test_every_listed_module_exists():
    existing = {part(module) for module in read_modules()}
    assert set().union(*LEVELS) - existing == set()


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("medseq.noise", "import medseq.restore", "imports upward"),
        ("medseq.noise", "from medseq import restore", "imports upward"),
        ("medseq.noise", "from medseq import Measurement", "imports upward"),
        ("medseq.noise", "import medseq", "lazy root"),
        ("medseq.noise", "def f():\n    from medseq.restore import denoise", "imports upward"),
        ("medseq.phantoms.heart", "from medseq.io.nifti import load", "imports upward"),
        ("medseq.noise", "from medseq.operators import Mask", "circle"),
        ("medseq.noise", "import scipy.ndimage", "is numerics"),
        ("medseq.metrics", "import skimage.metrics", "is numerics"),
        ("medseq.prior", "def f():\n    import skimage", "is numerics"),
        ("medseq.nonuniform", "import finufft", "is numerics"),
        ("medseq.io.nifti", "import medseq.prior", "must not know"),
        ("medseq.prior", "from medseq.operators import Mask", "must not know"),
        ("medseq.gadget", "import torch", "has no level"),
    ],
)
def test_a_broken_rule_is_seen(module, source, fault):
    fakes = {"medseq.operators": "import medseq.noise", "medseq.restore": "", "medseq.io.nifti": "", module: source}
    assert any(fault in line for line in violations(fakes))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("medseq.restore", "import monai\nfrom medseq.posterior import noise_levels"),
        ("medseq.metrics", "def ssim():\n    from skimage.metrics import structural_similarity"),
        ("medseq.io.weights", "from medseq.prior import Prior"),
        ("medseq.baselines.lps", "from medseq.baselines.common import shrink"),
        ("medseq.provenance", "from medseq import __version__"),
    ],
)
def test_what_is_allowed_passes(module, source):
    assert violations({module: source, "medseq.baselines.common": "import torch"}) == []


def test_numerics_import_on_a_machine_with_torch_and_numpy_only():
    numerics = [module for module in read_modules() if part(module) in NUMERICS]
    program = f"""
import importlib, sys
class Bare:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {{"monai", "nibabel", "h5py", "skimage", "scipy", "pydicom", "ismrmrd", "safetensors",
                                  "rich", "cyclopts", "yaml", "pydantic", "PIL", "matplotlib", "sigpy", "dask",
                                  "finufft"}}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Bare())
try:
    import monai
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("the block does not block")
for module in {numerics!r}:
    importlib.import_module(module)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT.parent)
    assert run.returncode == 0, run.stderr
