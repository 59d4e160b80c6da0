"""Two-stage segmentation (paper 3.1). Benchmarks, the command line and applications all call this one class.

    network.predict   masks and query embeddings of Q proposals
    binarize          their binary masks
    crop_regions      the crop of each for CLIP
    classify          class probabilities by the proposal network and by CLIP
    ensemble          one score for each proposal and class
    semantic_map      the class of each pixel

Shapes: Q proposals, K classes, H, W image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovseg.clip.adapted import load_adapted
from ovseg.clip.load import Clip
from ovseg.core import masks
from ovseg.core.crops import crop_threads
from ovseg.core.errors import OvsegError
from ovseg.core.images import ImageArray
from ovseg.core.options import CropOptions, SegmentOptions
from ovseg.proposals.mask_logits import binary_masks, upsample_mask_probs
from ovseg.proposals.network import NetworkOutput, ProposalNetwork
from ovseg.proposals.network_folder import check_text_tower, load_network
from ovseg.segmentation.class_names import Vocabulary, build_vocabulary, clean_name
from ovseg.segmentation.class_probs import (
    ClassProbs,
    class_weights,
    clip_class_probs,
    ensemble_scores,
    network_class_probs,
)
from ovseg.segmentation.region_crops import RegionCrops
from ovseg.segmentation.region_encoder import RegionEncoder
from ovseg.segmentation.semantic_map import SemanticMap, semantic_maps

Classifier = Literal["clip", "proposals", "ensemble"]
OTHERS = "others"


@dataclass(frozen=True)
class Segmentation:
    """The segmentation of one image.

    Attributes:
        names: the names of K classes.
        labels: uint16 `[H, W]`, the class of each pixel.
        pixel_scores: float32 `[H, W]`, the score of that class.
        proposal_scores: float64 `[Q, K]`, the score of each proposal for each class.
        areas: int64 `[Q]`, the number of pixels of each proposal above the mask threshold.
    """

    names: tuple[str, ...]
    labels: NDArray[np.uint16]
    pixel_scores: NDArray[np.float32]
    proposal_scores: NDArray[np.float64]
    areas: NDArray[np.int64]


@dataclass(frozen=True)
class Segmenter:
    """A proposal network and a CLIP that classifies its proposals.

    Attributes:
        network: the proposal network.
        clip: the CLIP, with the region encoder that it is made for; its mask prompts are used if it has any.
        mask_threshold: mask probability above which a pixel belongs to the proposal, in (0, 1).
        weight: the weight of CLIP in the ensemble, in [0, 1].
        options: the view of a region, the text templates, and the treatment of seen classes. The options for seen classes
            apply only in `evaluate` and `calibrate`.
        crop, batch_size, pool: as `RegionEncoder` takes them.

    Raises:
        OvsegError: the CLIP has no such view; or "no object" is to take part in its softmax, and its scores are no cosines.
    """

    network: ProposalNetwork
    clip: Clip
    mask_threshold: float = 0.4
    weight: float = 0.7
    options: SegmentOptions = field(default_factory=SegmentOptions)
    crop: CropOptions = field(default_factory=CropOptions)
    batch_size: int = 64
    pool: Executor = field(default_factory=crop_threads, repr=False)

    def __post_init__(self) -> None:
        _ = self.encoder  # checks the view
        if self.options.no_object_in_clip and self.clip.pseudo_text is not None:
            raise OvsegError(
                "segment.no_object_in_clip=true compares a cosine of the proposal network with those of CLIP, and this CLIP "
                "has pseudo-texts, whose scores are no cosines; set it to false"
            )

    @property
    def encoder(self) -> RegionEncoder:
        """How CLIP sees the proposals."""
        return RegionEncoder(self.clip, self.crop, self.options.view, self.batch_size, self.pool)

    @staticmethod
    def load(
        network: Path,
        clip: Path,
        device: str = "cpu",
        *,
        mask_threshold: float = 0.4,
        weight: float = 0.7,
        options: SegmentOptions | None = None,
        crop: CropOptions | None = None,
        batch_size: int = 64,
        workers: int | None = None,
    ) -> Segmenter:
        """Load both models.

        Args:
            network: the folder of the proposal network, such as models/proposal_network.
            clip: the folder of the CLIP, such as models/prompt.
            device: the torch device.
            mask_threshold, weight, batch_size: attributes of the class.
            options: an attribute of the class; None for the defaults.
            crop: an attribute of the class; None for the defaults.
            workers: the number of threads that crop, see `crops.crop_threads`; None for one per core, at most four.

        Raises:
            OvsegError: a folder does not hold such a model, CLIP's text tower is not the one of the network, or its region
                encoder has no such view.
        """
        options = options or SegmentOptions()
        loaded_network = load_network(network, device).for_prediction(options.network_precision)
        loaded_clip = load_adapted(clip, device, options.precision)
        check_text_tower(loaded_network, loaded_clip, network, clip)
        pool = crop_threads(workers)
        crop = crop or CropOptions()
        return Segmenter(loaded_network, loaded_clip, mask_threshold, weight, options, crop, batch_size, pool)

    def segment(
        self,
        pixels: ImageArray,
        names: Sequence[str | Sequence[str]],
        classifier: Classifier = "ensemble",
        others: bool = False,
    ) -> Segmentation:
        """Segment an image with any class names.

        Args:
            pixels: uint8 RGB `[H, W, 3]`.
            names: the names of K classes; a class may have several, the shown one first.
            classifier: what classifies the proposals: CLIP, the proposal network, or both.
            others: whether to add the class "others" for pixels that fit none of the names.

        Raises:
            OvsegError: there are no names, a name is empty, or two classes have the same names.
        """
        return self.segment_with(pixels, self.vocabulary(names, others), classifier)

    def segment_with(
        self, pixels: ImageArray, vocabulary: Vocabulary, classifier: Classifier = "ensemble"
    ) -> Segmentation:
        """As `segment`, with names that are embedded already, for many images."""
        output = self.network.predict(pixels)
        rles = self.binarize(pixels, output)
        clip_weight = {"clip": 1.0, "proposals": 0.0, "ensemble": self.weight}[classifier]
        needs_clip = clip_weight > 0
        regions = self.crop_regions(pixels, rles if needs_clip else [None] * len(rles))
        scores = self.ensemble(self.classify(output, regions, vocabulary), clip_weight)
        labels, pixel_scores = self.semantic_map(pixels, output, scores)
        height, width = pixels.shape[:2]
        areas = [0 if rle is None else masks.area(rle, height, width) for rle in rles]
        return Segmentation(vocabulary.names, labels, pixel_scores, scores.numpy(), np.array(areas, np.int64))

    def vocabulary(self, names: Sequence[str | Sequence[str]], others: bool = False) -> Vocabulary:
        """Embed the names of K classes; see `segment` for the arguments and `build_vocabulary` for the errors."""
        classes = [[name] if isinstance(name, str) else list(name) for name in names]
        given = {clean_name(name).lower() for class_names in classes for name in class_names}
        if others and OTHERS not in given:
            classes.append([OTHERS])
        return build_vocabulary(classes, self.clip, self.options.templates, self.options.synonyms)

    def binarize(self, pixels: ImageArray, output: NetworkOutput, threshold: float | None = None) -> list[bytes | None]:
        """Return the binary mask of each of Q proposals as RLE; None where no pixel is above the threshold.

        Args:
            pixels: uint8 RGB `[H, W, 3]`.
            output: the prediction of the network for it.
            threshold: in (0, 1); None for `mask_threshold`.
        """
        height, width = pixels.shape[:2]
        above = self.mask_threshold if threshold is None else threshold
        proposal_masks = binary_masks(output.mask_logits, output.extent, height, width, above)
        return [masks.encode(mask) if mask.any() else None for mask in proposal_masks]

    def crop_regions(self, pixels: ImageArray, rles: Sequence[bytes | None]) -> RegionCrops:
        """Return what CLIP encodes of Q masks of an image, see `RegionEncoder.crop_regions`."""
        return self.encoder.crop_regions(pixels, rles)

    def classify(self, output: NetworkOutput, regions: RegionCrops, vocabulary: Vocabulary) -> ClassProbs:
        """Return the class probabilities of Q proposals by the network and by CLIP."""
        return self.class_probs(output, regions.valid, self.embed_regions(regions), vocabulary)

    def embed_regions(self, regions: RegionCrops) -> Tensor:
        """Return CLIP's embeddings of the V valid proposals, see `RegionEncoder.embed`. No other step runs it."""
        return self.encoder.embed(regions)

    def class_probs(
        self, output: NetworkOutput, valid: Tensor, embeddings: Tensor, vocabulary: Vocabulary
    ) -> ClassProbs:
        """Return the class probabilities of Q proposals, for region embeddings that are there already.

        Args:
            output: the prediction of the network.
            valid: bool `[Q]`, which proposals have a pixel, and so an embedding.
            embeddings: `[V, D]`, see `embed_regions`.
            vocabulary: K classes.
        """
        no_object = output.query_embeddings @ output.no_object_embedding
        network = network_class_probs(vocabulary.network_similarity(output.query_embeddings), no_object)
        in_clip = no_object if self.options.no_object_in_clip else None
        return ClassProbs(network, clip_probs(valid, embeddings, vocabulary, in_clip), valid)

    def ensemble(self, probs: ClassProbs, weight: float, seen: Tensor | None = None) -> Tensor:
        """Return the score of each proposal for each class, `[Q, K]`.

        Args:
            probs: the class probabilities by both classifiers.
            weight: the weight of CLIP, in [0, 1].
            seen: bool `[K]`, which classes were seen in training; None ignores `options.weight_seen` and
                `options.average_seen`.
        """
        invalid = self.options.invalid
        if seen is None:
            return ensemble_scores(probs, weight, invalid=invalid)
        weights = class_weights(weight, self.options.weight_seen, seen)
        return ensemble_scores(probs, weights, seen if self.options.average_seen else None, invalid)

    def semantic_map(
        self, pixels: ImageArray, output: NetworkOutput, scores: Tensor, seen: Tensor | None = None
    ) -> SemanticMap:
        """Return the class of each pixel and its score, `[H, W]` each.

        Args:
            pixels: uint8 RGB `[H, W, 3]`.
            output: the prediction of the network for it.
            scores: `[Q, K]`.
            seen: bool `[K]`, which classes were seen in training; None ignores `options.seen_penalty`.
        """
        return self.semantic_maps(pixels, output, [(scores, seen)])[0]

    def semantic_maps(
        self, pixels: ImageArray, output: NetworkOutput, scores_and_seen: Sequence[tuple[Tensor, Tensor | None]]
    ) -> list[SemanticMap]:
        """As `semantic_map` for several scores of one image, each with its seen classes; its masks are enlarged once."""
        penalty = self.options.seen_penalty
        penalties = [None if seen is None or not penalty else penalty * seen.double() for _, seen in scores_and_seen]
        scores = [scores for scores, _ in scores_and_seen]
        height, width = pixels.shape[:2]
        return semantic_maps(scores, output.mask_logits, output.extent, height, width, penalties)

    def proposal_at(self, pixels: ImageArray, output: NetworkOutput, scores: Tensor, label: int, y: int, x: int) -> int:
        """Return the proposal, in [0, Q), that contributes most to the score of a class at a pixel; Q is at least 1.

        Args:
            pixels: uint8 RGB `[H, W, 3]`.
            output: the prediction of the network for it.
            scores: `[Q, K]`.
            label: the class, in [0, K).
            y, x: row and column of the pixel.
        """
        height, width = pixels.shape[:2]
        mask_probs = upsample_mask_probs(output.mask_logits, output.extent, height, width, y, y + 1)[:, 0, x]
        return int((scores[:, label].to(mask_probs) * mask_probs).argmax())


