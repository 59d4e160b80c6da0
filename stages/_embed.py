"""What the stages `embed_heldout` and `embed` share: which models embed, and how they see the masks of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ovseg.core.options import SegmentOptions
from ovseg.core.params import Params
from ovseg.engine.runtime import from_environment
from ovseg.evaluation.embed import embed


def embed_masks(
    params: Params,
    benchmark: Path,
    out: Path,
    thresholds: Mapping[str, Sequence[float]],
    *,
    ground_truth: bool,
    limit: int | None,
    step: str | None = None,
) -> None:
    """Embed the masks of a benchmark by all models of evaluate.models; see `evaluation.embed.embed` for the arguments."""
    embed(
        benchmark,
        Path("models/proposal_network"),
        {name: Path("models") / name for name in params.evaluate.models},
        out,
        from_environment(params.checks.max_dropped),
        thresholds,
        options=SegmentOptions(
            view=params.segment.view,
            precision=params.segment.precision,
            network_precision=params.segment.network_precision,
        ),
        crop=params.crop,
        ground_truth=ground_truth,
        limit=limit,
        step=step,
    )
