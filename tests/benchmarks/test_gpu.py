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

from benchmarks.gpu import short_gpu_name
from benchmarks.rates import RATES, Rate, add_rates
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


def test_measured_rates_stand_first_and_replace_those_of_the_same_gpu(tmp_path: Path) -> None:
    path = tmp_path / "rates.json"
    shutil.copy(RATES, path)
    before = json.loads(path.read_text())["rates"]
    first, second = (Rate("encode", "ViT-B-16", "bf16", "b200", rate, "measured") for rate in (4000.0, 5000.04))
    on_cpu = first._replace(device="cpu")
    assert [add_rates([rate], path) for rate in (first, second, on_cpu)] == [1, 1, 0]
    rates = json.loads(path.read_text())["rates"]
    assert rates == [{**second._asdict(), "per_second": 5000.0}, *before]
