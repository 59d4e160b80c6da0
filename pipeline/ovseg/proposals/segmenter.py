"""Masks from our own proposal network (stage `segmenter`), used class-agnostically."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ovseg.errors import BadItem
from ovseg.proposals import Picture, Proposal, Source
from ovseg.proposals.network import load_network
from ovseg.proposals.soft import binarise


def segmenter(folder: Path, mask_threshold: float, max_proposals: int, device: str) -> Source:
    """The query masks of a proposal network.

    Args:
        folder: models/segmenter.
        mask_threshold: foreground is where the sigmoid is above it.
        max_proposals: the best that many by score.
        device: torch device.

    Raises:
        OvsegError: as `load_network`.
    """
    network = load_network(folder, device)

    def source(picture: Picture) -> Iterator[Proposal | BadItem]:
        queries = network.look(picture.pixels)
        found = binarise(queries.masks, queries.extent, picture.height, picture.width, mask_threshold)
        return iter(found[:max_proposals])

    return source
