"""Hashes of values, bytes, files and folders."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ovseg.core.files import walk
from ovseg.core.paths import is_remote

CHUNK = 1 << 20  # bytes of a file in memory at a time


def fingerprint(**parts: Any) -> str:
    """Hash named JSON values, such as parameters and fingerprints of inputs: 16 hex digits."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sha256_bytes(data: bytes) -> str:
    """Return the sha256 of bytes: 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file: 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def sha256_path(path: Path) -> str:
    """Return the sha256 of a file, or a hash of the names and contents of all files below a folder: 64 hex digits.

    Links to folders are followed, each folder once, as by the steps that read folders.
    """
    if path.is_file():
        return sha256_file(path)
    files = path.rglob("*") if is_remote(path) else map(path.joinpath, walk(path))
    digest = hashlib.sha256()
    for file in sorted(p for p in files if p.is_file()):
        digest.update(f"{file.relative_to(path)} {sha256_file(file)}\n".encode())
    return digest.hexdigest()
