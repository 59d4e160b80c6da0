"""The executor for a Ray cluster: units go to whatever workers live, and those of a lost worker return to the queue.

A worker is a Ray actor with one CPU, and a GPU, or its share of one, where the step runs a model on GPUs. It is never
restarted: what is lost is forgotten, and a new one is started wherever the cluster has room. So a node that dies takes its
workers along, a node that is added gets some, and nothing waits for a place that will not come back. Once no unit is left to
start, one that takes much longer than the others is started by a second worker, too, and what ends first counts: the bytes
are the same.
"""

from __future__ import annotations

import bisect
import logging
import secrets
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovseg import __version__
from ovseg.core.errors import OvsegError
from ovseg.engine.ray_connection import connect
from ovseg.engine.ray_worker import SHARED, RayWorker, Shared, paths_in
from ovseg.engine.units import Counts, TaskFactory, finished_counts

log = logging.getLogger("ovseg")

POLL_SECONDS = 1.0  # between two looks at time limits
GROW_SECONDS = 5.0  # between two looks at the nodes of the cluster
PATIENCE_SECONDS = 600.0  # without any worker
STRAGGLER_FACTOR, STRAGGLER_SECONDS = 3.0, 60.0  # times the median of finished units, and at least so long
MAX_LOSSES = 5  # of one unit, or of workers before their first unit


def run_on_ray(
    factory: TaskFactory,
    units: Sequence[str],
    folder: Path,
    devices: Sequence[str],
    unit_timeout: float | None = None,
) -> Iterator[tuple[str, Counts]]:
    """Run units on the Ray cluster at `RAY_ADDRESS`, or on one that is started here.

    Relative paths mean the same as here: a worker works in the folder of this process, which every node must share, like
    the scratch folder and all inputs.

    Args:
        factory: makes the task in each worker.
        units: names of the units.
        folder: the scratch folder.
        devices: the first tells whether workers get a GPU; named several times, so many workers share each GPU. The cluster
            decides how many workers there are.
        unit_timeout: seconds after which a worker is given up and its unit is done by another; None for no limit.

    Yields:
        each unit as it finishes, with its counts.

    Raises:
        OvsegError: Ray is not installed, the cluster does not answer or has no free worker for ten minutes, a node does not
            share a folder or has another version of ovseg, or a unit has cost five workers.
        Exception: what a task raises, as it was raised.
    """
    queue = deque(units)
    losses: Counter[str] = Counter()
    crew = _Crew(connect(), factory, folder, devices, unit_timeout)
    try:
        while queue or crew.running:
            crew.grow(len(queue) + len(crew.running))
            while queue and crew.idle:
                crew.give(queue.popleft())
            while crew.idle and (straggler := crew.straggler()):
                log.info("ray: unit %s takes long; another worker starts it, too", straggler)
                crew.give(straggler)
            for unit, outcome in crew.outcomes():
                if not isinstance(outcome, _Lost):
                    yield unit, outcome
                    continue
                losses[unit] += 1
                finished = finished_counts(folder, unit)  # the worker may have been lost after its last write
                _report_loss(unit, outcome, losses[unit], finished is not None)
                if finished is None:
                    queue.appendleft(unit)
                else:
                    yield unit, finished
    finally:
        crew.dismiss()


@dataclass(frozen=True)
class _Lost:
    """The outcome of a unit whose worker was lost.

    Attributes:
        node: the address of its node.
        reason: what happened, as the end of a sentence.
    """

    node: str
    reason: str


@dataclass(frozen=True)
class _Member:
    """A worker that has joined, and the address of its node."""

    actor: Any
    node: str


@dataclass(frozen=True)
class _Job:
    """A unit at work, when it was started, and when its time is up."""

    member: _Member
    unit: str
    started: float
    deadline: float


