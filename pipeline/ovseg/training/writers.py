"""Curves of a training while it runs, for programs that draw them; `OVSEG_WRITERS` names them.

A writer gets the rows of `training.tsv` as they come, with the rate and, on a GPU, the memory. It can change no result.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch

from ovseg.core.errors import OvsegError

log = logging.getLogger("ovseg")

Row = Mapping[str, float]


class Writer(Protocol):
    """Where rows go."""

    def write(self, step: int, row: Row) -> None:
        """Write the numbers of a row by name; `step` counts from 1."""

    def close(self) -> None:
        """Write what is not written yet."""


class DvcLiveWriter:
    """Rows for DVCLive: `dvc plots`, or the extension of an editor. It makes no experiment and no dvc.yaml.

    Raises:
        OvsegError: DVCLive is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from dvclive import Live
        except ImportError as error:
            raise OvsegError(_missing("dvclive", error)) from None
        self._live: Any = Live(str(folder), resume=folder.is_dir(), save_dvc_exp=False, dvcyaml=None, report=None)

    def write(self, step: int, row: Row) -> None:  # noqa: D102
        self._live.step = step
        for name, value in row.items():
            self._live.log_metric(name, value)
        self._live.make_summary()
        self._live.sync()

    def close(self) -> None:  # noqa: D102
        self._live.end()


class TensorBoardWriter:
    """Rows for `tensorboard --logdir FOLDER`.

    Raises:
        OvsegError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise OvsegError(_missing("tensorboard", error)) from None
        make_writer: Any = SummaryWriter  # which has no types
        self._writer = make_writer(str(folder))

    def write(self, step: int, row: Row) -> None:  # noqa: D102
        for name, value in row.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:  # noqa: D102
        self._writer.close()


WRITERS: dict[str, Callable[[Path], Writer]] = {"dvclive": DvcLiveWriter, "tensorboard": TensorBoardWriter}
"""The writers by name; adding one is a class and a line."""


class Writers(AbstractContextManager["Writers"]):
    """The chosen writers of one training, closed in the end.

    Args:
        names: keys of `WRITERS`.
        folder: each writer gets the folder of its name in it.

    Raises:
        OvsegError: a name is unknown, or its package is not installed.
    """

    def __init__(self, names: Sequence[str] = (), folder: Path = Path()) -> None:
        if unknown := [name for name in names if name not in WRITERS]:
            raise OvsegError(f"OVSEG_WRITERS names {', '.join(unknown)}; there are {', '.join(WRITERS)}")
        self._writers = [WRITERS[name](folder / name) for name in names]
        self._samples, self._since = 0, time.monotonic()
        for name in names:
            log.info("curves for %s: %s", name, folder / name)

    def count(self, samples: int) -> None:
        """Count the samples of one step, for the rate."""
        self._samples += samples

    def write(self, row: Row) -> None:
        """Hand a row to each writer, with "samples_per_second" since the row before and, on a GPU, "gpu_memory_gb"."""
        now = time.monotonic()
        values = {**row, "samples_per_second": self._samples / max(now - self._since, 1e-9)}
        self._samples, self._since = 0, now
        if torch.cuda.is_available():
            values["gpu_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
        step = int(values.pop("step"))
        for writer in self._writers:
            writer.write(step, values)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as stack:
            for writer in self._writers:
                stack.callback(writer.close)


def _missing(package: str, error: ImportError) -> str:
    return f"OVSEG_WRITERS={package} needs a package: pip install 'ovseg[watch]' ({error})"
