"""A run of a study loses nothing and does nothing twice, whatever its units do."""

from __future__ import annotations

import json
import os
import socket
from http.client import HTTPConnection

import psutil
import pytest
from study_shelf import Shelf

from medseq.errors import InputError, ResourceError, UsageError
from medseq.study import engine
from medseq.study.ledger import entry_path, only_run, read_entry
from medseq.study.run import run_study
from medseq.study.status import read_status


def quiet(line: str) -> None:
    pass


def entry(shelf: Shelf, name: str):
    found = read_entry(entry_path(shelf.study, name))
    assert found is not None
    return found


def test_good_units_are_done_bad_ones_reported_and_a_second_run_redoes_none(tmp_path, capsys):
    good = {f"good{number}": "fine" for number in range(6)}
    shelf = Shelf(tmp_path, {**good, "poison": "bad", "wrong": "usage", "unlucky": "killed 1", "late": "full 2"})
    told = []
    summary = run_study(shelf.study, shelf.settings(), told.append)
    assert sorted(summary.done) == sorted([*good, "unlucky", "late"]) and len(told) == 8
    assert {name: each.exit_code for name, each in summary.failed.items()} == {"poison": 4, "wrong": 2}
    assert summary.exit_code == 3
    assert all(shelf.whole(name) for name in summary.done) and not shelf.whole("poison")
    assert shelf.calls.count("unlucky") == 2 and shelf.calls.count("late") == 3 and shelf.calls.count("poison") == 1
    assert entry(shelf, "late").attempts == 3
    error = capsys.readouterr().err
    assert "medseq: poison: holds nothing that can be used\n" in error and str(tmp_path) not in error
    assert shelf.left() == []

    before = shelf.calls
    again = run_study(shelf.study, shelf.settings(), quiet)
    assert (again.done, len(again.unchanged), sorted(again.failed)) == ([], 8, ["poison", "wrong"])
    assert again.exit_code == 3 and shelf.calls == before


def test_a_failure_that_may_pass_is_retried_at_most_twice(tmp_path):
    shelf = Shelf(tmp_path, {"full": "full 99", "killed": "killed 99"})
    summary = run_study(shelf.study, shelf.settings(), quiet)
    assert shelf.calls == ["full"] * 3 + ["killed"] * 3
    assert summary.exit_code == 5 and "signal 9" in str(summary.failed["killed"].reason)
    (shelf.source / "full.nii.gz").write_text("fine")
    assert run_study(shelf.study, shelf.settings(), quiet).done == ["full"]  # and "killed" was tried again
    assert shelf.calls.count("killed") == 6


def test_what_failed_for_good_is_tried_again_when_asked_or_when_its_input_changes(tmp_path):
    shelf = Shelf(tmp_path, {"a": "bad", "b": "bad"})
    assert run_study(shelf.study, shelf.settings(), quiet).exit_code == 4
    (shelf.source / "a.nii.gz").write_text("fine now")
    assert run_study(shelf.study, shelf.settings(), quiet).done == ["a"]
    assert shelf.calls == ["a", "a", "b"]
    run_study(shelf.study, shelf.settings(again=True), quiet)
    assert shelf.calls == ["a", "a", "b", "b"]


def test_what_a_result_depends_on_and_nothing_else_makes_it_new(tmp_path):
    shelf = Shelf(tmp_path, {"a": "fine"})
    file = shelf.source / "a.nii.gz"
    assert run_study(shelf.study, shelf.settings(), quiet).done == ["a"]
    os.utime(file, (1, 1))  # the same content, looking otherwise
    assert run_study(shelf.study, shelf.settings(), quiet).unchanged or shelf.calls == ["a"]
    shelf.save(task=shelf.units["a"].task.model_copy(update={"seed": 7}))
    assert run_study(shelf.study, shelf.settings(), quiet).done == ["a"] and shelf.calls == ["a"] * 2
    file.write_text("else")
    assert run_study(shelf.study, shelf.settings(), quiet).done == ["a"] and "else" in shelf.result("a").read_text()
    shelf.result("a").unlink()
    assert run_study(shelf.study, shelf.settings(), quiet).done == ["a"] and shelf.whole("a")
    (shelf.study / "ledger" / "a.json").write_text("{")  # the record in the result is as good
    run_study(shelf.study, shelf.settings(), quiet)
    assert len(shelf.calls) == 4 and entry(shelf, "a").state == "done"


def test_the_ledger_survives_content_that_changes_behind_equal_looks_when_hashes_are_planned(tmp_path):
    shelf = Shelf(tmp_path, {"a": "fine"})
    shelf.save(input=shelf.units["a"].input.model_copy(update={"sha256": "0" * 64}))
    summary = run_study(shelf.study, shelf.settings(), quiet)
    assert summary.exit_code == 4 and "SHA-256" in str(summary.failed["a"].reason) and shelf.calls == []


def test_a_missing_input_is_told_and_nothing_else_suffers(tmp_path):
    shelf = Shelf(tmp_path, {"a": "fine", "gone": "fine"})
    (shelf.source / "gone.nii.gz").unlink()
    summary = run_study(shelf.study, shelf.settings(), quiet)
    assert summary.done == ["a"] and summary.failed["gone"].exit_code == 4 and summary.exit_code == 3


