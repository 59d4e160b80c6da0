"""What is published, where, how large, and what it holds: releases.json beside this file.

{data set: {"home": its page, "licence": ..., "others": {pattern of file names: the release that they are of},
            "parts": {part: {"files": [{"url", "bytes" or "about", "digest": "md5:..." or "sha256:...", "name": if not the
                                        URL's last piece, "plain": true for what is no archive, "login": how to get it}],
                             "into": folder that archives are unpacked in, "inner": {archive inside: folder},
                             "unpacked": bytes, about,
                             "holds": {path: {} for a file, {"names": pattern, "files": how many} for a folder}}}}}
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
    """A file on a server.

    Attributes:
        url: its address.
        name: on disk.
        bytes: its published size; None if only `about` is known.
        about: its size, for estimates.
        digest: "md5:..." or "sha256:..."; None where none is published.
        plain: it is no archive.
        login: how to get it by hand, where that takes an account; else None.
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
    """What must be there after unpacking: a file (`names` is None), or a folder of `files` files with such names."""

    path: str
    names: str | None = None
    files: int = 1


@dataclass(frozen=True)
class Part:
    """What is downloaded and verified as one. Paths are relative to the data set's folder.

    Attributes:
        dataset, name: what it is called.
        files: on the servers.
        into: folder that archives are unpacked in.
        inner: archives inside archives, and the folder that each is unpacked in.
        unpacked: bytes on disk, about.
        holds: what must be there in the end.
        others: patterns of file names of other releases, and what these are called.
        home, licence: the data set's page and terms.
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
        """Bytes to download, about."""
        return sum(file.bytes or file.about for file in self.files)


@cache
def releases(table: Path = TABLE) -> Mapping[str, Mapping[str, Part]]:
    """The parts of each data set in a table."""
    read: dict[str, Any] = json.loads(table.read_text(encoding="utf-8"))
    return {
        name: {part: _part(name, part, about, of) for part, of in about["parts"].items()}
        for name, about in read.items()
    }


def parts_of(dataset: str, names: tuple[str, ...] = (), table: Path = TABLE) -> tuple[Part, ...]:
    """Parts of a data set by name; all of them if none is named.

    Raises:
        OvsegError: no such data set or part.
    """
    known = releases(table)
    if dataset not in known:
        raise OvsegError(f"{dataset!r} is none of the data sets: {', '.join(known)}")
    parts = known[dataset]
    if wrong := [name for name in names if name not in parts]:
        raise OvsegError(f"{dataset} has no part {wrong[0]!r}: {', '.join(parts)}")
    return tuple(parts[name] for name in names or parts)


def _part(dataset: str, name: str, about: dict[str, Any], of: dict[str, Any]) -> Part:
    return Part(
        dataset,
        name,
        tuple(_file(one) for one in of["files"]),
        of["unpacked"],
        tuple(Holding(path, one.get("names"), one.get("files", 1)) for path, one in of["holds"].items()),
        of.get("into", "."),
        of.get("inner", {}),
        about.get("others", {}),
        about["home"],
        about["licence"],
    )


def _file(of: dict[str, Any]) -> File:
    name = of.get("name") or PurePosixPath(urlsplit(of["url"]).path).name
    size = of.get("bytes")
    return File(
        of["url"], name, size, size or of.get("about", 0), of.get("digest"), of.get("plain", False), of.get("login")
    )
