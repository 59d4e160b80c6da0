"""The proposal network on disk and in use: what is kept, what is refused, and that any image fits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from ovseg.clip.adapted import load_adapted
from ovseg.clip.save import save_clip
from ovseg.core import masks
from ovseg.core.errors import OvsegError
from ovseg.core.image_records import ImageRecord
from ovseg.core.params import read_params
from ovseg.proposals import Proposal
from ovseg.proposals.mask_logits import upsample_mask_probs
from ovseg.proposals.network import IMAGENET_MEAN, IMAGENET_STD, ProposalNetwork, TextClassifier, input_size, preprocess
from ovseg.proposals.network_folder import METADATA, check_text_tower, load_network, probe_text_tower, save_network
from ovseg.proposals.proposal_network import proposal_network_source
from tests.conftest import ROOT, TINY, Toys, random_clip
from tests.toys import LONG, QUERIES, SHORT, noise, tiny_model

WEIGHTS = "model.safetensors"


@pytest.fixture
def copy(toys: Toys, tmp_path: Path) -> Path:
    """A network that a test may damage."""
    return Path(shutil.copytree(toys.network, tmp_path / "network"))


def other_clip(folder: Path, *, part: str, width: int = 16) -> Path:
    """The random CLIP with other weights in one part of it."""
    config = {**TINY, "embed_dim": width}
    network = random_clip(config)
    generator = torch.Generator().manual_seed(1)
    for name, weight in network.named_parameters():
        if name.startswith("visual.") == (part == "visual") and weight.ndim > 1:
            weight.data.copy_(torch.randn(weight.shape, generator=generator))
    save_clip(network, config, folder)
    return folder


def test_classes_are_cosines_with_texts_and_no_object_times_a_hundred() -> None:
    torch.manual_seed(0)
    classifier = TextClassifier(8, 12, 6)
    classifier.text_embeddings = F.normalize(torch.randn(4, 6), dim=-1)
    queries = torch.randn(2, 5, 8)
    first, last = classifier.project[0], classifier.project[2]
    seen = (queries @ first.weight.T + first.bias).clamp(min=0) @ last.weight.T + last.bias  # type: ignore[operator]
    every = torch.cat([classifier.text_embeddings, classifier.no_object[None]])
    wanted = 100 * F.cosine_similarity(seen[:, :, None], every, dim=-1)
    torch.testing.assert_close(classifier(queries), wanted, atol=1e-3, rtol=1e-4)
    assert classifier(queries).shape == (2, 5, 5)


@pytest.mark.parametrize(("height", "width"), [(48, 64), (1, 64), (1, 10_000), (10_000, 1), (1, 1), (500, 333)])
def test_any_image_can_be_looked_at(toys: Toys, height: int, width: int) -> None:
    network = load_network(toys.network)
    found = network.predict(noise(0, height, width))
    assert found.class_embeddings.shape == (QUERIES, 16)
    assert found.mask_logits.shape[0] == QUERIES
    torch.testing.assert_close(found.class_embeddings.norm(dim=-1), torch.ones(QUERIES))
    assert float(found.no_object.norm()) == pytest.approx(1)
    seen = input_size(height, width, SHORT, LONG)
    assert found.extent == (seen[0] / 4, seen[1] / 4)
    assert all(0 < inside <= side for inside, side in zip(found.extent, found.mask_logits.shape[1:], strict=True))
    assert all(tensor.isfinite().all() for tensor in (found.class_embeddings, found.mask_logits))


def test_looking_twice_gives_the_same(toys: Toys) -> None:
    one, two = (load_network(toys.network).predict(noise(3)) for _ in range(2))
    assert torch.equal(one.class_embeddings, two.class_embeddings) and torch.equal(one.mask_logits, two.mask_logits)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ((480, 640), (512, 683)),
        ((640, 480), (683, 512)),
        ((100, 100), (512, 512)),
        ((1, 64), (32, 2048)),
        ((300, 3000), (205, 2048)),
        ((1, 10_000), (4, 2048)),
        ((10_000, 1), (2048, 4)),
    ],
)
def test_the_short_side_is_reached_unless_the_long_one_would_be_too_long(
    given: tuple[int, int], wanted: tuple[int, int]
) -> None:
    assert input_size(*given, 512, 2048) == wanted


def test_the_input_is_normalised_and_padded_with_zeros_below_and_right() -> None:
    pixels = np.full((10, 20, 3), (10, 120, 250), np.uint8)
    found = preprocess(pixels, (40, 80))
    assert found.shape == (1, 3, 64, 96)
    for channel, value in enumerate((10, 120, 250)):
        wanted = (value / 255 - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel]
        torch.testing.assert_close(found[0, channel, :40, :80], torch.full((40, 80), wanted))
    assert not found[:, :, 40:].any() and not found[:, :, :, 80:].any()


def test_pixels_that_may_not_be_written_are_read() -> None:
    pixels = noise(0)
    pixels.flags.writeable = False
    assert torch.equal(preprocess(pixels, (48, 64)), preprocess(noise(0), (48, 64)))
    turned = np.asfortranarray(noise(0))
    assert torch.equal(preprocess(turned, (48, 64)), preprocess(noise(0), (48, 64)))


def look_all(folder: Path) -> list[Tensor]:
    found = load_network(folder).predict(noise(0))
    return [found.class_embeddings, found.no_object, found.mask_logits]


def test_a_saved_network_is_the_same_after_loading(toys: Toys, tmp_path: Path) -> None:
    network = load_network(toys.network)
    save_network(network.model, tmp_path / "again", network.metadata, SHORT, LONG)
    assert load_network(tmp_path / "again").metadata == network.metadata
    for one, other in zip(look_all(toys.network), look_all(tmp_path / "again"), strict=True):
        assert torch.equal(one, other)


def test_half_precision_on_disk_changes_little_and_is_loaded_as_float32(toys: Toys, tmp_path: Path) -> None:
    network = load_network(toys.network)
    save_network(network.model, tmp_path / "half", network.metadata, SHORT, LONG, torch.float16)
    sizes = [(folder / WEIGHTS).stat().st_size for folder in (toys.network, tmp_path / "half")]
    assert sizes[1] < 0.51 * sizes[0]
    assert {p.dtype for p in load_network(tmp_path / "half").model.parameters()} == {torch.float32}
    for one, other in zip(look_all(toys.network), look_all(tmp_path / "half"), strict=True):
        torch.testing.assert_close(one, other, atol=0.1, rtol=0)


def test_the_texts_of_training_are_not_stored(copy: Path, toys: Toys) -> None:
    """The vocabulary may change: a network saved with texts loads without them."""
    model = load_network(toys.network).model
    model.class_predictor.text_embeddings = torch.randn(7, 16)
    save_network(model, copy, load_network(toys.network).metadata, SHORT, LONG)
    assert "class_predictor.text_embeddings" not in load_file(copy / WEIGHTS)
    assert load_network(copy).model.class_predictor.text_embeddings.shape == (0, 16)


@pytest.mark.parametrize("name", [METADATA, "config.json", WEIGHTS])
def test_a_folder_without_one_of_the_three_files_is_no_network(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(OvsegError, match=f"{copy} is not a proposal network: {name} is missing"):
        load_network(copy)


@pytest.mark.parametrize("name", [METADATA, "config.json", WEIGHTS])
def test_a_damaged_file_is_said_in_one_line(copy: Path, name: str) -> None:
    (copy / name).write_bytes(b'{"half a fi')
    with pytest.raises(OvsegError, match="cannot be loaded") as said:
        load_network(copy)
    assert "\n" not in str(said.value)


def lacks(state: dict[str, Tensor]) -> None:
    del state["class_predictor.no_object"]


def exceeds(state: dict[str, Tensor]) -> None:
    state["class_predictor.further"] = torch.zeros(3)


def differs(state: dict[str, Tensor]) -> None:
    state["class_predictor.no_object"] = torch.zeros(17)


@pytest.mark.parametrize(
    ("damage", "said"), [(lacks, "no_object"), (exceeds, "class_predictor.further"), (differs, "size mismatch")]
)
def test_every_key_of_the_weights_is_accounted_for(copy: Path, damage: Any, said: str) -> None:
    state = load_file(copy / WEIGHTS)
    damage(state)
    save_file(state, copy / WEIGHTS)
    with pytest.raises(OvsegError, match=f"cannot be loaded.*{said}"):
        load_network(copy)


def test_a_description_without_its_sizes_is_refused(copy: Path) -> None:
    about = json.loads((copy / METADATA).read_text())
    del about["text_proj_dim"]
    (copy / METADATA).write_text(json.dumps(about))
    with pytest.raises(OvsegError, match=r"cannot be loaded.*text_proj_dim"):
        load_network(copy)


def test_another_text_tower_is_refused_and_another_image_tower_is_not(toys: Toys, tiny_clip: Path, copy: Path) -> None:
    network = load_network(toys.network)
    check_text_tower(network, load_adapted(toys.clip), toys.network, toys.clip)
    with pytest.raises(
        OvsegError, match=rf"{toys.network} was trained with another text tower than that of {tiny_clip}"
    ):
        check_text_tower(network, load_adapted(tiny_clip), toys.network, tiny_clip)


def test_the_same_text_tower_under_another_image_tower_is_taken(tiny_clip: Path, tmp_path: Path) -> None:
    made = ProposalNetwork(None, {"probe": probe_text_tower(load_adapted(tiny_clip))})
    folder = other_clip(tmp_path / "visual", part="visual")
    check_text_tower(made, load_adapted(folder), tiny_clip, folder)
    folder = other_clip(tmp_path / "text", part="text")
    with pytest.raises(OvsegError, match="another text tower"):
        check_text_tower(made, load_adapted(folder), tiny_clip, folder)
    folder = other_clip(tmp_path / "wide", part="text", width=24)
    with pytest.raises(OvsegError, match=r"have 16 numbers.* have 24"):
        check_text_tower(made, load_adapted(folder), tiny_clip, folder)


def test_the_text_tower_is_known_in_bfloat16_too(tiny_clip: Path) -> None:
    made = ProposalNetwork(None, {"probe": probe_text_tower(load_adapted(tiny_clip))})
    check_text_tower(made, load_adapted(tiny_clip, precision="bf16"), tiny_clip, tiny_clip)


def test_a_backbone_that_nobody_knows_is_refused_with_those_near_it(toys: Toys) -> None:
    clip = load_adapted(toys.clip)
    with pytest.raises(OvsegError, match=r"'resnet10000'.*resnet"):
        tiny_model(clip, backbone="resnet10000")
    with pytest.raises(OvsegError, match=r"config\.json"):
        tiny_model(clip, backbone=str(toys.clip))


@pytest.fixture(scope="module")
def swin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real Swin, random and small, saved as transformers saves one."""
    transformers = pytest.importorskip("transformers")
    config = transformers.SwinConfig(
        image_size=32, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=4, drop_path_rate=0.0
    )
    folder = tmp_path_factory.mktemp("swin")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        transformers.SwinModel(config).save_pretrained(folder)
    return folder


