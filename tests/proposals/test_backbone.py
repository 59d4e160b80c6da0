"""Backbones: their published weights are downloaded once, then loaded without a network, and identified."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ovseg.clip.adapted import load_adapted
from ovseg.core import hashing, tables
from ovseg.core.errors import OvsegError
from ovseg.core.options import ProposeOptions
from ovseg.engine.runtime import Runtime
from ovseg.proposals.backbone import identify_backbone
from ovseg.proposals.network_folder import METADATA, identify_network, load_network, save_network
from ovseg.proposals.sources import table_metadata
from ovseg.training.proposal_network import train_proposal_network
from tests.conftest import Coco, Toys
from tests.hub import COMMIT, Hub
from tests.proposals.conftest import RESNET, SWIN, WEIGHTS
from tests.toys import LONG, SHORT, tiny_model
from tests.training.test_proposal_network import OPTIONS


def test_a_proposal_network_is_identified_with_the_backbone_that_it_began_with(
    hub: Hub, toys: Toys, tmp_path: Path
) -> None:
    network = load_network(toys.network)
    backbone = asdict(identify_backbone("test_resnet"))
    save_network(network.model, tmp_path / "network", {**network.metadata, "backbone": backbone}, SHORT, LONG)
    options = ProposeOptions(source="proposal_network", model=str(tmp_path / "network"))
    identity = json.loads(table_metadata(options)["ovseg.network"])
    assert identity["sha256"] == hashing.sha256_file(tmp_path / "network" / WEIGHTS)
    assert identity["backbone"]["sha256"] == hashing.sha256_file(hub.root / RESNET / WEIGHTS)
    save_network(network.model, tmp_path / "next", {**network.metadata, "init": {"backbone": backbone}}, SHORT, LONG)
    assert identify_network(tmp_path / "next")["backbone"] == backbone  # of the network that its training began with
    assert identify_network(toys.network)["backbone"] is None  # began with no pretrained backbone
    with pytest.raises(OvsegError, match="is not a proposal network"):
        identify_network(tmp_path)


@pytest.mark.parametrize(("backbone", "repo"), [("test_resnet", RESNET), (SWIN, SWIN)])
def test_a_backbone_begins_with_the_published_weights_and_then_needs_no_network(
    hub: Hub, toys: Toys, monkeypatch: pytest.MonkeyPatch, backbone: str, repo: str
) -> None:
    clip = load_adapted(toys.clip)
    stored = load_file(hub.root / repo / WEIGHTS)
    state = tiny_model(clip, backbone=backbone, pretrained=True).model.pixel_level_module.encoder.state_dict()
    shared = [name for name in state if name.removeprefix("model.").removeprefix("_backbone.") in stored]
    assert len(shared) > 20
    assert all(
        torch.equal(state[name], stored[name.removeprefix("model.").removeprefix("_backbone.")]) for name in shared
    )
    identity = identify_backbone(backbone)
    assert (identity.source, identity.revision) == (f"hf-hub:{repo}/{WEIGHTS}", COMMIT)
    assert identity.sha256 == hashing.sha256_file(hub.root / repo / WEIGHTS)
    monkeypatch.setenv("OVSEG_OFFLINE", "1")
    hub.fresh()
    again = tiny_model(clip, backbone=backbone, pretrained=True).model.pixel_level_module.encoder.state_dict()
    assert all(torch.equal(again[name], state[name]) for name in shared)
    assert hub.asked == []


@pytest.mark.parametrize(
    ("backbone", "facts"),
    [
        (
            "resnet101c.gluon_in1k",
            ("the weights of the backbone resnet101c", "models--timm--resnet101c", "about 0.2 GB"),
        ),
        ("microsoft/swin-base-patch4-window12-384-in22k", ("the checkpoint microsoft/swin", "about 0.4 GB")),
    ],
)
def test_offline_a_missing_backbone_is_an_error_with_the_remedy(
    hub: Hub, toys: Toys, monkeypatch: pytest.MonkeyPatch, backbone: str, facts: tuple[str, ...]
) -> None:
    monkeypatch.setenv("OVSEG_OFFLINE", "1")
    with pytest.raises(OvsegError, match="OVSEG_OFFLINE=1") as error:
        tiny_model(load_adapted(toys.clip), backbone=backbone, pretrained=True)
    assert all(fact in str(error.value) for fact in facts), error.value
    assert hub.asked == []


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("nf_resnet26", r"no weights for the backbone 'nf_resnet26'; set proposal_network\.pretrained=false"),
        ("resnet10t.nobodys", r"no weights 'resnet10t\.nobodys'; it has resnet10t\.c3_in1k"),
        ("resnet18d_9000", "timm has no backbone"),
    ],
)
def test_a_backbone_without_published_weights_is_named(backbone: str, message: str) -> None:
    with pytest.raises(OvsegError, match=message):
        identify_backbone(backbone)


def test_a_pickled_backbone_runs_no_code(hub: Hub, toys: Toys, tmp_path: Path) -> None:
    """Older repositories have no safetensors; their files are loaded with `weights_only`."""
    (hub.root / RESNET / WEIGHTS).unlink()
    torch.save({"conv1.weight": Path("x")}, hub.root / RESNET / "pytorch_model.bin")
    with pytest.raises(OvsegError, match="cannot load the weights of the backbone"):
        tiny_model(load_adapted(toys.clip), backbone="test_resnet", pretrained=True)


def test_a_trained_network_records_its_backbone_and_has_another_fingerprint_with_other_weights(
    hub: Hub, toys: Toys, index: Path, coco: Coco, tmp_path: Path, runtime: Runtime
) -> None:
    options = OPTIONS.model_copy(update={"annotations": coco.instances, "pretrained": True, "steps": 0})

    def train(name: str) -> dict[str, Any]:
        out = tmp_path / name
        train_proposal_network(index, coco.images, toys.clip, out, runtime, options)
        return {**json.loads((out / METADATA).read_text()), "key": tables.read_step_manifest(out)["fingerprint"]}

    first = train("first")
    assert first["backbone"]["revision"] == COMMIT
    assert first["backbone"]["sha256"] == hashing.sha256_file(hub.root / RESNET / WEIGHTS)
    state = load_file(hub.root / RESNET / WEIGHTS)
    save_file({name: weight + 1 for name, weight in state.items()}, hub.root / RESNET / WEIGHTS)
    shutil.rmtree(hub.cache)
    second = train("second")
    assert second["backbone"]["sha256"] != first["backbone"]["sha256"] and second["key"] != first["key"]


def test_an_unknown_backbone_is_refused_with_similar_names(toys: Toys) -> None:
    clip = load_adapted(toys.clip)
    with pytest.raises(OvsegError, match=r"'resnet10000'.*resnet"):
        tiny_model(clip, backbone="resnet10000")
    with pytest.raises(OvsegError, match=r"config\.json"):
        tiny_model(clip, backbone=str(toys.clip))


@pytest.fixture(scope="module")
def swin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real Swin, small and random; tests must not write to it."""
    transformers = pytest.importorskip("transformers")
    config = transformers.SwinConfig(
        image_size=32, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=4, drop_path_rate=0.0
    )
    folder = tmp_path_factory.mktemp("swin")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        transformers.SwinModel(config).save_pretrained(folder)
    return folder


