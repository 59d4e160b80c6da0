"""All label maps of images that an evaluation compares: every model, mask threshold and classifier, and the two oracles.

The output of the proposal network is shared by all of them, the crops by all models with the same mask threshold, and both
the output and the embeddings of regions with other evaluations.

Shapes: K classes, H, W image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovseg.core.images import ImageArray
from ovseg.datasets.benchmark import Benchmark
from ovseg.evaluation.benchmark_images import BenchmarkImage, find_masks, regions_of_models
from ovseg.evaluation.oracles import oracle_scores, relabel
from ovseg.evaluation.region_store import ImageRegions, RegionName, embed_regions
from ovseg.evaluation.settings import SINGLE_CLASSIFIERS, EvalSetting
from ovseg.evaluation.store import Store
from ovseg.segmentation.class_names import Vocabulary
from ovseg.segmentation.segmenter import Segmenter, clip_probs

MapName = tuple[str, float | None, str]
"""Model, mask threshold and classifier of a label map, see `Prediction`."""


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


def embed_classes(segmenters: Mapping[str, Segmenter], benchmark: Benchmark) -> dict[str, Vocabulary]:
    """Embed the classes of a benchmark for each segmenter: once for all whose CLIPs have learned nothing about texts.

    Args:
        segmenters: segmenters by name; all have the same text tower.
        benchmark: the benchmark.
    """
    vocabularies: dict[str, Vocabulary] = {}
    shared: Vocabulary | None = None
    for name, segmenter in segmenters.items():
        if segmenter.clip.has_learned_texts:
            vocabularies[name] = segmenter.vocabulary(benchmark.names)
        else:
            shared = shared or segmenter.vocabulary(benchmark.names)
            vocabularies[name] = shared
    return vocabularies


def predict_images(
    segmenters: Mapping[str, Segmenter],
    settings: Sequence[EvalSetting],
    images: Sequence[tuple[ImageArray, NDArray[np.uint16]]],
    vocabularies: Mapping[str, Vocabulary],
    benchmark: Benchmark,
    oracles: bool,
    store: Store,
    embedded: Mapping[RegionName, Tensor] | None = None,
) -> Iterator[list[Prediction]]:
    """Segment some images in every way. What none of the networks has seen before, they see for all images at once.

    Args:
        segmenters: a segmenter for each model; all have the same proposal network and input size.
        settings: the ways to segment each image.
        images: of each its pixels, uint8 RGB `[H, W, 3]`, and the ground truth, `[H, W]`.
        vocabularies: the embedded classes of the benchmark for each model, see `embed_classes`.
        benchmark: the benchmark.
        oracles: whether to add the two oracles; "oracle_labels" uses the proposals of the lowest threshold, "oracle_masks" is
            made for every model, also for those without a setting.
        store: what was computed before, to which is added.
        embedded: the embeddings of a table of the step `embed`, see `region_rows.embeddings_of_unit`; None for none.

    Yields:
        the label maps of each image.
    """
    first = next(iter(segmenters.values()))
    thresholds: dict[str, list[float]] = {model: [] for model in segmenters}
    for setting in settings:
        thresholds[setting.model].append(setting.mask_threshold)
    of_all = chain.from_iterable(thresholds.values())
    found = find_masks(first, images, of_all, benchmark.ignore, store.network)
    encoders = {name: segmenter.encoder for name, segmenter in segmenters.items()}
    wanted = regions_of_models(found, thresholds, oracles)
    embeddings = embed_regions(encoders, wanted, store.clips, embedded)
    for image in found:
        predictions = list(_predict(segmenters, settings, image, embeddings, vocabularies, benchmark, oracles))
        if oracles:
            predictions += _oracle_masks(image, embeddings, vocabularies, len(benchmark.names))
        yield predictions


def _predict(
    segmenters: Mapping[str, Segmenter],
    settings: Sequence[EvalSetting],
    image: BenchmarkImage,
    embeddings: Mapping[tuple[str, ImageRegions], Tensor],
    vocabularies: Mapping[str, Vocabulary],
    benchmark: Benchmark,
    oracle: bool,
) -> Iterator[Prediction]:
    """The label maps of all settings and of the oracle of labels, whose masks are enlarged once for all."""
    seen = None if benchmark.seen is None else torch.tensor(benchmark.seen)
    made: list[MapName] = []
    scores_and_seen: list[tuple[Tensor, Tensor | None]] = []
    for threshold, regions in image.proposals.items():
        for model in dict.fromkeys(setting.model for setting in settings if setting.mask_threshold == threshold):
            segmenter = segmenters[model]
            probs = segmenter.class_probs(image.output, regions.valid, embeddings[model, regions], vocabularies[model])
            for setting in settings:
                if (setting.model, setting.mask_threshold) != (model, threshold):
                    continue
                of_map: MapName = (model, threshold, setting.classifier)
                if setting.classifier == "proposals":  # it needs no CLIP, and so neither a model nor its threshold
                    of_map = ("", None, setting.classifier)
                    if of_map in made:
                        continue
                made.append(of_map)
                of_setting = None if setting.classifier in SINGLE_CLASSIFIERS else seen
                scores_and_seen.append((segmenter.ensemble(probs, setting.weight, of_setting), of_setting))
        if oracle and threshold == min(image.proposals):
            made.append(("", threshold, "oracle_labels"))
            scores = oracle_scores(regions.rles, image.labels, benchmark.ignore, len(benchmark.names))
            scores_and_seen.append((scores, None))
    maps = next(iter(segmenters.values())).semantic_maps(image.pixels, image.output, scores_and_seen)
    for of_map, (labels, _) in zip(made, maps, strict=True):
        yield Prediction(*of_map, labels)


def _oracle_masks(
    image: BenchmarkImage,
    embeddings: Mapping[tuple[str, ImageRegions], Tensor],
    vocabularies: Mapping[str, Vocabulary],
    num_classes: int,
) -> Iterator[Prediction]:
    gt_classes, regions = image.gt
    for model, vocabulary in vocabularies.items():
        pred_classes = clip_probs(regions.valid, embeddings[model, regions], vocabulary).argmax(1).tolist()
        labels = relabel(image.labels, gt_classes, pred_classes, num_classes)
        yield Prediction(model, None, "oracle_masks", labels, gt_classes, pred_classes)
