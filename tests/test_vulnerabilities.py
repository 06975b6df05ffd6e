"""docs/security.md tells the truth: its tests are there, and what it says of the dependencies is so."""

from __future__ import annotations

import ast
import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from PIL import Image
from requests.utils import get_netrc_auth
from test_project import locked

import medseq
from medseq.archive import connect
from medseq.errors import InputError, UsageError
from medseq.stills import load_stills

ROOT = Path(medseq.__file__).parent.parent
PAGE = (ROOT / "docs" / "security.md").read_text("utf-8")
IDENTIFIER = re.compile(r"CVE-\d{4}-\d{4,}|GHSA(-[0-9a-z]{4}){3}|PYSEC-\d{4}-\d+")


class Row(NamedTuple):
    package: str
    identifier: str
    what: str
    fixed: str
    required: str
    done: str
    test: str


def rows() -> list[Row]:
    table = PAGE.split("| package | identifier |")[1].split("\n\n")[0].splitlines()[2:]
    return [Row(*(cell.strip() for cell in line.strip("|").split("|"))) for line in table]


def lowest() -> dict[str, str]:
    """The least version of each package that pyproject.toml asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    optional = project["project"]["optional-dependencies"]
    lines = [*project["build-system"]["requires"], *project["project"]["dependencies"], *optional["archive"]]
    found = {}
    for requirement in map(Requirement, lines):
        (limit,) = requirement.specifier
        assert limit.operator == ">="
        found[canonicalize_name(requirement.name)] = limit.version
    return found


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row.package} {row.identifier}")
def test_what_is_required_and_locked_has_the_fix(row: Row) -> None:
    assert IDENTIFIER.fullmatch(row.identifier) and row.what and row.done
    lock = {**locked("requirements.lock"), **locked("requirements-dev.lock")}[row.package]
    assert row.required == lowest()[row.package]
    if row.fixed.startswith("none at "):
        assert row.fixed == f"none at {lock}", "another version is locked: look whether it is fixed there"
        return
    for found in (row.required, lock, version(row.package)):
        assert Version(found) >= Version(row.fixed)


def test_every_vulnerability_is_told_once() -> None:
    told = [row.identifier for row in rows()]
    assert len(told) == len(set(told)) >= 25


def test_every_test_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"`(test_\w+\.py)(?:::(test_\w+))?`", PAGE))
    assert len(named) > 30
    for file, name in named:
        tree = ast.parse((ROOT / "tests" / file).read_text("utf-8"))
        tests = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert not name or name in tests, f"{file}::{name}"


def test_netrc_is_for_its_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine trusted.example login reader password hush\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert get_netrc_auth("https://trusted.example/dicom-web") == ("reader", "hush")
    for host in ("trusted.example:@evil.example", "trusted.example@evil.example"):
        assert get_netrc_auth(f"https://{host}/dicom-web") is None
        with pytest.raises(UsageError, match="credentials"):
            connect(f"https://{host}/dicom-web")
    for address in ("https://evil.example/trusted.example", "https://trusted.example.evil.example/"):
        archive = connect(address)
        assert archive._session.auth is None and archive._session.max_redirects == 0


@pytest.mark.parametrize("kind", ["BMP", "EPS", "GIF", "JPEG", "JPEG2000", "TGA", "TIFF"])
def test_a_png_is_nothing_else(tmp_path: Path, kind: str) -> None:
    """Pillow tells formats by content; some are handed to other programs, and every one is code that may be wrong."""
    Image.new("L", (8, 8)).save(tmp_path / "still.png", kind)
    with pytest.raises(InputError, match=r"still\.png: no PNG"):
        load_stills(tmp_path)
    Image.linear_gradient("L").resize((8, 8)).save(tmp_path / "still.png", "PNG")
    assert load_stills(tmp_path).images.shape == (1, 8, 8)
