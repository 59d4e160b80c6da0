"""The loop and its curves: gradients are clipped, clamps follow each step, losses are averaged over a row."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from ovseg.engine.fingerprint import StepKey
from ovseg.training.checkpoint import Checkpoint, TrainableParameters
from ovseg.training.curves import MAX_ROWS, History
from ovseg.training.distributed import World
from ovseg.training.loop import Step, StepResult, TrainingLoop, train, warmup_cosine, warmup_poly

KEY = StepKey("test", "key", {})
WORLD = World(0, 1, torch.device("cpu"))
NO_WARMUP = 0


def run(folder: Path, gradient: Tensor, steps: int, clip_norm: float = math.inf, clamp: float = math.inf) -> Tensor:
    """Gradient descent with the same gradient in each step; returns the parameter."""
    weight = nn.Parameter(torch.zeros_like(gradient))
    optimizer = torch.optim.SGD([weight], lr=1.0)

    def make_step(_: int) -> Step:
        def step(_: int) -> StepResult:
            weight.grad = gradient.clone()
            return StepResult(torch.tensor(0.0), 1, [], {})

        return step

    def after_step() -> None:
        weight.data.clamp_(-clamp, clamp)

    parameters = {"weight": weight}
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    loop = TrainingLoop(
        steps, TrainableParameters(parameters), parameters, optimizer, schedule, make_step, after_step, clip_norm
    )
    history = History()
    checkpoint = Checkpoint(folder, KEY, loop.checkpoint_parts(history), 300)
    train("test", loop, checkpoint, history, WORLD, done=0)
    return weight.detach()


def test_a_long_gradient_is_scaled_down_and_a_short_one_is_not(tmp_path: Path) -> None:
    gradient = torch.tensor([3.0, 4.0])
    torch.testing.assert_close(run(tmp_path, gradient, 1, clip_norm=1.0), -gradient / 5)
    assert torch.equal(run(tmp_path, gradient, 1, clip_norm=6.0), -gradient)


def test_what_follows_a_step_is_done_after_each(tmp_path: Path) -> None:
    assert run(tmp_path, torch.tensor([1.0]), 5, clamp=2.0).tolist() == [-2.0]


def test_the_last_step_leaves_a_checkpoint(tmp_path: Path) -> None:
    run(tmp_path, torch.tensor([1.0]), 3)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 3


@pytest.mark.parametrize("steps", [1, 7, MAX_ROWS, MAX_ROWS + 1, 10 * MAX_ROWS + 3])
def test_a_row_is_the_mean_of_the_losses_since_the_row_before(steps: int) -> None:
    history = History()
    for number in range(1, steps + 1):
        history.add(number, steps, float(number), {})
    assert len(history.rows) <= MAX_ROWS and history.rows[-1]["step"] == steps
    first = 1
    for row in history.rows:
        numbers = range(first, int(row["step"]) + 1)
        assert row["loss"] == pytest.approx(sum(numbers) / len(numbers))
        first = numbers[-1] + 1


def test_curves_continue_in_the_middle_of_a_row() -> None:
    whole, half = History(), History()
    steps = 3 * MAX_ROWS
    for number in range(1, steps + 1):
        whole.add(number, steps, float(number), {})
        if number == steps // 2 + 1:
            restored = History()
            restored.load_state_dict(half.state_dict())
            half = restored
        half.add(number, steps, float(number), {})
    assert whole.rows == half.rows


@pytest.mark.parametrize("warmup", [0, 1, 2, 20, 99, 100, 1000])
@pytest.mark.parametrize("make", [warmup_cosine, warmup_poly])
def test_the_learning_rate_is_its_formula(make: Callable[..., LRScheduler], warmup: int) -> None:
    """The first of w warmup steps has 1 / w of the peak and the last one the peak; then it falls to 0."""
    steps, peak = 100, 0.3
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=peak)
    schedule = make(optimizer, steps, warmup)
    warm = min(warmup, steps - 1)
    for i in range(steps):
        t = (i - warm) / (steps - warm)
        falling = (1 + math.cos(math.pi * t)) / 2 if make is warmup_cosine else (1 - max(t, 0)) ** 0.9
        expected = peak * ((i + 1) / warm if i < warm else falling)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-6), i
        optimizer.step()
        schedule.step()


def test_the_learning_rate_of_a_single_step_is_not_that_of_a_warmup() -> None:
    """Warmup is shortened to leave at least one step at the full rate."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    warmup_cosine(optimizer, steps=1, warmup=100)
    assert optimizer.param_groups[0]["lr"] == 1.0
