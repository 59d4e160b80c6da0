"""The runtime options of commands: how they are run. They cannot change a result.

Those that are not given are read from the environment variables of README.md, as those of the DVC stages are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovseg.core.options import ChecksOptions, Fraction, Options, PositiveInt

if TYPE_CHECKING:
    from ovseg.engine.runtime import Runtime


class CpuRuntime(Options):
    """Runtime options of a step without a model."""

    workers: PositiveInt | None = None
    """Number of processes, or of decoding threads beside a model; by default $OVSEG_WORKERS, or the number of CPU cores."""
    fresh: bool = False
    """Delete unfinished work of an earlier run with the same options, instead of continuing it."""
    max_dropped: Fraction = ChecksOptions().max_dropped
    """Largest fraction of a step's items that may be dropped for one reason; a step that drops more ends in an error."""
    keep: bool = False
    """Keep results that other code has written, instead of doing their step again."""

    def runtime(self) -> Runtime:
        """Return the options as the steps take them."""
        from ovseg.engine.runtime import from_environment

        without_model = {"device": "cpu", "executor": "local"}
        return from_environment(**{**without_model, **self.model_dump()})


class DeviceRuntime(CpuRuntime):
    """Runtime options of a step that may run a model, with those of where its units are run."""

    device: str | None = None
    """Torch devices, separated by commas; "auto" is all CUDA devices, or else the CPU. One named twice gets two processes. By
    default $OVSEG_DEVICE, or auto."""
    executor: str | None = None
    """Where units of work are run: on this machine (local), on a Ray cluster (ray) or as jobs of Slurm (slurm). By default
    $OVSEG_EXECUTOR, or local."""
    unit_timeout: PositiveInt | None = None
    """Seconds that a unit may take on a cluster before another worker does it; by default $OVSEG_UNIT_TIMEOUT, or any time."""


class ModelRuntime(DeviceRuntime):
    """Runtime options of a step that runs a model on batches."""

    batch_size: PositiveInt | None = None
    """Number of crops that CLIP is given at a time, rounded up to whole forward passes, which have the same number always. By
    default $OVSEG_BATCH_SIZE, or 64."""
