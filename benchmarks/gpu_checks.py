"""Whether a device computes what the CPU does: the tiny recipe, stage by stage on both, and what only a GPU has.

Nothing is compared bit for bit between devices, which add numbers up in another order: `Check.detail` states how far apart
they are, and a check fails beyond what rounding explains.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import yaml
from safetensors.torch import load_file

from benchmarks.inputs import ROOT
from data.demo.world.make import make_split
from ovseg.clip.save import WEIGHTS
from ovseg.core import masks, tables
from ovseg.core.errors import OvsegError
from ovseg.core.params import Params, read_params
from ovseg.engine.process import torchrun_command

STAGES = [
    "base",
    "index",
    "nouns",
    "proposal_network",
    "propose",
    "score",
    "select",
    "shards",
    "finetune",
    "prompt",
    "measure:proposal_network",
    "measure:base",
    "measure:finetune",
    "measure:prompt",
    "embed_heldout",
    "calibrate",
    "embed:all",
    "evaluate:all",
    "report",
]
CHANGES: dict[
    str, dict[str, Any]
] = {  # of the tiny recipe: the proposal network is trained, and one benchmark is enough
    "proposal_network": {"steps": 2, "batch_size": 4, "crop_size": 64},
    "evaluate": {"benchmarks": ["all"]},
    "calibrate": {"weights": [0.3, 0.7], "thresholds": [0.4], "limit": 4},
    "heldout": {"limit": 4},
    "finetune": {"max_steps": 4, "batch_size": 16},
    "prompt": {"max_steps": 4, "batch_size": 16},
}
OUTPUTS = {  # of the stages that run more than once
    "score": ("data/candidates",),
    "select": ("data/pairs",),
    "finetune": ("models/finetune",),
}
PROPOSAL_NETWORK = "models/proposal_network"
LINKED = ("pipeline", "requirements.lock", "data/demo/clip", "data/demo/tagger", "data/demo/proposal_network")
SAME_MASK = 0.95  # least IoU of two masks that are the same but for rounding
LEAST_SAME_PAIRS = {"fp32": 0.98, "bf16": 0.9}
ACCURACY_TOLERANCE, MIOU_TOLERANCE = 0.1, 0.05  # of some 30 masks, and of 8 images


DETAIL = 200  # largest number of characters of a detail: the last ones, where messages have their cause


class Check(NamedTuple):
    """The outcome of one check; `passed` is None where this machine cannot make it, and `detail` says why."""

    name: str
    passed: bool | None
    detail: str
    seconds: float


def run_checks(folder: Path, device: str, sizes: Mapping[str, int]) -> tuple[list[Check], dict[str, float]]:
    """Make all checks.

    Args:
        folder: an empty folder.
        device: the torch device; on "cpu" there is one run, which is compared with itself.
        sizes: the numbers of images of the splits "train", "val" and "benchmark".

    Returns:
        the checks, and the seconds of each stage on the device.
    """
    draw(folder / "drawn", sizes)
    on_device = Run(folder / "device", device)
    on_cpu = on_device if device == "cpu" else Run(folder / "cpu", "cpu")
    checks = []
    for run in dict.fromkeys((on_cpu, on_device)):
        run.prepare(folder / "drawn")
        trained = None if run is on_cpu else on_cpu.folder / PROPOSAL_NETWORK
        checks.append(_check(f"all stages on {run.device}", partial(run.run_all, trained)))
    if all(check.passed for check in checks):
        checks += [
            _check("pairs are those of the CPU", lambda: compare_pairs(on_cpu, on_device)),
            _check("pairs in bf16", lambda: pairs_in_bf16(on_device)),
            _check("mask accuracy and mIoU are those of the CPU", lambda: compare_figures(on_cpu, on_device)),
            _check("a stopped training continues to the same weights", lambda: resume(on_device)),
            _check("two processes train as one", lambda: two_processes(on_device)),
            _check("out of memory is said with a remedy", lambda: out_of_memory(on_device)),
        ]
    return checks, on_device.seconds


class Skipped(Exception):  # noqa: N818
    """This machine cannot make a check."""


def _check(name: str, function: Callable[[], tuple[bool, str]]) -> Check:
    start = time.perf_counter()
    try:
        passed, detail = function()
    except Skipped as reason:
        return Check(name, None, str(reason), time.perf_counter() - start)
    except (OvsegError, OSError, KeyboardInterrupt, RuntimeError, ValueError, KeyError, AssertionError) as error:
        passed, detail = False, f"{type(error).__name__}: {error}"
    check = Check(name, passed, " ".join(detail.split())[-DETAIL:], time.perf_counter() - start)
    print(f"{name}: {'passed' if passed else 'FAILED'}, {check.detail}", flush=True)
    return check


def draw(folder: Path, sizes: Mapping[str, int]) -> None:
    """Draw the images of each split."""
    for split, number in sizes.items():
        make_split(folder / split, split, number, 0)


class Run:
    """A run of the tiny recipe in a folder of its own.

    Attributes:
        folder: the folder, laid out as the repository.
        device: the torch device.
        seconds: the seconds of each stage.
    """

    def __init__(self, folder: Path, device: str) -> None:
        self.folder, self.device = folder, device
        self.seconds: dict[str, float] = {}

    def prepare(self, drawn: Path) -> None:
        """Lay the folder out; code, models and images are links."""
        for name in LINKED:
            _link(ROOT / name, self.folder / name)
        for split in ("train", "val", "benchmark"):
            _link(drawn / split, self.folder / "data" / "demo" / split)
        params = yaml.safe_load((ROOT / "recipes" / "tiny.yaml").read_text(encoding="utf-8"))
        for section, values in CHANGES.items():
            params[section] |= values
        (self.folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")

    def run_all(self, network: Path | None = None) -> tuple[bool, str]:
        """Run every stage.

        Args:
            network: the trained proposal network that the later stages use instead of this run's own: rounding moves a network
                in training so far that the masks of two are not comparable.
        """
        for name in STAGES:
            start = time.perf_counter()
            self.stage(*name.split(":"))
            self.seconds[name] = time.perf_counter() - start
            if name == "proposal_network" and network:
                shutil.rmtree(self.folder / PROPOSAL_NETWORK)
                shutil.copytree(network, self.folder / PROPOSAL_NETWORK)
            print(f"{self.device}: {name} {self.seconds[name]:.1f} s", flush=True)
        return True, f"{len(STAGES)} stages"

    def stage(
        self,
        name: str,
        *arguments: str,
        options: tuple[str, ...] = (),
        changes: dict[str, Any] | None = None,
        work: str = "work",
    ) -> None:
        """Run one stage in this process.

        Args:
            name: its name.
            arguments: what it is called with, such as the name of a benchmark.
            options: its command line, if it is a training.
            changes: other values of its section of params.yaml.
            work: the folder of unfinished work.
        """
        self.remove_outputs(name)
        module = importlib.import_module(f"stages.{name}")
        with self.entered(name, options, work):
            params: Params = read_params()
            if changes:
                section = getattr(params, name).model_copy(update=changes)
                params = params.model_copy(update={name: section})
            module.main(params, *arguments)

    def remove_outputs(self, name: str) -> None:
        """Remove what an earlier run of a stage has published, as DVC does."""
        for output in OUTPUTS.get(name, ()):
            shutil.rmtree(self.folder / output, ignore_errors=True)

    @contextmanager
    def entered(self, name: str, options: tuple[str, ...], work: str) -> Iterator[None]:
        """Be in the folder, with the environment and the command line of a stage."""
        variables = {"OVSEG_DEVICE": self.device, "OVSEG_WORK": str(self.folder / work), "OVSEG_WORKERS": "2"}
        with chdir(self.folder), patch.dict(os.environ, variables), patch.object(sys, "argv", [name, *options]):
            yield

    def pairs(self) -> dict[tuple[int, str], tuple[bytes, int, int]]:
        """The mask of each noun of an image: RLE, height and width."""
        columns = ["image_id", "proposal", "rle", "height", "width"]
        proposals = tables.read(self.folder / "data" / "proposals", "proposals", columns).to_pylist()
        by_place = {(row["image_id"], row["proposal"]): (row["rle"], row["height"], row["width"]) for row in proposals}
        rows = tables.read(self.folder / "data" / "pairs", "pairs", ["image_id", "noun", "proposal"]).to_pylist()
        return {(row["image_id"], row["noun"]): by_place[row["image_id"], row["proposal"]] for row in rows}

    def weights(self, model: str) -> dict[str, torch.Tensor]:
        """The weights of a CLIP of the run."""
        return load_file(self.folder / "models" / model / WEIGHTS)


def _link(source: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(source, target_is_directory=source.is_dir())


def fraction_same(
    first: dict[tuple[int, str], tuple[bytes, int, int]], second: dict[tuple[int, str], tuple[bytes, int, int]]
) -> float:
    """The fraction of nouns that have the same mask but for rounding."""
    same = 0
    for key in first.keys() & second.keys():
        (rle, height, width), (other, _, _) = first[key], second[key]
        same += bool(masks.iou_matrix([rle], height, width, [other])[0, 0] >= SAME_MASK)
    return same / max(1, len(first.keys() | second.keys()))


def compare_pairs(on_cpu: Run, on_device: Run) -> tuple[bool, str]:
    """The same noun gets the same mask."""
    same = fraction_same(on_cpu.pairs(), on_device.pairs())
    return same >= LEAST_SAME_PAIRS["fp32"], f"{same:.4f} of {len(on_cpu.pairs())} nouns have the same mask"


def pairs_in_bf16(on_device: Run) -> tuple[bool, str]:
    """Nearly all nouns keep their mask when CLIP computes in bfloat16. The run's own pairs are put back."""
    before = on_device.pairs()
    on_device.stage("score", changes={"precision": "bf16"}, work="work-bf16")
    on_device.stage("select", work="work-bf16")
    same = fraction_same(before, on_device.pairs())
    on_device.stage("score")
    on_device.stage("select")
    return same >= LEAST_SAME_PAIRS["bf16"], f"{same:.4f} of {len(before)} nouns keep their mask"


