"""Where units run changes nothing but the time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
import torch

from ovseg.core.errors import OvsegError
from ovseg.core.options import ClipOptions, CropOptions, ProposeOptions, ScoreOptions, ShardsOptions
from ovseg.engine.executors import local
from ovseg.engine.fingerprint import StepKey
from ovseg.engine.runtime import MODEL_PROCESSES, Runtime, process_devices
from ovseg.engine.steps import run_step
from ovseg.engine.units import Counts, Task
from tests.conftest import ROOT, Mined, Toys, digests

UNITS = [f"{i:05d}" for i in range(6)]


class TaskFactory:
    """A task that notes the process it runs in; picklable, as every task factory."""

    def __init__(self, trouble: str | None = None) -> None:
        self.trouble = trouble

    def __call__(self, device: str) -> Task:
        if self.trouble == "open":
            raise OvsegError("no such model")
        return self.task

    def task(self, unit: str, folder: Path) -> Counts:
        if self.trouble == "error" and unit == UNITS[3]:
            raise OvsegError("the disk is made of cheese")
        if self.trouble == "memory" and unit == UNITS[3]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        if self.trouble == "die" and unit == UNITS[3]:
            os._exit(9)
        time.sleep(0.05)
        (folder / f"{unit}.txt").write_text(unit)
        (folder / f"{unit}.pid").write_text(str(os.getpid()))
        return {"things": 1}


def sizes(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.done.json")}


def test_two_processes_share_the_units(tmp_path: Path) -> None:
    """Every unit is done once, by processes that are not this one, and none of them stays."""
    counts = dict(local(TaskFactory(), UNITS, tmp_path, ("cpu", "cpu")))
    pids = {int((tmp_path / f"{unit}.pid").read_text()) for unit in UNITS}
    assert counts == {unit: {"things": 1} for unit in UNITS} and os.getpid() not in pids and 1 <= len(pids) <= 2
    deadline = time.monotonic() + 10
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("devices", "workers", "units", "uses_model", "processes"),
    [
        (("cpu",), 2, 20, False, 2),
        (("cpu",), 2, 3, False, 1),
        (("cpu",), 2, 20, True, 2),
        (("cpu",), 64, 200, True, MODEL_PROCESSES),
        (("cpu",), 2, 5, True, 1),
        (("cpu",), 1, 200, True, 1),
        (("cuda:0",), 1, 200, True, 1),
        (("cuda:0",), 8, 200, True, 2),
        (("cuda:0",), 64, 8, True, 2),
        (("cuda:0",), 64, 200, True, MODEL_PROCESSES),
        (("cuda:1",), 64, 200, True, 1),
        (("cuda:0", "cuda:1"), 8, 1, True, 2),
        (("cuda:0", "cuda:0"), 64, 200, True, 2),
        (("mps",), 64, 200, True, 1),
        (("cuda:0", "cuda:1"), 64, 200, True, MODEL_PROCESSES + 1),
    ],
)
def test_a_model_runs_in_a_few_processes_on_each_device_as_cores_and_memory_allow(
    devices: tuple[str, ...],
    workers: int,
    units: int,
    uses_model: bool,
    processes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ovseg.engine.runtime.gpu_gib", {"cuda:0": 79, "cuda:1": 24}.__getitem__)
    runtime = Runtime(devices=devices, workers=workers)
    assert len(process_devices(runtime, units, uses_model)) == processes
    assert (
        process_devices(replace(runtime, executor="ray"), units, True) == devices
    )  # a cluster places its workers itself


@pytest.mark.parametrize("devices", [("cpu",), ("cpu", "cpu")])
def test_full_memory_of_a_gpu_is_said_with_a_remedy(devices: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(OvsegError, match=r"Tried to allocate 20.00 GiB.*OVSEG_WORKERS=1.*--precision bf16"):
        list(local(TaskFactory("memory"), UNITS, tmp_path, devices))
    assert sizes(tmp_path)


@pytest.mark.parametrize("devices", [("cpu",), ("cpu", "cpu")])
def test_an_error_comes_through_and_what_is_finished_stays(devices: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(OvsegError, match="made of cheese"):
        list(local(TaskFactory("error"), UNITS, tmp_path, devices))
    assert {"00000.done.json"} <= sizes(tmp_path) and "00003.done.json" not in sizes(tmp_path)


@pytest.mark.parametrize("devices", [("cpu",), ("cpu", "cpu")])
def test_an_error_of_the_task_factory_comes_through(devices: tuple[str, ...], tmp_path: Path) -> None:
    """A model that cannot be loaded in a worker is no worker that died."""
    with pytest.raises(OvsegError, match="no such model"):
        list(local(TaskFactory("open"), UNITS, tmp_path, devices))
    assert not sizes(tmp_path)


def test_a_worker_that_dies_is_said(tmp_path: Path, runtime: Runtime) -> None:
    """Killed, or out of memory: one sentence, and the same command goes on from there."""
    with pytest.raises(OvsegError, match="a worker process died"):
        run_step(StepKey("step", "k", {}), UNITS, TaskFactory("die"), tmp_path / "out", replace(runtime, workers=2))
    counts = run_step(StepKey("step", "k", {}), UNITS, TaskFactory(), tmp_path / "out", runtime)
    assert counts == {"things": 6}


def test_an_unknown_executor_says_which_there_are(tmp_path: Path, runtime: Runtime) -> None:
    with pytest.raises(OvsegError, match="'dask' is not one of local, ray, slurm"):
        run_step(StepKey("step", "k", {}), UNITS, TaskFactory(), tmp_path / "out", replace(runtime, executor="dask"))


def mine(mined: Mined, clip: Path, network: Path, out: Path, runtime: Runtime) -> dict[str, str]:
    """The three steps with most work, two by model and one without, and the sha256 of what they wrote."""
    from ovseg.mining.propose import propose_masks
    from ovseg.mining.score import score_nouns  # not in the workers of the other tests: torch takes seconds to import
    from ovseg.mining.shards import write_shards

    masks = ProposeOptions(source="proposal_network", model=str(network), annotations=mined.coco.instances)
    assert propose_masks(mined.index, mined.coco.images, out / "proposals", runtime, masks)["proposals"] > 200
    score_nouns(
        mined.index,
        mined.coco.images,
        mined.nouns,
        mined.proposals,
        out / "candidates",
        runtime,
        ClipOptions(model=f"local-dir:{clip}"),
        ScoreOptions(),
        CropOptions(),
    )
    options = ShardsOptions(min_shards=5)
    write_shards(mined.index, mined.coco.images, mined.proposals, mined.pairs, out / "shards", runtime, options)
    return digests(out)


@pytest.fixture(scope="module")
def _one_thread() -> Iterator[None]:
    """One thread in each process, as on Ray: the masks of a network on a CPU depend on the number, see docs/cluster.md."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def alone(
    _one_thread: None, mined_units: Mined, tiny_clip: Path, toys: Toys, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """What one process makes."""
    runtime = Runtime(workers=1, batch_size=64, work=tmp_path_factory.mktemp("work"))
    return mine(mined_units, tiny_clip, toys.network, tmp_path_factory.mktemp("alone"), runtime)


