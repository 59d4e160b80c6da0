"""The overlap of a class with the training data: any of its names counts, compared letter by letter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovseg.datasets.classes import CLASS_TABLES, read_classes
from ovseg.evaluation.metrics import ious, segmentation_metrics
from ovseg.evaluation.vocabulary_overlap import (
    GROUPS,
    ClassOverlap,
    group_counts,
    miou_by_group,
    normalize_name,
    vocabulary_overlap,
)
from tests.evaluation.test_metrics import SEEN, K, label_maps, totals_of

WORDS = st.sampled_from(["cat", "Cat", "traffic light", "light", "sofa", "couch"])


def test_a_synonym_counts_as_much_as_the_shown_name() -> None:
    classes = [("cat", "kitten"), ("sofa", "couch"), ("dog",)]
    overlaps = vocabulary_overlap(classes, ["couch", "wall"], [("kitten", 3), ("cat", 2), ("sky", 9)])
    assert overlaps == [
        ClassOverlap("cat", (), {"cat": 2, "kitten": 3}),
        ClassOverlap("sofa", ("couch",), {}),
        ClassOverlap("dog", (), {}),
    ]
    assert [overlap.group for overlap in overlaps] == ["mined_only", "annotated", "neither"]


@pytest.mark.parametrize(
    ("name", "other", "same"),
    [
        ("Traffic  Light", "traffic light", True),
        (" sky", "sky", True),
        ("traffic light", "light", False),
        ("light", "traffic light", False),
        ("curtains", "curtain", False),
        ("diningtable", "dining table", True),
        ("t-shirt", "T shirt", True),
        ("cat", "cats", False),
    ],
)
def test_names_are_compared_ignoring_case_blanks_and_hyphens(name: str, other: str, same: bool) -> None:
    assert (normalize_name(name) == normalize_name(other)) is same
    overlap = vocabulary_overlap([(name,)], [other], [(other, 4)])[0]
    assert bool(overlap.annotated) is bool(overlap.mined) is same


def test_the_pairs_of_a_noun_that_two_classes_share_count_once() -> None:
    overlaps = vocabulary_overlap(
        [("glass", "cup"), ("cup",), ("cup", "Cup ")], [], [("cup", 4), ("Cup", 1), ("glass", 2)]
    )
    assert [sum(overlap.mined.values()) for overlap in overlaps] == [7, 5, 5]
    assert group_counts(overlaps) == {
        "classes": 3,
        "annotated": 0,
        "mined": 3,
        "mined_only": 3,
        "neither": 0,
        "pairs": 7,
    }


def test_a_class_that_is_annotated_and_mined_belongs_to_the_annotated() -> None:
    overlaps = vocabulary_overlap([("cat",), ("dog",)], ["cat"], [("cat", 1), ("dog", 1)])
    assert group_counts(overlaps) == {
        "classes": 2,
        "annotated": 1,
        "mined": 2,
        "mined_only": 1,
        "neither": 0,
        "pairs": 2,
    }


@given(st.lists(st.lists(WORDS, min_size=1, max_size=3), max_size=5), st.lists(WORDS), st.lists(WORDS))
def test_every_class_belongs_to_one_group(classes: list[list[str]], annotated: list[str], mined: list[str]) -> None:
    counts = group_counts(vocabulary_overlap(classes, annotated, [(noun, 1) for noun in mined]))
    assert sum(counts[group] for group in GROUPS) == counts["classes"] == len(classes)
    assert counts["pairs"] <= len(mined) and counts["mined_only"] <= counts["mined"]


def test_the_mean_of_a_group_is_over_its_classes_with_ground_truth_or_prediction() -> None:
    overlaps = vocabulary_overlap([("cat",), ("dog",), ("sky",), ("sea",)], ["cat", "dog"], [("sky", 1)])
    assert miou_by_group(overlaps, np.array([0.5, np.nan, 0.25, np.nan])) == {
        "miou_annotated": 0.5,
        "miou_mined_only": 0.25,
    }
    assert miou_by_group(overlaps, np.array([0.5, 0.0, 0.25, 1.0]))["miou_annotated"] == 0.25


def test_the_groups_of_seen_and_unseen_classes_have_their_miou() -> None:
    totals = totals_of(*label_maps(absent=(4,)))
    annotated = [f"class {i}" for i in range(K) if SEEN[i]]
    overlaps = vocabulary_overlap([(f"class {i}",) for i in range(K)], annotated, [])
    total = totals.sum()
    means = miou_by_group(overlaps, ious(total.intersection, total.gt_area, total.pred_area)[0])
    expected = segmentation_metrics(totals, np.array(SEEN))
    assert means == {"miou_annotated": expected["miou_seen"], "miou_neither": expected["miou_unseen"]}


def test_published_benchmarks_overlap_with_coco_stuff_as_far_as_their_spelling_agrees() -> None:
    """COCO-Stuff, which OVSeg's proposal network is trained on, has most classes of VOC, but "airplane" for "aeroplane"."""
    annotated = [name for entry in read_classes(CLASS_TABLES / "cocostuff.json") for name in entry.names]
    overlaps = vocabulary_overlap([entry.names for entry in read_classes(CLASS_TABLES / "pas20.json")], annotated, [])
    not_annotated = {overlap.name for overlap in overlaps if not overlap.annotated}
    assert {"aeroplane", "motorbike", "tvmonitor"} <= not_annotated
    assert {"person", "cat", "dog", "bus", "diningtable", "pottedplant"} <= {
        overlap.name for overlap in overlaps
    } - not_annotated
