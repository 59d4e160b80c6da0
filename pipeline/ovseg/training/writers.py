"""Curves of a training while it runs, for programs that draw them; `OVSEG_WRITERS` names them.

A writer gets the rows of `training.tsv` as they come, with the rate, the share of the device's peak arithmetic and, on a GPU,
the memory. It can change no result.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker

from ovseg.core.arithmetic import matrix_peak
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
        names: keys of `WRITERS`; with none, nothing is measured or counted.
        folder: each writer gets the folder of its name in it.
        device: the device of this process, whose peak is measured.

    Attributes:
        peak: operations a second, see `matrix_peak`; None without writers.
        operations: operations of a step in this process, see `counting`; None before they are counted.

    Raises:
        OvsegError: a name is unknown, or its package is not installed.
    """

    def __init__(self, names: Sequence[str] = (), folder: Path = Path(), device: str | torch.device = "cpu") -> None:
        if unknown := [name for name in names if name not in WRITERS]:
            raise OvsegError(f"OVSEG_WRITERS names {', '.join(unknown)}; there are {', '.join(WRITERS)}")
        self._writers = [WRITERS[name](folder / name) for name in names]
        for name in names:
            log.info("curves for %s: %s", name, folder / name)
        self.peak = matrix_peak(device) if names else None
        self.operations: int | None = None
        self._steps, self._samples, self._since = 0, 0, time.monotonic()

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the arithmetic operations of the step that runs in this context, forward and backward, as `operations`.

        These are the matrix products, convolutions and attention that torch runs in this process, by their shapes: two
        operations for each multiplication with its addition. Not counted are all other operations (normalizations,
        activations, sums, resampling), the optimizer, and what torch has no formula for of a frozen teacher: on CPUs the
        products with packed weights (`clip.cpu_blocks`), on GPUs attention without gradients, which is one kernel. What is
        computed twice to save memory counts twice.

        Counting changes no result. But a process that is forked in this context would count for the rest of its life, so that
        the processes of a loader must run before.
        """
        if not self._writers:
            yield
            return
        counter = FlopCounterMode(display=False)
        counter.mod_tracker = _NoModules()
        with counter:
            yield
        self.operations = counter.get_total_flops()

    def count(self, samples: int) -> None:
        """Count one step and its samples, for the rate."""
        self._steps += 1
        self._samples += samples

    def write(self, row: Row) -> None:
        """Hand a row to each writer, with what was measured since the row before.

        "samples_per_second" is of all processes. "share_of_peak", about 0 to 1, is what this process computed a second,
        `operations` times its steps, divided by the peak of its device; all processes of a training have as many samples and a
        device each, so that it is the share of all of them too. It is left out before the operations are counted.
        "gpu_memory_gb" is there on a GPU: the most memory that was in use since the process began, in 10^9 bytes.
        """
        now = time.monotonic()
        seconds = max(now - self._since, 1e-9)
        values = {**row, "samples_per_second": self._samples / seconds}
        if self.operations is not None and self.peak:
            values["share_of_peak"] = self.operations * self._steps / seconds / self.peak
        self._steps, self._samples, self._since = 0, 0, now
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


class _NoModules(ModuleTracker):
    """Does not follow in which module an operation runs, which would fail in modules that run without gradients."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def _missing(package: str, error: ImportError) -> str:
    return f"OVSEG_WRITERS={package} needs a package: pip install -e '.[watch]' in the clone ({error})"