def compare_figures(on_cpu: Run, on_device: Run) -> tuple[bool, str]:
    """Mask accuracy of each model, and mIoU of the last one, are the same but for a few masks."""
    reports = [json.loads((run.folder / "reports" / "metrics.json").read_text()) for run in (on_cpu, on_device)]
    accuracy = max(
        abs(first["model"]["mask_accuracy"] - second["model"]["mask_accuracy"])
        for first, second in (
            (reports[0]["measure"][name], reports[1]["measure"][name]) for name in ("base", "finetune", "prompt")
        )
    )
    first, second = (report["benchmarks"]["all"]["prompt"]["ensemble"]["miou"] for report in reports)
    passed = accuracy <= ACCURACY_TOLERANCE and abs(first - second) <= MIOU_TOLERANCE
    return passed, f"mask accuracy differs by at most {accuracy:.3f}, mIoU by {abs(first - second):.4f}"


def resume(on_device: Run) -> tuple[bool, str]:
    """A training that is stopped after its first step and goes on ends with the weights of the whole one."""
    whole = on_device.weights("finetune")
    try:
        on_device.stage("finetune", options=("--max-steps", "1", "--fresh"), work="work-resume")
    except KeyboardInterrupt:
        on_device.stage("finetune", work="work-resume")
    else:
        return False, "the training was not stopped"
    difference = max(
        float((whole[name] - tensor).abs().max()) for name, tensor in on_device.weights("finetune").items()
    )
    limit = 0.0 if on_device.device == "cpu" else 1e-3  # the backward of fused attention adds up in any order
    return difference <= limit, f"the largest difference of a weight is {difference:.2g}"


