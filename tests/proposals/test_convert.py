"""Released segmenters: a converted network computes the same as the tensors of its checkpoint, and every key is used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from typer.testing import CliRunner

from ovseg.cli.app import app
from ovseg.clip import convert as clip_convert
from ovseg.clip.adapted import load_adapted
from ovseg.core import hashing, tables
from ovseg.core.errors import OvsegError
from ovseg.core.options import ProposeOptions
from ovseg.proposals.convert import CLIP_PREFIX, MULTI_GRID, convert_segmenter, is_segmenter, read_network
from ovseg.proposals.network_folder import METADATA, load_network
from ovseg.proposals.released import released_name
from ovseg.proposals.sources import table_metadata
from ovseg.segmentation.segmenter import Segmenter
from tests.conftest import TINY, random_clip
from tests.proposals.released import QUERIES, WIDTH, Outputs, State, forward, resnet_checkpoint, swin_checkpoint
from tests.toys import noise

NAME = "tiny-test-vit"
PROMPTS = f"{CLIP_PREFIX}visual.mask_embedding"
FILE = Path("released.pth")
QKV = "backbone.layers.0.blocks.1.attn.qkv.weight"


@pytest.fixture(scope="module")
def swin() -> State:
    """A small checkpoint like the one with Swin-B; tests must not write to it."""
    return swin_checkpoint()


@pytest.fixture(scope="module")
def resnet() -> State:
    """A small checkpoint like the one with R101c, but with 50 layers; tests must not write to it."""
    return resnet_checkpoint()


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a small CLIP that open_clip knows."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / f"{NAME}.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(tmp_path / "configs")
    monkeypatch.setattr(clip_convert, "model_config", lambda _: dict(TINY))
    return NAME


def with_clip(state: State, **changes: Any) -> State:
    """Add a random CLIP with mask prompts to a checkpoint."""
    inner = random_clip({**TINY, **changes}).state_dict()
    prompts = torch.randn(1, 16, 32, generator=torch.Generator().manual_seed(2))
    return (
        state
        | {f"{CLIP_PREFIX}{key}": value for key, value in inner.items() if key != "attn_mask"}
        | {PROMPTS: prompts}
    )


def write(path: Path, state: State) -> Path:
    torch.save({"model": state, "iteration": 119_999}, path)
    return path


def outputs(model: Any, images: Tensor, texts: Tensor) -> Outputs:
    output = model.model(images)
    hidden = output.transformer_decoder_last_hidden_state
    model.class_predictor.text_embeddings = texts.float()
    masks = torch.einsum("bqc,bchw->bqhw", model.mask_embedder(hidden), output.pixel_decoder_last_hidden_state)
    return Outputs(output.pixel_decoder_last_hidden_state, hidden, masks, model.class_predictor(hidden).double())


@torch.inference_mode()
def both(state: State, dilations: tuple[int, ...]) -> tuple[Outputs, Outputs]:
    """The outputs of the converted network and of the checkpoint's tensors for an image, in double precision."""
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(1, 3, 72, 100, generator=generator, dtype=torch.float64)  # needs padding
    texts = F.normalize(torch.randn(4, WIDTH, generator=generator, dtype=torch.float64), dim=-1)
    double = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    return outputs(read_network(state, FILE)[0].double(), images, texts), forward(double, images, texts, dilations)


@pytest.mark.parametrize(("kind", "dilations"), [("swin", ()), ("resnet", MULTI_GRID)])
def test_a_converted_network_computes_what_the_original_tensors_do(
    request: pytest.FixtureRequest, kind: str, dilations: tuple[int, ...]
) -> None:
    """Backbone, pixel decoder, transformer decoder, mask embeddings and text classifier, against tests.proposals.released."""
    converted, original = both(request.getfixturevalue(kind), dilations)
    for part in ("pixels", "queries", "masks"):
        torch.testing.assert_close(getattr(converted, part), getattr(original, part), atol=1e-9, rtol=1e-9)
    # the classifier computes in float32
    torch.testing.assert_close(converted.classes, original.classes, atol=1e-3, rtol=1e-4)
    assert original.queries.std(dim=1).mean() > 0.05  # equal queries would prove little about attention


