"""Checkpoints of transformers on the Hub: downloaded once, then loaded without a network; identified and licensed."""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from ovseg.core import hashing, tables
from ovseg.core.errors import OvsegError
from ovseg.core.options import ProposeOptions
from ovseg.engine.runtime import Runtime
from ovseg.mining.propose import propose_masks
from ovseg.proposals.checkpoint import checkpoint_fingerprint, identify_checkpoint, load_checkpoint
from ovseg.proposals.maskformer import MODELS
from tests.conftest import Coco
from tests.hub import COMMIT, Hub
from tests.proposals.conftest import REPO, WEIGHTS


def propose(index: Path, coco: Coco, out: Path, runtime: Runtime, **options: Any) -> dict[bytes, bytes]:
    """Run the step and return the metadata of the table's first part."""
    propose_masks(index, coco.images, out, runtime, ProposeOptions(mask_threshold=0.3, **options))
    return dict(pq.read_schema(tables.parts(out)[0]).metadata)


def load(model: str) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(model, "maskformer", MODELS, "AutoModelForUniversalSegmentation")[0].state_dict())


def test_a_checkpoint_is_downloaded_once_and_then_needs_no_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Online and offline it equals that of the folder; offline there is no request."""
    online, folder = load(REPO), load(str(hub.root / REPO))
    assert online.keys() == folder.keys() and all(torch.equal(online[name], folder[name]) for name in online)
    monkeypatch.setenv("OVSEG_OFFLINE", "1")
    hub.fresh()
    assert all(torch.equal(weight, online[name]) for name, weight in load(REPO).items())
    assert identify_checkpoint(REPO).revision == COMMIT
    assert hub.asked == []


def test_all_shards_of_weights_are_downloaded_and_hashed(hub: Hub) -> None:
    state = load_file(hub.root / REPO / WEIGHTS)
    names = sorted(state)
    parts = {"model-00001-of-00002.safetensors": names[:50], "model-00002-of-00002.safetensors": names[50:]}
    for part, inside in parts.items():
        save_file({name: state[name] for name in inside}, hub.root / REPO / part, {"format": "pt"})
    weight_map = {name: part for part, inside in parts.items() for name in inside}
    hub.put(REPO, f"{WEIGHTS}.index.json", json.dumps({"metadata": {}, "weight_map": weight_map}).encode())
    from_folder = load(str(hub.root / REPO))
    (hub.root / REPO / WEIGHTS).unlink()
    assert all(torch.equal(weight, from_folder[name]) for name, weight in load(REPO).items())
    before = identify_checkpoint(str(hub.root / REPO)).sha256
    assert identify_checkpoint(REPO).sha256 == before
    hub.put(REPO, "model-00002-of-00002.safetensors", b"other")
    assert identify_checkpoint(str(hub.root / REPO)).sha256 != before


def test_pickled_weights_are_loaded_whole_or_in_shards(hub: Hub) -> None:
    folder = hub.root / REPO
    state, from_safetensors = load_file(folder / WEIGHTS), load(str(folder))
    (folder / WEIGHTS).unlink()
    torch.save(state, folder / "pytorch_model.bin")
    assert all(torch.equal(weight, from_safetensors[name]) for name, weight in load(str(folder)).items())
    (folder / "pytorch_model.bin").unlink()
    weight_map = {name: f"pytorch_model-0000{i % 2 + 1}-of-00002.bin" for i, name in enumerate(state)}
    for part in set(weight_map.values()):
        torch.save({name: state[name] for name, place in weight_map.items() if place == part}, folder / part)
    hub.put(REPO, "pytorch_model.bin.index.json", json.dumps({"metadata": {}, "weight_map": weight_map}).encode())
    for model in (str(folder), REPO):
        assert all(torch.equal(weight, from_safetensors[name]) for name, weight in load(model).items())
    (folder / part).unlink()
    with pytest.raises(OvsegError, match=part):
        load(str(folder))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"args": argparse.Namespace(lr=1)}, r"argparse\.Namespace.*ovseg extract-weights"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"", "empty"),
        (b"PK\x03\x04 and no more", "cut off or damaged"),
    ],
)
def test_weights_that_cannot_be_loaded_say_why(hub: Hub, content: Any, problem: str) -> None:
    folder = hub.root / REPO
    (folder / WEIGHTS).unlink()
    if isinstance(content, bytes):
        (folder / "pytorch_model.bin").write_bytes(content)
    else:
        torch.save(content, folder / "pytorch_model.bin")
    with pytest.raises(OvsegError, match=problem):
        load(str(folder))


@pytest.mark.parametrize(
    ("model", "facts"),
    [
        (REPO, ("the checkpoint someone/maskformer", "models--someone--maskformer", "hf download someone/maskformer")),
        ("facebook/maskformer-swin-base-coco", ("about 0.4 GB", "model*.safetensors")),
    ],
)
def test_offline_a_missing_checkpoint_is_an_error_with_the_remedy(
    hub: Hub,
    index: Path,
    coco: Coco,
    tmp_path: Path,
    runtime: Runtime,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    facts: tuple[str, ...],
) -> None:
    monkeypatch.setenv("OVSEG_OFFLINE", "1")
    with pytest.raises(OvsegError, match="OVSEG_OFFLINE=1") as error:
        propose(index, coco, tmp_path / "out", runtime, source="maskformer", model=model)
    assert all(fact in str(error.value) for fact in facts)
    assert hub.asked == []


def test_a_single_missing_file_is_named(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    load(REPO)
    monkeypatch.setenv("OVSEG_OFFLINE", "1")
    snapshot = hub.cache / "models--someone--maskformer" / "snapshots" / COMMIT
    for name, what in (("preprocessor_config.json", "the image processor of"), (WEIGHTS, "the weights of")):
        (snapshot / name).unlink()
        with pytest.raises(OvsegError, match=f"{what} {REPO} .*OVSEG_OFFLINE=1"):
            load(REPO)


@pytest.mark.parametrize("place", ["hub", "folder"])
def test_the_table_says_which_weights_made_its_masks(
    hub: Hub, index: Path, coco: Coco, tmp_path: Path, runtime: Runtime, place: str
) -> None:
    model = REPO if place == "hub" else str(hub.root / REPO)
    identity = json.loads(
        propose(index, coco, tmp_path / "out", runtime, source="maskformer", model=model)[b"ovseg.network"]
    )
    digest = hashing.sha256_file(hub.root / REPO / WEIGHTS)
    source, revision = (f"hf-hub:{REPO}/{WEIGHTS}", COMMIT) if place == "hub" else ("file", None)
    assert identity == {"model": model, "pretrained": None, "source": source, "revision": revision, "sha256": digest}
    assert list(tables.rows(tmp_path / "out", "proposals"))


def test_a_table_of_masks_that_no_model_made_names_no_model(
    index: Path, coco: Coco, tmp_path: Path, runtime: Runtime
) -> None:
    assert b"ovseg.network" not in propose(
        index, coco, tmp_path / "out", runtime, source="ground_truth", path=coco.instances
    )


def test_the_fingerprint_depends_on_the_files_behind_a_name(hub: Hub) -> None:
    """Other weights and another image processor under the same name change it; another model card does not."""
    before = checkpoint_fingerprint(REPO)
    for name, content, same in (
        ("README.md", b"# Another card\n", True),
        ("preprocessor_config.json", b'{"image_processor_type": "MaskFormerImageProcessor"}', False),
        (WEIGHTS, b"other", False),
    ):
        kept = (hub.root / REPO / name).read_bytes()
        hub.put(REPO, name, content)
        shutil.rmtree(hub.cache)
        assert (checkpoint_fingerprint(REPO) == before) == same, name
        hub.put(REPO, name, kept)


@pytest.mark.parametrize("card", [b"---\nlicense: other\n---\n", b"# no licence\n"])
def test_the_license_of_a_mask_generator_is_logged_once_a_run(
    hub: Hub, index: Path, coco: Coco, tmp_path: Path, runtime: Runtime, card: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    hub.put(REPO, "README.md", card)
    caplog.set_level(logging.INFO, "ovseg")
    propose(index, coco, tmp_path / "out", replace(runtime, batch_size=1), source="maskformer", model=REPO)
    stated = "other" if b"other" in card else "not stated"
    assert caplog.text.count(f"{REPO}: license {stated}") == 1