def two_processes(on_device: Run) -> tuple[bool, str]:
    """Two ranks, with NCCL on GPUs and gloo on CPUs, come near the weights of one."""
    if on_device.device != "cpu" and torch.cuda.device_count() < 2:
        raise Skipped(f"this machine has {torch.cuda.device_count()} GPU")
    single, base = on_device.weights("finetune"), on_device.weights("base")
    devices = "cpu" if on_device.device == "cpu" else "cuda:0,cuda:1"
    variables = {"OVSEG_DEVICE": devices, "OVSEG_PROCESSES": "2", "OVSEG_WORK": str(on_device.folder / "work-ranks")}
    path = os.pathsep.join([str(ROOT), str(ROOT / "pipeline"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, **variables, "OVSEG_WORKERS": "1", "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    on_device.remove_outputs("finetune")
    _link(ROOT / "stages", on_device.folder / "stages")
    command = torchrun_command("stages.finetune", 2)
    done = subprocess.run(
        command, cwd=on_device.folder, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    if done.returncode:
        return False, next((line for line in done.stderr.splitlines() if "Error" in line), done.stderr)
    changed = torch.cat([(single[name] - base[name]).flatten() for name in base])
    of_ranks = on_device.weights("finetune")
    difference = torch.cat([(of_ranks[name] - single[name]).flatten() for name in base])
    ratio = float(difference.norm() / changed.norm())
    # each reader has its own order of samples, so that the two paths are not one
    return (
        ratio < 1.5,
        f"the change of the weights differs by {ratio:.2f} of its size, the order of samples being another",
    )


def out_of_memory(on_device: Run) -> tuple[bool, str]:
    """A training that needs more memory than there is ends with one sentence that names the remedy."""
    if on_device.device == "cpu":
        raise Skipped("only a GPU says that its memory is full")
    index = torch.device(on_device.device).index or 0
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.002, index)
    try:
        on_device.stage("finetune", options=("--fresh",), work="work-memory")
    except OvsegError as error:
        return "OVSEG_MICRO_BATCH" in str(error), str(error)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, index)
    return False, "the training fitted into a thousandth of the memory"