def encoder_of(model: Any) -> dict[str, torch.Tensor]:
    prefix = "model.pixel_level_module.encoder."
    return {name[len(prefix) :]: w for name, w in model.state_dict().items() if name.startswith(prefix)}


def test_a_backbone_begins_with_its_own_weights_if_pretrained(toys: Toys, swin: Path) -> None:
    clip, stored = load_adapted(toys.clip), load_file(swin / WEIGHTS)
    drawn, loaded = (
        encoder_of(tiny_model(clip, backbone=str(swin), pretrained=pretrained)) for pretrained in (False, True)
    )
    shared = [name for name in loaded if name.removeprefix("model.") in stored]
    assert len(shared) > 40
    assert all(torch.equal(loaded[name], stored[name.removeprefix("model.")]) for name in shared)
    assert not all(torch.equal(drawn[name], loaded[name]) for name in shared)


def test_a_backbone_whose_weights_lack_a_key_is_refused(toys: Toys, swin: Path, tmp_path: Path) -> None:
    """transformers initializes it randomly and only warns."""
    folder = Path(shutil.copytree(swin, tmp_path / "swin"))
    state = load_file(folder / WEIGHTS)
    del state[next(name for name in state if name.endswith("query.weight"))]
    save_file(state, folder / WEIGHTS, {"format": "pt"})
    with pytest.raises(OvsegError, match="lack 1 keys"):
        tiny_model(load_adapted(toys.clip), backbone=str(folder), pretrained=True)