def test_a_unit_that_outruns_its_time_is_stopped_and_only_a_longer_time_tries_it_again(tmp_path):
    shelf = Shelf(tmp_path, {"slow": "hang"})
    summary = run_study(shelf.study, shelf.settings(timeout=3), quiet)
    assert "more than its 3 s" in str(summary.failed["slow"].reason) and shelf.calls == ["slow"]
    pid = int((shelf.source / "hangs").read_text().split()[0])
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    run_study(shelf.study, shelf.settings(timeout=3), quiet)
    assert shelf.calls == ["slow"]
    (shelf.source / "go").touch()
    assert run_study(shelf.study, shelf.settings(timeout=300), quiet).done == ["slow"]


def test_a_unit_that_takes_too_much_memory_is_stopped_and_the_others_are_not(tmp_path):
    shelf = Shelf(tmp_path, {"greedy": "eat 300", "good": "fine"})
    summary = run_study(shelf.study, shelf.settings(memory_mb=150), quiet)
    assert summary.done == ["good"] and "150 MiB" in str(summary.failed["greedy"].reason)
    assert summary.failed["greedy"].memory_mb > 150 and shelf.left() == []


def test_one_run_at_a_time(tmp_path):
    shelf = Shelf(tmp_path, {"a": "fine"})
    with only_run(shelf.study):
        assert read_status(shelf.study).running
        with pytest.raises(ResourceError, match="another run"):
            run_study(shelf.study, shelf.settings(), quiet)
    assert not read_status(shelf.study).running
    assert run_study(shelf.study, shelf.settings(), quiet).done == ["a"]


def test_a_full_disk_is_told_before_a_unit_begins(tmp_path):
    shelf = Shelf(tmp_path, {"a": "fine"})
    shelf.save(estimate=shelf.units["a"].estimate.model_copy(update={"disk_mb": 1 << 40}))
    summary = run_study(shelf.study, shelf.settings(), quiet)
    assert summary.exit_code == 5 and shelf.calls == [] and "disk" in str(summary.failed["a"].reason)


def test_an_output_that_a_link_leads_out_of_the_study_is_refused(tmp_path):
    shelf = Shelf(tmp_path, {"a": "fine"})
    (tmp_path / "elsewhere").mkdir()
    (shelf.study / "results").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / ".a-folder").mkdir()  # as if it were what a killed run left
    with pytest.raises(InputError, match="link"):
        run_study(shelf.study, shelf.settings(), quiet)
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == [".a-folder"]


@pytest.mark.parametrize("address", ["cluster", "tcp://", "tcp://host", "tcp://host:port", "http://host:1", ""])
def test_what_is_no_engine_is_a_usage_error(tmp_path, address):
    with pytest.raises(UsageError, match="engine"):
        run_study(tmp_path, Shelf(tmp_path, {"a": "fine"}).settings(engine=address), quiet)


def test_a_cluster_that_is_not_there_is_a_resource_error(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "_SECONDS", 1)
    with socket.socket() as probe:  # bound and not listening: nobody answers there
        probe.bind(("127.0.0.1", 0))
        shelf = Shelf(tmp_path, {"a": "fine"})
        with pytest.raises(ResourceError, match="no Dask scheduler"):
            run_study(shelf.study, shelf.settings(engine=f"tcp://127.0.0.1:{probe.getsockname()[1]}"), quiet)
    assert shelf.left() == []


def test_the_local_engine_has_nothing_to_say_to_anybody():
    with engine.connected("local", 2) as client:
        listening = [link.laddr for link in psutil.Process().net_connections() if link.status == psutil.CONN_LISTEN]
        assert listening and client.scheduler.address.startswith("inproc://")
        for ip, port in listening:
            assert ip == "127.0.0.1"
            for page in (
                "",
                "status",
                "info/main/workers.html",
                "json/counts.json",
                "metrics",
                "api/v1/retire_workers",
            ):
                connection = HTTPConnection(ip, port, timeout=60)
                connection.request("GET", f"/{page}")
                assert connection.getresponse().status == 404
                connection.close()


def test_a_machine_is_shared_by_cores_memory_and_gpus(monkeypatch):
    monkeypatch.setattr(engine, "CPU_COUNT", 16)
    monkeypatch.setattr(engine, "MEMORY_LIMIT", 100 << 30)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    asked = {"workers": None, "threads": None, "memory_mb": None}
    by_cores = engine.share(100, 1000, **asked)
    assert (by_cores.workers, by_cores.threads, by_cores.gpus) == (16, 1, ())
    by_memory = engine.share(100, 30_000, **asked)
    assert (by_memory.workers, by_memory.threads) == (3, 5) and by_memory.memory_mb >= 30_000
    assert engine.share(2, 1000, **asked).workers == 2
    assert engine.share(100, 900_000, **asked).workers == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-ab")
    by_gpus = engine.share(100, 1000, **asked)
    assert (by_gpus.workers, by_gpus.threads) == (2, 8)
    assert [by_gpus.gpu_of(worker) for worker in (0, 1)] == ["2", "GPU-ab"]


def test_status_tells_every_unit_and_how_much_is_left(tmp_path):
    shelf = Shelf(tmp_path, {"a": "fine", "b": "bad", "c": "fine"})
    assert read_status(shelf.study).counts == {"done": 0, "failed": 0, "running": 0, "interrupted": 0, "waiting": 3}
    assert read_status(shelf.study).seconds_left is None
    run_study(shelf.study, shelf.settings(), quiet)
    found = {each.unit: each for each in read_status(shelf.study).units}
    assert found["a"].state == "done" and found["b"].state == "failed" and found["b"].exit_code == 4
    path = entry_path(shelf.study, "c")
    path.write_text(json.dumps({**json.loads(path.read_text()), "state": "running"}))
    assert read_status(shelf.study).counts["interrupted"] == 1
