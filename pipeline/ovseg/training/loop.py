"""The training loop: schedule, progress, checkpoints, exact resume. What a step computes is a function that it is given."""

from __future__ import annotations

import logging
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, PolynomialLR, SequentialLR

from ovseg.core.errors import OvsegError
from ovseg.engine.progress import Progress
from ovseg.training.checkpoint import Checkpoint, OptimizerLayout, Stateful
from ovseg.training.curves import History, is_learning
from ovseg.training.distributed import World, any_rank
from ovseg.training.monitor import Monitor
from ovseg.training.writers import Writers

log = logging.getLogger("ovseg")

KEYS = "not-a-number-{}.txt"  # lists the samples that the rank of that number has of a batch whose loss is not a number


@dataclass(frozen=True)
class StepResult:
    """The outcome of one training step.

    Attributes:
        loss: the loss over the global batch, a scalar.
        items: the number of items of the global batch.
        keys: the keys of this rank's items, for the message if the loss is not a number.
        shown: further numbers for the curves, by name.
    """

    loss: Tensor
    items: int
    keys: list[str]
    shown: dict[str, float]


Step = Callable[[int], StepResult]
"""Computes the gradients of the step of that number, from 0, and leaves them in the parameters."""


@dataclass(frozen=True)
class TrainingLoop:
    """A training before its first step.

    Attributes:
        steps: the number of optimizer steps of the whole training.
        weights: what is saved in checkpoints: all trained parameters and what else changes with them.
        parameters: the trained parameters by name.
        optimizer: the optimizer of `parameters`; it takes a step after each `Step`.
        schedule: the learning rate schedule; it takes a step after the optimizer.
        make_step: makes the step function; its argument is the number of steps that an earlier run has taken.
        after_step: called after each step of the optimizer, to clamp parameters.
        clip_norm: the largest norm of all gradients together; longer ones are scaled down to it.
        extra: further parts of the checkpoints by name.
        monitor: measures on held-out data while the training runs.
    """

    steps: int
    weights: Stateful
    parameters: Mapping[str, Tensor]
    optimizer: Optimizer
    schedule: LRScheduler
    make_step: Callable[[int], Step]
    after_step: Callable[[], None] = lambda: None
    clip_norm: float = math.inf
    extra: Mapping[str, Stateful] = field(default_factory=dict)
    monitor: Monitor = field(default_factory=Monitor)

    def checkpoint_parts(self, history: History) -> dict[str, Stateful]:
        """The parts of a checkpoint by name; the order of restoring is that of checking whether they fit."""
        return {
            "layout": OptimizerLayout(self.optimizer, self.parameters),
            "weights": self.weights,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "history": history,
            **self.extra,
            **({"monitor": self.monitor} if self.monitor.every else {}),
        }


def warmup_cosine(optimizer: Optimizer, steps: int, warmup: int) -> LRScheduler:
    """Linear warmup from peak / `warmup` to the peak, then a cosine to 0 at the last of `steps` steps (paper A.4)."""
    warm = min(warmup, steps - 1)
    return _after_warmup(optimizer, CosineAnnealingLR(optimizer, max(1, steps - warm)), warm)


def warmup_poly(optimizer: Optimizer, steps: int, warmup: int) -> LRScheduler:
    """As `warmup_cosine` with (1 - t)^0.9 instead of a cosine (MaskFormer's schedule)."""
    warm = min(warmup, steps - 1)
    return _after_warmup(optimizer, PolynomialLR(optimizer, max(1, steps - warm), power=0.9), warm)


def _after_warmup(optimizer: Optimizer, schedule: LRScheduler, warm: int) -> LRScheduler:
    if warm < 1:
        return schedule
    # step i of the warmup has (i + 1) / warm of the peak, so that its last step has the peak
    return SequentialLR(optimizer, [LinearLR(optimizer, 1 / warm, total_iters=warm - 1), schedule], [warm])


