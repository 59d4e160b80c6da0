"""The record of exactly which weights a result was made with. `engine.weight_files` finds and downloads the files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ovseg.core import hashing


@dataclass(frozen=True)
class Weights:
    """Exactly which weights something was made with.

    Attributes:
        model: name of the model, as the user gives it.
        pretrained: name of its weights, as the user gives it; None where the model's name says it all.
        source: "hf-hub:OWNER/NAME/FILE", an address, "file" for a file of the user's, or "random".
        revision: commit of the repository on the Hub; None for weights from elsewhere.
        sha256: sha256 of the file, 64 hex digits; None for random weights.
    """

    model: str
    pretrained: str | None
    source: str
    revision: str | None
    sha256: str | None


def identify(model: str, pretrained: str | None, paths: Sequence[Path]) -> Weights:
    """Identify weights by the file that holds them.

    Args:
        model: name of the model, as the user gives it.
        pretrained: name of its weights, as the user gives it.
        paths: the file, or the shards of one, in the Hub's cache or elsewhere.
    """
    repo = repository(paths[0])
    source = "file" if repo is None else f"hf-hub:{repo}/{paths[0].name}"
    return Weights(model, pretrained, source, revision(paths[0]), sha256(*paths))


def revision(path: Path) -> str | None:
    """The commit that a file in the Hub's cache belongs to; None for any other file."""
    index = _snapshots_index(path)
    return None if index is None else path.parts[index + 1]


def repository(path: Path) -> str | None:
    """The repository "OWNER/NAME" that a file in the Hub's cache comes from; None for any other file."""
    index = _snapshots_index(path)
    return None if index is None else "/".join(path.parts[index - 1].split("--")[1:])


def sha256(*paths: Path) -> str:
    """sha256 of one file, or of the list of sha256s of several, as 64 hex digits; an unchanged file is read only once."""
    digests = [_sha256_of_version(path, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return digests[0] if len(digests) == 1 else hashing.sha256_bytes("\n".join(digests).encode())


def _snapshots_index(path: Path) -> int | None:
    """The index of "snapshots" among the parts of .../models--OWNER--NAME/snapshots/COMMIT/FILE."""
    for index in range(1, len(path.parts) - 2):
        if path.parts[index] == "snapshots" and path.parts[index - 1].startswith("models--"):
            return index
    return None


@cache
def _sha256_of_version(path: Path, _size: int, _mtime_ns: int) -> str:
    return hashing.sha256_file(path)
