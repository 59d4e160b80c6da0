"""Checkpoints of the Hub that make masks, and backbones: fetched once, then without a network; identified; licensed."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from ovseg.clip.adapted import load_adapted
from ovseg.core import hashing, tables
from ovseg.core.errors import OvsegError
from ovseg.core.options import ProposeOptions
from ovseg.engine.runtime import Runtime
from ovseg.mining.index import build_index
from ovseg.mining.propose import propose_masks
from ovseg.proposals.backbone import identify_backbone
from ovseg.proposals.checkpoint import checkpoint_fingerprint, identify_checkpoint, load_checkpoint
from ovseg.proposals.maskformer import MODELS
from ovseg.proposals.network_folder import METADATA, identify_network, load_network, save_network
from ovseg.training.proposal_network import train_proposal_network
from tests.conftest import Coco, Toys
from tests.hub import COMMIT, Hub, serving, use
from tests.toys import LONG, SHORT, tiny_model
from tests.training.test_proposal_network import OPTIONS

REPO, SWIN, RESNET = "someone/maskformer", "someone/swin", "timm/test_resnet.r160_in1k"
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def repos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MaskFormer, a Swin and a ResNet of timm, real, random and small, as their publishers would store them."""
    transformers, timm = pytest.importorskip("transformers"), pytest.importorskip("timm")
    root = tmp_path_factory.mktemp("repos")
    swin = transformers.SwinConfig(
        image_size=32,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        window_size=4,
        drop_path_rate=0.0,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = transformers.MaskFormerConfig(
        fpn_feature_size=32,
        mask_feature_size=16,
        num_labels=3,
        backbone_config=swin,
        decoder_config=transformers.DetrConfig(
            d_model=16,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=16,
            decoder_ffn_dim=16,
            num_queries=7,
            use_timm_backbone=False,
            backbone_config=None,
        ),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.MaskFormerForInstanceSegmentation(config).save_pretrained(root / REPO)
        transformers.SwinModel(swin).save_pretrained(root / SWIN)
        state = timm.create_model("test_resnet").state_dict()
    processor = transformers.MaskFormerImageProcessor(size={"shortest_edge": 48, "longest_edge": 96}, size_divisor=32)
    processor.save_pretrained(root / REPO)
    (root / REPO / "README.md").write_text("---\nlicense: other\n---\n# A MaskFormer\n")
    (root / RESNET).mkdir(parents=True)
    save_file(state, root / RESNET / WEIGHTS)
    return root


@pytest.fixture
def hub(repos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(tmp_path) as running:
        shutil.copytree(repos, running.root, dirs_exist_ok=True)
        use(running, monkeypatch)
        yield running


@pytest.fixture
def index(coco: Coco, tmp_path: Path, runtime: Runtime) -> Path:
    build_index(coco.images, coco.captions, tmp_path / "index", runtime)
    return tmp_path / "index"


def propose(index: Path, coco: Coco, out: Path, runtime: Runtime, **options: Any) -> dict[bytes, bytes]:
    """Metadata of the first part of the proposals."""
    propose_masks(index, coco.images, out, runtime, ProposeOptions(mask_threshold=0.3, **options))
    return dict(pq.read_schema(tables.parts(out)[0]).metadata)


def load(model: str) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(model, "maskformer", MODELS, "AutoModelForUniversalSegmentation")[0].state_dict())


def test_a_checkpoint_is_downloaded_once_and_then_needs_no_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Online it is that of the folder; offline it is the same, and nobody is asked."""
    online, folder = load(REPO), load(str(hub.root / REPO))
    assert online.keys() == folder.keys() and all(torch.equal(online[name], folder[name]) for name in online)
    monkeypatch.setenv("OVSEG_OFFLINE", "1")
    hub.fresh()
    assert all(torch.equal(weight, online[name]) for name, weight in load(REPO).items())
    assert identify_checkpoint(REPO).revision == COMMIT
    assert hub.asked == []


def test_shards_of_weights_are_all_fetched_and_all_counted(hub: Hub) -> None:
    state = load_file(hub.root / REPO / WEIGHTS)
    names = sorted(state)
    parts = {"model-00001-of-00002.safetensors": names[:50], "model-00002-of-00002.safetensors": names[50:]}
    for part, inside in parts.items():
        save_file({name: state[name] for name in inside}, hub.root / REPO / part, {"format": "pt"})
    where = {name: part for part, inside in parts.items() for name in inside}
    hub.put(REPO, f"{WEIGHTS}.index.json", json.dumps({"metadata": {}, "weight_map": where}).encode())
    whole = load(str(hub.root / REPO))
    (hub.root / REPO / WEIGHTS).unlink()
    assert all(torch.equal(weight, whole[name]) for name, weight in load(REPO).items())
    before = identify_checkpoint(str(hub.root / REPO)).sha256
    assert identify_checkpoint(REPO).sha256 == before
    hub.put(REPO, "model-00002-of-00002.safetensors", b"other")
    assert identify_checkpoint(str(hub.root / REPO)).sha256 != before


@pytest.mark.parametrize(
    ("model", "facts"),
    [
        (REPO, ("the checkpoint someone/maskformer", "models--someone--maskformer", "hf download someone/maskformer")),
        ("facebook/maskformer-swin-base-coco", ("about 0.4 GB", "model*.safetensors")),
    ],
)
def test_offline_a_missing_checkpoint_is_said_at_once(
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
    with pytest.raises(OvsegError, match="OVSEG_OFFLINE=1") as said:
        propose(index, coco, tmp_path / "out", runtime, source="maskformer", model=model)
    assert all(fact in str(said.value) for fact in facts)
    assert hub.asked == []


def test_a_file_that_alone_is_missing_is_named(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    load(REPO)
    monkeypatch.setenv("OVSEG_OFFLINE", "1")
    snapshot = hub.cache / "models--someone--maskformer" / "snapshots" / COMMIT
    for name, what in (("preprocessor_config.json", "the image processor of"), (WEIGHTS, "the weights of")):
        (snapshot / name).unlink()
        with pytest.raises(OvsegError, match=f"{what} {REPO} .*OVSEG_OFFLINE=1"):
            load(REPO)


@pytest.mark.parametrize("where", ["hub", "folder"])
def test_the_table_says_which_weights_made_its_masks(
    hub: Hub, index: Path, coco: Coco, tmp_path: Path, runtime: Runtime, where: str
) -> None:
    model = REPO if where == "hub" else str(hub.root / REPO)
    found = json.loads(
        propose(index, coco, tmp_path / "out", runtime, source="maskformer", model=model)[b"ovseg.network"]
    )
    digest = hashing.sha256_file(hub.root / REPO / WEIGHTS)
    source, revision = (f"hf-hub:{REPO}/{WEIGHTS}", COMMIT) if where == "hub" else ("file", None)
    assert found == {"model": model, "pretrained": None, "source": source, "revision": revision, "sha256": digest}
    assert list(tables.rows(tmp_path / "out", "proposals"))


def test_masks_that_no_model_made_name_none(index: Path, coco: Coco, tmp_path: Path, runtime: Runtime) -> None:
    assert b"ovseg.network" not in propose(
        index, coco, tmp_path / "out", runtime, source="ground_truth", path=coco.instances
    )


def test_the_units_follow_the_weights_behind_a_name(hub: Hub) -> None:
    """Other weights under the same name are other masks, and so is another processor; a changed card is not."""
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
def test_the_licence_of_a_mask_generator_is_shown_once_a_run(
    hub: Hub, index: Path, coco: Coco, tmp_path: Path, runtime: Runtime, card: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    hub.put(REPO, "README.md", card)
    caplog.set_level(logging.INFO, "ovseg")
    propose(index, coco, tmp_path / "out", replace(runtime, batch_size=1), source="maskformer", model=REPO)
    stated = "other" if b"other" in card else "not stated"
    assert caplog.text.count(f"{REPO}: license {stated}") == 1


def test_our_own_network_is_named_with_the_backbone_it_began_with(
    hub: Hub, toys: Toys, index: Path, coco: Coco, tmp_path: Path, runtime: Runtime
) -> None:
    network = load_network(toys.network)
    backbone = asdict(identify_backbone("test_resnet"))
    save_network(network.model, tmp_path / "network", {**network.metadata, "backbone": backbone}, SHORT, LONG)
    meta = propose(index, coco, tmp_path / "out", runtime, source="proposal_network", model=str(tmp_path / "network"))
    found = json.loads(meta[b"ovseg.network"])
    assert found["sha256"] == hashing.sha256_file(tmp_path / "network" / WEIGHTS)
    assert found["backbone"]["sha256"] == hashing.sha256_file(hub.root / RESNET / WEIGHTS)
    save_network(network.model, tmp_path / "next", {**network.metadata, "init": {"backbone": backbone}}, SHORT, LONG)
    assert identify_network(tmp_path / "next")["backbone"] == backbone  # that of the network it goes on from
    assert identify_network(toys.network)["backbone"] is None  # made before backbones were noted, or from nothing
    with pytest.raises(OvsegError, match="is not a proposal network"):
        identify_network(tmp_path)


@pytest.mark.parametrize(("backbone", "repo"), [("test_resnet", RESNET), (SWIN, SWIN)])
def test_a_backbone_begins_with_the_published_weights_and_then_needs_no_network(
    hub: Hub, toys: Toys, monkeypatch: pytest.MonkeyPatch, backbone: str, repo: str
) -> None:
    clip = load_adapted(toys.clip)
    stored = load_file(hub.root / repo / WEIGHTS)
    made = tiny_model(clip, backbone=backbone, pretrained=True).model.pixel_level_module.encoder.state_dict()
    shared = [name for name in made if name.removeprefix("model.").removeprefix("_backbone.") in stored]
    assert len(shared) > 20
    assert all(
        torch.equal(made[name], stored[name.removeprefix("model.").removeprefix("_backbone.")]) for name in shared
    )
    found = identify_backbone(backbone)
    assert (found.source, found.revision) == (f"hf-hub:{repo}/{WEIGHTS}", COMMIT)
    assert found.sha256 == hashing.sha256_file(hub.root / repo / WEIGHTS)
    monkeypatch.setenv("OVSEG_OFFLINE", "1")
    hub.fresh()
    again = tiny_model(clip, backbone=backbone, pretrained=True).model.pixel_level_module.encoder.state_dict()
    assert all(torch.equal(again[name], made[name]) for name in shared)
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
def test_offline_a_missing_backbone_is_said_at_once(
    hub: Hub, toys: Toys, monkeypatch: pytest.MonkeyPatch, backbone: str, facts: tuple[str, ...]
) -> None:
    monkeypatch.setenv("OVSEG_OFFLINE", "1")
    with pytest.raises(OvsegError, match="OVSEG_OFFLINE=1") as said:
        tiny_model(load_adapted(toys.clip), backbone=backbone, pretrained=True)
    assert all(fact in str(said.value) for fact in facts), said.value
    assert hub.asked == []


@pytest.mark.parametrize(
    ("backbone", "said"),
    [
        ("nf_resnet26", r"no weights for the backbone 'nf_resnet26'; set proposal_network\.pretrained=false"),
        ("resnet10t.nobodys", r"no weights 'resnet10t\.nobodys'; it has resnet10t\.c3_in1k"),
        ("resnet18d_9000", "timm has no backbone"),
    ],
)
def test_a_backbone_without_published_weights_says_so(backbone: str, said: str) -> None:
    with pytest.raises(OvsegError, match=said):
        identify_backbone(backbone)


def test_a_pickled_backbone_runs_no_code(hub: Hub, toys: Toys, tmp_path: Path) -> None:
    """Older repositories hold no safetensors; what is in their files is loaded as weights only."""
    (hub.root / RESNET / WEIGHTS).unlink()
    torch.save({"conv1.weight": Path("x")}, hub.root / RESNET / "pytorch_model.bin")
    with pytest.raises(OvsegError, match="cannot load the weights of the backbone"):
        tiny_model(load_adapted(toys.clip), backbone="test_resnet", pretrained=True)


def test_a_trained_network_notes_its_backbone_and_is_another_with_other_weights(
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
