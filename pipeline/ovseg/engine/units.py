"""Units of work that survive a kill: each is done once, durably, and verified before it is reused.

    part    one Parquet file of a table
    unit    what is done and marked as done at once: mostly one part of the input, and one part of the output

A unit of the step `score` in its scratch folder (see `engine.scratch`):

    00042.parquet       the result, complete or absent
    00042.done.json     written last: counts, and the sha256 of each of the unit's files
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ovseg.core import hashing, tables
from ovseg.core.errors import OvsegError, explain_write_errors
from ovseg.core.files import sync, write_json

Counts = Mapping[str, int]
"""How many items (images, nouns, masks) a unit kept and dropped, by name; names of dropped items are `dropped.<reason>`."""
Task = Callable[[str, Path], Counts]
"""Does one unit: (name of the unit, empty folder to write its files into) -> counts."""
TaskFactory = Callable[[str], Task]
"""Makes a Task inside the process that runs it: (torch device of the process) -> Task. Loads models; is picklable."""

SINGLE_UNIT = "00000"
"""The name of the unit of a step that has only one."""
DONE = ".done.json"
"""What the name of a unit's done mark ends with."""


def finished_counts(folder: Path, unit: str) -> dict[str, int] | None:
    """Return the counts of a finished unit of a scratch folder; None if it is not finished or its files have changed."""
    try:
        mark = json.loads((folder / f"{unit}{DONE}").read_text(encoding="utf-8"))
        intact = all(hashing.sha256_file(folder / name) == sha for name, sha in mark["files"].items())
    except (OSError, ValueError, KeyError):
        return None
    return dict(mark["counts"]) if intact else None


def commit(folder: Path, unit: str, task: Task) -> dict[str, int]:
    """Run one unit and make its result durable: its files first, its done mark last.

    Args:
        folder: the scratch folder.
        unit: the name of the unit.
        task: does the unit.

    Returns:
        The counts of the unit.

    Raises:
        OvsegError: the disk or the memory of a GPU is full; every unit that was finished before is kept.
    """
    # A worker that outlives its killed run, or a second one that does the same unit, writes elsewhere.
    unfinished = folder / f"{unit}.{platform.node()}.{os.getpid()}.tmp"
    with explain_write_errors(folder), explain_full_memory(folder):
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        counts = dict(task(unit, unfinished))
        files = {}
        for path in sorted(unfinished.iterdir()):
            files[path.name] = hashing.sha256_file(path)
            sync(path)
            path.replace(folder / path.name)
        done = f"{unit}{DONE}"
        write_json(unfinished / done, {"counts": counts, "files": files})
        (unfinished / done).replace(folder / done)
        unfinished.rmdir()
    return counts


@contextlib.contextmanager
def explain_full_memory(folder: Path) -> Iterator[None]:
    """Raise OvsegError with a remedy where torch says that the memory of a GPU is full.

    Args:
        folder: the scratch folder.
    """
    try:
        yield
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's; some steps never import torch
            raise
        raise OvsegError(
            f"the memory of a GPU is full ({str(error).splitlines()[0][:160]}). Finished units are kept in {folder}: run the "
            "same command again with --workers 1 (OVSEG_WORKERS=1), which is one process on each GPU, or with "
            "--precision bf16; on a Ray cluster name the device once in --device"
        ) from None


def add_counts(counts: Sequence[Counts]) -> dict[str, int]:
    """Return the sums of the counts of several units, by name."""
    sums: Counter[str] = Counter()
    for unit_counts in counts:
        sums.update(unit_counts)
    return dict(sums)


def unit_names(folder: Path) -> Iterator[str]:
    """Iterate over the units of a step that reads a table: one for each part of the table in `folder`."""
    return (path.stem for path in tables.parts(folder))
