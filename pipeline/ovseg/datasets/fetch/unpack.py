"""Unpacking what strangers packed: nothing leaves the folder, nothing is a link, nothing grows beyond what it says.

A file is there as a whole or not at all, and noted in the manifest once it is, so a killed run goes on behind it.
"""

from __future__ import annotations

import hashlib
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ovseg.core.errors import BadItem, OvsegError, explain_full_disk
from ovseg.core.images import safe_path
from ovseg.datasets.fetch.manifest import Manifest
from ovseg.engine.progress import Progress

CHUNK = 1 << 20
LITTER = ("__MACOSX", ".DS_Store")
GROWS = 4  # times what is published: beyond that an archive is a bomb
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, NotImplementedError, RuntimeError)


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    of: Any  # zipfile's or tarfile's own


def unpack(archive: Path, home: Path, into: str, manifest: Manifest, most: int) -> None:
    """Unpack a zip or a tar, compressed or not. Everything in it is looked at before anything is written.

    Args:
        archive: the file.
        home: folder of the data set, that the manifest's paths are relative to.
        into: folder below `home` to unpack in.
        manifest: gets a row for each file; files that it has already are left alone.
        most: bytes that are published; four times as many are refused.

    Raises:
        OvsegError: a damaged archive, a name that leaves the folder, a link, too many bytes, no space left.
    """
    with _whole(archive), _open(archive) as opened:
        members = list(_members(opened, archive))
        if (total := sum(one.size for one in members)) > GROWS * most:
            raise OvsegError(f"{archive} would unpack to {total:,} bytes, about {most:,} are published: it is refused")
        _room(home, sum(one.size for one in members if not manifest.has(f"{into}/{one.name}", one.size)))
        with explain_full_disk(home), Progress(f"unpack {archive.name}", len(members), "files") as progress:
            for one in members:
                path = one.name if into == "." else f"{into}/{one.name}"
                known = manifest.has(path, one.size)
                if not known:
                    target = safe_path(home, path)
                    _no_link(home, target)
                    with _reader(opened, one) as source:
                        sha = _write(source, target, one.size, archive)
                    manifest.add(path, one.size, sha)
                progress.add({"files": 1}, reused=known)
            manifest.flush()


@contextmanager
def _whole(archive: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGED as error:
        raise OvsegError(
            f"{archive} is damaged ({error or type(error).__name__}). What was unpacked is kept: remove {archive} and run it "
            "again to download it anew"
        ) from None


def _open(archive: Path) -> zipfile.ZipFile | tarfile.TarFile:
    if zipfile.is_zipfile(archive):
        return zipfile.ZipFile(archive)
    if tarfile.is_tarfile(archive):
        return tarfile.open(archive)
    raise zipfile.BadZipFile("it is neither a zip nor a tar, or its end is missing")


def _members(opened: zipfile.ZipFile | tarfile.TarFile, archive: Path) -> Iterator[_Member]:
    every: list[Any] = opened.infolist() if isinstance(opened, zipfile.ZipFile) else opened.getmembers()
    for one in every:
        name, size, regular, folder = _seen(one)
        if any(part in LITTER for part in Path(name).parts):
            continue
        try:
            safe_path(Path(), name)
        except BadItem:
            raise OvsegError(
                f"{archive} holds {name!r}, which would leave the folder: the archive is refused"
            ) from None
        if not regular and not folder:
            raise OvsegError(f"{archive} holds {name!r}, a link or a device: the archive is refused")
        if not folder:
            yield _Member(str(Path(name)), size, one)


def _seen(one: Any) -> tuple[str, int, bool, bool]:
    """Name, size, is it a plain file, is it a folder."""
    if isinstance(one, tarfile.TarInfo):
        return one.name, one.size, one.isreg(), one.isdir()
    kind = stat.S_IFMT(one.external_attr >> 16)
    return one.filename, one.file_size, kind in (0, stat.S_IFREG), one.is_dir()


def _reader(opened: zipfile.ZipFile | tarfile.TarFile, one: _Member) -> IO[bytes]:
    if isinstance(opened, zipfile.ZipFile):
        return opened.open(one.of)
    found = opened.extractfile(one.of)
    if found is None:
        raise tarfile.ReadError(f"{one.name} cannot be read")
    return found


def _write(source: IO[bytes], target: Path, size: int, archive: Path) -> str:
    target.parent.mkdir(parents=True, exist_ok=True)
    begun, digest, written = target.with_name(target.name + ".part"), hashlib.sha256(), 0
    with begun.open("wb") as stream:
        while piece := source.read(CHUNK):
            written += len(piece)
            if written > size:
                raise OvsegError(f"{archive}: {target.name} is larger than the {size:,} bytes it says: it is refused")
            digest.update(piece)
            stream.write(piece)
    if written < size:
        raise EOFError(f"{target.name} ends after {written:,} of {size:,} bytes")
    begun.replace(target)
    return digest.hexdigest()


def _no_link(home: Path, target: Path) -> None:
    """Never write through a link into somebody's own data."""
    for folder in target.relative_to(home).parents:
        if (home / folder).is_symlink():
            raise OvsegError(f"{home / folder} is a link to {(home / folder).resolve()}: nothing is unpacked into it")


def _room(home: Path, need: int) -> None:
    home.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(home).free
    if free < need:
        raise OvsegError(
            f"{home} has {free:,} bytes free, {need:,} are needed to unpack. Free some space and run it again"
        )