def train(
    name: str,
    loop: TrainingLoop,
    checkpoint: Checkpoint,
    history: History,
    world: World,
    *,
    done: int,
    stop_after: int | None = None,
    writers: Writers | None = None,
) -> None:
    """Take the remaining steps of a training.

    On Ctrl-C or SIGTERM the present step is finished and a checkpoint is written; after a kill the last one counts.

    Args:
        name: the name of the training, for messages.
        loop: the training.
        checkpoint: written by rank 0 when due, and after the last step.
        history: the curves; rows are added.
        world: the process group.
        done: the number of steps that earlier runs have taken, see `Checkpoint.restore`.
        stop_after: the number of steps after which this run stops as if by Ctrl-C; None for no limit.
        writers: get the rows of the history as they come; None for nothing. They count the operations of the second step of
            this run, because the loader starts its processes in the first; see `Writers.counting`.

    Raises:
        OvsegError: the loss or a gradient is not a number, or memory is full; the last checkpoint is kept.
        KeyboardInterrupt: the run was stopped.
    """
    step, optimizer = loop.make_step(done), loop.optimizer
    with Progress(name, loop.steps, "steps", world.rank == 0) as progress, _stop_at_step_end() as stopped:
        for _ in range(done):
            progress.add({}, reused=True)
        loop.monitor.start()
        for i in range(done, loop.steps):
            optimizer.zero_grad(set_to_none=True)
            try:
                with writers.counting() if writers and i == done + 1 else nullcontext():
                    result = step(i)
            except RuntimeError:
                if not stopped.is_set():
                    raise
                # a signal to the whole process group has ended the loader processes; no parameter has changed yet
                if world.rank == 0:
                    checkpoint.save(i)
                raise KeyboardInterrupt from None
            loss, norm = float(result.loss), float(_gradient_norm(optimizer))
            if not math.isfinite(loss) or not math.isfinite(norm):
                raise OvsegError(_nonfinite_message(name, i + 1, loss, norm, result.keys, checkpoint, world))
            if norm > loop.clip_norm:
                torch._foreach_mul_(_gradients(optimizer), loop.clip_norm / norm)
            shown = {"learning_rate": optimizer.param_groups[-1]["lr"], **result.shown}
            with explain_out_of_memory(name, result.items):
                optimizer.step()
            loop.schedule.step()
            loop.after_step()
            shown |= loop.monitor.after(i + 1)
            row = history.add(i + 1, loop.steps, loss, shown)
            _show(name, history, row, result.items, writers, world)
            progress.add({"samples": result.items}, note=f"loss {loss:.3f}")
            stop = any_rank(stopped.is_set() or i + 1 - done == stop_after, world)
            if world.rank == 0 and (stop or checkpoint.due() or i + 1 == loop.steps):
                checkpoint.save(i + 1)
            if stop and i + 1 < loop.steps:
                raise KeyboardInterrupt


def _show(
    name: str, history: History, row: dict[str, float] | None, samples: int, writers: Writers | None, world: World
) -> None:
    """Hand a new row of the curves to the writers, and say once in the log whether the loss falls."""
    if writers:
        writers.count(samples)
    if row and writers:
        writers.write(row)
    if row and world.rank == 0 and (early := is_learning(history.rows)):
        log.info("%s: %s", name, early)


def _gradient_norm(optimizer: Optimizer) -> Tensor:
    """The norm of all gradients: one that is not a number would spoil the weights before any loss shows it."""
    return torch.nn.utils.get_total_norm(_gradients(optimizer))


def _gradients(optimizer: Optimizer) -> list[Tensor]:
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def _nonfinite_message(
    name: str, step: int, loss: float, norm: float, keys: list[str], checkpoint: Checkpoint, world: World
) -> str:
    kept = f"The checkpoint of an earlier step is kept: {checkpoint.path}. " if checkpoint.path.is_file() else ""
    folder = checkpoint.path.parent
    (folder / KEYS.format(world.rank)).write_text("\n".join(keys) + "\n", encoding="utf-8")
    return (
        f"{name}: the loss of step {step} is {loss}, the norm of its gradient {norm:.3g}; lower {name}.lr or set "
        f"{name}.precision=fp32. {kept}Samples of the batch: {', '.join(keys[:8])}{' ...' if len(keys) > 8 else ''}; all of "
        f"them are in {folder / KEYS.format('*')}"
    )


@contextmanager
def _stop_at_step_end() -> Iterator[threading.Event]:
    """Let Ctrl-C and SIGTERM set the event, so that the present step is finished; a second one stops at once."""
    stopped = threading.Event()

    def handle(_number: int, _frame: FrameType | None) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        log.warning("stopping after this step; once more to stop at once, back to the last checkpoint")
        stopped.set()

    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before: dict[int, Any] = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            with suppress(TypeError):
                signal.signal(number, handler)


@contextmanager
def explain_out_of_memory(name: str, samples: int, more: str = "") -> Iterator[None]:
    """Turn torch's out-of-memory errors into a message with a remedy.

    Args:
        name: the name of the training.
        samples: the number of samples that are in memory at a time.
        more: what else can be done, a sentence.

    Raises:
        OvsegError: in the place of an out-of-memory error.
    """
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one of them
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise OvsegError(
            f"{name}: out of memory with {samples} samples at a time ({str(error).splitlines()[0][:160]}). Set "
            f"OVSEG_MICRO_BATCH to less; {name}.batch_size stays the same, and so does the result of a model without batch "
            f"normalization{more and '. '}{more}"
        ) from None
