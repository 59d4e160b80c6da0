"""Running one step: reuse the units that are finished, do the rest, show progress, publish."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from ovseg.core.errors import OvsegError
from ovseg.core.retries import may_pass
from ovseg.engine.executors import EXECUTORS
from ovseg.engine.fingerprint import StepKey
from ovseg.engine.progress import Progress
from ovseg.engine.published import reusable_counts
from ovseg.engine.runtime import Runtime, process_devices
from ovseg.engine.scratch import Scratch
from ovseg.engine.totals import Total, check_totals, find_example
from ovseg.engine.units import Counts, TaskFactory, add_counts

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
    prepare: Callable[[], object] | None = None,
) -> dict[str, int]:
    """Do every unit of a step that is not done yet, and publish all of them to `out`.

    Units with items that failed for a reason that may pass are done once more at the end.

    Args:
        key: the key of the step; its `step` is the name that progress shows.
        units: names of the units, in order.
        factory: makes the task in the process that runs it.
        out: the folder to publish to; it is replaced in one step at the end.
        runtime: devices, workers, executor, scratch folder.
        uses_model: whether units need a model and so a device, see `runtime.process_devices`.
        scratch: an already opened scratch folder.
        finish: completes the staged output (files about all units) before it replaces the old one.
        totals: the kinds of items that the step keeps or drops, see `check_totals`.
        more_counts: counts that are known before any unit is done, such as those of foreign ids.
        prepare: makes what all units need; called once, and not at all if the step is done already.

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
    work = scratch or Scratch(runtime.work, key, runtime.fresh, keep=runtime.keep)
    try:
        if prepare:
            prepare()
        with Progress(key.step, len(units)) as progress:
            counts_of = _do_units(key.step, units, factory, work, runtime, uses_model, progress)
        sums = add_counts([*counts_of.values(), more_counts or {}])
        check_totals(f"{key.step} ({out})", totals, sums, runtime.max_dropped, partial(find_example, work.folder))
        work.publish(units, out, sums, finish)
        progress.finish(out)
    finally:
        work.close()
    return sums


def _do_units(
    step: str,
    units: Sequence[str],
    factory: TaskFactory,
    work: Scratch,
    runtime: Runtime,
    uses_model: bool,
    progress: Progress,
) -> dict[str, Counts]:
    """Do the units that are not finished, those with failures that may pass once more at the end; return the counts of all."""
    finished: dict[str, Counts] = {}
    for unit in units:
        known = work.counts(unit)
        if known is not None and not (runtime.retry and may_pass(known)):
            finished[unit] = known
            progress.add(known, reused=True)
    remaining = [unit for unit in units if unit not in finished]
    devices = process_devices(runtime, len(remaining), uses_model)
    for unit in remaining:
        work.forget(unit)
    execute = EXECUTORS[runtime.executor]
    if remaining:
        for unit, counts in execute(factory, remaining, work.folder, devices, runtime.unit_timeout):
            finished[unit] = counts
            progress.add(counts)
    if again := [unit for unit in remaining if may_pass(finished[unit])]:
        log.warning("%s: %d units have items that failed for a reason that may pass; once more", step, len(again))
        for unit in again:
            work.forget(unit)
        for unit, counts in execute(factory, again, work.folder, devices, runtime.unit_timeout):
            progress.replace(finished[unit], counts)
            finished[unit] = counts
    return finished
