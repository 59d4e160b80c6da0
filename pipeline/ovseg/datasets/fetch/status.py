"""The state of each part of a data set on this machine, and the disk and time that the missing ones take."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ovseg.datasets.fetch.parts import downloaded_bytes, is_linked, is_whole, receipt_path
from ovseg.datasets.fetch.releases import Part

NETWORK_SPEED, DISK_SPEED = 25e6, 100e6  # bytes per second: a common line; checking and unpacking many small files


@dataclass(frozen=True)
class State:
    """How far a part is.

    Attributes:
        part: the part.
        status: "verified", "linked", "downloaded", "incomplete" or "missing".
        download: approximate bytes that are still to be downloaded.
        disk: approximate bytes that its files will take; its archives are removed after verification.
        seconds: approximate time that it will take at `NETWORK_SPEED` and `DISK_SPEED`.
    """

    part: Part
    status: str
    download: int
    disk: int
    seconds: float


def part_state(part: Part, home: Path) -> State:
    """The state of a part in `home`, the folder of its data set."""
    if is_whole(part, home):
        return State(part, "linked" if is_linked(part, home) else "verified", 0, 0, 0)
    present = downloaded_bytes(part, home)
    download = max(0, part.download - present)
    status = "missing" if not present else "downloaded" if receipt_path(part, home).is_file() else "incomplete"
    seconds = download / NETWORK_SPEED + (part.download + part.unpacked) / DISK_SPEED
    return State(part, status, 0 if status == "downloaded" else download, part.unpacked, seconds)


def format_states(states: Sequence[State], root: Path) -> str:
    """The states as a table for people, with the free space on the disk of the folder `root`."""
    lines = [f"{'data set':16}{'part':16}{'status':12}{'download':>10}{'on disk':>10}{'time':>10}  license"]
    datasets: set[str] = set()
    for state in states:
        part = state.part
        by_hand = state.status == "missing" and any(file.login for file in part.files)
        download = "by hand" if by_hand else format_bytes(state.download)
        licence = "" if part.dataset in datasets else part.licence
        datasets.add(part.dataset)
        cells = f"{download:>10}{format_bytes(state.disk):>10}{format_seconds(state.seconds):>10}"
        lines.append(f"{part.dataset:16}{part.name:16}{state.status:12}{cells}  {licence}".rstrip())
    disk = sum(state.disk for state in states)
    cells = f"{format_bytes(sum(state.download for state in states)):>10}{format_bytes(disk):>10}"
    cells += f"{format_seconds(sum(state.seconds for state in states)):>10}"
    needed = disk + max((state.part.download for state in states if state.disk), default=0)  # one archive at a time
    free = free_space(root)
    shortage = "" if free > needed else f": NOT ENOUGH, {needed / 1e9:,.0f} GB are needed meanwhile"
    lines.append(f"{'all':44}{cells}  {free / 1e9:,.0f} GB free{shortage}")
    return "\n".join(lines)


def free_space(folder: Path) -> int:
    """Free bytes on the disk of a folder that may not exist yet."""
    return shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.exists())).free


def format_bytes(number: float) -> str:
    """A number of bytes for people; "-" for none."""
    if number >= 5e7:
        return f"{number / 1e9:.1f} GB"
    return f"{number / 1e6:.0f} MB" if number >= 1e6 else f"{number / 1e3:.0f} KB" if number else "-"


def format_seconds(seconds: float) -> str:
    """A duration for people; "-" for none."""
    if seconds >= 7200:
        return f"{seconds / 3600:.1f} h"
    return f"{max(1, round(seconds / 60))} min" if seconds else "-"
