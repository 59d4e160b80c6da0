"""Where units run: in this process, in spawned processes (one or a few for each device), or on a cluster.

A unit is a pure function of its name and of what its task factory loads, and its done mark is on disk; so an executor keeps
no state, and results are the same bytes with any of them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import cached_property
from pathlib import Path

from ovseg.core.errors import OvsegError
from ovseg.engine.ray_cluster import run_on_ray
from ovseg.engine.runtime import available_cores
from ovseg.engine.slurm import run_on_slurm
from ovseg.engine.units import Counts, Task, TaskFactory, commit

Executor = Callable[[TaskFactory, Sequence[str], Path, Sequence[str], float | None], Iterator[tuple[str, Counts]]]
"""(task factory, units, scratch folder, the torch device of each process, seconds that a unit may take on a cluster or None
for any) -> units as they finish, with their counts."""


def local(
    factory: TaskFactory,
    units: Sequence[str],
    folder: Path,
    devices: Sequence[str],
    unit_timeout: float | None = None,  # noqa: ARG001 - a process of this machine is not lost in silence
) -> Iterator[tuple[str, Counts]]:
    """Run units in this process for one device, in spawned processes for several.

    Raises:
        OvsegError: a worker process died.
    """
    if len(devices) == 1:
        task = factory(devices[0])
        yield from ((unit, commit(folder, unit, task)) for unit in units)
        return
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    for device in devices:
        queue.put(device)
    threads = max(1, available_cores() // len(devices))  # the processes share the cores
    pool = ProcessPoolExecutor(len(devices), context, _start_worker, (factory, queue, threads))
    try:
        yield from _as_done(pool, units, folder, ahead=2 * len(devices))
    except BrokenProcessPool:
        raise OvsegError(
            f"a worker process died (killed, or out of memory). Finished units are kept in {folder}: run the same "
            "command again, with fewer --workers, fewer devices or --precision bf16 if it was memory"
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()


EXECUTORS: dict[str, Executor] = {"local": local, "ray": run_on_ray, "slurm": run_on_slurm}


class _Worker:
    """A worker of the local pool. It makes its task with its first unit, so that an error of the task factory
    is raised like one of the task: that of a constructor, or of an initializer, would lose its message."""

    def __init__(self, factory: TaskFactory, device: str) -> None:
        self.factory, self.device = factory, device

    @cached_property
    def task(self) -> Task:
        return self.factory(self.device)

    def run(self, unit: str, folder: str) -> Counts:
        return commit(Path(folder), unit, self.task)


_worker: list[_Worker] = []  # the one of this process


def _start_worker(factory: TaskFactory, devices: multiprocessing.SimpleQueue[str], threads: int) -> None:
    if "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        if torch := sys.modules.get("torch"):  # the module of the factory has imported it, and it has read the variable
            torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker.append(_Worker(factory, devices.get()))


def _end_with_parent() -> None:
    """End this process when its parent ends: a killed parent cannot stop its workers, which would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run(unit: str, folder: Path) -> tuple[str, Counts]:
    return unit, _worker[0].run(unit, str(folder))


def _as_done(pool: ProcessPoolExecutor, units: Sequence[str], folder: Path, ahead: int) -> Iterator[tuple[str, Counts]]:
    """Submit only a few units ahead, so that 10,000 of them do not wait in memory and an error stops the others."""
    remaining = list(reversed(units))
    pending = {_submit(pool, remaining.pop(), folder) for _ in range(min(ahead, len(remaining)))}
    while pending:
        done, pending = wait(pending, return_when=FIRST_COMPLETED)
        for future in done:
            if remaining:
                pending.add(_submit(pool, remaining.pop(), folder))
            yield future.result()


def _submit(pool: ProcessPoolExecutor, unit: str, folder: Path) -> Future[tuple[str, Counts]]:
    """Submit a unit with SIGINT blocked, so that a process that the pool starts for it ignores Ctrl-C, which the terminal
    sends to the whole group: this process stops its workers itself."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(_run, unit, folder)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
