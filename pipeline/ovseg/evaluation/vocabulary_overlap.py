"""What training has seen of a benchmark's names: annotated masks, mined pairs, or nothing. Is it zero-shot?

Two names are the same if their letters are, in lower case, blanks and hyphens aside ("diningtable", "dining table"). There is
no more to it: a mined noun is a lemma, a class keeps its own form ("curtains" is not the noun "curtain"), a compound is one
name ("black cat" is not "cat"), and COCO-Stuff's "sky-other" is not "sky": there, what was seen is counted too low. A word
of two meanings ("mouse") counts as seen in both. What CLIP saw before is not counted: nobody knows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ovseg.evaluation.metrics import Floats

Group = Literal["annotated", "mined_only", "neither"]
GROUPS: tuple[Group, ...] = ("annotated", "mined_only", "neither")


@dataclass(frozen=True)
class Overlap:
    """What training has seen of one class.

    Attributes:
        name: as shown.
        annotated: those of its names that are names of annotated masks.
        mined: pairs of each of its names that is a mined noun.
    """

    name: str
    annotated: tuple[str, ...]
    mined: Mapping[str, int]

    @property
    def group(self) -> Group:
        """Annotated in training, whether mined or not; only mined; or neither."""
        return "annotated" if self.annotated else "mined_only" if self.mined else "neither"


def letters(name: str) -> str:
    """A name as names are compared: in lower case, without blanks and hyphens."""
    return "".join(name.lower().replace("-", " ").split())


def vocabulary_overlap(
    classes: Iterable[Sequence[str]], annotated: Iterable[str], mined: Iterable[tuple[str, int]]
) -> list[Overlap]:
    """Compare the names of a benchmark with those of training.

    Args:
        classes: names of each of K classes: the shown one, then synonyms; any of them counts.
        annotated: names of the masks that were annotated in training.
        mined: mined nouns, and how many pairs each has.

    Returns:
        K, in the order of `classes`.
    """
    known = {letters(name) for name in annotated}
    pairs: Counter[str] = Counter()
    for noun, number in mined:
        pairs[letters(noun)] += number
    return [_overlap(names, known, pairs) for names in classes]


def counts(found: Sequence[Overlap]) -> dict[str, int]:
    """How many classes there are: "classes", "annotated", "mined" (annotated or not), "mined_only", "neither"; and "pairs" that
    were mined with any of their names, each once."""
    groups = Counter(one.group for one in found)
    pairs = {noun: number for one in found for noun, number in one.mined.items()}
    return {
        "classes": len(found),
        "annotated": groups["annotated"],
        "mined": sum(bool(one.mined) for one in found),
        "mined_only": groups["mined_only"],
        "neither": groups["neither"],
        "pairs": sum(pairs.values()),
    }


def miou_by_group(found: Sequence[Overlap], iou: Floats) -> dict[str, float]:
    """Mean IoU of the classes of each group, by OVSeg's rule: over those with true or guessed pixels.

    Args:
        found: of K classes.
        iou: of each `[K]`, NaN without true or guessed pixels; see `metrics.ious`.

    Returns:
        "miou_annotated", "miou_mined_only", "miou_neither", in [0, 1]; a group without such a class has none.
    """
    means = {}
    for group in GROUPS:
        known = iou[np.array([one.group == group for one in found]) & np.isfinite(iou)]
        if len(known):
            means[f"miou_{group}"] = float(known.mean())
    return means


def _overlap(names: Sequence[str], known: Collection[str], pairs: Mapping[str, int]) -> Overlap:
    own = {letters(name): " ".join(name.lower().split()) for name in reversed(names)}  # the first of equals is shown
    return Overlap(
        names[0],
        tuple(own[key] for key in reversed(own) if key in known),
        {own[key]: pairs[key] for key in reversed(own) if key in pairs},
    )
