"""The filters of wrong pairs, each against its formula, and what they drop in a selection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ovseg.core import masks, tables
from ovseg.core.errors import OvsegError
from ovseg.core.options import SelectOptions
from ovseg.engine.runtime import Runtime
from ovseg.mining.pair_filters import centre_distances, group_outliers, is_confirmed, is_mutual, overlaps
from ovseg.mining.regions import FOLDER, Regions, write_regions
from ovseg.mining.select import select_pairs
from tests.mining.test_select import candidate, chosen, tables_of

Row = dict[str, Any]
NOUNS = ["kite", "kite", "boat", "kite", "boat", "kite"]


def table(rows: list[Row]) -> pa.Table:
    return pa.Table.from_pylist(rows, tables.CANDIDATES)


def unit(number: int, width: int, seed: int = 0) -> NDArray[np.float64]:
    vectors: NDArray[np.float64] = np.random.default_rng(seed).normal(size=(number, width))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def columns(start: int, end: int) -> bytes:
    mask = np.zeros((10, 10), bool)
    mask[:, start:end] = True
    return masks.encode(mask)


def test_a_pair_is_mutual_if_its_noun_is_the_best_of_its_mask() -> None:
    rows = [
        candidate(1, "dog", 0, 4, 0.30),
        candidate(1, "cat", 0, 4, 0.25),
        candidate(1, "cat", 1, 2, 0.20),
        candidate(1, "tail", 0, 2, 0.20),
        candidate(2, "cat", 0, 4, 0.10),  # another image's mask 4
    ]
    assert is_mutual(table(rows).to_pylist(), table(rows)) == [True, False, True, True, True]


def test_of_overlapping_masks_the_most_similar_pair_stays() -> None:
    """Masks of columns 0-4, 0-5, 2-6 and 8-10 of 10: IoU 4:5, 2:6 and 3:6. What is dropped itself drops nothing."""
    rles = [columns(0, 4), columns(0, 5), columns(2, 6), columns(8, 10)]
    assert overlaps([0.1, 0.3, 0.2, 0.4], rles, 10, 10, 0.7) == [True, False, False, False]
    assert overlaps([0.1, 0.3, 0.2, 0.4], rles, 10, 10, 0.4) == [True, False, True, False]
    assert overlaps([0.1, 0.2, 0.3, 0.4], rles, 10, 10, 0.4) == [
        False,
        True,
        False,
        False,
    ]  # 1 is gone: 0 and 2 have 1:3
    assert overlaps([0.2, 0.2], [rles[0]] * 2, 10, 10, 0.99) == [False, True]
    assert overlaps([0.2, 0.2], [rles[0]] * 2, 10, 10, 1.0) == [False, False]
    assert overlaps([], [], 10, 10, 0.5) == []


def test_another_clip_confirms_what_it_ranks_high() -> None:
    second = table([candidate(1, "dog", rank, proposal, 0.3) for rank, proposal in enumerate((7, 4, 2))])
    pairs = [candidate(1, noun, 0, proposal, 0.3) for noun, proposal in (("dog", 4), ("dog", 9), ("cat", 4))]
    assert is_confirmed(pairs, second, 1) == [False, False, False]
    assert is_confirmed(pairs, second, 2) == [True, False, False]


@given(st.integers(1, 30), st.integers(1, 8), st.integers(0, 99))
def test_the_distance_is_to_the_centre_of_the_others(number: int, width: int, seed: int) -> None:
    vectors = unit(number, width, seed)
    for i, distance in enumerate(centre_distances(vectors)):
        centre = sum(vectors[j] for j in range(number) if j != i)
        length = np.linalg.norm(centre)
        expected = 1.0 if length < 1e-9 else 1 - float(vectors[i] @ centre) / length
        assert distance == pytest.approx(expected, abs=1e-4)


def test_the_vector_itself_does_not_count() -> None:
    """Two opposite vectors are as far from each other as can be; with themselves both would be at no centre at all."""
    assert centre_distances(np.array([[1.0, 0.0], [-1.0, 0.0]])).tolist() == [2, 2]


def test_the_farthest_of_each_group_are_marked() -> None:
    """A quarter of four kites is one; two boats are no group of three."""
    right, up = [1.0, 0.0], [0.0, 1.0]
    vectors = np.array([right, up, right, right, up, right], np.float16)
    assert np.flatnonzero(group_outliers(NOUNS, vectors, 0.25, 3)).tolist() == [1]
    assert np.flatnonzero(group_outliers(NOUNS, vectors, 0.24, 3)).tolist() == []
    assert np.flatnonzero(group_outliers(NOUNS, vectors, 0.5, 2)).tolist() == [0, 1, 2]
    assert group_outliers(NOUNS, vectors, 1.0, 2).all() and not group_outliers(NOUNS, vectors, 1.0, 5).any()


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=40), st.sampled_from([0.0, 0.1, 0.3, 1.0]))
def test_the_fraction_is_of_each_group_and_rounded_down(nouns: list[str], fraction: float) -> None:
    marked = group_outliers(nouns, unit(len(nouns), 4), fraction, 2)
    for noun in set(nouns):
        members = [i for i, other in enumerate(nouns) if other == noun]
        expected = round(fraction * 10) * len(members) // 10 if len(members) >= 2 else 0
        assert marked[members].sum() == expected


PAIRS = [
    candidate(1, "dog", 0, 0, 0.30),
    candidate(1, "cat", 0, 1, 0.25),
    candidate(1, "cat", 1, 0, 0.20),
    candidate(1, "tail", 0, 0, 0.10),
    candidate(2, "dog", 0, 0, 0.20),
    candidate(3, "dog", 0, 0, 0.20),
]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two masks of an image with IoU 4:5, and regions of which that of image 3 is unlike the others."""
    candidates, proposals = tables_of(tmp_path / "run", [PAIRS])
    rles = {0: columns(0, 4), 1: columns(0, 5)}
    rows = [
        {"image_id": image_id, "proposal": p, "rle": rle, "height": 10, "width": 10, "source": "s"}
        for image_id in (1, 2, 3)
        for p, rle in rles.items()
    ]
    tables.write_part(proposals / "00000.parquet", "proposals", rows, "f")
    vectors = np.array([[1, 0], [1, 0], [1, 0], [0, 1]], np.float16)
    regions = Regions(np.array([1, 1, 2, 3]), np.array([0, 1, 0, 0], np.int32), vectors)
    (candidates / FOLDER).mkdir()
    write_regions(tmp_path, "00000", regions, "f", {tables.MODEL: "m"})
    (tmp_path / "00000.regions.parquet").rename(candidates / FOLDER / "00000.parquet")
    return candidates, proposals


