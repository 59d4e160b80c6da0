"""A run that is killed, at any moment, and started again gives the very bytes of one that was not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from tests.conftest import ROOT, Coco, digests

Start = Callable[[Path, Path], "subprocess.Popen[str]"]
STEPS = ("index", "nouns", "proposals", "candidates", "pairs", "shards")


@pytest.fixture(scope="module")
def start(coco_units: Coco, tagger: str, tiny_clip: Path) -> Start:
    """Starts `ovseg-mine run` with two workers in a session of its own: (output, work folder) -> the process."""

    def start_run(out: Path, work: Path) -> subprocess.Popen[str]:
        arguments = [
            "run",
            "--images",
            str(coco_units.images),
            "--captions",
            str(coco_units.captions),
            "--clip",
            f"local-dir:{tiny_clip}",
            "--proposals",
            f"ground_truth:{coco_units.instances}",
            "--nouns-model",
            tagger,
            "--out",
            str(out),
            "--workers",
            "2",
            "--device",
            "cpu",
            "--min-shards",
            "6",
            "--annotations",
            str(coco_units.instances),
            "--annotated-fraction",
            "0.3",
        ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "pipeline"), "OVSEG_WORK": str(work)}
        return subprocess.Popen(
            [sys.executable, "-m", "ovseg.cli.mine", *arguments],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=_accept_sigint,
        )

    return start_run


def _accept_sigint() -> None:
    """A shell starts its background processes with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finished(work: Path, out: Path) -> int:
    """The progress of a run: the number of finished units and published steps."""
    return len(list(work.glob("*/*.done.json"))) + sum((out / name / "step.json").exists() for name in STEPS)


def wait_until(process: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600
    while process.poll() is None and not reached():
        assert time.monotonic() < deadline, "the run makes no progress"
        time.sleep(0.003)


def result(out: Path) -> dict[str, str]:
    """The sha256 of every file that a run publishes."""
    return {f"{name}/{path}": sha for name in STEPS for path, sha in digests(out / name).items()}


def complete(process: subprocess.Popen[str]) -> None:
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 0, stderr


@pytest.fixture(scope="module")
def undisturbed(start: Start, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The results of a run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    complete(start(folder / "out", folder / "work"))
    return result(folder / "out")


@pytest.mark.slow
def test_kill_9_at_many_moments_changes_no_byte(start: Start, undisturbed: dict[str, str], tmp_path: Path) -> None:
    """Seven kills, each at a random moment after more units than the last one; no worker process stays either."""
    out, work = tmp_path / "out", tmp_path / "work"
    rng = random.Random(0)
    kills = 0
    for _ in range(7):
        before = finished(work, out)
        process = start(out, work)
        further = before + rng.randint(1, 5)
        wait_until(process, lambda further=further: finished(work, out) >= further)  # type: ignore[misc]
        time.sleep(rng.random() * 0.05)
        workers = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        psutil.wait_procs(workers, timeout=10)
        assert not [worker for worker in workers if worker.is_running() and worker.status() != "zombie"]
        assert finished(work, out) >= before
    assert kills >= 5
    complete(start(out, work))
    assert result(out) == undisturbed
    assert {path.name for path in out.iterdir()} == {*STEPS, "run.json", "pairs.html"}
    assert not list(work.glob("*/*.tmp"))


@pytest.mark.slow
def test_the_same_command_continues_after_ctrl_c(start: Start, undisturbed: dict[str, str], tmp_path: Path) -> None:
    """SIGINT to the whole group, as a terminal sends it: exit code 130, one line, no traceback; then the same bytes."""
    out, work = tmp_path / "out", tmp_path / "work"
    for units in (1, 6):
        process = start(out, work)
        wait_until(process, lambda units=units: finished(work, out) >= units)  # type: ignore[misc]
        os.killpg(process.pid, signal.SIGINT)
        output = "".join(process.communicate(timeout=600))
        assert process.returncode == 130, output
        assert "run the same command again" in output and "Traceback" not in output
    complete(start(out, work))
    assert result(out) == undisturbed