def test_a_resnet_without_its_dilations_would_be_another_network(resnet: State) -> None:
    converted, original = both(resnet, (1, 1, 1))
    assert (converted.pixels - original.pixels).abs().max() > 0.1


@pytest.mark.parametrize("kind", ["swin", "resnet"])
def test_every_number_of_a_checkpoint_is_kept_once(request: pytest.FixtureRequest, kind: str) -> None:
    state: State = request.getfixturevalue(kind)
    own = {name: t for name, t in read_network(state, FILE)[0].state_dict().items() if released_name(name)}
    kept = {name: tensor for name, tensor in own.items() if not name.endswith("num_batches_tracked")}
    given = [tensor for name, tensor in state.items() if not name.startswith("clip_adapter.pixel")]
    before, after = (torch.cat([t.flatten().double() for t in tensors]) for tensors in (given, kept.values()))
    assert torch.equal(before.sort().values, after.sort().values)


@pytest.mark.parametrize("name", ["criterion.empty_weight", "backbone.layers.2.blocks.1.attn.relative_position_index"])
def test_a_checkpoint_may_lack_constants(swin: State, name: str) -> None:
    whole, less = (read_network(state, FILE)[0] for state in (swin, {k: v for k, v in swin.items() if k != name}))
    assert all(torch.equal(tensor, less.state_dict()[key]) for key, tensor in whole.state_dict().items())


def lacks(state: State) -> None:
    del state[QKV]


def exceeds(state: State) -> None:
    state["sem_seg_head.predictor.further"] = torch.zeros(3)


def differs(state: State) -> None:
    state["sem_seg_head.pixel_decoder.adapter_2.weight"] = torch.zeros(32, 16, 1, 1)


def has_no_queries(state: State) -> None:
    del state["sem_seg_head.predictor.query_embed.weight"]


def is_narrow(state: State) -> None:
    state["sem_seg_head.predictor.query_embed.weight"] = torch.zeros(QUERIES, 33)


def has_more_classes(state: State) -> None:
    state["criterion.empty_weight"] = torch.zeros(134)


def is_normalised_otherwise(state: State) -> None:
    state["pixel_mean"] = torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1)


def has_another_backbone(state: State) -> None:
    del state["backbone.patch_embed.proj.weight"]


def has_no_clip(state: State) -> None:
    for name in [name for name in state if name.startswith(CLIP_PREFIX)]:
        del state[name]


def has_a_damaged_clip(state: State) -> None:
    del state[f"{CLIP_PREFIX}text_projection"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lacks, rf"missing .*{QKV}.*unexpected nothing.*shape nothing"),
        (exceeds, r"missing nothing.*unexpected .*sem_seg_head\.predictor\.further"),
        (differs, r"of another shape 1 keys \(sem_seg_head.pixel_decoder.adapter_2.weight\)"),
        (has_no_queries, r"query_embed\.weight"),
        (is_narrow, r"MaskFormer.*num_channels \(33\)"),
        (has_more_classes, r"of another shape 1 keys \(criterion.empty_weight\)"),
        (is_normalised_otherwise, r"pixel_mean is \[103.5"),
        (has_another_backbone, r"neither a Swin .* nor a ResNet"),
        (has_no_clip, r"no CLIP.*clip_adapter\.clip_model\."),
        (has_a_damaged_clip, rf"is not a {NAME}: missing 1 keys \(text_projection\)"),
    ],
)
def test_an_incomplete_checkpoint_is_refused_with_the_names_of_its_keys_and_nothing_is_written(
    swin: State, known: str, tmp_path: Path, damage: Callable[[State], None], message: str
) -> None:
    state = with_clip(swin)
    damage(state)
    path = write(tmp_path / FILE, state)
    before = set(tmp_path.iterdir())
    with pytest.raises(OvsegError, match=message) as error:
        convert_segmenter(path, known, tmp_path / "out")
    assert str(path) in str(error.value)
    assert set(tmp_path.iterdir()) == before


