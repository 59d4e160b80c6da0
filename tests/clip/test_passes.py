"""An embedding depends on its crop or text alone: not on what is encoded with it, in which order, or how many at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.model import convert_weights_to_lp
from torch import Tensor

from ovseg.clip.load import Clip
from ovseg.clip.passes import CROPS_PER_PASS, CROPS_PER_PASS_OF_GPU, TOKENS_STEP, in_passes, text_lengths, whole_passes
from ovseg.clip.prompts import new_prompts
from ovseg.core.options import Precision
from tests.conftest import random_clip

VIT_B: dict[str, Any] = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 224, "layers": 2, "width": 768, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 2},
}
"""The shapes of a ViT-B/16, with fewer layers."""
NUMBER = CROPS_PER_PASS + 8
TEXTS = [f"a photo of a {noun}." for noun in ("dog", "red traffic light", "thing", "well " * 30)] + ["", "word " * 99]


def vit_b(precision: Precision) -> Clip:
    network = random_clip(VIT_B).eval()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    if precision == "bf16":
        convert_weights_to_lp(network, dtype)
    mean, std = (torch.tensor(v) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    return Clip(network, open_clip.get_tokenizer("ViT-B-16"), 224, mean, std, 512, dtype)


@pytest.fixture(scope="module", params=["fp32", pytest.param("bf16", marks=pytest.mark.bf16)])
def clip(request: pytest.FixtureRequest) -> Clip:
    return vit_b(request.param)


def test_a_crop_has_one_embedding_whatever_the_batch(clip: Clip) -> None:
    """All at once, 16 as they come, one alone, and in another order: equal bit for bit; with mask prompts in bfloat16."""
    generator = torch.Generator().manual_seed(1)
    crops = torch.randint(0, 256, (NUMBER, 3, 224, 224), dtype=torch.uint8, generator=generator)
    masks = torch.zeros(NUMBER, 224, 224, dtype=torch.bool)
    masks[:, 40:200, 8:150] = True
    if clip.dtype == torch.bfloat16:
        clip = replace(clip, prompts=new_prompts(clip.model.visual, 2, 3))  # type: ignore[arg-type]
    together = clip.encode_crops(crops, masks)
    assert torch.equal(clip.encode_crops(crops[16:32], masks[16:32]), together[16:32])
    assert torch.equal(clip.encode_crops(crops[7:8], masks[7:8]), together[7:8])
    assert torch.equal(clip.encode_crops(crops.flip(0), masks.flip(0)), together.flip(0))


def test_a_text_has_one_embedding_whatever_the_batch(clip: Clip) -> None:
    """Alone, together with longer ones, and among many."""
    together = clip.encode_texts(TEXTS)
    for i, text in enumerate(TEXTS):
        assert torch.equal(clip.encode_texts([text])[0], together[i]), text
    many = clip.encode_texts([f"a photo of number {i}" for i in range(70)] + TEXTS[::-1])
    assert torch.equal(many[70:], together.flip(0))


@settings(deadline=None, max_examples=50)
@given(number=st.integers(1, 40), rows=st.integers(1, 9))
def test_an_encoder_sees_one_shape_and_every_row_once(number: int, rows: int) -> None:
    shapes = []

    def encode(first: Tensor, second: Tensor) -> Tensor:
        shapes.append((tuple(first.shape), tuple(second.shape)))
        return first[:, :1] * 10 + second

    first, second = torch.arange(2.0 * number).reshape(number, 2), torch.arange(float(number))[:, None]
    assert torch.equal(in_passes(encode, rows, first, second), first[:, :1] * 10 + second)
    assert set(shapes) == {((rows, 2), (rows, 1))} and len(shapes) == -(-number // rows)


@given(end=st.integers(0, 76), others=st.lists(st.integers(0, 76), max_size=5))
def test_the_length_of_a_text_depends_on_it_alone_and_reaches_its_end(end: int, others: list[int]) -> None:
    tokens = torch.zeros(1 + len(others), 77, dtype=torch.int64)
    for row, place in enumerate([end, *others]):
        tokens[row, place] = 49407
    lengths = text_lengths(tokens).tolist()
    assert lengths[0] == text_lengths(tokens[:1]).item()
    assert end < lengths[0] <= 77 and (lengths[0] % TOKENS_STEP == 0 or lengths[0] == 77)


def test_nothing_has_no_embeddings(clip: Clip) -> None:
    assert clip.encode_crops(torch.zeros(0, 3, 224, 224, dtype=torch.uint8)).shape == (0, 512)
    assert clip.encode_texts([]).shape == (0, 512)


@pytest.mark.parametrize(("number", "passes"), [(1, 1), (CROPS_PER_PASS, 1), (CROPS_PER_PASS + 1, 2), (500, 16)])
def test_a_batch_size_is_rounded_up_to_whole_passes(number: int, passes: int) -> None:
    assert whole_passes(number, torch.device("cpu")) == passes * CROPS_PER_PASS
    assert whole_passes(number, torch.device("cuda", 1)) % CROPS_PER_PASS_OF_GPU == 0
