"""Manifests: path, bytes and sha256 of every file of a part. What is known of a file is noted as soon as it is known."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import TextIO

from ovseg.core import hashing
from ovseg.core.errors import OvsegError

HEAD = "path\tbytes\tsha256\n"
OFTEN = 1000  # rows between two times that files and rows are brought to the disk: more are never done again


class Manifest:
    """A manifest in the making, `path`.part; `finish` puts it in place, in the order of paths.

    Args:
        path: of the finished one; if it is there, its rows are known from the beginning.
        home: folder that its paths are relative to.
    """

    def __init__(self, path: Path, home: Path) -> None:
        self.path, self.home = path, home
        self.begun = path.with_name(path.name + ".part")
        self.rows = {**_rows(path), **_rows(self.begun, whole=False)}
        self._stream: TextIO | None = None
        self._new = 0

    def __enter__(self) -> Manifest:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = self.begun.open("a", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream:
            self._stream.close()

    def has(self, path: str, size: int) -> bool:
        """Whether a file was noted with this size, and still has it."""
        path = path.removeprefix("./")
        return path in self.rows and self.rows[path][0] == size and _size(self.home / path) == size

    def add(self, path: str, size: int, sha: str) -> None:
        """Note a file."""
        self.rows[path.removeprefix("./")] = (size, sha)
        if self._stream is None:
            raise ValueError("the manifest is not open")
        self._stream.write(f"{path.removeprefix('./')}\t{size}\t{sha}\n")
        self._new += 1
        if self._new % OFTEN == 0:
            self.flush()

    def flush(self) -> None:
        """Have what was noted survive a power cut: the files first, then the rows that speak of them."""
        if self._stream:
            os.sync()
            self._stream.flush()
            os.fsync(self._stream.fileno())

    def there(self) -> int:
        """Bytes of files that are noted and there."""
        return sum(size for path, (size, _) in self.rows.items() if _size(self.home / path) == size)

    def note(self, path: str) -> None:
        """Note a file that is there already, reading it."""
        size = (self.home / path).stat().st_size
        if not self.has(path, size):
            self.add(path, size, hashing.sha256_file(self.home / path))

    def finish(self, paths: Iterable[str]) -> None:
        """Write the manifest of these paths, all of which are noted."""
        rows = sorted((path, *self.rows[path]) for path in paths)
        staged = self.path.with_name(self.path.name + ".tmp")
        staged.write_text(HEAD + "".join(f"{path}\t{size}\t{sha}\n" for path, size, sha in rows), encoding="utf-8")
        staged.replace(self.path)
        self.begun.unlink(missing_ok=True)


def read_manifest(path: Path) -> dict[str, tuple[int, str]]:
    """Path -> bytes, sha256.

    Raises:
        OvsegError: not a manifest.
    """
    if not path.is_file():
        raise OvsegError(
            f"the manifest {path} is missing; run `ovseg data get`, or `ovseg data link` if the data is there"
        )
    return _rows(path)


def changed(home: Path, rows: dict[str, tuple[int, str]], *, full: bool = False) -> list[str]:
    """Files that are missing or of another size; with `full`, or of another content."""
    return [
        path
        for path, (size, sha) in rows.items()
        if _size(home / path) != size or (full and hashing.sha256_file(home / path) != sha)
    ]


def _rows(path: Path, whole: bool = True) -> dict[str, tuple[int, str]]:
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").split("\n")
    found = {}
    for number, line in enumerate(lines[:-1], start=1):  # without its end a line is cut off
        cells = line.split("\t")
        if line + "\n" == HEAD:
            continue
        if len(cells) != 3 or not cells[1].isdigit() or len(cells[2]) != 64:
            if whole:
                raise OvsegError(f"{path}, line {number} is not of a manifest; remove the file and run it again")
            continue
        found[cells[0]] = (int(cells[1]), cells[2])
    return found


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
