"""What every test may ask for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from cli_shelf import fill_shelf
from faults import Faults
from orthanc import Orthanc, running_orthanc

# Random tests that are the same on every machine and never fail for being slow on a busy one.
hypothesis.settings.register_profile("medseq", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("medseq")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="full counts in tests marked soak, which take hours")


@pytest.fixture(scope="session")
def times(request) -> Callable[[int, int], int]:
    """times(share, full): how often to repeat; the full count with --soak, else a share of it that CI can afford."""
    full = request.config.getoption("--soak")
    return lambda share, whole: whole if full else share


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real series that MEDSEQ_DATA names; tests that need it are skipped where there is none."""
    folder = os.environ.get("MEDSEQ_DATA")
    if not folder:
        pytest.skip("MEDSEQ_DATA is not set: no real data here")
    if not Path(folder).is_dir():
        pytest.skip(f"MEDSEQ_DATA names {folder}, which is not there")
    return Path(folder)


@pytest.fixture(scope="session")
def shelf(tmp_path_factory) -> Path:
    """A series, its k-space and an untrained, tiny prior: enough to drive every command."""
    folder = tmp_path_factory.mktemp("shelf")
    fill_shelf(folder)
    return folder


@pytest.fixture
def here(shelf, tmp_path, monkeypatch) -> Path:
    """An empty working folder beside links to the shelf's files."""
    for file in shelf.iterdir():
        (tmp_path / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def faults(tmp_path_factory) -> Iterator[Faults]:
    """A process in which every writer of medseq can be harmed."""
    faults = Faults(tmp_path_factory.mktemp("faults"))
    yield faults
    faults.close()


@pytest.fixture(scope="session")
def running_archive(tmp_path_factory) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as archive:
        yield archive


@pytest.fixture
def orthanc(running_archive: Orthanc) -> Orthanc:
    """A real archive that holds nothing; tests that need it are skipped where there is none."""
    running_archive.clear()
    return running_archive
