"""The curves of a training, and the file that holds them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ovseg.core.files import CURVES, write_tsv

MAX_ROWS = 200


class History:
    """The curves of a training: at most `MAX_ROWS` rows at equal distances.

    Attributes:
        rows: for each row "step", "loss" (the mean since the row before), "learning_rate", and what the step shows.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self._losses: list[float] = []

    def add(self, number: int, steps: int, loss: float, shown: Mapping[str, float]) -> None:
        """Note one step.

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

    def state_dict(self) -> dict[str, Any]:
        """The rows, and the losses since the last row."""
        return {"rows": self.rows, "losses": self._losses}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them."""
        self.rows, self._losses = list(state_dict["rows"]), list(state_dict["losses"])


def write_curves(history: History, folder: Path) -> None:
    """Write training.tsv: a header and the rows of the history."""
    header = list(history.rows[0]) if history.rows else ["step", "loss", "learning_rate"]
    write_tsv(folder / CURVES, header, ([f"{value:.6g}" for value in row.values()] for row in history.rows))
