"""Units of work: done once, checked when found again, published in one step, and never over somebody else's folder."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ovseg.core import tables
from ovseg.core.errors import OvsegError
from ovseg.core.files import replace_folder
from ovseg.engine.fingerprint import StepKey
from ovseg.engine.published import reusable_counts
from ovseg.engine.runtime import GPU_FILES, Runtime, devices, from_environment, work_folder
from ovseg.engine.scratch import Scratch, scratch_folder
from ovseg.engine.steps import run_step
from ovseg.engine.units import Counts, Task, commit

UNITS = ["00000", "00001", "00002"]


class TaskFactory:
    """Makes a task that notes which units it did, and writes `size` bytes for each."""

    def __init__(self, log: Path, size: int = 10, fail: str | None = None) -> None:
        self.log, self.size, self.fail = log, size, fail

    def __call__(self, device: str) -> Task:
        def task(unit: str, folder: Path) -> Counts:
            with self.log.open("a") as stream:
                stream.write(f"{unit}\n")
            (folder / f"{unit}.bin").write_bytes(unit.encode() * (self.size // 5))
            if unit == self.fail:
                raise RuntimeError("as planned")
            return {"things": 2, "dropped.odd": 1}

        return task

    def done(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []


@pytest.fixture
def factory(tmp_path: Path) -> TaskFactory:
    return TaskFactory(tmp_path / "log")


def key(fingerprint: str = "k", **code: str) -> StepKey:
    return StepKey("step", fingerprint, {"mining/score.py": "a", **code})


def step(factory: TaskFactory, out: Path, runtime: Runtime, fingerprint: str = "k", **code: str) -> dict[str, int]:
    return run_step(key(fingerprint, **code), UNITS, factory, out, runtime)


def test_a_step_publishes_all_of_its_units(factory: TaskFactory, tmp_path: Path, runtime: Runtime) -> None:
    """Files of every unit, counts added up, and a manifest with the sha256 of each file; a second run does nothing."""
    counts = step(factory, tmp_path / "out", runtime)
    assert counts == {"things": 6, "dropped.odd": 3} == tables.read_counts(tmp_path / "out")
    manifest = tables.read_step_manifest(tmp_path / "out")
    assert sorted(manifest["files"]) == ["00000.bin", "00001.bin", "00002.bin"] and manifest["fingerprint"] == "k"
    assert step(factory, tmp_path / "out", runtime) == counts and factory.done() == UNITS
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "out"]


def test_a_failed_step_continues_where_it_stopped(factory: TaskFactory, tmp_path: Path, runtime: Runtime) -> None:
    """What was done before the failure is not done again, and the output is there only when all of it is."""
    factory.fail = "00001"
    with pytest.raises(RuntimeError, match="as planned"):
        step(factory, tmp_path / "out", runtime)
    assert not (tmp_path / "out").exists()
    factory.fail = None
    step(factory, tmp_path / "out", runtime)
    assert factory.done() == ["00000", "00001", "00001", "00002"]


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "mark", "mark_empty", "mark_remove"])
def test_a_damaged_unit_is_done_again(damage: str, factory: TaskFactory, tmp_path: Path, runtime: Runtime) -> None:
    """Files are trusted by their sha256 alone, and a mark that is none is no mark."""
    factory.fail = "00002"
    with pytest.raises(RuntimeError):
        step(factory, tmp_path / "out", runtime)
    folder = scratch_folder(runtime.work, key())
    file, mark = folder / "00000.bin", folder / "00000.done.json"
    damages: dict[str, Callable[[], object]] = {
        "flip": lambda: file.write_bytes(b"x" + file.read_bytes()[1:]),
        "cut": lambda: file.write_bytes(b""),
        "remove": file.unlink,
        "mark": lambda: mark.write_text('{"files"'),
        "mark_empty": lambda: mark.write_text("{}"),
        "mark_remove": mark.unlink,
    }
    damages[damage]()
    factory.fail = None
    step(factory, tmp_path / "out", runtime)
    assert factory.done() == [*UNITS, "00000", "00002"]
    assert (tmp_path / "out" / "00000.bin").read_bytes() == b"00000" * 2


def test_a_damaged_output_is_mended(factory: TaskFactory, tmp_path: Path, runtime: Runtime) -> None:
    """A published file that changed is put right by the same command, from what was finished or anew."""
    step(factory, tmp_path / "out", runtime)
    file = tmp_path / "out" / "00001.bin"
    file.unlink()
    file.write_bytes(b"changed")
    step(factory, tmp_path / "out", runtime)
    assert file.read_bytes() == b"00001" * 2 and factory.done() == UNITS


def test_only_one_run_works_in_a_folder(factory: TaskFactory, tmp_path: Path, runtime: Runtime) -> None:
    """A second run says so; when the first one ends, however it ends, the folder is free."""
    first = Scratch(runtime.work, key())
    with pytest.raises(OvsegError, match="another run is working"):
        step(factory, tmp_path / "out", runtime)
    first.close()
    assert step(factory, tmp_path / "out", runtime)["things"] == 6
    lock = str(scratch_folder(runtime.work, key()) / "lock")
    code = f"import filelock, time; lock = filelock.FileLock({lock!r}); lock.acquire(); print(1, flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline()
    with pytest.raises(OvsegError, match="another run is working"):
        Scratch(runtime.work, key())
    child.kill()
    child.wait()
    child.stdout.close()
    Scratch(runtime.work, key()).close()


def test_fresh_forgets_what_was_finished(factory: TaskFactory, tmp_path: Path, runtime: Runtime) -> None:
    step(factory, tmp_path / "out", runtime)
    step(factory, tmp_path / "out", Runtime(workers=1, work=runtime.work, fresh=True))
    assert factory.done() == UNITS * 2 and tables.read_counts(tmp_path / "out")["things"] == 6


def test_another_key_forgets_only_what_is_published(factory: TaskFactory, tmp_path: Path, runtime: Runtime) -> None:
    """Finished runs give their scratch back when the next begins; unfinished ones, and ones at work, keep theirs."""
    step(factory, tmp_path / "out1", runtime, "published")
    factory.fail = "00001"
    with pytest.raises(RuntimeError):
        step(factory, tmp_path / "out2", runtime, "unfinished")
    busy = Scratch(runtime.work, key("busy"))
    (busy.folder / "published").touch()
    factory.fail = None
    step(factory, tmp_path / "out3", runtime, "next")
    kept = {scratch_folder(runtime.work, key(name)) for name in ("busy", "next", "unfinished")}
    assert set(runtime.work.iterdir()) == kept
    busy.close()


def test_a_step_whose_name_begins_with_anothers_keeps_its_scratch(tmp_path: Path, runtime: Runtime) -> None:
    other = Scratch(runtime.work, StepKey("step-mine", "k", {}))
    (other.folder / "published").touch()
    other.close()
    Scratch(runtime.work, key()).close()
    assert other.folder.exists()
    Scratch(runtime.work, StepKey("step-mine", "next", {})).close()
    assert not other.folder.exists()


def test_what_a_killed_run_left_half_done_is_cleared(factory: TaskFactory, tmp_path: Path, runtime: Runtime) -> None:
    """Half a unit, half a mark, half an output: none is in the way, and none is in the result."""
    folder = scratch_folder(runtime.work, key())
    (folder / "00000.4242.tmp").mkdir(parents=True)
    (folder / "00000.4242.tmp" / "00000.bin").write_bytes(b"half")
    (folder / "00001.done.json.tmp").write_text("{")
    (tmp_path / "out.tmp").mkdir()
    (tmp_path / "out.tmp" / "stale").touch()
    (tmp_path / "out.old").mkdir()
    step(factory, tmp_path / "out", runtime)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "out"]
    assert not list(folder.glob("*.tmp")) and not (tmp_path / "out" / "stale").exists()


def test_an_output_that_is_a_link_stays_one(factory: TaskFactory, tmp_path: Path, runtime: Runtime) -> None:
    """The folder that it leads to is replaced, again and again, also where an older version left a link in the way."""
    (tmp_path / "disk" / "big").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "big")
    (tmp_path / "disk" / "big.old").symlink_to(tmp_path)
    for _ in range(3):
        step(factory, tmp_path / "out", replace(runtime, fresh=True))
        assert (tmp_path / "out").is_symlink() and (tmp_path / "disk" / "big" / "step.json").is_file()
        assert [path.name for path in (tmp_path / "disk").iterdir()] == ["big"]


@pytest.mark.parametrize("out", [".", "..", "../here"])
def test_the_current_folder_is_refused_before_any_work(
    out: str, factory: TaskFactory, tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(OvsegError, match="cannot be the output"):
        step(factory, Path(out), runtime)
    assert not factory.done()


def test_an_output_of_somebody_else_is_refused(factory: TaskFactory, tmp_path: Path, runtime: Runtime) -> None:
    """Another run's folder, with both fingerprints; any other folder, or file; an empty folder is free."""
    step(factory, tmp_path / "out", runtime)
    with pytest.raises(OvsegError, match=r"fingerprint is k, this run's is other"):
        step(factory, tmp_path / "out", runtime, "other")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    (tmp_path / "file").touch()
    for name in ("mine", "file"):
        with pytest.raises(OvsegError, match="was not written by ovseg"):
            step(factory, tmp_path / name, runtime)
    (tmp_path / "empty").mkdir()
    step(factory, tmp_path / "empty", runtime)
    assert (tmp_path / "mine" / "thesis.tex").exists() and (tmp_path / "empty" / "step.json").exists()


