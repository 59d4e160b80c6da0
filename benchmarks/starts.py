"""Seconds that the process of each stage takes before its first line runs: its imports.

    python -m benchmarks starts      a minute and a half on two cores

A stage that runs its units in workers starts twice if its own process imports torch: once itself, once for all workers
together. Wall time and processor time are medians of three starts, the stages in turns.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from statistics import median

import yaml

from benchmarks.inputs import ROOT
from benchmarks.results import Options, Result, Row

ROUNDS = 3


def run(options: Options) -> Result:
    dag = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    modules = [stage["cmd"].split()[2] for stage in dag["stages"].values()]
    rounds = [{module: start(module) for module in modules} for _ in range(1 if options.smoke else ROUNDS)]
    rows: list[Row] = []
    for module in modules:
        wall, processor, torch = zip(*(starts[module] for starts in rounds), strict=True)
        row: Row = {"stage": module, "seconds": median(wall), "of a processor": median(processor)}
        rows.append({**row, "imports torch": "yes" if all(torch) else "no"})
    return Result({"starts of each": len(rounds)}, rows)


def start(module: str) -> tuple[float, float, bool]:
    """Import a module in a process of its own.

    Returns:
        wall time and processor time in seconds, and whether it has imported torch.
    """
    code = f"import sys, {module}; print('torch' in sys.modules)"
    began, before = time.monotonic(), _processor_seconds()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return time.monotonic() - began, _processor_seconds() - before, done.stdout.strip() == "True"


def _processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
