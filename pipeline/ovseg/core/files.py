"""Write files and folders. JSON files and folders are replaced in one step, so that a reader never sees half of one."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

CURVES = "training.tsv"  # the curves of a training, in the folder of the model that it made


def write_json(path: Path, value: object) -> None:
    """Write `value` as JSON to `path` atomically: to a temporary file, synced to disk, then renamed."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(value, indent=1) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def write_tsv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a header and rows as tab-separated values, the format that `dvc plots` reads."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def replace_folder(staged: Path, out: Path) -> None:
    """Move the finished folder `staged` to `out`; an old `out` is deleted only after the new one is in place."""
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.replace(old)
    staged.replace(out)
    shutil.rmtree(old, ignore_errors=True)


def sync(path: Path) -> None:
    """Wait until the bytes of the file at `path` are on disk."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link `source` to `target`, or copy it where the file system cannot link."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