def test_a_clip_of_another_width_than_the_classes_is_refused(
    swin: State, tmp_path: Path, known: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / FILE, with_clip(swin, embed_dim=24))
    (tmp_path / "configs" / f"{NAME}.json").write_text(json.dumps({**TINY, "embed_dim": 24}))
    open_clip.add_model_config(tmp_path / "configs")
    monkeypatch.setattr(clip_convert, "model_config", lambda _: {**TINY, "embed_dim": 24})
    with pytest.raises(OvsegError, match=r"16 numbers.*24"):
        convert_segmenter(path, known, tmp_path / "out")


def test_an_existing_folder_is_not_overwritten(swin: State, known: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(OvsegError, match="exists"):
        convert_segmenter(write(tmp_path / FILE, with_clip(swin)), known, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_pickle_with_code_is_not_run(tmp_path: Path, known: str) -> None:
    torch.save({"model": {"sem_seg_head.x": Path("x")}}, tmp_path / FILE)
    with pytest.raises(OvsegError, match="cannot read"):
        convert_segmenter(tmp_path / FILE, known, tmp_path / "out")


def test_a_segmenter_is_distinguished_from_a_clip(swin: State) -> None:
    clip = {key.removeprefix(CLIP_PREFIX): value for key, value in with_clip({}).items()}
    assert is_segmenter(with_clip(swin)) and not is_segmenter(clip)


def convert(path: Path, out: Path) -> str:
    result = CliRunner().invoke(app, ["convert-checkpoint", str(path), "--out", str(out), "--model", NAME])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_released_segmenter_segments_an_image(swin: State, known: str, tmp_path: Path) -> None:
    state = with_clip(swin)
    path = write(tmp_path / FILE, state)
    output = convert(path, tmp_path / "deep" / "out")
    network, clip = tmp_path / "deep" / "out" / "proposal_network", tmp_path / "deep" / "out" / "clip"
    assert f"--network {network} --clip {clip}" in output
    metadata = json.loads((network / METADATA).read_text())
    assert len(metadata["names"]) == 171 and metadata["names"][0] == "person"
    assert (metadata["short_side"], metadata["long_side"], metadata["licence"]) == (640, 2560, "CC-BY-NC-4.0")
    assert metadata["checkpoint"] == {"name": path.name, "weights": hashing.sha256_file(path)}
    assert "tmp" not in (network / "config.json").read_text()  # not the temporary folder
    prompts = load_adapted(clip).prompts
    assert prompts is not None and torch.equal(prompts, state[PROMPTS])
    segmentation = Segmenter.load(network, clip).segment(noise(0), ["grass", "sky", "person"])
    assert segmentation.labels.shape == (48, 64) and segmentation.proposal_scores.shape == (QUERIES, 3)
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"out"}


def test_a_released_resnet_keeps_its_dilations_on_disk(resnet: State, known: str, tmp_path: Path) -> None:
    convert_segmenter(write(tmp_path / FILE, with_clip(resnet)), known, tmp_path / "out")
    network = load_network(tmp_path / "out" / "proposal_network")
    options = ProposeOptions(source="proposal_network", model=str(tmp_path / "out" / "proposal_network"))
    assert table_metadata(options)[tables.LICENCE] == "CC-BY-NC-4.0"
    blocks = network.model.model.pixel_level_module.encoder._backbone["layer4"]
    assert [block.conv2.dilation for block in blocks] == [(1, 1), (2, 2), (4, 4)]
    assert (network.metadata["short_side"], network.metadata["long_side"]) == (512, 2048)


def test_a_released_clip_is_converted_into_the_folder_itself(known: str, tmp_path: Path) -> None:
    state = {f"module.{key.removeprefix(CLIP_PREFIX)}": value for key, value in with_clip({}).items()}
    torch.save({"state_dict": state}, tmp_path / FILE)
    assert f"clip.model=local-dir:{tmp_path / 'out'}" in convert(tmp_path / FILE, tmp_path / "out")
    assert load_adapted(tmp_path / "out").prompts is not None
