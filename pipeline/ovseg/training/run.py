"""What all trainings share: build, continue or begin, train, publish.

A training is keyed by its parameters, inputs and models. An unfinished one that was begun with other code is continued with
a warning where its checkpoint fits, and begun anew where it does not; a finished one of other code is done again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ovseg.engine.fingerprint import StepKey
from ovseg.engine.published import reusable_counts
from ovseg.engine.runtime import Runtime
from ovseg.engine.scratch import Scratch, scratch_folder
from ovseg.engine.units import Counts, commit
from ovseg.training.checkpoint import Checkpoint, UnfitCheckpointError
from ovseg.training.curves import History, write_curves
from ovseg.training.distributed import World, barrier, distributed_context
from ovseg.training.loop import TrainingLoop, train
from ovseg.training.writers import Writers

log = logging.getLogger("ovseg")

UNIT = "model"


@dataclass(frozen=True)
class Training:
    """A training that is built and not yet run.

    Attributes:
        save: writes the model, as it is when this is called, into an empty folder.
        loop: the training; None publishes the model as it is.
    """

    save: Callable[[Path], None]
    loop: TrainingLoop | None


Build = Callable[[World, Path], Training]
"""Builds a training from (ranks, scratch folder), from the beginning each time that it is called."""


def publish_training(key: StepKey, build: Build, out: Path, runtime: Runtime) -> None:
    """Run a training and publish its model with `training.tsv` (the curves) to `out`.

    Run under torchrun, every rank calls this. A killed run continues from its last checkpoint.

    Args:
        key: the key of the training.
        build: builds the training.
        out: the folder of the result.
        runtime: devices, scratch folder, time between checkpoints, steps of this run.

    Raises:
        OvsegError: see `train` and `reusable_counts`; or what `build` raises.
        KeyboardInterrupt: the run was stopped.
    """
    with distributed_context(runtime.devices) as world:
        if reusable_counts(out, key, runtime) is not None:
            log.info("%s: done before -> %s", key.step, out)
            return
        scratch = Scratch(runtime.work, key, runtime.fresh, keyed_by_code=False) if world.rank == 0 else None
        barrier(world)
        try:
            training, history = _run(key, build, runtime, world)
            if scratch:
                counts = commit(scratch.folder, UNIT, _Writer(training, history))
                scratch.publish([UNIT], out, counts)
                log.info("%s -> %s", key.step, out)
            barrier(world)
        finally:
            if scratch:
                scratch.close()


@dataclass(frozen=True)
class _Writer:
    """Writes the result of a training; a `Task`."""

    training: Training
    history: History

    def __call__(self, _unit: str, folder: Path) -> Counts:
        self.training.save(folder)
        write_curves(self.history, folder)
        return {"steps": int(self.history.rows[-1]["step"]) if self.history.rows else 0}


def _run(key: StepKey, build: Build, runtime: Runtime, world: World) -> tuple[Training, History]:
    """Build and train, from the checkpoint if there is one that fits."""
    folder = scratch_folder(runtime.work, key, keyed_by_code=False)

    def prepare() -> tuple[Training, History, Checkpoint]:
        training, history = build(world, folder), History()
        parts = training.loop.checkpoint_parts(history) if training.loop else {}
        return training, history, Checkpoint(folder, key, parts, runtime.checkpoint_seconds)

    training, history, checkpoint = prepare()
    if training.loop is None:
        return training, history
    try:
        done = checkpoint.restore(world.device)
    except UnfitCheckpointError as error:
        log.warning("%s: the training begins anew: %s", key.step, error)
        training, history, checkpoint = prepare()  # the checkpoint may have been restored in part
        done = 0
    assert training.loop is not None
    if done:
        log.info("%s: continues after step %d", key.step, done)
    live = runtime.work / "live" / folder.name
    with Writers(runtime.writers if world.rank == 0 else (), live, world.device) as writers:
        train(
            key.step,
            training.loop,
            checkpoint,
            history,
            world,
            done=done,
            stop_after=runtime.stop_after,
            writers=writers if runtime.writers else None,
        )
    return training, history
