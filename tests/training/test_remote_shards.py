"""Shards in object storage are read as those of this machine, also where the storage fails for a while."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ovseg.core import retries
from ovseg.core.errors import OvsegError
from ovseg.core.options import CropOptions, FinetuneOptions
from ovseg.core.paths import to_path
from ovseg.engine.runtime import Runtime
from ovseg.mining.shards import CLIP_MEAN
from ovseg.training.adapt import adapt
from ovseg.training.loader import Batch, endless_batches, load_shards
from ovseg.training.texts import read_nouns
from tests.conftest import digests
from tests.object_storage import Storage, upload


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "PAUSES", (0.01, 0.01))


def read(folder: Path, **options: Any) -> list[Batch]:
    return list(load_shards(folder, 16, 4, mean=CLIP_MEAN, crop_scale=0.5, **options))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_this_machine_past_faults(s3: Storage, shards: Path, workers: int) -> None:
    there = upload(shards, to_path("s3://mining/shards"))
    s3.faults |= {"GET 00000.tar": ["cut", "500"], "GET 00002.tar": ["slow"], "GET sizes.json": ["500", "cut"]}
    for local, remote in zip(read(shards, workers=workers), read(there, workers=workers), strict=True):
        assert local["key"] == remote["key"] and local["text"] == remote["text"]
        assert torch.equal(local["crop"], remote["crop"]) and torch.equal(local["mask"], remote["mask"])
    assert not any(s3.faults.values())
    assert read_nouns(there) == read_nouns(shards)


def test_a_shard_that_stays_unreadable_or_is_missing_ends_the_epoch(s3: Storage, shards: Path) -> None:
    there = upload(shards, to_path("s3://mining/shards"))
    s3.faults["GET 00001.tar"] = ["500 always"]
    options = {"fill": "mean", "antialias": True, "workers": 1, "crop_scale": 1.0, "seed": 0}
    with pytest.raises(OvsegError, match=r"a shard cannot be read: .*`ovseg-mine verify` says which"):
        for _ in zip(range(40), endless_batches(there, 16, 4, mean=CLIP_MEAN, **options), strict=False):  # type: ignore[arg-type]
            pass
    (there / "00001.tar").unlink()
    with pytest.raises(OvsegError, match=r"s3://mining/shards/00001.tar is listed in .* and missing"):
        read(there)


def test_a_folder_without_its_manifest_is_not_finished(s3: Storage, shards: Path) -> None:
    (shards / "step.json").unlink()
    there = upload(shards, to_path("s3://mining/shards"))
    with pytest.raises(OvsegError, match=r"s3://mining/shards holds no finished shards \(no step.json\)"):
        read(there)


def test_a_clip_that_is_trained_on_remote_shards_is_the_same(
    s3: Storage, shards: Path, base: Path, tmp_path: Path, runtime: Runtime
) -> None:
    """Where the shards are is no part of what is trained: the result of one is reused for the other."""
    there = upload(shards, to_path("s3://mining/shards"))
    files = {name: digest for name, digest in digests(shards).items() if name != "step.json"}
    manifest = json.dumps({"fingerprint": "pairs", "counts": {}, "files": files})
    for folder in (shards, there):
        (folder / "step.json").write_text(manifest, encoding="utf-8")
    source = {"mask_source": "ground_truth", "mask_licence": None}
    options = FinetuneOptions(epochs=1, batch_size=16, warmup_steps=1, precision="fp32", templates="single")
    for name, folder in (("local", shards), ("remote", there)):
        changed = options.model_copy(update={"shards": folder})
        adapt(
            base,
            folder,
            tmp_path / name,
            replace(runtime, work=tmp_path / f"{name}_work"),
            changed,
            CropOptions(),
            source,
        )
    assert digests(tmp_path / "local") == digests(tmp_path / "remote")
