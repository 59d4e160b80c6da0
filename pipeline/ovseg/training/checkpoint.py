"""Checkpoints of unfinished training: all that the next step depends on, in one file that is complete or absent."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from ovseg.core.errors import OvsegError, explain_write_errors
from ovseg.engine.fingerprint import StepKey

log = logging.getLogger("ovseg")

CHECKPOINT = "checkpoint.pt"


class Stateful(Protocol):
    """An object whose state can be saved and restored: modules, optimizers, schedules, histories."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Restore the state."""


class UnfitCheckpointError(Exception):
    """A checkpoint that was written by other code and whose state does not fit; some parts may have been restored."""


class Checkpoint:
    """The checkpoint of one training, in its scratch folder.

    Args:
        folder: the scratch folder of the training.
        key: the key of the training; its code is stored with the state.
        parts: the objects to save and restore, by name.
        seconds: the time between two checkpoints.
    """

    def __init__(self, folder: Path, key: StepKey, parts: Mapping[str, Stateful], seconds: float) -> None:
        self.path, self.key, self.parts, self.seconds = folder / CHECKPOINT, key, parts, seconds
        self.last = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for the next checkpoint."""
        return time.monotonic() - self.last >= self.seconds

    def save(self, step: int) -> None:
        """Write the state after `step` steps; if this process is killed meanwhile, the previous checkpoint remains.

        Raises:
            OvsegError: the disk is full; the previous checkpoint is kept.
        """
        state: dict[str, Any] = {"key": self.key.fingerprint, "code": dict(self.key.code), "step": step}
        state |= {name: part.state_dict() for name, part in self.parts.items()}
        unfinished = self.path.with_name(self.path.name + ".tmp")
        with explain_write_errors(self.path.parent), unfinished.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        unfinished.replace(self.path)
        self.last = time.monotonic()

    def restore(self, device: torch.device) -> int:
        """Restore the state, if there is a checkpoint.

        A checkpoint of other code is restored too, with a warning that names the files that differ.

        Args:
            device: the device that tensors are loaded to.

        Returns:
            the number of steps that are done; 0 without a checkpoint.

        Raises:
            OvsegError: the checkpoint cannot be read, or belongs to other parameters or inputs, or does not fit although
                the code is the same.
            UnfitCheckpointError: the checkpoint was written by other code, and does not fit.
        """
        if not self.path.is_file():
            return 0
        try:
            state = torch.load(self.path, map_location=device, weights_only=True)
        except Exception as error:  # torch.load raises errors of many kinds for files that are no checkpoints
            raise OvsegError(f"{self.path} cannot be read ({error!r}); remove it to start anew") from None
        if state["key"] != self.key.fingerprint:
            raise OvsegError(
                f"{self.path} is of another training: its fingerprint is {state['key']}, this one's is "
                f"{self.key.fingerprint} (other parameters, inputs or weights). Remove it to start anew"
            )
        changed = self.key.changed_code(state["code"])
        files = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
        try:
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
        except (KeyError, IndexError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            if changed:
                raise UnfitCheckpointError(f"{self.path} was written by other code ({files}): {error}") from None
            raise OvsegError(f"{self.path} does not fit ({error}); remove it to start anew") from None
        if changed:
            log.warning(
                "%s: the training was begun with other code (%s) and continues with the present code; remove %s to start "
                "anew",
                self.key.step,
                files,
                self.path,
            )
        return int(state["step"])


class TrainableParameters:
    """Trained tensors as a part of a checkpoint, without the frozen rest of their module.

    Args:
        named: the tensors by name.
    """

    def __init__(self, named: Mapping[str, Tensor]) -> None:
        self.named = named

    def state_dict(self) -> dict[str, Any]:
        """Return the tensors by name."""
        return {name: parameter.detach() for name, parameter in self.named.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the tensors in place.

        Raises:
            ValueError: the names or shapes are others.
        """
        shapes = {name: tuple(tensor.shape) for name, tensor in self.named.items()}
        if shapes != {name: tuple(tensor.shape) for name, tensor in state_dict.items()}:
            raise ValueError("the trained parameters have other names or shapes")
        with torch.no_grad():
            for name, parameter in self.named.items():
                parameter.copy_(state_dict[name])


class OptimizerLayout:
    """The order of an optimizer's parameters as a part of a checkpoint: the optimizer's own state has no names.

    Args:
        optimizer: the optimizer.
        named: all parameters of the trained module by name.
    """

    def __init__(self, optimizer: Optimizer, named: Mapping[str, Tensor]) -> None:
        names = {id(parameter): name for name, parameter in named.items()}
        self.groups = [[names[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return the names of each parameter group."""
        return {"groups": self.groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare the names.

        Raises:
            ValueError: the names or their order are others.
        """
        if state_dict["groups"] != self.groups:
            raise ValueError("the optimizer's parameter groups are others")


class DataLoaderLayout:
    """The numbers of ranks and of loader processes as a part of a checkpoint: others read samples in another order."""

    def __init__(self, ranks: int, workers: int) -> None:
        self.layout = {"ranks": ranks, "workers": workers}

    def state_dict(self) -> dict[str, Any]:
        """Return the number of ranks, and of loader processes of each."""
        return self.layout

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Warn if the numbers are others."""
        if state_dict != self.layout:
            log.warning(
                "the training was begun with %s and continues with %s: the order of samples differs, so some are repeated in "
                "this epoch, and the weights are not those of an uninterrupted run",
                state_dict,
                self.layout,
            )