class _Crew:
    """The workers of one run: `starting` ones by the future of their joining, `idle` ones, `running` ones by that of a unit."""

    def __init__(
        self, ray: Any, factory: TaskFactory, folder: Path, devices: Sequence[str], unit_timeout: float | None
    ) -> None:
        self.ray, self.timeout, device = ray, unit_timeout, devices[0]
        self.resource = "GPU" if device.startswith("cuda") else "CPU"
        self.sharing = devices.count(device) if self.resource == "GPU" else 1  # workers of each GPU
        share = 10_000 // self.sharing / 10_000 if self.resource == "GPU" else 0  # Ray counts in ten-thousandths
        self.actor = ray.remote(RayWorker).options(num_cpus=1, num_gpus=share)
        token = secrets.token_hex()
        (folder / SHARED).write_text(token, encoding="utf-8")
        paths = tuple(sorted({path for path in paths_in(factory) if path.exists()}))
        shared = Shared(Path.cwd(), folder.absolute(), token, paths, __version__)
        self.arguments = (ray.put(factory), "cuda" if self.resource == "GPU" else device, shared)
        self.starting: dict[Any, Any] = {}
        self.idle: list[_Member] = []
        self.running: dict[Any, _Job] = {}
        self.durations: list[float] = []  # seconds of finished units, in order
        self.failed_starts = 0
        self.next_look = 0.0
        self.last_seen = time.monotonic()  # when there was a worker

    def grow(self, most: int) -> None:
        """Start workers where the cluster has room, at most `most` in all, and one more than it has room for.

        The one that waits is what makes an autoscaling cluster add a node.

        Raises:
            OvsegError: there has been no worker for too long.
        """
        now = time.monotonic()
        if self.idle or self.running:
            self.last_seen = now
        elif now - self.last_seen > PATIENCE_SECONDS:
            raise OvsegError(
                f"the Ray cluster has had no free {self.resource} for {PATIENCE_SECONDS:.0f} s. Finished units are kept: look "
                "at `ray status`, and run the same command again once there are nodes"
            )
        if now < self.next_look:
            return
        self.next_look = now + GROW_SECONDS
        room = sum(node["Resources"].get(self.resource, 0) for node in self.ray.nodes() if node["Alive"])
        missing = min(most, int(room * self.sharing) + 1) - len(self.starting) - len(self.idle) - len(self.running)
        for _ in range(missing):
            actor = self.actor.remote()
            self.starting[actor.join.remote(*self.arguments)] = actor
        for _ in range(min(-missing, len(self.starting))):
            self.ray.kill(self.starting.popitem()[1])

    def give(self, unit: str) -> None:
        """Give a unit to an idle worker."""
        member, now = self.idle.pop(), time.monotonic()
        self.running[member.actor.run.remote(unit)] = _Job(member, unit, now, now + (self.timeout or float("inf")))

    def straggler(self) -> str | None:
        """The unit that has been at work for longest, if it takes much longer than the others and one worker alone has it."""
        workers = Counter(job.unit for job in self.running.values())
        alone = [job for job in self.running.values() if workers[job.unit] == 1]
        if not alone or not self.durations:
            return None
        longest = min(alone, key=lambda job: job.started)
        limit = max(STRAGGLER_SECONDS, STRAGGLER_FACTOR * self.durations[len(self.durations) // 2])
        return longest.unit if time.monotonic() - longest.started > limit else None

    def outcomes(self) -> Iterator[tuple[str, Counts | _Lost]]:
        """Wait for a moment, and iterate over the units that have ended. Workers that have joined become idle.

        Raises:
            Exception: what a task or its factory raised.
        """
        futures = [*self.running, *self.starting]
        if not futures:
            time.sleep(POLL_SECONDS)
            return
        for future in self.ray.wait(futures, num_returns=1, timeout=POLL_SECONDS)[0]:
            if future in self.starting:
                self._welcome(future)
                continue
            job = self.running[future]
            counts = self._result(future)
            del self.running[future]
            if isinstance(counts, Exception):
                yield from self._lost(job, _first_line(counts))
            else:
                self.idle.append(job.member)
                bisect.insort(self.durations, time.monotonic() - job.started)
                for other in self._others(job.unit):
                    self.ray.kill(self.running.pop(other).member.actor)
                yield job.unit, counts
        now = time.monotonic()
        for future in [future for future, job in self.running.items() if job.deadline < now]:
            job = self.running.pop(future)
            self.ray.kill(job.member.actor)
            yield from self._lost(job, f"it took longer than the unit timeout of {self.timeout:g} s")

    def _others(self, unit: str) -> list[Any]:
        """The futures of other workers that do the same unit."""
        return [future for future, job in self.running.items() if job.unit == unit]

    def _lost(self, job: _Job, reason: str) -> Iterator[tuple[str, _Lost]]:
        """What has become of a unit whose worker is gone; nothing as long as another worker does it, too."""
        self.next_look = 0  # there may be room for another worker
        if not self._others(job.unit):
            yield job.unit, _Lost(job.member.node, reason)

    def dismiss(self) -> None:
        """End and forget all workers, those whose error ends the run included."""
        self.idle += [job.member for job in self.running.values()]
        for actor in [*self.starting.values(), *(member.actor for member in self.idle)]:
            self.ray.kill(actor)
        for workers in (self.starting, self.idle, self.running):
            workers.clear()

    def _welcome(self, future: Any) -> None:
        """Take a worker on that has joined.

        Raises:
            OvsegError: too many workers were lost before they had joined.
        """
        node = self._result(future)
        actor = self.starting.pop(future)
        if not isinstance(node, Exception):
            self.failed_starts = 0
            self.idle.append(_Member(actor, node))
            log.info("ray: a worker on node %s, %d in all", node, len(self.idle) + len(self.running))
            return
        self.failed_starts += 1
        log.warning("ray: a worker was lost while it started (%s)", _first_line(node))
        if self.failed_starts >= MAX_LOSSES:
            raise OvsegError(
                f"{MAX_LOSSES} workers in a row could not be started on the Ray cluster; the last one: {_first_line(node)}. "
                "Is the same ovseg installed on every node, and is there enough memory?"
            )

    def _result(self, future: Any) -> Any:
        """What a future holds; an error of Ray's, which is returned, says that the worker was lost."""
        try:
            return self.ray.get(future)
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from None  # as it was raised, without Ray's own traceback
        except self.ray.exceptions.RayError as error:
            return error


def _report_loss(unit: str, lost: _Lost, number: int, finished: bool) -> None:
    """Log that the worker of a unit was lost.

    Raises:
        OvsegError: the unit has cost too many workers.
    """
    if finished:
        log.warning("ray: a worker on node %s was lost after unit %s (%s)", lost.node, unit, lost.reason)
        return
    if number >= MAX_LOSSES:
        raise OvsegError(
            f"unit {unit} has cost {number} workers, the last one on node {lost.node} ({lost.reason}). Finished units are "
            "kept: if it was memory, give workers more of it or a smaller --batch-size; if it was time, raise the unit timeout"
        )
    log.warning("ray: a worker on node %s was lost with unit %s (%s); done again", lost.node, unit, lost.reason)


def _first_line(error: Exception) -> str:
    return " ".join(next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).split())
