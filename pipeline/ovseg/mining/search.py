"""Search in the regions of a run: those that are nearest to a text or an image in the joint embedding of the CLIP that scored.

Only the table `regions` is read, so that a search takes seconds and no image is encoded again. It finds the proposals that
`score.keep_regions` has kept: those that are a candidate of any noun, or all.

Shapes: D joint embedding, R regions of a part.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ovseg.clip.load import Clip
from ovseg.clip.pretrained import weights_fingerprint
from ovseg.clip.regions import encode_regions
from ovseg.core import tables
from ovseg.core.errors import BadItem, OvsegError
from ovseg.core.images import decode_image, read_bytes
from ovseg.core.options import ClipOptions, ScoreOptions, Templates
from ovseg.mining.regions import encoded_by, read_regions, region_parts
from ovseg.mining.scorer import load_scorer
from ovseg.mining.texts import embed_nouns

DIGITS = 5  # decimals of a similarity, as in `score`
NO_NOUN = "no noun"

Row = dict[str, Any]
WITHOUT_NOUN: Row = {"noun": NO_NOUN, "caption_id": None, "start": None, "end": None}
Vector = NDArray[np.float32]


def load_searcher(candidates: Path, clip: ClipOptions, device: str) -> tuple[Clip, ScoreOptions]:
    """Load the CLIP that has encoded the regions.

    Args:
        candidates: the folder of the table `candidates`.
        clip: the CLIP.
        device: the torch device.

    Returns:
        the CLIP with the region encoder that it scored with, and all options that it scored with.

    Raises:
        OvsegError: `score` has not kept the regions, or they are of another CLIP.
    """
    (expected, score), found = encoded_by(candidates), weights_fingerprint(clip.model, clip.pretrained)
    if found != expected:
        raise OvsegError(
            f"the regions of {candidates} were encoded by a CLIP with the fingerprint {expected[:16]}, and {clip.model} has "
            f"{found[:16]}: give the CLIP that scored as --clip"
        )
    return load_scorer(clip, score, device), score


def embed_text(clip: Clip, text: str, templates: Templates) -> Vector:
    """Return the unit vector of a text, as of a noun that is scored, float32 `[D]`."""
    vector: Vector = embed_nouns(clip, [text], templates)[0].numpy()
    return vector


def embed_image(clip: Clip, path: Path) -> Vector:
    """Return the unit vector of an image, all of it one region, float32 `[D]`.

    Raises:
        OvsegError: the file is no image that can be read.
    """
    try:
        pixels = decode_image(read_bytes(path.parent, path.name))
    except BadItem as problem:
        raise OvsegError(f"--image {path} cannot be read ({problem.reason}): {problem}; give another image") from None
    with torch.inference_mode():
        vector: Vector = encode_regions(clip, pixels, np.ones((1, *pixels.shape[:2]), bool))[0].numpy()
    return vector


class _Hit(NamedTuple):
    similarity: float
    part: str
    image_id: int
    proposal: int


def nearest_regions(candidates: Path, query: Vector, number: int) -> list[Row]:
    """Find the regions of the highest cosine similarity to a vector; one part is in memory at a time.

    Args:
        candidates: the folder of the table `candidates`.
        query: unit vector, float32 `[D]`.
        number: the number of regions, from 1 on.

    Returns:
        rows of the table `pairs` without area and source, best first, with the noun that fits each region best (`NO_NOUN` and
        no caption where none has it as a candidate), the similarity to the query, and no margin. Equal similarities are in
        the order of the table.
    """
    hits: list[_Hit] = []
    for path in region_parts(candidates):
        regions = read_regions(path)
        similarities = np.round(regions.vectors.astype(np.float32) @ query, DIGITS)
        for i in np.argsort(-similarities, kind="stable")[:number]:
            key = int(regions.image_ids[i]), int(regions.proposals[i])
            hits.append(_Hit(float(similarities[i]), path.name, *key))
        hits = sorted(hits, key=lambda hit: -hit.similarity)[:number]
    best = {part: _best_nouns(candidates / part) for part in sorted({hit.part for hit in hits})}
    return [
        {
            "pair": i,
            "part": int(Path(hit.part).stem),
            "image_id": hit.image_id,
            "proposal": hit.proposal,
            **best[hit.part].get((hit.image_id, hit.proposal), WITHOUT_NOUN),
            "similarity": hit.similarity,
            "margin": None,
        }
        for i, hit in enumerate(hits)
    ]


def _best_nouns(part: Path) -> dict[tuple[int, int], Row]:
    """The most similar noun of each proposal of a part that is a candidate, and where its caption has it."""
    rows = sorted(tables.read_part(part, "candidates").to_pylist(), key=lambda row: row["similarity"])
    return {(row["image_id"], row["proposal"]): {name: row[name] for name in WITHOUT_NOUN} for row in rows}
