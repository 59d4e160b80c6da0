"""The rules that make pairs of candidates."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovseg.core import masks, tables
from ovseg.core.errors import OvsegError
from ovseg.core.options import SelectOptions
from ovseg.engine.runtime import Runtime
from ovseg.mining.select import limit_per_noun, num_annotated_pairs, one_to_one, rejection_reason, select_pairs
from ovseg.mining.wrong_pairs import WrongPair, mark_wrong_pair

Row = dict[str, Any]


def candidate(image_id: int, noun: str, rank: int, proposal: int, similarity: float, **more: Any) -> Row:
    return {
        "image_id": image_id,
        "noun": noun,
        "caption_id": 1,
        "start": 0,
        "end": 1,
        "rank": rank,
        "proposal": proposal,
        "similarity": similarity,
        "margin": 0.1,
        "p_proposal": 0.5,
        "p_noun": 0.5,
        "area": 50,
        "source": "s",
        **more,
    }


def tables_of(folder: Path, parts: list[list[Row]], labels: Sequence[str] = ()) -> tuple[Path, Path]:
    """Candidates in parts, and proposals of which some are annotated."""
    for name in ("candidates", "proposals"):
        (folder / name).mkdir(parents=True)
    for number, rows in enumerate(parts):
        tables.write_part(folder / "candidates" / f"{number:05d}.parquet", "candidates", rows, "f")
        known = [
            {"image_id": number, "proposal": 100 + i, "area": 9, "source": "annotated", "label": label}
            for i, label in enumerate(labels)
        ]
        free = [
            {"image_id": number, "proposal": 0, "area": 9, "source": "s", "rle": masks.encode(np.ones((3, 3), bool))}
        ]
        tables.write_part(folder / "proposals" / f"{number:05d}.parquet", "proposals", free + known, "f")
    return folder / "candidates", folder / "proposals"


def selected(
    folder: Path, parts: list[list[Row]], runtime: Runtime, labels: Sequence[str] = (), **options: Any
) -> tuple[list[Row], dict[str, int]]:
    number = len(list(folder.iterdir()))
    candidates, proposals = tables_of(folder / str(number), parts, labels)
    out = folder / str(number) / "pairs"
    counts = select_pairs(candidates, proposals, out, runtime, SelectOptions(**options))
    return list(tables.rows(out, "pairs")), counts


TWO = [
    candidate(1, "dog", 0, 4, 0.30),
    candidate(1, "dog", 1, 2, 0.29),
    candidate(1, "cat", 0, 4, 0.25),
    candidate(1, "cat", 1, 2, 0.20),
    candidate(2, "dog", 0, 0, 0.10, area=3, margin=None),
]


def chosen(rows: list[Row]) -> set[tuple[int, str, int]]:
    return {(row["image_id"], row["noun"], row["proposal"]) for row in rows}


def test_the_papers_rule_takes_the_best_mask_of_every_noun(tmp_path: Path, runtime: Runtime) -> None:
    """No threshold, and a mask may serve several nouns (3.2)."""
    rows, counts = selected(tmp_path, [TWO], runtime)
    assert chosen(rows) == {(1, "dog", 4), (1, "cat", 4), (2, "dog", 0)} and counts == {"pairs": 3}
    assert [row["pair"] for row in rows] == [0, 1, 2] and {row["part"] for row in rows} == {0}


@pytest.mark.parametrize(
    ("options", "kept", "dropped"),
    [
        ({"min_similarity": 0.25}, {(1, "dog", 4), (1, "cat", 4)}, {"dropped.low_similarity": 1}),
        ({"min_similarity": 0.2501}, {(1, "dog", 4)}, {"dropped.low_similarity": 2}),
        ({"min_margin": 0.2}, {(2, "dog", 0)}, {"dropped.low_margin": 2}),
        ({"min_area": 4}, {(1, "dog", 4), (1, "cat", 4)}, {"dropped.small_area": 1}),
        ({"max_per_noun": 1}, {(1, "dog", 4), (1, "cat", 4)}, {"dropped.over_cap": 1}),
        ({"rule": "one_to_one"}, {(1, "dog", 2), (1, "cat", 4), (2, "dog", 0)}, {}),
    ],
)
def test_thresholds_drop_and_count(
    options: Row, kept: set[Any], dropped: Row, tmp_path: Path, runtime: Runtime
) -> None:
    """A value equal to the threshold passes, a mask without rival has no margin to fail, and what goes is counted."""
    rows, counts = selected(tmp_path, [TWO], runtime, **options)
    assert chosen(rows) == kept
    assert {name: n for name, n in counts.items() if name != "pairs"} == dropped


@pytest.mark.parametrize("threshold", [0.26, 0.01, 0.3, 0.12345])
def test_a_value_that_equals_a_threshold_in_decimals_passes_it(
    threshold: float, tmp_path: Path, runtime: Runtime
) -> None:
    """The table has float32, whose value for 0.26 is less than that of float64."""
    part = [candidate(1, "a", 0, 0, threshold, margin=threshold), candidate(2, "b", 0, 0, threshold - 1e-5, margin=0.5)]
    assert chosen(selected(tmp_path, [part], runtime, min_similarity=threshold)[0]) == {(1, "a", 0)}
    assert (1, "a", 0) in chosen(selected(tmp_path, [part], runtime, min_margin=threshold)[0])


def test_no_pair_left_says_so(tmp_path: Path, runtime: Runtime) -> None:
    with pytest.raises(OvsegError, match="low_similarity"):
        selected(tmp_path, [TWO], runtime, min_similarity=0.9)


@st.composite
def images(draw: st.DrawFn) -> list[Row]:
    """Candidates of one image: up to 4 nouns and 4 masks, not every pair among them."""
    pairs = draw(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3)), min_size=1, max_size=16, unique=True))
    return [candidate(1, noun, 0, proposal, draw(st.integers(-100, 100)) / 100) for noun, proposal in pairs]


@given(images())
def test_one_to_one_is_the_best_of_all_matchings(rows: list[Row]) -> None:
    """Against brute force: as many nouns as possible, then the largest sum of similarities; no proposal twice."""
    best = (0, 0.0)
    for size in range(1, 5):
        for subset in itertools.combinations(rows, size):
            if len({row["noun"] for row in subset}) == len({row["proposal"] for row in subset}) == size:
                best = max(best, (size, round(sum(row["similarity"] for row in subset), 6)))
    matched = one_to_one(rows)
    assert len({row["noun"] for row in matched}) == len({row["proposal"] for row in matched}) == len(matched) == best[0]
    assert sum(row["similarity"] for row in matched) == pytest.approx(best[1], abs=1e-6)


def test_one_to_one_counts_the_nouns_without_a_mask(tmp_path: Path, runtime: Runtime) -> None:
    part = [candidate(1, noun, 0, 4, similarity) for noun, similarity in (("a", 0.1), ("b", 0.3), ("c", 0.2))]
    rows, counts = selected(tmp_path, [part], runtime, rule="one_to_one")
    assert chosen(rows) == {(1, "b", 4)} and counts["dropped.no_free_proposal"] == 2


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3)), max_size=12), st.integers(1, 4))
def test_a_cap_keeps_the_most_similar(values: list[tuple[str, int]], max_per_noun: int) -> None:
    """Of each noun those of the highest similarity are kept, and the order does not change."""
    pairs: list[Row] = [{"noun": noun, "similarity": s, "i": i} for i, (noun, s) in enumerate(values)]
    kept = limit_per_noun(pairs, max_per_noun)
    assert [pair["i"] for pair in kept] == sorted(pair["i"] for pair in kept)
    for noun in "ab":
        before, after = ([p["similarity"] for p in rows if p["noun"] == noun] for rows in (pairs, kept))
        assert sorted(after, reverse=True) == sorted(before, reverse=True)[:max_per_noun]


@given(st.integers(0, 1000), st.integers(0, 1000), st.floats(0, 1))
def test_the_fraction_of_annotated_pairs(mined: int, annotated: int, fraction: float) -> None:
    """As close to the fraction as integers allow, or all annotated masks."""
    number = num_annotated_pairs(mined, annotated, fraction)
    assert 0 <= number <= annotated
    if fraction == 1:
        assert number == annotated
    elif number < annotated:
        assert abs(number - fraction * (number + mined)) <= 0.5 + 1e-6


def test_annotated_masks_are_mixed_in(tmp_path: Path, runtime: Runtime) -> None:
    """A fraction of one half gives as many annotated masks with their class names as mined pairs; 1 mines nothing."""
    parts = [[candidate(number, "dog", 0, 0, 0.2)] for number in range(4)]
    rows, counts = selected(tmp_path, parts, runtime, ["Traffic Light", "grass"], annotated_fraction=0.5)
    known = [row for row in rows if row["source"] == "annotated"]
    assert len(rows) == 8 and len(known) == 4 == counts["annotated_pairs"]
    assert {row["noun"] for row in known} <= {"traffic light", "grass"}
    assert all(row["similarity"] is None and row["caption_id"] is None for row in known)
    rows, counts = selected(tmp_path, parts, runtime, ["grass"], annotated_fraction=1.0)
    assert {row["noun"] for row in rows} == {"grass"} and counts == {"pairs": 4, "annotated_pairs": 4}
    with pytest.raises(OvsegError, match=r"propose\.annotations"):
        selected(tmp_path, parts, runtime, annotated_fraction=0.5)


def test_the_order_is_the_seeds(tmp_path: Path, runtime: Runtime) -> None:
    """Same seed, same bytes; another seed, another order of the same pairs; an image's pairs stay together."""
    parts = [[candidate(10 * p + i, noun, 0, 0, 0.2) for i in range(5) for noun in ("a", "b")] for p in range(4)]
    made = []
    for number, seed in enumerate((0, 0, 1)):
        candidates, proposals = tables_of(tmp_path / str(number), parts)
        select_pairs(candidates, proposals, tmp_path / f"out{number}", runtime, SelectOptions(seed=seed))
        made.append((tmp_path / f"out{number}" / "00000.parquet").read_bytes())
    rows, again = (list(tables.rows(tmp_path / f"out{n}", "pairs")) for n in (0, 2))
    assert made[0] == made[1] != made[2]
    assert chosen(rows) == chosen(again) and [r["image_id"] for r in rows] != [r["image_id"] for r in again]
    for ordered in (rows, again):
        for key in ("image_id", "part"):
            assert len([k for k, _ in itertools.groupby(row[key] for row in ordered)]) == len(
                {row[key] for row in ordered}
            )


