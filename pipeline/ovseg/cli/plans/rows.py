"""A row of the plan: what one stage handles, takes and writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ovseg.cli.plans.rates import Machine, Rate

On = Literal["CPU", "GPU", "network"]
UNKNOWN, LATER = "not known", "not known until the index is made"
LINE = "stated: a line of 25 MB/s, as in `ovseg data status`; weights have 4 bytes a parameter"
Work = tuple[float | None, Rate | None]
"""How much of something, and how fast it goes; None is not known."""


@dataclass(frozen=True)
class Row:
    """One stage.

    Attributes:
        stage: as in dvc.yaml.
        handles: in words.
        on: what its time is spent on.
        devices: cores or GPUs that share the work.
        seconds: from begin to end; None if not known.
        writes: bytes; None if not known.
        sources: where the rates are from; `UNKNOWN` for one that is not known.
        download: bytes; None if not known.
        files: what it writes, in words, where that says more than bytes.
        kept: DVC keeps what it writes, in its cache too.
    """

    stage: str
    handles: str
    on: On
    devices: int
    seconds: float | None
    writes: float | None
    sources: tuple[str, ...] = ()
    download: float | None = 0
    files: str = ""
    kept: bool = True


def row(
    stage: str,
    handles: str,
    on: On,
    machine: Machine,
    works: Sequence[Work],
    writes: float | None,
    *,
    download: float | None = 0,
    files: str = "",
    kept: bool = True,
) -> Row:
    """A row whose time follows from amounts and rates.

    Args:
        stage, handles, writes, download, files, kept: see `Row`.
        on: "GPU" becomes "CPU" on a machine that has none.
        machine: what the plan is for.
        works: one after the other; none takes no time.
    """
    on = "CPU" if on == "GPU" and not machine.gpus else on
    devices = machine.gpus if on == "GPU" else machine.cores
    known = [amount / rate.per_second for amount, rate in works if amount is not None and rate is not None]
    seconds = sum(known) / devices if len(known) == len(works) else None
    sources = tuple(dict.fromkeys(rate.source if rate else UNKNOWN for _, rate in works))
    return Row(stage, handles, on, devices, seconds, writes, sources, download, files, kept)


def many(number: int | None, what: str, how: str = "") -> str:
    """A number in words; `how` is "about" or "at most"."""
    return LATER if number is None else f"{f'{how} ' if how else ''}{number:,} {what}"
