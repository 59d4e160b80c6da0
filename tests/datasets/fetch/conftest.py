"""A server, and archives laid out as the official ones."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from collections.abc import Iterator, Mapping

import pytest

from tests.server import Served, serving


@pytest.fixture
def server() -> Iterator[Served]:
    with serving() as served:
        yield served


def zipped(files: Mapping[str, bytes]) -> bytes:
    """A zip of these files."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


def tarred(files: Mapping[str, bytes], mode: str = "w") -> bytes:
    """A tar of these files; "w:gz" compresses it."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    return stream.getvalue()


def md5(data: bytes) -> str:
    """As releases.json gives it."""
    return "md5:" + hashlib.md5(data, usedforsecurity=False).hexdigest()
