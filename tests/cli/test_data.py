"""`ovseg data` as a command: each fault of a server, an archive, a disk or a folder is one line with its remedy."""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, digests
from tests.datasets.fetch.conftest import md5, zipped
from tests.server import Served, serving

IMAGES = {f"val2017/{i:012}.jpg": os.urandom(30_000) for i in range(20)}
NOTES = {
    f"annotations/{kind}_{split}2017.json": b"{}" for kind in ("captions", "instances") for split in ("train", "val")
}
ARCHIVE, LARGE = "/zips/val2017.zip", 3_000_000
GOOD, ANNOTATIONS = zipped(IMAGES), zipped(NOTES)


@dataclass(frozen=True)
class Command:
    """`ovseg data` of a copy of the package that has a table of its own, and less patience with servers.

    Attributes:
        package: folder that Python imports `ovseg` from.
        root: folder of the data sets.
        url: of the server.
    """

    package: Path
    root: Path
    url: str

    def __call__(self, *words: str, max_bytes: int | None = None) -> subprocess.CompletedProcess[str]:
        """Run it; `max_bytes` is the largest file that it may write, in bytes."""
        cap = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, max_bytes))) if max_bytes else None
        return subprocess.run(
            [sys.executable, "-m", "ovseg.cli.app", "data", *words, "--root", str(self.root)],
            capture_output=True,
            text=True,
            cwd=self.package,
            env={**os.environ, "PYTHONPATH": str(self.package)},
            preexec_fn=cap,
            timeout=60,
        )

    def publish(self, data: bytes, url: str = "", **changes: Any) -> None:
        """Have the table say that `data` is val2017.zip; `changes` are keys of that file, None for none."""
        table = self.package / "ovseg/datasets/fetch/releases.json"
        about = json.loads((ROOT / "pipeline/ovseg/datasets/fetch/releases.json").read_text())
        for name, path, content in (("annotations", "/annotations.zip", ANNOTATIONS), ("val2017", ARCHIVE, data)):
            part = about["coco"]["parts"][name]
            file = {"url": (url or self.url) + path, "bytes": len(content), "digest": md5(content)}
            file |= changes if name == "val2017" else {}
            part["files"] = [{key: value for key, value in file.items() if value is not None}]
            part["unpacked"] = LARGE
        about["coco"]["parts"]["val2017"]["holds"]["val2017"]["files"] = len(IMAGES)
        table.write_text(json.dumps(about), encoding="utf-8")


@pytest.fixture
def server() -> Iterator[Served]:
    with serving() as served:
        yield served


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT / "pipeline" / "ovseg", folder / "ovseg")
    module = folder / "ovseg" / "engine" / "download.py"
    patient = module.read_text()
    module.write_text(
        patient.replace("timeout: float = 60, pause: float = 1", "timeout: float = 0.3, pause: float = 0.01")
    )
    assert module.read_text() != patient
    return folder


