"""The executor for Slurm, on submitit's own executor for one machine: the same jobs, files and ends of jobs."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ovseg.core.errors import OvsegError
from ovseg.engine.fingerprint import StepKey
from ovseg.engine.runtime import Runtime
from ovseg.engine.slurm import read_parameters
from ovseg.engine.steps import run_step
from ovseg.engine.units import Counts, Task
from tests.conftest import ROOT, digests

UNITS = [f"{i:05d}" for i in range(6)]
KEY = StepKey("step", "k", {})


@dataclass(frozen=True)
class NotedTaskFactory:
    """A task that notes every start of a unit; the first start of unit `deadly` kills its job, and `bad` is an error."""

    notes: Path
    deadly: str = ""
    bad: str = ""

    def __call__(self, device: str) -> Task:
        return self.task

    def task(self, unit: str, folder: Path) -> Counts:
        first = not list(self.notes.glob(f"{unit}.*"))
        (self.notes / f"{unit}.{time.monotonic_ns()}").touch()
        if unit == self.deadly and first:
            os.kill(os.getpid(), signal.SIGKILL)
        if unit == self.bad:
            raise OvsegError("the disk is made of cheese")
        (folder / f"{unit}.txt").write_text(unit)
        return {"things": 1}


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("submitit", reason="submitit is not installed")
    monkeypatch.setenv("OVSEG_SLURM", "cluster=local,jobs=2,timeout_min=5")
    here = Path(__file__).parent
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(here), str(ROOT), str(ROOT / "pipeline"), *inherited]))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    return Path("notes")


@pytest.mark.slow
def test_a_killed_job_is_submitted_again_with_what_is_left(
    notes: Path, runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing but the unit at work is done twice, and the files are those of a run in one process."""
    factory = NotedTaskFactory(notes, deadly=UNITS[2])
    assert run_step(KEY, UNITS, factory, Path("out"), replace(runtime, executor="slurm")) == {"things": 6}
    assert {unit: len(list(notes.glob(f"{unit}.*"))) for unit in UNITS} == {
        unit: 1 + (unit == UNITS[2]) for unit in UNITS
    }
    assert "ended with 2 units to do" in caplog.text
    run_step(KEY, UNITS, NotedTaskFactory(notes), Path("here"), replace(runtime, work=Path("work").absolute()))
    assert digests(Path("out")) == digests(Path("here"))


@pytest.mark.slow
def test_an_error_of_a_task_comes_through(notes: Path, runtime: Runtime) -> None:
    with pytest.raises(OvsegError, match=r"^the disk is made of cheese$"):
        run_step(KEY, UNITS, NotedTaskFactory(notes, bad=UNITS[3]), Path("out"), replace(runtime, executor="slurm"))


def test_the_parameters_of_jobs_are_read() -> None:
    assert read_parameters("") == (8, {})
    text = "jobs=16,slurm_partition=gpu,timeout_min=240"
    assert read_parameters(text) == (16, {"slurm_partition": "gpu", "timeout_min": 240})
    text = "slurm_time=4:00:00,slurm_account=0123,slurm_exclude=n[1,2],slurm_use_srun=False,mem_gb=1.5,slurm_constraint=1.10,"
    assert read_parameters(text) == (
        8,
        {
            "slurm_time": "4:00:00",
            "slurm_account": "0123",
            "slurm_exclude": "n[1,2]",
            "slurm_use_srun": False,
            "mem_gb": 1.5,
            "slurm_constraint": "1.10",
        },
    )
    for wrong, message in (("gpu", "'gpu' is not NAME=VALUE"), ("jobs=0", "at least 1"), ("jobs=many", "whole number")):
        with pytest.raises(OvsegError, match=message):
            read_parameters(wrong)


def test_a_machine_without_slurm_is_said(notes: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVSEG_SLURM", "jobs=2")
    with pytest.raises(OvsegError, match="no job can be submitted with OVSEG_SLURM='jobs=2'"):
        run_step(KEY, UNITS, NotedTaskFactory(notes), Path("out"), replace(runtime, executor="slurm"))
