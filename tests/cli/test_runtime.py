"""Environment variables are what the runtime options of commands default to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ovseg.cli import segment
from ovseg.cli.app import app
from ovseg.cli.runtime import CpuRuntime, ModelRuntime
from ovseg.core.errors import OvsegError
from ovseg.engine.runtime import from_environment

VARIABLES = {"DEVICE": "cuda:3", "WORKERS": "5", "BATCH_SIZE": "7", "EXECUTOR": "slurm", "UNIT_TIMEOUT": "9"}


@pytest.fixture(autouse=True)
def _variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(f"OVSEG_{name}", value)


def test_options_that_are_not_given_are_those_of_the_stages() -> None:
    assert ModelRuntime().runtime() == from_environment()
    assert ModelRuntime().runtime().devices == ("cuda:3",)


def test_options_that_are_given_come_before_the_variables() -> None:
    given = ModelRuntime(device="cpu", workers=1, batch_size=2, executor="local", unit_timeout=3, max_dropped=0.1)
    found = given.runtime()
    assert (found.devices, found.workers, found.batch_size, found.executor) == (("cpu",), 1, 2, "local")
    assert (found.unit_timeout, found.max_dropped) == (3, 0.1)


def test_a_step_without_these_options_runs_on_the_cpus_of_this_machine() -> None:
    found = CpuRuntime().runtime()
    assert (found.devices, found.executor, found.workers) == (("cpu",), "local", 5)


def test_the_variables_count_for_segmentations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    called: dict[str, Any] = {}
    monkeypatch.setattr(segment, "segment_with", lambda **values: called.update(values))
    command = ["segment", str(tmp_path), "--names", "cat"]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert (called["device"], called["batch_size"]) == ("cuda:3", 7)
    assert CliRunner().invoke(app, [*command, "--device", "cpu", "--batch-size", "2"]).exit_code == 0
    assert (called["device"], called["batch_size"]) == ("cpu", 2)
    monkeypatch.setenv("OVSEG_BATCH_SIZE", "many")
    with pytest.raises(OvsegError, match="OVSEG_BATCH_SIZE='many'"):
        CliRunner().invoke(app, command, catch_exceptions=False)
