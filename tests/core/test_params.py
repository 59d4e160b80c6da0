"""params.yaml is strict: what is wrong is named, with its value and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ovseg.core import options
from ovseg.core.errors import OvsegError
from ovseg.core.options import Options
from ovseg.core.params import Params, read_params, read_section
from tests.structure.imports import ROOT

RECIPES = [ROOT / "params.yaml", *sorted((ROOT / "recipes").glob("*.yaml"))]
Values = dict[str, Any]


class Colors(Options):
    """A section of its own."""

    seed: options.Natural
    number: options.PositiveInt = 3


def written(folder: Path, keys: Values, recipe: str = "demo") -> Path:
    """A recipe as params.yaml in a folder, with the values of some "section.key" changed."""
    values: Values = yaml.safe_load((ROOT / "recipes" / f"{recipe}.yaml").read_text(encoding="utf-8"))
    for name, value in keys.items():
        section, key = name.split(".")
        values.setdefault(section, {})[key] = value
    (folder / "data" / "demo").mkdir(parents=True, exist_ok=True)
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def message(path: Path) -> str:
    with pytest.raises(OvsegError) as error:
        read_params(path)
    return str(error.value)


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_every_recipe_is_valid_and_complete(path: Path) -> None:
    assert read_params(path).select.rule in ("best", "one_to_one")


def test_the_demo_recipe_is_the_default() -> None:
    assert read_params(ROOT / "recipes" / "demo.yaml") == read_params(ROOT / "params.yaml")


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("select.min_similarity", "abc", "number"),
        ("select.min_similarity", 1.5, "less than or equal to 1"),
        ("select.rule", "worst", "'best' or 'one_to_one'"),
        ("select.annotated_fraction", -0.1, "greater than or equal to 0"),
        ("propose.mask_threshold", 1, "less than 1"),
        ("nouns.captions_per_image", 2, "1 or 'all'"),
        ("score.top_k", 0, "greater than or equal to 1"),
        ("score.top_k", 2.5, "integer"),
        ("score.top_k", True, "integer"),
        ("crop.antialias", "yes", "boolean"),
        ("index.images", 5, "path"),
        ("calibrate.weights", [], "at least 1"),
    ],
)
def test_a_wrong_value_is_named_with_its_key_and_what_is_allowed(
    tmp_path: Path, key: str, value: Any, allowed: str
) -> None:
    text = message(written(tmp_path, {key: value}))
    assert f"{key}={value!r}" in text and allowed in text


def test_an_unknown_key_is_named_with_those_that_are_known(tmp_path: Path) -> None:
    text = message(written(tmp_path, {"select.min_similarty": 0.2}))
    assert "'select.min_similarty'" in text and "min_similarity" in text


def test_the_last_evaluated_model_is_the_one_that_was_trained_last(tmp_path: Path) -> None:
    first = {"prompt.init": "base", "finetune.init": "prompt"}
    text = message(written(tmp_path, {**first, "evaluate.models": ["base", "finetune", "prompt"]}))
    assert "evaluate.models=[base,finetune,prompt]" in text and "set evaluate.models=[base,prompt,finetune]" in text
    read_params(written(tmp_path, {**first, "evaluate.models": ["base", "prompt", "finetune"]}))
    read_params(written(tmp_path, {**first, "evaluate.models": ["prompt"], "finetune.epochs": 0}))


def test_a_section_of_its_own_is_for_data_sets_with_a_folder_in_data(tmp_path: Path) -> None:
    text = message(written(tmp_path, {"colors.seed": 1}))
    assert "'colors'" in text and "clip, crop" in text
    (tmp_path / "data" / "colors").mkdir()
    assert read_params(tmp_path / "params.yaml").model_extra == {
        "colors": {"seed": 1},
        "demo": yaml.safe_load((tmp_path / "params.yaml").read_text(encoding="utf-8"))["demo"],
    }


def test_the_section_of_a_data_set_is_as_strict_as_the_others(tmp_path: Path) -> None:
    path = written(tmp_path, {"colors.seed": 1, "colors.number": 2})
    assert read_section(path, "colors", Colors) == Colors(seed=1, number=2)
    for key, value in {"number": 0, "numbr": 1, "seed": None}.items():
        path = written(tmp_path, {"colors.seed": 1, "colors.number": 2, f"colors.{key}": value})
        with pytest.raises(OvsegError, match=rf"colors\.{key}"):
            read_section(path, "colors", Colors)
    with pytest.raises(OvsegError, match=r"colors\.number"):
        read_section(written(tmp_path, {"colors.seed": 1}), "colors", Colors)
    with pytest.raises(OvsegError, match="shapes"):
        read_section(path, "shapes", Colors)


@pytest.mark.parametrize("key", ["shards.min_shards", "index.images", "clip"])
def test_a_missing_key_is_named_whether_or_not_it_has_a_default(tmp_path: Path, key: str) -> None:
    section, _, name = key.partition(".")
    path = written(tmp_path, {})
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    (values[section] if name else values).pop(name or section)
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    assert key in message(path)


def test_a_missing_or_broken_file_says_what_to_do(tmp_path: Path) -> None:
    assert "recipes" in message(tmp_path / "params.yaml")
    for text in ("select: [", "", "- select"):
        (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
        assert str(tmp_path / "params.yaml") in message(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("recipe", "watched", "key", "path"),
    [
        ("demo", "captions", "index.captions", "mine.json"),
        ("demo", "images", "index.images", "data/demo/train"),
        ("demo", "annotated", "proposal_network.annotations", "data/demo/val/panoptic.json"),
        ("demo", "masks", "propose.path", "data/demo/val/truth.json"),
        ("demo", "heldout", "heldout.images", "data/demo/train/images"),
        ("demo", "masks", "report.annotations", "data/demo/train/panoptic.json"),
        ("coco-vitl", "images", "index.images", "data/coco/val2017"),
        ("coco-vitl", "captions", "index.captions", "data/elsewhere/annotations/captions_train2017.json"),
        ("coco-vitl", "annotated", "proposal_network.annotations", "data/coco/annotations/panoptic_train2017.json"),
        ("coco-vitl", "heldout", "heldout.images", "data/coco/val2017b"),
        ("coco-vitl", "masks", "report.annotations", "data/coco/annotations/instances_train2017.json"),
        ("demo", "stop_list", "nouns.stop_list", "mine.txt"),
        ("demo", "clip", "clip.pretrained", "mine.pt"),
        ("demo", "tagger", "nouns.model", "mine"),
        ("demo", "network", "proposal_network.backbone", "mine"),
        ("demo", "classes", "proposal_network.classes", "mine.json"),
        ("demo", "classes", "propose.classes", "mine.json"),
        ("coco-vitl", "network", "propose.model", "mine"),
    ],
)
def test_a_path_that_dvc_does_not_watch_is_named_with_what_it_watches(
    tmp_path: Path, recipe: str, watched: str, key: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names that a library resolves are paths where there is such a file or folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine.pt").touch()
    (tmp_path / "mine.json").touch()
    text = message(written(tmp_path, {key: path}, recipe))
    manifest = yaml.safe_load((ROOT / "recipes" / f"{recipe}.yaml").read_text(encoding="utf-8"))["data"][watched]
    assert f"{key}={path}" in text and f"data.{watched}={manifest}" in text


@pytest.mark.parametrize(
    ("recipe", "keys"),
    [
        ("demo", {"index.captions": "mine.json", "data.captions": "mine.json"}),
        ("demo", {"index.captions": "mine/train/captions.json", "data.captions": "mine"}),
        ("demo", {"propose.path": None}),
        ("demo", {"propose.path": "data/demo/train/panoptic.json"}),
        ("coco-vitl", {"index.images": "data/coco/val2017", "data.images": "data/coco/manifests/val2017.tsv"}),
        ("coco-vitl", {"heldout.annotations": "data/coco/annotations/panoptic_train2017.json"}),
        ("coco-vitl", {"propose.annotations": "data/coco/stuffthingmaps/train2017"}),
        ("demo", {"nouns.stop_list": None, "data.stop_list": "requirements.lock"}),
        ("coco-vitl", {"propose.model": "facebook/sam2.1-hiera-large", "propose.classes": "cocostuff156"}),
    ],
)
def test_a_path_is_watched_as_itself_by_its_folder_or_by_the_manifest_of_its_part(
    tmp_path: Path, recipe: str, keys: dict[str, Any]
) -> None:
    assert read_params(written(tmp_path, keys, recipe))


@pytest.mark.parametrize(("text", "number"), [("5e-06", 5e-6), ("3e-4", 3e-4), ("1.5e3", 1500.0), ("+2E-2", 2e-2)])
def test_numbers_are_read_as_dvc_writes_them(tmp_path: Path, text: str, number: float) -> None:
    """YAML 1.2 has floats without a dot, or without a sign in the exponent."""
    path = written(tmp_path, {"finetune.lr": 0.625})
    path.write_text(path.read_text(encoding="utf-8").replace("lr: 0.625", f"lr: {text}"), encoding="utf-8")
    assert read_params(path).finetune.lr == number


def test_a_benchmark_is_shown_only_if_it_is_evaluated(tmp_path: Path) -> None:
    text = message(written(tmp_path, {"evaluate.benchmarks": ["fine", "mixed"]}))
    assert "report.benchmark=all" in text and "evaluate.benchmarks=fine,mixed" in text


def test_shards_must_have_the_background_that_is_trained_on(tmp_path: Path) -> None:
    """Asked of trainings on crops of this run alone; a background that is not wanted is filled from the masks."""
    unmasked = {"crop.fill": "keep"}
    text = message(written(tmp_path, unmasked))
    assert "prompt and finetune would train" in text and "set shards.background=keep" in text
    assert "disagree: finetune would" in message(written(tmp_path, {**unmasked, "prompt.epochs": 0}))
    mine = "mine/shards"
    for fine in (
        {**unmasked, "shards.background": "keep"},
        {"shards.background": "keep"},
        {**unmasked, "prompt.epochs": 0, "finetune.epochs": 0},
        {**unmasked, "prompt.epochs": 0, "finetune.method": "maft"},
        {**unmasked, "prompt.shards": mine, "finetune.shards": mine},
    ):
        assert read_params(written(tmp_path, fine))


def test_two_trainings_that_start_from_each_other_are_refused(tmp_path: Path) -> None:
    text = message(written(tmp_path, {"finetune.init": "prompt"}))
    assert "finetune.init" in text and "prompt.init" in text


@pytest.mark.parametrize("method", ["crops", "text_prompts"])
def test_pairs_of_region_encoders_are_refused_where_shards_are_trained_on(tmp_path: Path, method: str) -> None:
    text = message(written(tmp_path, {"finetune.method": method, "finetune.pairs": "annotated"}))
    assert "finetune.pairs=annotated" in text and "select.annotated_fraction=1.0" in text
    assert read_params(written(tmp_path, {"finetune.method": "maft", "finetune.pairs": "annotated"}))


@pytest.mark.parametrize("method", ["crops", "maft", "maskclippp"])
def test_pseudo_texts_are_for_one_method_and_its_encoder(method: str, tmp_path: Path) -> None:
    text = message(written(tmp_path, {"finetune.method": method, "finetune.psm": "pseudo_text"}))
    assert f"not for {method} and region_tokens; set it to linear" in text
    allowed = {"finetune.method": "maskclippp", "finetune.psm": "pseudo_text", "finetune.region_encoder": "pooled"}
    assert read_params(written(tmp_path, allowed))


@pytest.mark.parametrize("name", Params.model_fields)
def test_every_field_says_what_it_is(name: str) -> None:
    model: Any = Params.model_fields[name].annotation
    for key, field in model.model_fields.items():
        assert field.description and field.description[-1] == ".", f"{name}.{key}"
