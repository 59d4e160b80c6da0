"""The text embeddings of nouns: each noun once, templates as asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from ovseg.clip.adapted import load_adapted
from ovseg.core.errors import OvsegError
from ovseg.core.vocabulary import TEMPLATES
from ovseg.training.texts import (
    draw_synonyms,
    embed_nouns,
    embed_synonyms,
    pick_texts,
    read_nouns,
    weigh_templates,
)
from tests.training.conftest import NOUNS


def test_nouns_come_in_the_order_of_their_ids(shards: Path) -> None:
    assert read_nouns(shards) == list(NOUNS)


@pytest.mark.parametrize(
    ("nouns", "message"),
    [({"star": 0, " ": 1}, "id 1"), ({"star": 0, "key": 2}, r"nouns\.json.* 1"), (["star"], r"nouns\.json")],
)
def test_a_list_of_nouns_that_cannot_be_used_is_refused(shards: Path, nouns: object, message: str) -> None:
    (shards / "nouns.json").write_text(json.dumps(nouns))
    with pytest.raises(OvsegError, match=message):
        read_nouns(shards)


def test_a_missing_list_of_nouns_names_the_stage_to_run(tmp_path: Path) -> None:
    with pytest.raises(OvsegError, match=r"nouns\.json.*`shards`"):
        read_nouns(tmp_path)


def test_single_is_one_template_and_random_per_step_is_each_of_vilds(base: Path) -> None:
    clip = load_adapted(base)
    single = embed_nouns(list(NOUNS), clip, "single")
    assert single.shape == (1, len(NOUNS), 16)
    torch.testing.assert_close(single[0, 1], clip.encode_texts(["a photo of a key."])[0])
    text_embeddings = embed_nouns(list(NOUNS), clip, "random-per-step")
    assert text_embeddings.shape == (14, len(NOUNS), 16)
    torch.testing.assert_close(text_embeddings[4, 2], clip.encode_texts([TEMPLATES["vild"][4].format("boat")])[0])


def test_the_template_of_a_pair_depends_on_seed_and_step_alone() -> None:
    text_embeddings = torch.arange(14.0)[:, None, None].expand(14, 6, 3)
    ids = torch.arange(6).repeat(20)
    first = pick_texts(text_embeddings, ids, seed=1, step=5)
    assert torch.equal(first, pick_texts(text_embeddings, ids, seed=1, step=5))
    assert not torch.equal(first, pick_texts(text_embeddings, ids, seed=1, step=6))
    assert not torch.equal(first, pick_texts(text_embeddings, ids, seed=2, step=5))
    assert len(set(first[:, 0].tolist())) == 14


def test_weighed_templates_are_the_linear_map_over_templates_written_out() -> None:
    """MaskCLIP++'s Linear(T, hidden), Linear(hidden, 1) of the similarities, before a softmax over the classes."""
    generator = torch.Generator().manual_seed(0)
    texts, regions = (F.normalize(torch.randn(*shape, generator=generator), dim=-1) for shape in ((14, 5, 8), (3, 8)))
    first, second = torch.randn(32, 14, generator=generator), torch.randn(1, 32, generator=generator)
    biases = torch.randn(32, generator=generator), torch.randn(1, generator=generator)
    similarities = torch.einsum("nd,tkd->nkt", regions, texts)
    scores = F.linear(F.linear(similarities, first, biases[0]), second, biases[1])[..., 0]
    weighted = regions @ weigh_templates(texts, (second @ first)[0]).T
    torch.testing.assert_close(weighted.softmax(1), scores.softmax(1), atol=1e-5, rtol=1e-5)


def test_commas_of_a_class_name_separate_its_synonyms(base: Path) -> None:
    clip = load_adapted(base)
    texts, synonyms = embed_synonyms(["sea, ocean", "sky", "ocean"], clip, "vild")
    assert texts.shape == (14, 3, 16)
    assert synonyms == [[0, 1], [2], [1]]
    torch.testing.assert_close(texts[4, 1], clip.encode_texts([TEMPLATES["vild"][4].format("ocean")])[0])


def test_each_step_has_one_synonym_of_each_class_that_seed_and_step_decide() -> None:
    synonyms = [[0, 1, 2], [3], [4, 5]]
    drawn = [draw_synonyms(synonyms, 1, step) for step in range(40)]
    assert drawn == [draw_synonyms(synonyms, 1, step) for step in range(40)]
    assert [{row[k] for row in drawn} for k in range(3)] == [set(places) for places in synonyms]
