"""The table of mining with each region encoder: rows are allowed, and the row of crops is what the run mined."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments import encoders
from experiments.encoders import ROWS, first_parts, score, table
from experiments.pairs import Outcome
from ovseg.core.options import ScoreOptions
from ovseg.core.params import read_params
from ovseg.report.quality import pair_quality
from tests.conftest import Mined
from tests.structure.imports import ROOT


@pytest.mark.parametrize("row", ROWS)
def test_the_parameters_of_a_row_are_allowed(row: str) -> None:
    options: Any = ROWS[row]
    assert ScoreOptions(**options).model_dump().items() >= options.items()


def test_pairs_of_crops_are_those_of_the_run_and_judged_as_its_report_does(
    mined: Mined, tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVSEG_WORK", str(tmp_path / "work"))
    monkeypatch.setattr(encoders, "ANNOTATIONS", mined.coco.instances)
    params = read_params(ROOT / "params.yaml")
    params = params.model_copy(
        update={
            "index": params.index.model_copy(update={"images": mined.coco.images}),
            "score": ScoreOptions(),
        }
    )
    data = {name: first_parts(getattr(mined, name), tmp_path / name) for name in ("index", "nouns", "proposals")}
    judged, rate = score(params, tiny_clip, {}, data, tmp_path / "scratch")
    expected = pair_quality(mined.pairs, mined.proposals, mined.coco.instances, tmp_path / "judged")["pair_precision"]
    assert judged.correct / judged.judged == pytest.approx(expected) and rate > 0


def test_a_row_has_pairs_precision_and_images_a_second() -> None:
    assert table({"`crops`": (Outcome(1000, 800, 600), 8.25)}).splitlines()[2:] == ["| `crops` | 1,000 | 75.0 | 8.2 |"]
