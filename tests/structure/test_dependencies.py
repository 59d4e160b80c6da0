"""Dependencies: the commands need no DVC, and the lock file pins everything that pyproject.toml names.

A whole run without DVC is in `tests.cli.test_mine`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=!~\[; ]", one)[0].lower().replace("_", "-") for one in requirements}


def test_dvc_is_an_extra() -> None:
    assert not [name for name in names(PROJECT["dependencies"]) if name.startswith("dvc")]
    assert names(EXTRAS["pipeline"]) == {"dvc"}


def test_the_lock_file_pins_every_dependency_with_a_hash() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    pinned = names(re.findall(r"(?m)^([\w.-]+==\S+) \\\n +--hash=sha256:", lock))
    assert names(sum(EXTRAS.values(), PROJECT["dependencies"])) <= pinned


@pytest.mark.parametrize("module", ["ovseg.cli.mine", "ovseg.cli.app"])
def test_the_commands_answer_without_dvc(module: str, without_dvc: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", module, "--help"]
    environment = {**os.environ, **without_dvc}
    assert subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, timeout=120).returncode == 0
