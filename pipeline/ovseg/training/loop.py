"""The one training loop: schedule, progress, checkpoints, exact resume. What a step computes is a function it is given."""

from __future__ import annotations

import csv
import logging
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, PolynomialLR, SequentialLR

from ovseg.core.errors import OvsegError
from ovseg.engine.progress import Progress
from ovseg.training.checkpoint import Checkpoint
from ovseg.training.distributed import World, any_rank

log = logging.getLogger("ovseg")

CURVES = "training.tsv"
ROWS = 200  # of the history, at most
KEYS = "not-a-number.txt"  # the samples of a batch that spoiled a training
START = 1e-3  # of the learning rate, at the first step of the warm-up


@dataclass(frozen=True)
class StepResult:
    """What a step says of itself.

    Attributes:
        loss: of the global batch.
        items: how many items of the global batch it used.
        keys: of this rank's items, for the message if the loss is not a number.
        shown: further numbers for the history.
    """

    loss: torch.Tensor
    items: int
    keys: list[str]
    shown: dict[str, float]


class History:
    """The curves of a training: one row for every so many steps, at most `ROWS` in all.

    Attributes:
        rows: step, loss (mean since the row before), learning_rate, and what a step shows.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self._losses: list[float] = []

    def add(self, number: int, steps: int, loss: float, rest: Mapping[str, float]) -> None:
        """Note step `number` (from 1) of `steps`."""
        self._losses.append(loss)
        if number % math.ceil(steps / ROWS) == 0 or number == steps:
            self.rows.append({"step": number, "loss": sum(self._losses) / len(self._losses), **rest})
            self._losses = []

    def state_dict(self) -> dict[str, Any]:
        """Rows, and the losses of the row that is not full yet."""
        return {"rows": self.rows, "losses": self._losses}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them."""
        self.rows, self._losses = list(state_dict["rows"]), list(state_dict["losses"])


def write_curves(history: History, folder: Path) -> None:
    """Write training.tsv: a header, and the rows of the history."""
    names = list(history.rows[0]) if history.rows else ["step", "loss", "learning_rate"]
    with (folder / CURVES).open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, names, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" for k, v in row.items()} for row in history.rows)


Step = Callable[[int], StepResult]
"""Leaves the gradients of step i (from 0) in the parameters."""


def warmup_cosine(optimiser: Optimizer, steps: int, warmup: int) -> LRScheduler:
    """Linear warm-up over `warmup` steps, then a cosine to 0 at the last step (paper A.4)."""
    warm = min(warmup, steps - 1)
    return _after_warmup(optimiser, CosineAnnealingLR(optimiser, max(1, steps - warm)), warm)


def warmup_poly(optimiser: Optimizer, steps: int, warmup: int) -> LRScheduler:
    """Linear warm-up over `warmup` steps, then (1 - t)^0.9 to 0 at the last step (MaskFormer's schedule)."""
    warm = min(warmup, steps - 1)
    return _after_warmup(optimiser, PolynomialLR(optimiser, max(1, steps - warm), power=0.9), warm)


def _after_warmup(optimiser: Optimizer, schedule: LRScheduler, warm: int) -> LRScheduler:
    if warm < 1:
        return schedule
    return SequentialLR(optimiser, [LinearLR(optimiser, START, total_iters=warm), schedule], [warm])


