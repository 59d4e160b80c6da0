"""The curves of a training, and the file that holds them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, variance
from typing import Any

from ovseg.core.files import CURVES, write_tsv

MAX_ROWS = 200
EARLY_ROWS = 20


class History:
    """The curves of a training: at most `MAX_ROWS` rows at equal distances.

    Attributes:
        rows: for each row "step", "loss" (the mean since the row before), "learning_rate", and what the step shows.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self._losses: list[float] = []

    def add(self, number: int, steps: int, loss: float, shown: Mapping[str, float]) -> dict[str, float] | None:
        """Note one step, and return the row that it completes, if it does.

        Args:
            number: the number of the step, from 1.
            steps: the number of steps of the whole training.
            loss: the loss of the step.
            shown: further columns.
        """
        self._losses.append(loss)
        if number % math.ceil(steps / MAX_ROWS) == 0 or number == steps:
            self.rows.append({"step": number, "loss": sum(self._losses) / len(self._losses), **shown})
            self._losses = []
            return self.rows[-1]
        return None

    def state_dict(self) -> dict[str, Any]:
        """The rows, and the losses since the last row."""
        return {"rows": self.rows, "losses": self._losses}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them."""
        self.rows, self._losses = list(state_dict["rows"]), list(state_dict["losses"])


def is_learning(rows: Sequence[Mapping[str, float]]) -> str | None:
    """Say early whether a training learns, once: when `EARLY_ROWS` rows are there, a tenth of a long training.

    The mean loss of the last quarter of them is compared with that of the first. It falls, or rises, if the difference is
    larger than the noise: twice the standard error of the two means.

    Returns:
        a sentence with both losses; None before and after that row.
    """
    if len(rows) != EARLY_ROWS:
        return None
    quarter = EARLY_ROWS // 4
    first, last = ([row["loss"] for row in part] for part in (rows[:quarter], rows[-quarter:]))
    change, noise = mean(last) - mean(first), 2 * math.sqrt((variance(first) + variance(last)) / quarter)
    trend = "does not change beyond its noise yet" if abs(change) <= noise else "falls" if change < 0 else "RISES"
    return f"after {rows[-1]['step']:,.0f} steps the loss {trend}: {mean(first):.3f} -> {mean(last):.3f}"


def write_curves(history: History, folder: Path) -> None:
    """Write training.tsv: a header and the rows of the history."""
    header = list(history.rows[0]) if history.rows else ["step", "loss", "learning_rate"]
    write_tsv(folder / CURVES, header, ([f"{value:.6g}" for value in row.values()] for row in history.rows))
