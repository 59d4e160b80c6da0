"""The table `failures`: items that a step could not use, each with its rejection reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ovseg.core import tables
from ovseg.core.errors import BadItem


def failure(image_id: int, item: str, problem: BadItem) -> dict[str, Any]:
    """Return one row of the table `failures`.

    Args:
        image_id: the image that the item belongs to.
        item: the kind or name of the item ("mask", a noun, a file name).
        problem: why the item cannot be used.
    """
    return {"image_id": image_id, "item": item, "reason": problem.reason, "detail": problem.detail}


def write_failures(folder: Path, unit: str, failures: list[dict[str, Any]], key: str) -> None:
    """Write the failures of a unit, sorted by image id, to `{unit}.failures.parquet`; write nothing if there are none.

    Args:
        folder: the folder of the unit's files.
        unit: the name of the unit.
        failures: rows made by `failure`.
        key: the fingerprint of the step.
    """
    if failures:
        ordered = sorted(failures, key=lambda row: int(row["image_id"]))
        tables.write_part(folder / f"{unit}.failures.parquet", "failures", ordered, key)
