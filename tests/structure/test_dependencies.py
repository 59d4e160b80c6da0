"""Dependencies: mining and segmentation need no DVC, and the lock file pins everything that pyproject.toml names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Coco

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
BLOCKER = """
import sys
from importlib.abc import MetaPathFinder

class NoDvc(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0].startswith("dvc"):
            raise ImportError(f"{name} is not installed")

sys.meta_path.insert(0, NoDvc())
"""


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=!~\[; ]", one)[0].lower().replace("_", "-") for one in requirements}


def test_dvc_is_an_extra() -> None:
    assert not [name for name in names(PROJECT["dependencies"]) if name.startswith("dvc")]
    assert names(EXTRAS["pipeline"]) == {"dvc"}


def test_the_lock_file_pins_every_dependency_with_a_hash() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    pinned = names(re.findall(r"(?m)^([\w.-]+==\S+) \\\n +--hash=sha256:", lock))
    assert names(sum(EXTRAS.values(), PROJECT["dependencies"])) <= pinned


@pytest.fixture
def without_dvc(tmp_path: Path) -> dict[str, str]:
    """Variables of a process in which DVC cannot be imported."""
    (tmp_path / "block").mkdir()
    (tmp_path / "block" / "sitecustomize.py").write_text(BLOCKER, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "block"), str(ROOT / "pipeline")])}
    blocked = subprocess.run([sys.executable, "-c", "import dvc"], env=environment, capture_output=True, text=True)
    assert "dvc is not installed" in blocked.stderr
    return environment


@pytest.mark.parametrize("module", ["ovseg.cli.mine", "ovseg.cli.app"])
def test_the_commands_answer_without_dvc(module: str, without_dvc: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", module, "--help"]
    assert subprocess.run(command, env=without_dvc, cwd=tmp_path, capture_output=True, timeout=120).returncode == 0


def test_a_run_is_mined_without_dvc(
    coco: Coco, tagger: str, tiny_clip: Path, without_dvc: dict[str, str], tmp_path: Path
) -> None:
    options = {"images": coco.images, "captions": coco.captions, "proposals": f"ground_truth:{coco.instances}"}
    options |= {"clip": f"local-dir:{tiny_clip}", "nouns-model": tagger, "workers": 1, "device": "cpu", "out": "mined"}
    command = [sys.executable, "-m", "ovseg.cli.mine", "run"]
    command += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    done = subprocess.run(command, env=without_dvc, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "mined" / "shards").glob("*.tar"))