@pytest.mark.parametrize(
    ("options", "dropped", "reason"),
    [
        ({"mutual": True}, {(1, "tail", 0)}, "not_mutual"),
        ({"max_overlap": 0.7}, {(1, "cat", 1), (1, "tail", 0)}, "overlap"),
        ({"max_overlap": 0.9}, {(1, "tail", 0)}, "overlap"),
        ({"group_outlier": 0.4, "group_size": 3}, {(3, "dog", 0)}, "group_outlier"),
        ({"group_outlier": 0.4, "group_size": 4}, set(), "group_outlier"),
    ],
)
def test_a_filter_drops_and_counts(
    options: Row, dropped: set[Any], reason: str, folders: tuple[Path, Path], tmp_path: Path, runtime: Runtime
) -> None:
    counts = select_pairs(*folders, tmp_path / "pairs", runtime, SelectOptions(**options))
    everything = chosen([row for row in PAIRS if row["rank"] == 0])
    assert chosen(list(tables.rows(tmp_path / "pairs", "pairs"))) == everything - dropped
    assert counts == {"pairs": 5 - len(dropped), **({f"dropped.{reason}": len(dropped)} if dropped else {})}


def test_a_second_clip_filters_and_is_part_of_the_key(
    folders: tuple[Path, Path], tmp_path: Path, runtime: Runtime
) -> None:
    """It has another best mask for one noun; a changed table is another selection; a table of other parts is refused."""
    other = [{**row, "proposal": 1} if row["noun"] == "tail" else row for row in PAIRS]
    second, _ = tables_of(tmp_path / "second", [other])
    options = SelectOptions(second_candidates=second)
    counts = select_pairs(*folders, tmp_path / "pairs", runtime, options)
    assert counts == {"pairs": 4, "dropped.not_confirmed": 1}
    tables.write_part(second / "00000.parquet", "candidates", PAIRS, "f")
    assert select_pairs(*folders, tmp_path / "again", runtime, options) == {"pairs": 5}
    tables.write_part(second / "00001.parquet", "candidates", PAIRS, "f")
    with pytest.raises(OvsegError, match="other parts"):
        select_pairs(*folders, tmp_path / "third", runtime, options)


def test_group_outliers_need_the_regions(tmp_path: Path, runtime: Runtime) -> None:
    candidates, proposals = tables_of(tmp_path / "run", [PAIRS])
    with pytest.raises(OvsegError, match=r"score\.keep_regions"):
        select_pairs(candidates, proposals, tmp_path / "pairs", runtime, SelectOptions(group_outlier=0.1))
