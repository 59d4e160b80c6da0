"""How much there is of everything, from params.yaml and what is published; None is what nobody can know before the index."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ovseg.core import tables
from ovseg.core.options import FinetuneOptions, PromptOptions
from ovseg.core.params import Params
from ovseg.datasets.fetch.releases import releases
from ovseg.mining.estimates import ANNOTATED, Kind, nouns_per_image, number_of_shards
from ovseg.mining.select import annotated_number

DEMO, COCO, INDEX = "data/demo", "data/coco", Path("data/index")
CAPTIONS = 5  # of an image of COCO and of the demo


@dataclass(frozen=True)
class Amounts:
    """What mining handles.

    Attributes:
        kind: of images, for rates and sizes.
        images: that are mined.
        captions: that nouns are taken from.
        nouns: about.
        masks: at most, for proposals of a network.
        pairs: at most, if thresholds are set.
        shards: of these pairs.
    """

    kind: Kind
    images: int | None
    captions: int | None
    nouns: int | None
    masks: int | None
    pairs: int | None
    shards: int | None


def amounts(params: Params, root: Path) -> Amounts:
    """What mining will handle; `root` is the folder of the project, for the index of images that are not published."""
    where = params.index.images
    kind: Kind = "demo" if _below(where, DEMO) else "photographs"
    found, each = _counted(where, params, root)
    images = fewer(found, params.index.limit)
    said = 1 if params.nouns.captions_per_image == 1 else each
    nouns = times(images, nouns_per_image(said, kind))
    annotated = times(images, annotated_per_image(params.propose.annotations))
    pairs = _pairs(nouns, annotated, params.select.annotated_fraction)
    shards = (
        None if pairs is None else number_of_shards(pairs, params.shards.samples_per_shard, params.shards.min_shards)
    )
    return Amounts(kind, images, times(images, said), nouns, times(images, _masks_per_image(params)), pairs, shards)


def images_in(path: Path | str, params: Params) -> int | None:
    """How many images a folder of the demo or of a published data set has."""
    drawn: dict[str, int] = (params.model_extra or {}).get("demo", {})
    if _below(path, DEMO):
        return drawn.get(next(iter(PurePosixPath(path).relative_to(DEMO).parts), ""))
    for name, parts in releases().items():
        for holding in (one for part in parts.values() for one in part.holds):
            if PurePosixPath(path) == PurePosixPath("data", name, holding.path):
                return holding.files
    return None


def steps(section: FinetuneOptions | PromptOptions, pairs: int | None) -> int | None:
    """Steps of a training, as `training.adapt` counts them."""
    if not section.epochs or section.max_steps == 0:
        return 0
    if pairs is None:
        return None
    every = section.epochs * (pairs // section.batch_size)
    return every if section.max_steps is None else min(every, section.max_steps)


def annotated_per_image(path: Path | None) -> float | None:
    """Annotated masks of an image, where that is known."""
    return ANNOTATED["demo"] if _below(path, DEMO) else ANNOTATED["coco"] if _below(path, COCO) else None


def times(number: float | None, each: float | None) -> int | None:
    """A product; None if either is not known."""
    return None if number is None or each is None else round(number * each)


def fewer(number: int | None, limit: int | None) -> int | None:
    """The first `limit` of a number; the limit, if the number is not known."""
    return min((one for one in (number, limit) if one is not None), default=None)


def _below(path: Path | str | None, folder: str) -> bool:
    return path is not None and PurePosixPath(path).is_relative_to(folder)


def _counted(where: Path, params: Params, root: Path) -> tuple[int | None, float]:
    """Images, and captions of each: as published, else as data/index has them."""
    found = images_in(where, params)
    if found is not None:
        return found, CAPTIONS
    counts = tables.read_counts(root / INDEX)
    if not counts.get("images"):
        return None, CAPTIONS
    return counts["images"], counts["captions"] / counts["images"]


def _masks_per_image(params: Params) -> float | None:
    section = params.propose
    if section.source == "ground_truth":
        return annotated_per_image(section.path)
    if section.source == "proposal_network":
        return min(section.max_proposals, params.proposal_network.num_queries)
    return section.max_proposals


def _pairs(nouns: int | None, annotated: int | None, share: float) -> int | None:
    if share == 0:
        return nouns
    if nouns is None or annotated is None:
        return None
    return (0 if share == 1 else nouns) + annotated_number(nouns, annotated, share)
