"""Proposals from the network of the stage `proposal_network`: the masks of its queries, without their classes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ovseg.core.errors import BadItem
from ovseg.core.image_records import ImageRecord
from ovseg.proposals import Proposal, Source


def proposal_network_source(folder: Path, mask_threshold: float, max_proposals: int, device: str) -> Source:
    """Create a source that yields the query masks of a proposal network.

    Args:
        folder: folder of the network, see `network_folder`.
        mask_threshold: foreground is where the mask probability is above it.
        max_proposals: largest number of proposals for one image; those with the best scores are kept.
        device: torch device.

    Raises:
        OvsegError: see `load_network`.
    """
    from ovseg.proposals.mask_logits import binarize_proposals
    from ovseg.proposals.network_folder import load_network

    network = load_network(folder, device).for_prediction("fp32")

    def source(image: ImageRecord) -> Iterator[Proposal | BadItem]:
        output = network.predict(image.pixels)
        proposals = binarize_proposals(output.mask_logits, output.extent, image.height, image.width, mask_threshold)
        return iter(proposals[:max_proposals])

    return source
