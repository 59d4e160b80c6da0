"""The gap of one pass: rows are allowed, masks are grouped by size, mixes are counted right, and the document is up to date."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from experiments import mask_groups
from experiments.mask_groups import heldout_masks, measure_groups, write_groups
from experiments.method_rows import METHODS
from experiments.methods import slug
from experiments.one_pass import BASE, CROPS, DOCUMENT, NAME, RESULTS, ROWS, measure_sizes
from experiments.one_pass_tables import change_table, mix_table, tables_of
from experiments.tables import read_figures, replace_table
from ovseg.core import masks
from ovseg.core.options import FinetuneOptions
from ovseg.core.params import Params, read_params
from ovseg.engine.runtime import Runtime
from tests.structure.imports import ROOT

ACCURACY = {"all": 0.5, "annotated": 0.6, "not annotated": 0.4}
MEASURED = {
    "mask_accuracy": ACCURACY,
    "gflops": 2.1,
    "steps": 125,
    "by_size": {"small": {"masks": 30, "mask_accuracy": 0.5}, "large": {"masks": 10, "mask_accuracy": 0.9}},
}
BENCHMARKS = {name: {"miou": 0.2} for name in ("annotated", "mixed", "novel", "all", "fine")}


@pytest.fixture
def params(tmp_path: Path) -> Params:
    """The demo's parameters, with three held-out masks of 2, 8 and 200 patches of 256."""
    annotations = []
    for number, patches in enumerate((200, 2, 8)):
        mask = np.zeros(256, bool)
        mask[:patches] = True
        rle = {"size": [16, 16], "counts": masks.encode(mask.reshape(16, 16)).decode()}
        annotations.append({"id": number, "segmentation": rle})
    path = tmp_path / "truth.json"
    path.write_text(json.dumps({"images": [], "annotations": annotations}), encoding="utf-8")
    params = read_params(ROOT / "recipes" / "demo.yaml")
    return params.model_copy(update={"heldout": params.heldout.model_copy(update={"annotations": path})})


@pytest.mark.parametrize("row", ROWS)
def test_the_parameters_of_a_row_are_allowed(row: str) -> None:
    changes = dict(ROWS[row].finetune or {})
    params = read_params(ROOT / "recipes" / "demo.yaml").finetune
    assert FinetuneOptions.model_validate(params.model_dump() | changes).model_dump().items() >= changes.items()


def test_rows_change_the_base_and_have_folders_of_their_own() -> None:
    assert len({slug(row) for row in ROWS}) == len(ROWS)
    assert ROWS[BASE] == METHODS[BASE]
    several = (CROPS, BASE, "learned bias", "Mask-Adapter", "Mask-Adapter and tower")
    single = [row for row in ROWS if row not in several and "," not in row]
    for row in single:
        changed = set(dict(ROWS[row].finetune or {}).items()) - set(dict(ROWS[BASE].finetune or {}).items())
        assert len(changed) == 1, row


def test_masks_are_grouped_by_their_size(
    params: Params, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The smallest first, each mask once; a mask of 8 patches is in "8 to 16"."""

    def measure(_params: Params, _clip: Path, file: Path, *_: object) -> dict[str, float]:
        return {"regions": 1.0, "mask_accuracy": float(json.loads(file.read_text())["annotations"][0]["id"])}

    monkeypatch.setattr(mask_groups, "measure", measure)
    measured = measure_sizes(params, tmp_path, runtime)
    assert {name: group["mask_accuracy"] for name, group in measured.items()} == {
        "0 to 4": 1.0,
        "8 to 16": 2.0,
        "more than 64": 0.0,
    }
    assert list(measured) == ["0 to 4", "8 to 16", "more than 64"]


def test_groups_are_files_of_their_own(
    params: Params, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotations = params.heldout.annotations
    files = write_groups(annotations, ["a", "b", "a"], tmp_path)
    assert list(files) == ["a", "b"]
    assert [int(mask.sum()) for mask in heldout_masks(files["a"])] == [200, 8]
    monkeypatch.setattr(mask_groups, "measure", lambda *_: {"regions": 3.0, "mask_accuracy": 1 / 3})
    assert measure_groups(params, tmp_path, files, runtime)["b"] == {"masks": 3.0, "mask_accuracy": 0.333333}


def test_a_mix_takes_crops_up_to_a_size_and_one_pass_beyond_it() -> None:
    """Crops name 27 + 5 of 40 masks, one pass 15 + 9; with crops for the small ones it is 27 + 9."""
    crops = {"small": {"masks": 30, "mask_accuracy": 0.9}, "large": {"masks": 10, "mask_accuracy": 0.5}}
    lines = mix_table({"crops": crops, "one pass": MEASURED["by_size"]}).splitlines()  # type: ignore[dict-item]
    assert lines[2:] == [
        "| small | 30 | 90.0 | 50.0 | 75% | 90.0 |",
        "| large | 10 | 50.0 | 90.0 | 100% | 80.0 |",
        "| all | 40 | 80.0 | 60.0 |  |  |",
    ]


def test_what_is_not_evaluated_yet_is_empty() -> None:
    results = {BASE: {"0": MEASURED}, "160 px": {"0": MEASURED | {"benchmarks": BENCHMARKS}}}
    lines = change_table(results).splitlines()
    assert lines[2] == f"| {BASE} | 50.0 | 60.0 | 40.0 | {' | ' * 4} | 2.1 | 125 |"
    assert lines[3] == f"| 160 px | 50.0 | 60.0 | 40.0 | {'20.0 | ' * 5}2.1 | 125 |"
    assert tables_of(results, CROPS, BASE) == change_table(results)


def test_the_document_in_the_repository_is_made_from_the_stored_figures() -> None:
    text = (ROOT / DOCUMENT).read_text(encoding="utf-8")
    table = tables_of(read_figures(ROOT / RESULTS, ROWS), CROPS, BASE)
    assert replace_table(text, NAME, table) == text
