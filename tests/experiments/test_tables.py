"""Stored figures: several processes may store at once, and a table is made anew between its marks alone."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from experiments.tables import END, read_figures, replace_table, store_figures, write_table


def test_figures_stored_at_once_are_all_kept(tmp_path: Path) -> None:
    """Threads open the lock anew each time, so that they exclude each other as processes do."""
    path = tmp_path / "new" / "figures.json"
    stores = [(row, seed) for row in "abcd" for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for stored in [pool.submit(store_figures, path, row, seed, {"x": seed}) for row, seed in stores]:
            stored.result()
    assert read_figures(path, "abcd") == {row: {str(seed): {"x": seed} for seed in range(8)} for row in "abcd"}


def test_figures_of_a_row_and_seed_are_added_to_those_stored_before(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    for figures in ({"mask_accuracy": 0.5, "steps": 2}, {"benchmarks": {"all": 0.25}}, {"steps": 3}):
        store_figures(path, "row", 1, figures)
    assert read_figures(path, ["row"]) == {
        "row": {"1": {"mask_accuracy": 0.5, "steps": 3, "benchmarks": {"all": 0.25}}}
    }


def test_figures_are_read_in_the_order_of_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    assert read_figures(path, ["b"]) == {}
    path.write_text(json.dumps({"a": {}, "b": {}, "an old row": {}}), encoding="utf-8")
    assert list(read_figures(path, ["b", "missing", "a"])) == ["b", "a"]


def test_a_table_takes_the_place_between_its_own_marks(tmp_path: Path) -> None:
    begin = "<!-- table: python -m x.{} -->\n"
    text = f"before\n{begin.format('a')}old\n{END}\n{begin.format('b')}other\n{END}\nafter\n"
    (tmp_path / "page.md").write_text(text, encoding="utf-8")
    write_table(tmp_path / "page.md", "python -m x.a", lambda: "new")
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == text.replace("old", "new")
    with pytest.raises(ValueError, match="substring"):
        replace_table(text, "python -m x.c", "new")
