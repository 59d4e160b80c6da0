"""What training has seen of a class: any of its names decides, letter by letter, and every class is of one group."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovseg.datasets.classes import HERE, read_classes
from ovseg.evaluation.metrics import ious, metrics
from ovseg.evaluation.vocabulary_overlap import GROUPS, Overlap, counts, letters, miou_by_group, vocabulary_overlap
from tests.evaluation.test_metrics import SEEN, K, some, totals_of

WORDS = st.sampled_from(["cat", "Cat", "traffic light", "light", "sofa", "couch"])


def test_a_synonym_counts_as_much_as_the_shown_name() -> None:
    classes = [("cat", "kitten"), ("sofa", "couch"), ("dog",)]
    found = vocabulary_overlap(classes, ["couch", "wall"], [("kitten", 3), ("cat", 2), ("sky", 9)])
    assert found == [
        Overlap("cat", (), {"cat": 2, "kitten": 3}),
        Overlap("sofa", ("couch",), {}),
        Overlap("dog", (), {}),
    ]
    assert [one.group for one in found] == ["mined_only", "annotated", "neither"]


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
def test_names_are_the_same_letter_by_letter_in_lower_case_blanks_and_hyphens_aside(
    name: str, other: str, same: bool
) -> None:
    assert (letters(name) == letters(other)) is same
    found = vocabulary_overlap([(name,)], [other], [(other, 4)])[0]
    assert bool(found.annotated) is bool(found.mined) is same


def test_a_noun_that_two_classes_share_is_counted_once_in_all_pairs() -> None:
    found = vocabulary_overlap(
        [("glass", "cup"), ("cup",), ("cup", "Cup ")], [], [("cup", 4), ("Cup", 1), ("glass", 2)]
    )
    assert [sum(one.mined.values()) for one in found] == [7, 5, 5]
    assert counts(found) == {"classes": 3, "annotated": 0, "mined": 3, "mined_only": 3, "neither": 0, "pairs": 7}


def test_a_class_that_is_annotated_and_mined_is_of_the_annotated() -> None:
    found = vocabulary_overlap([("cat",), ("dog",)], ["cat"], [("cat", 1), ("dog", 1)])
    assert counts(found) == {"classes": 2, "annotated": 1, "mined": 2, "mined_only": 1, "neither": 0, "pairs": 2}


@given(st.lists(st.lists(WORDS, min_size=1, max_size=3), max_size=5), st.lists(WORDS), st.lists(WORDS))
def test_every_class_is_of_one_group(classes: list[list[str]], annotated: list[str], mined: list[str]) -> None:
    found = counts(vocabulary_overlap(classes, annotated, [(noun, 1) for noun in mined]))
    assert sum(found[group] for group in GROUPS) == found["classes"] == len(classes)
    assert found["pairs"] <= len(mined) and found["mined_only"] <= found["mined"]


def test_the_mean_of_a_group_is_over_its_classes_with_true_or_guessed_pixels() -> None:
    found = vocabulary_overlap([("cat",), ("dog",), ("sky",), ("sea",)], ["cat", "dog"], [("sky", 1)])
    assert miou_by_group(found, np.array([0.5, np.nan, 0.25, np.nan])) == {
        "miou_annotated": 0.5,
        "miou_mined_only": 0.25,
    }
    assert miou_by_group(found, np.array([0.5, 0.0, 0.25, 1.0]))["miou_annotated"] == 0.25


def test_groups_that_are_the_seen_and_the_unseen_have_their_mious() -> None:
    totals = totals_of(*some(absent=(4,)))
    annotated = [f"class {i}" for i in range(K) if SEEN[i]]
    found = vocabulary_overlap([(f"class {i}",) for i in range(K)], annotated, [])
    whole = totals.sum()
    means = miou_by_group(found, ious(whole.right, whole.true, whole.guessed)[0])
    wanted = metrics(totals, np.array(SEEN))
    assert means == {"miou_annotated": wanted["miou_seen"], "miou_neither": wanted["miou_unseen"]}


def test_published_benchmarks_overlap_with_coco_stuff_as_their_spelling_lets_them() -> None:
    """COCO-Stuff, which OVSeg's proposals are trained on, has most classes of VOC; "aeroplane" is not its "airplane"."""
    annotated = [name for one in read_classes(HERE / "cocostuff.json") for name in one.names]
    found = vocabulary_overlap([one.names for one in read_classes(HERE / "pas20.json")], annotated, [])
    absent = {one.name for one in found if not one.annotated}
    assert {"aeroplane", "motorbike", "tvmonitor"} <= absent
    assert {"person", "cat", "dog", "bus", "diningtable", "pottedplant"} <= {one.name for one in found} - absent
