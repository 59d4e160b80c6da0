"""Get the published files of a part into its folder of archives, and check them."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

from ovseg.core.errors import OvsegError, explain_write_errors
from ovseg.datasets.fetch.releases import File, Part
from ovseg.engine.download import OFFLINE, download, lock_path, offline
from ovseg.engine.progress import Progress

ARCHIVES = "archives"
CHUNK = 1 << 20
REMEDY = (
    "set OVSEG_MIRROR=https://... to take it from another server, or download it by hand and run "
    "`ovseg data get --archive FILE`"
)


def archive_path(file: File, home: Path) -> Path:
    """The place of a published file in the folder `home` of its data set."""
    return home / ARCHIVES / file.name


def get_file(part: Part, file: File, home: Path, mirror: str | None) -> None:
    """Download a published file of a part.

    Args:
        part: part that the file belongs to.
        file: file to download.
        home: folder of the data set.
        mirror: address of a folder with the same files, or None for the published address.

    Raises:
        OvsegError: as `download`; or if `OVSEG_OFFLINE=1`, or the file is only given to registered users.
    """
    path = archive_path(file, home)
    url = f"{mirror.rstrip('/')}/{file.name}" if mirror else file.url
    size = f"{format_gb(file.bytes or file.about)} GB" if file.bytes or file.about else "size unknown"
    if offline():
        raise OvsegError(
            f"{path} is missing, and {OFFLINE}=1 forbids downloads. It comes from {url} ({size}): put it there, or unset "
            f"{OFFLINE}"
        )
    if file.login and not mirror:
        raise OvsegError(
            f"{file.name} ({size}) is only given to registered users: {file.login}. Then run `ovseg data get {part.dataset} "
            f"{part.name} --archive /path/to/{file.name}`"
        )
    download(url, path, remedy=REMEDY, size=file.bytes)


def file_for_archive(part: Part, archive: Path) -> File:
    """The published file that an archive of the user's stands for: the one of that name, or the part's only archive.

    Raises:
        OvsegError: if it can be none of them, or several.
    """
    candidates = [file for file in part.files if file.name == archive.name]
    candidates = candidates or [file for file in part.files if not file.plain]
    if len(candidates) != 1:
        names = ", ".join(file.name for file in part.files)
        raise OvsegError(f"{archive} is none of the files of {part.dataset} {part.name}: {names}")
    return candidates[0]


def take_archive(archive: Path, path: Path) -> None:
    """Hard-link an archive of the user's to `path`, or copy it where the file system cannot link."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with explain_write_errors(path.parent):
        try:
            path.hardlink_to(archive.resolve())
        except OSError:
            staged = path.with_name(path.name + ".copy")
            shutil.copyfile(archive, staged)
            staged.replace(path)


def check_file(file: File, path: Path) -> dict[str, Any]:
    """Compare a downloaded file with its published size and checksum.

    Returns:
        its "sha256", and its "published" checksum or None.

    Raises:
        OvsegError: if they differ; the file is then renamed to *.wrong.
    """
    size = path.stat().st_size
    if file.bytes is not None and size != file.bytes:
        _reject(file, path, f"{size:,} bytes", f"{file.bytes:,}")
    algorithm, _, published = (file.digest or "sha256:").partition(":")
    digest, sha256 = hashlib.new(algorithm, usedforsecurity=False), hashlib.sha256()
    with path.open("rb") as stream, Progress(f"check {path.name}", -(-size // CHUNK), "MB") as progress:
        while piece := stream.read(CHUNK):
            digest.update(piece)
            sha256.update(piece)
            progress.add({"MB": 1})
    if published and digest.hexdigest() != published:
        _reject(file, path, f"{algorithm} {digest.hexdigest()}", published)
    return {"sha256": sha256.hexdigest(), "published": file.digest}


def remove_archive(file: File, home: Path) -> None:
    """Remove a downloaded file, and what a download that was killed at its very end left beside it."""
    path = archive_path(file, home)
    for leftover in (path, path.with_name(f"{path.name}.part.json"), lock_path(path)):
        leftover.unlink(missing_ok=True)


def format_gb(number: int) -> str:
    """Bytes as a number of GB."""
    return f"{number / 1e9:,.1f}" if number >= 5e7 else f"{number / 1e9:.2g}"


def _reject(file: File, path: Path, actual: str, published: str) -> None:
    wrong = path.with_name(path.name + ".wrong")
    path.replace(wrong)
    raise OvsegError(
        f"{path} has {actual}, but {published} is published: it is damaged or another file. It was renamed to {wrong}, which "
        f"you may remove. Run the same command again to download it anew; if {file.url} gives the same file again, {REMEDY}"
    )
