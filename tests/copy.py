"""Copy the repository, with a git history and a DVC cache of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

DVC = [sys.executable, "-m", "dvc"]


class Copy:
    """A copy of the repository, and commands to run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        scripts = str(Path(sys.executable).parent)
        variables = {k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "DVC_", "PYTHONPATH"))}
        self.env = {
            **variables,
            "PATH": f"{scripts}{os.pathsep}{variables['PATH']}",
            "PYTHONPATH": str(folder / "pipeline"),
            "OVSEG_WORK": str(folder.parent / "work"),
            "GIT_CONFIG_GLOBAL": os.devnull,
        }

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        process = subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=600)
        assert not check or process.returncode == 0, process.stdout + process.stderr
        return process

    def dvc(self, *arguments: str, check: bool = True) -> str:
        process = self.run(*DVC, *arguments, check=check)
        return process.stdout + process.stderr

    @contextmanager
    def other_parameters(self, old: str = "", new: str = "") -> Iterator[None]:
        """Replace a text of params.yaml, or let a command do so; afterwards the file is as it was."""
        path = self.folder / "params.yaml"
        before = path.read_text(encoding="utf-8")
        assert old in before
        path.write_text(before.replace(old, new, 1), encoding="utf-8")
        try:
            yield
        finally:
            path.write_text(before, encoding="utf-8")

    def experiment(self, *settings: str, targets: Sequence[str] = ()) -> str:
        """Run `dvc exp run` with `-S` for each setting."""
        with self.other_parameters():
            return self.dvc("exp", "run", *targets, *(word for setting in settings for word in ("-S", setting)))

    def provenance(self, model: str) -> list[str]:
        """The training stages that made the model in a folder of models/, in order."""
        text = (self.folder / "models" / model / "provenance.json").read_text()
        return [step["stage"] for step in json.loads(text)["steps"]]

    def metrics(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "reports" / "metrics.json").read_text()))

    def commit(self, message: str) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", message)


def copy_repository(folder: Path) -> Copy:
    """Copy all files that git tracks or would add, but no dvc.lock, so that DVC knows of no earlier run."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and not name.endswith("dvc.lock"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    copy = Copy(folder)
    copy.run("git", "init", "-q", "-b", "main")
    copy.run("git", "config", "user.email", "test@example.org")
    copy.run("git", "config", "user.name", "test")
    return copy


def stages_ran(output: str) -> list[str]:
    """The stages that DVC ran, in order, according to its output."""
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]
