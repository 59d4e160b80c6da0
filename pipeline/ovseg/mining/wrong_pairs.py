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

from filelock import FileLock

from ovseg.core.errors import OvsegError
from ovseg.core.text_files import read_text

HEADER = ("image_id", "noun", "proposal")


class WrongPair(NamedTuple):
    """A pair, as it is known in the tables `candidates` and `pairs` of any selection."""

    image_id: int
    noun: str
    proposal: int


class _Table(NamedTuple):
    """The content of a file: its columns, and the cells of each line with the pair that they mark."""

    columns: list[str]
    lines: list[tuple[WrongPair, list[str]]]


def read_wrong_pairs(path: Path) -> frozenset[WrongPair]:
    """Read the marked pairs.

    Args:
        path: a CSV file with the columns of `HEADER`; further columns are ignored.

    Raises:
        OvsegError: the file cannot be read, a column is missing, or a line has no number where one is needed.
    """
    return frozenset(pair for pair, _ in _read(path).lines)


def mark_wrong_pair(path: Path, pair: WrongPair, wrong: bool) -> frozenset[WrongPair]:
    """Mark a pair, or take its mark away. All other lines of the file stay, also those that others have written meanwhile.

    Args:
        path: the file, which need not be there; its lines are sorted, and further columns are kept.
        pair: the pair.
        wrong: whether it is wrong.

    Returns:
        the pairs that are marked now.

    Raises:
        OvsegError: see `read_wrong_pairs`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        columns, lines = _read(path) if path.is_file() else _Table([*HEADER], [])
        same = [line for line in lines if line[0] == pair]
        lines = [line for line in lines if line[0] != pair]
        if wrong:
            cells = dict(zip(HEADER, map(str, pair), strict=True))
            lines += same or [(pair, [cells.get(name, "") for name in columns])]
        _write(path, columns, sorted(lines))
    return frozenset(marked for marked, _ in lines)


def _read(path: Path) -> _Table:
    try:
        rows = csv.reader(io.StringIO(read_text(path)))
    except OSError as error:
        raise OvsegError(f"{path} (select.exclude) cannot be read: {error}") from None
    columns = next(rows, [])
    if missing := [name for name in HEADER if name not in columns]:
        raise OvsegError(
            f"{path} (select.exclude) has no column {', '.join(missing)}; its header must be {','.join(HEADER)}"
        )
    image_id, noun, proposal = (columns.index(name) for name in HEADER)
    lines = []
    for cells in filter(None, rows):
        try:
            lines.append((WrongPair(int(cells[image_id]), cells[noun], int(cells[proposal])), cells))
        except (IndexError, ValueError):
            raise OvsegError(
                f"{path} (select.exclude), line {rows.line_num}: {','.join(cells)} must have an image id, a noun and a number "
                "of a mask"
            ) from None
    return _Table(columns, lines)


def _write(path: Path, columns: list[str], lines: Iterable[tuple[WrongPair, list[str]]]) -> None:
    """Write a table in the place of the file that was there."""
    unfinished = path.with_name(f"{path.name}.tmp")
    with unfinished.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(cells for _, cells in lines)
        stream.flush()
        os.fsync(stream.fileno())
    unfinished.replace(path)