def encoder_of(model: Any) -> dict[str, Tensor]:
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
    """transformers would leave it random and only warn."""
    folder = Path(shutil.copytree(swin, tmp_path / "swin"))
    state = load_file(folder / WEIGHTS)
    del state[next(name for name in state if name.endswith("query.weight"))]
    save_file(state, folder / WEIGHTS, {"format": "pt"})
    with pytest.raises(OvsegError, match="lack 1 keys"):
        tiny_model(load_adapted(toys.clip), backbone=str(folder), pretrained=True)


@pytest.mark.parametrize("hidden_dim", [8, 40])
def test_a_width_that_params_allow_can_be_built(toys: Toys, tmp_path: Path, hidden_dim: int) -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["proposal_network"]["hidden_dim"] = hidden_dim
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    try:
        read_params(tmp_path / "params.yaml")
    except OvsegError:
        return
    tiny_model(load_adapted(toys.clip), hidden_dim=hidden_dim)


def image(folder: Path) -> ImageRecord:
    Image.fromarray(noise(0)).save(folder / "a.png")
    return ImageRecord(folder, 1, "a.png", 0, (folder / "a.png").stat().st_size, 64, 48)


def test_as_a_source_it_gives_the_masks_of_its_queries_best_first(toys: Toys, tmp_path: Path) -> None:
    found = list(proposal_network_source(toys.network, 0.5, 100, "cpu")(image(tmp_path)))
    queries = load_network(toys.network).predict(noise(0))
    soft = upsample_mask_probs(queries.mask_logits, queries.extent, 48, 64).numpy()
    wanted = sorted(((float(s[s > 0.5].mean()), masks.encode(s > 0.5)) for s in soft if (s > 0.5).any()), reverse=True)
    assert len(found) == len(wanted) == QUERIES
    for proposal, (score, rle) in zip(found, wanted, strict=True):
        assert isinstance(proposal, Proposal)
        assert proposal.score == pytest.approx(score, abs=1e-6) and proposal.rle == rle and proposal.label is None
    assert list(proposal_network_source(toys.network, 0.5, 2, "cpu")(image(tmp_path))) == found[:2]
    assert list(proposal_network_source(toys.network, 0.99999, 100, "cpu")(image(tmp_path))) == []
