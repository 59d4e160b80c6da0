"""Unpack archives from the internet safely: nothing leaves the folder, nothing is a link, nothing grows beyond its stated size.

A file appears in one step and is then recorded in the manifest, so a killed run continues after the last recorded file.
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

from ovseg.core.errors import BadItem, OvsegError, explain_write_errors
from ovseg.core.images import safe_path
from ovseg.datasets.fetch.manifest import Manifest
from ovseg.engine.progress import Progress

CHUNK = 1 << 20
SKIPPED_NAMES = ("__MACOSX", ".DS_Store")
MAX_GROWTH = 4  # times the published size; an archive that unpacks to more is a bomb
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, NotImplementedError, RuntimeError)

Archive = zipfile.ZipFile | tarfile.TarFile


@dataclass(frozen=True)
class _Member:
    """A file in an archive, with the `info` object of zipfile or tarfile."""

    name: str
    size: int
    info: Any


def unpack(archive: Path, home: Path, into: str, manifest: Manifest, published_bytes: int) -> None:
    """Unpack a zip, or a tar with any compression. All of its names and sizes are checked before anything is written.

    Args:
        archive: file to unpack.
        home: folder of the data set, which the manifest's paths are relative to.
        into: folder below `home` to unpack into.
        manifest: manifest that gets a row for each file; files that it has already are left alone.
        published_bytes: published size of the unpacked files; an archive of more than four times as many is refused.

    Raises:
        OvsegError: if the archive is damaged, holds a link or a name that leaves the folder, or is too large; or if no space
            is left.
    """
    with _explain_damage(archive), _open(archive) as opened:
        members = list(_members(opened, archive))
        if (total := sum(member.size for member in members)) > MAX_GROWTH * published_bytes:
            raise OvsegError(
                f"{archive} would unpack to {total:,} bytes, but about {published_bytes:,} are published: it is refused"
            )
        _require_space(
            home, sum(member.size for member in members if not manifest.has(f"{into}/{member.name}", member.size))
        )
        with explain_write_errors(home), Progress(f"unpack {archive.name}", len(members), "files") as progress:
            for member in members:
                path = member.name if into == "." else f"{into}/{member.name}"
                recorded = manifest.has(path, member.size)
                if not recorded:
                    target = safe_path(home, path)
                    _refuse_links(home, target)
                    with _reader(opened, member) as source:
                        sha256 = _write(source, target, member.size, archive)
                    manifest.add(path, member.size, sha256)
                progress.add({"files": 1}, reused=recorded)
            manifest.flush()


@contextmanager
def _explain_damage(archive: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGED as error:
        raise OvsegError(
            f"{archive} is damaged ({error or type(error).__name__}). The files that were unpacked are kept: remove {archive} "
            "and run the same command again to download it anew"
        ) from None


def _open(archive: Path) -> Archive:
    if zipfile.is_zipfile(archive):
        return zipfile.ZipFile(archive)
    if tarfile.is_tarfile(archive):
        return tarfile.open(archive)
    raise zipfile.BadZipFile("it is neither a zip nor a tar, or its end is missing")


def _members(opened: Archive, archive: Path) -> Iterator[_Member]:
    infos: list[Any] = opened.infolist() if isinstance(opened, zipfile.ZipFile) else opened.getmembers()
    for info in infos:
        name, size, is_file, is_folder = _describe(info)
        if any(part in SKIPPED_NAMES for part in Path(name).parts):
            continue
        try:
            safe_path(Path(), name)
        except BadItem:
            raise OvsegError(
                f"{archive} holds {name!r}, which would leave the folder: the archive is refused"
            ) from None
        if not is_file and not is_folder:
            raise OvsegError(f"{archive} holds {name!r}, a link or a device: the archive is refused")
        if not is_folder:
            yield _Member(str(Path(name)), size, info)


def _describe(info: Any) -> tuple[str, int, bool, bool]:
    """Name, size, whether it is a plain file, whether it is a folder."""
    if isinstance(info, tarfile.TarInfo):
        return info.name, info.size, info.isreg(), info.isdir()
    kind = stat.S_IFMT(info.external_attr >> 16)
    return info.filename, info.file_size, kind in (0, stat.S_IFREG), info.is_dir()


def _reader(opened: Archive, member: _Member) -> IO[bytes]:
    if isinstance(opened, zipfile.ZipFile):
        return opened.open(member.info)
    stream = opened.extractfile(member.info)
    if stream is None:
        raise tarfile.ReadError(f"{member.name} cannot be read")
    return stream


def _write(source: IO[bytes], target: Path, size: int, archive: Path) -> str:
    """Write a file and return its sha256."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part, digest, written = target.with_name(target.name + ".part"), hashlib.sha256(), 0
    with part.open("wb") as stream:
        while piece := source.read(CHUNK):
            written += len(piece)
            if written > size:
                raise OvsegError(f"{archive}: {target.name} is larger than the {size:,} bytes it states: it is refused")
            digest.update(piece)
            stream.write(piece)
    if written < size:
        raise EOFError(f"{target.name} ends after {written:,} of {size:,} bytes")
    part.replace(target)
    return digest.hexdigest()


def _refuse_links(home: Path, target: Path) -> None:
    """Never write through a link into the user's own data."""
    for folder in target.relative_to(home).parents:
        if (home / folder).is_symlink():
            raise OvsegError(f"{home / folder} is a link to {(home / folder).resolve()}: nothing is unpacked into it")


def _require_space(home: Path, needed: int) -> None:
    home.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(home).free
    if free < needed:
        raise OvsegError(
            f"{home} has {free:,} bytes free, but {needed:,} are needed to unpack. Free some space and run the same command "
            "again"
        )
