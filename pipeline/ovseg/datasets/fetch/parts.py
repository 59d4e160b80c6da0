"""A part of a data set: downloaded, verified, or linked. What is there already is used, what is good is left in place."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ovseg.core import hashing
from ovseg.core.errors import OvsegError, explain_full_disk
from ovseg.core.files import write_json
from ovseg.core.images import safe_path
from ovseg.core.weights import offline
from ovseg.datasets.fetch.http import download
from ovseg.datasets.fetch.manifest import Manifest, changed, read_manifest
from ovseg.datasets.fetch.releases import File, Holding, Part
from ovseg.datasets.fetch.unpack import unpack
from ovseg.engine.progress import Progress

ARCHIVES, RECEIPTS, MANIFESTS = "archives", "receipts", "manifests"
CHUNK = 1 << 20


def fetch(part: Part, home: Path, mirror: str | None = None, archive: Path | None = None) -> None:
    """Bring the files of a part into home/archives and write its receipt. Files that are there already are checked only.

    Args:
        part: what to download.
        home: folder of the data set.
        mirror: address of a folder that holds the files under their own names, instead of the published ones.
        archive: its archive, fetched by hand; of several the one of that name.

    Raises:
        OvsegError: as `http.download`; another checksum; offline; not enough space; a file that takes a login.
    """
    receipt = home / RECEIPTS / f"{part.name}.json"
    receipt.parent.mkdir(parents=True, exist_ok=True)
    if is_whole(part, home):
        if not receipt.is_file():
            write_json(receipt, {"files": []})
        return
    if is_linked(part, home):
        raise OvsegError(
            f"{part.dataset} {part.name} is linked below {home}, and files of it are missing or changed there: see `ovseg data "
            f"verify {part.dataset} {part.name}`, then link it again; or remove the links and {receipt} to download it"
        )
    _needs_room(part, home)
    files, given = [], archive and _which(part, archive)
    for file in part.files:
        path = home / ARCHIVES / file.name
        if archive is not None and file is given and not path.exists():
            _take(archive, path)
        if not path.is_file():
            _get(part, file, path, mirror)
        digests = _check(file, path)
        files.append({"name": file.name, "url": file.url, "bytes": path.stat().st_size, **digests})
    write_json(receipt, {"files": files})


def verify(part: Part, home: Path, *, keep_archives: bool = False) -> dict[str, int]:
    """Unpack what was downloaded, check that it is what is published, and write the manifest. Then archives are removed.

    Args:
        part: what was downloaded.
        home: folder of the data set.
        keep_archives: leave them there.

    Returns:
        how many `files` and `bytes`.

    Raises:
        OvsegError: as `unpack`; files are missing, too many, or of another release.
    """
    path = home / MANIFESTS / f"{part.name}.tsv"
    if not is_whole(part, home):
        if not is_linked(part, home):
            with Manifest(path, home) as manifest:
                _unpack(part, home, manifest)
        _write_manifest(part, home, path)
    if not keep_archives:
        for file in part.files:
            (home / ARCHIVES / file.name).unlink(missing_ok=True)
            (home / ARCHIVES / f"{file.name}.part.json").unlink(missing_ok=True)  # of a download killed at its very end
    rows = read_manifest(path)
    return {"files": len(rows), "bytes": sum(size for size, _ in rows.values())}


def link(part: Part, home: Path, there: Path) -> dict[str, int]:
    """Use a part that lies elsewhere: check it, link it below `home`, and write receipt and manifest.

    Args:
        part: which.
        home: folder of the data set.
        there: folder that has the part's paths (train2017/, annotations/...).

    Returns:
        as `verify`.

    Raises:
        OvsegError: as `verify`; something else is in the way.
    """
    check(part, there)
    for holding in part.holds:
        target, source = home / holding.path, (there / holding.path).resolve()
        if target.is_symlink():
            target.unlink()
        if target.exists() and target.resolve() != source:
            raise OvsegError(f"{target} is there already and is no link to {source}; move it away to link that one")
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source, target_is_directory=source.is_dir())
    (home / RECEIPTS).mkdir(parents=True, exist_ok=True)
    write_json(home / RECEIPTS / f"{part.name}.json", {"linked": str(there.resolve())})
    for end in ("", ".part"):  # what was noted is of other files
        (home / MANIFESTS / f"{part.name}.tsv{end}").unlink(missing_ok=True)
    return verify(part, home)


def holds_any(part: Part, there: Path) -> bool:
    """Whether a folder has anything of a part."""
    return any((there / holding.path).exists() for holding in part.holds)


def is_whole(part: Part, home: Path, *, full: bool = False) -> bool:
    """Whether a part was verified, and all of its files are still there with their sizes; with `full`, unchanged."""
    path = home / MANIFESTS / f"{part.name}.tsv"
    return path.is_file() and not changed(home, read_manifest(path), full=full)


def check(part: Part, home: Path) -> list[str]:
    """The files that a part must have, by name and number.

    Returns:
        their paths below `home`.

    Raises:
        OvsegError: some are missing, or of another release; nothing is removed.
    """
    return [path for holding in part.holds for path in _check_holding(part, holding, home)]


def _check_holding(part: Part, holding: Holding, home: Path) -> list[str]:
    target = home / holding.path
    if not target.exists():
        raise OvsegError(f"{target} is missing: {part.dataset} {part.name} is not all there. {_remedy(part)}")
    if holding.names is None:
        return [holding.path]
    every = sorted(path for path in _walk(target) if not path.endswith(".part"))
    good = [path for path in every if re.fullmatch(holding.names, Path(path).name)]
    if len(good) != holding.files:
        names = [Path(path).name for path in every]
        other = next((of for name in names for one, of in part.others.items() if re.fullmatch(one, name)), None)
        said = f"{target} holds {len(good):,} files of {part.dataset} {part.name}, {holding.files:,} are published"
        if other:
            raise OvsegError(f"{said}: it holds {other}. {_remedy(part)}")
        strange = ", ".join([Path(path).name for path in every if path not in set(good)][:3])
        raise OvsegError(f"{said}{f' (others there: {strange})' if strange else ''}. {_remedy(part)}")
    return [f"{holding.path}/{path}" for path in good]


def _remedy(part: Part) -> str:
    return f"`ovseg data get {part.dataset} {part.name}` downloads and unpacks what is missing into the project's own folder"


def _walk(folder: Path) -> Iterator[str]:
    for at, _, names in os.walk(folder):
        below = Path(at).relative_to(folder)
        yield from ((below / name).as_posix() for name in names)


def _write_manifest(part: Part, home: Path, path: Path) -> None:
    paths = check(part, home)
    with (
        explain_full_disk(home),
        Manifest(path, home) as manifest,
        Progress(f"verify {part.name}", len(paths), "files") as progress,
    ):
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for one, sha in zip(paths, pool.map(lambda one: _sha(manifest, one), paths), strict=True):
                if sha:
                    manifest.add(one, (home / one).stat().st_size, sha)
                progress.add({"files": 1}, reused=sha is None)
        manifest.flush()
        manifest.finish(paths)


def _sha(manifest: Manifest, path: str) -> str | None:
    """None if it is known."""
    file = manifest.home / path
    return None if manifest.has(path, file.stat().st_size) else hashing.sha256_file(file)


def _unpack(part: Part, home: Path, manifest: Manifest) -> None:
    for file in part.files:
        source = home / ARCHIVES / file.name
        if not source.is_file():
            raise OvsegError(f"{source} is missing. {_remedy(part)}")
        if file.plain:
            target = safe_path(home, f"{part.into}/{file.name}")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        else:
            unpack(source, home, part.into, manifest, part.unpacked)
    for inner, into in part.inner.items():
        if (home / inner).is_file():
            unpack(home / inner, home, into, manifest, part.unpacked)
    for inner in part.inner:
        (home / inner).unlink(missing_ok=True)


def _get(part: Part, file: File, path: Path, mirror: str | None) -> None:
    url = f"{mirror.rstrip('/')}/{file.name}" if mirror else file.url
    size = f"{_gb(file.bytes)} GB" if file.bytes else f"about {_gb(file.about)} GB" if file.about else "size not known"
    if offline():
        raise OvsegError(
            f"OVSEG_OFFLINE is set and {path} is missing: {size} from {url}. Put it there, or unset OVSEG_OFFLINE"
        )
    if file.login and not mirror:
        raise OvsegError(
            f"{file.name} ({size}) is given out by name only: {file.login}. Then: "
            f"ovseg data get {part.dataset} {part.name} --archive /path/to/{file.name}"
        )
    download(url, path, size=file.bytes)


def _which(part: Part, archive: Path) -> File:
    """The file that was fetched by hand: the one of that name, or the only archive, whatever it is called now."""
    named = [file for file in part.files if file.name == archive.name] or [
        file for file in part.files if not file.plain
    ]
    if len(named) != 1:
        raise OvsegError(
            f"{archive} is none of the files of {part.dataset} {part.name}: {', '.join(f.name for f in part.files)}"
        )
    return named[0]


def _take(archive: Path, path: Path) -> None:
    """A link where the file system allows it, else a copy."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with explain_full_disk(path.parent):
        try:
            path.hardlink_to(archive.resolve())
        except OSError:
            staged = path.with_name(path.name + ".copy")
            shutil.copyfile(archive, staged)
            staged.replace(path)


