"""The benchmark of the whole demo, on a small repository with stages of its own: what it clones, times and says."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks import repro
from benchmarks.results import Options

DAG = """
stages:
  first:
    cmd: python -c "open('one', 'w').write('1')"
    outs: [one]
  many:
    matrix:
      name: [a, b]
    cmd: {command}
    deps: [one]
"""
DVC_PROJECT = "[core]\n    analytics = false\n    check_update = false\n"


def make_repository(folder: Path, command: str) -> Path:
    """A git repository with DVC's stages `first`, `many@a` and `many@b`; the last two run a command."""
    files = {
        "dvc.yaml": DAG.format(command=command),
        "dvc.lock": "schema: '2.0'\nstages: {}\n",
        ".dvc/config": DVC_PROJECT,
        "params.yaml": "size: large\n",
        "recipes/tiny.yaml": "size: small\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "-c", "user.email=test@example.org", "-c", "user.name=test", "commit", "-qm", "all")
    return folder


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(folder), *arguments], check=True)


def test_a_stage_lasts_until_the_next_begins_and_those_of_a_matrix_are_summed() -> None:
    began = [
        (repro.BEFORE, 0.0),
        ("data/demo/dvc.yaml:draw", 2.0),
        ("measure@base", 10.0),
        ("index", 14.0),
        ("measure@b", 15.0),
    ]
    assert repro.rows(began, 20.0) == [
        {"stage": repro.BEFORE, "runs": 1, "seconds": 2.0},
        {"stage": "draw", "runs": 1, "seconds": 8.0},
        {"stage": "measure", "runs": 2, "seconds": 9.0},
        {"stage": "index", "runs": 1, "seconds": 1.0},
        {"stage": "total", "runs": 1, "seconds": 20.0},
    ]


def test_a_clone_has_what_is_committed_and_says_that_changes_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = make_repository(tmp_path / "repository", "echo")
    commit = repro.clone(repository, tmp_path / "clean")
    assert capsys.readouterr().out == ""
    (repository / "params.yaml").write_text("size: changed\n", encoding="utf-8")
    assert repro.clone(repository, tmp_path / "changed") == commit
    assert f"commit {commit} is measured" in capsys.readouterr().out
    for folder in (tmp_path / "clean", tmp_path / "changed"):
        assert (folder / "params.yaml").read_text(encoding="utf-8") == "size: large\n"
        assert not (folder / "dvc.lock").exists()


def test_every_stage_is_timed_and_progress_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each stage of the matrix takes half a second, and sees the tiny recipe, its own work folder and nobody's settings."""
    command = 'grep -q small params.yaml && test ! -e $OVSEG_WORK && test -z "$OVSEG_WORKERS" && sleep 0.5'
    monkeypatch.setattr(repro, "ROOT", make_repository(tmp_path / "repository", command))
    monkeypatch.setenv("OVSEG_WORKERS", "1")
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(tmp_path / "settings"))
    (tmp_path / "scratch").mkdir()
    result = repro.run(Options(tmp_path / "scratch", smoke=True))
    seconds = {row["stage"]: float(row["seconds"]) for row in result.rows}
    assert list(seconds) == [repro.BEFORE, "first", "many", "total"]
    assert seconds["many"] >= 1 and sum(seconds.values()) == pytest.approx(2 * seconds["total"])
    assert [row["runs"] for row in result.rows] == [1, 1, 2, 1]
    assert result.targets == [] and 0 < float(result.setup["cores busy"]) <= 1
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in shown if line.endswith("begins")] == ["first", "many@a", "many@b"]


def test_a_stage_that_fails_is_said_with_the_exit_code_and_the_end_of_the_output(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "repository", "echo no memory is left; exit 3")
    repro.clone(repository, tmp_path / "clone")
    with pytest.raises(SystemExit, match=r"failed with exit code \d+ after \d+ s, in many@a") as failed:
        repro.reproduce(tmp_path / "clone")
    assert "no memory is left" in str(failed.value) and "exited with 3" in str(failed.value)
