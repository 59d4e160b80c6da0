"""Checkpoints of unfinished training: everything that the next step depends on, in one file, whole or absent."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ovseg.core.errors import OvsegError, explain_full_disk

log = logging.getLogger("ovseg")

CHECKPOINT = "checkpoint.pt"


class Stateful(Protocol):
    """What has a state that can be saved and restored: modules, optimisers, schedules, histories."""

    def state_dict(self) -> dict[str, Any]:
        """The state."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Restore it."""


class Checkpoint:
    """The checkpoint of one training, in its scratch folder.

    Args:
        folder: scratch folder of the training.
        key: fingerprint of parameters and inputs.
        parts: what is saved and restored, by name.
        every: seconds between two checkpoints.
    """

    def __init__(self, folder: Path, key: str, parts: Mapping[str, Stateful], every: float) -> None:
        self.path, self.key, self.parts, self.every = folder / CHECKPOINT, key, parts, every
        self.last = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for another."""
        return time.monotonic() - self.last >= self.every

    def save(self, step: int) -> None:
        """Write the state after `step` steps; a kill meanwhile leaves the one before.

        Raises:
            OvsegError: the disk is full; the one before is kept.
        """
        state: dict[str, Any] = {"key": self.key, "step": step}
        state |= {name: part.state_dict() for name, part in self.parts.items()}
        begun = self.path.with_name(self.path.name + ".tmp")
        with explain_full_disk(self.path.parent), begun.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        begun.replace(self.path)
        self.last = time.monotonic()

    def restore(self, device: torch.device) -> int:
        """Restore the state, if there is one, and say how many steps are done.

        Raises:
            OvsegError: the checkpoint is broken, or of other parameters or inputs.
        """
        if not self.path.is_file():
            return 0
        try:
            state = torch.load(self.path, map_location=device, weights_only=True)
        except Exception as error:  # torch.load has no kind of its own for what is no checkpoint
            raise OvsegError(f"{self.path} cannot be read ({error!r}); remove it to start anew") from None
        if state["key"] != self.key:
            raise OvsegError(
                f"{self.path} is of another training: its fingerprint is {state['key']}, this one's is {self.key} (other "
                "parameters, shards or weights). Remove it to start anew"
            )
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        return int(state["step"])


class TrainableParameters:
    """What is trained, as a part of a checkpoint; the frozen rest is not."""

    def __init__(self, named: Mapping[str, Tensor]) -> None:
        self.named = named

    def state_dict(self) -> dict[str, Any]:
        """The tensors by name."""
        return {name: parameter.detach() for name, parameter in self.named.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them in place."""
        with torch.no_grad():
            for name, parameter in self.named.items():
                parameter.copy_(state_dict[name])


class DataLoaderLayout:
    """How the samples are read, as a part of a checkpoint: other readers have another order."""

    def __init__(self, ranks: int, workers: int) -> None:
        self.now = {"ranks": ranks, "workers": workers}

    def state_dict(self) -> dict[str, Any]:
        """Ranks, and workers of each."""
        return self.now

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Warn if they were others."""
        if state_dict != self.now:
            log.warning(
                "the training was begun with %s and continues with %s: the order of samples differs, so some come twice in "
                "this epoch, and the weights are not those of an undisturbed run",
                state_dict,
                self.now,
            )
