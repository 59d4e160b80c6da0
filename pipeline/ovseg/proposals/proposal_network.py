"""Masks from our own proposal network (stage `proposal_network_source`), used class-agnostically."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ovseg.core.errors import BadItem
from ovseg.core.image_records import ImageRecord
from ovseg.proposals import Proposal, Source
from ovseg.proposals.mask_logits import binarize_proposals
from ovseg.proposals.network_folder import load_network


def proposal_network_source(folder: Path, mask_threshold: float, max_proposals: int, device: str) -> Source:
    """The query masks of a proposal network.

    Args:
        folder: models/proposal_network.
        mask_threshold: foreground is where the sigmoid is above it.
        max_proposals: the best that many by score.
        device: torch device.

    Raises:
        OvsegError: as `load_network`.
    """
    network = load_network(folder, device)

    def source(image: ImageRecord) -> Iterator[Proposal | BadItem]:
        queries = network.predict(image.pixels)
        found = binarize_proposals(queries.mask_logits, queries.extent, image.height, image.width, mask_threshold)
        return iter(found[:max_proposals])

    return source
