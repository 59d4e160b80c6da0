"""Running one step: find what is finished, do the rest, show progress, publish."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from ovseg.core.errors import OvsegError
from ovseg.engine.executors import EXECUTORS
from ovseg.engine.progress import Progress
from ovseg.engine.runtime import Runtime
from ovseg.engine.units import Scratch, TaskFactory, published, total

log = logging.getLogger("ovseg")


def run_step(
    name: str,
    key: str,
    units: Sequence[str],
    opener: TaskFactory,
    out: Path,
    runtime: Runtime,
    uses_model: bool = False,
    scratch: Scratch | None = None,
    finish: Callable[[Path], None] | None = None,
) -> dict[str, int]:
    """Do every unit of a step that is not done yet, and publish all of them to `out`.

    Args:
        name: of the step; shown, and part of the scratch folder's name.
        key: fingerprint of all that the result depends on.
        units: names in order.
        opener: makes the task in the process that runs it.
        out: folder to publish to; replaced in one step at the end.
        uses_model: one process for each device; otherwise `runtime.workers` processes.
        scratch: an already opened scratch folder.
        finish: completes the staged output (files about all units) before it takes the place of the old one.

    Returns:
        What all units together kept and dropped, by name.

    Raises:
        OvsegError: unknown executor; no space; a worker died. Finished units are kept.
    """
    if runtime.executor not in EXECUTORS:
        raise OvsegError(f"executor {runtime.executor!r} is not one of {', '.join(EXECUTORS)}")
    before = None if runtime.fresh else published(out, key)
    if before is not None:
        log.info("%s: done before -> %s", name, out)
        if scratch:
            scratch.close()
        return before
    work = scratch or Scratch(runtime.work, name, key, runtime.fresh)
    try:
        finished = {unit: counts for unit in units if (counts := work.counts(unit)) is not None}
        rest = [unit for unit in units if unit not in finished]
        places = runtime.devices if uses_model else ("cpu",) * max(1, min(runtime.workers, len(rest) // 2))
        with Progress(name, len(units)) as progress:
            for counts in finished.values():
                progress.add(counts, reused=True)
            results = list(finished.values())
            if rest:
                for done in EXECUTORS[runtime.executor](opener, rest, work.folder, places):
                    results.append(dict(done))
                    progress.add(done)
            summed = total(results)
            work.publish(units, out, summed, finish)
            progress.finish(out)
    finally:
        work.close()
    return summed
