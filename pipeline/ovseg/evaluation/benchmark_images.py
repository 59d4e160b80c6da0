"""Images of a benchmark with all masks that CLIP is to classify: proposals at some mask thresholds, and the ground truth.

Shapes: H, W image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ovseg.clip.embedding_files import image_hash
from ovseg.core.images import ImageArray
from ovseg.datasets.benchmark import Labels
from ovseg.evaluation.oracles import gt_masks
from ovseg.evaluation.prediction_store import predict
from ovseg.evaluation.region_store import ImageRegions
from ovseg.proposals.network import NetworkOutput
from ovseg.segmentation.segmenter import Segmenter


@dataclass(frozen=True, eq=False)
class BenchmarkImage:
    """An image and its masks.

    Attributes:
        pixels: uint8 RGB `[H, W, 3]`.
        image: its `image_hash`.
        labels: the ground truth, uint16 `[H, W]`.
        output: the prediction of the proposal network.
        proposals: its masks by threshold, ascending.
        ignore: the label of pixels without ground truth.
    """

    pixels: ImageArray
    image: str
    labels: Labels
    output: NetworkOutput
    proposals: Mapping[float, ImageRegions]
    ignore: int

    @cached_property
    def gt(self) -> tuple[list[int], ImageRegions]:
        """The classes in the ground truth, and the mask of each."""
        classes, rles = gt_masks(self.labels, self.ignore)
        return classes, ImageRegions(self.pixels, self.image, tuple(rles))


def find_masks(
    segmenter: Segmenter,
    images: Iterable[tuple[ImageArray, Labels]],
    thresholds: Iterable[float],
    ignore: int,
    predictions: Path,
) -> list[BenchmarkImage]:
    """Find the masks of some images.

    Args:
        segmenter: has the proposal network.
        images: of each its pixels, uint8 RGB `[H, W, 3]`, and the ground truth, `[H, W]`.
        thresholds: the mask thresholds.
        ignore: the label of pixels without ground truth.
        predictions: the folder of the network's predictions, see `prediction_store`.
    """
    found = []
    ascending = sorted(set(thresholds))
    for pixels, labels in images:
        name = image_hash(pixels)
        output = predict(predictions, segmenter.network, pixels, name)
        proposals = {
            threshold: ImageRegions(pixels, name, tuple(segmenter.binarize(pixels, output, threshold)))
            for threshold in ascending
        }
        found.append(BenchmarkImage(pixels, name, labels, output, proposals, ignore))
    return found


def regions_of_models(
    images: Sequence[BenchmarkImage], thresholds: Mapping[str, Iterable[float]], ground_truth: bool
) -> list[tuple[str, ImageRegions]]:
    """Return which masks each CLIP is to embed, each once: what `region_store.embed_regions` takes.

    Args:
        images: the images.
        thresholds: by the name of each CLIP the mask thresholds of its proposals; may be empty.
        ground_truth: whether each embeds the masks of the ground truth, too.
    """
    proposals = [
        (model, image.proposals[threshold])
        for image in images
        for model, of_model in thresholds.items()
        for threshold in of_model
    ]
    gt = [(model, image.gt[1]) for image in images for model in thresholds] if ground_truth else []
    return list(dict.fromkeys(proposals + gt))
