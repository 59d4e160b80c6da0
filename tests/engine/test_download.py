"""Downloads: what was received is kept, faults are named with their remedy, and nothing unfinished looks finished."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ovseg.core.errors import OvsegError
from ovseg.engine.download import download
from tests.server import Served, serving

DATA = bytes(range(256)) * 20_000  # 5 MB
REMEDY = "ask a neighbor"


@pytest.fixture
def server() -> Iterator[Served]:
    with serving() as served:
        yield served


def _get(server: Served, path: Path, name: str = "/a.zip", size: int | None = None) -> None:
    download(server.url + name, path, remedy=REMEDY, size=size, timeout=0.5, pause=0.01)


def test_a_file_arrives_byte_for_byte_and_leaves_nothing_beside_it(server: Served, tmp_path: Path) -> None:
    server.files["/a.zip"] = DATA
    _get(server, tmp_path / "in" / "a.zip", size=len(DATA))
    assert (tmp_path / "in" / "a.zip").read_bytes() == DATA
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["a.zip"]


@pytest.mark.parametrize("fault", ["cut", "slow"])
def test_a_connection_that_ends_in_the_middle_is_continued_there(fault: str, server: Served, tmp_path: Path) -> None:
    server.files["/a.zip"], server.faults["/a.zip"] = DATA, fault
    _get(server, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == DATA
    assert server.asked["/a.zip"] == 2
    assert server.sent < 1.2 * len(DATA)


def test_a_server_that_cannot_continue_begins_anew(server: Served, tmp_path: Path) -> None:
    server.files["/a.zip"], server.faults["/a.zip"] = DATA, "cuts"
    with pytest.raises(OvsegError):
        _get(server, tmp_path / "a.zip")
    server.faults["/a.zip"] = "no-range"
    _get(server, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == DATA


def test_a_file_that_changed_on_the_server_is_not_mixed_with_the_old_one(server: Served, tmp_path: Path) -> None:
    server.files["/a.zip"], server.faults["/a.zip"] = DATA, "cuts"
    with pytest.raises(OvsegError, match="cut"):
        _get(server, tmp_path / "a.zip")
    assert 0 < (tmp_path / "a.zip.part").stat().st_size < len(DATA)
    server.files["/a.zip"], server.tag = DATA[::-1], '"2"'
    del server.faults["/a.zip"]
    _get(server, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == DATA[::-1]


def test_what_a_stopped_download_has_is_not_downloaded_again(server: Served, tmp_path: Path) -> None:
    server.files["/a.zip"], server.faults["/a.zip"] = DATA, "cuts"
    with pytest.raises(OvsegError, match=r"bytes that arrived are kept"):
        _get(server, tmp_path / "a.zip")
    there, server.sent = (tmp_path / "a.zip.part").stat().st_size, 0
    del server.faults["/a.zip"]
    _get(server, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == DATA
    assert server.sent == len(DATA) - there


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (404, "404"),
        (403, "403"),
        (401, "401.*login"),
        (503, "503"),
        ("loop", "10 times"),
        ("page", "web page"),
        ("cuts", "run the same command again"),
    ],
)
def test_each_fault_of_a_server_is_an_error_with_address_and_remedy(
    fault: str | int, message: str, server: Served, tmp_path: Path
) -> None:
    server.files["/a.zip"], server.faults["/a.zip"] = DATA, fault
    with pytest.raises(OvsegError, match=message) as raised:
        _get(server, tmp_path / "a.zip")
    assert f"{server.url}/a.zip" in str(raised.value)
    assert str(raised.value).endswith(REMEDY)
    assert not (tmp_path / "a.zip").exists()


def test_a_server_that_is_down_is_an_error_with_the_remedy(server: Served, tmp_path: Path) -> None:
    with pytest.raises(OvsegError, match=rf"(?i)refused.*{REMEDY}"):
        download("http://127.0.0.1:1/a.zip", tmp_path / "a.zip", remedy=REMEDY, timeout=0.5, pause=0.001)


def test_a_file_of_another_length_than_published_is_not_even_downloaded(server: Served, tmp_path: Path) -> None:
    server.files["/a.zip"] = DATA
    with pytest.raises(OvsegError, match="5,120,000 bytes"):
        _get(server, tmp_path / "a.zip", size=7)
    assert server.sent < 1_000_000 or not (tmp_path / "a.zip").exists()


def test_redirects_are_followed(server: Served, tmp_path: Path) -> None:
    server.files["/b.zip"], server.faults["/a.zip"] = DATA, "redirect:/b.zip"
    _get(server, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == DATA


def test_a_full_disk_is_something_the_user_can_mend(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource
    import signal

    server.files["/a.zip"] = DATA
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        with pytest.raises(OvsegError, match="no space left"):
            _get(server, tmp_path / "a.zip")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not (tmp_path / "a.zip").exists()
    _get(server, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == DATA


def test_processes_that_want_the_same_file_download_it_once(server: Served, tmp_path: Path) -> None:
    server.files["/a.zip"] = DATA
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(_get, server, tmp_path / "a.zip") for _ in range(4)]:
            done.result()
    assert (tmp_path / "a.zip").read_bytes() == DATA and server.asked["/a.zip"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]
