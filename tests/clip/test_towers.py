"""Towers of other makes: saved, loaded and encoding as stock open_clip does."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch
from torch.nn.functional import normalize

from ovseg.clip.adapted import load_adapted, materialise
from ovseg.core import crops
from tests.towers import TOWERS, save

TEXTS = ["a star", "", "a red cup on a table", "word " * 40]


def images(size: int) -> torch.Tensor:
    return torch.randint(256, (3, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", TOWERS)
def test_it_encodes_as_stock_open_clip_does(name: str, tmp_path: Path) -> None:
    clip = load_adapted(save(name, tmp_path))
    stock = open_clip.create_model(f"local-dir:{tmp_path}").eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(TEXTS)
    assert clip.mean.tolist() == clip.std.tolist() == [0.5, 0.5, 0.5]
    with torch.no_grad():
        seen = stock.encode_image(crops.normalize(images(clip.size), clip.mean, clip.std))
        expected = stock.encode_text(tokens)
    torch.testing.assert_close(clip.encode_crops(images(clip.size)), normalize(seen, dim=-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(clip.encode_texts(TEXTS), normalize(expected, dim=-1), atol=1e-5, rtol=0)
    assert clip.width == TOWERS[name]["embed_dim"]


@pytest.mark.parametrize("name", TOWERS)
def test_it_is_the_same_as_a_base(name: str, tmp_path: Path) -> None:
    """Copied into models/base, every weight comes along, logit scale and bias too."""
    one = load_adapted(save(name, tmp_path / "one"))
    materialise(f"local-dir:{tmp_path / 'one'}", None, tmp_path / "two")
    two = load_adapted(tmp_path / "two")
    assert torch.equal(one.encode_crops(images(one.size)), two.encode_crops(images(one.size)))
    assert torch.equal(one.encode_texts(TEXTS), two.encode_texts(TEXTS))
    state = one.model.state_dict()
    assert state.keys() == two.model.state_dict().keys()
    assert all(torch.equal(weight, two.model.state_dict()[key]) for key, weight in state.items())
    assert ("logit_bias" in state) == ("init_logit_bias" in TOWERS[name])


@pytest.mark.parametrize("name", TOWERS)
def test_bf16_is_near(name: str, tmp_path: Path) -> None:
    clip, half = (load_adapted(save(name, tmp_path), precision=precision) for precision in ("fp32", "bf16"))
    assert (half.encode_crops(images(clip.size)) * clip.encode_crops(images(clip.size))).sum(1).min() > 0.98
    assert (half.encode_texts(TEXTS) * clip.encode_texts(TEXTS)).sum(1).min() > 0.98
