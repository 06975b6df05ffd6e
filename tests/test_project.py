"""The project's own promises: public names, locked packages, sizes, and what the documents tell people to type."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import medseq
from medseq.cli import app

ROOT = Path(medseq.__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "sample_data" / "README.md"]
# Tests may ask them for a second opinion; the package may not lean on them.
ORACLES = {"SimpleITK", "dicomweb_client", "gadgetron", "hypothesis", "nilearn", "numba", "pytest", "sigpy"}
# What users may leave out, and the modules that are loaded only when it is used.
EXTRAS = ("archive", "nonuniform", "slurm", "twix")
FOR_GPUS = ("nonuniform-cuda",)  # not locked, as it does not install everywhere
NEED_EXTRAS = {"medseq.archive.network", "medseq.archive.web", "medseq.study.slurm"}


def imported_packages() -> set[str]:
    packages = set()
    for path in (ROOT / "medseq").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                packages |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                packages.add(node.module.split(".")[0])
    return packages - set(sys.stdlib_module_names) - {"medseq"}


def locked(file: str) -> dict[str, str]:
    lines = (ROOT / file).read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith(("#", "-r"))]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in pins), "every line pins one public version"
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in pins)}


@pytest.mark.parametrize("name", medseq.__all__)
def test_every_public_name_loads(name):
    assert getattr(medseq, name) is not None
    assert name in dir(medseq)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        medseq.nonsense  # noqa: B018


def test_type_checkers_see_the_names_that_python_loads():
    tree = ast.parse((ROOT / "medseq" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {node.module: tuple(alias.name for alias in node.names) for node in block.body}
    assert seen == medseq._NAMES


def test_importing_medseq_loads_nothing_heavy():
    program = (
        "import sys, medseq, medseq.cli; print([m for m in ('torch', 'numpy', 'monai', 'h5py') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert run.stdout.strip() == "[]"


def test_what_is_imported_is_declared():
    optional = PROJECT["project"]["optional-dependencies"]
    lines = [*PROJECT["project"]["dependencies"], *(line for extra in EXTRAS + FOR_GPUS for line in optional[extra])]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    homes = packages_distributions()
    for package in imported_packages():
        assert package not in ORACLES
        assert declared & {canonicalize_name(home) for home in homes.get(package, [package])}, (
            f"{package} is not in pyproject.toml"
        )


def test_everything_else_loads_without_the_extras():
    paths = [path.relative_to(ROOT).with_suffix("") for path in (ROOT / "medseq").rglob("*.py")]
    modules = {".".join(path.parts).removesuffix(".__init__") for path in paths} - NEED_EXTRAS - {"medseq.__main__"}
    program = (
        "import importlib, sys\n"
        "sys.modules.update(dict.fromkeys(['requests', 'pynetdicom', 'mapvbvd', 'finufft', 'cufinufft']))\n"
        f"for name in {sorted(modules)}: importlib.import_module(name)"
    )
    run = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr


def test_extras_are_locked_for_tests():
    pins = locked("requirements-dev.lock")
    for extra in EXTRAS:
        for requirement in map(Requirement, PROJECT["project"]["optional-dependencies"][extra]):
            assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)])


@pytest.mark.parametrize("file", ["requirements.lock", "requirements-dev.lock"])
def test_the_lock_meets_the_requirements(file):
    project = PROJECT["project"]
    wanted = project["dependencies"] if file == "requirements.lock" else project["optional-dependencies"]["test"]
    pins = locked(file)
    for requirement in map(Requirement, wanted):
        name = canonicalize_name(requirement.name)
        assert requirement.specifier.contains(pins[name]), f"{requirement} but {name}=={pins[name]}"


def test_oracles_are_locked_for_tests_only():
    assert not ORACLES & set(locked("requirements.lock"))


def test_versions_agree():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == medseq.__version__


def test_no_file_is_too_long_to_read():
    for path in [
        *(ROOT / "medseq").rglob("*.py"),
        *(ROOT / "tests").rglob("*.py"),
        *(ROOT / "pipelines").rglob("*.py"),
    ]:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path


def test_no_large_file_is_tracked():
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    run = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, run.stdout.split("\0")):
        path = ROOT / name
        if path.is_file():
            limit = 32 if name.startswith("medseq/weights/") else 2
            assert path.stat().st_size <= limit * 2**20, f"{name} is over {limit} MiB"


def commands() -> list[str]:
    """Every line of a document's code blocks that calls medseq."""
    lines = []
    for document in DOCUMENTS:
        for block in re.findall(r"```bash\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL):
            lines += [line.split("#")[0].strip() for line in block.splitlines() if line.startswith("medseq ")]
    return sorted(set(lines))


@pytest.mark.parametrize("line", commands())
def test_documented_commands_parse(line):
    app.parse_args(line.removeprefix("medseq ").split(), exit_on_error=False, print_error=False)


def test_the_readme_example_runs(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(code.strip().splitlines()) <= 12
    (tmp_path / "sample_data").symlink_to(ROOT / "sample_data")
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