@pytest.mark.slow
def test_two_processes_make_the_same_bytes(
    alone: dict[str, str], mined_units: Mined, tiny_clip: Path, toys: Toys, tmp_path: Path, work: Path
) -> None:
    """Two devices for each model and two workers for the shards: every file of the three steps, byte for byte."""
    runtime = Runtime(devices=("cpu", "cpu"), workers=2, batch_size=64, work=work)
    assert mine(mined_units, tiny_clip, toys.network, tmp_path, runtime) == alone


@pytest.mark.slow
def test_ray_makes_the_same_bytes(
    alone: dict[str, str],
    mined_units: Mined,
    tiny_clip: Path,
    toys: Toys,
    tmp_path: Path,
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A real Ray on this machine: every file byte for byte, and an error of a unit as it was raised."""
    ray: Any = pytest.importorskip("ray")
    monkeypatch.setenv(
        "RAY_AUTH_MODE", "disabled"
    )  # as in test_ray_cluster: a process keeps the mode of its first cluster
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), str(ROOT), str(ROOT / "pipeline")]))
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    try:
        runtime = Runtime(devices=("cpu", "cpu"), workers=2, batch_size=64, work=work, executor="ray")
        assert mine(mined_units, tiny_clip, toys.network, tmp_path / "out", runtime) == alone
        with pytest.raises(OvsegError, match=r"^the disk is made of cheese$"):
            run_step(StepKey("step", "k", {}), UNITS, TaskFactory("error"), tmp_path / "step", runtime)
        with pytest.raises(OvsegError, match=r"^no such model$"):
            run_step(StepKey("other", "k", {}), UNITS, TaskFactory("open"), tmp_path / "step", runtime)
    finally:
        ray.shutdown()