def test_fresh_replaces_only_what_is_its_own(factory: TaskFactory, tmp_path: Path, runtime: Runtime) -> None:
    """Doing a step again is no leave to delete another run's folder, one of an older version, or anybody else's."""
    fresh = replace(runtime, fresh=True)
    step(factory, tmp_path / "other", runtime, "other")
    for name, content in {
        "stranger": {"thesis.tex": "\\end"},
        "damaged": {"step.json": "{"},
        "old": {"step.json": '{"fingerprint": "k", "counts": {}, "files": {}}'},
    }.items():
        (tmp_path / name).mkdir()
        for file, text in content.items():
            (tmp_path / name / file).write_text(text)
    (tmp_path / "file").write_text("a letter")
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file() and path != factory.log}
    for name, problem in [
        ("other", "other.*k"),
        ("old", "older version"),
        *((n, n) for n in ("stranger", "damaged", "file")),
    ]:
        with pytest.raises(OvsegError, match=problem):
            step(factory, tmp_path / name, fresh)
    assert {path: path.read_bytes() for path in before} == before
    assert step(factory, tmp_path / "other", fresh, "other") == step(factory, tmp_path / "new", fresh)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"fingerprint": "k"}'])
def test_a_damaged_manifest_is_nobodys(content: str, tmp_path: Path) -> None:
    (tmp_path / "step.json").write_text(content)
    with pytest.raises(OvsegError, match="was not written by ovseg"):
        reusable_counts(tmp_path, key(), Runtime(work=tmp_path))


