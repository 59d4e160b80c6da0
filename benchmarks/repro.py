"""The demo from nothing: seconds of each stage of `dvc repro` in a fresh clone of this repository, with empty caches.

    python -m benchmarks repro             7 to 10 minutes on two cores with units for bfloat16, 20 without
    python -m benchmarks repro --smoke     recipes/tiny.yaml in place of params.yaml

What is committed is measured; changes that are not committed are left out, and a line says so. The clone's `dvc.lock` is
removed, or DVC would skip stages whose reports are in git. A stage lasts from DVC's line "Running stage ..." to the next one,
so that it includes the hashing of what it made; the stages of a matrix are summed. The target is that of a processor with units
for bfloat16, and there is none without them or with `--smoke`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.inputs import ROOT
from benchmarks.results import Measurement, Options, Result, Row, Target, other_load
from ovseg.core.arithmetic import data_type

SECONDS = 450.0  # of the whole run, the most that the target allows
LAST_LINES = 40  # of DVC's output, printed if it fails
BEFORE = "DVC, before the first stage"
STAGE = re.compile(r"Running stage '(.+?)'")


class Run(NamedTuple):
    """A run of all stages.

    Attributes:
        began: the stages in the order in which they began, and after how many seconds; the first one is `BEFORE`.
        seconds: the whole run.
        cores_busy: the fraction of all cores that the run used.
        other_load: the fraction of all cores that other processes used.
    """

    began: list[tuple[str, float]]
    seconds: float
    cores_busy: float
    other_load: float


def run(options: Options) -> Result:
    recipe = "recipes/tiny.yaml" if options.smoke else "params.yaml"
    folder = options.folder / "clone"
    commit = clone(ROOT, folder)
    if options.smoke:
        shutil.copyfile(folder / recipe, folder / "params.yaml")
    done = reproduce(folder)
    has_bf16 = data_type("bf16", "cpu") == torch.bfloat16
    targets = [Target("seconds of the demo, from nothing", done.seconds, SECONDS, is_maximum=True)]
    setup: dict[str, str | float] = {
        "commit": commit,
        "recipe": recipe,
        "dvc": metadata.version("dvc"),
        "bf16": str(has_bf16).lower(),
        "cores busy": done.cores_busy,
    }
    measurements = {"runs an hour": [Measurement(3600 / done.seconds, done.other_load)]}
    return Result(
        setup, rows(done.began, done.seconds), targets if has_bf16 and not options.smoke else [], measurements
    )


def clone(repository: Path, folder: Path) -> str:
    """Clone what a repository has committed, without `dvc.lock`, so that DVC knows of no earlier run.

    Args:
        repository: the repository.
        folder: the folder of the clone, which does not exist yet.

    Returns:
        the short name of the commit.
    """
    commit = _git(repository, "rev-parse", "--short", "HEAD")
    if _git(repository, "status", "--porcelain"):
        print(f"There are changes that are not committed. They are left out: commit {commit} is measured.", flush=True)
    _git(repository, "clone", "--quiet", str(repository), str(folder))
    for name in _git(folder, "ls-files", "dvc.lock", "*/dvc.lock").splitlines():
        (folder / name).unlink()
    return commit


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def reproduce(folder: Path) -> Run:
    """Run `dvc repro` in a clone, and print when each stage begins.

    Raises:
        SystemExit: DVC fails; the message has its exit code and the end of its output.
    """
    began, last = [(BEFORE, 0.0)], deque[str](maxlen=LAST_LINES)
    command = [sys.executable, "-m", "dvc", "repro"]
    with other_load() as load:
        before, start = os.times(), time.monotonic()
        with subprocess.Popen(
            command, cwd=folder, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as child:
            assert child.stdout is not None
            for line in (part.decode("utf-8", "replace") for part in child.stdout):
                last.append(line)
                if stage := STAGE.search(line):
                    began.append((stage[1], time.monotonic() - start))
                    print(f"{began[-1][1]:5.0f} s: {stage[1]} begins", flush=True)
        seconds, after = time.monotonic() - start, os.times()
    if child.returncode:
        raise SystemExit(
            f"dvc repro failed with exit code {child.returncode} after {seconds:.0f} s, in {began[-1][0]}. "
            f"The last lines of its output:\n{''.join(last)}"
        )
    processor = after.children_user - before.children_user + after.children_system - before.children_system
    return Run(began, seconds, processor / seconds / (os.cpu_count() or 1), load["fraction"])


def environment(folder: Path) -> dict[str, str]:
    """The variables of a run in a clone: nobody's settings of git, DVC and ovseg, and empty caches beside the clone."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "DVC_", "OVSEG_"))}
    empty = {
        name: str(folder.parent / "empty" / name.lower())
        for name in (
            "DVC_GLOBAL_CONFIG_DIR",
            "DVC_SYSTEM_CONFIG_DIR",
            "DVC_SITE_CACHE_DIR",
            "OVSEG_WORK",
            "XDG_CACHE_HOME",
        )
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{variables.get('PATH', '')}"
    return {**variables, **empty, "PATH": path, "PYTHONPATH": str(folder / "pipeline")}


def rows(began: Sequence[tuple[str, float]], seconds: float) -> list[Row]:
    """The seconds of each stage, those of a matrix together, and of the whole run.

    Args:
        began: DVC's names of stages in the order in which they began, and after how many seconds.
        seconds: the whole run.
    """
    spent: dict[str, list[float]] = defaultdict(list)
    for (name, begin), (_, end) in pairwise([*began, ("", seconds)]):
        spent[name.rpartition(":")[2].partition("@")[0]].append(end - begin)
    of_stages: list[Row] = [{"stage": name, "runs": len(ends), "seconds": sum(ends)} for name, ends in spent.items()]
    return [*of_stages, {"stage": "total", "runs": 1, "seconds": seconds}]
