"""Folders of CLIPs as others write them: pickles, shards, folders of transformers, and what each folder lacks."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ovseg.clip.adapted import load_adapted, materialise
from ovseg.clip.folders import PREFERRED, PROVENANCE
from ovseg.clip.load import Clip, load_clip
from ovseg.clip.names import CONFIG, parse
from ovseg.clip.pretrained import identify, weights_fingerprint
from ovseg.clip.save import PROMPTS, WEIGHTS
from ovseg.core.arithmetic import data_type
from ovseg.core.errors import OvsegError
from tests.hub import Hub, serving, use

CROPS = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8))


@pytest.fixture
def clip(tiny_clip: Path) -> Clip:
    return load_clip(f"local-dir:{tiny_clip}")


@pytest.fixture
def folder(tiny_clip: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_clip, tmp_path / "clip"))


def take_state(folder: Path) -> dict[str, Tensor]:
    """The weights of a folder, which are then taken out of it."""
    state = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    return state


def split(state: dict[str, Tensor], folder: Path, name: str = "open_clip_model", number: int = 3) -> Path:
    """Write weights in shards with their index."""
    weight_map = {key: f"{name}-{i % number + 1:05d}-of-{number:05d}.safetensors" for i, key in enumerate(state)}
    for file in set(weight_map.values()):
        save_file({key: state[key] for key, value in weight_map.items() if value == file}, folder / file)
    (folder / f"{name}.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder / f"{name}.safetensors.index.json"


@pytest.mark.parametrize(
    "name", ["open_clip_pytorch_model.bin", "open_clip_pytorch_model.pt", "epoch_5.pt", "weights.pth"]
)
@pytest.mark.parametrize("wrapped", [True, False])
def test_pickled_weights_load_as_safetensors_do(name: str, wrapped: bool, folder: Path, clip: Clip) -> None:
    state = take_state(folder)
    content: Any = {"epoch": 5, "state_dict": {f"module.{k}": v for k, v in state.items()}} if wrapped else state
    torch.save(content, folder / name)
    save_file({"x": torch.zeros(1)}, folder / PROMPTS)  # never mistaken for the weights
    torch.save({}, folder / "optimizer.pt")
    loaded = load_clip(f"local-dir:{folder}")
    assert torch.equal(loaded.encode_crops(CROPS), clip.encode_crops(CROPS))
    assert identify(f"local-dir:{folder}", None).sha256 and weights_fingerprint(f"local-dir:{folder}", None)


@pytest.mark.parametrize("name", ["open_clip_model", "model"])
def test_shards_with_an_index_load_as_one_file_does(name: str, folder: Path, clip: Clip, tmp_path: Path) -> None:
    split(take_state(folder), folder, name)
    assert torch.equal(load_clip(f"local-dir:{folder}").encode_crops(CROPS), clip.encode_crops(CROPS))
    half = load_clip(f"local-dir:{folder}", precision="bf16")
    assert half.model.state_dict()["text_projection"].dtype == data_type("bf16", "cpu")
    before = identify(f"local-dir:{folder}", None).sha256
    materialise(f"local-dir:{folder}", None, tmp_path / "base")
    assert torch.equal(load_adapted(tmp_path / "base").encode_crops(CROPS), clip.encode_crops(CROPS))
    shard = sorted(folder.glob("*-of-*.safetensors"))[1]
    save_file({key: tensor + 1 for key, tensor in load_file(shard).items()}, shard)
    assert identify(f"local-dir:{folder}", None).sha256 != before
    shard.unlink()
    with pytest.raises(OvsegError, match=shard.name):
        load_clip(f"local-dir:{folder}")


def test_every_key_of_shards_counts(folder: Path) -> None:
    state = take_state(folder)
    del state["visual.proj"]
    split(state, folder)
    with pytest.raises(OvsegError, match=r"visual\.proj"):
        load_clip(f"local-dir:{folder}")


def test_the_names_of_open_clip_come_before_others_in_a_fixed_order(folder: Path) -> None:
    state = take_state(folder)
    torch.save({}, folder / "another.pt")
    torch.save(state, folder / PREFERRED[3])
    load_clip(f"local-dir:{folder}")
    (folder / PREFERRED[3]).rename(folder / "epoch_1.pt")
    with pytest.raises(OvsegError, match=r"another\.pt, epoch_1\.pt.*rename"):
        load_clip(f"local-dir:{folder}")


def test_shards_without_their_index_are_named(folder: Path) -> None:
    index = split(take_state(folder), folder)
    index.unlink()
    with pytest.raises(OvsegError, match=index.name):
        load_clip(f"local-dir:{folder}")


def test_a_refused_pickle_says_what_is_in_it_and_how_to_convert_it(folder: Path) -> None:
    state = take_state(folder)
    torch.save({"state_dict": state, "args": argparse.Namespace(lr=1)}, folder / "open_clip_pytorch_model.bin")
    for name, pretrained in ((f"local-dir:{folder}", None), ("ViT-B-32", str(folder / "open_clip_pytorch_model.bin"))):
        with pytest.raises(OvsegError, match=r"argparse\.Namespace.*ovseg extract-weights"):
            load_clip(name, pretrained)


def test_a_folder_that_is_none_says_what_it_is(folder: Path, tmp_path: Path) -> None:
    """No folder, a file, weights without a config: each with the remedy."""
    with pytest.raises(OvsegError, match=r"nothing does not exist"):
        load_clip(f"local-dir:{tmp_path / 'nothing'}")
    with pytest.raises(OvsegError, match=rf"file.*ViT-B-16:{folder / WEIGHTS}"):
        load_clip(f"local-dir:{folder / WEIGHTS}")
    (folder / CONFIG).unlink()
    with pytest.raises(OvsegError, match=rf"{CONFIG} is missing.*NAME:{folder}"):
        load_clip(f"local-dir:{folder}")
    (folder / WEIGHTS).unlink()
    with pytest.raises(OvsegError, match=rf"{CONFIG} is missing$"):
        load_clip(f"local-dir:{folder}")


def test_weights_in_a_folder_without_a_config_load_by_the_name_of_their_model(folder: Path) -> None:
    """NAME:FOLDER: with a config the folder itself is the model, without one its weights are those of NAME."""
    assert parse(f"ViT-B-32:{folder}") == (f"local-dir:{folder}", None)
    with pytest.raises(OvsegError, match=f"local-dir:{folder}"):
        load_clip("ViT-B-32", str(folder))
    (folder / CONFIG).unlink()
    assert parse(f"ViT-B-32:{folder}") == ("ViT-B-32", str(folder))
    with pytest.raises(OvsegError, match=WEIGHTS):  # found, and not those of a ViT-B-32
        load_clip("ViT-B-32", str(folder))
    assert weights_fingerprint("ViT-B-32", str(folder)) == weights_fingerprint("ViT-B-32", str(folder / WEIGHTS))


@pytest.mark.parametrize("kind", ["clip", "siglip", "chinese_clip", "clip_vision_model"])
def test_a_folder_of_transformers_is_said_with_the_way_out(kind: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    remedy = f"ovseg convert-checkpoint {tmp_path}" if kind == "clip" else "NAME:TAG"
    with pytest.raises(OvsegError, match=f"{kind}.*transformers.*{remedy}"):
        load_clip(f"local-dir:{tmp_path}")


def test_a_repository_of_transformers_is_said_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path) as hub:
        use(hub, monkeypatch)
        hub.put("someone/clip", "config.json", json.dumps({"model_type": "clip"}).encode())
        hub.put("someone/other", "README.md", b"hello")
        with pytest.raises(OvsegError, match=r"someone/clip.*transformers.*hf download.*ovseg convert-checkpoint"):
            load_clip("hf-hub:someone/clip")
        with pytest.raises(OvsegError, match=f"someone/other.*{CONFIG}"):
            load_clip("hf-hub:someone/other")


def test_a_repository_in_shards_is_fetched_whole(
    folder: Path, clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split(take_state(folder), folder)
    with serving(tmp_path) as hub:
        use(hub, monkeypatch)
        _put(hub, "someone/shards", folder)
        assert torch.equal(load_clip("hf-hub:someone/shards").encode_crops(CROPS), clip.encode_crops(CROPS))


def _put(hub: Hub, repo: str, folder: Path) -> None:
    for path in folder.iterdir():
        hub.put(repo, path.name, path.read_bytes())


@pytest.mark.parametrize("content", ["", "[]", '{"base": '])
def test_a_damaged_provenance_is_named(content: str, folder: Path, tmp_path: Path) -> None:
    (folder / PROVENANCE).write_text(content)
    with pytest.raises(OvsegError, match=PROVENANCE):
        materialise(f"local-dir:{folder}", None, tmp_path / "base")