def _check(file: File, path: Path) -> dict[str, Any]:
    """sha256 of a file, after comparing it with what is published."""
    size = path.stat().st_size
    if file.bytes is not None and size != file.bytes:
        _reject(file, path, f"{size:,} bytes", f"{file.bytes:,}")
    kind, _, wanted = (file.digest or "sha256:").partition(":")
    published, sha = hashlib.new(kind, usedforsecurity=False), hashlib.sha256()
    with path.open("rb") as stream, Progress(f"check {path.name}", -(-size // CHUNK), "MB") as progress:
        while piece := stream.read(CHUNK):
            published.update(piece)
            sha.update(piece)
            progress.add({"MB": 1})
    if wanted and published.hexdigest() != wanted:
        _reject(file, path, f"{kind} {published.hexdigest()}", wanted)
    return {"sha256": sha.hexdigest(), "published": file.digest}


def _reject(file: File, path: Path, found: str, wanted: str) -> None:
    wrong = path.with_name(path.name + ".wrong")
    path.replace(wrong)
    raise OvsegError(
        f"{path} has {found}, published is {wanted}: it is damaged, or another file. It is now {wrong}, which may "
        f"be removed; run the same command again to download it anew, from a mirror (OVSEG_MIRROR) if {file.url} gives it like "
        "this again"
    )


def _needs_room(part: Part, home: Path) -> None:
    """A disk that is too small is said before hours of download, not after."""
    home.mkdir(parents=True, exist_ok=True)
    (home / ARCHIVES).mkdir(exist_ok=True)
    unpacked = Manifest(home / MANIFESTS / f"{part.name}.tsv", home).there()
    need, free = part.download - downloaded(part, home) + max(0, part.unpacked - unpacked), shutil.disk_usage(home).free
    if free < need:
        raise OvsegError(
            f"{part.dataset} {part.name} needs {_gb(need)} GB in {home}, {_gb(free)} GB are free. Make {home} a link to a "
            "larger disk, or free some space, and run it again"
        )


def downloaded(part: Part, home: Path) -> int:
    """Bytes of a part's files that are in home/archives, finished or not."""
    paths = [home / ARCHIVES / f"{file.name}{end}" for file in part.files for end in ("", ".part")]
    return sum(path.stat().st_size for path in paths if path.is_file())


def is_linked(part: Part, home: Path) -> bool:
    """Whether a part lies elsewhere, see `link`."""
    try:
        return "linked" in json.loads((home / RECEIPTS / f"{part.name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def _gb(number: int) -> str:
    return f"{number / 1e9:,.1f}" if number >= 5e7 else f"{number / 1e9:.2g}"
