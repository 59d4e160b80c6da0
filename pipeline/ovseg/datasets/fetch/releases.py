"""The published files of each data set: where they are, how large they are, and what they unpack to.

The table is releases.json beside this file:

{data set: {"home": its web page, "licence": its terms, "others": {pattern of file names: release that such files are from},
            "parts": {part: {"files": [{"url", "bytes" or "about", "digest": "md5:..." or "sha256:...", "name": unless it is the
                                        last piece of the URL, "plain": true if it is no archive, "login": how to get it}],
                             "into": folder that archives are unpacked into, "inner": {archive in an archive: folder},
                             "unpacked": approximate bytes,
                             "holds": {path: {} for a file, {"names": pattern, "files": number} for a folder}}}}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from ovseg.core.errors import OvsegError

TABLE = Path(__file__).with_name("releases.json")


@dataclass(frozen=True)
class File:
    """A published file.

    Attributes:
        url: address of the file.
        name: name of the file on disk.
        bytes: published size; None if only an approximate size is known.
        about: approximate size in bytes, for estimates; 0 if unknown.
        digest: "md5:..." or "sha256:..."; None if no checksum is published.
        plain: whether the file is no archive.
        login: how to get the file by hand if that takes an account; None otherwise.
    """

    url: str
    name: str
    bytes: int | None = None
    about: int = 0
    digest: str | None = None
    plain: bool = False
    login: str | None = None


@dataclass(frozen=True)
class Holding:
    """A path that a part must have: a file if `names` is None, else a folder of `files` files whose names match it."""

    path: str
    names: str | None = None
    files: int = 1


@dataclass(frozen=True)
class Part:
    """What is downloaded and verified together. Paths are relative to the folder of the data set.

    Attributes:
        dataset: name of the data set.
        name: name of the part.
        files: published files.
        unpacked: approximate bytes on disk.
        holds: paths that must be there after unpacking.
        into: folder that archives are unpacked into.
        inner: archives inside archives, and the folder that each is unpacked into.
        others: patterns of file names in other releases, and the names of these releases.
        home: web page of the data set.
        licence: terms of the data set.
    """

    dataset: str
    name: str
    files: tuple[File, ...]
    unpacked: int
    holds: tuple[Holding, ...]
    into: str = "."
    inner: Mapping[str, str] = field(default_factory=dict)
    others: Mapping[str, str] = field(default_factory=dict)
    home: str = ""
    licence: str = ""

    @property
    def download(self) -> int:
        """Approximate bytes to download."""
        return sum(file.bytes or file.about for file in self.files)


@cache
def releases(table: Path = TABLE) -> Mapping[str, Mapping[str, Part]]:
    """Read the parts of each data set from a table."""
    datasets: dict[str, Any] = json.loads(table.read_text(encoding="utf-8"))
    return {
        name: {part: _part(name, part, dataset, entry) for part, entry in dataset["parts"].items()}
        for name, dataset in datasets.items()
    }


def parts_of(dataset: str, names: tuple[str, ...] = (), table: Path = TABLE) -> tuple[Part, ...]:
    """The named parts of a data set, or all of them if none is named.

    Raises:
        OvsegError: if there is no such data set or part.
    """
    known = releases(table)
    if dataset not in known:
        raise OvsegError(f"{dataset!r} is none of the data sets: {', '.join(known)}")
    parts = known[dataset]
    if unknown := [name for name in names if name not in parts]:
        raise OvsegError(f"{dataset} has no part {unknown[0]!r}: {', '.join(parts)}")
    return tuple(parts[name] for name in names or parts)


def published_files(folder: Path) -> int | None:
    """The published number of files in a folder of a data set, such as data/coco/train2017; None if it is not published."""
    for name, parts in releases().items():
        for holding in (holding for part in parts.values() for holding in part.holds):
            if folder == Path("data", name, holding.path):
                return holding.files
    return None


def _part(dataset: str, name: str, metadata: dict[str, Any], entry: dict[str, Any]) -> Part:
    return Part(
        dataset=dataset,
        name=name,
        files=tuple(map(_file, entry["files"])),
        unpacked=entry["unpacked"],
        holds=tuple(Holding(path, of.get("names"), of.get("files", 1)) for path, of in entry["holds"].items()),
        into=entry.get("into", "."),
        inner=entry.get("inner", {}),
        others=metadata.get("others", {}),
        home=metadata["home"],
        licence=metadata["licence"],
    )


def _file(entry: dict[str, Any]) -> File:
    size = entry.get("bytes")
    return File(
        url=entry["url"],
        name=entry.get("name") or PurePosixPath(urlsplit(entry["url"]).path).name,
        bytes=size,
        about=size or entry.get("about", 0),
        digest=entry.get("digest"),
        plain=entry.get("plain", False),
        login=entry.get("login"),
    )