def test_rejection_reasons() -> None:
    row = candidate(1, "dog", 0, 0, 0.2, margin=0.0, area=1)
    assert rejection_reason(row, None, None, 1) is None and rejection_reason(row, 0.2, 0.0, 1) is None
    assert (
        rejection_reason(row, 0.21, 1, 9) == "low_similarity" and rejection_reason(row, None, 0.01, 9) == "low_margin"
    )
    assert rejection_reason(row, None, None, 2) == "small_area"


def test_pairs_marked_as_wrong_are_left_out_and_their_nouns_get_no_other_mask(tmp_path: Path, runtime: Runtime) -> None:
    marks = tmp_path / "wrong_pairs.csv"
    for pair in (WrongPair(1, "dog", 4), WrongPair(2, "cat", 0), WrongPair(0, "sky", 100)):
        mark_wrong_pair(marks, pair, True)
    folder = tmp_path / "runs"
    folder.mkdir()
    rows, counts = selected(folder, [TWO], runtime, ["sky", "tree"], exclude=marks, annotated_fraction=0.5)
    assert chosen(rows) == {(1, "cat", 4), (2, "dog", 0), (0, "tree", 101)}
    assert counts == {"pairs": 3, "annotated_pairs": 1, "dropped.excluded": 1, "dropped.annotated_excluded": 1}
    mark_wrong_pair(marks, WrongPair(0, "tree", 101), True)
    with pytest.raises(OvsegError, match="no pair is left: 2 annotated_excluded"):
        selected(folder, [TWO], runtime, ["sky", "tree"], exclude=marks, annotated_fraction=1.0)


def test_a_changed_file_of_wrong_pairs_is_another_selection(tmp_path: Path, runtime: Runtime) -> None:
    (tmp_path / "runs").mkdir()
    candidates, proposals = tables_of(tmp_path / "runs" / "0", [TWO])
    marks, fingerprints = tmp_path / "wrong_pairs.csv", set()
    for i, pair in enumerate((WrongPair(1, "dog", 4), WrongPair(1, "cat", 4))):
        mark_wrong_pair(marks, pair, True)
        select_pairs(candidates, proposals, tmp_path / f"pairs{i}", runtime, SelectOptions(exclude=marks))
        fingerprints.add(tables.fingerprint(tmp_path / f"pairs{i}", "pairs"))
    assert len(fingerprints) == 2


def test_a_missing_file_of_wrong_pairs_is_an_error(tmp_path: Path, runtime: Runtime) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises(OvsegError, match=r"gone\.csv"):
        selected(tmp_path / "runs", [TWO], runtime, exclude=tmp_path / "gone.csv")
