"""The command `ovseg` around models: conversion of checkpoints of others, and the tensors of refused ones."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from ovseg.cli.app import app
from ovseg.clip.adapted import load_adapted
from tests.clip.test_from_transformers import write


def call(*arguments: object) -> str:
    """Run `ovseg` with these arguments; its output."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_the_tensors_of_a_refused_checkpoint_are_written_to_a_file(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(2)}, "args": argparse.Namespace()}, tmp_path / "x.pt")
    output = call("extract-weights", tmp_path / "x.pt", tmp_path / "new" / "x.safetensors")
    assert "1 tensors" in output and "argparse.Namespace" in output
    assert torch.equal(load_file(tmp_path / "new" / "x.safetensors")["a"], torch.ones(2))


def test_a_folder_of_transformers_is_converted(tmp_path: Path) -> None:
    write(tmp_path / "source")
    assert f"local-dir:{tmp_path / 'out'}" in call("convert-checkpoint", tmp_path / "source", "--out", tmp_path / "out")
    assert load_adapted(tmp_path / "out").width == 16
