"""The proposal network as a source of masks."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from ovseg.core import masks
from ovseg.core.image_records import ImageRecord
from ovseg.proposals import Proposal
from ovseg.proposals.mask_logits import upsample_mask_probs
from ovseg.proposals.network_folder import load_network
from ovseg.proposals.proposal_network import proposal_network_source
from tests.conftest import Toys
from tests.toys import QUERIES, noise


def image(folder: Path) -> ImageRecord:
    Image.fromarray(noise(0)).save(folder / "a.png")
    return ImageRecord(folder, 1, "a.png", 0, (folder / "a.png").stat().st_size, 64, 48)


def test_proposals_are_the_masks_of_the_queries_best_first(toys: Toys, tmp_path: Path) -> None:
    proposals = list(proposal_network_source(toys.network, 0.5, 100, "cpu")(image(tmp_path)))
    output = load_network(toys.network).for_prediction("fp32").predict(noise(0))
    probs = upsample_mask_probs(output.mask_logits, output.extent, 48, 64).numpy()
    expected = sorted(
        ((float(s[s > 0.5].mean()), masks.encode(s > 0.5)) for s in probs if (s > 0.5).any()), reverse=True
    )
    assert len(proposals) == len(expected) == QUERIES
    for proposal, (score, rle) in zip(proposals, expected, strict=True):
        assert isinstance(proposal, Proposal)
        assert proposal.score == pytest.approx(score, abs=1e-6) and proposal.rle == rle and proposal.label is None
    assert list(proposal_network_source(toys.network, 0.5, 2, "cpu")(image(tmp_path))) == proposals[:2]
    assert list(proposal_network_source(toys.network, 0.99999, 100, "cpu")(image(tmp_path))) == []
