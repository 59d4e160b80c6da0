"""Weights files of others: what is read, what is refused and why, and that no code of a pickle ever runs."""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ovseg.core.checkpoints import read_weights, shards
from ovseg.core.errors import OvsegError
from ovseg.core.foreign_objects import extract_weights, list_foreign_objects

STATE = {
    "module.a.weight": torch.arange(6.0).reshape(2, 3),
    "module.a.bias": torch.nn.Parameter(torch.ones(2)),
    "b": torch.zeros(3, dtype=torch.bfloat16),
}
EXPECTED = {"a.weight": STATE["module.a.weight"], "a.bias": STATE["module.a.bias"].detach(), "b": STATE["b"]}
FORMATS = [(True, 2), (True, 4), (False, 2), (False, 4)]
"""Zip file or torch's older format, and the pickle protocol."""


class Runs:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


class Config(dict[str, Any]):
    """A config class of somebody's training code."""


class Names(list[str]):
    """A list class of somebody's training code."""


def same(state: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return state.keys() == expected.keys() and all(
        torch.equal(tensor, expected[name]) and tensor.dtype == expected[name].dtype for name, tensor in state.items()
    )


def save(path: Path, content: object, zipped: bool = True, protocol: int = 2) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    return path


@pytest.mark.parametrize("content", [STATE, {"state_dict": STATE, "epoch": 3}, {"model": STATE, "lr": {0.1, 1}}])
@pytest.mark.parametrize("zipped", [True, False])
def test_weights_are_read_wherever_a_checkpoint_holds_them(content: Any, zipped: bool, tmp_path: Path) -> None:
    assert same(read_weights(save(tmp_path / "x.pt", content, zipped)), EXPECTED)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_are_read_as_one_checkpoint(suffix: str, tmp_path: Path) -> None:
    index: dict[str, dict[str, str]] = {"metadata": {}, "weight_map": {}}
    for i, (name, tensor) in enumerate(EXPECTED.items()):
        file = f"model-{i}-of-3.{suffix}"
        (save_file if suffix == "safetensors" else torch.save)({name: tensor.detach()}, tmp_path / file)
        index["weight_map"][name] = file
    path = tmp_path / f"model.{suffix}.index.json"
    path.write_text(json.dumps(index))
    assert same(read_weights(path), EXPECTED)
    assert [file.name for file in shards(path)] == [f"model-{i}-of-3.{suffix}" for i in range(3)]
    (tmp_path / f"model-1-of-3.{suffix}").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0")
    with pytest.raises(OvsegError, match=r"model-1-of-3.*git lfs pull"):
        read_weights(path)
    (tmp_path / f"model-1-of-3.{suffix}").unlink()
    with pytest.raises(OvsegError, match=r"index\.json.*model-1-of-3"):
        read_weights(path)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": "../b.bin"}}', '{"weight_map": {"a": 1}}']
)
def test_a_damaged_index_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors.index.json"
    path.write_text(content)
    with pytest.raises(OvsegError, match=r"x\.safetensors\.index\.json"):
        read_weights(path)


CASES: dict[str, tuple[Any, str]] = {
    "arguments": ({"state_dict": STATE, "args": argparse.Namespace(lr=1)}, "argparse.Namespace"),
    "a number of NumPy": ({"state_dict": STATE, "best": np.float64(3)}, "numpy"),
    "a path": ({"model": STATE, "paths": {Path("x"): {Path("y")}}}, "pathlib.PosixPath"),
    "a time": ({"model": STATE, "when": datetime.datetime(2020, 1, 1)}, "datetime.datetime"),
    "a default": ({"state_dict": collections.defaultdict(list, STATE)}, "collections.defaultdict"),
    "a config": ({"state_dict": STATE, "config": Config(a=Config(b=1))}, "test_checkpoints.Config"),
    "a list": ({"state_dict": STATE, "names": Names(["a", "b"])}, "test_checkpoints.Names"),
    "an optimizer": ({"state_dict": STATE, "optimizer": torch.optim.SGD([torch.zeros(1)])}, "torch.optim.sgd.SGD"),
}


@pytest.mark.parametrize(("zipped", "protocol"), FORMATS)
@pytest.mark.parametrize("case", CASES)
def test_other_objects_are_named_and_the_tensors_can_be_had(
    case: str, zipped: bool, protocol: int, tmp_path: Path
) -> None:
    """The refusal names the object and the command; what the command writes holds the same tensors, bit for bit."""
    content, name = CASES[case]
    path = save(tmp_path / "x.pt", content, zipped, protocol)
    with pytest.raises(OvsegError, match=f"{name}.*ovseg extract-weights {path}"):
        read_weights(path)
    number, objects = extract_weights(path, tmp_path / "x.safetensors")
    assert number == 3 and any(name in found for found in objects)
    assert same(read_weights(tmp_path / "x.safetensors"), EXPECTED)


