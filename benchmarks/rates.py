"""Measured rates for the planner (`pipeline/ovseg/cli/rates.json`), which has one row a line, the first that fits counting."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.inputs import ROOT

RATES = ROOT / "pipeline" / "ovseg" / "cli" / "rates.json"
PLANNED = (
    "encode",
    "encode regions",
    "encode regions, biased_tokens",
    "encode regions, mask_adapter",
    "finetune",
    "prompt",
    "train network",
)  # work whose rates of GPUs the planner has
FIRST_ROW = ' "rates": [\n'


class Rate(NamedTuple):
    """How fast a device does one kind of work.

    Attributes:
        work: kind of work, such as "encode".
        model: name of the model; empty for work without one.
        precision: "fp32" or "bf16".
        device: name of the GPU in small letters, or "cpu".
        per_second: items a second of one device.
        source: where the figure comes from.
    """

    work: str
    model: str
    precision: str
    device: str
    per_second: float
    source: str


def add_rates(rates: Sequence[Rate], path: Path = RATES) -> int:
    """Write the rates of GPUs in front of those that the planner has; those of the same work, model and device are replaced.

    Args:
        rates: the measured rates; those of CPUs, whose number of cores counts, and of work that is not `PLANNED` are left out.
        path: rates.json.

    Returns:
        the number of rates that are written.
    """
    new = [rate for rate in rates if rate.device != "cpu" and rate.work in PLANNED]
    replaced = {(rate.work, rate.model, rate.precision, rate.device) for rate in new}
    before, _, after = path.read_text(encoding="utf-8").partition(FIRST_ROW)
    kept = [line for line in after.splitlines(keepends=True) if _identity(line) not in replaced]
    lines = [f"  {json.dumps({**rate._asdict(), 'per_second': round(rate.per_second, 1)})},\n" for rate in new]
    path.write_text("".join([before, FIRST_ROW, *lines, *kept]), encoding="utf-8")
    json.loads(path.read_text(encoding="utf-8"))
    return len(new)


def _identity(line: str) -> tuple[str | None, ...]:
    """The work, model, precision and device of a row of rates.json; other lines have none."""
    text = line.strip().removesuffix(",")
    row = json.loads(text) if text.startswith('{"work"') else {}
    return tuple(row.get(name) for name in ("work", "model", "precision", "device"))
