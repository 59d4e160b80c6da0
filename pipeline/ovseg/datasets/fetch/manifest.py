"""Manifests: path, size and sha256 of every file of a part. A row is written as soon as its file is finished."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import TextIO

from ovseg.core import hashing
from ovseg.core.errors import OvsegError

HEADER = "path\tbytes\tsha256\n"
ROWS_PER_SYNC = 1000  # at most so many files are unpacked again after a power cut


class Manifest:
    """A manifest that is being made, `path`.part; `finish` puts it in place, sorted by path.

    Args:
        path: file of the finished manifest; if it exists, its rows are known from the start.
        home: folder that the paths in it are relative to.
    """

    def __init__(self, path: Path, home: Path) -> None:
        self.path, self.home = path, home
        self.part_path = path.with_name(path.name + ".part")
        self.rows = {**_read_rows(path), **_read_rows(self.part_path, complete=False)}
        self._stream: TextIO | None = None
        self._added = 0

    def __enter__(self) -> Manifest:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = self.part_path.open("a", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream:
            self._stream.close()

    def has(self, path: str, size: int) -> bool:
        """Whether a file is recorded with this size, and still has it."""
        path = path.removeprefix("./")
        return path in self.rows and self.rows[path][0] == size and _size(self.home / path) == size

    def add(self, path: str, size: int, sha256: str) -> None:
        """Record a file."""
        self.rows[path.removeprefix("./")] = (size, sha256)
        if self._stream is None:
            raise ValueError("the manifest is not open")
        self._stream.write(f"{path.removeprefix('./')}\t{size}\t{sha256}\n")
        self._added += 1
        if self._added % ROWS_PER_SYNC == 0:
            self.flush()

    def flush(self) -> None:
        """Make files and rows survive a power cut: first the files, then the rows that describe them."""
        if self._stream:
            os.sync()
            self._stream.flush()
            os.fsync(self._stream.fileno())

    def present_bytes(self) -> int:
        """Bytes of the recorded files that are there."""
        return sum(size for path, (size, _) in self.rows.items() if _size(self.home / path) == size)

    def finish(self, paths: Iterable[str]) -> None:
        """Write the manifest of these paths, all of which are recorded."""
        rows = sorted((path, *self.rows[path]) for path in paths)
        staged = self.path.with_name(self.path.name + ".tmp")
        lines = (f"{path}\t{size}\t{sha256}\n" for path, size, sha256 in rows)
        staged.write_text(HEADER + "".join(lines), encoding="utf-8")
        staged.replace(self.path)
        self.part_path.unlink(missing_ok=True)


def read_manifest(path: Path) -> dict[str, tuple[int, str]]:
    """Read a manifest as {path: (bytes, sha256)}.

    Raises:
        OvsegError: if the file is missing or is not a manifest.
    """
    if not path.is_file():
        raise OvsegError(
            f"the manifest {path} is missing; run `ovseg data get`, or `ovseg data link` if the data is on this machine"
        )
    return _read_rows(path)


def changed_files(home: Path, rows: dict[str, tuple[int, str]], *, full: bool = False) -> list[str]:
    """The files of a manifest that are missing or have another size; with `full`, also those with another content."""
    return [
        path
        for path, (size, sha256) in rows.items()
        if _size(home / path) != size or (full and hashing.sha256_file(home / path) != sha256)
    ]


def _read_rows(path: Path, complete: bool = True) -> dict[str, tuple[int, str]]:
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").split("\n")
    rows = {}
    for number, line in enumerate(lines[:-1], start=1):  # a last line without its end is cut off
        cells = line.split("\t")
        if line + "\n" == HEADER:
            continue
        if len(cells) != 3 or not cells[1].isdigit() or len(cells[2]) != 64:
            if complete:
                raise OvsegError(
                    f"{path}, line {number}: {line[:80]!r} is not a row of a manifest; remove the file and run the same "
                    "command again"
                )
            continue
        rows[cells[0]] = (int(cells[1]), cells[2])
    return rows


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
