"""Odd machines: users without a name or a home, folders that cannot be written to, umasks that forbid, and `~`.

What needs another user than root is done in a forked process that gives up its rights.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from ovseg.core.errors import OvsegError, describe_os_error
from ovseg.core.files import expand_home, user_cache
from ovseg.core.options import ClipOptions, IndexOptions
from ovseg.engine.fingerprint import StepKey
from ovseg.engine.runtime import Runtime, work_folder
from ovseg.engine.steps import run_step
from ovseg.engine.units import Counts, Task
from ovseg.engine.weight_files import fetch_from_hub
from tests.conftest import ROOT

NOBODY = 54321  # a user without a line in /etc/passwd


def factory(_device: str) -> Task:
    def task(unit: str, folder: Path) -> Counts:
        (folder / f"{unit}.txt").write_text(unit)
        return {"things": 1}

    return task


def step(out: Path, work: Path) -> None:
    run_step(StepKey("step", "k", {}), ["0", "1"], factory, out, Runtime(workers=1, work=work))


def as_nobody(function: Callable[[], object], umask: int = 0o022) -> str:
    """What a function says, called by a user without a name, without a home and without rights: its error, or "done"."""
    if os.geteuid():
        pytest.skip("only root can become another user")
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        os.umask(umask)
        os.environ.pop("HOME", None)
        try:
            function()
            text = "done"
        except OvsegError as error:
            text = str(error)
        except BaseException as error:
            text = f"not an OvsegError: {error!r}"
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        text = stream.read()
    os.waitpid(child, 0)
    return text


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder that everybody may write to."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == os.geteuid():
            parent.chmod(parent.stat().st_mode | 0o011)
    return folder


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A file system that can only be read."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,ro", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("a disk cannot be mounted here: that takes the rights of root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_user_without_name_and_home_works_where_a_work_folder_is_given(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert as_nobody(lambda: step(shared / "out", shared / "work")) == "done"
    assert (shared / "out" / "0.txt").read_text() == "0"
    monkeypatch.delenv("OVSEG_WORK")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert "set OVSEG_WORK" in as_nobody(work_folder)
    assert "set HOME" in as_nobody(lambda: expand_home("~/x"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_CACHE", "~/.cache/huggingface/hub")  # what it is without a home folder
        with pytest.raises(OvsegError, match="set HF_HOME"):
            fetch_from_hub("the weights", "someone/model", ["model.safetensors"])
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared))
    assert as_nobody(work_folder) == "done"


@pytest.mark.parametrize("umask", [0o777, 0o277, 0o300])
def test_a_umask_that_keeps_the_owner_out_is_said(umask: int, shared: Path) -> None:
    text = as_nobody(lambda: step(shared / "out", shared / "work"), umask)
    assert f"umask {umask:03o}" in text and str(shared / "work") in text


@pytest.mark.parametrize("umask", [0o077, 0o027])
def test_a_umask_that_keeps_others_out_is_fine(umask: int, shared: Path) -> None:
    assert as_nobody(lambda: step(shared / "out", shared / "work"), umask) == "done"


def test_a_folder_of_somebody_else_is_said(shared: Path, tmp_path: Path) -> None:
    """As work folder, as output, and as the folder above either; what belongs to others is left alone."""
    (tmp_path / "mine").mkdir(mode=0o755)
    for out, work in ((shared / "out", tmp_path / "mine"), (tmp_path / "mine" / "out", shared / "work")):
        text = as_nobody(lambda out=out, work=work: step(out, work))  # type: ignore[misc]
        assert "permission denied" in text and str(tmp_path / "mine") in text and "umask" not in text
    assert not list((tmp_path / "mine").iterdir())


def test_a_file_system_that_can_only_be_read_is_said(read_only: Path, tmp_path: Path) -> None:
    for out, work in ((tmp_path / "out", read_only / "work"), (read_only / "out", tmp_path / "work")):
        with pytest.raises(OvsegError, match=f"{read_only}.*read-only"):
            step(out, work)


def test_a_file_where_a_folder_is_needed_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for work in (tmp_path / "file", tmp_path / "file" / "work"):
        with pytest.raises(OvsegError, match=f"{tmp_path / 'file'}.*folder"):
            step(tmp_path / "out", work)
    with pytest.raises(OvsegError, match=f"{tmp_path / 'file'}"):
        step(tmp_path / "file" / "out", tmp_path / "work")
    with pytest.raises(OvsegError, match="too long"):
        step(tmp_path / "out", tmp_path / ("x" * 300))


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (OSError(errno.ENOLCK, "No locks available", "/nfs/lock"), "/nfs/lock has no locks"),
        (OSError(errno.ENOSYS, "not implemented", "/fuse/lock"), "/fuse/lock has no locks"),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"), "set TMPDIR"),
        (OSError(errno.EROFS, "Read-only file system", "/a", None, "/b"), "/b is on a read-only file system"),
        (FileNotFoundError(errno.ENOENT, "No such file", "/x"), None),
    ],
)
def test_what_a_user_can_mend_is_a_sentence(error: OSError, problem: str | None) -> None:
    text = describe_os_error(error)
    assert text is None if problem is None else text is not None and problem in text


def test_the_home_folder_is_put_for_a_tilde_that_begins_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/h")
    assert expand_home("~") == "/h" and expand_home("~/a/~b") == "/h/a/~b"
    assert expand_home("local-dir:~/clip") == "local-dir:/h/clip" and expand_home("--out=~/x") == "--out=/h/x"
    for text in ("a~/b", "cat ~ dog", "x:~y", "", "http://host/~user/", "/a/~/b"):
        assert expand_home(text) == text
    monkeypatch.setenv("HOME", "/")
    assert expand_home("~/x") == "/x"
    with pytest.raises(OvsegError, match="no such user"):
        expand_home("~nobody-of-that-name/x")


def test_a_tilde_in_parameters_and_variables_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/h")
    options = IndexOptions(images=Path("~/images"), captions=Path("~/c.json"))
    assert options.images == Path("/h/images") and options.captions == Path("/h/c.json")
    clip = ClipOptions(model="local-dir:~/clip", pretrained="~/weights.pt")
    assert (clip.model, clip.pretrained) == ("local-dir:/h/clip", "/h/weights.pt")
    monkeypatch.setenv("OVSEG_WORK", "~/work")
    assert work_folder() == Path("/h/work")
    monkeypatch.setenv("XDG_CACHE_HOME", "~/cache")
    assert user_cache() == Path("/h/cache")


@pytest.mark.parametrize("arguments", [["--out=~/run"], ["--out", "~/run"]])
def test_a_tilde_on_the_command_line_is_the_home_folder(arguments: list[str], tmp_path: Path) -> None:
    """Also where shells leave it: behind an equals sign, and behind the colon of a source or a model."""
    run = [
        "-m",
        "ovseg.cli.mine",
        "run",
        "--images=~/i",
        "--captions",
        "~/c.json",
        "--proposals",
        "ground_truth:~/g.json",
    ]
    result = subprocess.run(
        [sys.executable, *run, "--clip", "local-dir:~/clip", *arguments],
        env={**os.environ, "HOME": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert result.stderr.startswith("Error:") and str(tmp_path) in result.stderr and "~" not in result.stderr
