"""What of the data sets is there, what is missing, and what it takes: disk, and time at stated rates."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ovseg.datasets.fetch.parts import RECEIPTS, downloaded, is_linked, is_whole
from ovseg.datasets.fetch.releases import Part

NETWORK, DISK = 25e6, 100e6  # bytes a second of a common line; of checking and unpacking many small files


@dataclass(frozen=True)
class State:
    """How far a part is.

    Attributes:
        part: which.
        word: "verified", "linked", "downloaded", "begun" or "missing".
        download: bytes that are still to be downloaded, about.
        disk: bytes that its files will take, about; its archives are removed once these are verified.
        seconds: that it takes, at 25 MB/s, about.
    """

    part: Part
    word: str
    download: int
    disk: int
    seconds: float


def state(part: Part, home: Path) -> State:
    """How far a part is below `home`, the folder of its data set."""
    if is_whole(part, home):
        return State(part, "linked" if is_linked(part, home) else "verified", 0, 0, 0)
    there = downloaded(part, home)
    download = max(0, part.download - there)
    word = "missing" if not there else "downloaded" if (home / RECEIPTS / f"{part.name}.json").is_file() else "begun"
    seconds = download / NETWORK + (part.download + part.unpacked) / DISK
    return State(part, word, 0 if word == "downloaded" else download, part.unpacked, seconds)


def table(states: Sequence[State], root: Path) -> str:
    """The states as a table, with what is free on the disk of `root`."""
    lines = [f"{'data set':16}{'part':16}{'is':12}{'download':>10}{'on disk':>10}{'time':>10}  licence"]
    said: set[str] = set()
    for one in states:
        login = one.word == "missing" and any(file.login for file in one.part.files)
        sizes = f"{'by hand' if login else _gb(one.download):>10}{_gb(one.disk):>10}{_minutes(one.seconds):>10}"
        licence = "" if one.part.dataset in said else one.part.licence
        said.add(one.part.dataset)
        lines.append(f"{one.part.dataset:16}{one.part.name:16}{one.word:12}{sizes}  {licence}".rstrip())
    download, disk, seconds = (sum(getattr(one, of) for one in states) for of in ("download", "disk", "seconds"))
    need = disk + max((one.part.download for one in states if one.disk), default=0)  # one archive at a time
    free = shutil.disk_usage(next(path for path in (root, *root.absolute().parents) if path.exists())).free
    rest = (
        f"{free / 1e9:,.0f} GB free{'' if free > need else f': NOT ENOUGH, {need / 1e9:,.0f} GB are needed meanwhile'}"
    )
    lines.append(f"{'all':44}{_gb(download):>10}{_gb(disk):>10}{_minutes(seconds):>10}  {rest}")
    return "\n".join(lines)


def _gb(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 5e7 else f"{number / 1e6:.0f} MB" if number else "-"


def _minutes(seconds: float) -> str:
    return f"{max(1, round(seconds / 60))} min" if seconds else "-"
