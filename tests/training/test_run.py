"""Trainings across edits of the code: what continues, what begins anew, and what is done again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ovseg.core.errors import OvsegError
from ovseg.engine import fingerprint
from ovseg.engine.fingerprint import code_of
from ovseg.training import adapt as module
from ovseg.training import tower
from ovseg.training.contrastive import contrastive_step
from ovseg.training.tower import parameter_groups
from tests.training.test_adapt import FINETUNE, run, same, same_files, weights

STEPS = 8
Edit = Callable[[str, str], None]


@pytest.fixture
def edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Edit:
    """Append to a file of a copy of the package, which is then what keys are made of."""
    root = tmp_path / "pipeline"
    shutil.copytree(fingerprint.SOURCE_ROOT / "ovseg", root / "ovseg", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(fingerprint, "SOURCE_ROOT", root)
    code_of.cache_clear()

    def edit(file: str, text: str) -> None:
        path = root / "ovseg" / file
        path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")
        code_of.cache_clear()

    return edit


@pytest.fixture(autouse=True)
def _forget_code() -> Any:
    yield
    code_of.cache_clear()


@pytest.fixture
def steps_taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the training steps that are computed."""
    taken: list[int] = []

    def counted(*args: Any, step: int, **options: Any) -> torch.Tensor:
        taken.append(step)
        return contrastive_step(*args, step=step, **options)

    monkeypatch.setattr(module, "contrastive_step", counted)
    return taken


class Trained:
    """A training of eight steps that is stopped after three; `resume` does the rest."""

    def __init__(self, base: Path, shards: Path, folder: Path) -> None:
        self.base, self.shards, self.folder = base, shards, folder
        with pytest.raises(KeyboardInterrupt):
            self.resume(stop_after=3)

    def whole(self) -> Path:
        return run(self.base, self.shards, self.folder / "whole", self.folder / "other work", FINETUNE)

    def resume(self, **runtime: Any) -> Path:
        return run(self.base, self.shards, self.folder / "out", self.folder / "work", FINETUNE, **runtime)


@pytest.fixture
def training(edit: Edit, base: Path, shards: Path, tmp_path: Path) -> Trained:
    return Trained(base, shards, tmp_path)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("report/page.py", "\nSIDE = 1\n"),
        ("engine/units.py", "\nSIDE = 1\n"),
        ("evaluation/measure.py", "\nSIDE = 1\n"),
        ("training/loop.py", "\n# why\n"),
    ],
)
def test_an_edit_that_cannot_change_a_training_changes_nothing(
    training: Trained,
    edit: Edit,
    steps_taken: list[int],
    caplog: pytest.LogCaptureFixture,
    file: str,
    text: str,
) -> None:
    edit(file, text)
    out = training.resume()
    assert steps_taken == list(range(3, STEPS))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    assert same_files(training.whole(), out)


def test_a_training_of_other_code_continues_with_a_warning_that_names_it(
    training: Trained, edit: Edit, steps_taken: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    edit("training/losses.py", "\nSIDE = 1\n")
    out = training.resume()
    assert steps_taken == list(range(3, STEPS))
    assert "training/losses.py" in caplog.text
    assert same_files(training.whole(), out)


def test_fresh_begins_anew(training: Trained, edit: Edit, steps_taken: list[int]) -> None:
    edit("training/losses.py", "\nSIDE = 1\n")
    training.resume(fresh=True)
    assert steps_taken == list(range(STEPS))


def _swap_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    def swapped(*args: Any, **options: Any) -> Any:
        return parameter_groups(*args, **options)[::-1]

    monkeypatch.setattr(tower, "parameter_groups", swapped)


def test_a_training_of_other_code_that_does_not_fit_begins_anew_with_a_warning(
    training: Trained,
    edit: Edit,
    steps_taken: list[int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    edit("training/tower.py", "\nSIDE = 1\n")
    _swap_groups(monkeypatch)
    out = training.resume()
    assert steps_taken == list(range(STEPS))
    assert "training/tower.py" in caplog.text
    assert same_files(training.whole(), out)


def test_a_checkpoint_of_the_same_code_that_does_not_fit_is_an_error(
    training: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    _swap_groups(monkeypatch)
    with pytest.raises(OvsegError, match=r"checkpoint\.pt"):
        training.resume()


def test_a_finished_training_of_other_code_is_done_again_from_the_start(
    training: Trained, edit: Edit, steps_taken: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """Also where DVC has removed its result: what is left of it is finished work, not unfinished work."""
    training.resume()
    edit("training/losses.py", "\nSIDE = 1\n")
    steps_taken.clear()
    out = training.resume()
    assert steps_taken == list(range(STEPS))
    assert "training/losses.py" in caplog.text
    edit("training/texts.py", "\nSIDE = 1\n")
    shutil.rmtree(out)
    steps_taken.clear()
    training.resume()
    assert steps_taken == list(range(STEPS))


def test_a_finished_training_of_the_same_code_is_published_again_without_a_step(
    training: Trained, steps_taken: list[int]
) -> None:
    """DVC removes the outputs of a stage before it runs."""
    before = weights(training.resume())
    shutil.rmtree(training.folder / "out")
    steps_taken.clear()
    out = training.resume()
    assert steps_taken == []
    assert same(training.whole(), out) == before.keys()
