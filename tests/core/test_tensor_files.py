"""Tensors that are kept: for whoever shares the folder, all of a file or nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ovseg.core.tensor_files import keep_tensors, read_kept_tensors

TENSORS = {"x": torch.arange(3.0)}


@pytest.fixture
def group_umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def test_kept_tensors_have_the_permissions_of_the_umask(group_umask: None, tmp_path: Path) -> None:
    path = tmp_path / "new" / "kept.safetensors"
    keep_tensors(TENSORS, path)
    assert path.stat().st_mode & 0o777 == 0o640
    assert torch.equal(read_kept_tensors(path)["x"], TENSORS["x"])


def test_an_error_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def replace(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, "no space left", str(target))

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(OSError, match="no space left"):
        keep_tensors(TENSORS, tmp_path / "kept.safetensors")
    assert not list(tmp_path.iterdir())
