"""Parts of data sets: download to manifest, faults, kills, links, and what a person is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ovseg.core.errors import OvsegError
from ovseg.datasets.fetch.manifest import changed_files, read_manifest
from ovseg.datasets.fetch.parts import fetch, is_whole, link, verify
from ovseg.datasets.fetch.releases import File, Holding, Part, releases
from ovseg.datasets.fetch.status import format_states, part_state
from tests.conftest import ROOT
from tests.datasets.fetch.conftest import md5, zipped
from tests.server import Served

FILES = {f"val2017/{i:012}.jpg": os.urandom(3_000) for i in range(40)}
DATA = zipped(FILES)


def _part(url: str, **changes: object) -> Part:
    part = Part(
        "coco",
        "val2017",
        (File(f"{url}/val2017.zip", "val2017.zip", len(DATA), len(DATA), md5(DATA)),),
        200_000,
        (Holding("val2017", r"\d{12}\.jpg", 40),),
        others={r"COCO_val2014_\d{12}\.jpg": "COCO 2014"},
    )
    return replace(part, **changes)  # type: ignore[arg-type]


@pytest.fixture
def part(server: Served) -> Part:
    server.files["/val2017.zip"] = DATA
    return _part(server.url)


def test_download_and_verify_leave_files_a_receipt_and_a_manifest(part: Part, server: Served, tmp_path: Path) -> None:
    fetch(part, tmp_path)
    counts = verify(part, tmp_path)
    assert counts == {"files": 40, "bytes": sum(map(len, FILES.values()))}
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == FILES
    assert set(read_manifest(tmp_path / "manifests/val2017.tsv")) == set(FILES)
    receipt = json.loads((tmp_path / "receipts/val2017.json").read_text())
    assert receipt["files"][0]["published"] == md5(DATA)
    assert not list((tmp_path / "archives").iterdir())
    assert not changed_files(tmp_path, read_manifest(tmp_path / "manifests/val2017.tsv"), full=True)
    fetch(part, tmp_path)
    verify(part, tmp_path)
    assert server.asked["/val2017.zip"] == 1


def test_leftovers_of_a_killed_download_are_removed_with_the_archive(part: Part, tmp_path: Path) -> None:
    fetch(part, tmp_path)
    for name in ("val2017.zip.part.json", "val2017.zip.part.lock"):
        (tmp_path / "archives" / name).touch()
    verify(part, tmp_path)
    assert not list((tmp_path / "archives").iterdir())


def test_the_same_files_give_the_same_manifest_bytes(part: Part, tmp_path: Path) -> None:
    for name in ("a", "b"):
        fetch(part, tmp_path / name)
        verify(part, tmp_path / name)
    assert (tmp_path / "a/manifests/val2017.tsv").read_bytes() == (tmp_path / "b/manifests/val2017.tsv").read_bytes()


def test_a_file_with_another_checksum_is_an_error_and_put_aside(part: Part, server: Served, tmp_path: Path) -> None:
    wrong = bytearray(DATA)
    wrong[100] ^= 1
    server.files["/val2017.zip"] = bytes(wrong)
    with pytest.raises(OvsegError, match=r"md5 \w+.*val2017\.zip\.wrong"):
        fetch(part, tmp_path)
    assert not (tmp_path / "archives/val2017.zip").exists()
    server.files["/val2017.zip"] = DATA
    fetch(part, tmp_path)
    assert verify(part, tmp_path)["files"] == 40


def test_without_a_published_checksum_the_sha256_of_what_came_is_noted(
    server: Served, part: Part, tmp_path: Path
) -> None:
    file = replace(part.files[0], digest=None, bytes=None)
    fetch(replace(part, files=(file,)), tmp_path)
    receipt = json.loads((tmp_path / "receipts/val2017.json").read_text())
    assert receipt["files"][0]["published"] is None
    assert len(receipt["files"][0]["sha256"]) == 64


def test_a_mirror_is_asked_instead_and_the_checksum_still_decides(server: Served, part: Part, tmp_path: Path) -> None:
    server.files["/elsewhere/val2017.zip"] = DATA
    fetch(part, tmp_path, f"{server.url}/elsewhere/")
    assert server.asked == {"/elsewhere/val2017.zip": 1}


def test_offline_the_error_names_the_file_its_address_its_place_and_its_size(
    part: Part, server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVSEG_OFFLINE", "1")
    with pytest.raises(OvsegError, match="OVSEG_OFFLINE") as raised:
        fetch(part, tmp_path)
    for fact in (f"{server.url}/val2017.zip", str(tmp_path / "archives/val2017.zip"), "GB"):
        assert fact in str(raised.value)
    assert not server.asked


def test_an_archive_that_takes_an_account_is_asked_for_and_taken_from_a_path(
    part: Part, server: Served, tmp_path: Path
) -> None:
    login = replace(part, files=(replace(part.files[0], login="register on example.org"),))
    with pytest.raises(OvsegError, match=r"register on example.org.*--archive") as raised:
        fetch(login, tmp_path / "home")
    assert "val2017.zip" in str(raised.value)
    assert not server.asked
    (tmp_path / "val2017.zip").write_bytes(DATA)
    fetch(login, tmp_path / "home", archive=tmp_path / "val2017.zip")
    assert verify(login, tmp_path / "home")["files"] == 40
    assert (tmp_path / "val2017.zip").read_bytes() == DATA


def test_an_archive_by_another_name_is_the_only_one_that_it_can_be(part: Part, server: Served, tmp_path: Path) -> None:
    (tmp_path / "val2017 (1).zip").write_bytes(DATA)
    fetch(part, tmp_path / "home", archive=tmp_path / "val2017 (1).zip")
    assert verify(part, tmp_path / "home")["files"] == 40
    assert not server.asked
    two = replace(part, name="two", files=(part.files[0], replace(part.files[0], name="other.zip")))
    with pytest.raises(OvsegError, match=r"coco two: val2017.zip, other.zip"):
        fetch(two, tmp_path / "home", archive=tmp_path / "val2017 (1).zip")


def test_space_is_required_only_for_what_is_not_there_yet(part: Part, tmp_path: Path) -> None:
    size, lots = sum(map(len, FILES.values())), 10**18
    fetch(part, tmp_path)
    verify(part, tmp_path)
    (tmp_path / "val2017/000000000007.jpg").unlink()
    with pytest.raises(OvsegError, match="needs"):
        fetch(replace(part, unpacked=lots), tmp_path)
    fetch(replace(part, unpacked=size), tmp_path)
    (tmp_path / "archives/val2017.zip.wrong").write_bytes(bytes(10**6))
    assert part_state(part, tmp_path).download == 0
    (tmp_path / "archives/val2017.zip").unlink()
    assert part_state(part, tmp_path).download == len(DATA)


def test_too_small_a_disk_is_an_error_before_anything_is_downloaded(part: Part, server: Served, tmp_path: Path) -> None:
    with pytest.raises(OvsegError, match=r"coco val2017 needs [\d,.]+ GB"):
        fetch(replace(part, unpacked=10**18), tmp_path)
    assert not server.asked


def test_a_data_set_that_is_half_there_names_how_many_and_the_remedy(part: Part, tmp_path: Path) -> None:
    for name in list(FILES)[:30]:
        (tmp_path / "theirs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "theirs" / name).write_bytes(FILES[name])
    with pytest.raises(OvsegError, match=r"30 files of coco val2017.*40.*ovseg data get coco val2017"):
        link(part, tmp_path / "home", tmp_path / "theirs")
    assert len(list((tmp_path / "theirs").rglob("*.jpg"))) == 30
    assert not (tmp_path / "home/val2017").exists()


def test_another_release_is_recognised(part: Part, tmp_path: Path) -> None:
    (tmp_path / "theirs/val2017").mkdir(parents=True)
    for i in range(40):
        (tmp_path / f"theirs/val2017/COCO_val2014_{i:012}.jpg").touch()
    with pytest.raises(OvsegError, match=r"0 files of coco val2017.*COCO 2014"):
        link(part, tmp_path / "home", tmp_path / "theirs")


def test_data_that_lies_elsewhere_is_linked_verified_and_never_downloaded(
    part: Part, server: Served, tmp_path: Path
) -> None:
    fetch(part, tmp_path / "theirs")
    verify(part, tmp_path / "theirs")
    server.asked.clear()
    home = tmp_path / "home"
    link(part, home, tmp_path / "theirs")
    assert (home / "val2017").is_symlink()
    assert (home / "manifests/val2017.tsv").read_bytes() == (tmp_path / "theirs/manifests/val2017.tsv").read_bytes()
    fetch(part, home)
    verify(part, home)
    link(part, home, tmp_path / "theirs")
    assert not server.asked
    assert part_state(part, home).status == "linked"


def test_linked_data_that_lost_a_file_is_an_error_and_not_downloaded_into(
    part: Part, server: Served, tmp_path: Path
) -> None:
    fetch(part, tmp_path / "theirs")
    verify(part, tmp_path / "theirs")
    link(part, tmp_path / "home", tmp_path / "theirs")
    server.asked.clear()
    (tmp_path / "theirs/val2017/000000000003.jpg").unlink()
    with pytest.raises(OvsegError, match=r"linked.*ovseg data verify coco val2017"):
        fetch(part, tmp_path / "home")
    assert not server.asked


def test_other_data_of_the_same_sizes_is_hashed_anew_when_it_is_linked(part: Part, tmp_path: Path) -> None:
    fetch(part, tmp_path / "theirs")
    verify(part, tmp_path / "theirs")
    stale = (tmp_path / "theirs/manifests/val2017.tsv").read_text().replace("\t3000\t", "\t3000\t" + "0" * 64 + "\n#")
    lines = [line for line in stale.splitlines() if line.startswith("val2017/")]
    (tmp_path / "home/manifests").mkdir(parents=True)
    (tmp_path / "home/manifests/val2017.tsv.part").write_text("\n".join(lines) + "\n")
    link(part, tmp_path / "home", tmp_path / "theirs")
    home = tmp_path / "home"
    assert not changed_files(home, read_manifest(home / "manifests/val2017.tsv"), full=True)


def test_data_in_the_place_of_a_link_is_left_alone(part: Part, tmp_path: Path) -> None:
    fetch(part, tmp_path / "theirs")
    verify(part, tmp_path / "theirs")
    (tmp_path / "home/val2017").mkdir(parents=True)
    with pytest.raises(OvsegError, match=str(tmp_path / "home/val2017")):
        link(part, tmp_path / "home", tmp_path / "theirs")


def test_archives_inside_archives_are_unpacked_and_removed(server: Served, tmp_path: Path) -> None:
    inner = zipped({f"panoptic_val2017/{i:012}.png": b"png%d" % i for i in range(5)})
    data = zipped({"annotations/panoptic_val2017.json": b"{}", "annotations/panoptic_val2017.zip": inner})
    server.files["/panoptic.zip"] = data
    holds = (Holding("annotations/panoptic_val2017.json"), Holding("annotations/panoptic_val2017", r"\d{12}\.png", 5))
    part = Part(
        "coco",
        "panoptic",
        (File(f"{server.url}/panoptic.zip", "panoptic.zip"),),
        10_000,
        holds,
        inner={"annotations/panoptic_val2017.zip": "annotations"},
    )
    fetch(part, tmp_path)
    assert verify(part, tmp_path)["files"] == 6
    assert not (tmp_path / "annotations/panoptic_val2017.zip").exists()
    (tmp_path / "annotations/panoptic_val2017/000000000003.png").unlink()
    assert not is_whole(part, tmp_path)
    fetch(part, tmp_path)
    assert verify(part, tmp_path)["files"] == 6


def test_plain_files_are_put_where_they_belong(server: Served, tmp_path: Path) -> None:
    server.files["/labels.txt"] = b"1: accordion\n"
    part = Part(
        "x",
        "labels",
        (File(f"{server.url}/labels.txt", "labels.txt", plain=True),),
        10,
        (Holding("in/labels.txt"),),
        into="in",
    )
    fetch(part, tmp_path)
    verify(part, tmp_path)
    assert (tmp_path / "in/labels.txt").read_bytes() == b"1: accordion\n"


def test_the_state_counts_only_what_is_left_to_do(part: Part, server: Served, tmp_path: Path) -> None:
    assert (part_state(part, tmp_path).status, part_state(part, tmp_path).download) == ("missing", len(DATA))
    fetch(part, tmp_path)
    assert (part_state(part, tmp_path).status, part_state(part, tmp_path).download) == ("downloaded", 0)
    verify(part, tmp_path)
    assert (part_state(part, tmp_path).status, part_state(part, tmp_path).disk) == ("verified", 0)
    assert "verified" in format_states([part_state(part, tmp_path)], tmp_path)
    assert "NOT ENOUGH" in format_states([part_state(replace(part, name="other", unpacked=10**18), tmp_path)], tmp_path)


CHILD = """
import sys
from pathlib import Path
from dataclasses import replace
from ovseg.datasets.fetch.releases import File, Holding, Part
from ovseg.datasets.fetch.parts import fetch, verify
url, home, number, size, digest = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
part = Part("coco", "val2017", (File(url + "/val2017.zip", "val2017.zip", size, size, digest),), 10**8,
            (Holding("val2017", r"\\d{12}\\.jpg", number),))
