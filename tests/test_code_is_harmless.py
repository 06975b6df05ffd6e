"""No code in what is read: nothing in the project evaluates text, unpickles or asks a shell, but for what is listed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import medseq
from medseq.io import yaml_files

ROOT = Path(medseq.__file__).parent.parent
FORBIDDEN_MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "marshal",
    "shelve",
    "dill",
    "joblib",
    "cloudpickle",
    "code",
    "pty",
}
FORBIDDEN_NAMES = {"eval", "exec", "compile", "__import__", "execfile"}
FORBIDDEN_CALLS = {
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"),
    *("torch.load", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "yaml.unsafe_load_all"),
    *("tempfile.mktemp", "shutil.unpack_archive", "tarfile.open", "zipfile.ZipFile"),
    *("urllib.request.urlopen", "monai.bundle.run", "monai.bundle.load", "runpy.run_path"),
}
# With the reason; whoever adds a line shows that no file of another can reach it, or that it holds no code.
LISTED = {
    ("medseq/io/yaml_files.py", "yaml.load"),  # with a SafeLoader that knows even less (tested below)
    ("medseq/train.py", "zipfile.ZipFile"),  # of the same checkpoints, their sums; nothing is unpacked
    ("medseq/train.py", "torch.load"),  # checkpoints of one's own, weights_only (tested below)
    ("pipelines/calibrate.py", "torch.load"),  # the same of intermediate figures
}


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Each call with the dotted name of what is called, imports resolved."""
    known = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, dot, rest = ast.unparse(node.func).partition(".")
            yield f"{known.get(first, first)}{dot}{rest}", node


def modules(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def harm(text: str) -> set[str]:
    """What in a program could run what a file says."""
    tree = ast.parse(text)
    found = modules(tree) & FORBIDDEN_MODULES
    for name, call in calls(tree):
        if name in FORBIDDEN_NAMES | FORBIDDEN_CALLS:
            found.add(name)
        for option in call.keywords:
            if option.arg in ("shell", "allow_pickle") and getattr(option.value, "value", True):
                found.add(option.arg)
    return found


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("eval('1')", "eval"),
        ("import os as system\nsystem.system('ls')", "os.system"),
        ("from torch import load as get\nget('x')", "torch.load"),
        ("import torch\ntorch.load('x', weights_only=True)", "torch.load"),
        ("from yaml import full_load\nfull_load('x')", "yaml.full_load"),
        ("import subprocess\nsubprocess.run('ls', shell=True)", "shell"),
        ("def f(way):\n    import subprocess\n    subprocess.run('ls', shell=way)", "shell"),
        ("import numpy as np\nnp.load('x', allow_pickle=True)", "allow_pickle"),
        ("def f():\n    import pickle", "pickle"),
        ("from pickle import loads", "pickle"),
        ("import tempfile\ntempfile.mktemp()", "tempfile.mktemp"),
        ("import zipfile\nzipfile.ZipFile('x').extractall()", "zipfile.ZipFile"),
    ],
)
def test_the_test_sees_harm(text: str, what: str) -> None:
    assert what in harm(text)
    assert harm("net.eval()\nre.compile('x')\nyaml.safe_load('x')\nsubprocess.run(['ls'], shell=False)") == set()


def test_nothing_runs_what_a_file_says() -> None:
    paths = [path for folder in ("medseq", "pipelines") for path in (ROOT / folder).rglob("*.py")]
    assert len(paths) > 150
    found = {(path.relative_to(ROOT).as_posix(), what) for path in paths for what in harm(path.read_text("utf-8"))}
    assert found <= LISTED


def test_checkpoints_are_read_as_tensors_and_nothing_else() -> None:
    for file, what in LISTED:
        for name, call in calls(ast.parse((ROOT / file).read_text("utf-8"))):
            if name == what == "torch.load":
                assert any(option.arg == "weights_only" and option.value.value is True for option in call.keywords)


def test_the_loader_of_yaml_is_a_safe_one() -> None:
    assert issubclass(yaml_files._Loader, yaml.SafeLoader)
    assert yaml_files._Loader.yaml_constructors == yaml.SafeLoader.yaml_constructors
    assert yaml_files._Loader.yaml_multi_constructors == yaml.SafeLoader.yaml_multi_constructors


def test_what_is_dangerous_in_the_packages_is_not_even_loaded() -> None:
    """MONAI (bundles, runners, downloads) serves `medseq.transforms` alone; no server, no DICOMDIR of the others."""
    program = (
        "import importlib, pkgutil, sys, medseq\n"
        "for each in pkgutil.walk_packages(medseq.__path__, 'medseq.'):\n"
        "    if each.name not in ('medseq.__main__', 'medseq.transforms'): importlib.import_module(each.name)\n"
        "print([name for name in sys.modules if name.startswith(('monai', 'pynetdicom.apps', 'pydicom.fileset', "
        "'torchvision', 'fire'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stdout.strip() == "[]", done.stdout + done.stderr


def test_nothing_of_monai_but_transforms_is_called() -> None:
    tree = ast.parse((ROOT / "medseq" / "transforms.py").read_text("utf-8"))
    used = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    assert {name for name in used if name.startswith("monai")} <= {
        "monai.config",
        "monai.data",
        "monai.transforms",
        "monai.utils",
    }
