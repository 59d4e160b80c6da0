"""How a step is run: devices, processes, batch size. Options, never parameters, because they must not change results."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from ovseg.core.errors import OvsegError
from ovseg.engine.units import work_folder


@dataclass(frozen=True)
class Runtime:
    """Runtime options.

    Attributes:
        devices: torch devices; the steps that use a model run one process for each.
        workers: processes of the steps without a model, decoding threads of those with one.
        batch_size: crops or texts in one forward pass.
        executor: a name in `executors.EXECUTORS`.
        work: folder of unfinished work.
        fresh: forget what an earlier run with the same fingerprint has finished.
        processes: of a training; None for one on each device.
        micro_batch: samples of a training step that are in memory at a time; None for all of this process's.
        checkpoint_seconds: between two checkpoints of a training.
        stop_after: steps of a training in this run; it then stops with a checkpoint. None for no limit.
    """

    devices: tuple[str, ...] = ("cpu",)
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    batch_size: int = 64
    executor: str = "local"
    work: Path = field(default_factory=work_folder)
    fresh: bool = False
    processes: int | None = None
    micro_batch: int | None = None
    checkpoint_seconds: float = 300
    stop_after: int | None = None


def from_environment() -> Runtime:
    """The options of DVC stages: `OVSEG_DEVICE` ("auto", or a list with commas), `OVSEG_WORKERS`, `OVSEG_BATCH_SIZE`,
    `OVSEG_EXECUTOR`, `OVSEG_WORK`; for training `OVSEG_PROCESSES`, `OVSEG_MICRO_BATCH`,
    `OVSEG_CHECKPOINT_SECONDS`.

    Raises:
        OvsegError: if a number is not a positive whole number.
    """
    return Runtime(
        devices=devices(os.environ.get("OVSEG_DEVICE", "auto")),
        workers=_positive("OVSEG_WORKERS", os.cpu_count() or 1),
        batch_size=_positive("OVSEG_BATCH_SIZE", 64),
        executor=os.environ.get("OVSEG_EXECUTOR", "local"),
        processes=_given("OVSEG_PROCESSES"),
        micro_batch=_given("OVSEG_MICRO_BATCH"),
        checkpoint_seconds=_positive("OVSEG_CHECKPOINT_SECONDS", 300),
    )


def devices(text: str) -> tuple[str, ...]:
    """Torch devices named in a list with commas; "auto" is every CUDA device, or the CPU where there is none.

    Raises:
        OvsegError: if none is named.
    """
    if text != "auto":
        named = tuple(name.strip() for name in text.split(",") if name.strip())
        if not named:
            raise OvsegError(f"no device is named in {text!r}: cpu, cuda:0, several with commas between, or auto")
        return named
    if not any(Path("/dev").glob("nvidia[0-9]*")):  # asks without importing torch: some steps never need it
        return ("cpu",)
    import torch

    return tuple(f"cuda:{i}" for i in range(torch.cuda.device_count())) or ("cpu",)


def _given(name: str) -> int | None:
    return _positive(name, 1) if name in os.environ else None


def _positive(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdigit() or int(text) < 1:
        raise OvsegError(f"{name}={text!r} must be a whole number of at least 1")
    return int(text)