def test_a_folder_of_an_older_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "step.json").write_text('{"fingerprint": "k", "counts": {}, "files": {}}')
    with pytest.raises(OvsegError, match="older version"):
        reusable_counts(tmp_path, key(), Runtime(work=tmp_path))


def test_a_result_of_other_code_is_done_again_and_the_files_are_named(
    factory: TaskFactory, tmp_path: Path, runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    """The same parameters with other code: the step runs again; with `keep` the result stays, and both are said."""
    step(factory, tmp_path / "out", runtime)
    changed = {"core/crops.py": "new"}
    step(factory, tmp_path / "out", replace(runtime, keep=True), **changed)
    assert factory.done() == UNITS and "core/crops.py" in caplog.text and "kept" in caplog.text
    step(factory, tmp_path / "out", runtime, **changed)
    assert factory.done() == UNITS * 2 and "doing it again" in caplog.text
    step(factory, tmp_path / "out", runtime, **changed)
    assert factory.done() == UNITS * 2


@pytest.mark.parametrize("keep", [False, True])
def test_unfinished_work_of_other_code_is_said_and_kept_if_asked_for(
    keep: bool, factory: TaskFactory, tmp_path: Path, runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    """It is there until the step is done, so that it can be asked for when it has been said; work of other keys stays."""
    factory.fail = "00001"
    for fingerprint in ("k", "other"):
        with pytest.raises(RuntimeError):
            step(factory, tmp_path / "out", runtime, fingerprint)
    changed = {"core/crops.py": "new"}
    factory.fail = "00000"
    with pytest.raises(RuntimeError):
        step(factory, tmp_path / "out", runtime, **changed)
    assert "code has changed since 1 units were finished (core/crops.py)" in caplog.text and "--keep" in caplog.text
    assert scratch_folder(runtime.work, key()).exists()
    factory.fail = None
    step(factory, tmp_path / "out", replace(runtime, keep=keep), **changed)
    assert factory.done()[5:] == (UNITS[1:] if keep else UNITS)
    assert ("finished units are kept" in caplog.text) is keep
    assert (tmp_path / "out" / "00000.bin").read_bytes() == b"00000" * 2
    left = {scratch_folder(runtime.work, key("other")), scratch_folder(runtime.work, key(**changed))}
    assert set(runtime.work.iterdir()) == left


def test_unfinished_work_of_a_run_with_other_code_that_is_at_work_is_left_alone(
    factory: TaskFactory, tmp_path: Path, runtime: Runtime
) -> None:
    busy = Scratch(runtime.work, key())
    commit(busy.folder, "00000", factory("cpu"))
    for fresh in (False, True):
        step(factory, tmp_path / "out", replace(runtime, keep=True, fresh=fresh), **{"core/crops.py": "new"})
    assert busy.counts("00000") and factory.done() == ["00000", *UNITS, *UNITS]
    busy.close()


def test_a_step_is_prepared_once_and_only_if_it_is_done(factory: TaskFactory, tmp_path: Path, runtime: Runtime) -> None:
    prepared: list[str] = []
    for out in ("out", "out", "new"):
        run_step(key(), UNITS, factory, tmp_path / out, runtime, prepare=lambda out=out: prepared.append(out))  # type: ignore[misc]
    assert prepared == ["out", "new"]


def test_a_run_that_owns_its_folders_replaces_results_of_other_inputs(
    factory: TaskFactory, tmp_path: Path, runtime: Runtime
) -> None:
    step(factory, tmp_path / "out", runtime)
    step(factory, tmp_path / "out", replace(runtime, replace=True), "other")
    assert tables.read_step_manifest(tmp_path / "out")["fingerprint"] == "other"


@pytest.mark.parametrize("publish", [False, True])
def test_unfinished_work_may_survive_other_code_and_published_work_never(publish: bool, runtime: Runtime) -> None:
    """Trainings continue what other code has begun; what other code has published is done again from the start."""
    old = Scratch(runtime.work, key(), keyed_by_code=False)
    (old.folder / "checkpoint.pt").touch()
    if publish:
        (old.folder / "published").write_text(key().code_hash)
    old.close()
    new = Scratch(runtime.work, key(**{"core/crops.py": "new"}), keyed_by_code=False)
    assert new.folder == old.folder and (new.folder / "checkpoint.pt").exists() is not publish
    new.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here: that takes the rights of root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def grow(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)


def test_a_full_disk_says_so_and_loses_nothing(small_disk: Path, factory: TaskFactory, tmp_path: Path) -> None:
    """Two of three units fit: the third says so, and with more space the same command does the third alone."""
    factory.size = 400_000
    runtime = Runtime(workers=1, work=small_disk / "work")
    with pytest.raises(OvsegError, match="no space left"):
        step(factory, tmp_path / "out", runtime)
    grow(small_disk)
    assert step(factory, tmp_path / "out", runtime)["things"] == 6
    assert factory.done() == [*UNITS, "00002"]


def test_a_full_disk_at_the_output_says_so(
    small_disk: Path, factory: TaskFactory, tmp_path: Path, runtime: Runtime
) -> None:
    factory.size = 500_000
    with pytest.raises(OvsegError, match="no space left"):
        step(factory, small_disk / "out", runtime)
    assert not (small_disk / "out").exists()
    grow(small_disk)
    step(factory, small_disk / "out", runtime)
    assert factory.done() == UNITS


def test_a_full_disk_while_json_is_streamed_says_so(small_disk: Path, tmp_path: Path) -> None:
    from ovseg.datasets.coco import open_coco

    images = [{"id": i, "file_name": "x" * 500} for i in range(5000)]
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"images": images, "annotations": [{"image_id": 1}]}))
    with pytest.raises(OvsegError, match="no space left"):
        open_coco(path, small_disk / "c.sqlite")
    assert list(small_disk.iterdir()) == []


