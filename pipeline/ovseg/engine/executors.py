"""Where units run: in this process, in spawned processes (one for each device), or on a Ray cluster.

A unit is a pure function of its name and what its opener loads, and its done mark lies on disk; so an executor keeps no
state, and results are the same bytes with any of them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import cached_property
from pathlib import Path
from typing import Any

from ovseg.core.errors import OvsegError
from ovseg.engine.units import Counts, Task, TaskFactory, commit

Executor = Callable[[TaskFactory, Sequence[str], Path, Sequence[str]], Iterator[Counts]]
"""(opener, units, scratch folder, a device for each process) -> counts of units as they finish."""

DEVICE = "OVSEG_UNIT_DEVICE"  # the device of this process, read by openers that load a model


def local(opener: TaskFactory, units: Sequence[str], folder: Path, devices: Sequence[str]) -> Iterator[Counts]:
    """In this process for one device, in spawned processes for several."""
    if len(devices) == 1:
        os.environ[DEVICE] = devices[0]
        task = opener()
        yield from (commit(folder, unit, task) for unit in units)
        return
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    for device in devices:
        queue.put(device)
    pool = ProcessPoolExecutor(len(devices), context, _open, (opener, queue))
    try:
        yield from _as_done(pool, units, folder, ahead=2 * len(devices))
    except BrokenProcessPool:
        raise OvsegError(
            f"a worker process died (killed, or out of memory). Finished units are kept in {folder}: run the same "
            "command again, with fewer --workers or a smaller --batch-size if it was memory"
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()


def ray(opener: TaskFactory, units: Sequence[str], folder: Path, devices: Sequence[str]) -> Iterator[Counts]:
    """On the Ray cluster at `RAY_ADDRESS` (or one started here): an actor for each device; the folder must be shared."""
    try:
        import ray as cluster
    except ImportError:
        raise OvsegError("--executor ray needs Ray: pip install 'ovseg[ray]'") from None
    if not cluster.is_initialized():
        cluster.init(log_to_driver=False)
    gpu = int(devices[0].startswith("cuda"))
    actor = cluster.remote(_Actor).options(num_gpus=gpu, num_cpus=1, max_restarts=-1, max_task_retries=2)
    actors = [actor.remote(opener, "cuda" if gpu else device) for device in devices]
    pending: dict[Any, Any] = {}
    rest, free = list(reversed(units)), list(actors)
    while rest or pending:
        while rest and free:
            worker = free.pop()
            pending[worker.run.remote(rest.pop(), str(folder))] = worker
        done, _ = cluster.wait(list(pending), num_returns=1)
        free.append(pending.pop(done[0]))
        try:
            counts: Counts = cluster.get(done[0])
        except cluster.exceptions.RayTaskError as error:
            raise error.cause from None  # as it was raised, without Ray's own traceback
        yield counts


EXECUTORS: dict[str, Executor] = {"local": local, "ray": ray}


class _Actor:
    """A Ray worker: opens with its first unit, as what an opener says is lost in a constructor, then does units."""

    def __init__(self, opener: TaskFactory, device: str) -> None:
        os.environ[DEVICE] = device
        self.opener = opener

    @cached_property
    def task(self) -> Task:
        return self.opener()

    def run(self, unit: str, folder: str) -> Counts:
        return commit(Path(folder), unit, self.task)


_opened: list[Task] = []  # of this worker process


def _open(opener: TaskFactory, devices: multiprocessing.SimpleQueue[str]) -> None:
    os.environ[DEVICE] = devices.get()
    if "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = "1"  # the processes are the parallelism
    threading.Thread(target=_follow, daemon=True).start()
    _opened.append(opener())


def _follow() -> None:
    """End with the run: a killed one cannot stop its workers, and they would wait for work for ever."""
    run = multiprocessing.parent_process()
    assert run is not None
    run.join()
    os._exit(1)


def _run(unit: str, folder: Path) -> Counts:
    return commit(folder, unit, _opened[0])


def _as_done(pool: ProcessPoolExecutor, units: Sequence[str], folder: Path, ahead: int) -> Iterator[Counts]:
    """Submit a few units ahead, so that 10,000 of them do not wait in memory and an error stops the rest."""
    rest = list(reversed(units))
    pending = {_submit(pool, rest.pop(), folder) for _ in range(min(ahead, len(rest)))}
    while pending:
        done, pending = wait(pending, return_when=FIRST_COMPLETED)
        for future in done:
            if rest:
                pending.add(_submit(pool, rest.pop(), folder))
            yield future.result()


def _submit(pool: ProcessPoolExecutor, unit: str, folder: Path) -> Future[Counts]:
    """Hand over a unit. Processes that the pool starts for it never hear Ctrl-C, which reaches the whole group: the run
    stops its workers itself."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(_run, unit, folder)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
