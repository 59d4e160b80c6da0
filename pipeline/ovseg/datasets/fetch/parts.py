"""Download, verify or link one part of a data set. Files that are already there are used, and sound files are never touched."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ovseg.core import hashing
from ovseg.core.errors import OvsegError, explain_write_errors
from ovseg.core.files import write_json
from ovseg.core.images import safe_path
from ovseg.datasets.fetch.archives import (
    ARCHIVES,
    archive_path,
    check_file,
    file_for_archive,
    format_gb,
    get_file,
    remove_archive,
    take_archive,
)
from ovseg.datasets.fetch.manifest import Manifest, changed_files, read_manifest
from ovseg.datasets.fetch.releases import Holding, Part
from ovseg.datasets.fetch.unpack import unpack
from ovseg.engine.progress import Progress

RECEIPTS, MANIFESTS = "receipts", "manifests"
KEEP_ARCHIVES = "OVSEG_KEEP_ARCHIVES"


def fetch(part: Part, home: Path, mirror: str | None = None, archive: Path | None = None) -> None:
    """Download the files of a part into home/archives and write its receipt; files that are there are only checked.

    Args:
        part: part to download.
        home: folder of the data set.
        mirror: address of a folder that holds the files under their own names; None for the published addresses.
        archive: an archive of the part that the user has downloaded by hand.

    Raises:
        OvsegError: if a file cannot be downloaded or differs from the published checksum, the disk is too small, or the part
            is linked and files of it are missing.
    """
    receipt = receipt_path(part, home)
    receipt.parent.mkdir(parents=True, exist_ok=True)
    if is_whole(part, home):
        if not receipt.is_file():
            write_json(receipt, {"files": []})
        return
    if is_linked(part, home):
        raise OvsegError(
            f"{part.dataset} {part.name} is linked in {home}, and files of it are missing or changed: `ovseg data verify "
            f"{part.dataset} {part.name}` names them. Link it again, or remove the links and {receipt} to download it"
        )
    _require_space(part, home)
    files, given = [], archive and file_for_archive(part, archive)
    for file in part.files:
        path = archive_path(file, home)
        if archive is not None and file is given and not path.exists():
            take_archive(archive, path)
        if not path.is_file():
            get_file(part, file, home, mirror)
        digests = check_file(file, path)
        files.append({"name": file.name, "url": file.url, "bytes": path.stat().st_size, **digests})
    write_json(receipt, {"files": files})


def verify(part: Part, home: Path, *, keep_archives: bool = False) -> dict[str, int]:
    """Unpack what was downloaded, check that it is the published part, write its manifest, and remove its archives.

    Args:
        part: part that was downloaded.
        home: folder of the data set.
        keep_archives: whether the archives are kept.

    Returns:
        the number of "files" and of "bytes".

    Raises:
        OvsegError: as `unpack`; or if files are missing, too many, or from another release.
    """
    path = manifest_path(part, home)
    if not is_whole(part, home):
        if not is_linked(part, home):
            with Manifest(path, home) as manifest:
                _unpack(part, home, manifest)
        _write_manifest(part, home, path)
    if not keep_archives:
        for file in part.files:
            remove_archive(file, home)
    rows = read_manifest(path)
    return {"files": len(rows), "bytes": sum(size for size, _ in rows.values())}


def link(part: Part, home: Path, source: Path) -> dict[str, int]:
    """Use a copy of a part that is elsewhere: check it, link it into `home`, and write receipt and manifest.

    Args:
        part: part to link.
        home: folder of the data set.
        source: folder that holds the part's paths (train2017/, annotations/...).

    Returns:
        as `verify`.

    Raises:
        OvsegError: as `verify`; or if other data is in the place of a link.
    """
    check(part, source)
    for holding in part.holds:
        target, origin = home / holding.path, (source / holding.path).resolve()
        if target.is_symlink():
            target.unlink()
        if target.exists() and target.resolve() != origin:
            raise OvsegError(f"{target} exists and is not a link to {origin}; move it away to link that one")
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(origin, target_is_directory=origin.is_dir())
    (home / RECEIPTS).mkdir(parents=True, exist_ok=True)
    write_json(receipt_path(part, home), {"linked": str(source.resolve())})
    for suffix in ("", ".part"):  # rows of an earlier manifest describe other files
        (home / MANIFESTS / f"{part.name}.tsv{suffix}").unlink(missing_ok=True)
    return verify(part, home)


def holds_any(part: Part, folder: Path) -> bool:
    """Whether a folder has any path of a part."""
    return any((folder / holding.path).exists() for holding in part.holds)


def is_whole(part: Part, home: Path) -> bool:
    """Whether a part was verified and all of its files are there with their sizes."""
    path = manifest_path(part, home)
    return path.is_file() and not changed_files(home, read_manifest(path))


def is_linked(part: Part, home: Path) -> bool:
    """Whether a part is linked from elsewhere, see `link`."""
    try:
        return "linked" in json.loads(receipt_path(part, home).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def downloaded_bytes(part: Part, home: Path) -> int:
    """Bytes of a part's files that are in home/archives, finished or not."""
    paths = [home / ARCHIVES / f"{file.name}{suffix}" for file in part.files for suffix in ("", ".part")]
    return sum(path.stat().st_size for path in paths if path.is_file())


