"""The members of a tar file: where their bytes are, and what of the tar cannot be read. Only headers are read."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ovseg.core.errors import BadItem
from ovseg.core.folders import is_file_system_file

BLOCK = tarfile.BLOCKSIZE
COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.lz4")
COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class Member(NamedTuple):
    """A file in a tar.

    Attributes:
        name: its path with slashes, without `./` and empty parts.
        offset: position of its first byte in the tar.
        size: number of its bytes.
    """

    name: str
    offset: int
    size: int


def read_members(path: Path) -> Iterator[Member | BadItem]:
    """Iterate over the files of an uncompressed tar, in their order; links are the files that they point to.

    Yields:
        each file; and what cannot be read, at the end: `member_link` and `member_sparse` for a single member, `empty_tar`,
        `compressed_tar`, `not_a_tar`, `truncated_tar` and `damaged_tar` for the tar or the rest of it.
    """
    if problem := _check_start(path):
        yield problem
        return
    members: dict[str, Member] = {}
    links: list[tuple[str, str]] = []
    problems: list[BadItem] = []
    try:
        with tarfile.open(path, "r:") as tar:  # uncompressed: members of a compressed tar have no offset to read from
            for entry in tar:
                name = normalize_name(entry.name)
                if entry.isdir() or is_file_system_file(name):
                    continue
                if entry.islnk():
                    links.append((name, normalize_name(entry.linkname)))
                elif entry.issym():
                    links.append((name, normalize_name(f"{posixpath.dirname(entry.name)}/{entry.linkname}")))
                elif not entry.isreg() or entry.issparse():
                    kind = "member_sparse" if entry.issparse() else "member_link"
                    problems.append(BadItem(kind, f"{path.name}: {name} is no ordinary file"))
                else:
                    member = Member(name, entry.offset_data, entry.size)
                    members.setdefault(name, member)
                    yield member
            end = tar.offset
        problems += _check_end(path, end)
    except (tarfile.TarError, OSError, EOFError) as error:
        problems.append(BadItem("truncated_tar", f"{path.name}: {error}"))
    for name, target in links:
        if target in members:
            yield Member(name, members[target].offset, members[target].size)
        else:
            problems.append(
                BadItem("member_link", f"{path.name}: {name} is a link to {target}, which the tar does not hold")
            )
    yield from problems


def normalize_name(name: str) -> str:
    """Return the path of a member with slashes, without `./`, `..` where it can be resolved, and empty parts."""
    if "/" not in name and "\\" not in name and name not in (".", ".."):
        return name
    return posixpath.normpath("/" + name.replace("\\", "/")).lstrip("/")


def _check_start(path: Path) -> BadItem | None:
    try:
        with path.open("rb") as stream:
            block = stream.read(BLOCK)
    except OSError as error:
        return BadItem("truncated_tar", f"{path.name}: {error.strerror}")
    if not block.strip(b"\0"):
        return BadItem("empty_tar", f"{path.name} holds no file")
    compression = next((name for start, name in COMPRESSIONS.items() if block.startswith(start)), None)
    if compression:
        return BadItem("compressed_tar", f"{path.name} is compressed by {compression}; unpack it to a plain .tar first")
    try:
        tarfile.TarInfo.frombuf(block, tarfile.ENCODING, "surrogateescape")
    except tarfile.HeaderError as error:
        return BadItem("not_a_tar", f"{path.name} does not begin like a tar ({error}), but with {block[:16]!r}")
    return None


def _check_end(path: Path, end: int) -> Iterator[BadItem]:
    """What follows the last header that was read: two blocks of zeros, up to the end of the file, in a whole tar."""
    with path.open("rb") as stream:
        stream.seek(end)
        block = stream.read(BLOCK)
        if len(block) < BLOCK:
            yield BadItem(
                "truncated_tar", f"{path.name} ends after {end + len(block):,} bytes without the end mark of a tar"
            )
        elif block.strip(b"\0"):
            yield BadItem(
                "damaged_tar", f"{path.name}: the header at byte {end:,} is damaged; what follows is not read"
            )
        else:
            position = end
            while block:
                if block.strip(b"\0"):
                    yield BadItem(
                        "damaged_tar", f"{path.name} goes on after its end mark, at byte {position:,}; that is not read"
                    )
                    return
                position += len(block)
                block = stream.read(1 << 20)
