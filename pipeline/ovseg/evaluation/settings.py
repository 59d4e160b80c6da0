"""The ways to segment an image that an evaluation compares."""

from __future__ import annotations

from dataclasses import dataclass

SINGLE_CLASSIFIERS = {"clip": 1.0, "proposals": 0.0}
"""The classifiers that are no ensemble, and their weight of CLIP; the options for seen classes do not apply to them."""


@dataclass(frozen=True)
class EvalSetting:
    """One way to segment the images of a benchmark.

    Attributes:
        model: the name of the CLIP.
        mask_threshold: mask probability above which a pixel belongs to the proposal, in (0, 1).
        classifier: the name that the results get. "clip" and "proposals" are the single classifiers; "proposals" needs no CLIP
            and runs once for all models. Every other name is an ensemble.
        weight: the weight of CLIP, in [0, 1].
    """

    model: str
    mask_threshold: float
    classifier: str
    weight: float


def three_classifiers(model: str, mask_threshold: float, weight: float) -> list[EvalSetting]:
    """Return the settings of CLIP alone, the proposal network alone, and their ensemble with a weight of CLIP."""
    weights = {**SINGLE_CLASSIFIERS, "ensemble": weight}
    return [EvalSetting(model, mask_threshold, classifier, value) for classifier, value in weights.items()]
