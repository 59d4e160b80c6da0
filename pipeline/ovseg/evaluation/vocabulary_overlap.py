"""Which classes of a benchmark were annotated in training, mined as nouns, or neither: is the result zero-shot?

Two names are equal if their letters are, ignoring case, blanks and hyphens ("diningtable", "dining table"). Nothing else is
done: a mined noun is a lemma while a class keeps its form ("curtains" is not the noun "curtain"), a compound is one name
("black cat" is not "cat"), and "sky-other" of COCO-Stuff is not "sky", so the overlap is rather too small. A name with two
meanings ("mouse") counts for both. The data that CLIP was pretrained on is not public, so it is not counted.

Shapes: K classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ovseg.evaluation.metrics import FloatArray

Group = Literal["annotated", "mined_only", "neither"]
GROUPS: tuple[Group, ...] = ("annotated", "mined_only", "neither")


@dataclass(frozen=True)
class ClassOverlap:
    """The overlap of one class with the training data.

    Attributes:
        name: the name that is shown.
        annotated: the names of the class that are also names of annotated masks.
        mined: the names of the class that are mined nouns, and the number of pairs of each.
    """

    name: str
    annotated: tuple[str, ...]
    mined: Mapping[str, int]

    @property
    def group(self) -> Group:
        """ "annotated" (whether mined or not), "mined_only" or "neither"."""
        return "annotated" if self.annotated else "mined_only" if self.mined else "neither"


def normalize_name(name: str) -> str:
    """Return the form in which names are compared: lower case, without blanks and hyphens."""
    return "".join(name.lower().replace("-", " ").split())


def vocabulary_overlap(
    classes: Iterable[Sequence[str]], annotated: Iterable[str], mined: Iterable[tuple[str, int]]
) -> list[ClassOverlap]:
    """Compare the names of a benchmark with the names of the training data.

    Args:
        classes: the names of each of K classes, the shown one first, then synonyms; all of them count.
        annotated: the names of the masks that were annotated in training.
        mined: the mined nouns and their numbers of pairs.

    Returns:
        one overlap for each class, in the order of `classes`.
    """
    annotated_names = {normalize_name(name) for name in annotated}
    pairs: Counter[str] = Counter()
    for noun, number in mined:
        pairs[normalize_name(noun)] += number
    return [_class_overlap(names, annotated_names, pairs) for names in classes]


def group_counts(overlaps: Sequence[ClassOverlap]) -> dict[str, int]:
    """Count the classes: "classes", "annotated", "mined" (annotated or not), "mined_only", "neither"; and "pairs", the number
    of pairs of all their names, where a name that two classes share counts once."""
    groups = Counter(overlap.group for overlap in overlaps)
    pairs = {noun: number for overlap in overlaps for noun, number in overlap.mined.items()}
    return {
        "classes": len(overlaps),
        "annotated": groups["annotated"],
        "mined": sum(bool(overlap.mined) for overlap in overlaps),
        "mined_only": groups["mined_only"],
        "neither": groups["neither"],
        "pairs": sum(pairs.values()),
    }


def miou_by_group(overlaps: Sequence[ClassOverlap], iou: FloatArray) -> dict[str, float]:
    """Compute the mean IoU of each group by the rule of "miou": over its classes with ground truth or prediction.

    Args:
        overlaps: the overlaps of K classes.
        iou: float64 `[K]`, NaN for a class without ground truth and prediction; see `metrics.ious`.

    Returns:
        "miou_annotated", "miou_mined_only" and "miou_neither" in [0, 1]; a group without such a class is left out.
    """
    means = {}
    for group in GROUPS:
        in_group = np.array([overlap.group == group for overlap in overlaps])
        values = iou[in_group & np.isfinite(iou)]
        if len(values):
            means[f"miou_{group}"] = float(values.mean())
    return means


def _class_overlap(names: Sequence[str], annotated: Collection[str], pairs: Mapping[str, int]) -> ClassOverlap:
    # Two names of a class may be equal: building the dict backwards keeps the spelling of the first.
    spelling = {normalize_name(name): " ".join(name.lower().split()) for name in reversed(names)}
    return ClassOverlap(
        names[0],
        tuple(spelling[name] for name in reversed(spelling) if name in annotated),
        {spelling[name]: pairs[name] for name in reversed(spelling) if name in pairs},
    )
