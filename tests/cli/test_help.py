"""The help of every command fits a terminal of 80 columns and shows an example that the command understands."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from ovseg.cli.app import app
from ovseg.cli.examples import show_example
from ovseg.cli.mine import app as mine
from stages._run import _example
from tests.conftest import ROOT

PROGRAMS = {"ovseg": app, "ovseg-mine": mine}


def _walk(path: tuple[str, ...], command: Any) -> Iterator[tuple[str, ...]]:
    """The names of a command and of all below it."""
    yield path
    for name, below in getattr(command, "commands", {}).items():
        yield from _walk((*path, name), below)


def _command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that words of a shell call, and its arguments."""
    command, rest = typer.main.get_command(PROGRAMS[words[0]]), words[1:]
    while hasattr(command, "commands"):
        command, rest = command.commands[rest[0]], rest[1:]
    return command, rest


def _words(example: str) -> list[str]:
    """The words that a shell reads: a backslash at the end of a line joins it with the next."""
    return shlex.split(example.replace("\\\n", ""))


PATHS = [path for program, group in PROGRAMS.items() for path in _walk((program,), typer.main.get_command(group))]


@pytest.fixture(params=PATHS, ids=" ".join)
def path(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The words that call each command and each group of them."""
    return tuple(request.param)


def _help(path: tuple[str, ...]) -> str:
    done = CliRunner().invoke(PROGRAMS[path[0]], [*path[1:], "--help"], prog_name=path[0], terminal_width=80)
    assert done.exit_code == 0, done.output
    return done.output


def test_no_line_is_longer_than_80_columns_and_nothing_is_cut(path: tuple[str, ...]) -> None:
    text = _help(path)
    lines = [line.rstrip() for line in text.splitlines() if not line.startswith("Usage:")]
    assert max(map(len, text.splitlines())) <= 80
    assert not [line for line in lines if line.endswith(("...", "…"))]
    assert "[app]" in text or path != ("ovseg", "app")  # brackets are no markup
    command = typer.main.get_command(PROGRAMS[path[0]])
    for name in path[1:]:
        command = command.commands[name]  # type: ignore[attr-defined]
    missing = [option for one in command.params for option in one.opts if option not in text]
    assert not missing


def test_the_example_is_a_command_whose_options_are_all_valid(
    path: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "coco").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    example = _help(path).partition("  Example:\n")[2].partition("\n\n")[0]
    words = _words(example)
    assert tuple(words[: len(path)]) == path
    command, arguments = _command(words)
    command.make_context(words[0], arguments)  # raises an error about the first argument that it does not understand


def test_an_example_is_broken_before_an_option_and_never_in_a_quoted_text() -> None:
    text = 'About.\n\nExample: mine --images photos --names "kite, tree | bush, grass" --flag --numbers 1 2 --out some/folder'
    lines = show_example(text).partition("Example:\n")[2].splitlines()
    assert all(line.endswith(" \\") for line in lines[:-1]) and len(lines) == 2
    assert _words("\n".join(lines)) == shlex.split(text.partition("Example: ")[2])
    assert show_example("About.") == "About."


@pytest.mark.parametrize("stage", ["select", "prompt"])
def test_the_help_of_a_stage_has_an_example_and_runs_nothing(stage: str) -> None:
    command = [sys.executable, "-m", f"stages.{stage}", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.startswith(f"Stage `{stage}`") and not done.stderr
    assert done.stdout.endswith(f"Example:\n  dvc repro {stage}\n")
    assert ("--max-steps N" in done.stdout) == (stage == "prompt")


def test_the_example_of_a_script_names_the_file_of_its_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    modules = ("stages.proposal_network", "stages.download", "data.demo.draw", "data.demo.train_clip")
    assert [_example(module) for module in modules] == [
        "dvc repro proposal_network",
        "dvc repro data/ade20k/dvc.yaml",
        "dvc repro data/demo/dvc.yaml",
        "python -m data.demo.train_clip",
    ]
