"""What a step may leave out: nothing left, or too much dropped for one reason, is an error with the reason and an example."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovseg.core import tables
from ovseg.core.errors import BadItem, OvsegError
from ovseg.core.failures import failure, write_failures
from ovseg.engine.fingerprint import StepKey
from ovseg.engine.runtime import Runtime
from ovseg.engine.steps import run_step
from ovseg.engine.totals import Total, check_totals, find_example
from ovseg.engine.units import Counts, Task

MASKS = (Total("images", "no_mask", part=True), Total("masks"))
numbers = st.integers(0, 20)


@given(numbers, st.dictionaries(st.sampled_from("abc"), numbers), st.floats(0, 1))
def test_a_step_fails_if_and_only_if_nothing_is_left_or_one_reason_has_too_many(
    kept: int, dropped: dict[str, int], max_dropped: float
) -> None:
    counts = {"masks": kept, **{f"dropped.{reason}": n for reason, n in dropped.items()}}
    total = kept + sum(dropped.values())
    fails = kept == 0 or any(n > max_dropped * total for n in dropped.values())
    worst = max(dropped, key=lambda reason: dropped[reason], default="") if any(dropped.values()) else "left"
    with pytest.raises(OvsegError, match=worst) if fails else nullcontext():
        check_totals("propose", (Total("masks"),), counts, max_dropped)


@pytest.mark.parametrize(
    ("counts", "parts"),
    [
        ({"masks": 0, "images": 9, "dropped.polygon_malformed": 68}, ["68", "polygon_malformed"]),
        ({"masks": 0, "images": 9, "dropped.a": 3, "dropped.b": 60}, ["60", " b", "3 a"]),
        ({"masks": 20, "images": 9, "dropped.rle_size": 68}, ["68 of 88", "rle_size", "77%", "max_dropped=0.5"]),
        ({"masks": 9, "images": 10, "dropped.no_mask": 6}, ["6 of 10 images", "no_mask"]),
        ({"masks": 0, "images": 10, "dropped.no_mask": 5}, ["no masks", "5", "no_mask"]),
        ({"masks": 0, "images": 10}, ["no masks", "none were dropped"]),
        ({}, ["no images"]),
    ],
)
def test_the_error_has_the_reason_with_most_items(counts: Counts, parts: list[str]) -> None:
    with pytest.raises(OvsegError) as raised:
        check_totals("propose", MASKS, counts, 0.5)
    assert all(part in str(raised.value) for part in ("propose", *parts))


@pytest.mark.parametrize(
    "counts",
    [
        {"masks": 10, "images": 10, "dropped.a": 10},
        {"masks": 10, "images": 10, "dropped.a": 9, "dropped.b": 9},
        {"masks": 1, "images": 10, "dropped.no_mask": 5},
    ],
)
def test_half_for_one_reason_is_no_error(counts: Counts) -> None:
    check_totals("propose", MASKS, counts, 0.5)


def test_what_parameters_ask_for_is_no_error_until_nothing_is_left() -> None:
    chosen = (Total("pairs", chosen=True),)
    check_totals("select", chosen, {"pairs": 1, "dropped.low_similarity": 10**6}, 0.5)
    with pytest.raises(OvsegError, match="low_similarity"):
        check_totals("select", chosen, {"pairs": 0, "dropped.low_similarity": 5}, 1.0)


def test_examples_come_from_every_table_that_has_reasons(tmp_path: Path) -> None:
    row = {"image_id": 7, "file": "a.jpg", "problem": "missing", "detail": "a.jpg: gone"}
    (tmp_path / "index").mkdir()
    tables.write_part(tmp_path / "index" / "00000.parquet", "index", [{"image_id": 1}, row], "f")
    write_failures(tmp_path, "00000", [failure(3, "mask", BadItem("empty_mask", "no pixel"))], "f")
    tables.write_part(
        tmp_path / "s.parquet", "samples", [{"image_id": 4, "noun": "dog", "status": "odd", "detail": "x"}], "f"
    )
    tables.write_part(tmp_path / "n.parquet", "nouns", [], "f")
    assert find_example(tmp_path, "missing") == "a.jpg of image 7: a.jpg: gone"
    assert find_example(tmp_path, "empty_mask") == "mask of image 3: no pixel"
    assert find_example(tmp_path, "odd") == "dog of image 4: x"
    assert find_example(tmp_path, "other") is None


@dataclass
class Dropping:
    """Units that drop three of four masks each."""

    units: list[str] = field(default_factory=list)

    def __call__(self, device: str) -> Task:
        def task(unit: str, folder: Path) -> Counts:
            self.units.append(unit)
            write_failures(folder, unit, [failure(int(unit), "mask", BadItem("odd", f"mask {unit} is odd"))] * 3, "f")
            return {"masks": 1, "dropped.odd": 3}

        return task


def test_a_step_that_drops_too_much_publishes_nothing_and_keeps_its_work(tmp_path: Path, runtime: Runtime) -> None:
    """With a higher limit the same command goes on from there; with a lower one a published step fails again."""
    key, factory = StepKey("propose", "k", {}), Dropping()
    arguments = (key, ["00000", "00001"], factory, tmp_path / "out")
    totals = (Total("masks"),)
    with pytest.raises(OvsegError, match=r"6 of 8 masks.*odd.*image 0: mask 00000 is odd"):
        run_step(*arguments, runtime, totals=totals)
    assert not (tmp_path / "out").exists()
    relaxed = replace(runtime, max_dropped=0.75)
    assert run_step(*arguments, relaxed, totals=totals) == {"masks": 2, "dropped.odd": 6}
    assert factory.units == ["00000", "00001"]
    assert run_step(*arguments, relaxed, totals=totals, more_counts={"more": 1})["masks"] == 2
    with pytest.raises(OvsegError, match="image 0: mask 00000 is odd"):
        run_step(*arguments, runtime, totals=totals)


def test_counts_that_are_known_before_are_published(tmp_path: Path, runtime: Runtime) -> None:
    key = StepKey("propose", "k", {})
    counts = run_step(key, ["00000"], Dropping(), tmp_path / "out", runtime, more_counts={"images_not_in_index": 4})
    assert counts == tables.read_counts(tmp_path / "out") == {"masks": 1, "dropped.odd": 3, "images_not_in_index": 4}
