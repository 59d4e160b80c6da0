"""The two-stage segmenter (paper 3.1): the benchmark, the command line and any demo call this one class.

network.predict -> masks and class embeddings of Q proposals
cut          -> what CLIP sees of each
name         -> p and q, the network's and CLIP's word on K classes
paint        -> their ensemble, composed to a map
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovseg.clip.adapted import load_adapted
from ovseg.clip.load import Clip, Precision
from ovseg.core import crops, masks
from ovseg.core.images import ImageArray
from ovseg.core.vocabulary import Templates
from ovseg.proposals.mask_logits import binary_masks
from ovseg.proposals.network import NetworkOutput, ProposalNetwork
from ovseg.proposals.network_folder import check_text_tower, load_network
from ovseg.segmentation.class_probs import by_clip, by_network, class_weights, ensemble_scores
from ovseg.segmentation.compose import compose
from ovseg.segmentation.names import Synonyms, Vocabulary, vocabulary
from ovseg.segmentation.regions import Regions, View, crop_regions, threads

Classifier = Literal["clip", "proposals", "ensemble"]
OTHERS = "others"


@dataclass(frozen=True)
class ClassProbs:
    """The word on each proposal: p by the network and q by CLIP, float64 `[Q, K]`; `valid` as in `Regions`."""

    p: Tensor
    q: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Segmentation:
    """One image, segmented.

    Attributes:
        names: K.
        labels: class of each pixel, uint16 `[H, W]`.
        score: its score, float32 `[H, W]`.
        proposals: score of each proposal for each class, float64 `[Q, K]`.
        areas: pixels of each proposal above the mask threshold, int64 `[Q]`.
    """

    names: tuple[str, ...]
    labels: NDArray[np.uint16]
    score: NDArray[np.float32]
    proposals: NDArray[np.float64]
    areas: NDArray[np.int64]


@dataclass(frozen=True)
class Segmenter:
    """A proposal network and a CLIP, and how they are put together.

    Attributes:
        network: proposals.
        clip: names them; its mask prompts are used.
        mask_threshold: what is above it is foreground of the crop that CLIP sees.
        weight: of CLIP in the ensemble, in [0, 1].
        weight_seen: another one for classes seen in training; None for the same.
        average_seen: see `ensemble_scores`, ZegFormer's.
        calibration: taken from the maps of classes seen in training, ZegFormer's gamma.
        fill, antialias, view: what CLIP is shown, see `crop_regions`.
        templates, synonyms: of names.
        batch_size: crops in one forward pass of CLIP.
        pool: threads that cut.
    """

    network: ProposalNetwork
    clip: Clip
    mask_threshold: float = 0.4
    weight: float = 0.7
    weight_seen: float | None = None
    average_seen: bool = False
    calibration: float = 0.0
    fill: crops.Fill = "mean"
    antialias: bool = True
    view: View = "crop-and-mask"
    templates: Templates = "vild"
    synonyms: Synonyms = "max"
    batch_size: int = 64
    pool: Executor = field(default_factory=threads, repr=False)

    @staticmethod
    def load(
        network: Path, clip: Path, device: str = "cpu", precision: Precision = "fp32", **options: object
    ) -> Segmenter:
        """Load both models.

        Args:
            network: models/proposal_network.
            clip: models/base, models/finetune, models/prompt, or any CLIP in that layout.
            device: torch device.
            precision: of CLIP.
            options: attributes of the class.

        Raises:
            OvsegError: a folder is not what it should be, or CLIP's text tower is not the network's.
        """
        loaded, tower = load_network(network, device), load_adapted(clip, device, precision)
        check_text_tower(loaded, tower, network, clip)
        return Segmenter(loaded, tower, **options)  # type: ignore[arg-type]

    def segment(
        self,
        pixels: ImageArray,
        names: Sequence[str | Sequence[str]],
        classifier: Classifier = "ensemble",
        others: bool = False,
    ) -> Segmentation:
        """Segment an image with any names.

        Args:
            pixels: uint8 RGB `[H, W, 3]`.
            names: of K classes; a class may have several, the shown one first.
            classifier: whose word counts: CLIP's, the proposal network's, or both.
            others: one more class, for what none of the names fits.

        Raises:
            OvsegError: names that cannot be used.
        """
        return self.segment_with(pixels, self.vocabulary(names, others), classifier)

    def segment_with(self, pixels: ImageArray, words: Vocabulary, classifier: Classifier = "ensemble") -> Segmentation:
        """As `segment`, with names that are embedded already, for many images."""
        queries = self.network.predict(pixels)
        rles = self.binarize(pixels, queries)
        weight = {"clip": 1.0, "proposals": 0.0, "ensemble": self.weight}[classifier]
        regions = self.crop_regions(
            pixels, rles if weight else [None] * len(rles)
        )  # the network's word needs nothing cut
        scores = self.ensemble(self.classify(queries, regions, words), weight)
        labels, score = self.semantic_map(pixels, queries, scores)
        size = pixels.shape[:2]
        areas = [0 if rle is None else masks.area(rle, *size) for rle in rles]
        return Segmentation(words.names, labels, score, scores.numpy(), np.array(areas, np.int64))

    def vocabulary(self, names: Sequence[str | Sequence[str]], others: bool = False) -> Vocabulary:
        """Embed the names of K classes; see `names.vocabulary`."""
        classes = [[name] if isinstance(name, str) else list(name) for name in names]
        if others and not any(OTHERS in some for some in classes):
            classes.append([OTHERS])
        return vocabulary(classes, self.clip, self.templates, self.synonyms)

    def binarize(
        self, pixels: ImageArray, queries: NetworkOutput, threshold: float | None = None
    ) -> list[bytes | None]:
        """The binary mask of each proposal as RLE, None where no pixel is above the threshold."""
        height, width = pixels.shape[:2]
        above = self.mask_threshold if threshold is None else threshold
        found = binary_masks(queries.mask_logits, queries.extent, height, width, above)
        return [masks.encode(mask) if mask.any() else None for mask, _ in found]

    def crop_regions(self, pixels: ImageArray, rles: Sequence[bytes | None]) -> Regions:
        """What CLIP sees of some masks of an image."""
        return crop_regions(
            pixels,
            rles,
            size=self.clip.size,
            mean=self.clip.mean.tolist(),
            fill=self.fill,
            antialias=self.antialias,
            view=self.view,
            pool=self.pool,
        )

    def by_clip(self, regions: Regions, words: Vocabulary) -> Tensor:
        """q of each proposal, float64 `[Q, K]`; rows that are not valid are 0."""
        q = torch.zeros(len(regions.valid), len(words.names), dtype=torch.float64)
        if len(regions.crop):
            size = self.batch_size
            pieces = zip(torch.split(regions.crop, size), torch.split(regions.mask, size), strict=True)
            features = torch.cat([self.clip.encode_crops(crop, mask) for crop, mask in pieces])
            q[regions.valid] = by_clip(words.similarity(features))
        return q

    def classify(self, queries: NetworkOutput, regions: Regions, words: Vocabulary) -> ClassProbs:
        """The word of both on each proposal."""
        p = by_network(words.similarity(queries.class_embeddings), queries.class_embeddings @ queries.no_object)
        return ClassProbs(p, self.by_clip(regions, words), regions.valid)

    def ensemble(self, named: ClassProbs, weight: float, seen: Tensor | None = None) -> Tensor:
        """Scores `[Q, K]` of the ensemble.

        Args:
            named: the word of both.
            weight: of CLIP.
            seen: which classes were seen in training, bool `[K]`, for `weight_seen` and `average_seen`; None to leave these.
        """
        if seen is None:
            return ensemble_scores(named.p, named.q, named.valid, weight)
        weights = class_weights(weight, self.weight_seen, seen)
        return ensemble_scores(named.p, named.q, named.valid, weights, seen if self.average_seen else None)

    def semantic_map(
        self, pixels: ImageArray, queries: NetworkOutput, scores: Tensor, seen: Tensor | None = None
    ) -> tuple[NDArray[np.uint16], NDArray[np.float32]]:
        """Labels and scores of each pixel, `[H, W]` each; `seen` as in `mix`."""
        height, width = pixels.shape[:2]
        discount = None if seen is None or not self.calibration else self.calibration * seen.double()
        return compose(scores, queries.mask_logits, queries.extent, height, width, discount)