@pytest.mark.parametrize(("zipped", "protocol"), FORMATS)
def test_a_whole_module_gives_its_state(zipped: bool, protocol: int, tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Sequential(torch.nn.BatchNorm1d(3)))
    path = save(tmp_path / "x.pt", module, zipped, protocol)
    with pytest.raises(OvsegError, match=r"torch\.nn\.modules\.batchnorm\.BatchNorm1d"):
        read_weights(path)
    extract_weights(path, tmp_path / "x.safetensors")
    assert same(load_file(tmp_path / "x.safetensors"), dict(module.state_dict()))


@pytest.mark.parametrize(("zipped", "protocol"), FORMATS)
def test_no_code_is_run(zipped: bool, protocol: int, tmp_path: Path) -> None:
    """Neither by reading, nor by listing, nor by extracting; and such a file is called what it is."""
    harm = tmp_path / "harm"
    path = save(tmp_path / "x.pt", {"state_dict": STATE, "x": Runs(f"touch {harm}")}, zipped, protocol)
    with pytest.raises(OvsegError, match=r"posix\.system.*do not trust"):
        read_weights(path)
    assert list_foreign_objects(path) == ["posix.system"]
    extract_weights(path, tmp_path / "x.safetensors")
    assert same(read_weights(tmp_path / "x.safetensors"), EXPECTED) and not harm.exists()


@pytest.mark.parametrize("name", ["eval", "exec", "getattr", "__import__", "open"])
def test_functions_of_python_are_not_called(name: str, tmp_path: Path) -> None:
    code = b"\x80\x02cbuiltins\n" + name.encode() + b"\n(X\x06\x00\x00\x001 / 0 tR."
    torch.save(STATE, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    head = (tmp_path / "x.pt").read_bytes()
    torch_head = head[: head.index(b".", head.index(b"long")) + 1]  # magic number, protocol, sizes of types
    (tmp_path / "x.pt").write_bytes(torch_head + code + pickle.dumps([], 2))
    with pytest.raises(OvsegError, match=f"builtins.{name}|damaged"):
        read_weights(tmp_path / "x.pt")
    with pytest.raises(OvsegError, match="no dict of tensors"):
        extract_weights(tmp_path / "x.pt", tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("x.pt", b"", "empty"),
        ("x.safetensors", b"", "empty"),
        ("x.bin", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9", "git lfs pull"),
        ("x.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9", "git lfs pull"),
        ("x.pt", b"<!DOCTYPE html><html>login</html>", "web page"),
        ("x.pt", b"hello" * 99, "damaged"),
        ("x.safetensors", b"hello" * 99, "header"),
        ("x.pkl", pickle.dumps({"a": np.zeros(3)}), "x.pkl"),
        ("missing.pt", None, "No such file"),
    ],
)
def test_what_is_no_checkpoint_is_said_with_the_reason(
    name: str, content: bytes | None, problem: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(OvsegError, match=problem) as raised:
        read_weights(tmp_path / name)
    assert "weights_only" not in str(raised.value)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("part", [0.5, 0.98])
def test_a_file_that_is_cut_off_is_damaged(zipped: bool, part: float, tmp_path: Path) -> None:
    path = save(tmp_path / "x.pt", STATE, zipped)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(OvsegError, match="cannot read"):
        read_weights(path)


def test_a_suffix_that_is_wrong_is_said(tmp_path: Path) -> None:
    save_file({name: tensor.detach() for name, tensor in EXPECTED.items()}, tmp_path / "x.pt")
    with pytest.raises(OvsegError, match=r"rename it to \.safetensors"):
        read_weights(tmp_path / "x.pt")
    for zipped in (True, False):
        with pytest.raises(OvsegError, match=r"rename it to \.pt"):
            read_weights(save(tmp_path / "y.safetensors", STATE, zipped))
    with pytest.raises(OvsegError, match="folder"):
        read_weights(tmp_path)


@pytest.mark.parametrize("content", [[], {"a": 1}, {"state_dict": {"a": "b"}}, "text"])
def test_a_checkpoint_without_tensors_is_refused(content: Any, tmp_path: Path) -> None:
    path = save(tmp_path / "x.pt", content)
    with pytest.raises(OvsegError, match="no dict of tensors"):
        read_weights(path)
    with pytest.raises(OvsegError, match="no dict of tensors"):
        extract_weights(path, tmp_path / "x.safetensors")


def test_extracting_writes_over_nothing(tmp_path: Path) -> None:
    path = save(tmp_path / "x.pt", STATE)
    (tmp_path / "there.safetensors").touch()
    for name in ("there.safetensors", "x.bin"):
        with pytest.raises(OvsegError, match=name):
            extract_weights(path, tmp_path / name)
    with pytest.raises(OvsegError, match=r"none\.pt"):
        extract_weights(tmp_path / "none.pt", tmp_path / "y.safetensors")
