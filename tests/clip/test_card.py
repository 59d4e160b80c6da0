"""Model cards: the Hub's own library reads them, and they state a license only where everything shares it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from ovseg.clip.card import write_card
from ovseg.core.options import Encoder
from ovseg.engine.weight_files import licence

STEP: dict[str, Any] = {"stage": "finetune", "shards": "abc123", "mask_source": "sam2", "recipe": {"lr": 1}}


@pytest.mark.parametrize(
    ("base", "masks", "stated"),
    [
        ("MIT", [], "mit"),
        ("MIT", ["MIT"], "mit"),
        ("MIT", ["Apache-2.0"], "other"),
        ("MIT", [None], "other"),
        (None, [], "other"),
    ],
)
def test_the_license_is_that_of_weights_and_masks_alike(
    base: str | None, masks: list[str | None], stated: str, tmp_path: Path
) -> None:
    steps = [{**STEP, "mask_licence": mask} for mask in masks]
    write_card(tmp_path, {"base": {"model": "ViT-B-16", "licence": base}, "steps": steps}, has_prompts=False)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.get("license") == licence(str(tmp_path)) == stated
    assert card.data.get("library_name") == "open_clip" and "ovseg" in card.data.get("tags")


@pytest.mark.parametrize("has_prompts", [True, False])
def test_the_card_has_what_the_weights_were_made_from(has_prompts: bool, tmp_path: Path) -> None:
    base = {"model": "ViT-B-16", "pretrained": "openai", "licence": "MIT", "revision": "c0ffee", "sha256": "f00d"}
    write_card(tmp_path, {"base": base, "steps": [{**STEP, "mask_licence": "Apache-2.0"}]}, has_prompts)
    text = ModelCard.load(tmp_path / "README.md").text
    for fact in ("ViT-B-16", "openai", "MIT", "c0ffee", "f00d", "finetune", "abc123", "sam2", "Apache-2.0", '"lr": 1'):
        assert fact in text
    assert ("mask_prompts.safetensors" in text) == has_prompts


def test_the_card_of_a_clip_without_a_training_says_that_nothing_was_trained(tmp_path: Path) -> None:
    write_card(tmp_path, {"base": {"model": "ViT-B-16"}, "steps": []}, has_prompts=False)
    text = ModelCard.load(tmp_path / "README.md").text
    assert "nothing was trained" in text and "adapted to" not in text and "recipe of" not in text


def test_the_card_says_how_regions_are_encoded(tmp_path: Path) -> None:
    said_of: dict[Encoder, str] = {"crops": "masked crops", "region_tokens": "image once", "pooled": "`pooled`"}
    for encoder, said in said_of.items():
        write_card(tmp_path, {"steps": [{**STEP, "mask_licence": None}]}, has_prompts=False, encoder=encoder)
        text = ModelCard.load(tmp_path / "README.md").text
        assert said in text
        assert ("region_encoder.json" in text) == (encoder != "crops")
