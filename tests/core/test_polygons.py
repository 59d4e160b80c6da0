"""Polygons and RLE as tools write them: read where they are unambiguous; a bad ring beside a good one is left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ovseg.core import masks
from ovseg.core.errors import BadItem
from ovseg.core.polygons import read_rings

H, W = 12, 16
Ring = list[float]
RING: Ring = [1, 2, 7, 2, 7, 9, 1, 9]
OTHER: Ring = [9.5, 1, 14, 1, 14, 5]
STRAYS: dict[str, Any] = {
    "point": [3, 4],
    "line": [3, 4, 5, 6],
    "empty": [],
    "odd number": [1, 2, 7, 2, 7, 9, 1],
    "null": None,
    "NaN": [1, 2, float("nan"), 2, 7, 9],
    "NaN as streaming reads it": [1, 2, "NaN", 2, 7, 9],
    "infinite": [1, 2, float("inf"), 2, 7, 9],
    "far away": [1, 2, 1e9, 2, 7, 9],
    "word": "ring",
    "words": ["a", "b", "c", "d", "e", "f"],
    "number": 7,
    "object": {"x": 1},
    "truth values": [True, False, True, True, False, False],
    "huge": [10**400] * 6,
}


def points(ring: Ring) -> list[list[float]]:
    return [ring[i : i + 2] for i in range(0, len(ring), 2)]


SPELLINGS: dict[str, Callable[[Ring], Any]] = {
    "COCO": lambda ring: [ring],
    "flat": lambda ring: ring,
    "points": points,
    "rings of points": lambda ring: [points(ring)],
    "points as objects": lambda ring: [{"x": x, "y": y} for x, y in points(ring)],
    "numbers as text": lambda ring: [[str(number) for number in ring]],
    "flat numbers as text": lambda ring: [str(number) for number in ring],
    "points of text": lambda ring: [[str(x), str(y)] for x, y in points(ring)],
    "a text of points": lambda ring: " ".join(f"{x},{y}" for x, y in points(ring)),
    "a list of texts": lambda ring: [", ".join(map(str, ring))],
    "JSON in JSON": lambda ring: json.dumps([ring]),
}
coordinates = st.integers(-H, 2 * H) | st.floats(-H, 2 * H)
rings = st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=8).map(lambda ps: [v for p in ps for v in p])


@given(rings, st.sampled_from(sorted(SPELLINGS)))
def test_every_spelling_of_a_ring_is_the_same_ring(ring: Ring, spelling: str) -> None:
    value = SPELLINGS[spelling](ring)
    if spelling != "JSON in JSON":
        assert read_rings(value, H, W) == ([ring], 0)
    try:
        expected = masks.from_coco([ring], H, W)
    except BadItem:  # without area
        return
    assert masks.from_coco(value, H, W) == expected


@pytest.mark.parametrize("stray", STRAYS)
def test_a_bad_ring_beside_good_ones_is_left_out_and_counted(stray: str) -> None:
    good = masks.from_coco([RING, OTHER], H, W)
    for value in ([STRAYS[stray], RING, OTHER], [RING, STRAYS[stray], OTHER], [RING, OTHER, STRAYS[stray]]):
        assert masks.read_segmentation(value, H, W) == (good, 1)
    assert masks.read_segmentation([STRAYS[stray], RING, OTHER, STRAYS[stray]], H, W) == (good, 2)


@pytest.mark.parametrize("stray", STRAYS)
def test_nothing_but_bad_rings_is_a_malformed_polygon(stray: str) -> None:
    for value in ([STRAYS[stray]], [STRAYS[stray]] * 2):
        with pytest.raises(BadItem) as raised:
            masks.from_coco(value, H, W)
        assert raised.value.reason == "polygon_malformed"


@given(arrays(bool, (5, 7)))
def test_every_spelling_of_an_rle_is_the_same_rle(mask: masks.MaskArray) -> None:
    """As bytes, text, the `repr` of both Python and NumPy, runs, and runs as text; sizes as text, too."""
    mask.flat[3] = True
    counts = masks.encode(mask)
    runs = masks.run_lengths(counts)
    spellings = [counts, counts.decode(), repr(counts), f"np.bytes_({counts!r})", f'b"{repr(counts)[2:-1]}"']
    spellings += [
        repr(np.bytes_(counts)),
        runs,
        list(map(str, runs)),
        list(map(float, runs)),
        str(runs),
        json.dumps(runs),
    ]
    for spelling in spellings:
        for size in ([5, 7], ["5", "7"], [5.0, "7.0"]):
            assert masks.from_coco({"size": size, "counts": spelling}, 5, 7) == counts


@pytest.mark.parametrize("counts", ["b'", "b''", "b'\\x'", "b'o'x'", "np.bytes_(b'o'", "[1, 2", "[1, x]", "b'\\u00e4'"])
def test_what_only_looks_like_a_spelling_is_malformed(counts: str) -> None:
    with pytest.raises(BadItem) as raised:
        masks.from_coco({"size": [5, 7], "counts": counts}, 5, 7)
    assert raised.value.reason in ("rle_malformed", "rle_size")


def test_an_exchanged_size_is_said_to_be_exchanged() -> None:
    counts = masks.encode(np.ones((7, 5), bool))
    with pytest.raises(BadItem, match="height and width are exchanged") as raised:
        masks.from_coco({"size": [7, 5], "counts": counts}, 5, 7)
    assert raised.value.reason == "rle_size"
