"""Curves while a training runs: the numbers of training.tsv, for each writer."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ovseg.core.errors import OvsegError
from ovseg.training.curves import EARLY_ROWS, is_learning
from ovseg.training.writers import WRITERS, Writers

ROWS = [{"step": 2.0, "loss": 0.5, "learning_rate": 0.1}, {"step": 4.0, "loss": 0.25, "learning_rate": 0.05}]


def write(name: str, folder: Path, rows: list[dict[str, float]]) -> None:
    with Writers([name], folder) as writers:
        for row in rows:
            writers.count(64)
            writers.write(row)


def test_tensorboard_gets_the_rows_the_rate_and_their_steps(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra `watch` is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write("tensorboard", tmp_path, ROWS)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(one.step, one.value) for one in events.Scalars("loss")] == [(2, 0.5), (4, 0.25)]
    assert all(one.value > 0 for one in events.Scalars("samples_per_second"))


def test_dvclive_gets_the_rows_and_goes_on_after_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dvclive", reason="the extra `watch` is not installed")
    monkeypatch.chdir(tmp_path)
    for row in ROWS:
        write("dvclive", tmp_path, [row])
    lines = (tmp_path / "dvclive" / "plots" / "metrics" / "loss.tsv").read_text().split()
    assert lines == ["step", "loss", "2", "0.5", "4", "0.25"]
    summary = json.loads((tmp_path / "dvclive" / "metrics.json").read_text())
    assert summary["loss"] == 0.25 and summary["step"] == 4
    assert {path.name for path in tmp_path.iterdir()} == {"dvclive"}


def test_an_unknown_writer_and_a_missing_package_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OvsegError, match="paper; there are dvclive, tensorboard"):
        Writers(["paper"], tmp_path)
    for module in ("dvclive", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)
    for name in WRITERS:
        with pytest.raises(OvsegError, match=r"pip install 'ovseg\[watch\]'"):
            Writers([name], tmp_path)


@pytest.mark.parametrize(
    ("slope", "answer"), [(-0.1, "falls: 4.802 -> 3.298"), (0.1, "RISES"), (0.0, "does not change beyond its noise")]
)
def test_the_log_says_once_whether_the_loss_falls(slope: float, answer: str) -> None:
    rows = [{"step": i + 1.0, "loss": 5 + slope * i + 0.01 * (-1) ** i} for i in range(2 * EARLY_ROWS)]
    said = {number: text for number in range(len(rows) + 1) if (text := is_learning(rows[:number]))}
    assert list(said) == [EARLY_ROWS] and answer in said[EARLY_ROWS]
