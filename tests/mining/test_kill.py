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

    def started(out: Path, work: Path) -> subprocess.Popen[str]:
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
            preexec_fn=_listens,
        )

    return started


def _listens() -> None:
    """A shell starts what runs in its background deaf to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finished(work: Path, out: Path) -> int:
    """How far a run is: units that are done, and steps that are published."""
    return len(list(work.glob("*/*.done.json"))) + sum((out / name / "step.json").exists() for name in STEPS)


def wait_until(process: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while process.poll() is None and not reached():
        assert time.monotonic() < deadline, "the run makes no progress"
        time.sleep(0.003)


def result(out: Path) -> dict[str, str]:
    """sha256 of all that a run publishes."""
    return {f"{name}/{path}": sha for name in STEPS for path, sha in digests(out / name).items()}


def complete(process: subprocess.Popen[str]) -> None:
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said


@pytest.fixture(scope="module")
def whole(start: Start, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a run makes that nobody disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    complete(start(folder / "out", folder / "work"))
    return result(folder / "out")


def test_kill_9_at_many_moments_changes_no_byte(start: Start, whole: dict[str, str], tmp_path: Path) -> None:
    """Seven kills, each a random moment after some more units than the last one: the end is the same, and no worker stays."""
    out, work = tmp_path / "out", tmp_path / "work"
    dice = random.Random(0)
    kills = 0
    for _ in range(7):
        before = finished(work, out)
        process = start(out, work)
        further = before + dice.randint(1, 5)
        wait_until(process, lambda further=further: finished(work, out) >= further)  # type: ignore[misc]
        time.sleep(dice.random() * 0.05)
        workers = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        psutil.wait_procs(workers, timeout=10)
        assert not [worker for worker in workers if worker.is_running() and worker.status() != "zombie"]
        assert finished(work, out) >= before
    assert kills >= 5
    complete(start(out, work))
    assert result(out) == whole
    assert {path.name for path in out.iterdir()} == {*STEPS, "run.json", "pairs.html"}
    assert not list(work.glob("*/*.tmp"))


def test_ctrl_c_says_so_and_the_same_command_continues(start: Start, whole: dict[str, str], tmp_path: Path) -> None:
    """SIGINT to the whole group, as a terminal sends it: exit code 130, one line, no traceback; then the same bytes."""
    out, work = tmp_path / "out", tmp_path / "work"
    for units in (1, 6):
        process = start(out, work)
        wait_until(process, lambda units=units: finished(work, out) >= units)  # type: ignore[misc]
        os.killpg(process.pid, signal.SIGINT)
        said = "".join(process.communicate(timeout=60))
        assert process.returncode == 130, said
        assert "run the same command again" in said and "Traceback" not in said
    complete(start(out, work))
    assert result(out) == whole
