"""Unpacking: nothing leaves the folder, damage is said, what is unpacked is not unpacked again."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from ovseg.core import hashing
from ovseg.core.errors import OvsegError
from ovseg.datasets.fetch.manifest import Manifest, changed_files, read_manifest
from ovseg.datasets.fetch.unpack import unpack
from tests.datasets.fetch.conftest import tarred, zipped

FILES = {f"images/{i:03}.jpg": os.urandom(2_000) for i in range(50)}
MANY = 10**9
Pack = Callable[[Mapping[str, bytes]], bytes]
KINDS: dict[str, Pack] = {"zip": zipped, "tar": tarred, "tar.gz": lambda files: tarred(files, "w:gz")}


def _unpack(data: bytes, home: Path, published_bytes: int = MANY) -> Manifest:
    home.mkdir(exist_ok=True)
    (home.parent / "archive").write_bytes(data)
    with Manifest(home.parent / "manifest.tsv", home) as manifest:
        unpack(home.parent / "archive", home, ".", manifest, published_bytes)
    return manifest


@pytest.mark.parametrize("kind", KINDS)
def test_files_come_out_byte_for_byte_and_the_manifest_has_their_sha256(kind: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    manifest = _unpack(KINDS[kind](FILES), home)
    manifest.finish(FILES)
    assert {name: (home / name).read_bytes() for name in FILES} == FILES
    rows = read_manifest(tmp_path / "manifest.tsv")
    assert rows == {name: (len(data), hashing.sha256_bytes(data)) for name, data in FILES.items()}
    assert changed_files(home, rows, full=True) == []
    (home / "images/003.jpg").write_bytes(b"x" * 2_000)
    (home / "images/004.jpg").unlink()
    assert changed_files(home, rows) == ["images/004.jpg"]
    assert changed_files(home, rows, full=True) == ["images/003.jpg", "images/004.jpg"]


def _twice(pack: Pack, names: str) -> bytes:
    return pack({"good.jpg": b"good", names: b"bad"})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["../outside.jpg", "/tmp/outside.jpg", "a/../../outside.jpg", "C:/outside.jpg"])
def test_a_name_that_leaves_the_folder_is_refused_before_anything_is_written(
    kind: str, name: str, tmp_path: Path
) -> None:
    with pytest.raises(OvsegError, match="would leave the folder"):
        _unpack(_twice(KINDS[kind], name), tmp_path / "home")
    assert sorted(path.name for path in tmp_path.rglob("*.jpg")) == []


def _tar_link(kind: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        about = tarfile.TarInfo("link.jpg")
        about.type, about.linkname = kind, "/etc/passwd"
        archive.addfile(about)
    return stream.getvalue()


def _zip_link() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        about = zipfile.ZipInfo("link.jpg")
        about.external_attr = 0o120777 << 16
        archive.writestr(about, "/etc/passwd")
    return stream.getvalue()


@pytest.mark.parametrize(
    "data", [_tar_link(tarfile.SYMTYPE), _tar_link(tarfile.LNKTYPE), _tar_link(tarfile.FIFOTYPE), _zip_link()]
)
def test_links_and_devices_are_refused(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(OvsegError, match="a link or a device"):
        _unpack(data, tmp_path / "home")


def test_an_archive_that_grows_far_beyond_what_is_published_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OvsegError, match=r"8,000,000 bytes.*1,000,000"):
        _unpack(zipped({"bomb": bytes(8_000_000)}), tmp_path / "home", published_bytes=1_000_000)
    assert not (tmp_path / "home" / "bomb").exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_archive_is_an_error_and_unpacked_files_are_kept(kind: str, share: float, tmp_path: Path) -> None:
    data = KINDS[kind](FILES)
    with pytest.raises(OvsegError, match="archive is damaged"):
        _unpack(data[: int(len(data) * share)], tmp_path / "home")
    for path in (tmp_path / "home").rglob("*.jpg"):
        assert path.read_bytes() == FILES[path.relative_to(tmp_path / "home").as_posix()]
    _unpack(data, tmp_path / "home")
    assert {name: (tmp_path / "home" / name).read_bytes() for name in FILES} == FILES


def test_a_damaged_member_is_an_error(tmp_path: Path) -> None:
    data = bytearray(zipped(FILES))
    data[len(data) // 2] ^= 255
    with pytest.raises(OvsegError, match="archive is damaged"):
        _unpack(bytes(data), tmp_path / "home")


def test_recorded_files_are_not_written_again(tmp_path: Path) -> None:
    home = tmp_path / "home"
    _unpack(zipped(FILES), home)
    before = {name: (home / name).stat().st_mtime_ns for name in FILES}
    (home / "images/007.jpg").unlink()
    (home / "images/008.jpg").write_bytes(b"short")
    _unpack(zipped(FILES), home)
    after = {name: (home / name).stat().st_mtime_ns for name in FILES}
    assert {name for name in FILES if before[name] != after[name]} == {"images/007.jpg", "images/008.jpg"}
    assert (home / "images/008.jpg").read_bytes() == FILES["images/008.jpg"]


def test_a_line_of_the_manifest_that_a_kill_cut_off_is_not_believed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    _unpack(zipped(FILES), home)
    part = tmp_path / "manifest.tsv.part"
    part.write_text(part.read_text()[:-30])
    assert len(Manifest(tmp_path / "manifest.tsv", home).rows) == len(FILES) - 1


def test_nothing_is_written_through_a_link_into_other_data(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "home" / "images").symlink_to(tmp_path / "theirs")
    with pytest.raises(OvsegError, match="is a link to"):
        _unpack(zipped(FILES), tmp_path / "home")
    assert not list((tmp_path / "theirs").iterdir())


def test_litter_of_macs_is_left_out(tmp_path: Path) -> None:
    _unpack(zipped({**FILES, "__MACOSX/images/._000.jpg": b"", "images/.DS_Store": b""}), tmp_path / "home")
    assert {path.name for path in (tmp_path / "home").iterdir()} == {"images"}
    assert not (tmp_path / "home/images/.DS_Store").exists()
