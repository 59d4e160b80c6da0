"""The files of a proposal network, and the check of the text tower."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ovseg.clip.adapted import load_adapted
from ovseg.clip.save import save_clip
from ovseg.core.errors import OvsegError
from ovseg.proposals.network import ProposalNetwork
from ovseg.proposals.network_folder import (
    METADATA,
    WEIGHTS,
    check_text_tower,
    load_network,
    probe_text_tower,
    save_network,
)
from tests.conftest import TINY, Toys, random_clip
from tests.toys import LONG, SHORT, noise


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


def predict(folder: Path) -> list[Tensor]:
    output = load_network(folder).predict(noise(0))
    return [output.query_embeddings, output.no_object_embedding, output.mask_logits]


def test_a_saved_network_is_the_same_after_loading(toys: Toys, tmp_path: Path) -> None:
    network = load_network(toys.network)
    save_network(network.model, tmp_path / "again", network.metadata, SHORT, LONG)
    assert load_network(tmp_path / "again").metadata == network.metadata
    for before, after in zip(predict(toys.network), predict(tmp_path / "again"), strict=True):
        assert torch.equal(before, after)


def test_half_precision_on_disk_changes_little_and_is_loaded_as_float32(toys: Toys, tmp_path: Path) -> None:
    network = load_network(toys.network)
    save_network(network.model, tmp_path / "half", network.metadata, SHORT, LONG, torch.float16)
    sizes = [(folder / WEIGHTS).stat().st_size for folder in (toys.network, tmp_path / "half")]
    assert sizes[1] < 0.51 * sizes[0]
    assert {p.dtype for p in load_network(tmp_path / "half").model.parameters()} == {torch.float32}
    for full, half in zip(predict(toys.network), predict(tmp_path / "half"), strict=True):
        torch.testing.assert_close(full, half, atol=0.1, rtol=0)


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
def test_a_damaged_file_is_an_error_in_one_line(copy: Path, name: str) -> None:
    (copy / name).write_bytes(b'{"half a fi')
    with pytest.raises(OvsegError, match="cannot be loaded") as error:
        load_network(copy)
    assert "\n" not in str(error.value)


def lacks(state: dict[str, Tensor]) -> None:
    del state["class_predictor.no_object"]


def exceeds(state: dict[str, Tensor]) -> None:
    state["class_predictor.further"] = torch.zeros(3)


def differs(state: dict[str, Tensor]) -> None:
    state["class_predictor.no_object"] = torch.zeros(17)


@pytest.mark.parametrize(
    ("damage", "message"), [(lacks, "no_object"), (exceeds, "class_predictor.further"), (differs, "size mismatch")]
)
def test_missing_unexpected_and_reshaped_weights_are_named(copy: Path, damage: Any, message: str) -> None:
    state = load_file(copy / WEIGHTS)
    damage(state)
    save_file(state, copy / WEIGHTS)
    with pytest.raises(OvsegError, match=f"cannot be loaded.*{message}"):
        load_network(copy)


def test_metadata_without_its_sizes_is_refused(copy: Path) -> None:
    metadata = json.loads((copy / METADATA).read_text())
    del metadata["text_proj_dim"]
    (copy / METADATA).write_text(json.dumps(metadata))
    with pytest.raises(OvsegError, match=r"cannot be loaded.*text_proj_dim"):
        load_network(copy)


def test_another_text_tower_is_refused_and_another_image_tower_is_not(toys: Toys, tiny_clip: Path, copy: Path) -> None:
    network = load_network(toys.network)
    check_text_tower(network, load_adapted(toys.clip), toys.network, toys.clip)
    with pytest.raises(
        OvsegError, match=rf"{toys.network} was trained with another text tower than that of {tiny_clip}"
    ):
        check_text_tower(network, load_adapted(tiny_clip), toys.network, tiny_clip)


def test_the_same_text_tower_with_another_image_tower_is_accepted(tiny_clip: Path, tmp_path: Path) -> None:
    network = ProposalNetwork(None, {"probe": probe_text_tower(load_adapted(tiny_clip))})
    folder = other_clip(tmp_path / "visual", part="visual")
    check_text_tower(network, load_adapted(folder), tiny_clip, folder)
    folder = other_clip(tmp_path / "text", part="text")
    with pytest.raises(OvsegError, match="another text tower"):
        check_text_tower(network, load_adapted(folder), tiny_clip, folder)
    folder = other_clip(tmp_path / "wide", part="text", width=24)
    with pytest.raises(OvsegError, match=r"have 16 numbers.* have 24"):
        check_text_tower(network, load_adapted(folder), tiny_clip, folder)


def test_the_same_text_tower_in_bfloat16_is_accepted(tiny_clip: Path) -> None:
    network = ProposalNetwork(None, {"probe": probe_text_tower(load_adapted(tiny_clip))})
    check_text_tower(network, load_adapted(tiny_clip, precision="bf16"), tiny_clip, tiny_clip)
