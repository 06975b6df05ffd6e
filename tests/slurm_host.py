"""A real SLURM of one node for tests (Debian: slurmctld, slurmd, slurm-client, munge).

It runs as root, on free ports of this machine, with key, configuration and state of its own in a temporary folder.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from orthanc import free_port

_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
_PROGRAMS = {name: shutil.which(name, path=_PATH) for name in ("munged", "slurmctld", "slurmd", "sbatch", "squeue")}
_SECONDS = 60  # for anything to start or to end; it takes one to five
_CPUS = 4  # that it shares out, whatever the machine has: the tests' jobs mostly wait


class Slurm:
    """A SLURM that runs. environment: what its commands, and whoever calls them, need."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._started = folder, list[subprocess.Popen[bytes]]()
        self._socket = folder / "munge.socket"
        self._conf = folder / "slurm.conf"
        self.environment = {"SLURM_CONF": str(self._conf)}

    def start(self) -> None:
        """Return once a node waits for work."""
        key = self._folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        for name in ("state", "spool"):
            (self._folder / name).mkdir()
        self._conf.write_text(self._settings())
        files = {"key-file": key, "socket": self._socket, "pid-file": "munge.pid", "seed-file": "munge.seed"}
        words = [f"--{name}={self._folder / path}" for name, path in files.items()]
        self._run("munged", "--foreground", *words)
        self._until(self._socket.exists, "munged did not start")
        self._run("slurmctld", "-D", "-f", str(self._conf))
        self._run("slurmd", "-D", "-f", str(self._conf), "-N", "one")
        self._until(lambda: "idle" in self.ask("sinfo", "-h", "-o", "%t"), "SLURM did not start")

    def stop(self) -> None:
        """Cancel every job, and end."""
        with suppress(subprocess.SubprocessError):
            self.ask("scancel", "--user=root")
            self._until(lambda: not self.jobs(), "jobs remain")
        for process in reversed(self._started):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def ask(self, *words: str) -> str:
        told = subprocess.run(
            words, env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=_SECONDS
        )
        return told.stdout

    def jobs(self) -> list[tuple[str, str]]:
        """(number, state) of all that wait, run or are about to end."""
        lines = self.ask("squeue", "-h", "-o", "%A %T").split("\n")
        return [(number, state) for number, _, state in (line.partition(" ") for line in lines if line)]

    def wait_until_idle(self) -> None:
        """Jobs that were cancelled take a moment to end. Raises RuntimeError when some are left all the same."""
        self._until(lambda: not self.jobs(), "jobs are left")

    def _run(self, name: str, *words: str) -> None:
        program = _PROGRAMS[name]
        assert program is not None
        with (self._folder / f"{name}.out").open("wb") as log:
            environment = {**os.environ, **self.environment}
            self._started.append(subprocess.Popen([program, *words], stdout=log, stderr=log, env=environment))

    def _until(self, holds, what: str) -> None:
        end = time.monotonic() + _SECONDS
        while not holds():
            if time.monotonic() > end:
                logs = [path.read_text(errors="replace")[-500:] for path in self._folder.glob("*.out")]
                raise RuntimeError("\n".join([what, *logs]))
            time.sleep(0.1)

    def _settings(self) -> str:
        host, folder = socket.gethostname().partition(".")[0], self._folder
        return f"""
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={self._socket}
CryptoType=crypto/munge
StateSaveLocation={folder / "state"}
SlurmdSpoolDir={folder / "spool"}
SlurmctldPidFile={folder / "slurmctld.pid"}
SlurmdPidFile={folder / "slurmd.pid"}
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
ReturnToService=2
KillWait=2
InactiveLimit=0
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 CPUs={_CPUS} RealMemory=16000 State=UNKNOWN
PartitionName=normal Nodes=one Default=YES MaxTime=INFINITE State=UP
PartitionName=closed Nodes=one State=DOWN
"""


def missing() -> Sequence[str]:
    """Why there can be no SLURM here."""
    absent = [name for name, path in _PROGRAMS.items() if path is None]
    reasons = [f"no {', '.join(absent)} (Debian: slurmctld slurmd slurm-client munge)"] if absent else []
    return reasons if os.geteuid() == 0 else [*reasons, "SLURM's daemons are started as root"]


@contextmanager
def running_slurm() -> Iterator[Slurm]:
    """A SLURM until the block ends. Skips the test, saying why, where there can be none."""
    if reasons := missing():
        pytest.skip("; ".join(reasons))
    # Not pytest's folder: the path of a socket may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o711)  # munged wants its socket to be seen by all
        slurm = Slurm(Path(folder))
        try:
            slurm.start()
            yield slurm
        finally:
            slurm.stop()
