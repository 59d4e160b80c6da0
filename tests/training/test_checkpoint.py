"""Checkpoints: restored as they were saved, refused where they do not fit, and never half written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ovseg.core.errors import OvsegError
from ovseg.engine.fingerprint import StepKey
from ovseg.training.checkpoint import (
    CHECKPOINT,
    Checkpoint,
    OptimizerLayout,
    TrainableParameters,
    UnfitCheckpointError,
)

CPU = torch.device("cpu")
KEY = StepKey("finetune", "mine", {"training/loop.py": "1"})
OTHER_CODE = StepKey("finetune", "mine", {"training/loop.py": "2"})


def checkpoint(folder: Path, *values: float, key: StepKey = KEY) -> tuple[Checkpoint, torch.Tensor]:
    tensor = torch.tensor(values)
    return Checkpoint(folder, key, {"weights": TrainableParameters({"w": tensor})}, 0), tensor


def test_without_a_checkpoint_no_step_is_done(tmp_path: Path) -> None:
    assert checkpoint(tmp_path, 1.0)[0].restore(CPU) == 0


def test_what_was_saved_is_restored(tmp_path: Path) -> None:
    checkpoint(tmp_path, 1.0, 2.0)[0].save(3)
    other, tensor = checkpoint(tmp_path, 0.0, 0.0)
    assert other.restore(CPU) == 3
    assert tensor.tolist() == [1.0, 2.0]


def test_a_checkpoint_of_other_parameters_is_refused_with_both_fingerprints(tmp_path: Path) -> None:
    checkpoint(tmp_path, 1.0)[0].save(3)
    with pytest.raises(OvsegError, match=r"mine.*yours"):
        checkpoint(tmp_path, 1.0, key=StepKey("finetune", "yours", KEY.code))[0].restore(CPU)


def test_a_broken_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes(b"half a fi")
    with pytest.raises(OvsegError, match=CHECKPOINT):
        checkpoint(tmp_path, 1.0)[0].restore(CPU)


def test_a_checkpoint_of_other_code_is_restored_and_its_files_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint(tmp_path, 1.0)[0].save(3)
    other, tensor = checkpoint(tmp_path, 0.0, key=OTHER_CODE)
    assert other.restore(CPU) == 3
    assert tensor.tolist() == [1.0]
    assert "training/loop.py" in caplog.text and CHECKPOINT in caplog.text


def test_a_checkpoint_that_does_not_fit_is_another_error_if_the_code_is_other_code(tmp_path: Path) -> None:
    checkpoint(tmp_path, 1.0)[0].save(3)
    with pytest.raises(OvsegError, match=CHECKPOINT):
        checkpoint(tmp_path, 1.0, 2.0)[0].restore(CPU)
    with pytest.raises(UnfitCheckpointError, match=r"training/loop\.py"):
        checkpoint(tmp_path, 1.0, 2.0, key=OTHER_CODE)[0].restore(CPU)


def test_a_save_that_fails_keeps_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, tensor = checkpoint(tmp_path, 1.0)
    first.save(3)

    def fails(_state: Any, stream: Any) -> None:
        stream.write(b"half a fi")
        raise RuntimeError("power cut")

    monkeypatch.setattr(torch, "save", fails)
    tensor.fill_(9.0)
    with pytest.raises(RuntimeError, match="power cut"):
        first.save(4)
    assert first.restore(CPU) == 3
    assert tensor.tolist() == [1.0]


@pytest.mark.parametrize("state", [{"v": torch.zeros(2)}, {"w": torch.zeros(1)}, {}])
def test_parameters_of_other_names_or_shapes_do_not_fit(state: dict[str, torch.Tensor]) -> None:
    """A tensor of one element would otherwise fill one of many."""
    with pytest.raises(ValueError, match="names or shapes"):
        TrainableParameters({"w": torch.ones(2)}).load_state_dict(state)


def test_parameters_in_another_order_do_not_fit() -> None:
    """An optimizer's own state has no names: it would be given to another parameter of the same shape."""
    named = {name: nn.Parameter(torch.zeros(2)) for name in ("a", "b")}

    def layout(*names: str) -> OptimizerLayout:
        return OptimizerLayout(torch.optim.AdamW([{"params": [named[name] for name in names]}]), named)

    layout("a", "b").load_state_dict(layout("a", "b").state_dict())
    with pytest.raises(ValueError, match="groups"):
        layout("a", "b").load_state_dict(layout("b", "a").state_dict())