@pytest.fixture(scope="module")
def begun(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the annotations verified already, and a file of the user's own beside them; to be read, not written."""
    with serving() as server:
        command = Command(package, tmp_path_factory.mktemp("begun") / "data", server.url)
        server.files = {"/annotations.zip": ANNOTATIONS}
        command.publish(GOOD)
        (command.root / "coco" / "val2017").mkdir(parents=True)
        (command.root / "coco" / "own.txt").write_text("mine")
        done = command("get", "coco", "annotations")
    assert done.returncode == 0, done.stderr
    return command.root


@pytest.fixture
def command(package: Path, begun: Path, server: Served, tmp_path: Path) -> Command:
    """With a copy of `begun`."""
    command = Command(package, Path(shutil.copytree(begun, tmp_path / "data")), server.url)
    server.files = {ARCHIVE: GOOD, "/annotations.zip": ANNOTATIONS}
    command.publish(GOOD)
    return command


def fails(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    """Exit code 1, and one line that says all of this."""
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert done.returncode == 1 and len(errors) == 1 and done.stderr.rstrip().endswith(errors[0]), done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in errors[0]


def test_a_part_is_downloaded_unpacked_verified_and_then_left_alone(command: Command, server: Served) -> None:
    done = command("get", "coco", "val2017")
    assert (done.returncode, done.stdout) == (0, "coco val2017: 20 files, 0.0 GB, verified\n")
    assert {name: (command.root / "coco" / name).read_bytes() for name in IMAGES} == IMAGES
    asked = server.asked.copy()
    assert command("get", "coco", "val2017").returncode == 0 and server.asked == asked
    assert command("verify", "coco", "val2017", "annotations", "--full").returncode == 0
    assert "verified" in command("status", "coco").stdout


SAME, ELSEWHERE = "same command again", "OVSEG_MIRROR"
Fault = Callable[[Command, Served], None]


def _misbehaves(fault: str | int) -> Fault:
    return lambda _, server: server.faults.update({ARCHIVE: fault})


def _gives(data: bytes) -> Fault:
    return lambda _, server: server.files.update({ARCHIVE: data})


def _publishes(data: bytes) -> Fault:
    """It is given, and nothing is known of it before: as of SegmentationClassAug.zip."""

    def fault(command: Command, server: Served) -> None:
        server.files[ARCHIVE] = data
        command.publish(data, digest=None, bytes=None, about=len(data))

    return fault


def _down(command: Command, _: Served) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command.publish(zipped(IMAGES), f"http://127.0.0.1:{port}")


FAULTS: dict[str, tuple[Fault, tuple[str, ...]]] = {
    "server down": (_down, ("refused", SAME, ELSEWHERE)),
    "not there": (_misbehaves(404), ("404", ELSEWHERE)),
    "refused": (_misbehaves(403), ("403", ELSEWHERE)),
    "a login instead": (_misbehaves("page"), ("a web page", "browser")),
    "redirects for ever": (_misbehaves("loop"), ("10 times", ELSEWHERE)),
    "always cut": (_misbehaves("cuts"), ("cut", "kept", SAME)),
    "another checksum": (_gives(GOOD[:99] + b"?" + GOOD[100:]), ("md5", ".wrong", SAME)),
    "another length": (_gives(GOOD + b"?"), ("are published", ELSEWHERE)),
    "truncated": (_publishes(GOOD[:-500]), ("is damaged", "are kept", SAME)),
    "a name that leaves": (_publishes(zipped({**IMAGES, "../own.txt": b"?"})), ("'../own.txt'", "refused")),
    "other images": (
        _publishes(zipped({f"val2017/COCO_val2014_{i:012}.jpg": b"" for i in range(20)})),
        ("0 files", "COCO 2014", "`ovseg data get coco val2017`"),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_with_a_remedy_and_takes_away_nothing_good(
    fault: str, command: Command, server: Served
) -> None:
    before = digests(command.root)
    cause, parts = FAULTS[fault]
    cause(command, server)
    fails(command("get", "coco", "val2017"), *parts)
    after = digests(command.root)
    assert {name: after.get(name) for name in before} == before
    assert not (command.root / "coco/manifests/val2017.tsv").exists()


@pytest.mark.parametrize("fault", ["cut", "slow", 503])
def test_a_server_that_recovers_is_waited_for_and_what_came_is_kept(
    fault: str | int, command: Command, server: Served
) -> None:
    server.faults[ARCHIVE] = fault
    if fault == 503:  # of which nothing came
        fails(command("get", "coco", "val2017"), "503", ELSEWHERE)
        server.faults.clear()
    server.sent = 0
    assert command("get", "coco", "val2017").returncode == 0
    assert len(GOOD) <= server.sent < 1.2 * len(GOOD)


def test_after_a_disk_filled_up_while_unpacking_the_same_command_continues(command: Command, server: Served) -> None:
    first, large = "val2017/000000000000.jpg", "val2017/000000000019.jpg"
    server.files[ARCHIVE] = zipped({**IMAGES, large: bytes(LARGE)})
    command.publish(server.files[ARCHIVE])
    before = digests(command.root)
    fails(command("get", "coco", "val2017", max_bytes=LARGE // 2), "no space left for", SAME)
    after = digests(command.root)
    assert {name: after.get(name) for name in before} == before
    home = command.root / "coco"
    assert not (home / large).exists()
    written = (home / first).stat().st_mtime_ns
    assert command("get", "coco", "val2017").returncode == 0
    assert (home / large).stat().st_size == LARGE and (home / first).stat().st_mtime_ns == written


def _theirs(folder: Path, names: list[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(IMAGES.get(name, b""))
    return folder


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (list(IMAGES)[:12], ("12 files of coco val2017", "`ovseg data get coco val2017`")),
        ([f"val2017/COCO_val2014_{i:012}.jpg" for i in range(20)], ("COCO 2014", "`ovseg data get")),
        (["val2014/1.jpg"], ("val2017 is missing", "`ovseg data get coco val2017`")),
    ],
)
def test_a_folder_that_is_not_the_whole_data_set_is_not_linked(
    names: list[str], parts: tuple[str, ...], command: Command, server: Served, tmp_path: Path
) -> None:
    theirs = _theirs(tmp_path / "theirs", names)
    before, asked = digests(theirs) | digests(command.root), server.asked.copy()
    (command.root / "coco" / "val2017").rmdir()
    fails(command("link", "coco", str(theirs), "val2017"), *parts)
    assert digests(theirs) | digests(command.root) == before and server.asked == asked
    assert not (command.root / "coco" / "val2017").exists()


def test_a_data_set_that_is_half_there_is_completed(command: Command) -> None:
    half = list(IMAGES)[:12]
    _theirs(command.root / "coco", half)
    (command.root / "coco" / half[3]).write_bytes(b"half a pict")
    assert command("get", "coco", "val2017").returncode == 0
    assert {name: (command.root / "coco" / name).read_bytes() for name in IMAGES} == IMAGES


def test_archives_are_kept_if_the_environment_says_so(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for value, kept in (("0", []), ("1", ["val2017.zip"])):
        monkeypatch.setenv("OVSEG_KEEP_ARCHIVES", value)
        shutil.rmtree(command.root / "coco" / "val2017", ignore_errors=True)
        assert command("get", "coco", "val2017").returncode == 0
        assert [path.name for path in (command.root / "coco" / "archives").iterdir()] == kept


def test_one_changed_file_is_found_by_a_full_verification_and_repaired_by_getting_it_again(command: Command) -> None:
    assert command("get", "coco", "val2017", "--keep-archives").returncode == 0
    changed = command.root / "coco" / list(IMAGES)[5]
    changed.write_bytes(IMAGES[list(IMAGES)[5]][::-1])
    done = command("verify", "coco", "val2017", "--full")
    assert done.returncode == 1 and f"1 missing or changed\n  {changed}\n" in done.stdout
    assert "Delete those that are there and run `ovseg data get coco val2017`" in done.stdout
    changed.unlink()
    assert command("verify", "coco", "val2017").returncode == 1
    assert command("get", "coco", "val2017").returncode == 0
    assert changed.read_bytes() == IMAGES[list(IMAGES)[5]]
