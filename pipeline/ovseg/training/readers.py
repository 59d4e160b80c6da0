"""What a process does first that reads samples for a training."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial

import torch

NICENESS = 10  # with 19 other programs that use all cores would starve the readers


def reader_start() -> Callable[[int], None]:
    """Return the `worker_init_fn` of the loaders of trainings; it is made in the training's own process.

    Without a GPU the training computes on the cores that the readers share, so they give way to it: in turns with them a step
    of several threads would wait for the one that waits for its core (docs/speed.md).
    """
    return partial(_start, 0 if torch.cuda.is_available() else NICENESS)


def _start(niceness: int, _number: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal, the training handles it
    os.nice(niceness)
