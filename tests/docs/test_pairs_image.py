"""The ten pairs of README.md stand for all pairs of the run, and are of its source of masks."""

from __future__ import annotations

from pathlib import Path

import yaml

from docs.pairs import PAGE, quantiles
from tests.conftest import ROOT


def test_each_similarity_stands_for_the_same_number_of_pairs(tmp_path: Path) -> None:
    path = tmp_path / "similarity.tsv"
    path.write_text("similarity\tpairs\n0.1\t1\n0.2\t0\n0.3\t10\n0.4\t9\n", encoding="utf-8")
    assert quantiles(path, 2) == [0.3, 0.4]
    assert quantiles(path, 4) == [0.3, 0.3, 0.4, 0.4]


def test_the_pairs_are_of_the_default_source() -> None:
    source = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["propose"]["source"]
    page = PAGE.read_text(encoding="utf-8")
    assert page.count('"source":"') == page.count(f'"source":"{source}"') > 100
