"""A SLURM of one machine: munged, slurmctld and slurmd on free ports, with everything they write in one folder."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "srun")

CONFIG = """
ClusterName=tiny
SlurmctldHost={host}
SlurmctldAddr=127.0.0.1
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SlurmdParameters=config_overrides
ReturnToService=2
SchedulerParameters=batch_sched_delay=1,sched_interval=5,bf_interval=5
KillWait=2
MinJobAge=300
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=30 State=UP
"""


def why_not() -> str:
    """Return why no SLURM can be started here, or ""."""
    absent = [program for program in PROGRAMS if not _which(program)]
    if absent:
        return f"no {', '.join(absent)} here: apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "only root may start a SLURM"
    return ""


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Start a SLURM and yield the variables that make its commands talk to it; everything is ended afterwards."""
    host = socket.gethostname().split(".")[0]
    (folder / "state").mkdir(parents=True)
    (folder / "spool").mkdir()
    config = folder / "slurm.conf"
    config.write_text(
        CONFIG.format(host=host, folder=folder, controller_port=_free_port(), node_port=_free_port()).lstrip()
    )
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    variables = {"SLURM_CONF": str(config)}
    env = {**os.environ, **variables}
    processes: list[subprocess.Popen[bytes]] = []
    log = (folder / "daemons.log").open("wb")

    def start(*command: str) -> None:
        words = [_which(command[0]), *command[1:]]
        processes.append(subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=env))

    try:
        munge = [
            f"--{name}={folder}/munge.{name.split('-')[0]}"
            for name in ("key-file", "socket", "pid-file", "log-file", "seed-file")
        ]
        start("munged", "--foreground", "--force", *munge)
        _until((folder / "munge.socket").exists, "munged does not answer", folder)
        start("slurmctld", "-D", "-c")
        start("slurmd", "-D", "-N", host)
        _until(lambda: "idle" in _run(["sinfo", "-h", "-o", "%T"], env), "the node does not become idle", folder)
        yield variables
    finally:
        _run(["scancel", "--full", "--user", pwd.getpwuid(os.geteuid()).pw_name], env)
        _until(lambda: not _run(["squeue", "-h"], env).strip(), "jobs do not end", folder, seconds=20, strict=False)
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        log.close()


def _run(command: list[str], env: dict[str, str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120, check=False)
    return done.stdout


def _until(
    condition: Callable[[], object], failure: str, folder: Path, *, seconds: float = 120, strict: bool = True
) -> None:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            if not strict:
                return
            logs = "\n".join(path.read_text(errors="replace")[-1500:] for path in sorted(folder.glob("*.log")))
            raise TimeoutError(f"{failure} after {seconds:g} s:\n{logs}")
        time.sleep(0.1)


def _which(program: str) -> str:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
