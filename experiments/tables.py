"""Stored figures, and the tables of documents that are made from them. Several processes may write at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from ovseg.core.files import write_json

END = "<!-- end of table -->"
Figures = dict[str, Any]
Results = dict[str, dict[str, Figures]]
"""The figures of each row and seed."""


def read_figures(path: Path, rows: Iterable[str]) -> Results:
    """Read the stored figures of some rows, in their order; none if the file does not exist."""
    stored: Results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {row: stored[row] for row in rows if row in stored}


def store_figures(path: Path, row: str, seed: int, figures: Mapping[str, Any]) -> None:
    """Add figures to those of a row and seed; what other processes have stored in the meantime is kept."""
    with locked(path):
        stored: Results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        of_row = stored.setdefault(row, {})
        of_row[str(seed)] = {**of_row.get(str(seed), {}), **figures}
        write_json(path, stored)


def write_table(document: Path, command: str, table: Callable[[], str]) -> None:
    """Make the table of a command in a document new.

    Args:
        document: a Markdown file with the marks of `replace_table`.
        command: the command of the mark.
        table: makes the table; called when no other process writes the document.

    Raises:
        ValueError: the marks are missing.
    """
    with locked(document):
        text = document.read_text(encoding="utf-8")
        document.write_text(replace_table(text, command, table()), encoding="utf-8")
    print(f"-> {document}")


def replace_table(text: str, command: str, table: str) -> str:
    """Return a document with the table that a command makes, between the command's mark and the next end mark, made new.

    Raises:
        ValueError: the marks are missing.
    """
    begin = f"<!-- table: {command} -->\n"
    start = text.index(begin) + len(begin)
    return text[:start] + table + "\n" + text[text.index(END, start) :]


def locked(path: Path) -> FileLock:
    """Return the lock of a file or folder, a hidden file beside it: one process at a time is in its context."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_name(f".{path.name}.lock"))
