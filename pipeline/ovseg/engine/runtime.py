"""How a step is run: devices, processes, batch size. These are options, never parameters: they must not change results."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from glob import glob
from pathlib import Path
from typing import Any

from ovseg.core.errors import OvsegError
from ovseg.core.files import expand_home, user_cache

MODEL_PROCESSES = 4
"""The largest number of processes that run one model on the cores of a CPU, or on one GPU."""
CORES_PER_GPU_PROCESS = 4
"""The cores of each process on a GPU: as many threads crop for it (`core.crops.MAX_THREADS`)."""
GPU_GIB_PER_PROCESS = 16
"""The memory of a GPU for each process that runs a model on it."""
GPU_FILES = ("/dev/nvidia[0-9]*", "/dev/dxg", "/dev/kfd")
"""What a machine with GPUs has: files of NVIDIA's driver, of WSL2's, or of ROCm's."""
UNITS_PER_MODEL = 3
"""The least number of units that a further process is started for: it takes seconds to import torch and load a model."""


def work_folder() -> Path:
    """Return the absolute folder of the scratch folders: `$OVSEG_WORK`, or `ovseg/work` in the user's cache.

    Raises:
        OvsegError: `OVSEG_WORK` is not set, and this user has no home folder.
    """
    if given := os.environ.get("OVSEG_WORK"):
        return Path(expand_home(given)).absolute()
    try:
        return (user_cache() / "ovseg" / "work").absolute()
    except OvsegError:
        raise OvsegError(
            "there is no place for unfinished work, because this user has no home folder; set OVSEG_WORK to a folder, or HOME"
        ) from None