def load_segmenters(
    network: Path,
    clips: Mapping[str, Path],
    device: str = "cpu",
    *,
    options: SegmentOptions | None = None,
    crop: CropOptions | None = None,
    batch_size: int = 64,
    workers: int | None = None,
) -> dict[str, Segmenter]:
    """Load a segmenter for each of several CLIPs; all share one proposal network, and the threads that crop.

    Args:
        network: the folder of the proposal network.
        clips: the folders of the CLIPs by name, at least one.
        device, options, crop, batch_size, workers: as `Segmenter.load` takes them.

    Raises:
        OvsegError: as `Segmenter.load`; or the input sizes of two CLIPs differ.
    """
    (first_name, first_path), *others = clips.items()
    first = Segmenter.load(
        network, first_path, device, options=options, crop=crop, batch_size=batch_size, workers=workers
    )
    segmenters = {first_name: first}
    for name, path in others:
        clip = load_adapted(path, device, first.options.precision)
        check_text_tower(first.network, clip, network, path)
        if clip.size != first.clip.size:
            raise OvsegError(
                f"{path} has an input size of {clip.size} pixels, but {first_path} has {first.clip.size}; models that are "
                "compared must have the same input size, so remove one of them"
            )
        segmenters[name] = replace(first, clip=clip)
    return segmenters


def clip_probs(valid: Tensor, embeddings: Tensor, vocabulary: Vocabulary, no_object: Tensor | None = None) -> Tensor:
    """Return the class probabilities by CLIP, float64 `[Q, K]`; rows of proposals that are not valid are 0.

    Embeddings are rounded to float16, as the tables of the step `embed` hold them, so that an image is segmented alike by
    `ovseg segment` and by an evaluation, whether or not it reads a table.

    Args:
        valid: bool `[Q]`, which proposals have a pixel, and so an embedding.
        embeddings: `[V, D]`, and any cells behind them, see `RegionEncoder.embed`.
        vocabulary: K classes.
        no_object: `[Q]`, see `class_probs.clip_class_probs`.
    """
    probs = torch.zeros(len(valid), len(vocabulary.names), dtype=torch.float64)
    if len(embeddings):
        of_valid = None if no_object is None else no_object[valid]
        number = int(valid.sum())
        embeddings = embeddings.half().float()
        probs[valid] = clip_class_probs(vocabulary.similarity(embeddings[:number], embeddings[number:]), of_valid)
    return probs