def train(
    name: str,
    step: Step,
    optimiser: Optimizer,
    schedule: LRScheduler,
    checkpoint: Checkpoint,
    world: World,
    *,
    begin: int,
    steps: int,
    history: History,
    stop_after: int | None = None,
    clip_norm: float = math.inf,
    after: Callable[[], None] = lambda: None,
) -> None:
    """Take the steps from `begin` to `steps`.

    On Ctrl-C or SIGTERM the step under way is finished and a checkpoint written; after a kill the last one counts.

    Args:
        name: shown.
        step: computes gradients.
        optimiser, schedule: each takes one step after it.
        checkpoint: written by rank 0 when due, and at the end.
        world: the ranks.
        begin: from `checkpoint.restore`.
        steps: of the whole training.
        history: gets a row now and then.
        stop_after: stop, as if by Ctrl-C, after that many steps of this run; None for no limit.
        clip_norm: gradients that are longer, all together, are shortened to it.
        after: called after each step of the optimiser, to clamp what must be.

    Raises:
        OvsegError: the loss is not a number, or memory is out; the last checkpoint is kept.
        KeyboardInterrupt: stopped.
    """
    with Progress(name, steps, "steps", world.rank == 0) as progress, _stop_at_step_end() as stopped:
        for _ in range(begin):
            progress.add({}, reused=True)
        for i in range(begin, steps):
            optimiser.zero_grad(set_to_none=True)
            try:
                done = step(i)
            except RuntimeError:
                if not stopped.is_set():
                    raise
                if world.rank == 0:
                    checkpoint.save(
                        i
                    )  # a signal to the whole group has ended the loading workers: nothing has changed yet
                raise KeyboardInterrupt from None
            loss, norm = float(done.loss), float(_gradient_norm(optimiser))
            if not math.isfinite(loss) or not math.isfinite(norm):
                raise OvsegError(_nonfinite_message(name, i + 1, loss, norm, done.keys, checkpoint))
            if norm > clip_norm:
                torch._foreach_mul_(_gradients(optimiser), clip_norm / norm)
            rest = {"learning_rate": optimiser.param_groups[-1]["lr"], **done.shown}
            with explain_out_of_memory(name, done.items):
                optimiser.step()
            schedule.step()
            after()
            history.add(i + 1, steps, loss, rest)
            progress.add({"samples": done.items}, note=f"loss {loss:.3f}")
            stop = any_rank(stopped.is_set() or i + 1 - begin == stop_after, world)
            if world.rank == 0 and (stop or checkpoint.due() or i + 1 == steps):
                checkpoint.save(i + 1)
            if stop and i + 1 < steps:
                raise KeyboardInterrupt


def _gradient_norm(optimiser: Optimizer) -> torch.Tensor:
    """Of everything that is trained: a gradient that is no number would spoil the weights before any loss shows it."""
    return torch.nn.utils.get_total_norm(_gradients(optimiser))


def _gradients(optimiser: Optimizer) -> list[torch.Tensor]:
    return [p.grad for group in optimiser.param_groups for p in group["params"] if p.grad is not None]


def _nonfinite_message(name: str, step: int, loss: float, norm: float, keys: list[str], checkpoint: Checkpoint) -> str:
    kept = f"The checkpoint of an earlier step is kept: {checkpoint.path}. " if checkpoint.path.is_file() else ""
    (checkpoint.path.parent / KEYS).write_text("\n".join(keys) + "\n", encoding="utf-8")
    return (
        f"{name}: the loss of step {step} is {loss}, its gradient {norm:.3g} long; lower {name}.lr or set {name}.precision="
        f"fp32. {kept}Samples of the batch: {', '.join(keys[:8])}{' ...' if len(keys) > 8 else ''}, all of them in "
        f"{checkpoint.path.parent / KEYS}"
    )


@contextmanager
def _stop_at_step_end() -> Iterator[threading.Event]:
    """Ctrl-C and SIGTERM set the event, so that a step is never left half done; a second one stops at once."""
    stopped = threading.Event()

    def note(_number: int, _frame: FrameType | None) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        log.warning("stopping after this step; once more to stop at once, back to the last checkpoint")
        stopped.set()

    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before: dict[int, Any] = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            with suppress(TypeError):
                signal.signal(number, handler)


@contextmanager
def explain_out_of_memory(name: str, samples: int) -> Iterator[None]:
    """Turn torch's lack of memory, with so many samples at a time, into what to do about it."""
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one of them
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise OvsegError(
            f"{name}: out of memory with {samples} samples at a time ({str(error).splitlines()[0][:160]}). Set "
            f"OVSEG_MICRO_BATCH to less; {name}.batch_size and the result stay the same"
        ) from None
