"""The executor for Slurm: jobs of submitit, each with its part of the units, whose done marks tell how far they are.

A job that ends early (killed, preempted, out of time) is submitted again with what it has left, which is little if it got far.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ovseg.core.errors import OvsegError
from ovseg.engine.units import DONE, Counts, TaskFactory, commit, finished_counts

log = logging.getLogger("ovseg")

VARIABLE = "OVSEG_SLURM"
POLL_SECONDS = 2.0
MAX_FAILURES = 5  # of one job in a row, without a unit in between


def run_on_slurm(
    factory: TaskFactory,
    units: Sequence[str],
    folder: Path,
    devices: Sequence[str],
    unit_timeout: float | None = None,  # noqa: ARG001 - the limit of a job is Slurm's own (timeout_min)
) -> Iterator[tuple[str, Counts]]:
    """Run units as jobs of Slurm; see `read_parameters` for where they run and how many they are.

    Args:
        factory: makes the task in each job.
        units: names of the units.
        folder: the scratch folder, which every node must share; the logs of the jobs are in its folder `slurm`.
        devices: those of this machine; the first is the one of each job, as its first GPU if it is one.
        unit_timeout: not used.

    Yields:
        each unit as it finishes, with its counts.

    Raises:
        OvsegError: submitit is not installed, `OVSEG_SLURM` is wrong, Slurm refuses a job, a job has ended five times
            without a unit, or what a task raises.
    """
    number, parameters = read_parameters(os.environ.get(VARIABLE, ""))
    executor = _executor(folder / "slurm", parameters)
    device = "cuda" if devices[0].startswith("cuda") else devices[0]
    number = min(number, len(units))
    parts = {i: list(units[i::number]) for i in range(number)}
    failures = dict.fromkeys(parts, 0)
    jobs: dict[int, Any] = {}
    try:
        while parts:
            for i in parts.keys() - jobs.keys():
                jobs[i] = _submit(executor, factory, device, parts[i], folder)
            ended = {
                i for i, job in jobs.items() if job.done()
            }  # asked before the marks are: a mark is older than an end
            marks = {name.removesuffix(DONE) for name in os.listdir(folder) if name.endswith(DONE)}  # noqa: PTH208 - one call
            for i in sorted(parts):
                known = {unit: finished_counts(folder, unit) for unit in parts[i] if unit in marks}
                finished = {unit: counts for unit, counts in known.items() if counts is not None}
                yield from finished.items()
                parts[i] = [unit for unit in parts[i] if unit not in finished]
                failures[i] = 0 if finished else failures[i]
                if not parts[i]:
                    del parts[i]
                elif i in ended:
                    failures[i] += 1
                    _report_end(jobs.pop(i), len(parts[i]), failures[i])
            if parts:
                time.sleep(POLL_SECONDS)
    finally:
        for job in jobs.values():
            if not job.done():
                job.cancel()


def read_parameters(text: str) -> tuple[int, dict[str, Any]]:
    """Read `OVSEG_SLURM`: the number of jobs, and the parameters of submitit for each of them.

    Args:
        text: NAME=VALUE, separated by commas: "jobs=16,slurm_partition=gpu,gpus_per_node=1,timeout_min=240". `jobs` is 8 by
            default; the other names are submitit's, of which `cluster=local` runs jobs on this machine. A value may have
            commas ("slurm_exclude=n[1,2]").

    Raises:
        OvsegError: the first part is not NAME=VALUE, or `jobs` is not a positive integer.
    """
    parameters: dict[str, Any] = {}
    for part in filter(None, re.split(r",+(?=[^,=]+=|$)", text)):  # a comma that no NAME= follows is of a value
        name, equals, value = part.partition("=")
        if not equals:
            raise OvsegError(f"{VARIABLE}={text!r}: {part!r} is not NAME=VALUE, such as jobs=16,slurm_partition=gpu")
        parameters[name.strip()] = _value(value.strip())
    jobs = parameters.pop("jobs", 8)
    if type(jobs) is not int or jobs < 1:
        raise OvsegError(f"{VARIABLE}={text!r}: jobs={jobs} must be a whole number of at least 1")
    return jobs, parameters


def _value(text: str) -> bool | int | float | str:
    """Convert true, false, and a number that is written as Python writes it: 4:00:00 and 0123 are texts."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for number in (int, float):
        with contextlib.suppress(ValueError):
            if str(number(text)) == text:
                return number(text)
    return text


def do_units(factory: TaskFactory, device: str, units: Sequence[str], folder: Path) -> str | None:
    """Do the units of one job that are not done yet.

    Returns:
        the message of an OvsegError, which stops the job; else None.
    """
    try:
        task = factory(device)
        for unit in units:
            if finished_counts(folder, unit) is None:
                commit(folder, unit, task)
    except OvsegError as error:
        return str(error)
    return None


def _executor(folder: Path, parameters: Mapping[str, Any]) -> Any:
    try:
        import submitit
    except ImportError:
        raise OvsegError("--executor slurm needs submitit: pip install -e '.[slurm]' in the clone") from None
    try:
        executor = submitit.AutoExecutor(folder, cluster=parameters.get("cluster", "slurm"))
        executor.update_parameters(**{name: value for name, value in parameters.items() if name != "cluster"})
    except Exception as error:  # of submitit: no Slurm here, or a parameter that it does not know
        reason = str(error).splitlines()[0]
        raise OvsegError(
            f"no job can be submitted with {VARIABLE}={os.environ.get(VARIABLE, '')!r}: {reason}"
        ) from None
    return executor


def _submit(executor: Any, factory: TaskFactory, device: str, units: Sequence[str], folder: Path) -> Any:
    try:
        job = executor.submit(do_units, factory, device, units, folder)
    except Exception as error:  # FailedSubmissionError, or sbatch is missing
        raise OvsegError(f"Slurm refuses the job: {error}. Set its parameters by {VARIABLE}") from None
    log.info("slurm: job %s has %d units", job.job_id, len(units))
    return job


def _report_end(job: Any, remaining: int, failures: int) -> None:
    """Log that a job has ended before its units were done.

    Raises:
        OvsegError: a task has raised it, or this was so too often.
    """
    problem = job.exception()
    if problem is None and (message := job.result()) is not None:
        raise OvsegError(message)
    reason = str(problem).strip().splitlines()[-1] if problem else "no error"
    if failures >= MAX_FAILURES:
        raise OvsegError(
            f"job {job.job_id} is the {failures}th in a row that ended without finishing a unit ({reason}). Finished units are "
            f"kept; its log: {job.paths.stderr}"
        )
    log.warning("slurm: job %s ended with %d units to do (%s); submitted again", job.job_id, remaining, reason)
