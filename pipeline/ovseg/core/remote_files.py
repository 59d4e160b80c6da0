"""Files in object storage, see `core.paths`: read, copied here, listed, and published. Paths of this machine do as well.

The client of a storage tries a request again by itself (s3fs and botocore several times, with pauses); what still fails is
tried again here. Its errors are given as those of the file system.
"""

from __future__ import annotations

import contextlib
import errno
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from ovseg.core.errors import OvsegError, describe_os_error, is_of_storage
from ovseg.core.paths import is_remote
from ovseg.core.retries import try_again

UNFINISHED = "unfinished"  # name of the file that says that a folder is being published, or that this was cut off
BLOCK = 1 << 23  # bytes of a stream that are read at a time
TAGS = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "updated", "created")  # of fsspec's file systems


def read_file(path: Path) -> bytes:
    """Read a whole file; in object storage, again after errors that may pass.

    Raises:
        OSError: it cannot be read.
    """
    return try_again(lambda: read_range(path)) if is_remote(path) else path.read_bytes()


def read_range(path: Path, offset: int = 0, size: int = -1) -> bytes:
    """Read a part of a file, by one request in object storage.

    Args:
        path: the file.
        offset: position of the first byte.
        size: number of bytes, or fewer at the end of the file; -1 for all that follow.

    Raises:
        OSError: it cannot be read; it is not tried again.
    """
    if not is_remote(path):
        with path.open("rb") as stream:
            stream.seek(offset)
            return stream.read(size)
    end = None if size < 0 else offset + size
    with storage_errors():
        try:
            return cast("bytes", _files(path).cat_file(_key(path), start=offset or None, end=end))
        except OSError as error:
            if offset and error.errno == errno.EINVAL:  # the file ends before its offset
                return b""
            raise


def open_stream(path: Path) -> BinaryIO:
    """Open a file for reading from its beginning to its end; in object storage the next block is read ahead.

    Raises:
        OSError: it cannot be read.
    """
    if not is_remote(path):
        return path.open("rb")
    with storage_errors():
        return cast("BinaryIO", _files(path).open(_key(path), "rb", block_size=BLOCK, cache_type="background"))