fetch(part, home)
verify(part, home)
"""


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_with_the_same_files(server: Served, tmp_path: Path) -> None:
    files = {f"val2017/{i:012}.jpg": os.urandom(200) for i in range(20_000)}
    data = zipped(files)
    server.files["/val2017.zip"] = data
    command = [sys.executable, "-c", CHILD, server.url, str(tmp_path), str(len(files)), str(len(data)), md5(data)]
    kills = 0
    for wait in (0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8):
        run = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        time.sleep(wait)
        if run.poll() is None:
            run.send_signal(signal.SIGKILL)
            kills += 1
        run.wait()
    assert kills > 2
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0
    rows = read_manifest(tmp_path / "manifests/val2017.tsv")
    assert len(rows) == len(files)
    assert all((tmp_path / name).read_bytes() == content for name, content in files.items())
    assert not list(tmp_path.rglob("*.part"))


def test_the_table_of_releases_names_every_part_with_sizes_counts_and_terms() -> None:
    all_parts = [part for parts in releases().values() for part in parts.values()]
    assert {part.dataset for part in all_parts} == {"coco", "ade20k", "pascal_voc", "pascal_context"}
    for part in all_parts:
        assert part.home
        assert part.licence
        assert part.holds
        assert part.download > 0 or part.files[0].login
        assert part.unpacked > 0
    published = {f"{part.dataset} {one.path}": one.files for part in all_parts for one in part.holds if one.names}
    assert published["coco train2017"] == 118_287
    assert published["ade20k ADEChallengeData2016/images/training"] == 20_210
