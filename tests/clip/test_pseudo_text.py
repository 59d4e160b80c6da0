"""Pseudo-texts: the formula, what a new one is, how regions and texts are compared, and the file."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import save_file
from torch import Tensor

from ovseg.clip.adapted import load_adapted, materialise, save_adapted
from ovseg.clip.export import export_clip
from ovseg.clip.pseudo_text import (
    HEADS,
    PSEUDO_TEXT,
    PseudoText,
    compare,
    new_pseudo_text,
    read_pseudo_text,
    write_pseudo_text,
)
from ovseg.clip.region_settings import RegionSettings
from ovseg.clip.regions import with_regions
from ovseg.core.errors import OvsegError
from ovseg.core.hashing import sha256_path
from tests.towers import TOWERS, save, with_pseudo_texts

WIDTH = 16


def unit(*shape: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def learned(seed: int = 0) -> PseudoText:
    """Pseudo-texts with other weights than new ones, in eval mode."""
    pseudo_text = new_pseudo_text(WIDTH, seed)
    with torch.no_grad():
        for i, parameter in enumerate(pseudo_text.parameters()):
            parameter.add_(0.3 * unit(*parameter.shape, seed=i))
    return pseudo_text.eval()


def by_hand(pseudo_text: PseudoText, text: Tensor, cells: Tensor) -> Tensor:
    """LayerNorm(t + Attention(t, W c, W c)) of one text `[D]` and the cells of one image `[C, D]`."""
    weights = {name: value.detach() for name, value in pseudo_text.state_dict().items()}
    keys = cells @ weights["project.weight"].T
    q_matrix, k_matrix, v_matrix = weights["attention.in_proj_weight"].chunk(3)
    q_bias, k_bias, v_bias = weights["attention.in_proj_bias"].chunk(3)
    q, k, v = q_matrix @ text + q_bias, keys @ k_matrix.T + k_bias, keys @ v_matrix.T + v_bias
    heads = []
    for head in range(HEADS):
        part = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
        attention = (k[:, part] @ q[part] / math.sqrt(WIDTH / HEADS)).softmax(0)
        heads.append(attention @ v[:, part])
    attended = weights["attention.out_proj.weight"] @ torch.cat(heads) + weights["attention.out_proj.bias"]
    added = text + attended
    centered = added - added.mean()
    normalized: Tensor = (
        weights["norm.weight"] * centered / (centered.square().mean() + 1e-5).sqrt() + weights["norm.bias"]
    )
    return normalized


def test_a_pseudo_text_is_the_formula_for_each_image_and_text() -> None:
    pseudo_text, texts, cells = learned(), unit(5, WIDTH, seed=1), unit(3, 4, WIDTH, seed=2)
    with torch.no_grad():
        found = pseudo_text(texts, cells)
    assert found.shape == (3, 5, WIDTH)
    for image in range(3):
        for text in range(5):
            wanted = by_hand(pseudo_text, texts[text], cells[image])
            torch.testing.assert_close(found[image, text], wanted, atol=1e-5, rtol=0)


def test_a_new_one_adds_nothing_to_the_texts_whatever_the_image_and_torch_draws_on() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    new, again = new_pseudo_text(WIDTH, 3).eval(), new_pseudo_text(WIDTH, 3)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(new.project.weight, again.project.weight)
    texts = unit(5, WIDTH, seed=1)
    with torch.no_grad():
        found = new(texts, unit(2, 4, WIDTH, seed=2))
    torch.testing.assert_close(found, F.layer_norm(texts, (WIDTH,)).expand(2, -1, -1), atol=1e-6, rtol=0)


def test_regions_and_texts_are_compared_by_their_products_and_with_pseudo_texts_by_a_hundredth_of_their_scores() -> (
    None
):
    regions, texts, cells = unit(6, WIDTH, seed=1), unit(5, WIDTH, seed=2), unit(4, WIDTH, seed=3)
    assert torch.equal(compare(regions, texts), regions @ texts.T)
    pseudo_text = learned()
    of_image = torch.stack([by_hand(pseudo_text, text, cells) for text in texts])
    torch.testing.assert_close(compare(regions, texts, pseudo_text, cells), regions @ of_image.T / 100)
    other = compare(regions, texts, pseudo_text, unit(4, WIDTH, seed=4))
    assert not torch.allclose(compare(regions, texts, pseudo_text, cells), other)


def test_a_folder_keeps_them_and_forgets_them_when_it_is_written_again(tmp_path: Path) -> None:
    clip = load_adapted(save("convnext", tmp_path / "base"))
    config, settings = TOWERS["convnext"], RegionSettings("pooled", image_size=64)
    pseudo_text, out = learned(), tmp_path / "out"
    save_adapted(clip.model, config, None, {}, out, regions=settings, pseudo_text=pseudo_text)
    loaded = load_adapted(out)
    assert loaded.pseudo_text is not None and loaded.has_learned_texts and loaded.regions == settings
    for name, value in loaded.pseudo_text.state_dict().items():
        assert torch.equal(value, pseudo_text.state_dict()[name])
    assert not loaded.pseudo_text.training
    assert not any(parameter.requires_grad for parameter in loaded.pseudo_text.parameters())
    assert "ovseg.clip.pseudo_text.compare" in (out / "README.md").read_text()
    materialise(f"local-dir:{out}", None, tmp_path / "copy")
    export_clip(out, tmp_path / "half", half=True)
    for copy in (tmp_path / "copy", tmp_path / "half"):
        assert sha256_path(copy / PSEUDO_TEXT) == sha256_path(out / PSEUDO_TEXT)
    save_adapted(clip.model, config, None, {}, out, regions=settings)
    assert load_adapted(out).pseudo_text is None and "pseudo_text" not in (out / "README.md").read_text()


def test_a_file_that_cannot_be_used_is_named_with_a_remedy(tmp_path: Path) -> None:
    write_pseudo_text(learned(), tmp_path)
    path = tmp_path / PSEUDO_TEXT
    with pytest.raises(OvsegError, match=r"pseudo_text\.safetensors is for embeddings of width 16, this CLIP has 32"):
        read_pseudo_text(path, 32)
    save_file({"project.weight": torch.ones(WIDTH, WIDTH)}, path)
    with pytest.raises(
        OvsegError, match=r"pseudo_text\.safetensors holds no pseudo-texts: .*Missing key.*copy it again"
    ):
        read_pseudo_text(path, WIDTH)
    for shape in ((), (20, 20)):
        save_file({"project.weight": torch.ones(shape)}, path)
        with pytest.raises(OvsegError, match=r"pseudo_text\.safetensors holds no pseudo-texts: .*copy it again"):
            read_pseudo_text(path, WIDTH)
    path.write_bytes(b"no tensors")
    with pytest.raises(OvsegError, match=r"pseudo_text\.safetensors holds no pseudo-texts"):
        read_pseudo_text(path, WIDTH)
    with pytest.raises(OvsegError, match=r"8 attention heads.* width 20; set finetune\.psm=linear"):
        PseudoText(20)


def test_they_are_for_the_encoder_that_they_were_trained_with(tmp_path: Path) -> None:
    folder = save("convnext", tmp_path)
    write_pseudo_text(learned(), folder)
    with pytest.raises(OvsegError, match=r"region_encoder\.json: pseudo-texts are for .* pooled, not crops.* copy"):
        load_adapted(folder)
    clip = with_pseudo_texts(tmp_path / "trained")
    with pytest.raises(OvsegError, match=r"pseudo-texts are for .* pooled, not mask_adapter"):
        with_regions(clip, RegionSettings("mask_adapter", image_size=64))
    for cells in (None, torch.zeros(0, WIDTH)):
        with pytest.raises(ValueError, match="needs the cells of the image"):
            compare(unit(2, WIDTH, seed=0), unit(3, WIDTH, seed=1), clip.pseudo_text, cells)