def receipt_path(part: Part, home: Path) -> Path:
    """The receipt of a part in the folder `home` of its data set."""
    return home / RECEIPTS / f"{part.name}.json"


def manifest_path(part: Part, home: Path) -> Path:
    """The manifest of a part in the folder `home` of its data set."""
    return home / MANIFESTS / f"{part.name}.tsv"


def check(part: Part, home: Path) -> list[str]:
    """Check that the files of a part are there, by name and number.

    Returns:
        their paths relative to `home`.

    Raises:
        OvsegError: if files are missing, too many, or from another release. Nothing is removed.
    """
    return [path for holding in part.holds for path in _check_holding(part, holding, home)]


def _check_holding(part: Part, holding: Holding, home: Path) -> list[str]:
    target = home / holding.path
    remedy = f"`ovseg data get {part.dataset} {part.name}` downloads and unpacks what is missing"
    if not target.exists():
        raise OvsegError(f"{target} is missing, so {part.dataset} {part.name} is not complete. {remedy}")
    if holding.names is None:
        return [holding.path]
    paths = sorted(path for path in _walk(target) if not path.endswith(".part"))
    matching = [path for path in paths if re.fullmatch(holding.names, Path(path).name)]
    if len(matching) != holding.files:
        names = [Path(path).name for path in paths]
        counts = (
            f"{target} has {len(matching):,} files of {part.dataset} {part.name}, but {holding.files:,} are published"
        )
        releases = (of for name in names for pattern, of in part.others.items() if re.fullmatch(pattern, name))
        if release := next(releases, None):
            raise OvsegError(f"{counts}: it holds {release}. {remedy}")
        unexpected = ", ".join([Path(path).name for path in paths if path not in set(matching)][:3])
        raise OvsegError(f"{counts}{f' (other files: {unexpected})' if unexpected else ''}. {remedy}")
    return [f"{holding.path}/{path}" for path in matching]


def _walk(folder: Path) -> Iterator[str]:
    for parent, _, names in os.walk(folder):
        relative = Path(parent).relative_to(folder)
        yield from ((relative / name).as_posix() for name in names)


def _write_manifest(part: Part, home: Path, path: Path) -> None:
    paths = check(part, home)
    with (
        explain_write_errors(home),
        Manifest(path, home) as manifest,
        Progress(f"verify {part.name}", len(paths), "files") as progress,
    ):
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            digests = pool.map(lambda file: _sha256_if_unknown(manifest, file), paths)
            for file, sha256 in zip(paths, digests, strict=True):
                if sha256:
                    manifest.add(file, (home / file).stat().st_size, sha256)
                progress.add({"files": 1}, reused=sha256 is None)
        manifest.flush()
        manifest.finish(paths)


def _sha256_if_unknown(manifest: Manifest, path: str) -> str | None:
    file = manifest.home / path
    return None if manifest.has(path, file.stat().st_size) else hashing.sha256_file(file)


def _unpack(part: Part, home: Path, manifest: Manifest) -> None:
    for file in part.files:
        archive = archive_path(file, home)
        if not archive.is_file():
            raise OvsegError(f"{archive} is missing; run `ovseg data get {part.dataset} {part.name}`")
        if file.plain:
            target = safe_path(home, f"{part.into}/{file.name}")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(archive, target)
        else:
            unpack(archive, home, part.into, manifest, part.unpacked)
    for inner, folder in part.inner.items():
        if (home / inner).is_file():
            unpack(home / inner, home, folder, manifest, part.unpacked)
    for inner in part.inner:
        (home / inner).unlink(missing_ok=True)


def _require_space(part: Part, home: Path) -> None:
    """Refuse a disk that is too small before hours of downloading, not after them."""
    (home / ARCHIVES).mkdir(parents=True, exist_ok=True)
    unpacked = Manifest(manifest_path(part, home), home).present_bytes()
    needed = part.download - downloaded_bytes(part, home) + max(0, part.unpacked - unpacked)
    free = shutil.disk_usage(home).free
    if free < needed:
        raise OvsegError(
            f"{part.dataset} {part.name} needs {format_gb(needed)} GB in {home}, but {format_gb(free)} GB are free. Free some "
            f"space, or make {home} a link to a larger disk, and run the same command again"
        )