@contextlib.contextmanager
def storage_errors() -> Iterator[None]:
    """Turn errors of a storage's client that are none of the file system into `OSError`.

    Raises:
        OvsegError: there are no credentials, so that no other file could be read, either.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if not is_of_storage(error):
            raise
        if "Credentials" in type(error).__name__:
            raise OvsegError(describe_os_error(error) or str(error)) from None
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}") from error


@contextlib.contextmanager
def local_copy(path: Path, folder: Path | None = None) -> Iterator[Path]:
    """Give a file in object storage as a copy on this machine, which is deleted at the end.

    Args:
        path: the file; one of this machine, a folder, and what does not exist are given as they are.
        folder: where the copy is made, in a folder of its own; it is made if it does not exist. None for the folder of
            temporary files.

    Raises:
        OvsegError: the file cannot be read, also after several tries.
    """
    if not is_remote(path) or not is_file(path):
        yield path
        return
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, suffix=".tmp") as own:
        copy = Path(own) / path.name
        try:
            try_again(lambda: _download(path, copy))
        except OSError as error:
            raise OvsegError(f"{path} cannot be read: {error}") from None
        try:
            yield copy
        except OvsegError as error:  # the user knows the file by its URL
            raise OvsegError(str(error).replace(str(copy), str(path))) from None


def is_file(path: Path) -> bool:
    """Whether there is such a file.

    Raises:
        OSError: object storage does not answer, where `Path.is_file` would say no.
    """
    return _kind(path) == "file" if is_remote(path) else path.is_file()


def is_folder(path: Path) -> bool:
    """Whether there is such a folder; in object storage, a file below it. See `is_file`."""
    return _kind(path) == "directory" if is_remote(path) else path.is_dir()


def list_files(folder: Path) -> list[Path]:
    """List the files of a folder, without those of its subfolders, sorted.

    Raises:
        OSError: the folder does not exist or cannot be read.
    """
    if not is_remote(folder):
        return sorted(path for path in folder.iterdir() if path.is_file())
    return [folder / name for name in sorted(_entries(folder, maxdepth=1))]


def file_sizes(folder: Path) -> dict[str, int]:
    """Return the size of each file below a folder in object storage, by its path there with slashes.

    Raises:
        OSError: it cannot be read. A folder that does not exist has no files.
    """
    return {name: int(entry["size"]) for name, entry in _entries(folder).items()}


def file_states(files: Sequence[Path]) -> list[tuple[str, int, int | str]]:
    """Return name and size of files of one folder, and what changes when they do: time of their change, or tag of their bytes.

    Raises:
        OSError: one of them does not exist.
    """
    if not files or not is_remote(files[0]):
        return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    entries = _entries(files[0].parent, maxdepth=1)
    tags = {name: next((str(entry[key]) for key in TAGS if entry.get(key)), "") for name, entry in entries.items()}
    return [(file.name, int(entries[file.name]["size"]), tags[file.name]) for file in files]


def make_folder(path: Path) -> None:
    """Make a folder and those above it, unless it exists. Object storage has none, and no bucket is made."""
    if not is_remote(path):
        path.mkdir(parents=True, exist_ok=True)


def is_unfinished(folder: Path) -> bool:
    """Whether `publish_folder` is writing a folder, or was cut off."""
    return is_remote(folder) and is_file(folder / UNFINISHED)


def publish_folder(staged: Path, out: Path, last: str) -> None:
    """Put a finished folder of this machine into object storage, in place of what `out` holds.

    There is nothing like renaming a folder there: the file `last` is removed first and written last, so that a reader that
    does not see it knows that the folder is not finished.

    Args:
        staged: the folder.
        out: the folder in object storage.
        last: name of the file that is written last.

    Raises:
        OSError: a file cannot be written, also after several tries.
    """
    with storage_errors():
        (out / UNFINISHED).write_bytes(b"")
        (out / last).unlink(missing_ok=True)
        files, root = _files(out), _key(out)
        if old := set(file_sizes(out)) - {UNFINISHED}:
            files.rm([f"{root}/{name}" for name in sorted(old)])
    wanted = {p.relative_to(staged).as_posix(): p.stat().st_size for p in staged.rglob("*") if p.is_file()}
    del wanted[last]
    try_again(lambda: _upload(staged, out, wanted))
    with storage_errors():
        (out / last).write_bytes((staged / last).read_bytes())
        (out / UNFINISHED).unlink()


def _upload(staged: Path, out: Path, wanted: dict[str, int]) -> None:
    """Write the files that are not there with their size."""
    with storage_errors():
        there = file_sizes(out)
        missing = sorted(name for name, size in wanted.items() if there.get(name) != size)
        if missing:
            _files(out).put([str(staged / name) for name in missing], [f"{_key(out)}/{name}" for name in missing])
            there = file_sizes(out)
    if lost := [name for name in missing if there.get(name) != wanted[name]]:
        raise OSError(errno.EIO, f"{out / lost[0]} is not there after it was written")


def _download(path: Path, copy: Path) -> None:
    with storage_errors():
        _files(path).get_file(_key(path), str(copy))
        size = path.stat().st_size
    if copy.stat().st_size != size:
        raise OSError(errno.EIO, f"{path} ends after {copy.stat().st_size:,} of {size:,} bytes")


def _kind(path: Path) -> str | None:
    with storage_errors():
        try:
            return str(_files(path).info(_key(path))["type"])
        except FileNotFoundError:
            return None


def _entries(folder: Path, maxdepth: int | None = None) -> dict[str, dict[str, Any]]:
    """What a storage says of each file below a folder, by its path there; `maxdepth` 1 leaves out those of subfolders."""
    with storage_errors():
        found = _files(folder).find(_key(folder), maxdepth=maxdepth, detail=True)
    root = _key(folder).rstrip("/") + "/"
    return {str(name).removeprefix(root): entry for name, entry in found.items() if str(name) != root}


def _files(path: Path) -> Any:
    """The file system of fsspec of a path in object storage."""
    return path.fs  # type: ignore[attr-defined]


def _key(path: Path) -> str:
    """The path without its protocol, as fsspec takes it."""
    return str(path.path)  # type: ignore[attr-defined]
