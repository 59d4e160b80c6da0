"""All label maps of one image that an evaluation compares: every model, mask threshold and classifier, and the two oracles.

The output of the proposal network is shared by all of them, the crops by all models with the same mask threshold, and the
embeddings of regions with other evaluations.

Shapes: K classes, H, W image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovseg.clip.region_settings import RegionSettings
from ovseg.core.images import ImageArray
from ovseg.datasets.benchmark import Benchmark
from ovseg.evaluation.oracles import gt_masks, oracle_scores, relabel
from ovseg.evaluation.region_store import RegionStore
from ovseg.evaluation.settings import SINGLE_CLASSIFIERS, EvalSetting
from ovseg.proposals.network import NetworkOutput
from ovseg.segmentation.class_names import Vocabulary
from ovseg.segmentation.region_crops import RegionCrops
from ovseg.segmentation.segmenter import Segmenter, clip_probs


@dataclass(frozen=True)
class Prediction:
    """One label map of an image.

    Attributes:
        model: the name of the CLIP; empty for a classifier that needs none.
        threshold: the mask threshold; None for a classifier that needs none.
        classifier: the name of the setting's classifier, "oracle_labels" or "oracle_masks".
        labels: uint16 `[H, W]`.
        gt_classes: for "oracle_masks", the class of each ground-truth mask; None otherwise.
        pred_classes: for "oracle_masks", the class that CLIP predicts for each; None otherwise.
    """

    model: str
    threshold: float | None
    classifier: str
    labels: NDArray[np.uint16]
    gt_classes: list[int] | None = None
    pred_classes: list[int] | None = None


class _Regions:
    """The masks of an image; they are cropped, once for all models, when the first model has no embeddings of them.

    Models for another region encoder than crops have their own input.
    """

    def __init__(self, pixels: ImageArray, rles: Sequence[bytes | None], store: RegionStore) -> None:
        self.pixels, self.rles, self.store = pixels, tuple(rles), store
        self.valid = torch.tensor([rle is not None for rle in rles], dtype=torch.bool)
        self._crops: dict[RegionSettings, RegionCrops] = {}

    def embeddings(self, model: str, segmenter: Segmenter) -> Tensor:
        """The embeddings of the V masks with a pixel, `[V, D]`."""
        return self.store.embeddings(model, self.pixels, self.rles, lambda: self._embed(segmenter))

    def _embed(self, segmenter: Segmenter) -> Tensor:
        made_for = segmenter.clip.regions
        if made_for not in self._crops:
            self._crops[made_for] = segmenter.crop_regions(self.pixels, self.rles)
        return segmenter.embed_regions(self._crops[made_for])


def embed_classes(segmenters: Mapping[str, Segmenter], benchmark: Benchmark) -> dict[str, Vocabulary]:
    """Embed the classes of a benchmark for each segmenter, once for all that share a text tower without learned prompts.

    Args:
        segmenters: segmenters by name; all have the same text tower.
        benchmark: the benchmark.
    """
    vocabularies: dict[str, Vocabulary] = {}
    shared: Vocabulary | None = None
    for name, segmenter in segmenters.items():
        if segmenter.clip.text_prompts is not None:
            vocabularies[name] = segmenter.vocabulary(benchmark.names)
        else:
            shared = shared or segmenter.vocabulary(benchmark.names)
            vocabularies[name] = shared
    return vocabularies


def predict_image(
    segmenters: Mapping[str, Segmenter],
    settings: Sequence[EvalSetting],
    pixels: ImageArray,
    gt: NDArray[np.uint16],
    vocabularies: Mapping[str, Vocabulary],
    benchmark: Benchmark,
    oracles: bool,
    store: RegionStore,
) -> Iterator[Prediction]:
    """Segment one image in every way.

    Args:
        segmenters: a segmenter for each model; all have the same proposal network and input size.
        settings: the ways to segment it.
        pixels: uint8 RGB `[H, W, 3]`.
        gt: `[H, W]`, the ground truth.
        vocabularies: the embedded classes of the benchmark for each model, see `embed_classes`.
        benchmark: the benchmark.
        oracles: whether to add the two oracles; "oracle_labels" uses the proposals of the lowest threshold, "oracle_masks" is
            made for every model, also for those without a setting.
        store: the embeddings of regions that were computed before, where new ones are added.
    """
    first = next(iter(segmenters.values()))
    seen = None if benchmark.seen is None else torch.tensor(benchmark.seen)
    output = first.network.predict(pixels)
    finished: set[str] = set()
    for threshold in sorted({setting.mask_threshold for setting in settings}):
        regions = _Regions(pixels, first.binarize(pixels, output, threshold), store)
        for model in dict.fromkeys(setting.model for setting in settings if setting.mask_threshold == threshold):
            segmenter = segmenters[model]
            embeddings = regions.embeddings(model, segmenter)
            probs = segmenter.class_probs(output, regions.valid, embeddings, vocabularies[model])
            chosen = [
                setting
                for setting in settings
                if (setting.model, setting.mask_threshold) == (model, threshold) and setting.classifier not in finished
            ]
            seen_classes = [None if setting.classifier in SINGLE_CLASSIFIERS else seen for setting in chosen]
            scores_and_seen = [
                (segmenter.ensemble(probs, setting.weight, of_setting), of_setting)
                for setting, of_setting in zip(chosen, seen_classes, strict=True)
            ]
            maps = segmenter.semantic_maps(pixels, output, scores_and_seen)
            for setting, (labels, _) in zip(chosen, maps, strict=True):
                if setting.classifier == "proposals":  # it needs no CLIP, and so neither a model nor its threshold
                    yield Prediction("", None, setting.classifier, labels)
                    finished.add(setting.classifier)
                else:
                    yield Prediction(model, threshold, setting.classifier, labels)
        if oracles and "oracle_labels" not in finished:
            scores = oracle_scores(regions.rles, gt, benchmark.ignore, len(benchmark.names))
            yield _oracle_labels(first, pixels, output, scores, threshold)
            finished.add("oracle_labels")
    if oracles:
        yield from _oracle_masks(segmenters, pixels, gt, vocabularies, benchmark, store)


def _oracle_labels(
    segmenter: Segmenter, pixels: ImageArray, output: NetworkOutput, scores: Tensor, threshold: float
) -> Prediction:
    labels, _ = segmenter.semantic_map(pixels, output, scores)
    return Prediction("", threshold, "oracle_labels", labels)


def _oracle_masks(
    segmenters: Mapping[str, Segmenter],
    pixels: ImageArray,
    gt: NDArray[np.uint16],
    vocabularies: Mapping[str, Vocabulary],
    benchmark: Benchmark,
    store: RegionStore,
) -> Iterator[Prediction]:
    gt_classes, rles = gt_masks(gt, benchmark.ignore)
    regions = _Regions(pixels, rles, store)
    for model, segmenter in segmenters.items():
        probs = clip_probs(regions.valid, regions.embeddings(model, segmenter), vocabularies[model])
        pred_classes = probs.argmax(1).tolist()
        labels = relabel(gt, gt_classes, pred_classes, len(benchmark.names))
        yield Prediction(model, None, "oracle_masks", labels, gt_classes, pred_classes)
