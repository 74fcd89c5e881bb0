"""Talking to SLURM: submit by submitit, ask squeue and, where there is accounting, sacct; cancel."""

from __future__ import annotations

import io
import math
import re
import shutil
import subprocess
import warnings
from collections.abc import Collection, Iterable, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbench.config import parse_seconds
from mmbench.errors import Unavailable, UsageError
from mmbench.executors.child import one_line
from mmbench.record import Status
from mmbench_executors.slurm_folder import LOGS
from mmbench_executors.slurm_pack import EXIT_WORDS, run_pack

PROGRAMS = ("sbatch", "srun", "squeue", "scancel")
#: Jobs that will not run again. One that is put back into the queue is PENDING.
ENDED = frozenset(
    {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED"}
    | {"TIMEOUT"}
)
#: How long a program of SLURM may take to answer.
ANSWER_S = 60.0
_PREFIX = "mmbench-"
#: What SLURM says of what it will never take.
_FOR_GOOD = ("invalid", "unrecognized option", "not permitted", "access denied", "not available")


@dataclass(frozen=True, kw_only=True)
class JobState:
    """What SLURM says of a job.

    Attributes:
        state: As squeue writes it: "PENDING", "RUNNING", "NODE_FAIL", …
        why: SLURM's reason, or "".
        node: Where it runs or ran, or "".
        exit_code: Of its script, or None where nobody knows.
    """

    state: str
    why: str = ""
    node: str = ""
    exit_code: int | None = None

    @property
    def of_cell(self) -> Status:
        """Return the status of a cell that ended with the job."""
        ends: dict[str, Status] = {"TIMEOUT": "timeout", "OUT_OF_MEMORY": "oom_host"}
        return ends.get(self.state, "killed")

    def in_words(self, job_id: str, said: str = "") -> str:
        """Return how the job ended, as the beginning of a sentence.

        Args:
            job_id: The job.
            said: The last line that it wrote.
        """
        words = f"SLURM job {job_id}{f' on {self.node}' if self.node else ''} ended as {self.state}"
        if self.state == "TIMEOUT":
            return f"{words}, its walltime being over (the option time gives more),"
        facts = [EXIT_WORDS.get(self.exit_code or 0, ""), f"exit code {self.exit_code}" if self.exit_code else ""]
        # Of a job that was cancelled it is why it had waited.
        why = "" if self.state == "CANCELLED" or self.why == "NonZeroExitCode" else self.why
        facts += [why, f"its last line: {said}" if said else ""]
        told = "; ".join(filter(None, facts))
        return f"{words} ({told})" if told else words


class SubmitError(Exception):
    """SLURM did not take a submission; the message is its own."""

    @property
    def is_for_good(self) -> bool:
        """Whether it was refused for something that waiting does not change."""
        return any(sign in str(self).lower() for sign in _FOR_GOOD)


class Queue:
    """SLURM, for the jobs of one executor.

    Args:
        folder: The executor's.
        walltime_s: For each job, or None for what the partition gives.
        parameters: Of `submitit.SlurmExecutor.update_parameters`, for every job.

    Raises:
        Unavailable: the programs of SLURM are not here.
    """

    def __init__(self, folder: Path, *, walltime_s: float | None, parameters: dict[str, Any]) -> None:
        absent = [program for program in PROGRAMS if shutil.which(program) is None]
        if absent:
            lack = f"executor 'slurm' needs {', '.join(absent)} on the PATH"
            raise Unavailable(f"{lack}: type the command on a login node of the cluster")
        self._folder = folder
        self._walltime_s = walltime_s
        self._parameters = parameters
        said = _run("squeue", "--me", "-h")[1]
        if said is not None:
            raise Unavailable(f"executor 'slurm' gets no answer from SLURM: {one_line(said) or 'squeue failed'}")

    def submit(self, token: str, packs: Sequence[Sequence[str]]) -> list[str]:
        """Submit a job for each pack, several of them as an array, and return what SLURM calls them.

        Raises:
            SubmitError: SLURM said no, or nothing.
        """
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        folder = str(self._folder)
        # Minutes; None leaves it to the partition.
        minutes = None if self._walltime_s is None else math.ceil(self._walltime_s / 60)
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # sbatch's words are in the error too
            warnings.simplefilter("ignore")  # about sacct, which is not asked
            executor = submitit.SlurmExecutor(self._folder / LOGS)
            executor.update_parameters(
                **{
                    "time": minutes,
                    "job_name": f"{_PREFIX}{token}",
                    "array_parallelism": len(packs),
                    **self._parameters,
                }
            )
            try:
                jobs = executor.map_array(
                    run_pack, [folder] * len(packs), [list(pack) for pack in packs], [self._walltime_s] * len(packs)
                )
            except (FailedJobError, FailedSubmissionError, OSError) as error:
                raise SubmitError(" ".join(str(error).split())) from error
        return [str(job.job_id) for job in jobs]

    def find(self, token: str) -> list[str]:
        """Return the jobs of a submission that SLURM knows, by their place in it.

        Raises:
            SubmitError: SLURM does not answer.
        """
        listed = _ask("squeue", "--me", "-h", "-r", "--states=all", f"--name={_PREFIX}{token}", "-o", "%i")
        if listed is None:
            raise SubmitError("squeue does not answer")
        return sorted(listed.split(), key=lambda job_id: int(job_id.partition("_")[2] or 0))

    def states(self) -> dict[str, JobState] | None:
        """Return what SLURM says of our jobs, those that ended minutes ago too; None when it does not answer."""
        listed = _ask("squeue", "--me", "-h", "-r", "--states=all", "-o", "%i|%T|%r|%N|%j")
        if listed is None:
            return None
        states = {}
        for line in listed.splitlines():
            job_id, state, why, node, name = [word.strip() for word in (*line.split("|"), *[""] * 4)][:5]
            if name.startswith(_PREFIX):
                states[job_id] = JobState(state=state, why="" if why == "None" else why, node=node)
        return states

    def ending(self, job_id: str) -> JobState | None:
        """Return how a job ended, asking whoever may still know it."""
        shown = _ask("scontrol", "show", "job", "-o", job_id)
        if shown:
            facts = dict(word.partition("=")[::2] for word in shown.split("\n")[0].split())
            code = facts.get("ExitCode", "").partition(":")[0]
            return JobState(
                state=facts.get("JobState", ""),
                why=facts.get("Reason", "").replace("None", ""),
                node=facts.get("NodeList", "").replace("(null)", ""),
                exit_code=int(code) if code.isdigit() else None,
            )
        listed = _ask("sacct", "-n", "-P", "-X", "-j", job_id, "-o", "State,ExitCode,NodeList")
        if listed and listed.strip():
            state, code, node = [*listed.splitlines()[0].split("|"), "", ""][:3]
            code = code.partition(":")[0]
            # "CANCELLED by 1000"
            return JobState(state=state.split()[0], node=node, exit_code=int(code) if code.isdigit() else None)
        return None

    def cancel(self, job_ids: Iterable[str]) -> None:
        """Cancel jobs; those that ended already are no matter."""
        wanted = list(job_ids)
        for start in range(0, len(wanted), 500):
            _ask("scancel", *wanted[start : start + 500])

    def last_words(self, job_id: str) -> str:
        """Return the last line that a job wrote, or ""."""
        lines: list[str] = []
        for path in (self._folder / LOGS).glob(f"{job_id}_*_log.*"):
            with suppress(OSError):
                lines += path.read_text(errors="replace").splitlines()[-50:]
        said = [line.strip() for line in lines if line.strip() and not re.match(r"submitit (INFO|WARNING)", line)]
        return said[-1] if said else ""

    def tidy(self, keep: Collection[str]) -> None:
        """Remove what submitit left of jobs that did all they were to do; nothing of ours may be with SLURM any more.

        Args:
            keep: Jobs whose files stay.
        """
        for path in (self._folder / LOGS).iterdir():
            if not any(path.name.startswith(f"{job_id}_") for job_id in keep):
                with suppress(OSError):
                    path.unlink()


def _ask(*command: str) -> str | None:
    """Return what a program of SLURM prints, or None when it fails."""
    return _run(*command)[0]


def _run(*command: str) -> tuple[str | None, str | None]:
    """Return what a program prints, or None and what it complains of."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=ANSWER_S, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, str(error)
    return (done.stdout, None) if done.returncode == 0 else (None, done.stderr)


def sbatch_parameters(given: Sequence[str]) -> dict[str, Any]:
    """Return further parameters of sbatch: "constraint=a100" is one with a value, "exclusive" one without.

    Raises:
        UsageError: a word is neither.
    """
    parameters: dict[str, Any] = {}
    for word in given:
        name, equals, value = str(word).removeprefix("--").partition("=")
        if not re.fullmatch(r"[a-zA-Z][a-zA-Z-]*", name) or "\n" in value:
            raise UsageError(f"slurm: sbatch takes words such as constraint=a100 or exclusive, got {word!r}")
        parameters[name] = value if equals else True
    return parameters


def walltime_s(text: str) -> float | None:
    """Read a walltime such as "30m" or "2h"; "" is None.

    Raises:
        UsageError: it cannot be read.
    """
    if not text:
        return None
    try:
        seconds = float(parse_seconds(text))
    except ValueError as error:
        raise UsageError(f"slurm: the option time cannot be read: {error}") from None
    if seconds <= 0:
        raise UsageError(f"slurm: the option time must be above 0, got {text}")
    return seconds