def available_cores() -> int:
    """Return the number of CPU cores that this process may use, which taskset, a container or a job of Slurm may limit."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Runtime:
    """Runtime options.

    Attributes:
        devices: torch devices; steps that use a model run one or a few processes on each, see `process_devices`.
        workers: number of processes of a step without a model, or with one on CPUs, and of threads of a step with one; on GPUs
            every `CORES_PER_GPU_PROCESS` of them are a process.
        batch_size: number of crops that CLIP is given at a time; a forward pass always has the same number.
        executor: a name in `executors.EXECUTORS`.
        unit_timeout: seconds that a unit may take on a cluster before another worker does it; None for any time.
        work: folder of the scratch folders.
        fresh: whether to delete what an earlier run with the same key has finished.
        retry: whether to do finished units again that have dropped items for a reason that may pass, see `core.retries`.
        keep: whether to keep results, published or not, that were made by other code.
        replace: whether published results of other inputs may be replaced; only a run that owns its folders sets it.
        processes: number of processes of a training; None for one on each device.
        micro_batch: number of samples of a training step in memory at a time; None for all of this process's.
        checkpoint_seconds: seconds between two checkpoints of a training.
        max_dropped: largest fraction of a step's items that may be dropped for one reason, see `engine.totals`.
        writers: names in `training.writers.WRITERS`, which draw the curves of a training while it runs.
        stop_after: number of training steps after which this run stops with a checkpoint; None for no limit.
    """

    devices: tuple[str, ...] = ("cpu",)
    workers: int = field(default_factory=available_cores)
    batch_size: int = 64
    executor: str = "local"
    unit_timeout: float | None = None
    work: Path = field(default_factory=work_folder)
    fresh: bool = False
    retry: bool = False
    keep: bool = False
    replace: bool = False
    processes: int | None = None
    micro_batch: int | None = None
    checkpoint_seconds: float = 300
    max_dropped: float = 0.5
    writers: tuple[str, ...] = ()
    stop_after: int | None = None


def from_environment(max_dropped: float = 0.5, *, device: str | None = None, **given: Any) -> Runtime:
    """Return the runtime options that are given, and for all others those that environment variables state.

    DVC stages have no others, and they are what options of the commands default to:
    `OVSEG_DEVICE` ("auto", or devices separated by commas), `OVSEG_WORKERS`, `OVSEG_BATCH_SIZE`, `OVSEG_EXECUTOR`,
    `OVSEG_UNIT_TIMEOUT`, `OVSEG_WORK`; for trainings also `OVSEG_PROCESSES`, `OVSEG_MICRO_BATCH`,
    `OVSEG_CHECKPOINT_SECONDS` and `OVSEG_WRITERS` (names separated by commas).

    Args:
        max_dropped: the parameter `checks.max_dropped`.
        device: see `devices`.
        given: other attributes of `Runtime`; those that are None are not given.

    Raises:
        OvsegError: a number is not a positive integer.
    """
    runtime = Runtime(
        devices=devices(os.environ.get("OVSEG_DEVICE", "auto") if device is None else device),
        workers=_positive("OVSEG_WORKERS", available_cores()),
        batch_size=_positive("OVSEG_BATCH_SIZE", 64),
        executor=os.environ.get("OVSEG_EXECUTOR", "local"),
        unit_timeout=_optional("OVSEG_UNIT_TIMEOUT"),
        processes=_optional("OVSEG_PROCESSES"),
        micro_batch=_optional("OVSEG_MICRO_BATCH"),
        writers=tuple(name.strip() for name in os.environ.get("OVSEG_WRITERS", "").split(",") if name.strip()),
        checkpoint_seconds=_positive("OVSEG_CHECKPOINT_SECONDS", 300),
        max_dropped=max_dropped,
    )
    return replace(runtime, **{name: value for name, value in given.items() if value is not None})


def devices(text: str) -> tuple[str, ...]:
    """Return the torch devices named in `text`, separated by commas; "auto" is every CUDA device, or else the CPU.

    Raises:
        OvsegError: no device is named.
    """
    if text != "auto":
        names = tuple(name.strip() for name in text.split(",") if name.strip())
        if not names:
            raise OvsegError(f"no device is named in {text!r}: give cpu, cuda:0, several separated by commas, or auto")
        return names
    if not any(map(glob, GPU_FILES)):  # does not import torch: some steps never need it
        return ("cpu",)
    import torch

    return tuple(f"cuda:{i}" for i in range(torch.cuda.device_count())) or ("cpu",)


def process_devices(runtime: Runtime, units: int, uses_model: bool) -> tuple[str, ...]:
    """Return the torch device of each process that shares the units of a step.

    Several processes with a part of the cores each are faster than one with all: on CPUs small models leave cores idle between
    their operations, and a GPU waits for crops, which the threads of one process cannot cut fast enough (docs/speed.md). There
    are at most `MODEL_PROCESSES` on a device, as each holds the model, and on a GPU no more than its memory and the cores are
    for. A cluster places its workers itself, and a device that is named twice gets two.

    Args:
        runtime: devices, workers, executor.
        units: number of units.
        uses_model: whether units need a model.
    """
    if not uses_model:
        return ("cpu",) * max(1, min(runtime.workers, units // 2))
    if runtime.executor != "local" or len(set(runtime.devices)) < len(runtime.devices):
        return runtime.devices
    cores, share = runtime.workers // len(runtime.devices), units // (UNITS_PER_MODEL * len(runtime.devices))
    return tuple(
        device
        for device in runtime.devices
        for _ in range(max(1, _processes_on(device, min(share, MODEL_PROCESSES), cores)))
    )


def _processes_on(device: str, most: int, cores: int) -> int:
    if device == "cpu":
        return min(most, cores)
    wanted = min(most, cores // CORES_PER_GPU_PROCESS) if device.startswith("cuda") else 1
    return min(wanted, gpu_gib(device) // GPU_GIB_PER_PROCESS) if wanted > 1 else 1


def gpu_gib(device: str) -> int:
    """Return the whole GiB of memory of a GPU, such as "cuda:0"."""
    import torch

    return int(torch.cuda.get_device_properties(device).total_memory / 2**30)


def _optional(name: str) -> int | None:
    return _positive(name, 1) if name in os.environ else None


def _positive(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdigit() or int(text) < 1:
        raise OvsegError(f"{name}={text!r} must be an integer of at least 1")
    return int(text)
