"""params.yaml is strict: what is wrong is named, with its value and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ovseg.core.errors import OvsegError
from ovseg.core.params import read_params
from tests.structure.closure import ROOT

RECIPES = [ROOT / "params.yaml", *sorted((ROOT / "recipes").glob("*.yaml"))]


def _changed(folder: Path, section: str, key: str, value: Any) -> Path:
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    values.setdefault(section, {})[key] = value
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_every_recipe_is_valid_and_complete(path: Path) -> None:
    assert read_params(path).select.rule in ("best", "one_to_one")


def test_the_demo_recipe_is_the_default() -> None:
    assert read_params(ROOT / "recipes" / "demo.yaml") == read_params(ROOT / "params.yaml")


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        (
            "select",
            "min_similarity",
            "abc",
            "select.min_similarity='abc' is not allowed: input should be a valid number",
        ),
        (
            "select",
            "min_similarity",
            1.5,
            "select.min_similarity=1.5 is not allowed: input should be less than or equal to 1",
        ),
        ("select", "rule", "worst", "select.rule='worst' is not allowed: input should be 'best' or 'one_to_one'"),
        ("select", "annotated_fraction", -0.1, "select.annotated_fraction=-0.1 is not allowed"),
        ("nouns", "captions_per_image", 2, "nouns.captions_per_image=2 is not allowed: input should be 1 or 'all'"),
        ("score", "top_k", 0, "score.top_k=0 is not allowed"),
        ("score", "top_k", 2.5, "score.top_k=2.5 is not allowed"),
        ("score", "top_k", True, "score.top_k=True is not allowed"),
        ("crop", "antialias", "yes", "crop.antialias='yes' is not allowed"),
        ("select", "min_similarty", 0.2, "unknown key 'select.min_similarty'; known: rule, min_similarity"),
        ("selct", "rule", "best", "unknown key 'selct'; known: demo, data, clip"),
    ],
)
def test_a_wrong_value_is_named_with_its_key_and_what_is_allowed(
    tmp_path: Path, section: str, key: str, value: Any, said: str
) -> None:
    with pytest.raises(OvsegError) as error:
        read_params(_changed(tmp_path, section, key, value))
    assert said in str(error.value)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    del values["shards"]["min_shards"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    with pytest.raises(OvsegError, match=r"shards\.min_shards is missing"):
        read_params(tmp_path / "params.yaml")


def test_a_missing_or_broken_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(OvsegError, match="copy one of recipes"):
        read_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("select: [", encoding="utf-8")
    with pytest.raises(OvsegError, match="is not YAML"):
        read_params(tmp_path / "params.yaml")
