"""The command of a stage takes the arguments that dvc.yaml gives it, and refuses others; trainings start as many processes
as there are GPUs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stages import _run
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("select --fresh", "unrecognized arguments: --fresh"),
        ("measure", "the following arguments are required: MODEL"),
        ("embed", "the following arguments are required: BENCHMARK"),
        ("evaluate", "the following arguments are required: BENCHMARK"),
        ("convert coco", "the following arguments are required: BENCHMARK"),
        ("verify coco train2017 val2017", "unrecognized arguments: val2017"),
        ("finetune --max-step ten", "argument --max-steps: invalid int value: 'ten'"),
    ],
)
def test_a_wrong_argument_of_a_stage_is_said_in_a_line(command: str, said: str) -> None:
    stage, *arguments = command.split()
    run = [sys.executable, "-m", f"stages.{stage}", *arguments]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and said in done.stderr and f"python -m stages.{stage}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("devices", "processes"), [("cuda:0,cuda:0", 1), ("cuda:0,cuda:1,cuda:0", 2), ("cuda:0", 1), ("cpu,cpu", 1)]
)
def test_a_training_has_one_process_on_each_gpu(devices: str, processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a GPU is named twice, which gives mining two processes on it."""
    started: list[tuple[str, list[str]]] = []
    monkeypatch.setattr("os.execv", lambda *words: started.append(words))
    monkeypatch.setattr("sys.argv", [str(ROOT / "stages" / "finetune.py")])
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("OVSEG_DEVICE", devices)
    _run._start_ranks(None)  # type: ignore[arg-type]
    if processes == 1:
        assert not started
    else:
        assert f"--nproc-per-node={processes}" in started[0][1]
    assert _run.training_runtime().devices == tuple(dict.fromkeys(devices.split(",")))
