"""The plan as text: a table, what it adds up to, and what nobody knows."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from ovseg.cli.plans.rates import Machine, facts
from ovseg.cli.plans.rows import UNKNOWN, Row
from ovseg.mining.estimates import duration, size

HEAD = ("stage", "handles", "on", "time", "writes", "rate")
WIDTH = 120
LEAST = "What is estimated is the least: arithmetic alone; reading images and putting maps together come on top."
END = (
    "Everything is counted, also what is up to date already: `dvc status dvc.yaml` says what is.\n"
    "`dvc repro --dry --force` says the order of the stages, also where no data is.\n"
    "A stage takes some seconds more to start. Nothing was done."
)


@dataclass(frozen=True)
class Totals:
    """Sums of the rows, over what is known.

    Attributes:
        seconds: from begin to end, one stage after another.
        gpu, cpu: seconds of all GPUs, of all cores.
        download: bytes.
        data, outputs: bytes on disk of data sets, and of what DVC keeps.
        unknown: "time of STAGE", "size of STAGE", "download of STAGE".
    """

    seconds: float
    gpu: float
    cpu: float
    download: float
    data: float
    outputs: float
    unknown: tuple[str, ...]


def totals(rows: Sequence[Row]) -> Totals:
    """Add the rows up."""
    known = {"time": [one.seconds for one in rows], "size": [one.writes for one in rows]}
    known["download"] = [one.download for one in rows]
    unknown = {
        what: [one.stage for one, value in zip(rows, values, strict=True) if value is None]
        for what, values in known.items()
    }
    return Totals(
        seconds=sum(one.seconds or 0 for one in rows),
        gpu=sum((one.seconds or 0) * one.devices for one in rows if one.on == "GPU"),
        cpu=sum((one.seconds or 0) * one.devices for one in rows if one.on == "CPU"),
        download=sum(one.download or 0 for one in rows),
        data=sum(one.writes or 0 for one in rows if not one.kept),
        outputs=sum(one.writes or 0 for one in rows if one.kept),
        unknown=tuple(f"{what} of {', '.join(stages)}" for what, stages in unknown.items() if stages),
    )


def table(rows: Sequence[Row], machine: Machine, memory: tuple[float, str] | None) -> str:
    """The whole text."""
    notes = list(dict.fromkeys(source for one in rows for source in one.sources if source != UNKNOWN))
    cells = [HEAD, *(_cells(one, notes) for one in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    said = [f"[{i}] {note}" for i, note in enumerate(notes, 1)]
    least = [LEAST] if any(note.startswith("estimated") for note in notes) else []
    parts = [[_for(machine)], lines, said, [*_sums(totals(rows)), *least, *_memory(machine, memory), END]]
    return "\n\n".join("\n".join(part) for part in parts if part)


def _for(machine: Machine) -> str:
    if not machine.gpus:
        return f"For {machine.cores} CPU cores and no GPU ({machine.why})."
    return f"For {machine.gpus} x {machine.gpu.upper()} ({machine.why}) and {machine.cores} CPU cores."


def _cells(one: Row, notes: Sequence[str]) -> tuple[str, ...]:
    on = one.on if one.on == "network" else f"{one.devices} {one.on}"
    time = UNKNOWN if one.seconds is None else duration(one.seconds) if one.seconds else "-"
    writes = UNKNOWN if one.writes is None else size(one.writes) if one.writes else "-"
    rates = [
        UNKNOWN if said == UNKNOWN else f"{said.partition(':')[0]} [{notes.index(said) + 1}]" for said in one.sources
    ]
    return one.stage, one.handles, on, time, writes + one.files, ", ".join(rates) or "-"


def _sums(all_: Totals) -> list[str]:
    least = "at least " if any(what.startswith("time") for what in all_.unknown) else ""
    lines = [
        f"In all {least}{duration(all_.seconds)}, one stage after another: {all_.gpu / 3600:.1f} GPU-hours, "
        f"{all_.cpu / 3600:.1f} hours of one CPU core.",
        f"Download: {_size(all_.download)}. Disk: {_size(all_.data)} for data sets, {_size(all_.outputs)} for outputs (twice "
        "that where DVC's cache can only copy).",
    ]
    if all_.unknown:
        lines += textwrap.wrap(f"Not known, and not counted: {'; '.join(all_.unknown)}.", WIDTH)
    return lines


def _size(bytes_: float) -> str:
    return size(bytes_) if bytes_ else "nothing"


def _memory(machine: Machine, memory: tuple[float, str] | None) -> list[str]:
    if not machine.gpus:
        return []
    if memory is None:
        return ["GPU memory: not known."]
    need, stage = memory
    has = facts()["gpus"].get(machine.gpu, {}).get("gb")
    much = "" if has is None or need < has else f", MORE THAN THE {has} GB OF ONE"
    said = (
        f"GPU memory: {need:.1f} GB at least{much} ({stage}: weights, gradients and AdamW at 4 bytes each). Activations come "
        "on top and were not measured; OVSEG_MICRO_BATCH=8, or less, makes them small."
    )
    return textwrap.wrap(said, WIDTH)