def test_a_full_disk_while_a_table_is_written_says_so(small_disk: Path, tmp_path: Path) -> None:
    """Arrow's own error for a full disk is understood too."""

    def task(unit: str, folder: Path) -> Counts:
        rows = [{"image_id": i, "noun": os.urandom(50).hex()} for i in range(50_000)]
        tables.write_part(folder / "x.parquet", "nouns", rows, "f")
        return {}

    with pytest.raises(OvsegError, match="no space left"):
        commit(small_disk, "00000", task)


def test_other_trouble_with_files_is_not_called_a_full_disk(tmp_path: Path) -> None:
    """What the user can mend is said as what it is; what only an expert can is an error of Python."""

    def task(error: OSError) -> Task:
        def fail(unit: str, folder: Path) -> Counts:
            raise error

        return fail

    with pytest.raises(OvsegError, match=r"permission denied for here"):
        commit(tmp_path, "00000", task(PermissionError(errno.EACCES, "no", "here")))
    for number in (errno.EIO, errno.ESTALE):
        with pytest.raises(OSError, match="odd"):
            commit(tmp_path, "00000", task(OSError(number, "odd")))


def test_replacing_a_folder_leaves_one(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    replace_folder(tmp_path / "a", tmp_path / "b")
    assert [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*"))] == ["b", "b/a"]


def test_the_work_folder_and_the_options_of_stages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """OVSEG_WORK first, else the user's cache; numbers that are none are an error that names them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OVSEG_WORK", "here")
    assert work_folder() == tmp_path / "here"
    monkeypatch.delenv("OVSEG_WORK")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert work_folder() == tmp_path / "cache" / "ovseg" / "work"
    monkeypatch.setenv("OVSEG_DEVICE", "cuda:0, cuda:1")
    monkeypatch.setenv("OVSEG_WORKERS", "3")
    found = from_environment()
    assert found.devices == ("cuda:0", "cuda:1") and found.workers == 3 and found.executor == "local"
    for value in ("0", "two", "-1", ""):
        monkeypatch.setenv("OVSEG_BATCH_SIZE", value)
        with pytest.raises(OvsegError, match="OVSEG_BATCH_SIZE"):
            from_environment()
    with pytest.raises(OvsegError, match="device"):
        devices(" , ")


@pytest.mark.parametrize("driver", ["nvidia0", "dxg", "kfd"])
def test_auto_finds_gpus_of_nvidia_wsl_and_rocm(driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the files of their drivers, so that torch is imported only where there is one."""
    monkeypatch.setattr("ovseg.engine.runtime.GPU_FILES", [f.replace("/dev", str(tmp_path)) for f in GPU_FILES])
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert devices("auto") == ("cpu",)
    (tmp_path / driver).touch()
    assert devices("auto") == ("cuda:0", "cuda:1")


def test_only_the_cores_that_this_process_may_use_count() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from ovseg.engine.runtime import Runtime; "
    )
    done = subprocess.run([sys.executable, "-c", f"{code} print(Runtime().workers)"], capture_output=True, check=True)
    assert done.stdout == b"1\n"


def test_a_done_mark_is_written_in_the_workers_own_folder(tmp_path: Path) -> None:
    """So two workers may finish the same unit at the same moment: neither meets a file that the other is writing."""
    (tmp_path / "00000.done.json.tmp").mkdir()  # in the place where both would write
    commit(tmp_path, "00000", lambda unit, folder: {"things": (folder / f"{unit}.txt").write_text("x")})
    assert json.loads((tmp_path / "00000.done.json").read_text())["counts"] == {"things": 1}
    assert {path.name for path in tmp_path.iterdir()} == {"00000.txt", "00000.done.json", "00000.done.json.tmp"}
