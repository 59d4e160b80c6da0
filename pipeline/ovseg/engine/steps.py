"""Running one step: reuse the units that are finished, do the rest, show progress, publish."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from ovseg.core.errors import OvsegError
from ovseg.engine.executors import EXECUTORS
from ovseg.engine.fingerprint import StepKey
from ovseg.engine.progress import Progress
from ovseg.engine.runtime import Runtime
from ovseg.engine.totals import Total, check_totals, find_example
from ovseg.engine.units import Scratch, TaskFactory, add_counts, reusable_counts

log = logging.getLogger("ovseg")


def run_step(
    key: StepKey,
    units: Sequence[str],
    factory: TaskFactory,
    out: Path,
    runtime: Runtime,
    uses_model: bool = False,
    scratch: Scratch | None = None,
    finish: Callable[[Path], None] | None = None,
    totals: Sequence[Total] = (),
    more_counts: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Do every unit of a step that is not done yet, and publish all of them to `out`.

    Args:
        key: the key of the step; its `step` is the name that progress shows.
        units: names of the units, in order.
        factory: makes the task in the process that runs it.
        out: the folder to publish to; it is replaced in one step at the end.
        runtime: devices, workers, executor, scratch folder.
        uses_model: whether to run one process for each device; otherwise `runtime.workers` processes run.
        scratch: an already opened scratch folder.
        finish: completes the staged output (files about all units) before it replaces the old one.
        totals: the kinds of items that the step keeps or drops, see `check_totals`.
        more_counts: counts that are known before any unit is done, such as those of foreign ids.

    Returns:
        The counts of all units together, by name.

    Raises:
        OvsegError: the executor is unknown, the disk is full, a worker process died, or too much was dropped (see
            `check_totals`). Finished units are kept.
    """
    if runtime.executor not in EXECUTORS:
        raise OvsegError(f"executor {runtime.executor!r} is not one of {', '.join(EXECUTORS)}")
    published_counts = reusable_counts(out, key, runtime)
    if published_counts is not None:
        check_totals(f"{key.step} ({out})", totals, published_counts, runtime.max_dropped, partial(find_example, out))
        log.info("%s: done before -> %s", key.step, out)
        if scratch:
            scratch.close()
        return published_counts
    work = scratch or Scratch(runtime.work, key, runtime.fresh)
    try:
        finished = {unit: counts for unit in units if (counts := work.counts(unit)) is not None}
        remaining = [unit for unit in units if unit not in finished]
        devices = runtime.devices if uses_model else ("cpu",) * max(1, min(runtime.workers, len(remaining) // 2))
        with Progress(key.step, len(units)) as progress:
            for counts in finished.values():
                progress.add(counts, reused=True)
            all_counts = list(finished.values())
            if remaining:
                execute = EXECUTORS[runtime.executor]
                for unit_counts in execute(factory, remaining, work.folder, devices, runtime.unit_timeout):
                    all_counts.append(dict(unit_counts))
                    progress.add(unit_counts)
        sums = add_counts([*all_counts, more_counts or {}])
        check_totals(f"{key.step} ({out})", totals, sums, runtime.max_dropped, partial(find_example, work.folder))
        work.publish(units, out, sums, finish)
        progress.finish(out)
    finally:
        work.close()
    return sums
