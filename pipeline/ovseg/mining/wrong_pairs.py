"""Pairs that a person has marked as wrong: a CSV file that `ovseg app` writes and `select.exclude` reads.

The columns are image_id, noun and proposal, the number of the mask in its image. A mask keeps its number only as long as the
proposals are made in the same way.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ovseg.core.errors import OvsegError
from ovseg.core.text_files import read_text

HEADER = ("image_id", "noun", "proposal")


class WrongPair(NamedTuple):
    """A pair, as it is known in the tables `candidates` and `pairs` of any selection."""

    image_id: int
    noun: str
    proposal: int


def read_wrong_pairs(path: Path) -> frozenset[WrongPair]:
    """Read the marked pairs.

    Args:
        path: a CSV file with the columns of `HEADER`; further columns are ignored.

    Raises:
        OvsegError: the file cannot be read, a column is missing, or a line has no number where one is needed.
    """
    try:
        rows = csv.DictReader(io.StringIO(read_text(path)))
    except OSError as error:
        raise OvsegError(f"{path} (select.exclude) cannot be read: {error}") from None
    if missing := [name for name in HEADER if name not in (rows.fieldnames or ())]:
        raise OvsegError(
            f"{path} (select.exclude) has no column {', '.join(missing)}; its header must be {','.join(HEADER)}"
        )
    pairs = set()
    for row in rows:
        try:
            pairs.add(WrongPair(int(row["image_id"]), row["noun"], int(row["proposal"])))
        except (TypeError, ValueError):
            raise OvsegError(
                f"{path} (select.exclude), line {rows.line_num}: {row} must have an image id, a noun and a number of a mask"
            ) from None
    return frozenset(pairs)


def write_wrong_pairs(path: Path, pairs: Iterable[WrongPair]) -> None:
    """Write the marked pairs, sorted, in the place of the file that was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.tmp")
    with unfinished.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows(sorted(pairs))
        stream.flush()
        os.fsync(stream.fileno())
    unfinished.replace(path)
