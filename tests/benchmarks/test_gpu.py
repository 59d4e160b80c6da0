"""The benchmark of a GPU runs, on the CPU with its tiny sizes, and its rates become those of the planner."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu import short_gpu_name, steady_rate
from benchmarks.rates import RATES, Rate, add_rates
from benchmarks.regions import crop_flops
from benchmarks.results import gpu_names, machine, slug
from ovseg.clip.load import load_clip
from tests.conftest import ROOT


def run(device: str, out: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks", "gpu", "--device", device, "--tiny", "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'pipeline'}{os.pathsep}{ROOT}"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.iterdir()
    return dict(json.loads(path.read_text()))


@pytest.mark.slow
def test_every_check_passes_or_says_why_it_cannot_be_made(tmp_path: Path) -> None:
    record = run("cpu", tmp_path)
    checks = {row["what"]: row for row in record["rows"] if row["result"] in ("passed", "FAILED", "skipped")}
    assert {row["result"] for row in checks.values()} == {"passed", "skipped"}, checks
    assert checks["out of memory is said with a remedy"]["detail"] == "only a GPU says that its memory is full"
    assert {rate["work"] for rate in record["rates"]} >= {"encode", "finetune", "prompt", "train network", "load"}
    assert all(rate["per_second"] > 0 for rate in record["rates"])


@pytest.mark.gpu
def test_every_check_passes_on_a_gpu(tmp_path: Path) -> None:
    assert all(target["met"] for target in run("cuda:0", tmp_path)["targets"])


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA RTX A5000", "a5000"),
        ("NVIDIA GeForce RTX 4090", "4090"),
        ("Tesla T4", "t4"),
    ],
)
def test_a_gpu_is_named_as_the_planner_takes_it(name: str, short: str) -> None:
    assert short_gpu_name(name) == short


def test_the_record_names_the_device_that_ran_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"cuda:0": "NVIDIA H100 80GB HBM3", "cuda:1": "Tesla T4"}
    monkeypatch.setattr(torch.cuda, "get_device_name", names.__getitem__)
    assert gpu_names("cpu") == [] and "gpus" not in machine("cpu") and "h100" not in slug("cpu")
    assert gpu_names("cuda:1") == machine("cuda:1")["gpus"] == ["Tesla T4"]
    assert slug("cuda:1").endswith("tesla-t4")


def test_the_rate_of_several_processes_is_that_of_the_time_in_which_all_work() -> None:
    """Four processes, a unit each 8 seconds after a slow first one; at the end one process after the other has no more work."""
    busy = [0.0, *(20.0 + 2 * i for i in range(20))]
    assert steady_rate([*busy, 59.5, 62.0, 65.0, 70.0], [10] * 24, 4) == pytest.approx(10 / 2)
    assert steady_rate([0.0, 4.0], [10], 2) == 2.5


def test_the_operations_of_a_crop_are_those_that_a_pass_with_gradients_has(tiny_clip: Path) -> None:
    """With gradients torch does not take the kernel of attention that it does not count."""
    clip = load_clip(f"local-dir:{tiny_clip}")
    clip.model.visual.requires_grad_(True)
    with FlopCounterMode(display=False) as counter:
        clip.model.visual(torch.zeros(1, 3, clip.size, clip.size))  # type: ignore[operator]
    clip.model.visual.requires_grad_(False)
    assert crop_flops(clip) == counter.get_total_flops()


def test_measured_rates_stand_first_and_replace_those_of_the_same_gpu(tmp_path: Path) -> None:
    path = tmp_path / "rates.json"
    shutil.copy(RATES, path)
    before = json.loads(path.read_text())["rates"]
    first, second = (Rate("encode", "ViT-B-16", "bf16", "b200", rate, "measured") for rate in (4000.0, 5000.04))
    on_cpu = first._replace(device="cpu")
    assert [add_rates([rate], path) for rate in (first, second, on_cpu)] == [1, 1, 0]
    rates = json.loads(path.read_text())["rates"]
    assert rates == [{**second._asdict(), "per_second": 5000.0}, *before]
