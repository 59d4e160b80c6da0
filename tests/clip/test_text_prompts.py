"""Learned text prompts: their formula, what they change and what not, how they are stored, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import save_file
from torch import Tensor

from ovseg.clip.adapted import load_adapted, save_adapted
from ovseg.clip.export import export_clip
from ovseg.clip.folders import find_weights
from ovseg.clip.load import Clip
from ovseg.clip.save import WEIGHTS, model_config
from ovseg.clip.text_prompts import (
    TEXT_PROMPTS,
    encode_short,
    new_text_prompts,
    prompted_tokens,
    text_prompts_applied,
)
from ovseg.core.errors import OvsegError
from ovseg.core.options import Templates
from ovseg.core.vocabulary import embed
from tests.towers import save as save_tower

NAMES = ["star", "traffic light", "kite"]
NUMBER = 5
ALL_TEMPLATES: tuple[Templates, ...] = ("none", "single", "vild")


@pytest.fixture(scope="module")
def plain(tiny_clip: Path) -> Clip:
    return load_adapted(tiny_clip)


@pytest.fixture(scope="module")
def prompted(plain: Clip) -> Clip:
    return with_prompts(plain)


def with_prompts(clip: Clip) -> Clip:
    return replace(clip, text_prompts=30 * new_text_prompts(clip.model, seed=0, number=NUMBER))


def save(clip: Clip, source: Path, folder: Path) -> Path:
    config = model_config(f"local-dir:{source}")
    save_adapted(clip.model, config, None, {}, folder, text_prompts=clip.text_prompts)
    return folder


def written_out(clip: Clip, name: str) -> Tensor:
    """Start, vectors, "NAME.", end; positions; a causal transformer; the end token; the projection."""
    model, prompts = clip.model, clip.text_prompts
    assert prompts is not None
    tokens = [token for token in clip.tokenizer([f"{name}."])[0].tolist() if token]
    embedded = model.token_embedding(torch.tensor(tokens))  # type: ignore[operator]
    x = torch.cat([embedded[:1], prompts, embedded[1:]])
    x = (x + model.positional_embedding[: len(x)])[None]  # type: ignore[index]
    mask = torch.full((x.shape[1], x.shape[1]), float("-inf")).triu(1)
    x = model.ln_final(model.transformer(x, attn_mask=mask))  # type: ignore[operator]
    return F.normalize(x[0, -1] @ model.text_projection, dim=0)


def test_an_embedding_is_its_formula_written_out(prompted: Clip) -> None:
    for name, embedding in zip(NAMES, prompted.encode_names(NAMES), strict=True):
        torch.testing.assert_close(embedding, written_out(prompted, name), atol=1e-5, rtol=0)


def test_learned_prompts_take_the_place_of_templates_and_leave_other_texts_alone(plain: Clip, prompted: Clip) -> None:
    assert torch.equal(embed(NAMES, *plain.name_encoder("vild")), embed(NAMES, plain.encode_texts, "vild"))
    for templates in ALL_TEMPLATES:
        named = embed(NAMES, *prompted.name_encoder(templates))
        torch.testing.assert_close(named, prompted.encode_names(NAMES))
    assert torch.equal(prompted.encode_texts(NAMES), plain.encode_texts(NAMES))
    assert not torch.allclose(prompted.encode_names(NAMES), plain.encode_texts(NAMES), atol=0.01)


def test_an_embedding_does_not_depend_on_the_other_names(prompted: Clip) -> None:
    alone = torch.cat([prompted.encode_names([name]) for name in NAMES])
    assert torch.equal(prompted.encode_names(NAMES), alone)


def test_a_name_that_is_too_long_is_cut_and_keeps_its_end(plain: Clip) -> None:
    short, long = prompted_tokens(plain.tokenizer, ["star", "star " * 40], NUMBER)
    assert short[1 : 1 + NUMBER].eq(0).all() and long[1 : 1 + NUMBER].eq(0).all()
    assert len(long) == len(short) == 16 and long[-1] == long.max() == short.max()


def test_gradients_reach_the_prompts_alone(plain: Clip) -> None:
    prompts = new_text_prompts(plain.model, 0, NUMBER).requires_grad_()
    with text_prompts_applied(plain.model, prompts):
        torch.autograd.backward(encode_short(plain.model, prompted_tokens(plain.tokenizer, NAMES, NUMBER)).sum())
    assert prompts.grad is not None and prompts.grad.abs().sum(1).all()
    assert all(parameter.grad is None for parameter in plain.model.parameters())


def test_a_folder_keeps_them_beside_what_stock_open_clip_loads(prompted: Clip, tiny_clip: Path, tmp_path: Path) -> None:
    folder = save(prompted, tiny_clip, tmp_path / "saved")
    loaded = load_adapted(folder)
    assert loaded.text_prompts is not None and torch.equal(loaded.encode_names(NAMES), prompted.encode_names(NAMES))
    assert open_clip.create_model(f"local-dir:{folder}") is not None
    assert "text prompts" in (folder / "README.md").read_text()
    export_clip(folder, tmp_path / "hub")
    assert (tmp_path / "hub" / TEXT_PROMPTS).is_file()
    (folder / WEIGHTS).rename(folder / "other.safetensors")
    assert find_weights(folder).name == "other.safetensors"
    assert load_adapted(save(replace(prompted, text_prompts=None), tiny_clip, folder)).text_prompts is None


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (torch.zeros(4, 15), r"\[4, 15\], not \[vectors, 16\]"),
        (torch.zeros(13, 16), "13 context vectors leave no room for a name in the 16 positions"),
        (torch.full((2, 16), float("nan")), "not finite"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(
    plain: Clip, tiny_clip: Path, tmp_path: Path, prompts: Tensor, message: str
) -> None:
    save(plain, tiny_clip, tmp_path)
    save_file({"prompts": prompts}, tmp_path / TEXT_PROMPTS)
    with pytest.raises(OvsegError, match=f"{TEXT_PROMPTS}.*{message}"):
        load_adapted(tmp_path)


def test_a_file_of_something_else_is_refused(plain: Clip, tiny_clip: Path, tmp_path: Path) -> None:
    save(plain, tiny_clip, tmp_path)
    (tmp_path / TEXT_PROMPTS).write_bytes(b"nothing of the kind")
    with pytest.raises(OvsegError, match=f"{TEXT_PROMPTS} holds no text prompts"):
        load_adapted(tmp_path)


def test_a_text_tower_of_another_kind_is_refused(tmp_path: Path) -> None:
    model = load_adapted(save_tower("siglip", tmp_path)).model
    with pytest.raises(OvsegError, match=r"causal text tower.*finetune\.method=crops"):
        new_text_prompts(model, 0)
